"""The HTTP API of `retrieval serve`, asked over real sockets."""

import io
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from tests.conftest import Run
from tests.server_fixtures import client_of, httpx, names, needs_server, search, text

pytestmark = needs_server


@pytest.fixture(scope="module")
def client(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with client_of(indexed) as client:
            yield client


@pytest.fixture
def captioned(few: Path) -> Path:
    """Four photos in two folders, with captions, dates and an index."""
    (few / "food").mkdir()
    (few / "coffee.png").rename(few / "food" / "coffee.png")
    (few / "chelsea.txt").write_text("Our cat Tiger\nasleep on the sofa")
    for name, day in (("chelsea.png", 1_500_000_000), ("rocket.jpg", 1_700_000_000)):
        os.utime(few / name, (day, day))
    retrieval.index(few, model="mini")
    return few


def id_of(client: httpx.Client, name: str) -> str:
    return next(hit["id"] for hit in search(client)["hits"] if hit["name"] == name)


# Searching ---------------------------------------------------------------------------------------


def test_a_text_finds_its_photo_with_score_relevance_and_explanation(client: httpx.Client) -> None:
    found = search(client, text("a cat"), k=3, explain=True)
    first = found["hits"][0]
    assert first["name"] == "chelsea.png" and first["rank"] == 1 and len(found["hits"]) == 3
    assert found["verdict"] == "good" and first["relevance"] > 0.5
    how = first["explanation"]
    assert sum(how["terms"]) + how["together"] == pytest.approx(first["score"], abs=1e-4)


def test_the_server_finds_what_the_command_line_finds(
    client: httpx.Client, indexed: Path, run: Run
) -> None:
    done = run("search", "an animal", "--not", "a cat", "-k", 5, "--format", "json", cwd=indexed)
    found = search(client, text("an animal"), text("a cat", wanted=False), k=5)
    assert names(found) == done.names
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([h["score"] for h in done.json])


def test_terms_are_weighted(client: httpx.Client) -> None:
    light = search(client, text("a cat"), text("a flower", weight=0.1))
    heavy = search(client, text("a cat"), text("a flower", weight=10))
    assert names(light)[0] == "chelsea.png" and names(heavy)[0] == "flower.jpg"


def test_nonsense_is_answered_as_a_weak_result(client: httpx.Client) -> None:
    assert search(client, text("quarterly tax declaration form"))["verdict"] == "weak"


def test_without_terms_all_photos_are_listed_the_latest_first(client: httpx.Client) -> None:
    found = search(client, k=200)
    assert len(found["hits"]) == 20 and found["next"] is None
    assert found["hits"][0]["score"] is None


def test_a_cursor_continues_without_gap_or_repetition(client: httpx.Client) -> None:
    whole = search(client, text("an animal"), k=20)
    pages: list[str] = []
    cursor = None
    while True:
        found = search(client, text("an animal"), k=3, cursor=cursor)
        assert [hit["rank"] for hit in found["hits"]] == list(
            range(len(pages) + 1, len(pages) + len(found["hits"]) + 1)
        )
        pages += names(found)
        cursor = found["next"]
        if cursor is None:
            break
    assert pages == names(whole)


def test_a_cursor_that_is_no_longer_kept_is_answered_all_the_same(client: httpx.Client) -> None:
    whole = names(search(client, text("a plant"), k=20))
    assert names(search(client, text("a plant"), k=5, cursor="forgotten.5")) == whole[5:10]


def test_similar_leaves_out_the_photo_itself(client: httpx.Client) -> None:
    brick = id_of(client, "brick.png")
    answer = client.get(f"/api/v1/photos/{brick}/similar?k=4").json()
    assert len(answer["hits"]) == 4 and "brick.png" not in names(answer)
    assert client.get(f"/api/v1/photos/{'0' * 64}/similar").status_code == 404


def test_a_photo_of_the_index_is_a_term_even_when_its_file_is_gone(photos: Path) -> None:
    with client_of(photos) as client:
        cat = id_of(client, "chelsea.png")
        (photos / "chelsea.png").unlink()
        found = search(client, {"kind": "photo", "id": cat}, k=1)
        assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_an_uploaded_photo_is_a_term(client: httpx.Client, originals: Path) -> None:
    with Image.open(originals / "coffee.png") as image:
        buffer = io.BytesIO()
        image.resize((300, 200)).save(buffer, "JPEG")
    answer = client.post("/api/v1/examples", content=buffer.getvalue())
    assert answer.status_code == 201 and answer.json()["kind"] == "example"
    term = {"kind": "example", "id": answer.json()["id"]}
    assert names(search(client, term))[0] == "coffee.png"
    assert (
        "coffee.png" not in names(search(client, text("an animal"), {**term, "wanted": False}))[:3]
    )


def test_an_upload_of_a_known_photo_becomes_that_photo(
    client: httpx.Client, originals: Path
) -> None:
    answer = client.post("/api/v1/examples", content=(originals / "chelsea.png").read_bytes())
    assert answer.json()["kind"] == "photo" and answer.json()["id"] == id_of(client, "chelsea.png")


# Filters -----------------------------------------------------------------------------------------


def test_filters_by_folder_date_and_caption(captioned: Path) -> None:
    with client_of(captioned) as client:
        overview = client.get("/api/v1/overview").json()
        folders = {folder["name"]: folder for folder in overview["folders"]}
        assert folders["few"]["photos"] == 4 and folders["food"]["photos"] == 1
        assert folders["food"]["parent"] == folders["few"]["id"] and overview["captioned"]
        assert {"month": "2023-11", "photos": 1} in overview["months"]
        inside = {"folders": [folders["food"]["id"]]}
        assert names(search(client, text("a cat"), filters=inside)) == ["coffee.png"]
        assert names(search(client, filters=inside)) == ["coffee.png"]
        assert names(search(client, text("a thing"), filters={"before": "2018"})) == ["chelsea.png"]
        assert names(search(client, filters={"after": "2023-11", "before": "2024"})) == [
            "rocket.jpg"
        ]
        assert names(search(client, filters={"captioned": True})) == ["chelsea.png"]
        assert len(names(search(client, text("a cat"), filters={"captioned": False}))) == 3


def test_filters_by_camera(few: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Snapper 3"
    with Image.open(few / "china.jpg") as image:
        image.save(few / "china.jpg", exif=exif)
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        (camera,) = client.get("/api/v1/overview").json()["cameras"]
        assert camera["photos"] == 1 and "Snapper 3" in camera["name"]
        chosen = {"cameras": [camera["name"]]}
        assert names(search(client, text("a cat"), filters=chosen)) == ["china.jpg"]
        assert names(search(client, filters=chosen)) == ["china.jpg"]


def test_filters_by_place(few: Path) -> None:
    """Places by their names, in a folder whose photos say where they were taken."""
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 20.0)}
    with Image.open(few / "china.jpg") as image:
        image.save(few / "china.jpg", exif=exif)
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        known = {place["name"] for place in client.get("/api/v1/overview").json()["places"]}
        assert {"Vienna", "Austria"} <= known
        for chosen in ({"place": "vienna"}, {"place": "Vienna, Austria"}, {"near": "48.2,16.37"}):
            assert names(search(client, text("a cat"), filters=chosen)) == ["china.jpg"]
            assert names(search(client, filters=chosen)) == ["china.jpg"]
        hit = search(client, filters={"near": "Vienna", "near_km": 5})["hits"][0]
        assert (hit["city"], hit["country"]) == ("Vienna", "Austria")
        details = client.get(f"/api/v1/photos/{hit['id']}").json()
        assert details["place"].startswith("Vienna") and details["place_source"]
        for wrong in ({"place": "Atlantis"}, {"near": "Xyzzyville"}, {"near": "100,200"}):
            answer = client.post("/api/v1/search", json={"terms": [text("x")], "filters": wrong})
            assert answer.status_code == 400, answer.text


