"""Hits on standard output, and as a page."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.commands.options import Format
from retrieval.output.terminal import print_message

if TYPE_CHECKING:
    from retrieval import Hit


def write_hits(hits: list["Hit"], form: Format, nul: bool) -> None:
    from retrieval.output.text import render

    sys.stdout.flush()
    sys.stdout.buffer.write(render(hits, form, nul))
    sys.stdout.buffer.flush()


def open_page(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        print_message(f"No browser could be started; open {page} yourself.")
