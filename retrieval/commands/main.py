"""How the command line runs, and how it ends: every error is one sentence.

Exit codes: 1 for an error, 2 for wrong usage, 130 if it was interrupted.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from retrieval.output.terminal import hide_library_warnings, print_message

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of the click that typer brings


class Commands(TyperGroup):
    """A group of commands that ends properly when it is interrupted or its reader has gone.

    typer itself would turn both into an exit code without a word, before `run` sees them.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _proper_end():  # `--help` is printed here
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        words = list(ctx.args)
        with _proper_end():
            try:
                return super().invoke(ctx)
            except _UsageError as error:
                files = [word for word in words if word.startswith("-") and Path(word).is_file()]
                if files and hasattr(error, "option_name"):  # click's NoSuchOption
                    text = (
                        f"{getattr(error, 'message', '')}. If you mean the file, write ./{files[0]}"
                    )
                    error.message = text  # type: ignore[attr-defined]
                raise


@contextmanager
def _proper_end() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print_message("Stopped.")
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `retrieval search … | head`
        # What is left in the buffer goes nowhere, instead of failing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def run(app: Callable[[], object]) -> None:
    """Run a command line of `Commands`; errors go to standard error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    # typer uses pydantic, which would look for plugins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    hide_library_warnings()
    warnings.showwarning = _show_warning(warnings.showwarning)
    try:
        app()
    except OSError as error:
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}. Check the path, its permissions and the disk, then "
            "run the same command again."
        )
    except Exception as error:
        from retrieval import RetrievalError

        if isinstance(error, RetrievalError):
            _fail(str(error))
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        _fail(
            f"Internal error ({type(error).__name__}: {error}). Nothing that was committed is "
            "lost. Set RETRIEVAL_DEBUG=1 to see where it happened, and please report it."
        )


def _show_warning(show: Callable[..., None]) -> Callable[..., None]:
    """A way to show warnings: this package's as one sentence, others as `show` does."""

    def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
        from retrieval import IndexWarning, QueryWarning

        if issubclass(category, (IndexWarning, QueryWarning)):
            print_message(str(message))
        else:
            show(message, category, *place)

    return show_warning


def _fail(sentence: str) -> None:
    print_message(f"Error: {sentence}")
    sys.exit(1)
