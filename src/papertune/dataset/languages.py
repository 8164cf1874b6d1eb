"""Tells languages apart by their most frequent words, or by their script. Enough for papers: paragraphs of a few sentences and more."""

from __future__ import annotations

import re

_FREQUENT = {
    "English": "the of and in to was were with for that by from is are as on this be which at an or we",
    "German": "der die das und ist nicht mit von den im zu des auf für eine ein werden wurde wurden sich bei dem auch als sie wie es bis am",
    "French": "le la les des et est dans une que pour par sur au du qui avec sont cette ont été aux ces plus ce il se en un",
    "Spanish": "el la los las de que y en un una por con para se del es su al como fue más este entre",
    "Portuguese": "o a os as de que e em um uma por com para se do da dos das no na foi mais são ao",
    "Italian": "il lo la gli le di che e in un una per con del della dei delle è sono nel alla da si dal",
    "Dutch": "de het een van en in is dat op te zijn met voor niet aan er door ook bij uit naar werd deze",
    "Polish": "w i z na się do jest nie że oraz przez dla od po są ich jak o które został została było",
}
_WORDS = {name: frozenset(words.split()) for name, words in _FREQUENT.items()}
_SCRIPTS = {
    "Russian": re.compile(r"[\u0400-\u04ff]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
    "Chinese": re.compile(r"[\u4e00-\u9fff]"),
    "Japanese": re.compile(r"[\u3040-\u30ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
}
_ENGLISH = (b" the ", b" of ", b" and ", b" was ")  # quicker than looking at every word, and no other language has them
_ENGLISH_EVERY = 120  # characters
_LOOK = 6000  # characters that are looked at
_CERTAIN = 0.12  # share of frequent words; running English has 0.3 to 0.45
_AHEAD = 1.5  # times as many as the next language


def language_of(text: str) -> str:
    """The language's English name; "" when there is too little to tell."""
    raw = text.encode("utf-8", "replace")  # counting in bytes is quicker
    if sum(map(raw.count, _ENGLISH)) * _ENGLISH_EVERY > len(raw) > 0:
        return "English"
    text = text[:_LOOK]
    words = text.lower().split()
    if not words:
        return ""
    counts = {"English": sum(map(_WORDS["English"].__contains__, words))}
    if counts["English"] > 0.2 * len(words):
        return "English"
    if not text.isascii():
        for name, script in _SCRIPTS.items():
            if len(script.findall(text)) > 0.3 * len(text):
                return name
    if len(words) < 20:
        return ""
    counts |= {name: sum(map(frequent.__contains__, words)) for name, frequent in _WORDS.items()}
    second, first = sorted(counts, key=lambda name: counts[name])[-2:]
    return first if counts[first] >= _CERTAIN * len(words) and counts[first] >= _AHEAD * counts[second] else ""
