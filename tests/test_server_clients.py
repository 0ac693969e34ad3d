"""Programs that use the server or its engine: the client, `search --server`, MCP, the benchmark."""

import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import retrieval
from retrieval import Term
from tests.conftest import Run, needs_extra
from tests.server_fixtures import client_of, needs_server


@pytest.fixture(scope="module")
def address(indexed: Path) -> Iterator[str]:
    with client_of(indexed) as client:
        yield str(client.base_url)


pytestmark = needs_server


def same(ours: list[retrieval.Hit], theirs: list[retrieval.Hit]) -> None:
    assert [hit.path for hit in ours] == [hit.path for hit in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5) and one.rank == other.rank
        assert one.photo == other.photo and one.copies == other.copies
        assert (one.relevance is None) == (other.relevance is None)
        assert one.explanation is not None and other.explanation is not None
        assert one.explanation.terms == pytest.approx(other.explanation.terms, abs=1e-5)


def test_the_client_gives_what_an_open_index_gives(
    address: str, indexed: Path, originals: Path, tmp_path: Path
) -> None:
    with Image.open(originals / "coffee.png") as image:
        image.resize((300, 200)).save(tmp_path / "cup.png")
    cup, brick = str(tmp_path / "cup.png"), str(originals / "brick.png")
    terms = (
        (Term("text", "an animal"), Term("text", "a cat", wanted=False)),
        (Term("text", "a cat", weight=2), Term("photo", cup)),
        (Term("photo", brick),),
    )
    with retrieval.Client(address) as client, retrieval.open(indexed) as photos:
        for some in terms:
            query = retrieval.Query(some, min_score=-0.5)
            options = retrieval.SearchOptions(7)
            same(client.ask(query, options), photos.ask(query, options))
        similar = client.similar(originals / "brick.png", 3)
        assert [h.path for h in similar] == [
            h.path for h in photos.similar(indexed / "brick.png", 3)
        ]
        first = client.ask(retrieval.Query((Term("text", "a cat"),)))[0]
        assert client.captions(first) == photos.captions(first) == ()
        picture = Image.open(io.BytesIO(client.thumbnail(first.photo.hash, 160)))
        assert max(picture.size) == 160
        assert client.status()["photos"] == 20
        inside = retrieval.Query((Term("text", "a cat"),), within=(indexed,))
        assert len(client.ask(inside)) == 10


def test_search_asks_a_server_and_prints_the_same(address: str, indexed: Path, run: Run) -> None:
    command = ("search", "an animal", "--not", "a cat", "-k", 5, "--explain")
    asked = run(*command, "--server", address)
    alone = run(*command, "--index", indexed)
    assert asked.code == 0 and asked.out == alone.out


def test_search_with_a_server_loads_no_model(address: str) -> None:
    code = (
        "import sys; sys.argv = ['retrieval', 'search', 'a cat', '--server', sys.argv[1]]\n"
        "import atexit, cli\n"
        "heavy = ('torch', 'tokenizers', 'openvino', 'faiss', 'fastapi')\n"
        "atexit.register(lambda: print('loaded', [m for m in heavy if m in sys.modules]))\n"
        "cli.main()"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, cwd=root, check=True
    )
    assert "chelsea.png" in done.stdout and "loaded []" in done.stdout


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        ("http://127.0.0.1:1", "No server answers"),
        ("ftp://localhost", "not the address"),
        ("http://localhost:port", "not the address"),
    ],
)
def test_a_server_that_cannot_be_asked_is_a_sentence(run: Run, server: str, sentence: str) -> None:
    done = run("search", "a cat", "--server", server)
    assert done.code == 1 and sentence in done.messages


