"""The README's two commands: what they consist of exists, and the demo prints what it promises.

`.ci/run` runs both as they stand there, in a new environment.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def command(name: str) -> str:
    """The command in the README below the mark `<!-- name -->`."""
    found = re.search(
        rf"^<!-- {name} -->\n```bash\n(.+?)\n```$", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert found, f"the README has no command marked {name}"
    return found[1]


@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_command_makes_an_environment_and_installs_extras_that_exist(name: str) -> None:
    line = command(name)
    assert "\n" not in line, ".ci/run takes one line"
    make, install, use = line.split(" && ")
    assert make == "python3 -m venv .venv"
    program, *arguments = shlex.split(install)
    assert (program, arguments[0]) == (".venv/bin/pip", "install")
    extra = re.fullmatch(r"\.\[(\w+)\]", arguments[-1])
    assert extra and extra[1] in PROJECT["project"]["optional-dependencies"]
    assert use.startswith(".venv/bin/")


def test_the_demo_command_ends_in_a_command_of_ours(run: Run) -> None:
    program, *arguments = shlex.split(command("demo").split(" && ")[-1])
    assert Path(program).name in PROJECT["project"]["scripts"]
    assert run(*arguments, "--help").code == 0


def test_the_test_command_leaves_out_what_is_slow() -> None:
    program, *arguments = shlex.split(command("test").split(" && ")[-1])
    assert (Path(program).name, arguments[:2]) == ("python", ["-m", "pytest"])
    assert arguments[arguments.index("-m", 1) + 1] == "not slow"
    assert any(m.startswith("slow:") for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"])


Demo = tuple[str, Path, Callable[[str], str]]


@pytest.fixture(params=["here", pytest.param("installed", marks=pytest.mark.slow)])
def demo(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Demo:
    """What `retrieval demo` printed, where it ran, and how to run a command as it prints it."""
    if request.param == "here":
        ran = run("demo", cwd=tmp_path)
        assert ran.code == 0, ran.messages
        return ran.out, tmp_path, lambda line: run(*shlex.split(line)[1:], cwd=tmp_path).out
    if "RETRIEVAL_DEMO" not in os.environ:
        pytest.skip("RETRIEVAL_DEMO names no folder in which .ci/run has run the demo")
    folder = Path(os.environ["RETRIEVAL_DEMO"])

    def again(line: str) -> str:
        words = [str(Path(sys.executable).parent / "retrieval"), *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return (folder / "demo.txt").read_text(), folder, again


def test_the_demo_shows_commands_and_what_they_print(demo: Demo) -> None:
    out, folder, again = demo
    assert "20 added" in out
    assert len(re.findall(r"^\$ retrieval (?:search|similar) ", out, re.M)) == 5
    page = folder / "retrieval-demo" / "gallery.html"
    assert str(page) in out
    assert page.read_text().count("data:image/jpeg;base64,") >= 20
    asked, shown = re.findall(r"^\$ (retrieval search .+)\n((?:.+\n)+)\n", out, re.M)[0]
    assert again(asked) == shown
