"""Headers of tars whose names are of bounded length; `tarfile` alone would read gigabytes.

Whoever opens a tar from elsewhere passes the class as `tarinfo`.
"""

import tarfile
from typing import Self

_LONGEST_NAME = 1 << 20  # bytes


class TarHeader(tarfile.TarInfo):
    """A tar header that limits the length of names; `tarfile` would read gigabytes."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        assert archive.fileobj is not None
        position = archive.fileobj.tell()
        block = archive.fileobj.read(tarfile.BLOCKSIZE)
        archive.fileobj.seek(position)
        if len(block) == tarfile.BLOCKSIZE and block[156:157] in b"xXgLK":
            size = tarfile.TarInfo.frombuf(block, archive.encoding or "utf-8", "replace").size
            if size > _LONGEST_NAME:
                raise tarfile.ReadError(f"a name of {size:,} bytes")
        return super().fromtarfile(archive)
