"""Different spellings of one identifier, which look alike or mean the same number."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

_MAX_CANDIDATES = 200  # comparing a name with many more takes seconds
_LONG_NUMBER = re.compile(r"[-+]?\d[.,]\d+E\+\d\d+")
_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.0*)?")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}([.,]\d{3})+")
_NUMBER = re.compile(r"([-+]?)(\d*[.,]?\d*)(?:e([-+]?\d{1,4}))?")
_TRAILING_ZEROS = re.compile(r"(?<=\d)[.,]0+$")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_NO_PART = re.compile(r"[\s'\"=]")  # spaces, and what spreadsheets put around text
# Letters that fonts draw alike, in lower case: Cyrillic and Greek for Latin.
_LOOKALIKES = str.maketrans(
    "авекмнорстухіјѕԁһαβεζηικμνορτυχ\u2019\u2018\u02bc\u2032`\u2044\u2215\u2043\u2796\u02d7",
    "abekmhopctyxijsdhabezhikmnoptyx'''''//---",
)
# Drawn as nothing, though their categories are those of letters, marks or symbols.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def is_invisible(character: str) -> bool:
    """Whether a character is drawn as nothing: zero width, direction marks, controls."""
    return (
        unicodedata.category(character) in {"Cf", "Cc", "Cs", "Zl", "Zp"}
        or character in _BLANK
        or "\ufe00" <= character <= "\ufe0f"
        or "\u180b" <= character <= "\u180f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


def has_invisible(text: str) -> bool:
    return not (text.isascii() and text.isprintable()) and any(map(is_invisible, text))


def is_rounded(text: str) -> bool:
    """Whether a spreadsheet wrote a long number in short, such as 1.23457E+11 for 123456789012."""
    return _LONG_NUMBER.fullmatch(text) is not None


def canonical(text: str) -> str:
    """The same text for every spelling of one identifier.

    Equal are compatible forms of a character (NFKC), upper and lower case, all kinds of dashes,
    with and without spaces and quotes, digits of all scripts, letters of other alphabets that look
    alike, numbers of one value (1, 01, 1.0, 1e0), and texts that differ in invisible characters.
    """
    text = _plain(text)
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if text.count(".") + text.count(",") == 1:  # two stand in versions and UIDs
        text = _TRAILING_ZEROS.sub("", text)
    if (match := _NUMBER.fullmatch(text)) and any(map(str.isdigit, match[2])):
        return _number(match[1], Decimal(match[2].replace(",", ".")), int(match[3] or 0))
    return _LEADING_ZEROS.sub("", text)


def readings(text: str) -> set[str]:
    """The canonical text for each way to read an identifier.

    Of 1.000 and 1,000 there are two: 1, and 1000 with a separator of thousands.
    """
    plain = _plain(text)
    found = {canonical(text)}
    if _THOUSANDS.fullmatch(plain):
        found |= {canonical(re.sub("[.,]", "", plain)), canonical(plain.replace(",", "."))}
    return found


def _plain(text: str) -> str:
    """Without what the same letters and digits may differ in."""
    text = "".join(map(_simplify, unicodedata.normalize("NFKC", text))).casefold()
    text = unicodedata.normalize("NFKC", text).translate(_LOOKALIKES)
    return _NO_PART.sub("", text)


def quote(text: str) -> str:
    """Quoted text, with escapes beside it where it has more than ASCII, which may look alike."""
    return repr(text) if text.isascii() else f"{text!r} ({text!a})"


def find_similar(name: str, candidates: Sequence[str]) -> str | None:
    """A candidate that `name` was probably meant to be."""
    few = candidates[:_MAX_CANDIDATES]
    same = (one for one in few if canonical(one) == canonical(name))
    close = difflib.get_close_matches(name, few, n=1, cutoff=0.5)
    return next(same, close[0] if close else None)


def _simplify(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd" or character == "\u2212":  # the second is the minus sign
        return "-"
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return "" if is_invisible(character) else character


def _number(sign: str, mantissa: Decimal, exponent: int) -> str:
    """Exact, however long: a float would make one of two long numbers."""
    _, digits, shift = mantissa.as_tuple()
    assert isinstance(shift, int)
    text = "".join(map(str, digits)).lstrip("0")
    plain = text.rstrip("0")
    if not plain:
        return "0"
    return f"{sign.rstrip('+')}{plain}e{shift + exponent + len(text) - len(plain)}"
