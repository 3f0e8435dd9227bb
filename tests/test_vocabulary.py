"""Words with a standard term in the field are not used: readers search for that term."""

import re

from documents import ROOT

TERMS = {
    "amid": "between, among",
    "anew": "again",
    "go on from": "resume",
    "goes on": "continues, resumes",
    "gone on": "resumed",
    "mend": "fix, correct",
    "mended": "fixed, corrected",
    "nobody": "name who or what is missing",
    "told": "reported, logged",
    "way out": "hint, fix",
    "whoever": "users, developers",
}
FOLDERS = ("benchmarks", "docs", "notebooks", "recipes", "src", "submission", "tests")
SUFFIXES = {".html", ".ipynb", ".md", ".py", ".yaml"}


def test_the_fields_own_terms_are_used():
    pattern = re.compile(rf"(?<![a-z])({'|'.join(TERMS)})(?![a-z])", re.IGNORECASE)
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += ROOT.iterdir()
    found = []
    for path in files:
        if path.suffix in SUFFIXES and path.name != "test_vocabulary.py":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if match := pattern.search(line):
                    word = match[0].lower()
                    found.append(f"{path.relative_to(ROOT)}:{number}: {word!r}: {TERMS[word]}")
    assert found == []
