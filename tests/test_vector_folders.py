"""What a folder of vectors may hold: what is damaged or makes no sense is refused."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import IndexWarning
from indexes.vectors import flat
from indexes.vectors.build import build
from indexes.vectors.store import KINDS, open_engine, open_stored
from tests.test_vectors import APPROXIMATE, DIM, clustered, write


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_is_refused_or_still_safe(tmp_path: Path, kind: str) -> None:
    """Files cut, longer, zeroed, of other numbers, missing, or links: never a crash."""
    folder = tmp_path / "v"
    write(folder, kind, 11_000)
    queries = clustered(9, 5)
    random = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        at = int(random.integers(len(whole)))
        for damage in (
            b"",
            whole[: len(whole) // 2],
            whole + b"more",
            bytes(len(whole)),
            b"\xff" * len(whole),
            whole[:at] + b"\xa5\xff\x7f" + whole[at + 3 :],
            whole[:128] + random.bytes(len(whole) - 128) if len(whole) > 128 else b"{}",
            None,
        ):
            file.unlink(missing_ok=True)
            if damage is not None:
                file.write_bytes(damage)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", IndexWarning)
                try:
                    stored = open_stored(folder, DIM, 11_000 * DIM * 4)
                except (OSError, ValueError):
                    continue
                for query in queries:
                    found, scores = flat.search([stored.rows], query, 10)
                    assert len(found) <= 10 and not np.isnan(scores).any()
                # What is known of the files without FAISS is what a search finds.
                problem = getattr(stored.rows, "engine", None) and stored.rows.engine.problem
                assert stored.is_usable() == (problem is None)
        file.unlink(missing_ok=True)
        file.symlink_to("/dev/zero")
        with pytest.raises((OSError, ValueError)) if file.suffix == ".json" else warnings_off():
            stored = open_stored(folder, DIM, 11_000 * DIM * 4)
        file.unlink()
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_known_without_faiss(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, _, _ = write(tmp_path / "v", kind, 11_000)

    def missing() -> None:
        raise ImportError("no FAISS")

    for module in ("ivf", "hnsw"):
        monkeypatch.setattr(f"indexes.vectors.{module}.load_faiss", missing)
    assert stored.is_usable()
    if kind != "exact":
        with pytest.raises(ImportError):
            open_engine(stored.folder, stored.about, DIM)


class warnings_off:
    """Whatever is refused here is refused with an error or a warning."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is None or issubclass(kind, OSError | ValueError)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_engine_that_cannot_be_used_is_said_and_every_row_is_compared(
    tmp_path: Path, kind: str
) -> None:
    stored, ids, rows = write(tmp_path / "v", kind, 11_000)
    file = next(p for p in (tmp_path / "v").iterdir() if p.name in ("lists.bin", "edges.npy"))
    file.write_bytes(b"nonsense")
    stored = open_stored(tmp_path / "v", DIM, 11_000 * DIM * 4)
    query = clustered(9, 1)[0]
    with pytest.warns(IndexWarning, match="every photo is compared instead"):
        found, _ = flat.search([stored.rows], query, 10)
    right = rows.astype(np.float16).astype(np.float32) @ query
    assert found.tolist() == ids[np.argsort(-right, kind="stable")[:10]].tolist()
    assert not stored.is_usable()


@pytest.mark.parametrize(
    ("key", "value"),
    [("kind", "tree"), ("count", -1), ("count", 10**12), ("breadth", 0), ("breadth", 10**9),
     ("recall", 7), ("bias", 3), ("format", 99), ("more", 1), ("changes", True)],
)  # fmt: skip
def test_a_folder_that_says_nonsense_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path / "v", "ivf", 11_000)
    file = tmp_path / "v" / "about.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises((OSError, ValueError)):
        open_stored(tmp_path / "v", DIM, 11_000 * DIM * 4)


def test_a_folder_of_more_rows_than_the_catalogue_can_hold_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "v", "exact", 1000)
    assert open_stored(tmp_path / "v", DIM, 1000 * DIM).about.count == 1000
    with pytest.raises(ValueError, match="more vectors"):
        open_stored(tmp_path / "v", DIM, 1000 * DIM - 1)
    with pytest.raises(ValueError, match="holds"):
        open_stored(tmp_path / "v", DIM // 2, 1000 * DIM)


def test_ids_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "v", "exact", 100)
    ids = np.load(tmp_path / "v" / "ids.npy")
    for wrong in (ids[::-1], np.zeros_like(ids), ids - 100):
        np.save(tmp_path / "v" / "ids.npy", np.ascontiguousarray(wrong))
        with pytest.raises(ValueError, match="ascend"):
            open_stored(tmp_path / "v", DIM, 100 * DIM)


def test_vectors_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    rows = clustered(0, 10)
    with pytest.raises(ValueError, match="rows came"):
        build(tmp_path / "v", [(np.arange(1, 11), rows)], 11, DIM, 0)
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        build(tmp_path / "v", [(np.arange(1, 11), rows)], 10, DIM, 0)


def test_nearest_ids_and_mean_over_stored_rows(tmp_path: Path) -> None:
    stored, ids, rows = write(tmp_path / "v", "ivf", 11_000)
    queries = clustered(3, 20)
    expected = {
        int(ids[i]) for i in (rows.astype(np.float16).astype(np.float32) @ queries.T).argmax(0)
    }
    assert flat.nearest_ids([stored.rows], queries) == expected
    assert np.allclose(stored.mean(), flat.mean_row([stored.rows], DIM, 2000), atol=1e-6)
    (tmp_path / "v" / "mean.npy").write_bytes(b"damaged")
    assert stored.mean() is None
    mean = flat.mean_row([stored.rows], DIM, 11_000)
    assert np.allclose(mean, rows.mean(0), atol=1e-3)
