"""The process that decodes files for another one: `decoder_processes` starts it and talks to it.

It imports little, to start fast, and ends when the process that started it has ended.
"""

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path

from retrieval.errors import PhotoError
from retrieval.photos.files import reading


def serve(socket: int) -> None:
    """Answer requests that come through a socket, until it is closed.

    A request is a function and its arguments, and an open file. The answer is JSON: what is wrong
    with the file or None, the size of an RGB photo or None, and a value, dataclasses as objects;
    then the photo's pixels. It is not pickled: whoever reads it must not trust this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _prefer_to_die()
    connection = Connection(socket)
    with suppress(EOFError, OSError):
        connection.send_bytes(b"ready")
        while True:
            function, arguments = connection.recv()
            with os.fdopen(recv_handle(connection), "rb") as file:
                file.seek(0)
                error, photo, value = None, None, None
                try:
                    with reading():
                        photo, value = function(file, *arguments)
                except PhotoError as reason:
                    error = str(reason)
            answer = [error, photo and photo.size, value]
            connection.send_bytes(json.dumps(answer, default=asdict).encode())
            if photo is not None:
                connection.send_bytes(photo.tobytes())


def _prefer_to_die() -> None:
    """Crashes leave no core file, and a system without memory ends this process first."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("1000")
