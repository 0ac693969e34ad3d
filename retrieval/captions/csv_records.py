"""The rows of a CSV file as cells, whatever its quotes are like.

A quote counts where CSV has it closed again; elsewhere it is a letter. Python's csv module takes
all that follows a quote that never closes for one cell. What the cells mean is for `tables` to find
out.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retrieval.captions.text_lines import TextLines

DELIMITERS = ",;\t|"
_MOST_LINES, _MOST_TEXT = 50, 100_000  # lines of one row, and characters in them
_MOST_IN_VAIN = 5_000  # lines looked at for closing quotes that were not there


@dataclass(frozen=True)
class Cells:
    """The cells of a row: as text, and as they are written between the delimiters.

    is_open: whether a cell begins with a quote that nothing closes.
    """

    values: list[str]
    raw: list[str]
    is_open: bool = False

    def is_quoted(self, column: int) -> bool:
        return self.raw[column].strip().startswith('"') and self.values[column] != self.raw[column]


def read_records(
    lines: TextLines, delimiter: str, begins: Callable[[str], bool]
) -> Iterator[tuple[int, Cells | None]]:
    """The rows of a table with the number of their first line; None for one that is too long.

    A row goes on in the next lines if a quote is open that one of them closes. begins: whether a
    line begins a row for certain, so that no open quote goes on in it. Where most open quotes are
    never closed, none is looked for any more.
    """
    pending: deque[tuple[int, str | None]] = deque()
    in_vain = 0
    source = iter(lines)
    while True:
        number, line = pending.popleft() if pending else next(source, (0, None))
        if not number:
            return
        if line is None:
            yield number, None
            continue
        if not line.strip():
            continue
        cells = split_cells(line, delimiter)
        if cells.is_open and in_vain < _MOST_IN_VAIN:
            more: list[tuple[int, str | None]] = []
            text = line
            while len(more) < _MOST_LINES and len(text) < _MOST_TEXT:
                following = pending.popleft() if pending else next(source, (0, None))
                if not following[0]:
                    break
                more.append(following)
                if following[1] is None or begins(following[1]):
                    break
                text = f"{text}\n{following[1]}"
                if '"' in following[1]:
                    joined = split_cells(text, delimiter)
                    if not joined.is_open:
                        cells, more = joined, []
                        break
            in_vain += len(more)
            pending.extendleft(reversed(more))
        yield number, cells


def split_cells(line: str, delimiter: str) -> Cells:
    """The cells of a line, or of several that quotes join."""
    if '"' not in line:
        cells = line.split(delimiter)
        return Cells(cells, cells)
    dialects = _QUOTED.get(delimiter) or _quoted_cells(delimiter)
    values, raw, start, is_open = [], [], 0, False
    while True:
        match = dialects[0].match(line, start) or dialects[1].match(line, start)
        if match:
            end = match.end()
            escaped = '""' if match.re is dialects[0] else '\\"'
            values.append(match[1].replace(escaped, '"'))
        else:
            is_open = is_open or _UNCLOSED.match(line, start) is not None
            end = line.find(delimiter, start)
            end = len(line) if end < 0 else end
            values.append(line[start:end])
        raw.append(line[start:end])
        if end >= len(line):
            return Cells(values, raw, is_open)
        start = end + 1


def _quoted_cells(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A quoted cell up to the next delimiter, with quotes in it doubled, or after backslashes."""
    end = rf'" *(?={re.escape(delimiter)}|\Z)'
    doubled = re.compile(rf' *"([^"]*+(?:""[^"]*+)*+){end}')
    backslashes = re.compile(rf' *"([^"\\]*+(?:\\.[^"\\]*+)*+){end}', re.DOTALL)
    return doubled, backslashes


_QUOTED = {delimiter: _quoted_cells(delimiter) for delimiter in DELIMITERS}
_UNCLOSED = re.compile(r' *"[^"]*+(?:""[^"]*+)*+\Z')
