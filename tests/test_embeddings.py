"""Embeddings of other programs become an index, and an index is written out for them.

The embeddings are real: those of `mini`, of the photos and captions that the tests share.
"""

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from indexes.locate import is_index
from retrieval.encoders.registry import UNCHECKED
from tests.conftest import Run, needs_extra

CAPTIONS = {
    "chelsea.png": ["a cat", "a close-up of a tabby cat's face"],
    "coffee.png": ["a cup of coffee on a table"],
    "rocket.jpg": ["a rocket at night"],
    "china.jpg": ["a temple in China"],
}
NAMES = sorted(CAPTIONS)


@pytest.fixture(scope="session")
def encoded(originals: Path) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of the four photos and of the first caption of each, by `mini`."""
    from retrieval.photos.decode import load_photo

    mini = retrieval.load_encoder("mini")
    photos = [load_photo(originals / name, mini.image_size) for name in NAMES]
    images = mini.encode_images([mini.prepare(photo) for photo in photos])
    return images, mini.encode_texts([CAPTIONS[name][0] for name in NAMES])


def write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def source(encoded: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """A .npy of the photos with a CSV of paths and captions beside it."""
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "photos.npy", encoded[0])
    write_csv(
        folder / "photos.csv",
        [{"image_path": name, "caption": CAPTIONS[name][0]} for name in NAMES],
    )
    return folder / "photos.npy"


def first(index: Path, text: str, **options: Any) -> str:
    with retrieval.open(index) as photos:
        return photos.search(text, k=1, **options)[0].path.name


# Import ----------------------------------------------------------------------------------------


def test_a_npy_and_a_csv_become_an_index_that_texts_search(
    run: Run, source: Path, tmp_path: Path
) -> None:
    done = run("import-embeddings", source, "--index", tmp_path / "index", "--model", "mini")
    assert done.code == 0, done.messages
    assert done.out.startswith("4 photos imported from 4 embeddings")
    hits = run("search", "a rocket", "--index", tmp_path / "index", "-f", "json", "-k", 1).json
    # Not at hand, a photo is shown below the source, as if that were a folder.
    assert hits[0]["path"] == str(source.with_suffix("") / "rocket.jpg")
    assert hits[0]["hash"].startswith("imported:")


def test_photos_at_hand_are_known_by_their_content_and_not_encoded_again(
    source: Path, few: Path
) -> None:
    (few / "china.jpg").unlink()
    report = retrieval.import_embeddings(source, model="mini", folder=few)
    assert (report.photos, report.at_hand, report.refused) == (4, 3, 0)
    (few / "moved").mkdir()
    (few / "rocket.jpg").rename(few / "moved" / "rocket.jpg")
    again = retrieval.index(few)
    assert (again.encoded, again.moved, again.removed) == (0, 1, 0)
    with retrieval.open(few) as photos:
        hits = {hit.path.name: hit for hit in photos.search("a photo", k=10)}
        assert set(hits) == set(NAMES)  # that which is not at hand stays
        assert photos.status().gone == 0
    assert hits["rocket.jpg"].photo.width > 0
    assert hits["rocket.jpg"].path == few / "moved" / "rocket.jpg"


def test_a_photo_that_comes_later_takes_the_place_of_its_embedding(
    source: Path, few: Path, originals: Path
) -> None:
    (few / "china.jpg").unlink()
    retrieval.import_embeddings(source, model="mini", folder=few)
    shutil.copy2(originals / "china.jpg", few)
    assert retrieval.index(few).encoded == 1
    with retrieval.open(few) as photos:
        hits = photos.search("a temple in China", k=10)
        assert sorted(hit.path.name for hit in hits) == NAMES
        assert hits[0].path.name == "china.jpg"
        assert not hits[0].photo.hash.startswith("imported:")


def test_a_rebuild_does_not_forget_photos_that_are_not_at_hand(source: Path, few: Path) -> None:
    (few / "china.jpg").unlink()
    retrieval.import_embeddings(source, model="mini", folder=few)
    with pytest.raises(retrieval.RetrievalError, match=r"1 photos .* imported without their files"):
        retrieval.index(few, options=retrieval.Options(rebuild=True))
    assert first(few, "a temple in China") == "china.jpg"


@pytest.mark.parametrize(
    "path", ["/data/set/images/{}", "C:\\set\\images\\{}", "images/{}", "../images/{}", "./{}"]
)
def test_paths_of_another_machine_are_found_in_the_folder(
    source: Path, few: Path, path: str
) -> None:
    rows = [{"filename": path.format(name), "title": ""} for name in NAMES]
    write_csv(source.with_suffix(".csv"), rows)
    assert retrieval.import_embeddings(source, model="mini", folder=few).at_hand == 4
    assert first(few, "a cat") == "chelsea.png"


def test_a_path_never_leaves_the_folder(source: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((few / "china.jpg").read_bytes())
    (few / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", "a/../../secret.png", str(tmp_path / "secret.png"), "link.png"]
    write_csv(source.with_suffix(".csv"), [{"path": path} for path in paths])
    report = retrieval.import_embeddings(source, model="mini", folder=few)
    assert report.at_hand == 0
    with retrieval.open(few) as photos:
        assert all(hit.path.is_relative_to(few) for hit in photos.search("a photo", k=9))


def test_embeddings_of_captions_are_fused_and_captions_are_found(
    encoded: tuple[np.ndarray, np.ndarray], few: Path, tmp_path: Path
) -> None:
    """clip-retrieval's layout, in two shards, against the same photos indexed here."""
    images, texts = encoded
    folder = tmp_path / "laion"
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for shard, rows in enumerate((slice(0, 1), slice(1, 4))):
        number = (2, 10)[shard]  # as numbers: 10 comes after 2
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", images[rows].astype(np.float16))
        np.save(folder / "text_emb" / f"text_emb_{number}.npy", texts[rows].astype(np.float16))
        lines = [{"key": n, "caption": CAPTIONS[n][0], "url": "x"} for n in NAMES[rows]]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metadata" / f"metadata_{number}.jsonl").write_text(text)
    report = retrieval.import_embeddings(folder, tmp_path / "index", "mini")
    assert (report.photos, report.captioned, report.checked) == (4, 4, True)
    captions = "".join(
        json.dumps({"image": name, "captions": CAPTIONS[name][:1]}) + "\n" for name in NAMES
    )
    (few / "captions.jsonl").write_text(captions)
    retrieval.index(few, model="mini")
    for text in ("a tabby cat", "something to drink"):
        with retrieval.open(tmp_path / "index") as given, retrieval.open(few) as own:
            found, right = given.search(text), own.search(text)
        assert [hit.path.name for hit in found] == [hit.path.name for hit in right]
        assert [hit.score for hit in found] == pytest.approx([h.score for h in right], abs=2e-3)
        assert found[0].explanation is not None
        assert found[0].explanation.photo_weight is not None


