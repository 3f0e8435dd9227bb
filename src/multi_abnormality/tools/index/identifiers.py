"""Removal of what identifies a patient from text, however it is spelled there.

Text and identifiers are compared in one form: without case, accents, and the "e" by which umlauts
are written, so that Müller, Mueller and Muller are equal.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_headers import DicomHeader

NAMES = ("PatientName", "PatientBirthName", "OtherPatientNames")
IDS = ("PatientID", "OtherPatientIDs", "AccessionNumber")
BIRTH = "PatientBirthDate"

_REMOVED = "[removed]"
_MIN_LENGTH = 2  # of an identifier that is searched in text
_MIN_PART = 4  # of one that is also searched within words
# Scripts without spaces, where names stand within text. Hangul is folded to several letters each.
_CHINESE_JAPANESE = re.compile("[\u3005-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
_LETTERS = str.maketrans({"æ": "a", "ø": "o", "œ": "o", "ł": "l", "đ": "d"})
_SEPARATORS = r"(?:[^\w/\0]|_)*"
_ALONE = r"(?<![^\W_])(?:{})(?![^\W_])"


class Identifiers:
    """What identifies a patient in the text of tags and in paths.

    Args:
        ids: values of IDS.
        names: values of NAMES.
        births: values of BIRTH.
    """

    def __init__(self, ids: Iterable[str], names: Iterable[str], births: Iterable[str]) -> None:
        words = {word for text in (*ids, *births) for word in _id_words(text)}
        for group in (group for name in names for group in name.split("=")):
            # The components after these are prefix and suffix, such as "Mr".
            parts = re.findall(r"[^\W_]+", fold(" ".join(group.split("^")[:3])))
            words.update(parts, map("".join, permutations(parts, 2)))  # the latter such as LiWu
        self._words = sorted(
            (word for word in words if len(word) >= _MIN_LENGTH), key=lambda one: (-len(one), one)
        )
        self._dates = [pattern for birth in births for pattern in _date_patterns(birth)]

    @classmethod
    def of(cls, headers: Iterable["DicomHeader"]) -> "Identifiers":
        """Return those of the patients in some files."""
        tags = (*NAMES, *IDS, BIRTH)
        different = {tuple(map(one.text, tags)): one for one in headers}.values()
        names = {one.label(tag) for one in different for tag in NAMES[:2]}
        # The names of several values have no end.
        names |= {one.label(NAMES[2]).replace("^", " ") for one in different}
        return cls(
            {one.label(tag) for one in different for tag in IDS},
            names,
            {one.label(BIRTH) for one in different},
        )

    def remove_from(self, text: str) -> str:
        """Return the text without the identifiers."""
        folded, indices = _fold(text)
        joined = re.sub(r"[\W_]+", "", folded)
        patterns = [*self._dates, *(_pattern(word) for word in self._words if word in joined)]
        for pattern in patterns:
            folded = re.sub(pattern, lambda found: "\0" * len(found[0]), folded)
        parts, end = [], 0
        for found in re.finditer("\0+", folded):
            parts += [text[end : indices[found.start()]], _REMOVED]
            end = indices[found.end()]
        return "".join([*parts, text[end:]])

    def are_in(self, path: str) -> bool:
        """Return whether a path has one of the identifiers."""
        return self.remove_from(path) != path


def fold(text: str) -> str:
    """Return text in the form in which it is compared."""
    return _fold(text)[0]


def _fold(text: str) -> tuple[str, list[int]]:
    """Return text in the form in which it is compared, and the index in `text` of each character.

    The indices end with the length of `text`.
    """
    folded: list[str] = []
    indices = []
    for index, character in enumerate(text):
        for one in unicodedata.normalize("NFKD", character.casefold().translate(_LETTERS)):
            is_umlaut = one == "e" and folded and folded[-1] in "aou"
            if not is_umlaut and not unicodedata.combining(one):
                folded.append(one)
                indices.append(index)
    return "".join(folded), [*indices, len(text)]


def _id_words(text: str) -> set[str]:
    """Return ways to write an id, without separators."""
    words: set[str] = set()
    for part in (text, *(one for one in text.split() if re.search(r"\d", one))):
        whole = re.sub(r"[\W_]+", "", fold(part))
        short = re.sub(r"(?<!\d)0+(?=\d)", "", whole)
        words |= {whole, short, *re.findall(rf"\d{{{_MIN_PART},}}", short)}
    return words


def _pattern(word: str) -> str:
    separated = _SEPARATORS.join(word)
    if _CHINESE_JAPANESE.search(word):
        return separated
    alone = _ALONE.format(separated)
    return alone if len(word) < _MIN_PART else f"{word}|{alone}"


def _date_patterns(birth: str) -> list[str]:
    """Return patterns of the ways to write a date of birth."""
    found = re.fullmatch(r"(\d\d)(\d\d)\D?(\d\d)\D?(\d\d)", birth)
    if not found:
        return []
    century, year, month, day = found.groups()
    patterns = []
    for order in ("{0}{3}{1}{3}{2}", "{2}{3}{1}{3}{0}", "{1}{3}{2}{3}{0}"):
        numbers = (f"(?:{century})?{year}", f"0?{int(month)}", f"0?{int(day)}", r"[\W_]{1,3}")
        patterns.append(rf"(?<!\d){order.format(*numbers)}(?!\d)")
        patterns.append(rf"(?<!\d){order.format(year, month, day, '')}(?!\d)")
        patterns.append(order.format(century + year, month, day, ""))
    return patterns
