"""Indexes that SQLite can read but that hold nonsense: made by somebody else, or damaged."""

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

import retrieval
from indexes.database import FULL_TEXT
from tests.conftest import Run

HUGE = 2**63 - 1
COMMANDS = (
    ["search", "a cat", "-k", "50", "--explain"],
    ["search", "a cat", "--ranking", "hybrid", "--relevance", "strict"],
    ["search", "a cat", "--after", "2001"],
    ["search", "a cat", "--in", "."],
    ["similar", "chelsea.png"],
    ["info"],
    ["index", "."],
    ["fuse"],
    ["remove", "moon.png"],
)
SENTENCES = ("damaged (", "not a part of this index", "is not in the index", "is not there now")
CRAFTED = {
    "a width that is text": "UPDATE photos SET width = 'wide'",
    "a height that is missing": "UPDATE photos SET height = NULL",
    "a format of bytes": "UPDATE photos SET format = x'ff00'",
    "a hash of bytes": "UPDATE photos SET hash = x'ff00' WHERE id = 3",
    "a time of bytes": "UPDATE photos SET taken = x'00ff'",
    "a place that is text": "UPDATE photos SET latitude = 'north', longitude = 'west'",
    "a place beyond infinity": "UPDATE photos SET latitude = 9e999",
    "text that is not UTF-8": "UPDATE photos SET camera = CAST(x'ff41' AS TEXT)",
    "a photo that is gone": "DELETE FROM photos WHERE id = 4",
    "a photo without an embedding": "DELETE FROM embeddings WHERE photo_id = 4",
    "a photo with a negative id": "UPDATE photos SET id = -7 WHERE id = 4",
    "a photo with a huge id": f"UPDATE photos SET id = {HUGE} WHERE id = 4",
    "no id left for a photo": f"UPDATE sqlite_sequence SET seq = {HUGE}",
    "a file of a huge photo": f"UPDATE files SET photo_id = {HUGE} WHERE id = 4",
    "a file of a photo of text": "UPDATE files SET photo_id = 'x' WHERE id = 4",
    "a path that is a number": "UPDATE files SET path = 5 WHERE id = 4",
    "a path of zero bytes": "UPDATE files SET path = x'00' WHERE id = 4",
    "a path with a zero byte": "UPDATE files SET path = 'a' || char(0) || 'b' WHERE id = 4",
    "a path that leaves": "UPDATE files SET path = '../../etc/passwd.png' WHERE id = 4",
    "a size that is text": "UPDATE files SET bytes = 'large'",
    "a time that is missing": "UPDATE files SET mtime_ns = NULL",
    "a time that is text": "UPDATE files SET mtime_ns = 'noon'",
    "a reason of bytes": "UPDATE files SET reason = x'ff', photo_id = NULL WHERE id = 4",
    "a root of text": "UPDATE files SET root_id = 'x' WHERE id = 4",
    "a root that is missing": "DELETE FROM roots",
    "a root without a path": "UPDATE roots SET absolute = NULL, relative = NULL",
    "a root of a number": "UPDATE roots SET absolute = 5, relative = 6.5",
    "a root with a zero byte": "UPDATE roots SET relative = 'a' || char(0), absolute = char(0)",
    "captions of bytes": "INSERT INTO captions VALUES (1, 'chelsea.png', 0, 'a', x'ff00')",
    "captions of a number": "INSERT INTO captions VALUES (1, 'chelsea.png', 0, 7, 7.5)",
    "captions of path 5": "INSERT INTO captions VALUES (1, 5, 'x', 7, 'a')",
    "captions embedded as text": "INSERT INTO said VALUES (3, 'a', 'b', 0)",
    "captions embedded too short": "INSERT INTO said VALUES (3, x'00', x'00', 0)",
    "a fused weight of text": "INSERT INTO fused VALUES (3, 'a', zeroblob(4), 0)",
    "an embedding of text": "UPDATE embeddings SET vector = 'vector' WHERE photo_id = 3",
    "an embedding that is long": "UPDATE embeddings SET vector = zeroblob(9999999)",
    "an embedding of zeros": "UPDATE embeddings SET vector = zeroblob(length(vector))",
    "an embedding with another's checksum": "UPDATE embeddings SET checksum = "
    "(SELECT checksum FROM embeddings WHERE photo_id = 4) WHERE photo_id = 3",
    "a checksum of text": "UPDATE embeddings SET checksum = 'x' WHERE photo_id = 3",
    "an embedding of infinity": "UPDATE embeddings SET vector = "
    "(SELECT CAST(x'007c' || substr(vector, 3) AS BLOB) FROM embeddings) WHERE photo_id = 3",
    "a dimension that is no digit": "UPDATE meta SET value = '²' WHERE key = 'dim'",
    "a dimension of bytes": "UPDATE meta SET value = x'ff' WHERE key = 'dim'",
    "a dimension too large": "UPDATE meta SET value = '9999999999' WHERE key = 'dim'",
    "no dimension": "DELETE FROM meta WHERE key = 'dim'",
    "a generation that is a path": "UPDATE meta SET value = '../../a' WHERE key = 'generation'",
    "a generation that is long": "UPDATE meta SET value = hex(zeroblob(900)) "
    "WHERE key = 'generation'",
    "a model without a name": "UPDATE meta SET value = NULL WHERE key = 'model'",
    "no table of photos": "DROP TABLE photos",
    "no table of files": "DROP TABLE files",
    "no table of captions": "DROP TABLE captions",
    "a column that is computed": "ALTER TABLE files DROP COLUMN reason;"
    "ALTER TABLE files ADD COLUMN reason AS (hex(zeroblob(400000000)))",
    "files without their time": "ALTER TABLE files DROP COLUMN mtime_ns",
}


