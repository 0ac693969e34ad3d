"""When and where a photo was taken, and how that is known, as texts for people.

Programs get the values themselves: see `retrieval.output.text`.
"""

from indexes.photos import Photo
from retrieval.photos.files import printable


def taken(photo: Photo) -> str:
    """When a photo was taken, and how that is known: `2009-08-07 06:05:04 +02:00 (file name)`."""
    if not photo.taken:
        return ""
    time = " ".join(filter(None, (photo.taken.replace("T", " "), photo.taken_offset)))
    return printable(f"{time} ({photo.taken_source})" if photo.taken_source else time)


def place(photo: Photo) -> str:
    """Where a photo was taken, and how that is known: `Vienna, Austria (EXIF)`."""
    if photo.latitude is None or photo.longitude is None:
        return ""
    where = photo.place or f"{photo.latitude:.5f}, {photo.longitude:.5f}"
    return printable(f"{where} ({photo.place_source})" if photo.place_source else where)
