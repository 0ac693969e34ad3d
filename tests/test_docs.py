"""The docs say what is so: commands, modules, files, links and names exist, and examples run."""

import ast
import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import retrieval
from cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARD = ROOT / "retrieval" / "weights" / "mini" / "MODEL_CARD.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


all_pages = pytest.mark.parametrize("page", [*PAGES, CARD], ids=name_of)
# A changelog names commands and files of earlier versions.
current_pages = pytest.mark.parametrize(
    "page", [page for page in (*PAGES, CARD) if page.name != "changelog.md"], ids=name_of
)


def load_make_cli() -> ModuleType:
    """The script docs/make_cli.py as a module."""
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_cli = load_make_cli()
COMMANDS: dict[tuple[str, ...], Any] = dict(make_cli.commands(typer.main.get_command(app)))
HELP = {"--help", "-h"}
OPTIONS = {
    name: {*HELP, *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
    for name, command in COMMANDS.items()
}


# The command line ------------------------------------------------------------------------------


def test_the_page_of_the_command_line_is_current() -> None:
    """If this fails, run `python docs/make_cli.py`."""
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    headings = re.findall(r"^## retrieval ?(.*)$", page, re.M)
    assert headings == [" ".join(name) for name in COMMANDS]
    sections = re.split(r"^## .*$", page, flags=re.M)[1:]
    for section, command in zip(sections, COMMANDS.values(), strict=True):
        shown = "".join(section.split())  # lines are broken elsewhere by other versions of typer
        for parameter in command.params:
            assert all(name in shown for name in parameter.opts if name.startswith("-"))
            assert "".join(parameter.help.split()) in shown, f"run docs/make_cli.py: {parameter}"
        assert "".join(command.help.split()) in shown, f"run docs/make_cli.py: {command.name}"
    if f"typer {make_cli.typer_version()}" in page:
        assert page == make_cli.page(app), "run docs/make_cli.py"


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: " ".join(("retrieval", *name)))
def test_every_command_and_option_has_a_help_text(name: tuple[str, ...]) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.strip().endswith((".", ")"))
    for parameter in command.params:
        assert parameter.help and parameter.help.strip(), f"{parameter.name} has no help text"


# What the pages name ---------------------------------------------------------------------------


def code(text: str) -> Iterator[str]:
    """Lines of shell blocks, and whatever stands in backticks elsewhere."""
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```(?:bash|python)\n.*?^```$", "", text, flags=re.M | re.S)
    yield from re.findall(r"^\$ (.+)$", prose, re.M)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        yield " ".join(span.split())


def words_after(line: str, start: str) -> Iterator[list[str]]:
    """The words of every command in a line that starts with `start`, without comments."""
    for found in re.finditer(rf"(?:^|[\s$;&|/]){start} ([^;&|<]+)", f" {line}"):
        try:
            yield shlex.split(found[1], comments=True)
        except ValueError:  # a sentence with an apostrophe, no command
            continue


@current_pages
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in code(page.read_text("utf-8")):
        for words in words_after(line, "retrieval"):
            name: tuple[str, ...] = ()
            while words and tuple([*name, words[0]]) in COMMANDS:
                name, words = (*name, words[0]), words[1:]
            if not name or name == ("benchmark",):
                is_option = not words or not re.fullmatch(r"[a-z][a-z-]*", words[0])
                assert is_option, f"{page.name}: there is no command in `{line}`"
            for word in words:
                if re.match(r"--?[a-zA-Z0-9]", word) and not re.match(r"-\d+\.", word):
                    for option in word.split("|") if word.startswith("--") else [word]:
                        assert option.split("=")[0] in OPTIONS[name], f"{page.name}: `{line}`"


@current_pages
def test_options_named_alone_exist(page: Path) -> None:
    known = set().union(*OPTIONS.values())
    for line in code(page.read_text("utf-8")):
        for option in re.findall(r"--[a-z][a-z-]*", line) if line.startswith("--") else ():
            assert option in known, f"{page.name}: `{line}`"


@current_pages
def test_modules_that_are_run_exist(page: Path) -> None:
    for line in code(page.read_text("utf-8")):
        for words in words_after(line, "python -m"):
            if words[0].split(".")[0] in ("retrieval", "benchmarks"):
                spec = importlib.util.find_spec(words[0])
                assert spec and spec.origin, f"{page.name}: {words[0]}"
                assert "__main__" in Path(spec.origin).read_text("utf-8"), (
                    f"{words[0]} runs nothing"
                )


@current_pages
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = re.findall(r"\b(?:retrieval|indexes|benchmarks|tests|docs)/[\w./-]*\w/?", text)
    wrong = [path for path in named if not (ROOT / path).exists()]
    assert not wrong, f"{page.name}: {wrong}"


@all_pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M)
            slugs = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page.name}: {link}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 110
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in readme


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `retrieval demo` prints, and the folder of its photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        patch.delenv("RETRIEVAL_INDEX", raising=False)
        done = CliRunner().invoke(app, ["demo"], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout, Path("retrieval-demo", "photos").absolute()


def test_what_the_readme_shows_of_the_demo_is_what_it_prints(demo: tuple[str, Path]) -> None:
    """Scores, percents and seconds are of another machine; of the hits only the first is sure."""

    def same_everywhere(text: str) -> list[str]:
        lines = re.findall(r"^(?:\$ .+|\d+ added .+| +1 .+)$", text, re.M)
        return [re.sub(r"\d+(?:\.\d+)?", "N", " ".join(line.split())) for line in lines]

    readme = (ROOT / "README.md").read_text("utf-8")
    shown = [same_everywhere(b) for b in re.findall(r"^```text\n(.*?)^```$", readme, re.M | re.S)]
    printed = same_everywhere(demo[0])
    for block in shown:
        assert len(block) >= 4
        for line in block:
            assert line in printed


# Python ----------------------------------------------------------------------------------------


def examples() -> list[tuple[str, bool]]:
    """Every Python block of docs/python.md, and whether it is run."""
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    found = re.findall(r"^(<!-- not run -->\n)?```python\n(.*?)^```$", text, re.M | re.S)
    return [(block, not mark) for mark, block in found]


def test_names_of_the_package_in_the_docs_are_public() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
            for node in ast.walk(ast.parse(block)):
                names = []
                if isinstance(node, ast.ImportFrom) and node.module == "retrieval":
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    names = [node.attr] if node.value.id == "retrieval" else []
                assert set(names) <= {*retrieval.__all__}, f"{page.name}: {names}"


def test_every_public_name_is_on_the_page_of_python() -> None:
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    assert set(retrieval.__all__) <= named
    listed = re.findall(r"`(\w+)`", text.partition("## Hits")[2].partition("```")[0])
    assert {field.name for field in fields(retrieval.Hit)} <= set(listed)


def test_the_examples_in_python_run(
    demo: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(demo[1], tmp_path / "photos", ignore=shutil.ignore_patterns(".retrieval"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRIEVAL_INDEX", raising=False)
    names: dict[str, Any] = {}
    for block, run in examples():
        if run:
            exec(compile(block, "docs/python.md", "exec"), names)
    out = capsys.readouterr().out
    assert "20 photos added, 0 skipped" in out
    assert "coffee.png" in out
