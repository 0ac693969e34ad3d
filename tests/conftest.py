"""What the tests share: real photos, an index of them, and the command line in this process."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cli
import retrieval
from retrieval.demo import copy_demo_photos

SHARED = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    raw: bytes
    talk: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def names(self) -> list[str]:
        """The names of the photos found, best first."""
        return [Path(hit["path"]).name for hit in self.json]


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line as a user would: `run("search", "a cat", cwd=folder)`."""

    def call(*arguments: object, cwd: Path | None = None) -> Ran:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["retrieval", *map(str, arguments)])
        capfdbinary.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        result = Ran(code, captured.out, captured.err.decode())
        assert "Traceback" not in result.talk
        return result

    return call


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No test may see the index, model hub or cache of whoever runs it."""
    monkeypatch.delenv("RETRIEVAL_INDEX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 real photos; not to be changed."""
    return copy_demo_photos(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="session")
def indexed(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in a folder with an index; not to be changed."""
    folder = tmp_path_factory.mktemp("indexed") / "photos"
    shutil.copytree(originals, folder)
    retrieval.index(folder, model="mini")
    return folder


@pytest.fixture
def photos(indexed: Path, tmp_path: Path) -> Path:
    """The indexed photos in a folder of the test's own. Folder and index moved here together."""
    return Path(shutil.copytree(indexed, tmp_path / "photos"))


@pytest.fixture
def few(originals: Path, tmp_path: Path) -> Path:
    """Four photos without an index."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"):
        shutil.copy2(originals / name, folder)
    return folder


def shared(name: str) -> Path:
    """A folder of the data beside the repository; the test is skipped where it is not."""
    if not (SHARED / name).exists():
        pytest.skip(f"shared/data/{name} is not beside the repository")
    return SHARED / name


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an open_clip model in a local checkpoint, with random weights."""
    import open_clip
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    model = open_clip.create_model("ViT-S-32-alt")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    return f"ViT-S-32-alt:{file}"
