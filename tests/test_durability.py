"""What is on disk survives kills, full disks, damage and other processes."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from indexes.atomic_write import atomic_write
from indexes.database import Database
from indexes.index import Index
from indexes.lock import lock
from tests.conftest import Run
from tests.test_index import present

CATALOGUE = Path(".retrieval") / "catalogue.db"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_nothing(originals: Path, tmp_path: Path, tiny_mini: Path, kills: int) -> None:
    """SIGKILL at any moment; the next run ends with exactly the folder's photos, none twice.

    The process prints a line for each batch of four that it is done with. It is killed a random
    moment after some of them, or while it starts.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    names = sorted(path.name for path in originals.iterdir())
    for copy in range(4):  # 80 files, each of its own content
        for name in names:
            data = (originals / name).read_bytes()
            (folder / f"{copy}-{name}").write_bytes(data + bytes([copy]) if copy else data)
    expected = {path.name for path in folder.iterdir()}
    code = (
        "import sys, retrieval\n"
        "tell = lambda p: print(p.done, flush=True)\n"
        "options = retrieval.Options(batch_size=4)\n"
        "retrieval.index(sys.argv[1], model=sys.argv[2], options=options, progress=tell)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tiny_mini)]
    chance = random.Random(0)
    started = time.monotonic()
    whole = subprocess.run(command, check=True, capture_output=True)
    took = time.monotonic() - started
    assert len(whole.stdout.splitlines()) >= 20
    interrupted = partial = 0
    for number in range(kills):
        shutil.rmtree(folder / ".retrieval", ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        lines = (4, 12, 0, 1, 8)[number % 5]
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.02 * took if lines else 0.5 * took))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        interrupted += process.returncode == -signal.SIGKILL
        committed = 0
        if (folder / CATALOGUE).exists():
            with retrieval.open(folder) as opened:
                committed = opened.status().photos
        partial += 0 < committed < len(expected)
        report = retrieval.index(folder, model=str(tiny_mini))
        assert report.encoded == len(expected) - committed, "no committed photo is encoded again"
        assert present(folder) == expected
        with Index.open(folder / ".retrieval") as index:
            assert index.catalogue.counts()["photos"] == len(expected)
            assert index.catalogue.database.conn.execute("PRAGMA integrity_check").fetchone() == (
                "ok",
            )
    assert interrupted >= kills // 2 and partial >= kills // 3, "the kills came too late"