def test_embeddings_of_captions_without_their_texts_stay(
    encoded: tuple[np.ndarray, np.ndarray], few: Path, tmp_path: Path
) -> None:
    for name, rows in zip(("images", "texts"), encoded, strict=True):
        np.save(tmp_path / f"{name}_0.npy", rows)
    write_csv(tmp_path / "paths_0.csv", [{"path": name} for name in NAMES])
    source = tmp_path / "source"
    source.mkdir()
    for file in tmp_path.glob("*_0.*"):
        file.rename(source / file.name)
    retrieval.import_embeddings(source, model="mini", folder=few)
    retrieval.index(few)
    with retrieval.open(few) as photos:
        hit = photos.search("a cat", k=1)[0]
    assert hit.explanation is not None and hit.explanation.photo_weight is not None


def test_captions_without_embeddings_are_embedded_by_the_next_run(source: Path, few: Path) -> None:
    retrieval.import_embeddings(source, model="mini", folder=few)
    with retrieval.open(few) as photos:
        assert photos.search("temple in China", ranking="hybrid", k=1)[0].path.name == "china.jpg"
    report = retrieval.index(few)
    assert (report.encoded, report.fused) == (0, 4)
    assert retrieval.index(few).fused == 0


def test_rows_of_one_path_are_one_photo_with_their_captions(
    encoded: tuple[np.ndarray, np.ndarray], few: Path, tmp_path: Path
) -> None:
    images, _ = encoded
    mini = retrieval.load_encoder("mini")
    pairs = [(i, text) for i, name in enumerate(NAMES) for text in CAPTIONS[name]]
    source = tmp_path / "pairs"
    source.mkdir()
    np.save(source / "img_emb.npy", images[[i for i, _ in pairs]])
    np.save(source / "text_emb.npy", mini.encode_texts([text for _, text in pairs]))
    write_csv(source / "pairs.csv", [{"image": NAMES[i], "caption": text} for i, text in pairs])
    report = retrieval.import_embeddings(source, model="mini", folder=few)
    assert (report.rows, report.photos) == (5, 4)
    assert retrieval.index(few).fused == 0  # the mean of both captions, as an index has it


