"""What a server refuses: other hosts and sites, paths, large and hostile requests."""

import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from tests.server_fixtures import client_of, httpx, needs_server, search, send_raw, text

pytestmark = needs_server
SOME_ID = "ab" * 32


@pytest.fixture(scope="module")
def client(indexed: Path) -> Iterator[httpx.Client]:
    with client_of(indexed) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that wants a token; `client.token` has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        with client_of(indexed, token=True) as client:
            yield client


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of an error, which is a problem detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value = answer.json()
    assert value["status"] == status and value["title"] and value["detail"].endswith((".", ")"))
    return str(value["detail"])


# Hosts and sites -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_foreign_host_header_is_refused(client: httpx.Client, host: str) -> None:
    """A page of a DNS rebinding attack sends its own name."""
    assert "Host" in problem(client.get("/api/v1/status", headers={"Host": host}), 421)
    assert problem(client.get("/", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_own_names_and_addresses_pass(client: httpx.Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_a_name_can_be_allowed(indexed: Path) -> None:
    with client_of(indexed, allowed_hosts=("photos.example",)) as client:
        assert client.get("/health", headers={"Host": "photos.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_requests_of_other_sites_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    assert "another site" in problem(client.post("/api/v1/indexing", headers=headers), 403)
    assert problem(client.get(f"/api/v1/photos/{SOME_ID}/thumbnail", headers=headers), 403)
    assert "access-control-allow-origin" not in client.get("/health").headers


def test_a_link_from_another_site_opens_the_page_and_nothing_else(client: httpx.Client) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/api/v1/status", headers=link).status_code == 403


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/nothing", "/static/app.css", "/docs"])
def test_every_answer_has_the_strict_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers


def test_the_pages_have_no_inline_script_or_style(client: httpx.Client) -> None:
    import re

    for path in ("/", "/login", "/docs"):
        page = client.get(path).text
        scripts = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page)
        assert scripts in ([], ['<script id="first" type="application/json">']), "data alone"
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page), path
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page), "nothing from the network"


# Tokens ------------------------------------------------------------------------------------------


def test_another_host_always_needs_a_token() -> None:
    assert retrieval.ServeOptions(host="0.0.0.0").needs_token
    assert retrieval.ServeOptions(host="::").needs_token
    assert retrieval.ServeOptions(host="photos.example").needs_token
    assert not retrieval.ServeOptions(host="localhost").needs_token
    assert not retrieval.ServeOptions(host="127.0.0.2").needs_token


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Cookie": "retrieval=wrong"},
        {"Cookie": "retrieval=" + "x" * 5000},
    ],
)
def test_without_the_token_nothing_is_told(guarded: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/api/v1/status", "/metrics", f"/api/v1/photos/{SOME_ID}", "/api/v1/openapi.json"):
        problem(guarded.get(path, headers=headers), 401)
    problem(guarded.post("/api/v1/search", json={}, headers=headers), 401)
    answer = guarded.get("/", headers=headers)
    assert answer.status_code == 303 and answer.headers["location"] == "/login"
    assert guarded.get("/health").status_code == 200


def test_the_token_lets_programs_and_browsers_in(guarded: httpx.Client) -> None:
    token = guarded.token  # type: ignore[attr-defined]
    bearer = {"Authorization": f"Bearer {token}"}
    assert guarded.get("/api/v1/status", headers=bearer).status_code == 200
    for answer in (
        guarded.get("/", params={"token": token}),
        guarded.post("/login/token", data={"token": token}),
    ):
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    guarded.cookies.clear()
    cookies = {"Cookie": f"retrieval={token}"}
    assert guarded.get("/api/v1/status", headers=cookies).status_code == 200
    stolen = {**cookies, "Sec-Fetch-Site": "cross-site"}
    assert guarded.get("/api/v1/status", headers=stolen).status_code == 403
    forged = {**cookies, "Origin": "http://evil.example"}
    assert guarded.post("/api/v1/indexing", headers=forged).status_code == 403
    wrong = guarded.get("/", params={"token": "wrong"})
    assert wrong.headers["location"] == "/login?wrong=1" and "set-cookie" not in wrong.headers


def test_the_token_is_kept_as_a_hash_and_printed_once(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with client_of(indexed, token=True) as first:
        token = first.token  # type: ignore[attr-defined]
    assert token
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and "token" in file.name]
    assert len(kept) == 1 and token not in kept[0].read_text()
    assert kept[0].stat().st_mode & 0o077 == 0
    bearer = {"Authorization": f"Bearer {token}"}
    with client_of(indexed, token=True) as second:
        assert second.token is None  # type: ignore[attr-defined]
        assert second.get("/api/v1/status", headers=bearer).status_code == 200
    with client_of(indexed, token=True, new_token=True) as third:
        assert third.token not in (None, token)  # type: ignore[attr-defined]
        assert third.get("/api/v1/status", headers=bearer).status_code == 401


# Paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/..%2f..%2fetc/passwd",
        "/static/app.css%00.txt",
        "/api/v1/photos/../../etc/passwd",
        "/api/v1/photos/..%2f..%2f..%2fetc%2fpasswd/original",
        "/api/v1/photos/%2e%2e/original",
        "/api/v1/exports/..%2f..%2f/photos.zip",
    ],
)
def test_no_path_leads_to_a_file(client: httpx.Client, path: str) -> None:
    answer = send_raw(
        client, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    status = int(answer.split()[1])
    assert status in (400, 404, 405, 422), answer[:300]
    assert b"root:" not in answer and b"import" not in answer


@pytest.mark.parametrize("value", ["/etc/passwd", "../../x", "hash:" + SOME_ID, "-", "AB" * 32])
def test_no_term_or_filter_names_a_path(client: httpx.Client, value: str) -> None:
    for body in (
        {"terms": [{"kind": "photo", "id": value}]},
        {"terms": [{"kind": "example", "id": value}]},
        {"terms": [text("a cat")], "filters": {"folders": [value]}},
        {"filters": {"folders": [value]}},
    ):
        problem(client.post("/api/v1/search", json=body), 422)


def test_a_text_that_names_a_photo_stays_a_text(client: httpx.Client, indexed: Path) -> None:
    found = search(client, text(str(indexed / "chelsea.png")))
    assert found["hits"][0]["score"] < 0.9


@pytest.mark.parametrize("kind", ["photo", "example"])
def test_unknown_photos_are_a_sentence(client: httpx.Client, kind: str) -> None:
    answer = client.post("/api/v1/search", json={"terms": [{"kind": kind, "id": SOME_ID}]})
    problem(answer, 400)
    for end in ("", "/thumbnail", "/original", "/similar"):
        problem(client.get(f"/api/v1/photos/{SOME_ID}{end}"), 404)


# Sizes and amounts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"k": 0},
        {"k": 201},
        {"k": -1},
        {"k": 10**30},
        {"terms": [text("x")] * 17},
        {"terms": [text("x" * 1001)]},
        {"terms": [text("a", weight=0)]},
        {"terms": [text("a", weight=-1)]},
        {"terms": [text("a", weight=1e300)]},
        {"terms": [text("")]},
        {"terms": [text("  ")]},
        {"terms": [{"kind": "photo"}]},
        {"terms": [{"kind": "path", "text": "/etc"}]},
        {"filters": {"cameras": ["x"] * 51}},
        {"ranking": "magic"},
        {"unknown": 1},
        {"cursor": "x" * 65},
        [],
        None,
        "text",
    ],
)
def test_values_out_of_bounds_are_refused(client: httpx.Client, body: object) -> None:
    problem(client.post("/api/v1/search", json=body), 422)