def test_ctrl_c_keeps_what_was_done_and_says_so(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals, tmp_path / "photos"))
    code = (
        "import signal, sys, cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs\n"
        "from retrieval.indexing import commit\n"
        "real = commit.commit_batch\n"
        "def commit_batch(*arguments):\n"
        "    committed = real(*arguments)\n"
        "    print('committed', flush=True)\n"
        "    return committed\n"
        "commit.commit_batch = commit_batch\n"
        "sys.argv = ['retrieval', 'index', sys.argv[1], '--model', 'mini', '--batch-size', '2']\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"committed\n"
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "What was indexed is saved" in talk.decode()
    assert "Traceback" not in talk.decode()
    with retrieval.open(folder) as opened:
        assert 2 <= opened.status().photos < 20
    assert retrieval.index(folder).encoded < 20
    assert len(present(folder)) == 20


def test_a_second_indexer_is_told_who_is_at_work(run: Run, photos: Path) -> None:
    with lock(photos / ".retrieval"):
        result = run("index", photos)
        found = run("search", "a cat", "-f", "json", cwd=photos)
    assert result.code == 1
    assert f"process {os.getpid()}" in result.messages
    assert found.names[0] == "chelsea.png"
    assert run("index", photos).code == 0


def test_searches_run_while_photos_are_added(photos: Path, originals: Path) -> None:
    """A reader sees each batch as soon as it is committed, and never half of one.

    That holds for new photos, for edited ones (first in the order of names) and for moved ones.
    """
    with Image.open(photos / "astronaut.png") as image:
        image.rotate(90).save(photos / "astronaut.png")
    for number in range(7):
        data = (originals / "horse.png").read_bytes()
        (photos / f"b{number}.png").write_bytes(data + bytes([number]))
    seen: list[int] = []

    def look(_: object) -> None:
        with retrieval.open(photos) as opened:
            seen.append(len(opened.search("anything", k=100)))

    retrieval.index(photos, options=retrieval.Options(batch_size=4), progress=look)
    assert seen == [20, 23, 27, 27]


def test_the_vector_file_is_only_a_cache(run: Run, photos: Path) -> None:
    before = run("search", "a cat", "-f", "json", cwd=photos).json
    (file,) = (photos / ".retrieval").glob("vectors-*.faiss")
    whole = file.read_bytes()
    for damage in (None, b"", whole[:1000], b"\xff" * len(whole), whole + b"more"):
        file.unlink(missing_ok=True)
        if damage is not None:
            file.write_bytes(damage)
        assert run("search", "a cat", "-f", "json", cwd=photos).json == before
        assert file.read_bytes() == whole, "a search writes the cache anew"


@pytest.mark.parametrize("position", [0, 20, 60, 5000])
def test_a_damaged_catalogue_gets_one_sentence(run: Run, photos: Path, position: int) -> None:
    file = photos / CATALOGUE
    data = bytearray(file.read_bytes())
    data[position : position + 40_000] = b"\xa5" * len(data[position : position + 40_000])
    file.write_bytes(data)
    for command in (["search", "a cat"], ["index", "."], ["info"]):
        result = run(*command, cwd=photos)
        assert result.code == 1, (command, result)
        assert "is damaged" in result.messages or "newer retrieval" in result.messages
        assert "Your photos are not touched" in result.messages or "Upgrade" in result.messages


def test_another_database_is_no_index(run: Run, photos: Path) -> None:
    (photos / CATALOGUE).unlink()
    sqlite3.connect(photos / CATALOGUE).executescript(
        "CREATE TABLE a (b); INSERT INTO a VALUES (1)"
    )
    result = run("search", "a cat", cwd=photos)
    assert result.code == 1
    assert "is damaged" in result.messages


def test_an_index_of_a_newer_format_is_left_alone(run: Run, photos: Path) -> None:
    db = sqlite3.connect(photos / CATALOGUE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for command in (["search", "a cat"], ["index", "."]):
        result = run(*command, cwd=photos)
        assert result.code == 1
        assert "format 99" in result.messages
        assert "pip install --upgrade crossmodal-retrieval" in result.messages


def test_a_path_that_leaves_the_folder_is_refused(run: Run, photos: Path) -> None:
    """A catalogue from somebody else cannot make us read their choice of files."""
    for evil in ("../../etc/passwd.png", "/etc/passwd.png"):
        db = sqlite3.connect(photos / CATALOGUE)
        db.execute("UPDATE files SET path = ? WHERE id = (SELECT min(id) FROM files)", [evil])
        db.commit()
        db.close()
        result = run("search", "anything", "-k", 20, cwd=photos)
        assert result.code == 1
        assert "leaves the indexed folder" in result.messages


def test_a_full_disk_gets_one_sentence_and_keeps_the_rest(
    run: Run, few: Path, originals: Path, monkeypatch
) -> None:
    """SQLite's own limit on pages stands in for the disk: the same error at the same places."""
    retrieval.index(few, model="mini")
    real = Database._pragmas

    def full(self: Database) -> None:
        real(self)
        pages = self.db.execute("PRAGMA page_count").fetchone()[0]
        self.db.execute(f"PRAGMA max_page_count = {pages}")

    for number in range(40):
        data = (originals / "horse.png").read_bytes()
        (few / f"{number}.png").write_bytes(data + bytes([number]))
    with monkeypatch.context() as patched:
        patched.setattr(Database, "_pragmas", full)
        result = run("index", few)
    assert result.code == 1
    assert "The disk is full" in result.messages
    assert {"chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"} <= present(few)
    assert run("index", few).code == 0
    assert len(present(few)) == 44


def test_a_really_full_disk(run: Run, few: Path, tmp_path: Path) -> None:
    """A file system of 200 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        (disk / "filler").write_bytes(bytes(150_000))
        result = run("index", few, "--index", disk / "index", "--model", "mini")
        assert result.code == 1
        assert "disk is full" in result.messages or "cannot be created" in result.messages
        (disk / "filler").unlink()
        assert run("index", few, "--index", disk / "index", "--model", "mini").code == 0
        assert run("search", "a cat", "--index", disk / "index", "-f", "json").names[0] == (
            "chelsea.png"
        )
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_an_index_on_a_read_only_disk_can_be_searched(photos: Path, tmp_path: Path) -> None:
    """WAL's helper files cannot be made there; searching works all the same."""
    if os.geteuid() != 0:
        pytest.skip("mounting a folder read-only needs root")
    if subprocess.run(
        ["mount", "--bind", "-o", "ro", photos, photos], capture_output=True
    ).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        with retrieval.open(photos) as opened:
            assert opened.search("a cat")[0].path.name == "chelsea.png"
        with pytest.raises(retrieval.StorageError, match="cannot be written"):
            retrieval.index(photos)
    finally:
        subprocess.run(["umount", "--lazy", str(photos)], check=True)


def test_a_folder_that_is_unmounted_keeps_its_photos(run: Run, few: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    run("index", few, "--index", place, "--model", "mini")
    few.rename(tmp_path / "unplugged")
    result = run("index", "--index", place)
    assert result.code == 0
    assert "is not there now; its photos stay" in result.out
    (tmp_path / "unplugged").rename(few)
    assert run("index", "--index", place).out.startswith("4 unchanged")


@pytest.mark.parametrize("options", [[], ["--prune"]])
def test_a_disk_that_goes_away_during_the_walk_keeps_its_photos(
    run: Run, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    from retrieval.indexing import changes

    place = tmp_path / "index"
    run("index", few, "--index", place, "--model", "mini")
    real = changes.walk

    def walk(*arguments):
        few.rename(tmp_path / "unplugged")
        few.mkdir()  # the mount point
        yield from real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(changes, "walk", walk)
        result = run("index", "--index", place, *options)
    assert result.code == 0 and "is empty now" in result.out
    assert "removed" not in result.out and "forgotten" not in result.out
    few.rmdir()
    (tmp_path / "unplugged").rename(few)
    assert run("index", "--index", place).out.startswith("4 unchanged")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for before in (None, "old"):
        if before is not None:
            file.write_text(before)
        with pytest.raises(OSError, match="disk full"), atomic_write(file) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")
        assert [path.read_text() for path in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("fails", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_fails_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Without the right to read the folder (EACCES), on some network mounts (EINVAL)."""
    real, failed = getattr(os, fails), []

    def fail(what, *arguments):
        if what == tmp_path or (isinstance(what, int) and stat.S_ISDIR(os.fstat(what).st_mode)):
            failed.append(what)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(what, *arguments)

    file = tmp_path / "results.json"
    monkeypatch.setattr(os, fails, fail)
    with atomic_write(file) as temporary:
        temporary.write_text("new")
    assert failed and file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_open_index_sees_what_others_change(photos: Path, originals: Path) -> None:
    """A long-running process finds new photos, and never photos that were forgotten."""
    with retrieval.open(photos) as opened:
        assert len(opened.search("anything", k=100)) == 20
        (photos / "new.png").write_bytes((originals / "horse.png").read_bytes() + b"\0")
        (photos / "moon.png").unlink()
        retrieval.index(photos, options=retrieval.Options(prune=True))
        names = {hit.path.name for hit in opened.search("anything", k=20)}
    assert len(names) == 20
    assert "new.png" in names and "moon.png" not in names


def test_the_old_index_answers_until_a_rebuild_is_done(
    run: Run, photos: Path, random_clip: str
) -> None:
    """Searches during a rebuild, and after one that failed, are answered by the old model."""
    seen: list[str] = []

    def look(_: object) -> None:
        with retrieval.open(photos) as opened:
            seen.append(opened.search("a cat")[0].path.name)
            assert opened.status(look=False).model.name == "mini"

    def stop(_: object) -> None:
        look(_)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrieval.index(
            photos, model=random_clip, options=retrieval.Options(rebuild=True), progress=stop
        )
    look(None)
    retrieval.index(
        photos, model=random_clip, options=retrieval.Options(rebuild=True), progress=look
    )
    assert set(seen) == {"chelsea.png"} and len(seen) >= 4
    with retrieval.open(photos) as opened:
        assert opened.status().model.name == random_clip
        assert len(opened.search("a cat", k=50)) == 20
    assert run("index", photos).out.startswith("20 unchanged")
    assert not list((photos / ".retrieval").glob("*.tmp"))


def test_a_rebuild_of_a_subfolder_keeps_the_rest(run: Run, photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "moon.png").rename(photos / "sub" / "moon.png")
    place = photos / ".retrieval"
    run("index", photos)
    assert run("index", photos / "sub", "--index", place, "--rebuild").out.startswith("20 added")
    assert len(present(photos)) == 20
    moved = photos.rename(photos.parent / "moved")
    assert len(present(moved)) == 20


def test_a_rebuild_waits_for_a_folder_that_is_away(run: Run, few: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    run("index", few, "--index", place, "--model", "mini")
    few.rename(tmp_path / "unplugged")
    for there in (False, True):
        if there:
            few.mkdir()  # an empty mount point
        result = run("index", "--index", place, "--rebuild")
        assert result.code == 1
        assert "would forget its photos" in result.messages
        kept = run("index", "--index", place, "--prune")
        assert "stay" in kept.out and "forgotten" not in kept.out
    few.rmdir()
    (tmp_path / "unplugged").rename(few)
    assert run("index", "--index", place).out.startswith("4 unchanged")


def test_another_model_under_an_open_index_is_noticed(photos: Path) -> None:
    with retrieval.open(photos) as opened:
        opened.search("a cat")
        db = sqlite3.connect(photos / CATALOGUE)
        db.execute("UPDATE meta SET value = 'other' WHERE key = 'model'")
        db.commit()
        db.close()
        with pytest.raises(retrieval.IndexReplacedError, match="rebuilt meanwhile"):
            opened.search("a cat")


def test_a_rebuild_under_an_open_index_is_noticed(photos: Path, random_clip: str) -> None:
    with retrieval.open(photos) as opened:
        opened.search("a cat")
        retrieval.index(photos, model=random_clip, options=retrieval.Options(rebuild=True))
        with pytest.raises(retrieval.IndexReplacedError, match="rebuilt meanwhile"):
            opened.search("a cat")
    with retrieval.open(photos) as opened:
        assert len(opened.search("a cat", k=50)) == 20


def test_a_log_left_by_an_older_catalogue_is_not_replayed(run: Run, few: Path) -> None:
    run("index", few, "--model", "mini")
    place = few / ".retrieval"
    db = sqlite3.connect(place / "catalogue.db")
    db.execute("INSERT OR REPLACE INTO meta VALUES ('setting:exclude', '*.png')")
    db.commit()
    log = (place / "catalogue.db-wal").read_bytes()
    db.close()
    (place / "catalogue.db").unlink()
    (place / "catalogue.db-wal").write_bytes(log)
    assert log and run("index", few, "--model", "mini").out.startswith("4 added")
    with Index.open(place) as index:
        assert index.catalogue.database.conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert index.excluded() == []