def test_hits_are_sorted_by_date(captioned: Path) -> None:
    with client_of(captioned) as client:
        found = names(search(client, text("a cat"), sort="date"))
        assert len(found) == 4 and found.index("rocket.jpg") < found.index("chelsea.png")


# Photos ------------------------------------------------------------------------------------------


def test_details_have_captions_and_copies(captioned: Path) -> None:
    shutil.copy2(captioned / "chelsea.png", captioned / "food" / "again.png")
    retrieval.index(captioned)
    with client_of(captioned) as client:
        found = search(client, text("a cat"), k=1)["hits"][0]
        assert found["caption"] == "Our cat Tiger" and len(found["copies"]) == 1
        details = client.get(f"/api/v1/photos/{found['id']}").json()
        assert [c["text"] for c in details["captions"]] == ["Our cat Tiger", "asleep on the sofa"]
        assert details["captions"][0]["origin"] == "chelsea.txt"
        assert {place["name"] for place in details["files"]} == {"chelsea.png", "again.png"}


@pytest.mark.parametrize(("asked", "longest"), [(1, 160), (300, 320), (640, 451), (4096, 451)])
def test_thumbnails_have_a_few_sizes_and_are_never_enlarged(
    client: httpx.Client, asked: int, longest: int
) -> None:
    answer = client.get(f"/api/v1/photos/{id_of(client, 'chelsea.png')}/thumbnail?size={asked}")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert max(Image.open(io.BytesIO(answer.content)).size) == longest


