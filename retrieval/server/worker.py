"""An index run in a process of its own, so that searches go on at full speed beside it.

It reports on standard output, a JSON object a line, and ends when its standard input does: it does
not outlive the server. Killed at any instant it loses at most the batch in flight.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

_NICE = 5
_INTERVAL = 0.2  # seconds between reports


def main(folder: str) -> None:
    """Bring the index in `folder` up to date."""
    from indexes.errors import RetrievalError
    from retrieval import api
    from retrieval.indexing.options import Progress
    from retrieval.output.terminal import hide_library_warnings
    from retrieval.output.text import summary

    threading.Thread(target=_end_with_server, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICE)
    hide_library_warnings()
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _INTERVAL or progress.done == progress.total:
            last = time.monotonic()
            _send(
                done=progress.done,
                total=progress.total,
                skipped=progress.skipped,
                what=progress.what,
            )

    try:
        report = api.index(index=Path(folder), progress=show)
    except (RetrievalError, OSError) as error:
        _send(error=str(error))
        sys.exit(1)
    _send(summary=summary(report))


def _send(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _end_with_server() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
