"""`retrieval check` finds what is wrong with an index, and `--repair` makes it right again."""

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

import retrieval
from indexes.check.rows import COLUMNS
from tests.conftest import Run
from tests.old_formats import as_format
from tests.test_embedding_format import FLIPPED, SWAPPED
from tests.test_search_crafted import CRAFTED


@pytest.fixture(scope="module")
def captioned(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with captions and all cache files; not to be changed."""
    folder = tmp_path_factory.mktemp("captioned") / "photos"
    shutil.copytree(originals, folder)
    (folder / "china.txt").write_text("a temple in China")
    (folder / "rocket.txt").write_text("a rocket on its pad")
    retrieval.index(folder, model="mini")
    return folder


@pytest.fixture
def folder(captioned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(captioned, tmp_path / "photos"))


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / ".retrieval" / "catalogue.db")) as db:
        db.create_function("random_blob", 1, lambda n: os.urandom(n))
        for statement in statements:
            db.executescript(statement)
        db.commit()


def problems(folder: Path) -> Sequence[retrieval.Problem]:
    return retrieval.check(folder).problems


def is_as_before(folder: Path) -> bool:
    """Whether all photos and captions are found."""
    with retrieval.open(folder) as photos:
        return (
            len(photos.search("a cat", k=50)) == 20
            and photos.search("temple", ranking="hybrid")[0].path.name == "china.jpg"
            and photos.similar(folder / "chelsea.png", k=50)[0].path.name != "chelsea.png"
        )


def test_a_whole_index_is_found_whole_and_not_changed(run: Run, folder: Path) -> None:
    index = folder / ".retrieval"
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    result = run("check", cwd=folder)
    assert result.code == 0 and "Nothing is wrong." in result.out
    for part in (
        "pages",
        "20 photos and 20 files",
        "embeddings",
        "full text",
        "1 folder(s) of vectors",
    ):
        assert part in result.out
    assert run("check", "--json", cwd=folder).json["whole"] is True
    assert run("check", "--repair", cwd=folder).out.count("repaired") == 0
    assert {path: path.read_bytes() for path in before} == before


def test_every_column_of_the_catalogue_is_checked(folder: Path) -> None:
    """Whoever adds a column says in `indexes.check.rows` what it may hold."""
    with closing(sqlite3.connect(folder / ".retrieval" / "catalogue.db")) as db:
        for table, columns in COLUMNS.items():
            found = db.execute("SELECT name FROM pragma_table_info(?)", [table]).fetchall()
            assert {name for (name,) in found} == set(columns), table
        tables = {n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {t for t in tables if not t.startswith(("words", "sqlite_"))} == set(COLUMNS)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_older_format_is_checked_as_it_is(folder: Path, number: int) -> None:
    as_format(number, folder)
    for file in (folder / ".retrieval").glob("*-*.*"):
        file.unlink()
    report = retrieval.check(folder)
    assert report.is_whole, report.problems
    assert report.format == number and "no checksums" in report.notes[0]
    change(folder, "UPDATE embeddings SET vector = zeroblob(9) WHERE photo_id = 3")
    assert "another length" in problems(folder)[0].what
    assert retrieval.check(folder, repair=True).is_whole
    assert retrieval.index(folder).encoded == 1
    assert is_as_before(folder) and retrieval.check(folder).format == 4


# What SQLite does not notice, and what is lost by it: photos to encode, or the folder's name.
DAMAGE = {
    "vectors swapped": (";".join(SWAPPED), "does not match its checksum", 2),
    "a vector flipped": (FLIPPED[0], "does not match its checksum", 1),
    "a vector cut": ("UPDATE embeddings SET vector = x'00' WHERE photo_id = 3", "length", 1),
    "a vector lost": ("DELETE FROM embeddings WHERE photo_id = 3", "without one", 1),
    "a vector of nobody": (
        "INSERT INTO embeddings SELECT 999, vector, checksum FROM embeddings LIMIT 1",
        "not in the index",
        0,
    ),
    "a caption's vector flipped": ("UPDATE said SET checksum = 1", "checksum", 0),
    "a fused vector swapped": (
        "UPDATE fused SET vector = (SELECT vector FROM said LIMIT 1)",
        "checksum",
        0,
    ),
    "a fused vector alone": ("DELETE FROM said", "no embedding", 0),
    "a photo marked missing": ("UPDATE photos SET present = 0 WHERE id = 4", "missing", 0),
    "a photo lost": ("DELETE FROM photos WHERE id = 4", "not in the index", 1),
    "a file without photo or reason": (
        "UPDATE files SET photo_id = NULL WHERE id = 4",
        "neither a photo nor a reason",
        0,
    ),
    "full text changed": ("UPDATE words SET captions = 'x'", "Full text differs", 0),
    "full text missing": ("DROP TABLE words", "full-text table is missing", 0),
    "full text broken": (
        "UPDATE words_data SET block = random_blob(20)",
        "full-text table",
        0,
    ),
    "a dimension changed": ("UPDATE meta SET value = '7' WHERE key = 'dim'", "length", 0),
    "no fusion": ("DELETE FROM meta WHERE key = 'fusion'", "fusion", 0),
    "no generation": ("DELETE FROM meta WHERE key = 'generation'", "generation", 0),
    "a caption list of nonsense": (
        "INSERT INTO meta VALUES ('setting:captions', '{')",
        "makes no sense",
        0,
    ),
    "an index of SQLite lacks rows": (
        "CREATE TABLE copy AS SELECT rootpage FROM sqlite_schema WHERE name = 'photos_absent';"
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = "
        "'CREATE INDEX photos_absent ON photos (id)' WHERE name = 'photos_absent'; DROP TABLE copy",
        "indexes do not match",
        0,
    ),
}


@pytest.mark.parametrize(("statement", "what", "encoded"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named_and_mended(
    run: Run, folder: Path, statement: str, what: str, encoded: int
) -> None:
    change(folder, statement)
    result = run("check", cwd=folder)
    assert result.code == 1 and "WRONG" in result.out
    assert what in result.out and "retrieval check --repair" in result.out
    repaired = run("check", "--repair", cwd=folder)
    assert repaired.code == 0, repaired.out
    assert "repaired" in repaired.out
    assert run("check", cwd=folder).code == 0
    assert retrieval.index(folder).encoded == encoded
    assert is_as_before(folder) and not problems(folder)


UNREPAIRED = ("no table of", "a column that", "files without", "a model without")


@pytest.mark.parametrize("name", CRAFTED)
def test_nonsense_is_mended_or_gets_a_way_out(run: Run, folder: Path, name: str) -> None:
    """What other tests show to be refused by searches."""
    change(folder, CRAFTED[name])
    result = run("check", cwd=folder)
    assert result.code == 1 and "Internal error" not in result.messages
    repaired = run("check", "--repair", cwd=folder)
    assert "Internal error" not in repaired.messages
    if name.startswith(UNREPAIRED):
        assert repaired.code == 1
        assert "retrieval index" in repaired.out + repaired.messages
        return
    assert repaired.code == 0, repaired.out + repaired.messages
    assert not problems(folder)
    report = retrieval.index(folder)  # names the folder again, should it be lost
    assert report.encoded <= 20
    assert is_as_before(folder) and not problems(folder)


@pytest.mark.parametrize("name", ["rows.npy", "ids.npy", "bias-*.npy"])
@pytest.mark.parametrize("damage", ["cut", "other", "link"])
def test_stored_vectors_are_compared_with_the_catalogue(
    folder: Path, name: str, damage: str
) -> None:
    file = next((folder / ".retrieval").glob(f"vectors-*/{name}"))
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2 + 1])
    elif damage == "other" and name != "bias-*.npy":
        at = len(data) // 2
        file.write_bytes(data[:at] + bytes(b ^ 0x40 for b in data[at : at + 40]) + data[at + 40 :])
    elif damage == "other":
        file.write_bytes(data[:-4] + b"\xff\xff\xff\x7f")  # not a number
    else:
        file.unlink()
        file.symlink_to("/dev/zero")
    (found,) = problems(folder)
    assert file.parent.name in found.what
    report = retrieval.check(folder, repair=True)
    assert report.is_whole and "stored vectors were deleted" in report.repaired[0]
    assert is_as_before(folder) and not problems(folder)
    assert len(list((folder / ".retrieval").glob("vectors-*"))) == 1


def test_vectors_and_biases_that_are_being_written_are_no_damage(folder: Path) -> None:
    vectors = next((folder / ".retrieval").glob("vectors-*"))
    (vectors / "bias-other.npy.123.tmp").write_bytes(b"half")
    vectors.with_name(f"{vectors.name}9.123.tmp").mkdir()
    generation = vectors.name.split("-")[1]
    older = vectors.with_name(f"vectors-{generation}-0-1")  # by a search that began long ago
    if older != vectors:
        older.mkdir()
    assert not problems(folder)


def test_what_can_be_read_of_damaged_pages_is_kept(run: Run, folder: Path) -> None:
    """Of a page that SQLite cannot read its rows are lost; all others stay."""
    file = folder / ".retrieval" / "catalogue.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # The second level: a leaf of the table of embeddings.
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'embeddings'"
        ).fetchone()
    data = bytearray(file.read_bytes())
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5, "an interior page"
    cell = int.from_bytes(page[12:14], "big")
    leaf = int.from_bytes(page[cell : cell + 4], "big")
    data[(leaf - 1) * 4096 : leaf * 4096] = b"\xff" * 4096
    file.write_bytes(data)
    result = run("check", cwd=folder)
    assert result.code == 1 and "SQLite cannot read all" in result.out
    repaired = run("check", "--repair", cwd=folder)
    assert repaired.code == 0, repaired.out
    assert "damaged pages" in repaired.out
    report = retrieval.index(folder)
    assert 1 <= report.encoded <= 6
    assert is_as_before(folder) and not problems(folder)


def test_an_error_of_the_disk_is_no_damage(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read now must not be taken for lost."""

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if "integrity_check" in sql:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                error.sqlite_errorname = "SQLITE_IOERR_READ"
                raise error
            return super().execute(sql, *values)

    catalogue = folder / ".retrieval" / "catalogue.db"
    before, real = catalogue.read_bytes(), sqlite3.connect
    monkeypatch.setattr(
        "indexes.database.sqlite3.connect", lambda *a, **o: real(*a, factory=Failing, **o)
    )
    for command in (["check"], ["check", "--repair"]):
        result = run(*command, cwd=folder)
        assert result.code == 1 and "cannot be read" in result.messages
    assert catalogue.read_bytes() == before


def test_a_file_that_is_no_database_gets_the_way_out(run: Run, folder: Path) -> None:
    (folder / ".retrieval" / "catalogue.db").write_bytes(b"nothing" * 999)
    for command in (["check"], ["check", "--repair"]):
        result = run(*command, cwd=folder)
        assert result.code == 1 and "retrieval index" in result.messages


def test_a_check_beside_a_writer_notes_that_full_text_is_not_complete(folder: Path) -> None:
    change(folder, "UPDATE words SET captions = 'x'")
    (folder / ".retrieval" / "holder.json").write_text(
        f'{{"pid": {os.getpid()}, "since": "2026-01-01 00:00:00"}}'
    )
    report = retrieval.check(folder)
    assert report.is_whole and "Another process" in report.notes[0]


@pytest.mark.parametrize("name", ["gone", "a" * 5000])
def test_a_folder_that_is_not_there_is_no_fault(run: Run, folder: Path, name: str) -> None:
    change(folder, f"UPDATE roots SET relative = '../{name}', absolute = '/{name}'")
    report = retrieval.check(folder)
    assert report.is_whole and f"/{name} is not there now" in report.notes[0]
    assert run("search", "a cat", "--trust", cwd=folder).code == 0
    assert "is not there now" in run("index", cwd=folder).messages + run("index", cwd=folder).out


def test_progress_tells_what_is_checked(folder: Path) -> None:
    seen = []
    retrieval.check(folder, progress=lambda *now: seen.append(now))
    assert ("embeddings", 20, 20) in seen and ("files", 20, 20) in seen