@pytest.mark.parametrize(
    "body",
    [
        {"terms": [text("a cat", wanted=False)]},
        {"filters": {"after": "yesterday"}, "terms": [text("x")]},
        {"filters": {"before": "2024-13"}},
        {"filters": {"folders": ["0" * 16]}},
        {"filters": {"folders": ["0" * 16]}, "terms": [text("x")]},
        {"cursor": "x.y"},
        {"cursor": "."},
        {"cursor": "a.-1"},
        {"cursor": "a.999999999"},
    ],
)
def test_what_makes_no_sense_is_a_sentence(client: httpx.Client, body: object) -> None:
    problem(client.post("/api/v1/search", json=body), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"k": NaN}',
        b'{"terms": [{"kind": "text", "text": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"a":' * 20_000,
    ],
    ids=["empty", "open", "bytes", "nan", "surrogate", "deep-list", "deep-object"],
)
def test_bodies_that_are_no_json_are_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post(
        "/api/v1/search", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_large_bodies_are_refused_before_they_are_read(client: httpx.Client) -> None:
    problem(client.post("/api/v1/search", content=b" " * (1 << 19)), 413)
    head = (
        b"POST /api/v1/examples HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    )
    assert b" 413 " in send_raw(client, head)
    chunked = (
        b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"40100\r\n" + b" " * 0x40100 + b"\r\n0\r\n\r\n"
    )  # fmt: skip
    assert b" 413 " in send_raw(client, chunked)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of a header and compressed data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        png(60_000, 60_000),
        png(2_000_000_000, 2_000_000_000),
        png(30_000, 30_000, b"\0" * (1 << 20)),
        png(1, 60_000, b"\0" * (1 << 17)),
    ],
    ids=["empty", "text", "svg", "eps", "large", "huge", "bomb", "thin"],
)
def test_uploads_that_are_no_usable_photo_are_a_sentence(client: httpx.Client, data: bytes) -> None:
    assert "photo" in problem(client.post("/api/v1/examples", content=data), 422)


