"""Apple's exports: the lists `Photo Details.csv` of iCloud, which have the dates of photos.

The XMP files that Apple Photos writes beside photos are read as any others: see
`photo_sidecars`. Nothing is opened here.
"""

import csv
import re
from collections.abc import Iterator

from retrieval.photos.dates import FoundDate
from retrieval.photos.encodings import decode_text

APPLE = "Apple export"
MAX_LIST = 16 << 20  # bytes
_NAME = re.compile(r"photo details(-\d+)?\.csv", re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
# "Friday August 7,2009 6:05 AM GMT"
_DATE = re.compile(
    r"\s*(?:[^\W\d]+,?\s+)?(?P<month>[A-Za-z]{3})[a-z]*\s+(?P<day>\d{1,2})\s*,\s*(?P<year>\d{4})"
    r"(?P<time>.*)",
    re.DOTALL,
)


def is_list(name: str) -> bool:
    """Whether a file is such a list, by its name."""
    return _NAME.fullmatch(name) is not None


def read_list(data: bytes) -> Iterator[tuple[str, FoundDate]]:
    """(name of a photo, its date) for each row; raises csv.Error."""
    for row in csv.DictReader(decode_text(data).splitlines()):
        name, written = row.get("imgName"), row.get("originalCreationDate")
        date = _DATE.match(written or "")
        if name and date and date["month"].lower() in _MONTHS:
            month = _MONTHS.index(date["month"].lower()) + 1
            text = f"{date['year']}-{month:02}-{int(date['day']):02} {date['time']}"
            yield name, FoundDate(APPLE, text)
