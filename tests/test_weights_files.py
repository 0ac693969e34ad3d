"""Small files of weights in the user's data folder: what is damaged counts as none.

Fusion, matching, relevance and the bank of generic queries.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import ModelError
from retrieval.fusion.store import read_fusion
from retrieval.fusion.weights_file import read_arrays
from retrieval.ranking import query_bank
from retrieval.ranking.relevance import load_calibration, user_calibration_file

FINGERPRINT = "0123456789abcdef"
FIT = {"bias": 0.0, "score": 20.0, "size": -0.5, "words": 0.1, "usual": 0.1}


def write_fit(**changes: object) -> Path:
    file = user_calibration_file(FINGERPRINT)
    file.parent.mkdir(parents=True, exist_ok=True)
    fit = {"format": 2, "fingerprint": FINGERPRINT, "about": {}, **FIT, **changes}
    file.write_text(json.dumps(fit))
    return file


def test_a_fit_is_read() -> None:
    write_fit()
    assert load_calibration(FINGERPRINT) is not None


@pytest.mark.parametrize("value", [10**400, 1e300, float("nan"), "a", None, [], -1])
def test_a_fit_without_sense_counts_as_none(value: object) -> None:
    write_fit(score=value)
    assert load_calibration(FINGERPRINT) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "", "\x00", '{"format": 2}'])
def test_a_damaged_fit_counts_as_none(text: str) -> None:
    write_fit().write_text(text)
    assert load_calibration(FINGERPRINT) is None


def test_a_pipe_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a pipe that nobody writes to waits for ever."""
    pipe = tmp_path / "fusion.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(ModelError, match="not a file"):
        read_fusion(pipe)
    monkeypatch.setattr(query_bank, "_cache_folder", lambda: tmp_path)
    os.mkfifo(tmp_path / f"bank-{FINGERPRINT}-{query_bank.bank_version()}.npy")
    assert query_bank.load_bank(FINGERPRINT, 32) is None
    file = write_fit()
    file.unlink()
    os.mkfifo(file)
    try:
        assert load_calibration(FINGERPRINT) is None
    finally:
        file.unlink()


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b'"a":{' * 50_000,
        json.dumps({"a": {"dtype": "F16", "shape": [1 << 39], "data_offsets": [0, 1 << 40]}}),
        json.dumps({"__metadata__": {"format": "1", "about": "[" * 100_000}}),
        json.dumps({"__metadata__": {"format": "1", "about": "[]"}}),
        "{}",
    ],
)
def test_damaged_weights_get_a_reason(tmp_path: Path, header: bytes | str) -> None:
    data = header if isinstance(header, bytes) else header.encode()
    file = tmp_path / "fusion.safetensors"
    file.write_bytes(struct.pack("<Q", len(data)) + data)
    with pytest.raises(ValueError, match=r"."):
        read_arrays(file)
    with pytest.raises(ModelError, match="holds no fusion"):
        read_fusion(file)


@pytest.mark.parametrize("claimed", ["(1000, 32)", "(1000, 4000000000)", f"({1 << 62}, 32)", "(1,"])
def test_a_bank_that_claims_more_than_it_has_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    monkeypatch.setattr(query_bank, "_cache_folder", lambda: tmp_path)
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {claimed}, }}\n".encode()
    file = tmp_path / f"bank-{FINGERPRINT}-{query_bank.bank_version()}.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(99))
    assert query_bank.load_bank(FINGERPRINT, 32) is None


def test_a_bank_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_bank, "_cache_folder", lambda: tmp_path)
    rows = np.ones((1000, 32), np.float16)
    np.save(tmp_path / f"bank-{FINGERPRINT}-{query_bank.bank_version()}.npy", rows)
    found = query_bank.load_bank(FINGERPRINT, 32)
    assert found is not None and np.allclose(np.linalg.norm(found, axis=1), 1)
