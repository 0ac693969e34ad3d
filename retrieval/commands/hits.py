"""Show hits: on standard output, and as a page in the browser."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.commands.options import Format
from retrieval.output.terminal import print_message, terminal_width

if TYPE_CHECKING:
    from retrieval import Hit


def write_hits(hits: list["Hit"], form: Format, nul: bool = False) -> None:
    """Write hits to standard output; paths may have bytes that are not text."""
    from retrieval.output.text import render

    sys.stdout.flush()
    sys.stdout.buffer.write(render(hits, form, nul, terminal_width()))
    sys.stdout.buffer.flush()


def open_page(page: Path) -> None:
    """Open a page in the browser of the user."""
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        print_message(f"No browser could be started. Open {page} yourself.")
