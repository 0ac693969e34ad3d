"""A child process under watch: how a case ends, and the limits on time and memory."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 10.0
"""Of the processor: how long a case takes by the clock depends on what else the machine does."""
MAX_BYTES = 2 << 30
_START_SECONDS = 50.0
_WAITING = 6  # times MAX_SECONDS by the clock: a process that waits forever uses no processor


@dataclass(frozen=True)
class Fault:
    """What went wrong: kind is 'error', 'crash', 'hang' or 'memory'; detail: traces of it."""

    kind: str
    detail: str


class Child:
    """Runs cases one after the other in a process that is started again after a fault.

    The first case of each target in a process also waits for what it imports.
    """

    def __init__(
        self,
        command: Sequence[str],
        home: Path,
        log: Path,
        seconds: float = MAX_SECONDS,
        most_bytes: int = MAX_BYTES,
    ) -> None:
        """command: what to start; home: a folder for its data and caches; log: receives what it
        writes to stderr; seconds (of the processor), most_bytes: the limits of a case."""
        self._command, self._home, self._log = command, home, log
        self._seconds, self._most_bytes = seconds, most_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: set[str] = set()

    def run(self, target: str, folder: Path) -> Fault | None:
        """Give one case to the process and wait; None if it was handled."""
        process = self._start()
        limit = self._seconds + (0.0 if target in self._seen else _START_SECONDS)
        self._seen.add(target)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([target, str(folder)]).encode() + b"\n")
        process.stdin.flush()
        started, (_, used) = time.monotonic(), _usage(process.pid)
        while not select.select([process.stdout], [], [], 0.05)[0]:
            memory, seconds = _usage(process.pid)
            if memory > self._most_bytes:
                return self._end("memory")
            passed = time.monotonic() - started
            if min(passed, seconds - used) > limit or passed > _WAITING * limit:
                return self._end("hang")
        answer = process.stdout.readline()
        if not answer:
            return self._end("crash")
        wrong = json.loads(answer)
        return Fault("error", wrong) if wrong else None

    def close(self) -> None:
        """Stop the process; the next case gets a new one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._seen.clear()
            home = self._home
            environment = {
                **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home),
                "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache"),
            }  # fmt: skip
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("wb"),
                cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
        return self._process

    def _end(self, kind: str) -> Fault:
        """End the process, with the stack of each thread in its log."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        self.close()
        detail = self._log.read_bytes()[-20_000:].decode("utf-8", "replace")
        return Fault(kind, f"exit code {code}\n{detail}")


def _usage(pid: int) -> tuple[int, float]:
    """What a process and those it started use: resident bytes and seconds of the processor.

    Shared pages count once; processes that have ended count with whoever waited for them.
    """
    total, seconds = 0, 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        total, seconds = process.memory_info().rss, sum(process.cpu_times()[:4])
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                info = child.memory_info()
                total += info.rss - getattr(info, "shared", 0)
                seconds += sum(child.cpu_times()[:4])
    return total, seconds