def test_a_tar_of_one_npy_an_image(encoded: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    tar = tmp_path / "set.tar"
    with tarfile.open(tar, "w") as archive:
        for i, name in enumerate(NAMES):
            key = name.partition(".")[0]
            add(archive, f"{key}.npy", npy(encoded[0][i][None]))
            add(archive, f"{key}.txt", CAPTIONS[name][0].encode())
        add(archive, "wrong.npy", npy(np.ones(7, np.float32)))
        add(archive, "objects.npy", npy(np.array([{}], object)))
        add(archive, "half.npy", npy(encoded[0][0])[:-5])
    report = retrieval.import_embeddings(tar, tmp_path / "index", "mini")
    assert (report.rows, report.photos, report.refused, report.captioned) == (7, 4, 3, 4)
    reasons = dict(report.reasons)
    assert "7 numbers, not 384" in reasons[5]
    assert "pickle" in reasons[6]
    assert "incomplete" in reasons[7]
    assert first(tmp_path / "index", "a cat") == "chelsea"


def npy(row: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, row, allow_pickle=True)
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def test_several_arrays_with_one_table(
    encoded: tuple[np.ndarray, np.ndarray], few: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.save(source / "part-9.npy", encoded[0][:1])
    np.save(source / "part-10.npy", encoded[0][1:])
    lists = [{"file_name": name, "captions": str(CAPTIONS[name])} for name in NAMES]
    write_csv(source / "all.csv", lists)  # lists as pandas writes them
    report = retrieval.import_embeddings(source, model="mini", folder=few)
    assert (report.photos, report.at_hand, report.captioned) == (4, 4, 4)
    with retrieval.open(few) as photos:
        assert photos.search("close-up tabby", ranking="hybrid", k=1)[0].path.name == "chelsea.png"
    assert first(few, "a rocket") == "rocket.jpg"


def test_bad_rows_are_left_out_one_by_one(
    encoded: tuple[np.ndarray, np.ndarray], run: Run, tmp_path: Path
) -> None:
    images = np.concatenate([encoded[0] * 7, encoded[0]]).astype(np.float64)  # any length
    images[4, 3], images[5], images[6] = np.nan, 0, 1e300
    np.save(tmp_path / "a.npy", images)
    paths = [*NAMES, "x", "y", "z", ""]
    write_csv(tmp_path / "a.csv", [{"path": path, "no": i} for i, path in enumerate(paths)])
    index = tmp_path / "index"
    done = run("import-embeddings", tmp_path / "a.npy", "--index", index, "--model", "mini")
    assert done.code == 0, done.messages
    assert "4 embedding(s) left out" in done.out
    assert "row 5: its embedding has a number that is not finite" in done.out
    assert "row 6: its embedding is zero" in done.out
    assert "row 8: it names no image" in done.out
    with retrieval.open(index) as photos:
        assert abs(photos.search("a cat", k=1)[0].score) <= 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_every_kind_of_number_and_order(
    source: Path, tmp_path: Path, order: Any, dtype: str
) -> None:
    rows = np.load(source)
    np.save(source, np.array(rows, dtype, order=order))
    retrieval.import_embeddings(source, tmp_path / "index", "mini")
    assert first(tmp_path / "index", "a rocket") == "rocket.jpg"


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def broken_files(rows: np.ndarray) -> dict[str, bytes]:
    good = npy(rows)
    return {
        "pickle": npy(np.array([{}, {}], object)),
        "short": good[:-1],
        "long": good + b"x",
        "huge": header((10**13, 384)) + good[-4 * 384 * 4 :],
        "negative": header((-4, 384)),
        "whole numbers": npy(np.ones((4, 384), np.int64)),
        "one row": npy(rows[0]),
        "no dimension": npy(np.ones((4, 0), np.float32)),
        "not npy": b"PK\x03\x04 something else",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", list(broken_files(np.ones((4, 384), np.float32))))
def test_a_broken_file_makes_no_index(
    run: Run, source: Path, few: Path, tmp_path: Path, kind: str
) -> None:
    source.write_bytes(broken_files(np.load(source))[kind])
    index = tmp_path / "index"
    done = run("import-embeddings", source, "--index", index, "--model", "mini")
    assert done.code == 1 and str(source) in done.messages
    assert not is_index(index)


def test_what_does_not_belong_together_is_an_error(run: Run, source: Path, tmp_path: Path) -> None:
    command = ("import-embeddings", source, "--index", tmp_path / "index", "--model", "mini")
    write_csv(source.with_suffix(".csv"), [{"path": name} for name in NAMES[1:]])
    assert "4 rows" in run(*command).messages
    write_csv(source.with_suffix(".csv"), [{"colour": name} for name in NAMES])
    assert "name no path" in run(*command).messages
    source.with_suffix(".csv").unlink()
    assert "no table of paths" in run(*command).messages
    assert "no file or folder" in run(command[0], tmp_path / "nowhere", *command[2:]).messages
    assert not is_index(tmp_path / "index")


def test_all_rows_bad_is_an_error_and_leaves_no_index(run: Run, source: Path, few: Path) -> None:
    np.save(source, np.zeros((4, 384), np.float32))
    done = run("import-embeddings", source, "--folder", few, "--model", "mini")
    assert done.code == 1 and "its embedding is zero" in done.messages
    assert not is_index(few / ".retrieval")


def test_an_index_is_never_imported_into(run: Run, source: Path, photos: Path) -> None:
    done = run("import-embeddings", source, "--folder", photos, "--model", "mini")
    assert done.code == 1 and "There is an index in" in done.messages


# The model -------------------------------------------------------------------------------------


def test_embeddings_of_another_model_are_refused(
    run: Run, source: Path, few: Path, tmp_path: Path
) -> None:
    command = ("import-embeddings", source, "--folder", few, "--model", "mini")
    rows = np.load(source)
    np.save(source, np.roll(rows, 7, axis=1))  # as far from `mini` as any other model
    done = run(*command)
    assert done.code == 1 and "not made by model mini" in done.messages
    np.save(source, rows[:, :100])
    done = run(*command)
    assert done.code == 1 and "have 100 numbers, and those of the model 384" in done.messages
    done = run(*command[:-1], "ViT-B-32:no-such-weights")
    assert done.code == 1 and "no weights 'no-such-weights'" in done.messages
    done = run(*command[:-2])
    assert done.code == 1 and "--model ARCH:WEIGHTS" in done.messages
    assert not is_index(few / ".retrieval")


def test_without_the_weights_the_index_is_made_and_a_text_query_says_what_it_needs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    rows = np.random.default_rng(0).normal(size=(5, 512)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    write_csv(tmp_path / "a.csv", [{"path": f"{i}.jpg"} for i in range(5)])
    index, model = tmp_path / "index", "ViT-B-32:laion2b_s34b_b79k"
    command = ("import-embeddings", tmp_path / "a.npy", "--index", index, "--model", model)
    done = run(*command)
    assert done.code == 0 and "weights of ViT-B-32:laion2b_s34b_b79k are not" in done.messages
    done = run("search", "a cat", "--index", index)
    assert done.code == 1 and "cannot be downloaded" in done.messages
    like = run("similar", tmp_path / "a" / "3.jpg", "--index", index, "-f", "json")
    assert like.code == 0 and len(like.json) == 4
    np.save(tmp_path / "a.npy", rows[:, :300])
    done = run(*command[:3], tmp_path / "other", *command[4:])
    assert done.code == 1 and "those of the model 512" in done.messages


def test_a_local_open_clip_checkpoint_made_the_embeddings(
    random_clip: str, few: Path, tmp_path: Path
) -> None:
    from retrieval.photos.decode import load_photo

    model = retrieval.load_encoder(random_clip)
    photos = [model.prepare(load_photo(few / name, model.image_size)) for name in NAMES]
    np.save(tmp_path / "a.npy", model.encode_images(photos))
    write_csv(tmp_path / "a.csv", [{"path": name} for name in NAMES])
    report = retrieval.import_embeddings(tmp_path / "a.npy", model=random_clip, folder=few)
    assert report.checked and report.model.fingerprint == model.fingerprint
    with retrieval.open(few) as photos_of_index:
        assert len(photos_of_index.search("a cat")) == 4
        like = photos_of_index.similar(few / "china.jpg")
    assert len(like) == 3


class Own:
    """An encoder of one's own, with the embeddings of `mini` and another name."""

    name, fingerprint = "own", "own-weights"

    def __init__(self) -> None:
        self._mini = retrieval.load_encoder("mini")
        self.dim, self.image_size = self._mini.dim, self._mini.image_size
        self.texts: list[str] = []

    device = "cpu"

    def prepare(self, photo: Any) -> Any:
        return self._mini.prepare(photo)

    def encode_images(self, batch: Any) -> Any:
        return self._mini.encode_images(batch)

    def encode_texts(self, texts: Any) -> Any:
        self.texts += texts
        return self._mini.encode_texts(texts)

    def torch_module(self) -> Any:
        raise NotImplementedError


def test_an_encoder_of_ones_own_searches_the_index_that_it_made(few: Path) -> None:
    own = Own()
    retrieval.index(few, model=own)
    with retrieval.open(few, encoder=own) as photos:
        assert photos.search("a rocket at night", k=1)[0].path.name == "rocket.jpg"
    assert "a rocket at night" in own.texts


def test_an_encoder_that_did_not_make_the_index_is_refused(photos: Path) -> None:
    with pytest.raises(retrieval.ModelError, match=r"model mini, .* than those loaded .model own"):
        retrieval.open(photos, encoder=Own())


def test_an_unchecked_index_is_checked_when_its_model_comes(
    source: Path, few: Path, tmp_path: Path
) -> None:
    """As after a download: the name, the dimension and samples are compared, then recorded."""
    for rows, agrees in ((np.load(source), True), (np.roll(np.load(source), 7, axis=1), False)):
        index = tmp_path / str(agrees)
        np.save(source, rows)
        own = Own()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("retrieval.transfer.run.encoder_at_hand", lambda *_: None)
            patch.setattr("retrieval.transfer.run.named_dimension", lambda _: None)
            patch.setattr("retrieval.transfer.run.canonical_name", lambda name: name)
            retrieval.import_embeddings(source, index, "own", folder=few)
        if not agrees:
            with pytest.raises(retrieval.ModelError, match="not made by model own"):
                retrieval.open(index, encoder=own)
            continue
        with retrieval.open(index, encoder=own) as photos:
            assert photos.status(look=False).model.fingerprint == UNCHECKED
            assert photos.search("a cat", k=1)[0].path.name == "chelsea.png"
        retrieval.index(index=index, model=own)
        with retrieval.open(index, encoder=own) as photos:
            assert photos.status(look=False).model.fingerprint == "own-weights"


# Export ----------------------------------------------------------------------------------------


@pytest.fixture
def captioned(few: Path) -> Path:
    lines = [json.dumps({"image": name, "captions": CAPTIONS[name]}) for name in NAMES[:3]]
    (few / "captions.jsonl").write_text("\n".join(lines))
    retrieval.index(few, model="mini")
    return few


def same_hits(one: Path, other: Path, tolerance: float) -> None:
    for text in ("a cat", "something to drink", "space flight", "red"):
        with retrieval.open(one) as first, retrieval.open(other) as second:
            right, found = first.search(text), second.search(text)
        assert [hit.path.name for hit in found] == [hit.path.name for hit in right]
        assert [h.score for h in found] == pytest.approx([h.score for h in right], abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_an_export_that_is_imported_gives_the_same_hits(
    run: Run, captioned: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    out, index = tmp_path / "out", tmp_path / "index"
    done = run("export", out, "--index", captioned, "--dtype", dtype)
    assert done.code == 0 and done.out.startswith("Exported 4 photo(s), 3 with a caption embedding")
    images = np.load(out / "img_emb" / "img_emb_0.npy")
    assert images.shape == (4, 384) and images.dtype == dtype
    report = retrieval.import_embeddings(out, index)  # it says which model made it
    assert (report.photos, report.refused, report.checked) == (4, 0, True)
    same_hits(captioned, index, tolerance)
    elsewhere = shutil.copytree(captioned, tmp_path / "again", ignore=lambda *_: [".retrieval"])
    report = retrieval.import_embeddings(out, folder=elsewhere)
    assert report.at_hand == 4
    assert retrieval.index(elsewhere).encoded == 0
    same_hits(captioned, elsewhere, tolerance)


@needs_extra("parquet", "pyarrow")
def test_parquet_has_paths_captions_and_facts(captioned: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    report = retrieval.export(tmp_path / "out", captioned)
    assert report.table == tmp_path / "out" / "metadata" / "metadata_0.parquet"
    rows = {row["image_path"]: row for row in parquet.read_table(report.table).to_pylist()}
    assert sorted(rows) == NAMES
    assert rows["chelsea.png"]["captions"] == CAPTIONS["chelsea.png"]
    assert rows["chelsea.png"]["width"] == 451
    again = retrieval.import_embeddings(tmp_path / "out", tmp_path / "index")
    assert (again.photos, again.captioned) == (4, 3)


@needs_extra("parquet", "pyarrow")
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_parquet_is_an_error(
    run: Run, captioned: Path, tmp_path: Path, damage: str
) -> None:
    table = retrieval.export(tmp_path / "out", captioned).table
    data = table.read_bytes()
    changed = data[:4] + bytes(len(data) // 4) + data[4 + len(data) // 4 :]  # the first columns
    table.write_bytes({"cut": data[:-9], "changed": changed, "empty": b""}[damage])
    done = run("import-embeddings", tmp_path / "out", "--index", tmp_path / "index")
    assert done.code == 1 and str(table) in done.messages
    assert not is_index(tmp_path / "index")


def test_an_export_is_whole_or_not_there(
    run: Run, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept")
    done = run("export", full, "--index", captioned)
    assert done.code == 1 and "There is something in" in done.messages
    assert [file.name for file in full.iterdir()] == ["mine.txt"]

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retrieval.transfer.export.write_about", disk_full)
    done = run("export", tmp_path / "out", "--index", captioned)
    assert done.code == 1 and "No space left" in done.messages
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_export_that_names_a_model_of_its_own_has_to_be_trusted(
    run: Run, captioned: Path, tmp_path: Path
) -> None:
    retrieval.export(tmp_path / "out", captioned)
    about = tmp_path / "out" / "index.json"
    for model in ("trained:/home/somebody/model", "hf-hub:some/body"):
        about.write_text(json.dumps({**json.loads(about.read_text()), "model": model}))
        done = run("import-embeddings", tmp_path / "out", "--index", tmp_path / "index")
        assert done.code == 1 and "If you trust it" in done.messages
    os.truncate(about, 20)
    done = run("import-embeddings", tmp_path / "out", "--index", tmp_path / "index")
    assert done.code == 1 and str(about) in done.messages


# Benchmark -------------------------------------------------------------------------------------


def test_recall_of_given_embeddings_is_that_of_the_photos(
    run: Run, captioned: Path, encoded: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    retrieval.export(tmp_path / "out", captioned)
    own = run("benchmark", "recall", captioned, "--model", "mini", "--json").json
    shutil.rmtree(tmp_path / "out" / "text_emb", ignore_errors=True)
    given = run("benchmark", "recall", tmp_path / "out", "--json").json  # encodes the captions
    assert given["encoded"]["images"] == 0
    assert (given["images"], given["captions"]) == (3, 4)
    for direction in ("text_to_image", "image_to_text"):
        assert given[direction]["R@1"] == own[direction]["R@1"]
        assert given[direction]["MRR"] == own[direction]["MRR"]


def test_given_embeddings_of_captions_are_the_queries_and_need_no_model(
    run: Run, encoded: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, texts = encoded
    np.save(tmp_path / "img_emb.npy", images)
    np.save(tmp_path / "text_emb.npy", texts)
    write_csv(tmp_path / "metadata.csv", [{"image_path": name} for name in NAMES])
    done = run("benchmark", "recall", tmp_path, "--json")
    right = 100 * np.mean((texts @ images.T).argmax(1) == np.arange(4))
    assert done.json["text_to_image"]["R@1"] == pytest.approx(right)
    assert done.json["model"] == "given embeddings"
    assert done.json["encoded"] == {"images": 0, "captions": 0}
    done = run("benchmark", "recall", tmp_path, "--ranking", "nnn")
    assert done.code == 1 and "--model ARCH:WEIGHTS" in done.messages
    done = run("benchmark", "recall", tmp_path, "--split", "test")
    assert done.code == 1 and "--split" in done.messages