@pytest.mark.parametrize("statement", CRAFTED.values(), ids=CRAFTED.keys())
def test_nonsense_is_damage_with_its_place(run: Run, photos: Path, statement: str) -> None:
    """Every command works or says what is damaged and where, soon, and never advises deletion."""
    change(photos, statement)
    for vectors in (photos / ".retrieval").glob("vectors-*"):
        shutil.rmtree(vectors)
    for command in COMMANDS:
        started = time.monotonic()
        result = run(*command, cwd=photos)
        assert time.monotonic() - started < 10, command
        assert "Internal error" not in result.messages, (command, result.messages)
        assert "delete that folder" not in result.messages, (command, result.messages)
        assert result.code == 0 or any(part in result.messages for part in SENTENCES), (
            command,
            result.messages,
        )
        assert "nan" not in result.out.lower() and "inf " not in result.out


def test_what_a_message_quotes_does_not_change_its_meaning(run: Run, photos: Path) -> None:
    change(photos, "UPDATE files SET path = '../locked/full/readonly.png' WHERE id = 4")
    result = run("search", "a cat", "-k", 50, cwd=photos)
    assert "is damaged (files.path: '../locked/full/readonly.png' leaves" in result.messages


def test_the_message_names_table_row_column_and_value(run: Run, photos: Path) -> None:
    change(photos, "UPDATE photos SET width = 'wide' WHERE id = 5")
    result = run("search", "a cat", "-k", 50, cwd=photos)
    assert (
        "(photos.width where id is 5: 'wide' is not a number of bytes or pixels)" in result.messages
    )
    assert "retrieval index --rebuild" in result.messages
    assert run("index", "--rebuild", cwd=photos).code == 0
    assert len(run("search", "a cat", "-k", 50, "-f", "json", cwd=photos).json) == 20


def test_damage_that_sqlite_finds_is_the_only_one_that_asks_for_deletion(
    run: Run, photos: Path
) -> None:
    file = photos / ".retrieval" / "catalogue.db"
    data = bytearray(file.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 4] = b"\xff" * 4
    file.write_bytes(data)
    result = run("search", "a cat", cwd=photos)
    assert result.code == 1
    assert "is damaged (" in result.messages and "delete that folder" in result.messages


def test_an_error_that_the_check_does_not_confirm_is_no_damage(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is tried once more, and answers if the error is gone."""
    from indexes.photos import Photos

    failures = 0
    real = Photos.missing.__wrapped__  # type: ignore[attr-defined]

    def failing(times: int) -> None:
        nonlocal failures
        failures = times

    def missing(self: Photos) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        return real(self)

    from indexes.database import guarded

    monkeypatch.setattr(Photos, "missing", guarded(missing))
    with retrieval.open(photos) as opened:
        failing(1)
        assert opened.search("a cat")[0].path.name == "chelsea.png"
    with retrieval.open(photos) as opened:
        failing(9)
        with pytest.raises(retrieval.RetrievalError, match="check finds it whole") as caught:
            opened.search("a cat")
    assert not isinstance(caught.value, retrieval.IndexDamagedError)
    assert "delete" not in str(caught.value)


# Full text -------------------------------------------------------------------------------------

BROKEN_FULL_TEXT = [
    "DROP TABLE words_data",
    "DROP TABLE words_idx",
    "DROP TABLE words_content",
    "DROP TABLE words_docsize",
    "DROP TABLE words_config",
    "DELETE FROM words_data",
    "UPDATE words_data SET block = x'00' WHERE id = 10",
    "UPDATE words_data SET block = x'ffffffffffffffffff'",
    "UPDATE words_config SET v = 99",
    "UPDATE words_content SET c0 = x'ff00', c1 = 5",
    f"INSERT INTO words_content VALUES ({HUGE}, 'a temple', 'b')",
    f"INSERT INTO words (rowid, captions) VALUES ({HUGE}, 'a temple'), (-9, 'a temple')",
    "DROP TABLE words; CREATE TABLE words (captions, names)",
    "DROP TABLE words; CREATE TABLE words_data (a)",
]


@pytest.mark.parametrize("statement", BROKEN_FULL_TEXT)
def test_a_broken_full_text_table_is_computed_again_by_the_next_run(
    run: Run, photos: Path, statement: str
) -> None:
    (photos / "china.txt").write_text("a temple in Tibet")
    assert run("index", cwd=photos).code == 0
    change(photos, statement)
    result = run("search", "temple", "-f", "json", cwd=photos)
    assert result.code == 0 and len(result.json) == 10  # the vectors answer alone
    assert "Warning" not in result.messages and ".py" not in result.messages, "one sentence"
    named = run("search", "temple", "--ranking", "hybrid", cwd=photos)
    assert (
        named.code == 0
        or "Run `retrieval index` once" in named.messages
        or ("run `retrieval index` once" in named.messages)
    )
    started = time.monotonic()
    assert run("index", cwd=photos).code == 0
    assert time.monotonic() - started < 10
    with sqlite3.connect(photos / ".retrieval" / "catalogue.db") as db:
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        assert db.execute("SELECT sql FROM sqlite_schema WHERE name = 'words'").fetchone() == (
            FULL_TEXT,
        )
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = db.execute("SELECT count(*) FROM words").fetchone()
    db.close()
    assert count == 20
    found = run("search", "Tibet", "--ranking", "hybrid", "-f", "json", cwd=photos)
    assert found.names[0] == "china.jpg"


def change(photos: Path, statements: str) -> None:
    """Run SQL on the catalogue, without foreign keys and other checks."""
    db = sqlite3.connect(photos / ".retrieval" / "catalogue.db")
    db.execute("PRAGMA foreign_keys=OFF")
    for statement in statements.split(";"):
        db.execute(statement)
    db.commit()
    db.close()
