"""A change of an index that is killed anywhere leaves a whole index, and the next run does it."""

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import retrieval
from indexes.arrays import Floats
from indexes.database import Database
from indexes.index import Index
from tests import tiny_models
from tests.killed import GONE, change
from tests.test_index import present

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no right to fork here")

GONE_PHOTOS = 6
INDEX_FILES = {"catalogue.db", "catalogue.db-wal", "catalogue.db-shm", "lock", "holder.json"}


@dataclass(frozen=True)
class Contents:
    """What an index holds: the model's fingerprint; vectors and captions by hash; names found."""

    model: str
    vectors: dict[str, Floats]
    captions: dict[str, list[str]]
    found: frozenset[str]

    def same(self, other: "Contents") -> bool:
        return (
            (self.model, self.captions, self.found) == (other.model, other.captions, other.found)
            and self.vectors.keys() == other.vectors.keys()
            and all(np.allclose(v, other.vectors[h], atol=1e-3) for h, v in self.vectors.items())
        )


def contents(folder: Path) -> Contents:
    """Read an index, which has to be whole; full text and caches may wait for the next run."""
    with Index.open(folder / ".retrieval") as index:
        catalogue = index.catalogue
        assert catalogue.database.conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not catalogue.database.conn.execute("PRAGMA foreign_key_check").fetchall()
        ids, rows = catalogue.embeddings.all_searchable(index.model.dim)
        hashes = {i: h for h, i in catalogue.photos.ids(catalogue.photos.hashes()).items()}
        assert set(hashes) == set(ids.tolist()), "every photo has an embedding"
        texts = catalogue.captions.of_photos()
        return Contents(
            index.model.fingerprint,
            {str(hashes[i]): row for i, row in zip(ids.tolist(), rows, strict=True)},
            {str(hashes[i]): sorted(t) for i, t in texts.items()},
            frozenset(present(folder)),
        )


