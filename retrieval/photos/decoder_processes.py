"""Call functions that decode files in other processes, since damaged files crash native decoders.

A crash costs one photo and one process here, not the run. It is no sandbox: a file that takes over
a decoder has the user's rights. Callers decide what is decoded this way; `decoder_worker` is the
other side.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from indexes.errors import RetrievalError
from retrieval.errors import PhotoError
from retrieval.photos.files import TOO_LARGE

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_START_TIMEOUT = 60.0  # seconds until a new process has to be ready
_TIMEOUT = 120.0  # seconds for a photo; the largest that are allowed take ten or so
_LONGEST_ANSWER = 1 << 22  # bytes of metadata and texts
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from retrieval.photos.decoder_worker import serve; serve({socket})"
)


def can_start_processes() -> bool:
    """Whether open files can be passed to another Python: not on Windows, nor in a frozen app."""
    return (
        hasattr(socket, "send_fds") and bool(sys.executable) and not getattr(sys, "frozen", False)
    )


class DecoderProcesses:
    """Processes, started when they are needed: as many as threads decode at the same time.

    A context manager: the processes end with it. It may be used from many threads at once.
    """

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "DecoderProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().end()

    def call(
        self, function: Callable[..., Any], file: BinaryIO, *arguments: object
    ) -> tuple[Image.Image | None, Any]:
        """`function(file, *arguments)`, computed in another process from the start of the file.

        function: of a module; it returns an RGB photo or None, and a value, which comes back as
        JSON has it: a dataclass as a dict, a tuple as a list. The position in `file` stays as it
        is. Raises PhotoError if the function raises anything, the process dies, takes too long or
        gives no sensible answer, and RetrievalError if no process can be started.
        """
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process()
        try:
            with _as_descriptor(file) as descriptor:
                answer = process.call(function, descriptor, arguments)
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._idle.append(process)
        error, photo, value = answer
        if error is not None:
            raise PhotoError(error)
        return photo, value


class _Process:
    """One process that decodes, and the connection to it."""

    def __init__(self) -> None:
        from multiprocessing import connection

        ours, theirs = socket.socketpair()
        self._connection: Connection = connection.Connection(ours.detach())
        quiet = None if os.environ.get("RETRIEVAL_DEBUG") else subprocess.DEVNULL
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE.format(path=sys.path, socket=theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=quiet,  # decoders print their warnings there
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            self._connection.close()
            raise _start_error(str(error.strerror)) from error
        with suppress(EOFError, OSError):
            if self._connection.poll(_START_TIMEOUT):
                self._connection.recv_bytes(_LONGEST_ANSWER)
                return
        raise _start_error(f"exit code {self.end()}")

    def call(
        self, function: Callable[..., Any], descriptor: int, arguments: tuple[object, ...]
    ) -> tuple[str | None, Image.Image | None, Any]:
        """What is wrong with the file, or None and what `function` returns.

        Raises PhotoError if the process has died or is to be ended.
        """
        from multiprocessing.reduction import send_handle

        try:
            self._connection.send((function, arguments))
            send_handle(self._connection, descriptor, self._process.pid)
            if not self._connection.poll(_TIMEOUT):
                raise PhotoError(f"its decoder took longer than {_TIMEOUT:.0f} seconds")
            error, size, value = json.loads(self._connection.recv_bytes(_LONGEST_ANSWER))
            photo = None
            if size is not None:
                width, height = size
                pixels = self._connection.recv_bytes(3 * width * height)
                photo = Image.frombytes("RGB", (width, height), pixels)
        except (TypeError, ValueError) as wrong:
            self.end()
            raise PhotoError("its decoder gave no sensible answer") from wrong
        except (EOFError, OSError) as broken:
            if self.end() == -signal.SIGKILL:  # as systems do that run out of memory
                raise PhotoError(f"{TOO_LARGE} for the memory of this machine") from broken
            raise PhotoError("its decoder crashed") from broken
        return error, photo, value

    def end(self) -> int:
        """End the process; returns its exit code, negative for a signal."""
        self._connection.close()
        try:
            # One that crashed is ending, and one that is idle sees that its input has ended.
            return self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextmanager
def _as_descriptor(file: BinaryIO) -> Iterator[int]:
    """The descriptor of an open file, or of a copy on disk of one in memory.

    Two processes share the position of an open file, so it is set back at the end.
    """
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):
        with tempfile.TemporaryFile() as copy:
            file.seek(0)
            copyfileobj(file, copy)
            copy.flush()
            yield copy.fileno()
        return
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        yield descriptor
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def _start_error(why: str) -> RetrievalError:
    return RetrievalError(
        f"The process that decodes photos could not be started ({why}). Run the same command with "
        "RETRIEVAL_DEBUG=1 to see what it printed."
    )
