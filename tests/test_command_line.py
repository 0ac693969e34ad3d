"""How the command line ends: interrupted, into a closed pipe, wrongly used; and what it hides."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import retrieval
from benchmarks.commands import alone
from retrieval.training import model_soup
from retrieval.training import relevance as relevance_fit
from retrieval.training.config import parse_recipe
from tests.conftest import Run

ROOT = Path(__file__).parents[1]
INTERRUPTED = """
import os, signal, sys
import cli, retrieval
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
retrieval.find_index = retrieval.open = lambda *_: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["retrieval", *sys.argv[1:]]
cli.main()
"""


def start(*command: object, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["info", "search cat", "remove --all"])
def test_an_interruption_is_one_word_and_130(command: str) -> None:
    done = start("-c", INTERRUPTED, *command.split())
    assert (done.returncode, done.stderr) == (130, b"Stopped.\n")


@pytest.mark.parametrize(
    "command",
    ["search cat -f json", "search cat", "info", "similar chelsea.png", "--help", "search --help"],
)
def test_a_reader_that_is_gone_is_no_error(indexed: Path, command: str) -> None:
    words = command.split()
    if "--help" not in words:
        words += ["--index", str(indexed)]
    read, write = os.pipe()
    os.close(read)
    done = start("-m", "cli", *words, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_benchmark_alone_ends_as_the_command_line_does() -> None:
    read, write = os.pipe()
    os.close(read)
    done = start("-m", "benchmarks.recall", "--help", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    missing = start("-m", "benchmarks.recall", "nowhere", "--model", "mini")
    assert missing.returncode == 1
    assert missing.stderr.startswith(b"Error: ") and b"Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search --colour red", "No such option: --colour"),
        ("search cat -k none", "Invalid value for '-k'"),
        ("serach cat", "No such command 'serach'"),
    ],
)
def test_wrong_usage_is_2_with_its_reason(run: Run, command: str, message: str) -> None:
    done = run(*command.split())
    assert done.code == 2
    assert "Usage: " in done.messages and message in done.messages


def test_help_and_a_question_answered_with_no_end_as_they_did(run: Run, indexed: Path) -> None:
    helped = run("search", "--help")
    assert helped.code == 0 and helped.out.startswith("Usage:") and not helped.messages
    done = subprocess.run(
        [sys.executable, "-m", "cli", "remove", "--all", "--index", str(indexed)],
        cwd=ROOT, input=b"n\n", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and (indexed / ".retrieval").exists()


# What users do not see ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        lambda folder: alone("recall"),
        lambda folder: model_soup.main([str(folder), "run", "--out", str(folder / "new")]),
        lambda folder: relevance_fit.main([str(folder), "--model", "mini"]),
    ],
    ids=["benchmark", "model_soup", "relevance"],
)
def test_programs_hide_the_warnings_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        with pytest.raises((SystemExit, retrieval.RetrievalError)):
            program(tmp_path)  # there is no data set in the folder
        caught.clear()
        warnings.warn_explicit("corrupt EXIF data", UserWarning, "x.py", 1, module="PIL.Image")
        assert not caught
        warnings.warn_explicit("another one", UserWarning, "x.py", 1, module="other")
        assert len(caught) == 1


def test_an_unknown_set_of_layers_is_one_sentence() -> None:
    with pytest.raises(retrieval.QueryError, match=r"no --tune 'layers'\. Choose one of heads"):
        parse_recipe("layers", 1, [])
