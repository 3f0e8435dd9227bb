"""Detection of identifiers that are spelled differently but look alike or are equal numbers."""

import difflib
import functools
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
_IGNORED = re.compile(r"[\s'\"=]")  # spaces, and what spreadsheets put around text
# Letters that fonts draw alike, in lower case: Cyrillic and Greek for Latin.
_LOOKALIKES = str.maketrans(
    "авекмнорстухіјѕԁһαβεζηικμνορτυχ\u2019\u2018\u02bc\u2032`\u2044\u2215\u2043\u2796\u02d7",
    "abekmhopctyxijsdhabezhikmnoptyx'''''//---",
)
# Invisible, though their categories are those of letters, marks or symbols.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def is_invisible(character: str) -> bool:
    """Return whether a character is not rendered: zero width, direction marks, controls."""
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
    """Return whether a spreadsheet rounded a number, such as 123456789012 to 1.23457E+11."""
    return _LONG_NUMBER.fullmatch(text) is not None


@functools.lru_cache(maxsize=10_000)
def canonical(text: str) -> str:
    """Return a canonical form, equal for all spellings of one identifier.

    Ignored are differences in compatible characters (NFKC), case, dashes, spaces, quotes, scripts
    of digits, letters of other alphabets that look alike, number formats (1, 01, 1.0, 1e0) and
    invisible characters.
    """
    text = _plain(text)
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if text.count(".") + text.count(",") == 1:  # versions and UIDs have several
        text = _TRAILING_ZEROS.sub("", text)
    if (match := _NUMBER.fullmatch(text)) and any(map(str.isdigit, match[2])):
        return _number(match[1], Decimal(match[2].replace(",", ".")), int(match[3] or 0))
    return _LEADING_ZEROS.sub("", text)


def readings(text: str) -> set[str]:
    """Return the canonical form of each reading of an identifier.

    1.000 and 1,000 have two: 1, and 1000 with a thousands separator.
    """
    plain = _plain(text)
    found = {canonical(text)}
    if _THOUSANDS.fullmatch(plain):
        found |= {canonical(re.sub("[.,]", "", plain)), canonical(plain.replace(",", "."))}
    return found


def _plain(text: str) -> str:
    """Normalize case, scripts and look-alike letters, and remove ignored characters."""
    text = "".join(map(_simplify, unicodedata.normalize("NFKC", text))).casefold()
    text = unicodedata.normalize("NFKC", text).translate(_LOOKALIKES)
    return _IGNORED.sub("", text)


def quote(text: str) -> str:
    """Return quoted text, with an ASCII-escaped copy if it has characters that may look alike."""
    return repr(text) if text.isascii() else f"{text!r} ({text!a})"


def find_similar(name: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that `name` was probably meant to be, if any."""
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
    """Format a number exactly: as floats, two long numbers could be equal."""
    _, digits, shift = mantissa.as_tuple()
    assert isinstance(shift, int)
    text = "".join(map(str, digits)).lstrip("0")
    plain = text.rstrip("0")
    if not plain:
        return "0"
    return f"{sign.rstrip('+')}{plain}e{shift + exponent + len(text) - len(plain)}"
