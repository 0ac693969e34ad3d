"""The mirror: the catalogue of a lake, and what brings it up to date."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexes.fulltext import FullText
from indexes.lake import manifest as manifests
from indexes.lake import mirror
from indexes.lake.embeddings import LakeEmbeddings, PartCache
from indexes.lake.location import Location
from indexes.lake.mirror import MirrorCatalogue
from indexes.lake.schema import FileRow, photo_id, removed
from indexes.lake.write_parts import write_files, write_photos
from tests.test_lake import DIM, MODEL, place, row

pytestmark = pytest.mark.extras


def mirrored(folder: Path, location: Location) -> MirrorCatalogue:
    mirror.update(folder, location)
    return MirrorCatalogue.open(folder)


def test_the_mirror_is_a_catalogue_of_the_lake(location: Location, tmp_path: Path) -> None:
    cat, dog = row(1, ("a cat",), camera="X"), row(2)
    manifest = manifests.create(location, MODEL)
    parts = [
        write_files(
            location,
            [
                place(cat, "a/cat.jpg", captions=(("c.jsonl", "a cat"),)),
                place(dog, "b/dog.jpg"),
                FileRow("/photos", "b/bad.jpg", 3, 4, reason="it is empty"),
            ],
        ),
        write_photos(location, [cat, dog], DIM),
    ]
    manifests.commit(location, manifest, parts, settings={"exclude": "*.png"})
    with mirrored(tmp_path / "mirror", location) as catalogue:
        assert catalogue.counts() == {"photos": 2, "missing": 0, "files": 2, "skipped": 1}
        assert catalogue.captions.of_photos([cat.id]) == {cat.id: ("a cat",)}
        assert [i for i, _ in catalogue.full_text.search('"cat"', 5)] == [cat.id]
        assert catalogue.setting("exclude", "") == "*.png"
        embeddings = LakeEmbeddings(catalogue.database, catalogue.changes, PartCache(location))
        found = embeddings.searchable([dog.id, cat.id], DIM)
        assert cat.fused is not None
        assert np.abs(found - np.stack([dog.seen, cat.fused])).max() < 1e-3
        assert embeddings.photo_weights([cat.id, dog.id]) == {cat.id: 0.5}


def test_later_parts_replace_earlier_ones(location: Location, tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    before, after = row(1), row(1, ("a cat",), camera="Y")
    manifest = manifests.commit(
        location,
        manifests.create(location, MODEL),
        [write_photos(location, [before], DIM), write_files(location, [place(before, "a.jpg")])],
    )
    mirrored(folder, location).close()
    manifest = manifests.commit(
        location,
        manifest,
        [write_photos(location, [after], DIM), write_files(location, [place(after, "b.jpg")])],
    )
    with mirrored(folder, location) as catalogue:
        photo, places = catalogue.photos.get([before.id])[before.id]
        assert photo.camera == "Y"
        assert [path for _, path in places] == ["a.jpg", "b.jpg"]
    gone = FileRow("/photos", "a.jpg", 10, 20, before.photo.hash, present=False)
    forgotten = removed(place(after, "b.jpg"))
    manifest = manifests.commit(location, manifest, [write_files(location, [gone])])
    with mirrored(folder, location) as catalogue:
        assert catalogue.counts()["files"] == 1
    manifests.commit(location, manifest, [write_files(location, [forgotten])])
    with mirrored(folder, location) as catalogue:
        assert catalogue.counts()["photos"] == 0


def test_photos_wait_for_their_files(location: Location, tmp_path: Path) -> None:
    """A writer that was killed between the two has encoded them all the same."""
    photo, folder = row(1), tmp_path / "mirror"
    manifest = manifests.create(location, MODEL)
    manifest = manifests.commit(location, manifest, [write_photos(location, [photo], DIM)])
    with mirrored(folder, location) as catalogue:
        assert catalogue.counts()["photos"] == 0
        assert catalogue.photos.ids([photo.photo.hash]) == {photo.photo.hash: photo.id}
    manifests.commit(location, manifest, [write_files(location, [place(photo, "a.jpg")])])
    with mirrored(folder, location) as catalogue:
        assert catalogue.counts()["photos"] == 1


def test_a_lost_or_foreign_mirror_is_made_again(location: Location, tmp_path: Path) -> None:
    folder, photo = tmp_path / "mirror", row(1)
    manifests.commit(
        location,
        manifests.create(location, MODEL),
        [write_photos(location, [photo], DIM), write_files(location, [place(photo, "a.jpg")])],
    )
    mirrored(folder, location).close()
    for spoil in (
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b"x" * 5000),
        lambda file: file.write_bytes(b""),
    ):
        spoil(folder / "catalogue.db")
        with mirrored(folder, location) as catalogue:
            assert catalogue.counts()["photos"] == 1


def test_photos_with_one_id_are_not_mixed_up(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("schema", "read_parts", "mirror"):
        monkeypatch.setattr(f"indexes.lake.{module}.photo_id", lambda _: 7)
    one, two = row(1), row(2)
    manifests.commit(
        location,
        manifests.create(location, MODEL),
        [
            write_photos(location, [one], DIM),
            write_photos(location, [two], DIM),
            write_files(location, [place(one, "a.jpg"), place(two, "b.jpg")]),
        ],
    )
    with mirrored(tmp_path / "mirror", location) as catalogue:
        assert catalogue.counts() == {"photos": 1, "missing": 0, "files": 1, "skipped": 1}
        assert "hash begins" in catalogue.files.skipped()[0][2]


@pytest.mark.parametrize("seed", range(6))
def test_a_mirror_that_looks_at_what_is_new_is_as_one_that_looks_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Photos that come, move, go, come back, are bad, are removed, and get other captions."""
    whole = list[int]()
    update = FullText.update
    monkeypatch.setattr(FullText, "update", lambda self: whole.append(1) or update(self))
    random, location = np.random.default_rng(seed), Location.of(tmp_path / "lake")
    manifest, known = manifests.create(location, MODEL), dict[int, str]()
    for version in range(6):
        rows, files = [], []
        for number in random.choice(30, 8, replace=False).tolist():
            one, path = row(number + 1, ("a cat",)), f"{random.integers(3)}/{number}.jpg"
            deed = int(random.integers(7))
            if number not in known or deed == 0:
                rows.append(replace(one, photo=replace(one.photo, city=f"Town{version}")))
                known.setdefault(number, path)
                files.append(place(one, known[number], captions=(("a.txt", f"word{version}"),)))
            elif deed == 1:  # it moved
                files.append(place(one, known[number], present=False))
                files.append(place(one, path, captions=(("b.txt", "moved"),)))
                known[number] = path
            elif deed == 2:
                files.append(place(one, known[number], present=False))
            elif deed == 3:
                files.append(place(one, known[number]))
            elif deed == 4:
                files.append(removed(place(one, known.pop(number))))
            elif deed == 5:
                files.append(FileRow("/photos", f"bad/{number}", 1, 2, None, "no photo"))
            else:
                files.append(FileRow("/photos", f"bad/{number}", 1, 2, None, "no photo", False))
        parts = [write_photos(location, rows, DIM)] if rows else []
        manifest = manifests.commit(location, manifest, [*parts, write_files(location, files)])
        looked = []
        for many_times in (0, 1 << 30):  # what is new counts as few, or as many
            monkeypatch.setattr(mirror, "_MANY_TIMES", many_times)
            before = len(whole)
            with mirrored(tmp_path / f"mirror {many_times}", location) as catalogue:
                tables = ("photos", "files", "captions", "words", "lake_photos")
                looked.append({table: content(catalogue, table) for table in tables})
            assert (len(whole) == before) == (many_times == 0)
        assert looked[0] == looked[1]


