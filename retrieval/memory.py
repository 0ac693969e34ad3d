"""How much memory this process can still take: what the machine has, and what its group may use.

Containers and services are control groups (cgroups) with limits that the machine's numbers do not
show. Nothing is measured about this process itself.
"""

from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_FILES = {  # by version: limit, used, and the name in memory.stat of what can be taken back
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory() -> int:
    """Bytes that can be used before the machine or a control group has none left."""
    import psutil  # searches do not need it

    return max(min([psutil.virtual_memory().available, *_left_in_groups()]), 0)


def _left_in_groups() -> Iterator[int]:
    """The bytes left in each control group that this process is in and that has a limit."""
    for version, folder in _memory_groups():
        limit, used, reclaimable = _FILES[version]
        try:
            most = int((folder / limit).read_text())  # "max" where there is no limit
            left = most - int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield left + int(stat.get(reclaimable, 0))
        except (OSError, ValueError):
            continue


def _memory_groups() -> Iterator[tuple[int, Path]]:
    """(version, folder) of the control groups of this process that count memory, and those above.

    A container sees its own group at the top, whatever path the system calls it by.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            version, top = 2, _CGROUPS
        elif "memory" in controllers.split(","):
            version, top = 1, _CGROUPS / "memory"
        else:
            continue
        inner = top / path.lstrip("/")
        for folder in dict.fromkeys((inner, *inner.parents, top)):
            if folder == top or top in folder.parents:
                yield version, folder