def test_too_many_requests_at_once_are_refused_and_the_rest_answered(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.server import engine, options

    monkeypatch.setattr(engine, "LIMITS", options.Limits(waiting=2))
    with client_of(indexed, readers=1) as client:
        start = threading.Barrier(16)

        def ask(number: int) -> httpx.Response:
            start.wait()
            return client.post(
                "/api/v1/search",
                json={"terms": [text(f"{number} cats")], "ranking": "templates", "k": 20},
            )

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(16)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "Too many" in problem(refused, 429) and refused.headers["retry-after"] == "1"
        assert search(client, text("a cat"))["hits"]


def test_what_files_say_is_text(few: Path) -> None:
    """Captions and names are JSON, and nothing else, in every answer."""
    evil = "<img src=x onerror=alert(1)>'\"&"
    (few / "chelsea.png").rename(few / "<b>'\"&.png")
    (few / "<b>'\"&.txt").write_text(evil)
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        hit = search(client, text("a cat"), k=1)["hits"][0]
        assert hit["caption"] == evil
        assert hit["name"] == "<b>'\"&.png"
        answer = client.get(f"/api/v1/photos/{hit['id']}/original")
        assert "\r" not in answer.headers["content-disposition"]
        assert "%3Cb%3E" in answer.headers["content-disposition"]


def test_names_that_are_not_text_are_answered(few: Path) -> None:
    name = b"caf\xe9.png"
    try:
        (few / "chelsea.png").rename(Path(few, name.decode("utf-8", "surrogateescape")))
    except OSError:
        pytest.skip("names on this disk have to be Unicode")
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        hit = search(client, text("a cat"), k=1)["hits"][0]
        assert hit["name"] == "caf?.png"
        assert client.get(f"/api/v1/photos/{hit['id']}/original").status_code == 200
        assert json.loads(client.get("/api/v1/overview").text)


def test_a_search_is_never_logged(indexed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with client_of(indexed) as client:
        search(client, text("a private matter"))
    out, err = capfd.readouterr()
    assert "private" not in out + err


def test_thumbnails_of_bombs_are_a_sentence(few: Path) -> None:
    """A photo may become a bomb after it was indexed."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "PNG")
    with client_of_index(few) as client:
        hit = search(client, text("a cat"), k=1)["hits"][0]
        Path(hit["path"]).write_bytes(png(60_000, 60_000))
        problem(client.get(f"/api/v1/photos/{hit['id']}/thumbnail?size=160"), 422)


def client_of_index(folder: Path):
    retrieval.index(folder, model="mini")
    return client_of(folder)