@pytest.mark.parametrize(
    "damage", ["DROP TABLE words", "UPDATE words_data SET block = x'ff' WHERE id > 10"]
)
def test_a_mirror_whose_full_text_is_broken_gets_it_again_with_new_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(mirror, "_MANY_TIMES", 0)
    location = Location.of(tmp_path / "lake")
    rows = [row(number) for number in range(1, 41)]
    manifest = manifests.create(location, MODEL)
    for some in (rows[:39], rows[39:]):
        files = [place(one, f"{i}.jpg", captions=(("a", "a cat"),)) for i, one in enumerate(some)]
        parts = [write_photos(location, some, DIM), write_files(location, files)]
        manifest = manifests.commit(location, manifest, parts)
        with mirrored(tmp_path / "mirror", location) as catalogue:
            found = catalogue.full_text.search("cat", 100)
        if len(some) > 1:
            with MirrorCatalogue.open(tmp_path / "mirror", writable=True) as catalogue:
                catalogue.database.conn.execute(damage)
                catalogue.database.conn.commit()
    assert photo_id(rows[39].photo.hash) in {i for i, _ in found}
    assert len(found) == 39, "the last photo took the place of the first"


def content(catalogue: MirrorCatalogue, table: str) -> list[tuple]:
    """The rows of a table, without numbers that depend on the order of writing."""
    columns = {
        "photos": "*",
        "files": "root_id, path, bytes, mtime_ns, photo_id, reason, present",
        "captions": "*",
        "words": "rowid, captions, names",
        "lake_photos": "photo_id, (SELECT name FROM lake_parts WHERE number = part), row, share",
    }[table]
    query = f"SELECT {columns} FROM {table}"
    return sorted(catalogue.database.conn.execute(query).fetchall(), key=repr)
