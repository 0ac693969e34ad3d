"""The gallery page, in a real browser where there is one."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def browse(*arguments: str) -> str:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *flags, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_a_gallery_is_one_page_without_network(run: Run, indexed: Path, tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    result = run("search", "a cat", "-k", 5, "--gallery", page, cwd=indexed)
    assert result.code == 0
    assert f"Gallery: {page}" in result.messages
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 5
    assert not re.search(r"https?://", text) and "<script" not in text
    assert list(tmp_path.iterdir()) == [page]


def test_the_browser_shows_every_photo(run: Run, indexed: Path, tmp_path: Path) -> None:
    page, shot = tmp_path / "found.html", tmp_path / "shot.png"
    run("search", "coffee", "--image", "chelsea.png", "-k", 4, "--gallery", page, cwd=indexed)
    dom = browse("--dump-dom", page.as_uri())
    assert dom.count("<li>") == 4 and "coffee" in dom
    browse(f"--screenshot={shot}", "--window-size=1000,700", page.as_uri())
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    assert pixels.shape == (700, 1000, 3)
    assert pixels[150:500].std() > 20, "there are pictures below the title"


def test_hostile_names_stay_text(run: Run, few: Path, tmp_path: Path) -> None:
    (few / "chelsea.png").rename(few / "<img src=x onerror=document.title='hacked'>.png")
    run("index", few, "--model", "mini")
    page = tmp_path / "found.html"
    run("search", "<script>document.title='hacked'</script>", "--gallery", page, cwd=few)
    assert "<img src=x" not in page.read_text() and "<script>" not in page.read_text()
    dom = browse("--dump-dom", page.as_uri())
    assert "<title>Photos found</title>" in dom
    assert "<script>document.title='hacked'</script>" in unescape(dom)


def test_a_photo_that_is_gone_leaves_a_gap_and_not_an_error(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    (photos / "chelsea.png").unlink()
    page = tmp_path / "found.html"
    assert run("search", "a cat", "-k", 2, "--gallery", page, cwd=photos).code == 0
    assert "cannot be shown now" in page.read_text()


def test_a_gallery_that_cannot_be_written_gets_one_sentence(run: Run, indexed: Path) -> None:
    result = run("search", "a cat", "--gallery", indexed / "no" / "such.html", cwd=indexed)
    assert result.code == 1
    assert "cannot be written" in result.messages


def test_a_gallery_never_takes_the_place_of_a_photo(run: Run, photos: Path) -> None:
    before = (photos / "moon.png").read_bytes()
    result = run("search", "a cat", "--gallery", "moon.png", cwd=photos)
    assert result.code == 1
    assert "Name it moon.png.html" in result.messages
    assert (photos / "moon.png").read_bytes() == before
