"""The picture of docs/architecture.md: who may import whom, and modules read in one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ROOT / "cli.py",
    *(f for name in ("retrieval", "indexes", "benchmarks") for f in (ROOT / name).rglob("*.py")),
]
MOST_LINES = 350


def test_arrows_run_one_way(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """pyproject.toml has the layers; `lint-imports` prints what breaks them."""
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    status = lint_imports(no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capfd.readouterr().out


def test_nothing_imports_the_command_line() -> None:
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert "cli" not in [alias.name for alias in node.names], file
            elif isinstance(node, ast.ImportFrom):
                assert node.module != "cli", file


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_is_short(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it is for"
    assert len(text.splitlines()) <= MOST_LINES, "past this, ask what the second idea is"
