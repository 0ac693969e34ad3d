"""The lease of a lake: one writer at a time, on whatever machine.

It is a file that the writer renews. If the writer dies, it expires. That no version is written
twice does not depend on it: see `indexes.lake.manifest`.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from indexes.errors import IndexBusyError, RetrievalError
from indexes.lake.location import Location

FILE = "lease.json"
SECONDS = 60.0
"""A lease that was not renewed for so long has expired."""
_RENEWED = 15.0  # seconds between renewals
_MOST_BYTES = 10_000


@contextmanager
def lease(location: Location) -> Iterator[None]:
    """Hold the lease of a lake during the block; raises IndexBusyError if somebody else has it.

    It is renewed by a thread. A process of this machine that is gone has no lease.
    """
    token = secrets.token_hex(8)
    _take(location, token)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(location, token, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _holder(location).get("token") == token:
            location.delete(FILE)


def _take(location: Location, token: str) -> None:
    if location.create(FILE, _content(token)):
        return
    holder = _holder(location)
    if not _is_expired(holder):
        raise IndexBusyError(
            f"The lake {location.url} is being changed by process {holder.get('process')} on "
            f"{str(holder.get('machine'))[:80]}. Wait until it has finished. If it was killed, its "
            f"lease ends {SECONDS:.0f} seconds after."
        )
    location.write(FILE, _content(token))
    time.sleep(0.05)  # another process may have seen the same: the last one to write has it
    if _holder(location).get("token") != token:
        raise IndexBusyError(
            f"Another process began to change the lake {location.url} at the same moment. Wait "
            "until it has finished."
        )


def _renew(location: Location, token: str, stop: threading.Event) -> None:
    while not stop.wait(_RENEWED):
        with suppress(RetrievalError, OSError):  # tried again
            location.write(FILE, _content(token))


def _content(token: str) -> bytes:
    return json.dumps(
        {
            "token": token,
            "machine": socket.gethostname(),
            "process": os.getpid(),
            "renewed": time.time(),
        }
    ).encode()


def _holder(location: Location) -> dict[str, Any]:
    """What the file of the lease says; nothing if it is gone or makes no sense."""
    try:
        found = json.loads(location.read(FILE, _MOST_BYTES))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_expired(holder: dict[str, Any]) -> bool:
    renewed, process = holder.get("renewed"), holder.get("process")
    if not isinstance(renewed, int | float) or abs(time.time() - renewed) > SECONDS:
        return True
    if holder.get("machine") != socket.gethostname() or type(process) is not int:
        return False
    import psutil

    return not psutil.pid_exists(process)
