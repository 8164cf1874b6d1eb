"""Where sentences end in scientific English: after ``.``, ``?`` or ``!``, unless it is "et al.", "Fig. 3", "E. coli", "p. 12", "1.5" …

A full stop is a candidate when white space follows. Rules then look at the word before and the word after; each stands beside its reason.
"""

from __future__ import annotations

import re

# A stop, then what may stand between it and the white space: closing quotes and brackets, and citation marks ("…cells.12,13 The",
# "…cells. [12] The" has its mark in the next sentence). What follows must be able to open a sentence.
_CANDIDATE = re.compile(
    r"[.!?]+[)\]}\"'”’»†‡*]*(?:\[[\d,;–\- ]+\]|(?<=[^\d.]\.)\d{1,3}(?:[,–-]\d{1,3})*)?"
    r"(?=\s+[(\[\"'“‘]*(?:[A-Z0-9]|[α-ω]-|(?:[a-z]|cis|trans|tert|sec|iso)-[A-Z]))"
)

_WORDS = {
    # Never end a sentence: a name, number or unit follows.
    "never": """fig figs eq eqs eqn eqns ref refs tab sec sect no nos nr vol vols ch chap pp ed eds viz vs cf ca approx resp dr drs prof mr mrs
        ms st sp spp subsp ssp var cv e.g i.e suppl dept univ assoc jan feb mar apr jun jul aug sept oct nov dec lat long alt eg ie esp incl excl
        meq""",
    # End one only when the next word opens one for certain: "… by Smith et al. The …", but "et al. [3]", "et al. (2004)".
    "perhaps": "al etc inc ltd co corp jr sr u.s u.k u.s.a usa uk ph.d m.d b.c a.d i.v i.p s.c a.m p.m min max wt hr hrs mg ml kg",
    "openers": """the a an in this these those we our it its they their there that to for from by on at as with when while where however although
        though after before since if both all each no not some most many several such then thus therefore hence moreover furthermore addition
        here he she his her one two three another other recently finally first second third also additionally similarly interestingly despite
        because during between among under using based according consistent overall results data""",
}
_NEVER, _PERHAPS, _OPENERS = (frozenset(words.split()) for words in _WORDS.values())
_QUOTES = "[{\"'“‘"


def sentence_ends(text: str) -> list[int]:
    """Offsets just behind each sentence of a paragraph (before the white space); the last is the paragraph's end."""
    ends = [m.end() for m in _CANDIDATE.finditer(text) if text[m.start()] != "." or _is_end(text, m.start(), m.end())]
    last = len(text.rstrip())
    if last and (not ends or ends[-1] != last):
        ends.append(last)
    return ends


def _is_end(text: str, stop: int, end: int) -> bool:
    """Whether the full stop at ``stop`` ends a sentence, the next word being a possible opener."""
    space = text.rfind(" ", 0, stop)
    before = text[space + 1 : stop].rpartition("(")[2].lstrip(_QUOTES)
    if len(before) == 1 and before.isupper():
        return space > 0 and text[space - 1].isdigit()  # not "J. Smith", "E. coli", but "at 3 V."
    word = before.lower()
    if word in _NEVER:
        return False
    if word in _PERHAPS:
        following = text[end:].lstrip()[:20].split(" ")[0].strip(".,;:")
        return following.lower() in _OPENERS
    return True
