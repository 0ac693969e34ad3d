"""The words of a text as full-text search stores and looks for them, in any language.

SQLite's own tokenizers know no language without spaces, and their Unicode depends on the version.
So words are cut and folded here, and the tokenizer of the table only splits at spaces and removes
English endings. Neither SQL nor ranking.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

# Written without spaces between words, or (Korean) with particles joined to them: Han, kana,
# bopomofo, Hangul, Thai, Lao, Myanmar and Khmer.
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3031-\u3035\u3041-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff"
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
)
_FLAG = "\U0001f1e6-\U0001f1ff"  # two of these letters are a flag
_ASCII_PIECE = re.compile(r"(?P<word>[a-z0-9]+)(?P<sign>[+#]{1,3}(?![a-z0-9]))?")
_ASCII_WORD = re.compile("[a-z0-9]+")
_ARABIC_ARTICLE = re.compile("(?:[وبكف]?ال|لل)(?=[\u0621-\u064a]{2})")
_SAME = dict(zip("ıøłđħŧðəکیىة", "ioldhtdaكييه", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"}
_LEFT_OUT = (
    (0x0300, 0x036F),  # accents, also of Greek and Cyrillic
    (0x0591, 0x05C7),  # Hebrew points
    (0x0640, 0x0640),  # Arabic: the letter that only stretches words, and vowel signs
    (0x064B, 0x065F),
    (0x0670, 0x0670),
    (0x20D0, 0x20F0),  # what makes a digit a keycap
    (0xFE00, 0xFE0F),  # which picture of a character is meant
    (0x1F3FB, 0x1F3FF),  # colours of skin
    (0xE0100, 0xE01EF),
)


def stored_words(text: str) -> Iterator[str]:
    """The words of a text in their order, folded: NFKC, no case, no accents.

    A run of characters without spaces gives a word at each character: it and the next one. Emoji
    are words; "C++" is found as "c" and as "c++".
    """
    if text.isascii() and "+" not in text and "#" not in text:
        yield from _ASCII_WORD.findall(text.lower())
        return
    yield from _words_of(_folded(text))


def _words_of(folded: str) -> Iterator[str]:
    for piece in _pieces(folded):
        if piece.lastgroup == "run":
            letters = _letters(piece[0])
            for first, second in zip(letters, [*letters[1:], ""], strict=True):
                yield first + second
        else:
            yield from _with_sign(piece)


def terms(text: str) -> Iterator[str]:
    """What to look for if `text` is asked: strings of FTS5's syntax, none of them with operators.

    A word each; names joined by _ stay together. A run without spaces is looked for by all pairs of
    its characters, a single character by its beginning.
    """
    for joined in re.findall(r"[^\s_]+(?:_+[^\s_]+)+|[^\s_]+", _folded(text)):
        if "_" in joined:
            if words := list(_words_of(joined)):
                yield f'"{" ".join(words)}"'
            continue
        for piece in _pieces(joined):
            if piece.lastgroup != "run":
                yield from (f'"{word}"' for word in _with_sign(piece))
            elif len(letters := _letters(piece[0])) == 1:
                yield f'"{letters[0]}"*'
            else:
                yield from (f'"{first}{second}"' for first, second in pairwise(letters))


def _pieces(folded: str) -> Iterator[re.Match[str]]:
    return (_ASCII_PIECE if folded.isascii() else _any_piece()).finditer(folded)


@cache
def _any_piece() -> re.Pattern[str]:
    """A word with the + and # at its end ("C++"), a flag, or a run of a script without spaces.

    Compiled when it is needed: it takes longer than all else here.
    """
    return re.compile(
        f"(?P<run>[{_UNSPACED}]+)|(?P<flag>[{_FLAG}]{{1,2}})"
        f"|(?P<word>[^\\s_+#{_UNSPACED}{_FLAG}]+)(?P<sign>[+#]{{1,3}}(?![^\\s_+#]))?"
    )


def _with_sign(piece: re.Match[str]) -> Iterator[str]:
    """A word that is no run, and the same with the + and # at its end."""
    if piece["word"] is None:
        yield piece[0]
        return
    word = _ARABIC_ARTICLE.sub("", piece["word"]) if piece["word"] > "\u0600" else piece["word"]
    yield word
    if piece["sign"]:
        yield word + piece["sign"]


def _letters(run: str) -> list[str]:
    """The characters of a run, each with the marks that follow it."""
    letters: list[str] = []
    for character in run:
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _folded(text: str) -> str:
    """Letters, digits, marks and emoji without case and accents; spaces for all but _, + and #."""
    if text.isascii():
        return text.lower().translate(_TABLE)
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    plain = unicodedata.normalize("NFKD", decomposed).translate(_TABLE)
    return unicodedata.normalize("NFC", plain)


class _Table(dict[int, str]):
    """What becomes of a character, computed when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = becomes = _becomes(code)
        return becomes


_TABLE = _Table()


def _becomes(code: int) -> str:
    character = chr(code)
    kind = unicodedata.category(character)
    if character in _SAME:
        return _SAME[character]
    if any(first <= code <= last for first, last in _LEFT_OUT):
        return ""
    if kind == "Cf":  # joiners and soft hyphens are inside words, U+200B is between them
        return " " if code == 0x200B else ""
    if kind[0] in "LNM" or character in "_+#" or 0x1F1E6 <= code <= 0x1F1FF:
        return character
    # Emoji; those that are newer than this Python have no category.
    if (kind == "So" and code >= 0x2190) or 0x1F300 <= code <= 0x1FAFF:
        return f" {character} "
    return " "
