"""The fuzzer finds what it is for: exceptions, crashes, hangs and processes that grow."""

import filecmp
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import mutate
from tests.fuzz.cases import write_case
from tests.fuzz.watch import ROOT, Child

BODIES = {
    "error": "answer('ValueError: no')",
    "crash": "os.kill(os.getpid(), 11)",
    "hang": "time.sleep(60)",
    "hang by computing": "sum(iter(int, 1))",
    "memory": "hold = b'x' * (400 << 20); time.sleep(60)",
}


def child(tmp_path: Path, body: str) -> Child:
    code = (
        "import json, os, sys, time\n"
        "def answer(wrong): print(json.dumps(wrong), flush=True)\n"
        "for line in sys.stdin:\n"
        "    if json.loads(line)[0] == 'good': answer(None)\n"
        f"    else: {body}\n"
    )
    return Child([sys.executable, "-c", code], tmp_path, tmp_path / "log", 1.0, 200 << 20)


@pytest.mark.parametrize("kind", BODIES)
def test_each_kind_of_fault_is_noticed_and_the_next_case_runs(tmp_path: Path, kind: str) -> None:
    watched = child(tmp_path, BODIES[kind])
    try:
        assert watched.run("good", tmp_path) is None
        watched._seen.add("bad")  # nothing to wait for
        fault = watched.run("bad", tmp_path)
        assert fault is not None and fault.kind == kind.split()[0]
        assert watched.run("good", tmp_path) is None
    finally:
        watched.close()


def test_a_seed_gives_the_same_cases(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(random.Random(0).randbytes(5000))
    for number, name in enumerate(("one", "two", "other")):
        write_case("weights", tmp_path, 0, 1 if number < 2 else 2, tmp_path / name)
    assert filecmp.cmp(tmp_path / "one" / "a.bin", tmp_path / "two" / "a.bin", shallow=False)
    assert not filecmp.cmp(tmp_path / "one" / "a.bin", tmp_path / "other" / "a.bin", shallow=False)


def test_damage_differs_from_case_to_case() -> None:
    whole = bytes(range(256)) * 4
    damaged = {mutate.mutate_bytes(whole, random.Random(seed)) for seed in range(200)}
    assert len(damaged) > 150


@pytest.mark.slow
def test_the_command_finds_nothing_wrong_with_small_weights(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", "5", "--only", "weights", "model",
         "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
