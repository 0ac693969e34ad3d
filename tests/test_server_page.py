"""The page of `retrieval serve` in a real browser: Debian's Chromium, driven by Playwright."""

import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import retrieval
from tests.server_fixtures import client_of, needs_server

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
_missing = "no playwright" if find_spec("playwright") is None else "" if BROWSER else "no chromium"
pytestmark = [
    *needs_server,
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing), reason=f"needs '.[dev]' and a browser: {_missing}"),
]
SHOTS = os.environ.get("RETRIEVAL_SHOTS")  # a folder for pictures of the page, to look at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photos_of_page(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photos in two folders, some with captions and dates, indexed; not to be changed."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    shutil.copytree(originals, folder)
    (folder / "space").mkdir()
    for name in ("rocket.jpg", "moon.png", "hubble_deep_field.jpg", "astronaut.png"):
        (folder / name).rename(folder / "space" / name)
    (folder / "chelsea.txt").write_text("Our cat Tiger <b>asleep</b>")
    for number, photo in enumerate(sorted(folder.rglob("*.*g"))):
        time = 1_500_000_000 + number * 10_000_000
        os.utime(photo, (time, time))
    retrieval.index(folder, model="mini")
    return folder


@pytest.fixture(scope="module")
def address(photos_of_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with client_of(photos_of_page) as client:
            yield str(client.base_url).rstrip("/")


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; whatever goes wrong on it fails the test."""
    context = browser.new_context(
        base_url=address, viewport={"width": 1200, "height": 800}, accept_downloads=True
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.set_default_timeout(20_000)
    page.goto("/")
    page.wait_for_selector(".tile img")
    yield page
    context.close()
    # Chromium reports every answer of 4xx, and every request that a test aborts.
    assert not [text for text in wrong if "Failed to load resource" not in text], wrong


def find(page: Any, words: str) -> None:
    """Type words and search."""
    page.fill("#words", words)
    page.press("#words", "Enter")
    ready(page)


def ready(page: Any) -> None:
    page.wait_for_selector("#results[aria-busy='false']")


def labels(page: Any) -> list[str]:
    """What the photos that are shown are called, best first."""
    found = page.locator(".tile a").evaluate_all(
        "links => links.map(a => [Number(a.parentElement.dataset.at), a.ariaLabel])"
    )
    return [label.partition(",")[0] for _, label in sorted(found)]


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(600)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def test_a_search_shows_photos_in_order_and_stands_in_the_address(page: Any) -> None:
    assert len(labels(page)) == 20
    find(page, "a horse")
    assert labels(page)[0] == "horse.png"
    assert page.url.endswith("/?t=a+horse")
    assert page.title() == "a horse"
    page.reload()
    page.wait_for_selector(".tile")
    ready(page)
    assert labels(page)[0] == "horse.png"
    assert page.locator(".chip").count() == 1
    shot(page, "search")


def test_likely_photos_have_a_quiet_badge_and_the_rest_comes_under_a_line(page: Any) -> None:
    find(page, "a bike")
    badge = page.locator(".tile[data-at='0'] .badge").inner_text()
    assert re.fullmatch(r"\d+%", badge)
    assert page.locator(".line").inner_text() == "Less likely"
    assert page.locator(".tile.less").count() > 5
    page.select_option("#relevance", "normal")
    ready(page)
    assert page.locator(".tile.less").count() == 0 and len(labels(page)) < 10


def test_no_good_match_is_said_plainly(page: Any) -> None:
    find(page, "quarterly tax declaration form")
    assert "No photo matches well" in page.locator("#notice").inner_text()
    shot(page, "weak")


def test_terms_are_chips_that_can_be_unwanted_weighted_and_removed(page: Any) -> None:
    find(page, "an animal")
    page.fill("#words", "a cat")
    page.click("#without")
    ready(page)
    assert page.url.endswith("/?t=an+animal&t=-a+cat")
    assert page.locator(".chip.unwanted").count() == 1
    unwanted = labels(page)
    page.get_by_label("Without a cat").click()  # wanted now
    ready(page)
    assert page.url.endswith("/?t=an+animal&t=a+cat") and labels(page) != unwanted
    page.get_by_label("Weight of a cat").select_option("5")
    ready(page)
    assert "a+cat~5" in page.url or "a+cat%7E5" in page.url
    page.get_by_label("Remove an animal").click()
    ready(page)
    assert page.locator(".chip").count() == 1
    find(page, "+a motorcycle")
    assert page.locator(".chip").count() == 2
    find(page, "coffee")
    assert page.locator(".chip").count() == 1
    shot(page, "chips")


@pytest.mark.parametrize("words", ["-5 degrees", "a~2", "\\back", "100% &?#=+ ünïcode 象"])
def test_any_words_survive_the_address(page: Any, words: str) -> None:
    page.fill("#words", f"+{words}")
    page.press("#words", "Enter")
    ready(page)
    page.reload()
    page.wait_for_selector(".chip")
    assert page.locator(".chip .name").inner_text() == words
    assert page.locator(".chip.unwanted").count() == 0


def test_back_and_forward_show_what_was_there(page: Any) -> None:
    find(page, "a horse")
    find(page, "coffee")
    assert labels(page)[0] == "coffee.png"
    page.go_back()
    ready(page)
    assert labels(page)[0] == "horse.png" and page.locator(".chip").inner_text().find("horse") > 0
    page.go_back()
    ready(page)
    assert page.locator(".chip").count() == 0
    page.go_forward()
    ready(page)
    assert labels(page)[0] == "horse.png"


DROP = """async ([name, type]) => {
  const data = new DataTransfer();
  const bytes = await (await fetch(document.querySelector('.tile img').src)).blob();
  data.items.add(new File([bytes], name, {type}));
  const target = document.body;
  for (const kind of ['dragenter', 'dragover', 'drop'])
    target.dispatchEvent(
      new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


def test_a_photo_is_picked_dropped_or_pasted_as_a_term(page: Any, originals: Path) -> None:
    page.set_input_files("#file", str(originals / "coffee.png"))
    page.wait_for_selector(".chip img")
    ready(page)
    assert "?p=" in page.url and labels(page)[0] != "coffee.png"  # it is left out itself
    page.goto("/")
    page.wait_for_selector(".tile img")
    page.evaluate(DROP, ["dropped.webp", "image/webp"])
    page.wait_for_selector(".chip img")
    ready(page)
    assert "?e=" in page.url
    find(page, "+a cat")
    assert page.locator(".chip").count() == 2
    page.evaluate(DROP, ["notes.txt", "text/plain"])
    page.wait_for_selector("#toast:has-text('not a photo')")
    assert page.locator("#drop").is_hidden()


def test_a_file_that_is_no_photo_is_a_sentence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xffbroken")
    page.set_input_files("#file", str(tmp_path / "broken.jpg"))
    page.wait_for_selector("#toast:has-text('cannot be used as a photo')")
    assert page.locator(".chip").count() == 0


def test_more_less_and_similar_change_the_query(page: Any) -> None:
    find(page, "an animal")
    tile = page.locator(".tile[data-at='0']")
    tile.hover()
    tile.get_by_label("More like this").click()
    ready(page)
    assert re.search(r"t=an\+animal&p=[0-9a-f]{64}$", page.url)
    page.locator(".tile[data-at='1'] a").focus()
    page.keyboard.press("l")
    ready(page)
    assert "&p=-" in page.url
    page.locator(".tile[data-at='0'] a").focus()
    page.keyboard.press("s")
    ready(page)
    assert re.search(r"/\?p=[0-9a-f]{64}$", page.url)


def test_the_whole_page_works_from_the_keyboard(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("a horse")
    page.keyboard.press("Enter")
    ready(page)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "2"
    page.keyboard.press("ArrowDown")
    below = int(page.evaluate("document.activeElement.parentElement.dataset.at"))
    assert below > 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "19"
    page.keyboard.press("Home")
    page.keyboard.press("x")
    assert "1 selected" in page.locator("#selection").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#selection").is_hidden()
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "0"
    page.keyboard.press("f")
    page.wait_for_selector("#filters fieldset")
    page.keyboard.press("f")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#help", state="hidden")


def test_a_photo_in_full_has_all_that_is_known(page: Any) -> None:
    find(page, "a cat")
    page.click(".tile[data-at='0'] a")
    page.wait_for_selector("#detail .part")
    side = page.locator("#detail .side").inner_text()
    assert "chelsea.png" in side and "Our cat Tiger <b>asleep</b>" in side  # as text
    assert "α, the photo" in side and "451 × 300" in side and "a cat" in side
    assert "&photo=" in page.url
    shot(page, "detail")
    first = page.locator("#detail .side h2").inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#detail h2:not(:has-text('{first}'))")
    page.go_back()
    page.wait_for_selector("#detail", state="hidden")
    assert labels(page)[0].startswith("Our cat")
    page.go_forward()
    page.wait_for_selector("#detail .facts")
    page.get_by_label("Copy the path").first.click()
    assert page.evaluate("navigator.clipboard.readText()").endswith("g")
    page.locator("#detail").get_by_text("Find similar").click()
    page.wait_for_selector("#detail", state="hidden")


def test_filters_narrow_the_photos(page: Any) -> None:
    page.click("#filters-open")
    page.wait_for_selector("#filters fieldset")
    page.get_by_label("space", exact=False).first.check()
    ready(page)
    assert len(labels(page)) == 4 and "folder=" in page.url
    assert page.locator("#filter-count").inner_text().strip() == "1"
    shot(page, "filters")
    find(page, "a cat")
    assert len(labels(page)) == 4
    page.click("text=Clear all")
    ready(page)
    page.select_option("#captioned", "yes")
    ready(page)
    assert len(labels(page)) == 1
    page.select_option("#captioned", "no")
    ready(page)
    assert len(labels(page)) == 19
    page.click("text=Clear all")
    ready(page)
    box = page.locator(".histogram").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 20)
    page.mouse.up()
    ready(page)
    assert "after=20" in page.url and 0 < len(labels(page)) < 20
    page.reload()
    page.wait_for_selector(".tile")
    ready(page)
    assert 0 < len(labels(page)) < 20
    page.goto("/?after=1990&before=1991")
    page.wait_for_selector("#notice:has-text('No photo passes these filters')")
    page.click("text=Clear the filters")
    page.wait_for_selector(".tile")


def test_photos_are_sorted_by_date(page: Any) -> None:
    find(page, "an animal")
    before = labels(page)
    page.select_option("#sort", "date")
    ready(page)
    after = labels(page)
    assert after != before and sorted(after) == sorted(before)


def test_selected_photos_are_copied_and_downloaded(page: Any, tmp_path: Path) -> None:
    find(page, "an animal")
    page.locator(".tile[data-at='0'] .pick input").click()
    page.locator(".tile[data-at='3'] .pick input").click(modifiers=["Shift"])
    assert "4 selected" in page.locator("#selection").inner_text()
    shot(page, "selection")
    page.click("text=Copy paths")
    page.wait_for_selector("#toast:has-text('Copied')")
    paths = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert len(paths) == 4 and all(Path(path).is_file() for path in paths)
    with page.expect_download() as download:
        page.click("text=Download zip")
    file = tmp_path / "photos.zip"
    download.value.save_as(file)
    assert sorted(zipfile.ZipFile(file).namelist()) == sorted(Path(p).name for p in paths)
    with page.expect_download() as download:
        page.click("text=Download list")
    download.value.save_as(tmp_path / "photos.csv")
    assert len((tmp_path / "photos.csv").read_text().splitlines()) == 5


def test_own_words_are_added_found_and_removed(browser: Any, photos: Path) -> None:
    with client_of(photos) as client:
        context = browser.new_context(base_url=str(client.base_url), accept_downloads=True)
        page = context.new_page()
        page.goto("/?t=a+cat")
        page.wait_for_selector(".tile img")
        ready(page)
        page.click(".tile[data-at='0'] a")
        page.wait_for_selector("#detail .note")
        page.fill("#detail .note input", "Zanzibar <i>at noon</i>")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail .notes li:has-text('<i>at noon</i>')")
        shot(page, "notes")
        page.keyboard.press("Escape")
        page.wait_for_selector("#detail", state="hidden")
        page.wait_for_function("() => !document.querySelector('#index-open.busy')")
        find(page, "zanzibar")
        assert labels(page)[0].startswith("Zanzibar")
        page.locator(".tile[data-at='0'] .pick input").click()
        page.locator(".tile[data-at='1'] .pick input").click()
        page.select_option("#selection .note select", "keyword")
        page.fill("#selection .note input", "holiday")
        page.click("#selection .note button")
        page.wait_for_selector("#toast:has-text('Kept for 2 photos')")
        with page.expect_download() as download:
            page.click("text=Download sidecars")
        assert download.value.suggested_filename == "sidecars.zip"
        page.wait_for_function("() => !document.querySelector('#index-open.busy')")
        page.click(".tile[data-at='0'] a")
        page.get_by_label("Remove holiday").click()
        page.wait_for_selector("#detail .notes li:has-text('holiday')", state="detached")
        context.close()


def test_nothing_moves_when_pictures_arrive(page: Any) -> None:
    page.goto("/?t=a+horse")
    page.wait_for_selector(".tile")
    shift = page.evaluate(
        """() => new Promise(done => {
            let sum = 0;
            new PerformanceObserver(list => {
                for (const entry of list.getEntries())
                    if (!entry.hadRecentInput) sum += entry.value;
            }).observe({type: 'layout-shift', buffered: true});
            setTimeout(() => done(sum), 1500);
        })"""
    )
    assert shift < 0.02


def test_the_page_is_light(page: Any) -> None:
    """In bytes, without photos: a bound that the issue names."""
    page.goto("/")
    ready(page)
    sizes = page.evaluate(
        """() => performance.getEntriesByType('resource').concat(
            performance.getEntriesByType('navigation'))
            .filter(entry => !entry.name.includes('/thumbnail'))
            .map(entry => entry.decodedBodySize)"""
    )
    assert sum(sizes) < 150_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_dark_mode_and_phones(browser: Any, address: str, scheme: str, size: tuple) -> None:
    context = browser.new_context(
        base_url=address,
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        has_touch=size[0] < 500,
    )
    page = context.new_page()
    page.goto("/?t=an+animal&t=-a+cat")
    page.wait_for_selector(".tile img")
    ready(page)
    name = f"{scheme}-{size[0]}"
    shot(page, name)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < 200
    assert dark == (scheme == "dark")
    page.click(".tile a >> nth=0")
    page.wait_for_selector("#detail .facts")
    shot(page, f"{name}-detail")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    page.click("#filters-open")
    page.wait_for_selector("#filters fieldset")
    shot(page, f"{name}-filters")
    context.close()


def test_a_server_that_is_gone_is_a_sentence(page: Any) -> None:
    page.route("**/api/v1/search", lambda route: route.abort())
    page.fill("#words", "a cat")
    page.press("#words", "Enter")
    page.wait_for_selector("#notice:has-text('does not answer')")
    page.unroute("**/api/v1/search")
    page.click("text=Try again")
    page.wait_for_selector(".tile")


def test_a_token_is_asked_for_and_remembered(
    browser: Any, photos_of_page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with client_of(photos_of_page, token=True) as client:
        token = client.token  # type: ignore[attr-defined]
        context = browser.new_context(base_url=str(client.base_url))
        page = context.new_page()
        page.goto("/")
        assert page.url.endswith("/login")
        page.fill("#token", "wrong")
        page.click("text=Open")
        page.wait_for_url("**/login?wrong=1")
        page.wait_for_selector("#wrong", state="visible")
        shot(page, "login")
        page.fill("#token", token)
        page.click("text=Open")
        page.wait_for_selector(".tile img")
        assert "token" not in page.url
        assert "retrieval" not in page.evaluate("document.cookie")  # HttpOnly
        page.reload()
        page.wait_for_selector(".tile img")
        context.close()


def test_another_site_can_neither_read_nor_embed(browser: Any, address: str) -> None:
    """A page of another origin, in a real browser."""
    context = browser.new_context()
    page = context.new_page()
    page.route(
        "http://evil.example/", lambda r: r.fulfill(body="<p>hello", content_type="text/html")
    )
    page.goto("http://evil.example/")
    read = """url => fetch(url, {credentials: 'include'}).then(r => r.text(), e => 'blocked')"""
    assert page.evaluate(read, f"{address}/api/v1/status") == "blocked"
    write = (
        """url => fetch(url, {method: 'POST', mode: 'no-cors'}).then(r => r.type, e => 'blocked')"""
    )
    page.evaluate(write, f"{address}/api/v1/indexing")
    embed = """url => new Promise(done => {
        const image = new Image();
        image.onload = () => done('loaded');
        image.onerror = () => done('blocked');
        image.src = url;
    })"""
    assert page.evaluate(embed, f"{address}/static/icon.svg") == "blocked"
    context.close()
    import httpx

    assert httpx.get(f"{address}/api/v1/status").json()["indexing"]["state"] == "idle"


def test_the_description_of_the_api_is_shown_without_network(page: Any) -> None:
    page.goto("/docs")
    page.wait_for_selector("#routes details")
    assert page.locator("#routes details").count() >= 12
    page.locator("summary", has_text="/api/v1/search").first.click()
    assert "leave_out_examples" in page.locator("#routes").inner_text()
    shot(page, "docs")


def test_new_photos_are_offered_while_the_page_is_open(
    browser: Any, photos: Path, originals: Path
) -> None:
    (photos / "coffee.png").unlink()
    retrieval.index(photos, options=retrieval.Options(prune=True))
    with client_of(photos) as client:
        context = browser.new_context(base_url=str(client.base_url))
        page = context.new_page()
        page.goto("/")
        page.wait_for_selector("#photo-count:has-text('19 indexed')")
        shutil.copy2(originals / "coffee.png", photos)
        page.click("#index-open")
        page.click("#index-start")
        page.wait_for_selector("#index-text:has-text('1 added')", timeout=60_000)
        page.click("#toast >> text=Show")
        page.wait_for_selector(".tile[data-at='19']")
        assert "20 indexed" in page.locator("#photo-count").inner_text()
        context.close()


# Accessibility -----------------------------------------------------------------------------------


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong, moderate findings included."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page).response
    assert len(response["passes"]) > 5  # it has run
    return [
        f"{v['id']} ({v['impact']}): {node['target']} {node['failureSummary']}"
        for v in response["violations"]
        if v["impact"] != "minor"
        for node in v["nodes"]
    ]


@pytest.mark.skipif(
    find_spec("axe_playwright_python") is None, reason="needs '.[dev]': no axe_playwright_python"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(base_url=address, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto("/?t=an+animal&t=-a+cat")
    page.wait_for_selector(".tile img")
    ready(page)
    assert violations(page) == []
    page.click("#filters-open")
    page.wait_for_selector("#filters fieldset")
    page.locator(".tile[data-at='0'] .pick input").click()
    page.click("#index-open")
    assert violations(page) == []
    page.goto("/?t=a+bike")
    page.wait_for_selector(".tile img")
    ready(page)
    assert violations(page) == []
    page.click(".tile[data-at='0'] a")
    page.wait_for_selector("#detail .part")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert violations(page) == []
    for path in ("/login?wrong=1", "/docs", "/?after=1990&before=1991"):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        assert violations(page) == [], path
    context.close()


def test_a_photo_that_is_gone_is_said_to_be(page: Any) -> None:
    page.goto(f"/?photo={'0' * 64}")
    page.wait_for_selector("#detail .picture .gone")
    assert page.locator("#detail .picture img").count() == 0
    assert "not in the index" in page.inner_text("#detail .side")


def test_a_filter_that_makes_no_sense_can_be_cleared(page: Any) -> None:
    page.goto("/?t=a+cat&after=nonsense")
    assert "not a date" in page.locator("#notice p").inner_text()
    page.get_by_role("button", name="Clear the filters").click()
    page.wait_for_selector(".tile img")
    assert "after" not in page.url and "t=a+cat" in page.url


def test_a_sign_without_words_is_explained(page: Any) -> None:
    find(page, "a cat")
    page.fill("#words", "-")
    page.press("#words", "Enter")
    assert "after the sign" in page.locator("#toast").inner_text()


def test_a_page_that_is_opened_with_a_query_asks_no_second_time(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.server.app._PATIENCE", 60.0)  # however busy the machine is
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.url.endswith("/search") else None)
    for address in (
        "/?t=a+cat&t=-people%7E0.5&sort=date",
        "/?t=%5C-dash&t=tilde%7E2%7E1&t=caf%C3%A9+%3Cb%3E&show=strict&captioned=no",
        "/?t=a+cat&camera=A%26B&after=2017&before=2024-05-01",
    ):
        page.goto(address)
        ready(page)
        page.wait_for_timeout(500)
    assert not asked


# Many photos -------------------------------------------------------------------------------------

MANY = int(os.environ.get("RETRIEVAL_MANY", "3000"))  # 100,000 for docs/serve.md


def small_picture() -> bytes:
    """A thumbnail of a few bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "grey").save(buffer, "WEBP")
    return buffer.getvalue()


def tab_megabytes() -> int:
    """The memory of the largest tab that this process has opened, without what it shares."""
    import psutil

    found = [0]
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(argument == "--type=renderer" for argument in process.cmdline()):
                found.append(process.memory_full_info().uss >> 20)
    return max(found)


def test_memory_stays_small_however_far_one_scrolls(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.startup import create_index
    from retrieval.server.engine import Engine

    picture_bytes = small_picture()

    async def picture(*_: object) -> bytes:
        return picture_bytes

    # The files do not exist; all that matters is how many elements and pictures there are.
    monkeypatch.setattr(Engine, "thumbnail", picture)
    folder = tmp_path / ".retrieval"
    create_index(folder, "mini", MANY)
    with client_of(folder) as client:
        context = browser.new_context(base_url=str(client.base_url))
        page = context.new_page()
        page.goto("/")
        page.wait_for_selector(".tile img")
        devtools = context.new_cdp_session(page)
        devtools.send("Performance.enable")

        def metrics() -> dict[str, float]:
            found = devtools.send("Performance.getMetrics")["metrics"]
            return {metric["name"]: metric["value"] for metric in found}

        nodes = []
        shown = 0
        while shown < MANY:
            page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
            page.wait_for_timeout(50)
            shown = page.evaluate(
                "() => Number(document.getElementById('summary').textContent.replace(/\\D/g, ''))"
            )
            nodes.append(page.evaluate("() => document.querySelectorAll('*').length"))
        page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_selector(f".tile[data-at='{MANY - 1}']")
        devtools.send("HeapProfiler.collectGarbage")
        heap = metrics()["JSHeapUsedSize"] / (1 << 20)
        tab = tab_megabytes()
        print(f"{MANY:,} photos: at most {max(nodes):,} elements, heap {heap:.0f}, tab {tab} MiB")
        # The tab of a browser that is driven keeps what it was sent, up to 100 MiB.
        assert max(nodes) < 3000 and heap < 100 and tab < 300
        page.keyboard.press("/")
        page.evaluate("() => scrollTo(0, 0)")
        page.wait_for_selector(".tile[data-at='0']")
        context.close()
