"""What the tests share: real photos, an index of them, and the command line in this process."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import cli
import retrieval
from retrieval.demo import copy_demo_photos
from tests import tiny_models

# Each worker of pytest-xdist would start as many threads as there are cores, which then wait for
# each other. Read when numpy's and torch's libraries are loaded, and by processes that tests start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // WORKERS, 1)))

OWN_NETWORK = "RETRIEVAL_TEST_NETWORK"
"""Set in the environment of tests that run in a network of their own."""
SHARED = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    raw: bytes
    messages: str

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
        assert "Traceback" not in result.messages
        return result

    return call


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory):
    """No test or fixture may see the index, cache or trusted indexes of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RETRIEVAL_INDEX", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))
        yield


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
def tiny_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the kind of `mini`, with tiny towers and random weights."""
    return tiny_models.write_mini(tmp_path_factory.mktemp("models") / "tiny-mini")


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a two-layer open_clip model in a local checkpoint, with random weights."""
    return tiny_models.write_open_clip(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="session")
def random_vit_s(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `random_clip`, of the size of real models; for slow tests."""
    file = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    return tiny_models.write_open_clip(file, architecture="ViT-S-32-alt")


# What may be skipped -----------------------------------------------------------------------------

ALLOWED = (
    "shared/data/",  # is not beside the repository
    "FAISS has a GPU here",
    "this machine has an NVIDIA driver",
    "no right to mount a file system here",
    "mounting a folder read-only needs root",
    "has to give up root's rights",
    "no right to make a network here",
    "hnswlib is not installed",  # it needs a compiler
)
"""Reasons that depend on the machine, besides those of tests marked `cuda`. Whatever else skips
lacks something that could be installed."""


@pytest.fixture(params=["folder", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A lake's place: a folder, and an object store."""
    from indexes.lake.location import Location

    if request.param == "folder":
        yield Location.of(tmp_path / "lake")
        return
    import fsspec

    yield Location.of(f"memory://{tmp_path.name}")
    fsspec.filesystem("memory").store.clear()


def needs_extra(extra: str, *modules: str) -> Callable[[Any], Any]:
    """Mark a test that needs an optional extra; it is skipped where a module of it is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    skip = pytest.mark.skipif(bool(missing), reason=f"needs '.[{extra}]': no {', '.join(missing)}")

    def decorate(test: Any) -> Any:
        return pytest.mark.extras(skip(test))

    return decorate


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `tests.cluster_fixtures.rerun` runs elsewhere."""
    if OWN_NETWORK not in os.environ:
        elsewhere = [item for item in items if item.get_closest_marker("own_network")]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if not item.get_closest_marker("own_network")]


def may_skip(reason: str, marks: set[str], extras: str | None) -> bool:
    """Whether a test with these marks may be skipped for this reason.

    extras: 1 where all extras are installed; 0 where those of the README's test command are (tests
    of the others may skip); None where anything may.
    """
    if extras is None or "cuda" in marks or any(part in reason for part in ALLOWED):
        return True
    return extras == "0" and "extras" in marks


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Fail what skips for lack of something that .ci/run installs; it sets the variable."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        marks = {mark.name for mark in item.iter_markers()}
        if not may_skip(reason, marks, os.environ.get("RETRIEVAL_ALL_EXTRAS")):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not be skipped here: {reason}"
    return report