def test_errors_of_the_server_are_those_of_the_command_line(
    address: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    for words, sentence in (
        (("--not", "a cat"), "asks for nothing"),
        (("a cat", "--image", tmp_path / "x.jpg"), "cannot be used as a photo"),
        (("a cat", "--image", tmp_path / "y.jpg"), "cannot be used as a photo"),
        (("a cat", "--in", tmp_path), "is not a folder of the index"),
    ):
        done = run("search", *words, "--server", address)
        assert done.code == 1 and sentence in done.messages, done.messages


def test_the_client_sends_its_token(
    indexed: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with client_of(indexed, token=True) as client:
        url, token = str(client.base_url), client.token  # type: ignore[attr-defined]
        refused = run("search", "a cat", "--server", url)
        assert refused.code == 1 and "RETRIEVAL_TOKEN" in refused.messages
        monkeypatch.setenv("RETRIEVAL_TOKEN", token)
        assert "chelsea.png" in run("search", "a cat", "--server", url).out


@needs_extra("show", "textual_image")
def test_show_draws_the_first_hits(few: Path, run: Run) -> None:
    (few / "chelsea.txt").write_text("Our cat Tiger")
    retrieval.index(few, model="mini")
    done = run("search", "a cat", "-k", 2, "--show", "--index", few)
    assert done.code == 0, done.messages
    assert "Our cat Tiger" in done.out
    drawn = [line for line in done.out.splitlines() if set(line) & set("▀▄█░▒▓")]
    assert len(drawn) >= 12


@needs_extra("mcp", "mcp")
def test_an_assistant_searches_looks_and_reads(indexed: Path, tmp_path: Path) -> None:
    from mcp import Client

    from retrieval.server.mcp_server import create_mcp

    async def talk() -> None:
        async with Client(create_mcp(indexed / ".retrieval", tmp_path)) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"search_photos", "view_photos", "photo_details", "describe_index"}

            async def call(name: str, **arguments: Any) -> Any:
                return await client.call_tool(name, arguments)

            found = (await call("search_photos", query="a cat", k=3)).structured_content
            first = found["hits"][0]
            assert first["name"] == "chelsea.png" and found["verdict"] == "good"
            seen = await call("view_photos", ids=[first["id"]], size=300)
            assert seen.content[0].type == "image" and seen.content[0].mime_type == "image/webp"
            details = (await call("photo_details", photo=first["id"])).structured_content
            assert details["files"][0]["name"] == "chelsea.png"
            about = (await call("describe_index")).structured_content
            assert about["photos"] == 20 and about["folders"][0]["photos"] == 20
            like = await call("search_photos", like=[first["id"]], without="grass")
            assert "chelsea.png" not in [h["name"] for h in like.structured_content["hits"]]
            wrong = await call("view_photos", ids=["../etc/passwd"])
            assert wrong.is_error and "not the id" in wrong.content[0].text

    asyncio.run(talk())


@needs_extra("mcp", "mcp")
def test_the_command_speaks_mcp_on_standard_input_and_output(indexed: Path) -> None:
    from mcp import Client, StdioServerParameters

    root = Path(__file__).parents[1]
    command = StdioServerParameters(
        command=sys.executable, args=[str(root / "cli.py"), "mcp", "--index", str(indexed)]
    )

    async def talk() -> None:
        async with Client(command) as client:
            found = await client.call_tool("search_photos", {"query": "a cat", "k": 1})
            assert found.structured_content["hits"][0]["name"] == "chelsea.png"

    asyncio.run(talk())


def test_the_benchmark_measures_what_it_says(indexed: Path, run: Run) -> None:
    done = run("benchmark", "serve", indexed, "--seconds", 0.5, "--clients", 5, "-k", 5, "--json")
    assert done.code == 0, done.messages
    found = done.json
    assert found["photos"] == 20 and found["together"]["clients"] == 5
    for load in ("alone", "together", "thumbnails_cold", "thumbnails_warm"):
        assert found[load]["errors"] == 0 and found[load]["rate"] > 0
    assert found["encoder_single"] > 0 and found["mebibytes"] > 20


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("serve", "fastapi", "serve"), ("serve", "uvicorn", "serve"), ("mcp", "mcp", "mcp")],
)
def test_without_an_extra_a_command_says_what_to_install(
    indexed: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    done = run(command, "--index", indexed)
    assert done.code == 1 and f"crossmodal-retrieval[{extra}]" in done.messages
    assert package in done.messages
