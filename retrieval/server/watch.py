"""Watch the indexed folders, and ask for an index run whenever photos or captions change."""

from collections.abc import Callable
from pathlib import Path

_WAIT_MS = 1500  # until a burst of changes is over


async def watch(roots: list[Path], index: Path, changed: Callable[[], object]) -> None:
    """Call `changed` after every burst of changes in these folders, until it is cancelled.

    What happens in hidden files and folders is no change, as indexing leaves them out; nor is what
    happens in the folder of the index.
    """
    from watchfiles import Change, awatch

    def counts(_: Change, path: str) -> bool:
        inside = Path(path)
        if inside.is_relative_to(index):
            return False
        parts = next((inside.relative_to(r).parts for r in here if inside.is_relative_to(r)), ())
        return not any(part.startswith(".") for part in parts)

    here = [root for root in roots if root.is_dir()]
    if not here:
        return
    async for _ in awatch(
        *here, watch_filter=counts, debounce=_WAIT_MS, step=200, ignore_permission_denied=True
    ):
        changed()
