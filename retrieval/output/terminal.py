"""What commands print: results to standard output, messages and progress to standard error.

Shared by `cli.py` and the benchmarks; light, since every command starts with it.
"""

import sys
import time
from collections.abc import Callable

import typer


def progress_line() -> Callable[[str, int, int], None]:
    """A line that is written over on a terminal, a line every ten seconds elsewhere."""
    last = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
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

    return tell


def print_result(text: str, err: bool = False) -> None:
    """Print text that may hold names from files: nothing in it can steer the terminal."""
    typer.echo(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text),
        err=err,
    )


def print_message(sentence: str) -> None:
    """Print a message about the work on standard error."""
    print_result(sentence, err=True)
