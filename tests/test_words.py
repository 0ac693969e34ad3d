"""Words of any language in captions and names: what full-text search finds, and where."""

import shutil
import sqlite3
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrieval
from indexes.index import Index
from indexes.words import stored_words
from retrieval.ranking.lexical import match_expression
from tests.conftest import Run, shared
from tests.old_formats import as_format

EXPECTED = [
    ("zh", "狗"), ("zh", "海滩"), ("ja", "犬"), ("ja", "海辺"), ("ko", "강아지"), ("th", "สุนัข"),
    ("hi", "कुत्ता"), ("ru", "собака"), ("de", "Straße"), ("de", "strasse"), ("tr", "istanbul"),
    ("tr", "kırmızı"), ("ar", "كلب"), ("el", "σκύλος"), ("en", "Route-66"), ("en", "R2-D2"),
    ("en", "C++"), ("emoji", "🎂"),
]  # fmt: skip
MORE = [
    ("zh", "一只狗"), ("zh", "奔跑"), ("ja", "走っている"), ("ja", "砂浜"), ("ja", "サッカー"),
    ("ja", "ｻｯｶｰ"), ("ko", "해변"), ("th", "ชายหาด"), ("hi", "समुद्र"), ("ru", "СОБАКА"),
    ("ru", "ёлка"), ("ru", "елка"), ("de", "läuft"), ("de", "LAUFT"), ("de", "STRASSE"),
    ("tr", "İstanbul"), ("tr", "ISTANBUL"), ("tr", "KIRMIZI"), ("tr", "ışık"), ("ar", "الكلب"),
    ("ar", "شاطئ"), ("el", "ΣΚΎΛΟΣ"), ("el", "παραλια"), ("en", "R2D2"), ("en", "don't"),
    ("sharp", "C#"), ("emoji", "🎉"), ("emoji", "👍"), ("emoji", "🇯🇵"), ("fr", "creme brulee"),
    ("pl", "lodz"), ("da", "smorrebrod"),
]  # fmt: skip
CAPTIONS = {
    "zh": "一只狗在海滩上奔跑",
    "ja": "海辺で犬が走っている。砂浜のサッカー",
    "ko": "해변에서 강아지가 뛰고 있다",
    "th": "สุนัขวิ่งบนชายหาด",
    "hi": "समुद्र तट पर कुत्ता",
    "ru": "собака бежит по пляжу, ёлка",
    "de": "Ein Hund läuft über die Straße",
    "tr": "İSTANBUL'da kırmızı ışık",
    "ar": "كلب على الشاطئ",
    "el": "σκύλος στην παραλία",
    "en": "Route-66 sign at 10:30, don't stop, C++ & R2-D2, R2D2",
    "sharp": "a book about C#",
    "letter": "vitamin C for the cat, 66 cats, don",
    "emoji": "birthday party 🎂🎉 👍🏽🇯🇵",
    "fr": "une crème brûlée",
    "pl": "Łódź",
    "da": "smørrebrød på bordet",
}


def noise(folder: Path, captions: dict[str, str]) -> Path:
    """An index of photos that show nothing, each with a caption and named by its key."""
    folder.mkdir(exist_ok=True)
    for number, (name, caption) in enumerate(captions.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    retrieval.index(folder, model="mini")
    return folder


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(
        shared("cases/languages"), tmp_path_factory.mktemp("languages") / "photos"
    )
    folder.chmod(0o755)
    retrieval.index(folder, model="mini")
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise(tmp_path_factory.mktemp("captioned") / "photos", CAPTIONS)


@pytest.mark.parametrize(("language", "word"), EXPECTED)
def test_a_word_of_any_language_finds_its_photo(
    run: Run, languages: Path, language: str, word: str
) -> None:
    found = run("search", word, "-f", "json", cwd=languages).names
    assert found[0].endswith(f"_{language}.jpg"), found


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(("language", "word"), EXPECTED + MORE)
def test_spelling_case_and_normal_form_do_not_matter(
    run: Run, captioned: Path, language: str, word: str, form: str
) -> None:
    query = unicodedata.normalize(form, word)  # type: ignore[arg-type]
    found = run("search", query, "-f", "json", cwd=captioned).names
    assert found[0] == f"{language}.png", found


def test_names_are_found_in_either_normal_form_and_by_their_parts(run: Run, tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", "Kätzchen"), "東京タワー", "DSC_0042", "DSC_0043"]
    folder = noise(tmp_path / "photos", dict.fromkeys(names, ""))
    for query, name in [("kätzchen", 0), ("東京", 1), ("タワー", 1), ("dsc_0042", 2), ("0043", 3)]:
        found = run("search", query, "--ranking", "hybrid", "-f", "json", cwd=folder).names
        assert found[0] == f"{names[name]}.png", query


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog, don't! IMG_2009", "a dog don t img 2009"),
        ("C++, C# and F#m; 18+", "c c++ c c# and f m 18 18+"),
        ("Straße ﬁne ５", "strasse fine 5"),
        ("海滩 2024年", "海滩 滩 2024 年"),
        ("か\u3099く", "がく く"),
        ("สุนัข", "สุนั นัข ข"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zero width"),
        ("❤️ 👩‍🚒 🇯🇵🇫🇷 1️⃣", "❤ 👩 🚒 🇯🇵 🇫🇷 1"),
        ("والكلب", "كلب"),
        ("\ud800 \0 \x1b[1m", "1m"),
        ("", ""),
    ],
)
def test_texts_are_cut_into_words(text: str, words: str) -> None:
    assert list(stored_words(text)) == words.split()


@pytest.mark.parametrize("text", ['"', '狗" OR x', "NEAR(a b)", "* ^ - ( )", "a\0b", "\ud800", "_"])
def test_no_text_is_taken_for_syntax(captioned: Path, text: str) -> None:
    with Index.open(captioned / ".retrieval") as index:
        for all_words in (False, True):
            index.catalogue.full_text.search(match_expression([text], all_words), 5)


BEFORE_4 = (
    "DROP TABLE words",
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize='porter unicode61 remove_diacritics 2')",
    "INSERT INTO words SELECT 'a temple 海滩', 'china'",
    "PRAGMA user_version=3",
)


def downgrade(folder: Path, statements: Sequence[str]) -> None:
    db = sqlite3.connect(folder / ".retrieval" / "catalogue.db")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_full_text_of_an_older_format_is_searched_then_computed_again(run: Run, few: Path) -> None:
    (few / "china.txt").write_text("a temple at the 海滩边", encoding="utf-8")
    (few / "no.jpg").write_bytes(b"no photo")
    retrieval.index(few, model="mini")
    as_format(3, few)
    downgrade(few, BEFORE_4)
    found = run("search", "temple", "-f", "json", cwd=few)
    assert found.code == 0 and len(found.json) == 4
    indexed = run("index", cwd=few).out
    assert indexed.startswith("4 unchanged, 1 skipped")
    assert "no.jpg" in indexed, "what was no photo is tried again"
    assert "no.jpg" not in run("index", cwd=few).out
    with Index.open(few / ".retrieval") as index:
        assert index.catalogue.database.format == 4
        full_text = index.catalogue.full_text
        for word in ("temple", "海滩", "边"):
            assert len(full_text.search(match_expression([word]), 5)) == 1, word
        (china,) = full_text.search(match_expression(["temple"]), 5)
        assert full_text.search(match_expression(["china"]), 5)[0][0] == china[0]
