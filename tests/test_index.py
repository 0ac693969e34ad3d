"""`retrieval index`: what it finds, and what it does on the second run."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from tests.conftest import Run, shared


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which every encoded batch adds its size."""
    from retrieval.encoders.mini.encoder import MiniEncoder

    batches: list[int] = []
    real = MiniEncoder.encode_images

    def counting(self, batch):
        batches.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(MiniEncoder, "encode_images", counting)
    return batches


def present(folder: Path) -> set[str]:
    """The paths that a search can find, relative to the folder."""
    with retrieval.open(folder) as opened:
        hits = opened.search("anything", k=10_000)
    paths = [path for hit in hits for path in (hit.path, *hit.copies)]
    assert len(paths) == len(set(paths))
    return {path.relative_to(folder).as_posix() for path in paths}


def test_a_new_folder_is_indexed_and_summed_up(run: Run, few: Path) -> None:
    result = run("index", few, "--model", "mini")
    assert result.code == 0
    assert result.out.startswith("4 added in ")
    assert "photos/s" in result.out
    assert (few / ".retrieval" / "catalogue.db").is_file()
    assert present(few) == {"chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"}


def test_an_unchanged_folder_encodes_nothing(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    result = run("index", photos)
    assert result.out.startswith("20 unchanged in ")
    assert encoded == []


def test_an_unchanged_rerun_loads_no_model(indexed: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = shutil.copytree(indexed, tmp_path / "photos")
    code = (
        "import sys, retrieval; report = retrieval.index(sys.argv[1]); "
        "assert report.unchanged == 20, report; assert 'torch' not in sys.modules; "
        "assert 'retrieval.encoders.mini.encoder' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_moved_files_are_known_by_their_content(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    (photos / "2024").mkdir()
    (photos / "chelsea.png").rename(photos / "2024" / "my cat.png")
    result = run("index", photos)
    assert result.out.startswith("1 moved, 19 unchanged")
    assert encoded == []
    assert "2024/my cat.png" in present(photos)
    assert "chelsea.png" not in present(photos)


def test_files_that_move_are_counted_over_all_batches(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches; two files of the first have the same content and moved from two places."""
    monkeypatch.setattr("retrieval.indexing.encode._FILES_PER_PHOTO", 1)
    shutil.copy(photos / "chelsea.png", photos / "chelsea again.png")
    assert run("index", photos).out.startswith("1 copied, 20 unchanged")
    (photos / "moved").mkdir()
    names = ["chelsea.png", "chelsea again.png", "coffee.png", "china.jpg", "moon.png", "horse.png"]
    for number, name in enumerate(names):
        (photos / name).rename(photos / "moved" / f"{number}{Path(name).suffix}")
    report = run("index", photos, "--batch-size", 2).out
    assert report.startswith("6 moved, 15 unchanged") and "removed" not in report
    assert len(present(photos)) == 21


def test_copied_files_are_found_once_with_both_places(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    shutil.copy(photos / "chelsea.png", photos / "another cat.png")
    assert run("index", photos).out.startswith("1 copied, 20 unchanged")
    assert encoded == []
    hits = run("search", "a cat", "--format", "json", cwd=photos).json
    assert [Path(hits[0]["path"]).name] == ["another cat.png"]
    assert [Path(path).name for path in hits[0]["copies"]] == ["chelsea.png"]
    assert len(hits) == 10


def test_edited_files_are_encoded_again(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    with Image.open(photos / "coffee.png") as image:
        image.rotate(180).save(photos / "coffee.png")
    assert run("index", photos).out.startswith("1 updated, 19 unchanged")
    assert encoded == [1]
    assert len(present(photos)) == 20


def test_a_file_that_was_only_touched_is_not_encoded(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    os.utime(photos / "coffee.png", (1, 1))
    assert run("index", photos).out.startswith("20 unchanged")
    assert encoded == []


def test_swapped_names_follow_the_content(run: Run, photos: Path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    (photos / "chelsea.png").rename(photos / "swap")
    (photos / "coffee.png").rename(photos / "chelsea.png")
    (photos / "swap").rename(photos / "coffee.png")
    assert run("index", photos).out.startswith("2 updated, 18 unchanged")
    assert encoded == []
    assert run("search", "a cat", "-f", "json", cwd=photos).names[0] == "coffee.png"


def test_missing_files_leave_the_results_and_come_back_unencoded(
    run: Run, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    encoded = count_encoded(monkeypatch)
    (photos / "chelsea.png").rename(tmp_path / "away.png")
    assert run("index", photos).out.startswith("1 removed, 19 unchanged")
    assert "chelsea.png" not in present(photos)
    (tmp_path / "away.png").rename(photos / "chelsea.png")
    assert run("index", photos).out.startswith("1 added, 19 unchanged")
    assert encoded == []
    assert "chelsea.png" in present(photos)


def test_prune_forgets_missing_files_for_good(
    run: Run, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    encoded = count_encoded(monkeypatch)
    (photos / "chelsea.png").rename(tmp_path / "away.png")
    assert "1 forgotten" in run("index", photos, "--prune").out
    (tmp_path / "away.png").rename(photos / "chelsea.png")
    assert run("index", photos).out.startswith("1 added, 19 unchanged")
    assert encoded == [1]


def test_folder_and_index_move_together(run: Run, photos: Path, tmp_path: Path) -> None:
    moved = photos.rename(tmp_path / "elsewhere")
    best = run("search", "a cat", "-k", 1, "-f", "paths", cwd=moved).out
    assert best.strip() == str(moved / "chelsea.png")
    assert run("index", moved).out.startswith("20 unchanged")


def test_an_index_elsewhere_finds_its_folder(run: Run, few: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "index"
    assert run("index", few, "--index", place, "--model", "mini").code == 0
    assert not (few / ".retrieval").exists()
    place = place.rename(tmp_path / "index")  # the index alone moves
    found = run("search", "a cat", "--index", place, "-f", "json")
    assert found.names[0] == "chelsea.png"


def test_the_index_is_found_from_below_and_through_the_environment(
    run: Run, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    (photos / "a" / "b").mkdir(parents=True)
    assert run("search", "a cat", "-f", "json", cwd=photos / "a" / "b").code == 0
    monkeypatch.setenv("RETRIEVAL_INDEX", str(photos / ".retrieval"))
    assert run("search", "a cat", "-f", "json", cwd=tmp_path).names[0] == "chelsea.png"


def test_a_folder_reached_through_a_link_is_the_same_folder(run: Run, photos: Path) -> None:
    link = photos.parent / "link"
    link.symlink_to(photos)
    shutil.copy(photos / "moon.png", photos / "copy.png")
    (photos / "new.png").write_bytes((photos / "moon.png").read_bytes() + bytes(1))
    result = run("index", "--index", link / ".retrieval")
    assert result.out.startswith("1 added, 1 copied, 20 unchanged")
    assert run("index", link).out.startswith("22 unchanged")
    assert run("similar", link / "moon.png", "--index", link, "-f", "json").names[0] == "new.png"


def test_an_index_may_be_named_by_its_folder_of_photos(run: Run, photos: Path) -> None:
    assert run("index", "--index", photos).out.startswith("20 unchanged")
    assert not (photos / "catalogue.db").exists()


def test_a_folder_that_moved_away_from_its_index_can_be_forgotten(
    run: Run, few: Path, tmp_path: Path
) -> None:
    place = tmp_path / "deep" / "index"
    run("index", few, "--index", place, "--model", "mini")
    moved = few.rename(tmp_path / "moved")
    assert run("index", moved, "--index", place).out.startswith("4 copied")
    best = run("search", "a cat", "--index", place, "-f", "json").json[0]
    assert best["path"] == str(moved / "chelsea.png")
    assert run("remove", few, "--index", place).code == 0
    result = run("index", "--index", place)
    assert result.out.startswith("4 unchanged") and "is not there" not in result.out


def test_several_folders_share_an_index(run: Run, few: Path, originals: Path) -> None:
    more = few.parent / "more"
    more.mkdir()
    shutil.copy2(originals / "horse.png", more)
    assert run("index", few, more, "--model", "mini").out.startswith("5 added")
    assert run("index", cwd=few).out.startswith("5 unchanged")
    assert run("search", "a horse", "-f", "json", cwd=few).json[0]["path"] == str(
        more / "horse.png"
    )
    assert run("remove", more, cwd=few).out.startswith("Removed 1 file(s)")
    assert run("index", cwd=few).out.startswith("4 unchanged")


def test_a_folder_around_an_indexed_one_takes_it_in(run: Run, few: Path, monkeypatch) -> None:
    place = few.parent / "index"
    (few / "inner").mkdir()
    (few / "chelsea.png").rename(few / "inner" / "chelsea.png")
    assert run("index", few / "inner", "--index", place, "--model", "mini").out[:7] == "1 added"
    encoded = count_encoded(monkeypatch)
    assert run("index", few, "--index", place).out.startswith("3 added, 1 unchanged")
    assert sum(encoded) == 3
    assert run("index", few / "inner", "--index", place).out.startswith("1 unchanged")


def test_an_index_inside_an_indexed_folder_is_made_with_a_message(run: Run, photos: Path) -> None:
    (photos / "sub").mkdir()
    result = run("index", photos / "sub", "--model", "mini")
    assert result.code == 0
    assert "This run makes a second index" in result.messages
    assert "second index" not in run("index", photos / "sub").messages


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0, 1)])
def test_folders_inside_each_other_are_looked_at_once(
    run: Run, few: Path, order: tuple[int, ...]
) -> None:
    (few / "inner").mkdir()
    (few / "chelsea.png").rename(few / "inner" / "chelsea.png")
    folders = [(few, few / "inner")[i] for i in order]
    place = few.parent / "index"
    assert run("index", *folders, "--index", place, "--model", "mini").out[:7] == "4 added"
    assert run("index", *folders, "--index", place).out.startswith("4 unchanged")
    with retrieval.open(place) as opened:
        assert opened.status().roots == (few,)


def test_excluded_names_stay_out_of_later_runs_too(run: Run, few: Path) -> None:
    (few / "private").mkdir()
    (few / "rocket.jpg").rename(few / "private" / "rocket.jpg")
    run("index", few, "--exclude", "./private/", "--exclude", "*.png", "--model", "mini")
    assert "Exclude  private, *.png" in run("info", cwd=few).out
    assert "cannot match" in run("index", few, "--exclude", few / "private").messages
    assert present(few) == {"china.jpg"}
    run("index", few)
    assert present(few) == {"china.jpg"}
    run("index", few, "--exclude", "")
    assert len(present(few)) == 4


def test_hidden_and_system_folders_are_left_out(run: Run, few: Path, originals: Path) -> None:
    for name in (".hidden", "@eaDir", "$RECYCLE.BIN"):
        (few / name).mkdir()
        shutil.copy2(originals / "horse.png", few / name)
    assert run("index", few, "--model", "mini").out.startswith("4 added")


def test_quiet_says_nothing(run: Run, few: Path) -> None:
    result = run("index", few, "--model", "mini", "--quiet")
    assert (result.code, result.raw, result.messages) == (0, b"", "")


def test_a_rebuild_changes_the_model_and_nothing_else_does(
    run: Run, photos: Path, random_clip: str
) -> None:
    refused = run("index", photos, "--model", random_clip)
    assert refused.code == 1
    assert "was built with model mini" in refused.messages
    assert "--rebuild" in refused.messages
    assert run("index", photos, "--model", random_clip, "--rebuild").out.startswith("20 added")
    with retrieval.open(photos) as opened:
        status = opened.status()
        assert status.model.name == random_clip
        assert len(opened.search("a cat", k=3)) == 3
    assert run("index", photos, "--model", "mini").code == 1


def test_info_shows_what_is_new_changed_and_missing(run: Run, photos: Path) -> None:
    (photos / "chelsea.png").unlink()
    os.utime(photos / "coffee.png", (1, 1))
    shutil.copy(photos / "moon.png", photos / "new.png")
    (photos / "broken.jpg").write_bytes(b"no photo")
    text = run("info", cwd=photos).out
    assert "2 new, 1 changed, 1 missing" in text
    assert "Photos   20 in 20 files" in text
    run("index", photos)
    info = run("info", "--json", cwd=photos).json
    assert (info["photos"], info["missing"], info["skipped"]) == (19, 1, 1)
    assert info["reasons"][0][0].endswith("broken.jpg")


def test_remove_forgets_photos_and_folders_but_no_file(run: Run, photos: Path) -> None:
    (photos / "sub").mkdir()
    shutil.copy(photos / "moon.png", photos / "sub")
    run("index", photos)
    assert run("remove", "chelsea.png", "sub", cwd=photos).out.startswith("Removed 2 file(s)")
    assert len(present(photos)) == 19
    assert (photos / "chelsea.png").is_file()
    assert (photos / "sub" / "moon.png").is_file()
    unknown = run("remove", "nothing.png", cwd=photos)
    assert unknown.code == 1
    assert "is not in the index" in unknown.messages


def test_remove_all_deletes_the_index_and_no_photo(run: Run, photos: Path) -> None:
    assert run("remove", cwd=photos).code == 1
    assert run("remove", "--all", "--yes", cwd=photos).code == 0
    assert not (photos / ".retrieval").exists()
    assert len(list(photos.iterdir())) == 20


@pytest.mark.slow
def test_seventy_percent_of_first_captions_find_their_photo(run: Run, tmp_path: Path) -> None:
    """Over 150 captioned photos, the photo of a first caption is among the first ten hits."""
    import json

    data = shared("coco_cc")
    place = tmp_path / "index"
    assert run("index", data / "images", "--index", place, "--model", "mini").code == 0
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    found = 0
    with retrieval.open(place) as opened:
        for line in lines:
            hits = opened.search(line["captions"][0], k=10)
            found += line["image"] in [hit.path.name for hit in hits]
    assert len(lines) == 150
    assert found >= 0.7 * 150, f"{found} of 150"