def test_a_thumbnail_is_sent_once(client: httpx.Client) -> None:
    where = f"/api/v1/photos/{id_of(client, 'coffee.png')}/thumbnail"
    tag = client.get(where).headers["etag"]
    again = client.get(where, headers={"If-None-Match": tag})
    assert again.status_code == 304 and not again.content


def test_thumbnails_stay_within_their_bound(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.server import engine, options

    monkeypatch.setattr(engine, "LIMITS", options.Limits(thumbnails=40_000))
    with client_of(photos) as client:
        for hit in search(client)["hits"]:
            answer = client.get(f"/api/v1/photos/{hit['id']}/thumbnail")
            assert answer.status_code == 200
    cache = Path(os.environ["XDG_CACHE_HOME"])
    files = [file for file in cache.rglob("*.webp") if file.stat().st_size]
    mine = [f for f in files if f.stat().st_mtime > time.time() - 300]
    assert sum(f.stat().st_size for f in mine if _same_server(f, mine)) <= 40_000


def _same_server(file: Path, files: list[Path]) -> bool:
    latest = max(files, key=lambda f: f.stat().st_mtime)
    return file.parents[1] == latest.parents[1]


def test_an_original_is_sent_whole_and_in_parts(client: httpx.Client, originals: Path) -> None:
    data = (originals / "rocket.jpg").read_bytes()
    where = f"/api/v1/photos/{id_of(client, 'rocket.jpg')}/original"
    whole = client.get(where)
    assert whole.content == data and whole.headers["content-type"] == "image/jpeg"
    assert "sandbox" in whole.headers["content-security-policy"]
    head = client.head(where)
    assert head.headers["content-length"] == str(len(data)) and not head.content
    for asked, part in (
        ("bytes=0-9", data[:10]),
        ("bytes=10-", data[10:]),
        ("bytes=-7", data[-7:]),
        (f"bytes=5-{len(data) * 2}", data[5:]),
    ):
        answer = client.get(where, headers={"Range": asked})
        assert answer.status_code == 206 and answer.content == part, asked
        first = len(data) - len(part) if asked != "bytes=0-9" else 0
        last = first + len(part) - 1
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"
    assert client.get(where, headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    for nonsense in ("bytes=9-1", "bytes=0-1,5-6", "lines=1-2", "bytes=-"):
        assert client.get(where, headers={"Range": nonsense}).content == data
    fresh = client.get(where, headers={"Range": "bytes=0-9", "If-Range": '"old"'})
    assert fresh.status_code == 200 and fresh.content == data


def test_an_original_behind_a_link_out_of_the_folder_is_not_sent(
    photos: Path, tmp_path: Path
) -> None:
    with client_of(photos) as client:
        where = f"/api/v1/photos/{id_of(client, 'rocket.jpg')}/original"
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        (photos / "rocket.jpg").unlink()
        (photos / "rocket.jpg").symlink_to(tmp_path / "secret.jpg")
        answer = client.get(where)
        assert answer.status_code == 422 and b"secret" not in answer.content
        assert client.get(where.replace("original", "thumbnail?size=1280")).status_code == 422


def test_selected_photos_are_downloaded_as_zip_and_csv(
    client: httpx.Client, originals: Path
) -> None:
    chosen = [id_of(client, name) for name in ("rocket.jpg", "coffee.png")]
    answer = client.post("/api/v1/exports", json={"ids": [*chosen, "0" * 64]})
    assert answer.status_code == 201
    export = answer.json()
    assert (export["photos"], export["left_out"]) == (2, 1)
    archive = zipfile.ZipFile(io.BytesIO(client.get(export["zip"]).content))
    assert archive.testzip() is None and archive.namelist() == ["rocket.jpg", "coffee.png"]
    assert archive.read("coffee.png") == (originals / "coffee.png").read_bytes()
    lines = client.get(export["csv"]).text.splitlines()
    assert len(lines) == 3 and "rocket.jpg" in lines[1]
    assert client.get("/api/v1/exports/nothing/photos.zip").status_code == 404


# The index beside it -----------------------------------------------------------------------------


def events(client: httpx.Client, until: str) -> list[tuple[str, dict]]:
    """Events until one has the state `until`."""
    found: list[tuple[str, dict]] = []
    with client.stream("GET", "/api/v1/events") as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
                if found[-1][1].get("state") == until and len(found) > 2:
                    return found
    return found


def test_new_photos_are_indexed_beside_the_server_and_found(photos: Path, originals: Path) -> None:
    (photos / "coffee.png").unlink()
    retrieval.index(photos, options=retrieval.Options(prune=True))
    with client_of(photos) as client:
        assert names(search(client, text("a cup of coffee")))[0] != "coffee.png"
        shutil.copy2(originals / "coffee.png", photos / "breakfast.png")
        answer = client.post("/api/v1/indexing")
        assert answer.status_code == 202 and answer.json()["state"] == "running"
        assert client.post("/api/v1/indexing").status_code == 409
        seen = events(client, "idle")
        assert ("1 added" in seen[-1][1]["message"]) and any(
            value.get("total") == 1 for _, value in seen
        )
        assert names(search(client, text("a cup of coffee")))[0] == "breakfast.png"
        assert client.get("/api/v1/status").json()["photos"] == 20


def test_an_index_run_can_be_stopped(photos: Path) -> None:
    with client_of(photos) as client:
        client.post("/api/v1/indexing")
        state = client.delete("/api/v1/indexing").json()
        assert state["state"] == "failed" and "Stopped" in state["message"]
        assert client.post("/api/v1/indexing").status_code == 202


def test_watched_folders_are_indexed_when_they_change(photos: Path, originals: Path) -> None:
    with client_of(photos, watch=True) as client:
        assert client.get("/api/v1/status").json()["indexing"]["watching"]
        time.sleep(0.5)  # until the watcher listens
        shutil.copy2(originals / "coffee.png", photos / "copy.png")
        until = time.monotonic() + 60
        while client.get("/api/v1/status").json()["files"] < 21:
            assert time.monotonic() < until
            time.sleep(0.2)


def test_a_rebuild_with_another_model_is_noticed(photos: Path, tiny_mini: Path) -> None:
    with client_of(photos) as client:
        assert names(search(client, text("a cat")))[0] == "chelsea.png"
        retrieval.index(photos, model=str(tiny_mini), options=retrieval.Options(rebuild=True))
        assert len(search(client, text("a cat"))["hits"]) == 20


def test_status_health_metrics_and_description(client: httpx.Client) -> None:
    status = client.get("/api/v1/status").json()
    assert status["photos"] == 20 and status["model"] == "mini"
    assert client.get("/health").json() == {"status": "ok"}
    search(client, text("a cat"))
    metrics = client.get("/metrics").text
    assert 'retrieval_requests_total{route="/api/v1/search",status="200"}' in metrics
    described = client.get("/api/v1/openapi.json").json()
    assert "/api/v1/search" in described["paths"]
    assert client.get("/docs").status_code == 200


def test_the_command_serves_and_ends(indexed: Path, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    root = Path(__file__).parents[1]
    command = [sys.executable, root / "cli.py", "serve", indexed, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        url = line.removeprefix("Photos: ").strip()
        assert httpx.get(f"{url}health").status_code == 200
        with httpx.stream("GET", f"{url}api/v1/events") as stream:  # it must not hold up the end
            next(stream.iter_bytes())
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) in (0, -signal.SIGINT, 130)


@pytest.mark.slow
def test_the_demo_can_end_in_the_page(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, Path(__file__).parents[1] / "cli.py", "demo", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = (line.decode() for line in process.stdout)
        url = next(line for line in lines if line.startswith("Photos: ")).partition(" ")[2].strip()
        assert httpx.get(f"{url}api/v1/status").json()["photos"] == 20
        process.terminate()


def test_a_port_that_is_taken_is_a_sentence(client: httpx.Client, indexed: Path, run: Run) -> None:
    done = run("serve", indexed, "--port", client.base_url.port)
    assert done.code == 1 and "cannot listen" in done.messages and "--port" in done.messages


# Notes -------------------------------------------------------------------------------------------


def wait_until_idle(client: httpx.Client) -> None:
    until = time.monotonic() + 120
    while client.get("/api/v1/status").json()["indexing"]["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.2)


def test_own_captions_and_keywords_are_kept_found_and_exported(few: Path, tmp_path: Path) -> None:
    retrieval.index(few, model="mini")
    before = {file: file.read_bytes() for file in few.iterdir() if file.is_file()}
    with client_of(few) as client:
        cat = id_of(client, "chelsea.png")
        ask = {"ids": [cat, "0" * 64], "kind": "caption", "text": " Zanzibar <b>\x07at</b> noon "}
        assert client.post("/api/v1/notes", json=ask).json() == {"photos": 1}
        wait_until_idle(client)
        for word in ("holiday", "pets & co"):
            noted = client.post(
                "/api/v1/notes", json={"ids": [cat], "kind": "keyword", "text": word}
            )
            assert noted.status_code == 200, noted.text
            wait_until_idle(client)
        details = client.get(f"/api/v1/photos/{cat}").json()
        assert [(n["kind"], n["text"]) for n in details["notes"]] == [
            ("caption", "Zanzibar <b> at</b> noon"),
            ("keyword", "holiday"),
            ("keyword", "pets & co"),
        ]
        assert details["captions"] == []
        assert names(search(client, text("zanzibar")))[0] == "chelsea.png"
        assert names(search(client, filters={"captioned": True})) == ["chelsea.png"]
        assert search(client, text("zanzibar"))["hits"][0]["caption"].startswith("Zanzibar")
        export = client.post("/api/v1/exports", json={"ids": [cat]}).json()
        archive = zipfile.ZipFile(io.BytesIO(client.get(export["sidecars"]).content))
        assert archive.namelist() == ["few/chelsea.png.xmp"]
        none = client.post("/api/v1/exports", json={"ids": [id_of(client, "china.jpg")]}).json()
        assert client.get(none["sidecars"]).status_code == 400
    assert before == {file: file.read_bytes() for file in few.iterdir() if file.is_file()}
    # What was written as a sidecar is what is read from it.
    archive.extractall(tmp_path / "out")
    shutil.copy2(few / "chelsea.png", tmp_path / "out" / "few")
    retrieval.index(tmp_path / "out", model="mini")
    with client_of(tmp_path / "out") as client:
        (hit,) = search(client)["hits"]
        found = client.get(f"/api/v1/photos/{hit['id']}").json()["captions"]
        assert [c["text"] for c in found] == ["Zanzibar <b> at</b> noon", "holiday, pets & co"]


def test_notes_stay_through_moves_and_rebuilds_and_can_be_taken_back(few: Path) -> None:
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        cat = id_of(client, "chelsea.png")
        note = {"ids": [cat], "kind": "keyword", "text": "zanzibar"}
        client.post("/api/v1/notes", json=note)
        wait_until_idle(client)
        (few / "chelsea.png").rename(few / "moved.png")
        retrieval.index(few, options=retrieval.Options(rebuild=True))
        assert names(search(client, text("zanzibar")))[0] == "moved.png"
        assert len(client.get(f"/api/v1/photos/{cat}").json()["notes"]) == 1
        assert client.post("/api/v1/notes/removed", json=note).json() == {"photos": 1}
        wait_until_idle(client)
        assert client.get(f"/api/v1/photos/{cat}").json()["notes"] == []
        assert search(client, filters={"captioned": True})["hits"] == []
        for wrong in ({"kind": "note"}, {"text": " "}, {"text": "x" * 501}, {"ids": []}):
            assert client.post("/api/v1/notes", json=note | wrong).status_code == 422


def test_notes_wait_for_an_index_that_is_being_changed(photos: Path) -> None:
    from indexes.lock import lock

    with client_of(photos) as client:
        note = {"ids": [id_of(client, "coffee.png")], "kind": "keyword", "text": "mine"}
        with lock(photos / ".retrieval"):
            answer = client.post("/api/v1/notes", json=note)
            assert answer.status_code == 409 and "being changed" in answer.json()["detail"]


# One version, many requests ----------------------------------------------------------------------


def test_hits_show_captions_of_the_present_version_of_the_index(captioned: Path) -> None:
    with client_of(captioned) as client:
        shown = {hit["name"]: hit["caption"] for hit in search(client, text("a cat"))["hits"]}
        assert shown["chelsea.png"] == "Our cat Tiger" and shown["rocket.jpg"] is None
        (captioned / "rocket.jpg").rename(captioned / "launch.jpg")
        (captioned / "launch.txt").write_text("The launch")
        (captioned / "chelsea.png").unlink()
        retrieval.index(captioned)
        shown = {hit["name"]: hit["caption"] for hit in search(client, text("a cat"))["hits"]}
        assert shown["launch.jpg"] == "The launch"
        assert not {"rocket.jpg", "chelsea.png"} & shown.keys()


def test_texts_that_arrive_while_readers_are_busy_are_one_batch(indexed: Path) -> None:
    import asyncio

    from retrieval.encoders.registry import load_encoder
    from retrieval.server.encoder import SharedEncoder

    encoder = load_encoder("mini")
    batches = []
    plain = encoder.encode_texts
    encoder.encode_texts = lambda texts: batches.append(list(texts)) or plain(texts)
    shared = SharedEncoder(encoder)

    async def ask() -> None:
        busy = asyncio.Event()

        async def turn() -> None:
            await busy.wait()

        asked = [asyncio.create_task(shared.embed([f"text {n}"], turn)) for n in range(5)]
        await asyncio.sleep(0)
        assert not batches
        busy.set()
        await asyncio.gather(*asked)
        busy.clear()
        await shared.embed(["readers that stay busy make no text wait for ever"], turn)

    asyncio.run(ask())
    assert [len(batch) for batch in batches] == [5, 1]
    shared.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the page waits for its hits."""
    monkeypatch.setattr("retrieval.server.app._PATIENCE", 60.0)


def first_hits(client: httpx.Client, address: str) -> dict | None:
    """What the page brings with it."""
    page = client.get(address).text
    found = re.search('<script id="first" type="application/json">(.*?)</script>', page, re.DOTALL)
    return None if found is None else json.loads(found[1])


def test_the_page_brings_its_first_hits(client: httpx.Client, patient: None) -> None:
    first = first_hits(client, "/?t=a+cat&t=-people~0.5&sort=date&show=normal")
    assert first is not None
    asked = client.post("/api/v1/search", json=first["asked"]).json()
    assert [hit["id"] for hit in first["found"]["hits"]] == [hit["id"] for hit in asked["hits"]]
    assert first["asked"]["terms"][1] == {
        **{"kind": "text", "text": "people", "wanted": False, "weight": 0.5}
    }


@pytest.mark.parametrize(
    "address",
    [
        "/?folder=none",
        "/?after=tomorrow",
        f"/?p={'0' * 64}",
        f"/?t={'x' * 2000}",
        "/?" + "t=a&" * 999,
    ],
)
def test_a_page_of_a_query_that_makes_no_sense_comes_without_hits(
    client: httpx.Client, address: str
) -> None:
    assert client.get(address).status_code == 200 and first_hits(client, address) is None


def test_a_caption_cannot_end_the_element_with_the_first_hits(few: Path, patient: None) -> None:
    (few / "chelsea.txt").write_text("</script><script>alert(1)</script>")
    retrieval.index(few, model="mini")
    with client_of(few) as client:
        first = first_hits(client, "/?t=a+cat")
        assert first is not None
        assert first["found"]["hits"][0]["caption"] == "</script><script>alert(1)</script>"
        assert "<script>alert" not in client.get("/?t=a+cat").text


def test_scripts_are_kept_by_browsers_and_have_an_address_for_each_version(
    client: httpx.Client,
) -> None:
    (script,) = re.findall('src="(/static/[0-9a-f]{16}/main.js)"', client.get("/").text)
    assert "immutable" in client.get(script).headers["cache-control"]
    assert "no-cache" in client.get("/").headers["cache-control"]


def test_an_address_with_nothing_is_answered_with_a_sentence(client: httpx.Client) -> None:
    for answer in (client.get("/nothing"), client.get("/api/v1/nothing"), client.put("/health")):
        assert answer.json()["detail"].endswith("."), answer.text
