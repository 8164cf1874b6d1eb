"""Ligatures whose code in the file means nothing: glyphs for "fi" in the private area, and a "Th" that passes for "+".

The paper tells what they stand for: a private code is the ligature that turns most of its words into words seen elsewhere; a sign that stands again
and again before "e", "is" and "ese" is "Th".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

CANDIDATES = ("fi", "fl", "ff", "ffi", "ffl", "ft", "tt", "ti", "Th")
LEAST = 3  # sightings before a sign is believed to be "Th"

_CODE = re.compile(r"[\ue000-\uefff\uf100-\uf8ff\ufffd]")
_UNKNOWN = re.compile(r"([^\W\d_]*)([\ue000-\uefff\uf100-\uf8ff\ufffd])([^\W\d_]*)")
_WORD = re.compile(r"[^\W\d_]+")
_SIGN = re.compile(r"(?:^|(?<=[\s(“\"]))([^\w\s(\[\"'“‘.,;:)\]/–-])([a-z]+)\b")
_AFTER_TH = frozenset(["e", "is", "us", "ese", "ere", "ey", "ose", "at", "an", "rough", "en", "eir", "erefore", "ree", "ough", "ereby", "e"])


class Ligatures:
    """What the unknown codes of one paper stand for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.codes = _codes(texts)
        self.signs = _signs(texts)

    def mend(self, text: str) -> str:
        for code, letters in self.codes.items():
            text = text.replace(code, letters)
        if self.signs:
            text = _SIGN.sub(lambda match: "Th" + match[2] if match[1] in self.signs and match[2] in _AFTER_TH else match[0], text)
        return text


def _codes(texts: Sequence[str]) -> dict[str, str]:
    if not any(_CODE.search(text) for text in texts):
        return {}
    contexts: dict[str, set[tuple[str, str]]] = defaultdict(set)
    words: set[str] = set()
    for text in texts:
        found = _UNKNOWN.findall(text) if _CODE.search(text) else []
        if not found:
            words.update(_WORD.findall(text.lower()))
        for before, code, after in found:
            if before or after:
                contexts[code].add((before.lower(), after.lower()))
    known: dict[str, str] = {}
    for code, around in contexts.items():
        votes = Counter({letters: sum(before + letters.lower() + after in words for before, after in around) for letters in CANDIDATES})
        letters, count = votes.most_common(1)[0]
        if count:
            known[code] = letters
    return known


def _signs(texts: Iterable[str]) -> frozenset[str]:
    before_th: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for text in texts:
        for sign, rest in _SIGN.findall(text):
            total[sign] += 1
            before_th[sign] += rest in _AFTER_TH
    return frozenset(sign for sign, count in before_th.items() if count >= max(LEAST, 0.8 * total[sign]))
