"""Hits as a table: a header, and lines that fit the terminal but stay whole in a pipe."""

import os
import pty
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.photos import Photo
from retrieval import Hit
from retrieval.output.table import as_table, shorten

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=60)
MARKED = st.text(
    st.sampled_from("aกจ👨क北\u0e31\u0e47\u0947\u0301\u093f\u20dd\ufe0f\u200d"), max_size=60
)


def joins(character: str) -> bool:
    """Whether a character is part of the one before it on a terminal."""
    return unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")


def columns(text: str) -> int:
    """The columns that a text takes at least: one for each character but marks and joiners."""
    return sum(unicodedata.category(c) not in ("Mn", "Me", "Cf") for c in text)


def hit(rank: int, path: str, relevance: float | None = None, taken: str | None = None) -> Hit:
    photo = Photo("0" * 64, 4, 3, "JPEG", taken)
    return Hit(rank, 0.25, Path(path), (), photo, relevance)


def test_the_header_stands_above_its_columns() -> None:
    table = as_table([hit(1, "/a/cat.jpg", 0.5, "2024-05-17T10:30:00"), hit(10, "/a/b.jpg", 0.07)])
    assert table.splitlines() == [
        " Rank  Score  Relevance  Photo       Taken",
        "    1  0.250        50%  /a/cat.jpg  2024-05-17",
        "   10  0.250         7%  /a/b.jpg",
    ]


def test_without_any_relevance_there_is_no_such_column() -> None:
    assert as_table([hit(1, "/a/cat.jpg")]).split() == [
        "Rank", "Score", "Photo", "Taken", "1", "0.250", "/a/cat.jpg",
    ]  # fmt: skip
    assert as_table([]) == "No photo matches.\n"


def test_a_long_path_loses_its_middle_and_keeps_its_name() -> None:
    path = f"/my/photos/{'very/' * 30}long/IMG_2041.jpg"
    table = as_table([hit(1, path, 0.5, "2024-05-17T10:30:00"), hit(2, "/b.jpg", 0.4)], width=80)
    assert max(map(len, table.splitlines())) <= 80
    assert "/my/photos/" in table and "…" in table and "long/IMG_2041.jpg  2024-05-17" in table
    assert "/b.jpg" in table
    assert path in as_table([hit(1, path)])


@given(NAMES | MARKED, st.integers(1, 40))
def test_a_shortened_text_fits_whatever_its_characters(text: str, width: int) -> None:
    short = shorten(text, width)
    assert columns(short) <= width  # a character takes one column or two
    assert short == text or "…" in short
    if short != text:
        assert columns(text) > width // 2 - 1, "what fits is not shortened"
        tail = short.split("…")[-1]
        assert not tail or not joins(tail[0]), "a mark sits on the ellipsis"
    assert shorten("北京" * 20, 9).count("…") == 1 and len(shorten("北京" * 20, 9)) <= 5


@pytest.mark.parametrize("name", ["สวัสดี", "हिन्दी", "cafe\u0301", "❤\ufe0f.jpg"])
def test_marks_take_no_column_of_their_own(name: str) -> None:
    assert shorten(name, columns(name)) == name


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_shortened_paths(
    few: Path, tmp_path: Path, terminal: bool, run
) -> None:
    folder = few / ("a_folder_with_a_long_name_" * 4)
    folder.mkdir()
    (few / "rocket.jpg").rename(folder / "rocket.jpg")
    run("index", few, "--model", "mini", "--quiet")
    command = [sys.executable, "-m", "cli", "search", "a rocket", "--index", few / ".retrieval"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": ""}
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 70))
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, check=True,
        stdout=child if terminal else subprocess.PIPE,
    )  # fmt: skip
    os.close(child)
    out = (os.read(parent, 100_000) if terminal else done.stdout).decode()
    os.close(parent)
    assert (f"{folder.name}/rocket.jpg" in out) != terminal
    assert ("…" in out and max(map(len, out.splitlines())) <= 70) == terminal
