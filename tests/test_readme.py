"""The README's two commands, run as they stand there, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def command(name: str) -> str:
    """The command in the README below the mark `<!-- name -->`."""
    found = re.search(
        rf"^<!-- {name} -->\n```bash\n(.+?)\n```$", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert found, f"the README has no command marked {name}"
    return found[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "main"
    folder.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("retrieval", "indexes", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    return folder


def shell(line: str, folder: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder, env={**kept, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_two_commands_work_in_a_new_environment(checkout: Path) -> None:
    out = shell(command("demo"), checkout)
    assert "20 added" in out
    assert len(re.findall(r"^\$ retrieval (?:search|similar) ", out, re.M)) == 5
    page = checkout / "retrieval-demo" / "gallery.html"
    assert str(page) in out
    assert page.read_text().count("data:image/jpeg;base64,") >= 20
    # What one printed command shows is what that command prints.
    asked, shown = re.findall(r"^\$ (retrieval search .+)\n((?: .+\n)+)", out, re.M)[0]
    assert shell(f".venv/bin/{asked}", checkout) == shown
    out = shell(command("test"), checkout, PYTEST_ADDOPTS="tests/test_vectors.py")
    assert "passed" in out
