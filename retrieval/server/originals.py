"""The files of photos as they are: opened as the index does, sent whole or in part.

Only formats that browsers draw safely are shown in place; others are offered as downloads.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from indexes.index import Index
from retrieval.errors import PhotoError
from retrieval.photos.files import open_inside

_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def open_original(index: Index, photo_hash: str) -> tuple[BinaryIO, str, str] | None:
    """An open file of a photo, its name and the photo's format; None for an unknown photo.

    Raises PhotoError if none of its files can be opened now.
    """
    number = index.catalogue.photos.ids([photo_hash]).get(photo_hash)
    found = index.catalogue.photos.get([] if number is None else [number]).get(number or 0)
    if found is None:
        return None
    photo, places = found
    roots = {root.id: root.path for root in index.roots()}
    reason = "its file is missing"
    for root_id, path in places:
        if root_id not in roots:
            continue
        try:
            file = open_inside(roots[root_id], path)
        except (OSError, PhotoError) as error:
            reason = str(error.strerror if isinstance(error, OSError) else error)
            continue
        return file, path.rpartition("/")[2], photo.format
    raise PhotoError(f"The photo cannot be opened: {reason}. Bring its file or folder back.")


def send_original(request: Request, file: BinaryIO, name: str, form: str) -> Response:
    """An open file as a response; it is closed at the end. Answers range requests (RFC 9110)."""
    state = os.fstat(file.fileno())
    tag = f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
    kind = _TYPES.get(form, "application/octet-stream")
    shown = "inline" if form in _TYPES else "attachment"
    clean = quote(name.encode("utf-8", "replace"), safe="")
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"{shown}; filename*=UTF-8''{clean}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    if tag in request.headers.get("if-none-match", ""):
        file.close()
        return Response(status_code=304, headers=headers)
    start, end, status = 0, state.st_size, 200
    wanted = request.headers.get("range")
    if wanted and request.headers.get("if-range", tag) == tag:
        part = _parse_range(wanted, state.st_size)
        if part == ():
            file.close()
            return Response(
                status_code=416, headers=headers | {"Content-Range": f"bytes */{state.st_size}"}
            )
        if part:
            start, end = part
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{state.st_size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_pieces(file, start, end), status, headers, kind)


def _parse_range(text: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """The first byte and the one behind the last; () if there are none; None for what is no range,
    or several."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        return (size - length, size) if length else ()
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    return (start, end) if start < size else ()


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < end:
            piece = file.read(min(_PIECE, end - start))
            if not piece:
                return  # it became shorter
            start += len(piece)
            yield piece
