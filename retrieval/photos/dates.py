"""When a photo was taken: dates as programs write them, and the first that is valid.

A date is local wall time, as a clock at the place showed it; its offset from UTC is kept where one
is written. Where a date is looked for, and in which order, is up to the caller: `exif` for photo
files, `indexing` for names and sidecars.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

FILE_NAME = "file name"
_EARLIEST, _LATEST = 1826, 2100  # the first photograph, and longer than this program will live
_LONGEST = 64  # characters of a date
# Clocks that were never set count from these; a time zone may move them.
_EPOCHS = (datetime(1904, 1, 1), datetime(1970, 1, 1))
_EPOCH_ZONES = timedelta(hours=14)
_UNSET = (datetime(1900, 1, 1), datetime(1980, 1, 1))
_MOST_TIMESTAMP = 4_102_444_800  # seconds, in 2100

_DATE = re.compile(
    r"(?P<year>\d{4})(?:\s*[-:/._ ]\s*(?P<month>\d{1,2})\s*[-:/._ ]\s*(?P<day>\d{1,2})(?!\d)"
    r"|(?P<month2>\d\d)(?P<day2>\d\d)(?!\d(?!\d{5})))",
    re.ASCII,
)
_TIME = re.compile(
    r"[T\s,_-]*(?:(?P<hour>\d{1,2})[:.](?P<minute>\d{1,2})(?:[:.](?P<second>\d{1,2}))?"
    r"|(?P<hour2>\d\d)(?P<minute2>\d\d)(?P<second2>\d\d)?)(?!\d)(?:[.,:]\d+)?"
    r"\s*(?P<half>[ap]\.?m\b\.?)?",
    re.ASCII | re.IGNORECASE,
)
_OFFSET = re.compile(
    r"\s*(?:UTC|GMT)?\s*(?P<sign>[-+])(?P<hours>\d{1,2})(?::?(?P<minutes>\d\d))?(?!\d)",
    re.ASCII | re.IGNORECASE,
)
_UTC = re.compile(r"\s*(?:Z|UTC|GMT)\b", re.IGNORECASE)
# In names the year begins with 19 or 20: other numbers look like dates, too.
_DATE_IN_NAME = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<mark>[-_. ]?)(?P<month>0[1-9]|1[0-2])(?P=mark)"
    r"(?P<day>0[1-9]|[12]\d|3[01])(?!\d(?!\d{5}))",
    re.ASCII,
)
_TIME_IN_NAME = re.compile(
    r"\D{0,8}?(?P<hour>[01]\d|2[0-3]|\d(?=[-_.:h ]))(?P<mark>[-_.:h ]?)(?P<minute>[0-5]\d)"
    r"(?:(?P=mark)(?P<second>[0-5]\d)(?:\d{3})?)?(?!\d)[\s\u00a0\u202f]?(?P<half>[ap]\.?m\b)?",
    re.ASCII | re.IGNORECASE,
)
_TIMESTAMP_IN_NAME = re.compile(r"^(?:FB_IMG_|mmexport|wx_camera_)(\d{10})\d{3}(?!\d)", re.ASCII)


@dataclass(frozen=True)
class FoundDate:
    """A date as it was found. source: where; text: as written, maybe bytes or no text at all;
    offset: from UTC, where it is written elsewhere than in `text`."""

    source: str
    text: object
    offset: object = None


@dataclass(frozen=True)
class Taken:
    """When a photo was taken.

    time: local, ISO 8601, as exact as it was written: `2009-08-07T06:05:04`, `2009-08-07T06:05` or
    `2009-08-07`; offset: of that time from UTC as `+02:00`, None if unknown; source: where it was
    found.
    """

    time: str
    offset: str | None
    source: str


def first_valid(found: Iterable[FoundDate]) -> Taken | None:
    """The first of the dates that is one: no zeros, blanks, or counts of a clock never set."""
    for date in found:
        parsed = _parse(date.text)
        if parsed is not None:
            time, offset = parsed
            if offset is None and len(time) > len("2009-08-07"):
                offset = _offset(_as_text(date.offset))
            return Taken(time, offset, date.source)
    return None


def date_in_name(name: str) -> FoundDate | None:
    """The date in a file's name, as cameras, phones and messengers put it there."""
    if stamp := _TIMESTAMP_IN_NAME.match(name):
        return FoundDate(FILE_NAME, as_utc(int(stamp[1])))
    date = _DATE_IN_NAME.search(name)
    if date is None:
        return None
    day = f"{date['year']}-{date['month']}-{date['day']}"
    time = _TIME_IN_NAME.match(name, date.end())
    if time is None or not (time["mark"] or (time["second"] and len(time["hour"]) == 2)):
        return FoundDate(FILE_NAME, day)
    clock = ":".join(part for part in (time["hour"], time["minute"], time["second"]) if part)
    return FoundDate(FILE_NAME, f"{day} {clock} {time['half'] or ''}")


def as_utc(seconds: float) -> str | None:
    """A Unix time as the text of a date in UTC; None for zero, or beyond all photos."""
    if not seconds or not -_MOST_TIMESTAMP <= seconds <= _MOST_TIMESTAMP:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(seconds))
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _parse(value: object) -> tuple[str, str | None] | None:
    """A date as ISO 8601 and its offset; a time that is none leaves the day. None if it is none."""
    text = _as_text(value)
    date = _DATE.match(text)
    if date is None:
        return None
    try:
        day = datetime(
            int(date["year"]),
            int(date["month"] or date["month2"]),
            int(date["day"] or date["day2"]),
        )
    except ValueError:
        return None
    if not _EARLIEST <= day.year <= _LATEST:
        return None
    time = _TIME.match(text, date.end())
    moment = None if time is None else _at(day, time)
    if time is None or moment is None:
        return None if day in (*_EPOCHS, *_UNSET) else (day.date().isoformat(), None)
    if _is_unset(moment):
        return None
    exact = time["second"] or time["second2"]
    iso = moment.isoformat(timespec="seconds" if exact else "minutes")
    return iso, _offset(text[time.end() :])


def _at(day: datetime, time: re.Match[str]) -> datetime | None:
    """A time of a day. 24:00 is the next day, second 60 the next minute; None if it is no time."""
    hour, minute = int(time["hour"] or time["hour2"]), int(time["minute"] or time["minute2"])
    second = int(time["second"] or time["second2"] or 0)
    if time["half"] and 1 <= hour <= 12:
        hour = hour % 12 + (12 if time["half"][0] in "pP" else 0)
    if minute > 59 or second > 60 or hour > 24 or (hour == 24 and (minute or second)):
        return None
    return day + timedelta(hours=hour, minutes=minute, seconds=second)


def _is_unset(moment: datetime) -> bool:
    if moment in _UNSET:
        return True
    in_a_zone = moment.minute % 15 == 0 and moment.second == 0
    return in_a_zone and any(abs(moment - epoch) <= _EPOCH_ZONES for epoch in _EPOCHS)


def _offset(text: str) -> str | None:
    """The offset that a text begins with, as `+02:00`; None if there is none that exists."""
    if found := _OFFSET.match(text):
        hours, minutes = int(found["hours"]), int(found["minutes"] or 0)
        exists = minutes < 60 and hours * 60 + minutes <= 14 * 60
        return f"{found['sign']}{hours:02}:{minutes:02}" if exists else None
    return "+00:00" if _UTC.match(text) else None


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.lstrip("\0 \t\r\n").partition("\0")[0][:_LONGEST] if isinstance(value, str) else ""
