"""How the command line runs, and how it ends: every error is one sentence.

Exit codes: 1 for an error, 2 for wrong usage, 130 if it was interrupted.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from retrieval.output.terminal import print_message


def run(app: Callable[[], object]) -> None:
    """Run the command line; errors go to standard error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    # typer uses pydantic, which would look for plugins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    warnings.filterwarnings("ignore", module="PIL")  # bad photos are reported by their reasons
    try:
        app()
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:  # `retrieval search … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}. Check the path, its permissions and the disk, then "
            "run the same command again.",
            1,
        )
    except Exception as error:
        from retrieval import RetrievalError

        if isinstance(error, RetrievalError):
            _fail(str(error), 1)
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        _fail(
            f"Internal error ({type(error).__name__}: {error}). Nothing that was committed is "
            "lost. Set RETRIEVAL_DEBUG=1 to see where it happened, and please report it.",
            1,
        )


def _fail(sentence: str, code: int) -> None:
    print_message(f"Error: {sentence}" if code == 1 else sentence)
    sys.exit(code)
