"""The picture of docs/architecture.md: who may import whom, and modules that are short."""

import ast
from pathlib import Path

import pytest

import retrieval

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


def test_the_command_line_uses_only_what_is_public() -> None:
    """Commands know the public names of `retrieval`, what prints, and each other."""
    commands = sorted((ROOT / "retrieval" / "commands").glob("*.py"))
    assert len(commands) > 5
    for file in commands:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                assert not any(_is_ours(n) for n in names if n != "retrieval"), (file, names)
            elif isinstance(node, ast.ImportFrom) and node.module == "retrieval":
                names = [alias.name for alias in node.names]
                assert set(names) <= set(retrieval.__all__), (file, names)
            elif isinstance(node, ast.ImportFrom):
                allowed = ("retrieval.commands", "retrieval.output")
                assert (node.module or "").startswith(allowed) or not _is_ours(node.module), file
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "retrieval" or node.attr in retrieval.__all__, (
                    file,
                    node.attr,
                )


def _is_ours(module: str | None) -> bool:
    return (module or "").split(".")[0] in ("retrieval", "indexes", "benchmarks")


def test_every_public_name_exists_and_is_documented() -> None:
    assert sorted(retrieval.__all__) == retrieval.__all__
    assert set(retrieval.__all__) == set(retrieval._MODULE_OF)
    for name in retrieval.__all__:
        assert getattr(retrieval, name).__doc__, name


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_is_short(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it is for"
    assert len(text.splitlines()) <= MOST_LINES, "past this, ask what the second idea is"
