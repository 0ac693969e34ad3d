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
from collections.abc import Callable, Iterator
from contextlib import suppress
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


@pytest.mark.parametrize("name", ["ids.npy", "rows.npy", "about.json"])
def test_the_vectors_are_only_a_cache(run: Run, photos: Path, name: str) -> None:
    before = run("search", "a cat", "-f", "json", cwd=photos).json
    for number in range(5):
        (file,) = (photos / ".retrieval").glob(f"vectors-*/{name}")
        whole = file.read_bytes()
        damage = (None, b"", whole[:100], b"\xff" * len(whole), whole + b"more")[number]
        file.unlink()
        if damage is not None:
            file.write_bytes(damage)
        assert run("search", "a cat", "-f", "json", cwd=photos).json == before
        written = max((photos / ".retrieval").glob(f"vectors-*/{name}"), key=_age)
        assert written.read_bytes() == whole, "a search writes them again"
        retrieval.index(photos)  # and the next run deletes what is damaged


def _age(file: Path) -> int:
    return int(file.parent.name.rpartition("-")[2])


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB in memory, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave_free(disk: Path, kib: int) -> None:
    """Fill a file system but for `kib`."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - kib * 1024))


def test_a_really_full_disk(run: Run, few: Path, disk: Path) -> None:
    leave_free(disk, 50)
    result = run("index", few, "--index", disk / "index", "--model", "mini")
    assert result.code == 1
    assert "disk is full" in result.messages or "cannot be created" in result.messages
    (disk / "filler").unlink()
    assert run("index", few, "--index", disk / "index", "--model", "mini").code == 0
    assert run("search", "a cat", "--index", disk / "index", "-f", "json").names[0] == "chelsea.png"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("step", [64, pytest.param(8, marks=pytest.mark.slow)])
def test_a_rebuild_on_a_nearly_full_disk_replaces_all_or_nothing(
    originals: Path, tmp_path: Path, tiny_mini: Path, disk: Path, step: int
) -> None:
    """Whatever is free, the index is whole: the old one with a sentence, or the new one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for copy in range(3):
        for path in originals.iterdir():
            (folder / f"{copy}-{path.name}").write_bytes(path.read_bytes() + bytes([copy]))
    place, outcomes = disk / "index", set()
    for batch_size in (4, 32):
        options = retrieval.Options(rebuild=True, batch_size=batch_size)
        for kib in range(240, 720, step):
            (disk / "filler").unlink(missing_ok=True)
            retrieval.index(folder, index=place, model=str(tiny_mini))
            leave_free(disk, kib)
            try:
                retrieval.index(folder, index=place, options=options)
                outcomes.add("done")
            except retrieval.StorageError as error:
                assert "is as it was before" in str(error), (kib, error)
                outcomes.add("full")
            with retrieval.open(place) as opened, Index.open(place) as index:
                connection = index.catalogue.database.conn
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), kib
                assert len(opened.search("anything", k=100)) == 60, kib
            assert not list(place.glob("*.tmp")), kib
    assert outcomes == {"done", "full"}


