"""An index from a stranger: what it names is not used before the user trusts it, once."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

import retrieval
from tests.conftest import Run

CATALOGUE = Path(".retrieval") / "catalogue.db"


def rewrite(folder: Path, statement: str, *values: object) -> None:
    """Change the catalogue as whoever crafts an index would."""
    with sqlite3.connect(folder / CATALOGUE) as database:
        assert database.execute(statement, values).rowcount
    database.close()


@pytest.fixture
def elsewhere(photos: Path, originals: Path, tmp_path: Path) -> Path:
    """A folder with an index whose root is not that folder."""
    target = Path(shutil.copytree(originals, tmp_path / "private"))
    rewrite(photos, "UPDATE roots SET relative = '', absolute = ?", str(target))
    return photos


@pytest.fixture
def nosy(photos: Path) -> Path:
    """A folder with an index of every photo of the machine."""
    rewrite(photos, "UPDATE roots SET relative = '/', absolute = '/'")
    inside = str(photos / "chelsea.png").removeprefix("/")
    rewrite(photos, "UPDATE files SET path = ? WHERE path = 'chelsea.png'", inside)
    return photos


@pytest.mark.parametrize(
    "command",
    [
        ["search", "a cat", "-f", "paths"],
        ["similar", "coffee.png", "-f", "paths"],
        ["info"],
        ["index"],
        ["index", "--rebuild"],
        ["fuse"],
        ["search", "a cat", "--index-first", "-f", "paths"],
    ],
)
def test_an_index_of_the_whole_machine_lists_nothing(
    run: Run, nosy: Path, command: list[str]
) -> None:
    result = run(*command, cwd=nosy)
    assert result.code == 1
    assert result.raw == b""
    assert "photos or captions in /," in result.messages
    assert "--trust" in result.messages


def test_its_gallery_is_not_written(run: Run, nosy: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run("search", "a cat", "--gallery", page, cwd=nosy).code == 1
    assert not page.exists()


def test_a_model_of_a_hub_is_not_fetched(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> bool:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("retrieval.encoders.hub.is_hub_reachable", ask)
    monkeypatch.setattr("retrieval.encoders.openclip_weights.is_hub_reachable", ask)
    rewrite(photos, "UPDATE meta SET value = replace(value, 'mini', 'hf-hub:no/where')")
    result = run("search", "a cat", cwd=photos)
    assert result.code == 1
    assert "the model hf-hub:no/where" in result.messages


def test_a_list_of_captions_elsewhere_is_not_read(run: Run, photos: Path) -> None:
    with sqlite3.connect(photos / CATALOGUE) as database:
        database.execute(
            "INSERT OR REPLACE INTO meta VALUES ('setting:captions', ?)",
            [json.dumps(["/etc/passwd"])],
        )
    database.close()
    result = run("index", cwd=photos)
    assert result.code == 1
    assert "/etc/passwd" in result.messages


def test_trust_is_given_once(run: Run, elsewhere: Path) -> None:
    assert run("search", "a cat", cwd=elsewhere).code == 1
    assert run("search", "a cat", "--trust", "-f", "json", cwd=elsewhere).names[0] == "chelsea.png"
    assert run("search", "a cat", "-f", "json", cwd=elsewhere).names[0] == "chelsea.png"
    assert run("index", cwd=elsewhere).code == 0


def test_trust_in_one_folder_is_no_trust_in_another(run: Run, elsewhere: Path) -> None:
    assert run("info", "--trust", cwd=elsewhere).code == 0
    rewrite(elsewhere, "UPDATE roots SET relative = '/', absolute = '/'")
    assert run("info", cwd=elsewhere).code == 1


def test_an_index_made_here_is_trusted(run: Run, few: Path, tmp_path: Path) -> None:
    """It may lie anywhere, and get more folders and lists of captions."""
    place = tmp_path / "place"
    captions = tmp_path / "more.csv"
    captions.write_text("image,caption\nchelsea.png,A cat\n")
    assert run("index", few, "--index", place, "--model", "mini").code == 0
    assert run("search", "a cat", "--index", place, "-f", "json").names[0] == "chelsea.png"
    more = Path(shutil.copytree(few, tmp_path / "more"))
    assert run("index", more, "--index", place, "--captions", captions).code == 0
    assert run("index", "--index", place).code == 0
    assert run("info", "--index", place).code == 0


def test_trust_in_an_index_is_no_trust_in_others(run: Run, nosy: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nosy, tmp_path / "copy"))
    assert run("search", "a cat", "--trust", cwd=nosy).code == 0
    assert run("search", "a cat", cwd=nosy).code == 0
    assert "--trust" in run("search", "a cat", cwd=copy).messages


def test_a_model_named_here_is_trusted(run: Run, few: Path, tiny_mini: Path) -> None:
    assert run("index", few, "--model", tiny_mini).code == 0
    assert run("search", "a cat", "-f", "json", cwd=few).code == 0


def test_photos_that_move_with_their_index_need_no_trust(run: Run, photos: Path) -> None:
    moved = photos.rename(photos.parent / "moved")
    assert run("search", "a cat", "-f", "json", cwd=moved).names[0] == "chelsea.png"


def test_without_a_data_folder_trust_lasts_for_a_command(
    run: Run, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/dev/null")
    assert run("info", "--trust", cwd=elsewhere).code == 0
    assert run("info", cwd=elsewhere).code == 1


def test_python_can_trust_an_index(elsewhere: Path) -> None:
    with pytest.raises(retrieval.UntrustedIndexError):
        retrieval.open(elsewhere)
    with retrieval.open(elsewhere, trust=True) as photos:
        assert photos.search("a cat")[0].path.name == "chelsea.png"
