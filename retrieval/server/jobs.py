"""Index runs beside the server: started, watched, stopped; one at a time.

A run is a process, see `retrieval.server.worker`. While it runs, another may be asked for; it
follows at once.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from retrieval.server import models

_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from retrieval.server.worker import main; main(sys.argv[1])"
)
_LONGEST_LINE = 1 << 20  # bytes


class Jobs:
    """The index runs of one index. changed: is called with the state whenever it changes."""

    def __init__(self, folder: Path, changed: Callable[[models.Indexing], None]) -> None:
        self._folder, self._changed = folder, changed
        self.state = models.Indexing(state="idle")
        self._task: asyncio.Task[None] | None = None
        self._again = False

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> bool:
        """Start a run; False if one is going on."""
        if self.is_running:
            return False
        self._set(state="running", done=0, total=0, skipped=0, what="photos", message="")
        self._task = asyncio.create_task(self._run())
        return True

    def start_or_follow(self) -> None:
        """Start a run, now or as soon as the one that is going on has ended."""
        self._again = not self.start()

    def set_watching(self) -> None:
        self._set(watching=True)

    async def stop(self) -> None:
        """Stop the run, if there is one; what it committed stays."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            self._again = False
            try:
                await self._run_once()
            except asyncio.CancelledError:
                self._set(state="failed", message="Stopped. What was indexed until then stays.")
                raise
            except OSError as error:
                self._set(state="failed", message=f"No process could be started: {error}.")
            if not self._again:
                return
            self._set(state="running", done=0, total=0)

    async def _run_once(self) -> None:
        code = _CODE.format(path=sys.path)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LONGEST_LINE,
        )
        assert process.stdout is not None
        ended: dict[str, str] = {}
        try:
            async for line in process.stdout:
                values = json.loads(line)
                if "total" in values:
                    self._set(**values)
                else:
                    ended = values
            code_of_end = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())
        if "summary" in ended:
            self._set(state="idle", message=ended["summary"])
        else:
            reason = ended.get("error") or f"The run ended early (code {code_of_end}); try again."
            self._set(state="failed", message=reason)

    def _set(self, **values: object) -> None:
        self.state = self.state.model_copy(update=values)
        self._changed(self.state)