@pytest.fixture(scope="module")
def template(originals: Path, tiny_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photos with captions, indexed; six are there to be deleted."""
    folder = tmp_path_factory.mktemp("template") / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted(originals.iterdir())):
        name = f"{GONE}-{path.name}" if number < GONE_PHOTOS else path.name
        shutil.copy(path, folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a photo of {path.stem}")
    retrieval.index(folder, model=str(tiny_mini))
    assert len(present(folder)) == 20
    return folder


@pytest.fixture(scope="module")
def other_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_mini(tmp_path_factory.mktemp("models") / "other-mini", seed=1)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["rebuild", "prune", "remove", "fuse"])
def test_a_killed_change_leaves_the_index_whole(
    template: Path, other_mini: Path, tmp_path: Path, name: str, kills: int
) -> None:
    before = contents(template)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.killed",
            name,
            template,
            tmp_path,
            other_mini,
            str(kills),
            "0",
        ],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    whole = contents(tmp_path / "whole")
    assert not whole.same(before) and len(whole.found) == (
        20 if name in ("rebuild", "fuse") else 14
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == kills and sum("killed" in line for line in lines) > kills / 2
    for number, how in enumerate(lines):
        folder = tmp_path / str(number)
        left = contents(folder)
        assert left.vectors.keys() in (before.vectors.keys(), whole.vectors.keys()), how
        if name == "rebuild":
            assert left.same(before) or left.same(whole), how
        else:
            assert left.model == before.model, how
        assert left.found >= {path.name for path in folder.iterdir() if _is_kept(path)}, how
        change(name, folder, str(other_mini))
        assert contents(folder).same(whole), how
        for path in folder.glob(f"{GONE}*"):
            path.unlink()
        retrieval.index(folder)  # a `remove` that was done but for its end is not done again
        report = retrieval.check(folder)
        assert report.is_whole, (how, report.problems)
        places = {path.name for path in (folder / ".retrieval").iterdir()}
        assert {n for n in places if not n.startswith(("vectors-", "bias-"))} <= INDEX_FILES, how
        assert not any(n.endswith(".tmp") for n in places), how


def _is_kept(path: Path) -> bool:
    return path.suffix in (".png", ".jpg") and not path.name.startswith(GONE)


def test_a_reader_of_an_old_state_and_a_killed_rebuild_lose_nothing(
    originals: Path, tmp_path: Path, tiny_mini: Path
) -> None:
    """What only the log holds, because a reader keeps it from being moved, survives.

    The rebuild is killed where the catalogue would get its name; one that never renames it ends.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    names = sorted(path.name for path in originals.iterdir())
    for name in names[:12]:
        shutil.copy(originals / name, folder)
    retrieval.index(folder, model=str(tiny_mini))
    reader = sqlite3.connect(folder / ".retrieval" / "catalogue.db")
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM photos").fetchone() == (12,)
    for name in names[12:]:
        shutil.copy(originals / name, folder)
    retrieval.index(folder)
    code = (
        "import os, sys, retrieval\n"
        "from indexes import database\n"
        "target = os.path.join(sys.argv[1], '.retrieval', 'catalogue.db')\n"
        "def audit(event, arguments):\n"
        "    if event == 'os.rename' and str(arguments[1]) == target:\n"
        "        os._exit(9)\n"
        "sys.addaudithook(audit)\n"
        "database._BUSY_SECONDS = 1.0\n"
        "retrieval.index(sys.argv[1], options=retrieval.Options(rebuild=True))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert ran.returncode in (0, 9), ran.stderr
    assert present(folder) == set(names)
    assert reader.execute("SELECT count(*) FROM photos").fetchone() == (12,)
    reader.close()
    retrieval.index(folder, options=retrieval.Options(rebuild=True))
    assert len(contents(folder).found) == 20


def test_a_new_index_that_cannot_be_read_back_replaces_nothing(photos: Path, monkeypatch) -> None:
    """Pages that the disk lost; the check happens before the old index is touched."""
    real = Database.open_main_file

    def lose_a_page(folder: Path) -> Database:
        data = bytearray((folder / "catalogue.db").read_bytes())
        data[-8192:] = bytes(8192)
        (folder / "catalogue.db").write_bytes(data)
        return real(folder)

    before = contents(photos)
    monkeypatch.setattr(Database, "open_main_file", lose_a_page)
    with pytest.raises(retrieval.StorageError, match=r"read back.*is as it was before"):
        retrieval.index(photos, options=retrieval.Options(rebuild=True))
    assert contents(photos).same(before)
    assert not (photos / ".retrieval" / "rebuild.tmp").exists()


def test_litter_of_a_killed_rebuild_goes_at_the_next_run(photos: Path) -> None:
    place = photos / ".retrieval"
    (place / "rebuild.tmp" / "new.tmp").mkdir(parents=True)
    (place / "rebuild.tmp" / "catalogue.db").write_bytes(b"half")
    (place / "new.tmp").mkdir()
    (place / "holder.json.123.tmp").write_text("")
    (place / "vectors-0000.faiss.123.tmp").write_text("")
    retrieval.index(photos)
    assert not list(place.glob("*.tmp"))


def test_a_rebuild_under_a_long_running_process_is_searched_by_it(photos: Path) -> None:
    """The same model: an open index goes over to the new content without being opened again."""
    with retrieval.open(photos) as opened:
        before = [hit.path for hit in opened.search("a cat", k=20)]
        (photos / "moon.png").unlink()
        retrieval.index(photos, options=retrieval.Options(rebuild=True))
        after = [hit.path for hit in opened.search("a cat", k=20)]
    assert after == [path for path in before if path.name != "moon.png"]


def test_a_half_moved_log_never_counts_as_whole(photos: Path) -> None:
    """A checkpoint that a reader hinders is an error, not a sentence that nobody reads."""
    place = photos / ".retrieval"
    with Index.open(place, writable=True) as index:
        index.catalogue.database.conn.execute("PRAGMA busy_timeout=100")
        index.set_excluded(["a"])
        reader = sqlite3.connect(place / "catalogue.db")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM photos").fetchone()
        index.set_excluded(["b"])
        with pytest.raises(retrieval.IndexBusyError):
            index.catalogue.database.checkpoint()
        reader.close()
        index.catalogue.database.checkpoint()
