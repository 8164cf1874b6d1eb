"""Characters as a reader sees them: ligatures taken apart, accents put onto their letters, private codes of the Symbol font resolved.

The result is NFC. NFKC would rewrite what the author meant: x² would become x2, and ℝ an R.
"""

from __future__ import annotations

import re
import unicodedata

HYPHEN_MARKS = "\ufffe\x02"  # what pdfium writes for a hyphen at the end of a line

LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}

# The Symbol font's encoding (ISO 32000-1, annex D.6), which many writers store in the private area from U+F000 on.
_SYMBOL = dict(
    zip(
        range(0xF041, 0xF05B),
        "ΑΒΧ∆ΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ",
        strict=True,
    )
)
_SYMBOL |= dict(zip(range(0xF061, 0xF07B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True))
_SYMBOL |= dict(zip(range(0xF020, 0xF040), " !∀#∃%&∋()∗+,−./0123456789:;<=>?", strict=True))
_SYMBOL |= {0xF0A2: "′", 0xF0A3: "≤", 0xF0A5: "∞", 0xF0AE: "→", 0xF0B0: "°", 0xF0B1: "±", 0xF0B2: "″", 0xF0B3: "≥", 0xF0B4: "×", 0xF0B7: "•"}
_SYMBOL |= {0xF0B9: "≠", 0xF0BA: "≡", 0xF0BB: "≈", 0xF0D7: "⋅", 0xF0E5: "∑", 0xF07E: "∼", 0xF0D0: "∠", 0xF044: "∆", 0xF06D: "μ", 0xF0D1: "∇"}

_REMOVED = [*range(0x09), *range(0x0E, 0x20), 0x7F, 0xAD, 0x200B, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF]
_TABLE: dict[int, str | None] = {**LIGATURES, **_SYMBOL, **dict.fromkeys(_REMOVED), 0xA0: " ", 0x0B: " ", 0x0C: " "}
_NEEDS_WORK = re.compile(r"[^\x20-\x7e\xa1-\xac\xae\xaf\xb0-\xb3\xb5-\xb7\xb9-\u02c5\u0370-\u1fff\u2010-\u2bff]")

_COMBINING = {"´": "\u0301", "¨": "\u0308", "ˆ": "\u0302", "˜": "\u0303", "¸": "\u0327", "ˇ": "\u030c", "˘": "\u0306", "˙": "\u0307", "˚": "\u030a"}
_COMBINING |= {"˝": "\u030b", "˛": "\u0328"}
_ACCENT_APART = re.compile(f"([{''.join(_COMBINING)}]) ?([A-Za-zı])")
_PRIVATE = re.compile(r"[\ue000-\uf8ff\ud800-\udfff]")


def clean(text: str) -> str:
    """The text without artefacts, in NFC. Marks of hyphens must be resolved before."""
    if _NEEDS_WORK.search(text) is None:
        return text
    text = _PRIVATE.sub("", text.translate(_TABLE))
    return unicodedata.normalize("NFC", _ACCENT_APART.sub(_accented, text))


def _accented(match: re.Match[str]) -> str:
    """The accented letter, or the two as they were: an apostrophe in "Fisher´s" is no accent."""
    accent, letter = match.groups()
    composed = unicodedata.normalize("NFC", ("i" if letter == "ı" else letter) + _COMBINING[accent])
    apostrophe = accent == "´" and letter == "s" and match.start() and match.string[match.start() - 1].isalpha()
    return composed if len(composed) == 1 and not apostrophe else match.group()