def fails_from(first: int | None, error: str) -> tuple[type[sqlite3.Connection], list[int]]:
    """A connection whose statements fail from the `first` on, and a list of one: their count."""
    count = [0]

    class Failing(sqlite3.Connection):
        def _count(self) -> None:
            count[0] += 1
            if first is not None and count[0] >= first:
                raise sqlite3.OperationalError(error)

        def execute(self, *arguments: object) -> sqlite3.Cursor:
            self._count()
            return super().execute(*arguments)

        def executemany(self, *arguments: object) -> sqlite3.Cursor:
            self._count()
            return super().executemany(*arguments)

    return Failing, count


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("points", [12, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["index", "update", "rebuild", "prune", "remove", "fuse", "search"]
)
def test_whichever_statement_fails_there_is_one_sentence(
    few: Path, tiny_mini: Path, tmp_path: Path, monkeypatch, name: str, points: int
) -> None:
    """A full disk, an error of the disk or a busy index, from any statement of SQLite on."""
    (few / "chelsea.txt").write_text("a cat")
    model, options = str(tiny_mini), retrieval.Options(batch_size=2)
    changes: dict[str, Callable[[Path], object]] = {
        "index": lambda folder: retrieval.index(folder, model=model, options=options),
        "update": lambda folder: retrieval.index(folder, options=options),
        "rebuild": lambda folder: retrieval.index(folder, options=retrieval.Options(rebuild=True)),
        "prune": lambda folder: retrieval.index(folder, options=retrieval.Options(prune=True)),
        "remove": lambda folder: retrieval.remove([folder / "chelsea.png"], folder),
        "fuse": lambda folder: retrieval.index(folder, options=options),
        "search": lambda folder: retrieval.open(folder).search("a cat"),
    }
    if name != "index":
        retrieval.index(few, model=model)
    if name == "update":
        shutil.copy(few / "coffee.png", few / "copy.png")
    elif name == "prune":
        (few / "coffee.png").unlink()
    elif name == "fuse":
        (few / "chelsea.txt").write_text("another cat")
    connect = sqlite3.connect

    def attempt(number: int, first: int | None, error: str) -> int:
        folder = Path(shutil.copytree(few, tmp_path / f"{number}"))
        failing, count = fails_from(first, error)
        with monkeypatch.context() as patched:
            patched.setattr(
                "indexes.database.sqlite3.connect",
                lambda *a, **o: connect(*a, factory=failing, **o),
            )
            if first is None:
                changes[name](folder)
            else:
                with suppress(retrieval.RetrievalError):  # an error of any other kind is a fault
                    changes[name](folder)
        shutil.rmtree(folder)
        return count[0]

    every = attempt(0, None, "")
    assert every > 10
    errors = ("database or disk is full", "disk I/O error", "database is locked")
    for number in range(1, every + 1, max(1, every // points)):
        attempt(number, number, errors[number % 3])


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


@pytest.mark.parametrize("fill", [b"\xff", b"\x7f", b"\0\0\x80\x7f"])
def test_damaged_vectors_print_no_warnings(photos: Path, fill: bytes) -> None:
    """The cache of vectors has no checksum: `retrieval check` finds this."""
    (file,) = (photos / ".retrieval").glob("vectors-*/rows.npy")
    data = file.read_bytes()
    start, bad = len(data) // 2 // 4 * 4, (fill * 6000)[:6000]
    file.write_bytes(data[:start] + bad + data[start + len(bad) :])
    command = [sys.executable, "cli.py", "search", "a cat", "--index", photos, "--trust"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("code", "what"), [("READ", "cannot be read"), ("WRITE", "cannot be written")]
)
def test_an_error_of_the_disk_says_whether_it_was_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch, code: str, what: str
) -> None:
    def failing(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = f"SQLITE_IOERR_{code}"
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr("indexes.photos.id_array", failing)
    with (
        retrieval.open(photos) as opened,
        pytest.raises(retrieval.StorageError, match=what),
    ):
        opened.search("a cat")


@pytest.mark.parametrize("name", ["catalogue.db", "catalogue.db-wal", "lock", "holder.json"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "device"])
def test_a_link_in_the_place_of_a_file_is_refused(
    photos: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """An index from a stranger cannot make us write, read or wait for what it does not hold."""
    path, target = photos / ".retrieval" / name, tmp_path / "precious"
    put_instead(path, target, kind)
    with pytest.raises(retrieval.RetrievalError) as raised:
        retrieval.index(photos)
    assert str(path) in str(raised.value) or name == "catalogue.db"
    if name.startswith("catalogue"):
        with pytest.raises(retrieval.RetrievalError):
            retrieval.open(photos).search("a cat")
    if kind == "link":
        assert target.read_text() == "precious"
    else:
        assert not target.exists()


@pytest.mark.parametrize("name", ["rows.npy", "ids.npy", "about.json", "bias-*.npy", "."])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "device", "huge"])
def test_a_link_in_the_place_of_a_cache_is_never_followed(
    run: Run, photos: Path, tmp_path: Path, name: str, kind: str
) -> None:
    before = run("search", "a cat", "-f", "json", cwd=photos).json
    (folder,) = (photos / ".retrieval").glob("vectors-*")
    path, target = folder, tmp_path / "precious"
    if name != ".":
        (path,) = folder.glob(name)
    if kind == "huge" and name != ".":
        with path.open("rb+") as file:
            file.truncate(1 << 40)
    else:
        if name == ".":
            shutil.rmtree(path)
        put_instead(path, target, kind)
    for _ in range(2):
        found = run("search", "a cat", "-f", "json", cwd=photos)
        assert found.json == before
        assert target.read_text() == "precious" if kind == "link" else not target.exists()
    retrieval.index(photos)
    (folder,) = (photos / ".retrieval").glob("vectors-*")
    assert not folder.is_symlink() and len(list(folder.iterdir())) >= 4
    assert target.read_text() == "precious" if kind == "link" else not target.exists()


def put_instead(path: Path, target: Path, kind: str) -> None:
    """Put something else in the place of a file of an index; `target` is what a link leads to."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        if kind == "link":
            target.write_text("precious")
        path.symlink_to("/dev/zero" if kind == "device" else target)


def test_a_linked_folder_of_staging_is_not_emptied(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    for name in ("new.tmp", "rebuild.tmp"):
        (photos / ".retrieval" / name).symlink_to(tmp_path / "precious")
    retrieval.index(photos, options=retrieval.Options(rebuild=True))
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]
    assert len(present(photos)) == 20


def test_a_linked_index_is_used_only_by_its_own_name(photos: Path, tmp_path: Path) -> None:
    elsewhere = (photos / ".retrieval").rename(tmp_path / "elsewhere")
    (photos / ".retrieval").symlink_to(elsewhere)
    for attempt in (lambda: retrieval.index(photos), lambda: retrieval.open(photos)):
        with pytest.raises(retrieval.StorageError, match=f"--index {elsewhere}"):
            attempt()
    retrieval.index(photos, index=elsewhere, trust=True)
    with retrieval.open(elsewhere) as opened:
        assert len(opened.search("anything", k=50)) == 20


def test_deleting_files_of_an_index_never_follows_links(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (photos / ".retrieval" / "vectors-1.faiss").symlink_to(target)
    (photos / ".retrieval" / "bias-folder.bin").mkdir()
    retrieval.index(photos)
    retrieval.delete_index(photos)
    assert target.read_text() == "precious"
    assert not (photos / CATALOGUE).exists()


def test_a_log_on_a_read_only_disk_is_read(photos: Path, tmp_path: Path, originals: Path) -> None:
    """A copy of an index whose writer was killed: most photos are in the log alone."""
    if os.geteuid() != 0:
        pytest.skip("mounting a folder read-only needs root")
    copy = tmp_path / "copy"
    with sqlite3.connect(photos / CATALOGUE) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM photos").fetchone()
        (photos / "new.png").write_bytes((originals / "horse.png").read_bytes() + b"new")
        retrieval.index(photos)
        shutil.copytree(photos, copy, ignore=shutil.ignore_patterns("*-shm"))
    reader.close()
    assert (copy / ".retrieval" / "catalogue.db-wal").stat().st_size
    if subprocess.run(["mount", "--bind", "-o", "ro", copy, copy], capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        with retrieval.open(copy) as opened:
            names = {hit.path.name for hit in opened.search("a cat", k=50)}
        assert len(names) == 21 and "new.png" in names
    finally:
        subprocess.run(["umount", "--lazy", str(copy)], check=True)


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
