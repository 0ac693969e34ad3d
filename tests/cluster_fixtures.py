"""A real Milvus server on this machine, for tests.

It listens on all addresses, so that it and its tests run in a network of their own (`unshare -n`).
A test module calls `rerun` in one test, and marks the others with `in_own_network`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OWN_NETWORK

_MODULES = ("milvus", "pymilvus", "pyarrow", "fsspec")
_missing = [module for module in _MODULES if find_spec(module) is None]


def _can_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    done = subprocess.run(
        ["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return done.returncode == 0


needs_milvus = [
    pytest.mark.extras,
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing), reason=f"needs '.[cluster]' and milvus: no {_missing}"),
    pytest.mark.skipif(
        not _missing and not _can_unshare(),
        reason="no right to make a network here: `unshare -n` and `ip`",
    ),
]
in_own_network = pytest.mark.own_network
"""Only collected in a network of its own: see `tests.conftest`."""


def rerun(file: str, *, seconds: int = 900) -> None:
    """Run the tests of a file in a network of their own, unless this is it."""
    if OWN_NETWORK in os.environ:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command],
        env={**os.environ, OWN_NETWORK: "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


class Milvus:
    """A server with its data in a folder. address: for places, as `milvus://HOST:PORT/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    def start(self) -> None:
        from milvus import MilvusServer

        if self._server is None:
            self._server = MilvusServer()
            self._server.set_base_dir(str(self._folder))
        else:  # as it was: its ports seem to be taken for a minute after it was killed
            self._server.config.resolve = lambda: None
        self._server.start()

    @property
    def address(self) -> str:
        return f"milvus://127.0.0.1:{self._server.listen_port}/"

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        self._server.server_proc.kill()
        self._server.server_proc.wait()
        self._server.server_proc = None

    def stop(self) -> None:
        with suppress(Exception):
            self.kill()


@contextmanager
def milvus_server(folder: Path) -> Iterator[Milvus]:
    """A server that runs during the block."""
    server = Milvus(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
