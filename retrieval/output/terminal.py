"""What commands print: results to standard output, messages and progress to standard error.

The commands and the benchmarks share it. It imports little, since every command starts with it.
"""

import shutil
import sys
import time
import warnings
from collections.abc import Callable

import typer


def progress_line() -> Callable[[str, int, int], None]:
    """Progress as one line that is overwritten on a terminal, else a line every ten seconds."""
    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        terminal = sys.stderr.isatty()
        if time.monotonic() - last >= (0.2 if terminal else 10):
            last = time.monotonic()
            line = f"{done:,} of {total:,} {what}"
            if terminal:
                sys.stderr.write(f"\r{line:<50}" + ("\n" if done == total else ""))
                sys.stderr.flush()
            else:
                print_message(line)

    return show


def print_result(text: str) -> None:
    """Print a result on standard output."""
    _echo(text, err=False)


def print_message(sentence: str) -> None:
    """Print a message about the work on standard error."""
    _echo(sentence, err=True)


def hide_library_warnings() -> None:
    """Keep warnings off the terminal that tell a user nothing.

    Pillow's, because bad photos are reported with their reasons; numpy's of numbers that overflow,
    because what is computed is checked.
    """
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", category=RuntimeWarning)


def _echo(text: str, err: bool) -> None:
    """Print text that may hold names of files: no character in it can control the terminal."""
    typer.echo(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text),
        err=err,
    )


def terminal_width() -> int | None:
    """The columns of the terminal on standard output; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
