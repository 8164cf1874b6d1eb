"""What headings, captions and references look like as text, in the languages and styles of scientific journals."""

from __future__ import annotations

import re

_NUMBER = r"(?:(?:\d+(?:\.\d+)*|[IVX]+|[A-Z])[.):]?\s+(?:\|\s*)?)?"

CAPTION = re.compile(
    r"(?:(?:Extended Data |Supplementary |Supplemental )?"
    r"(?:Fig(?:ure|s|ura)?|FIG(?:URE)?|Table(?:au)?|TABLE|Tab(?:elle|la|ela)?|Abb(?:ildung)?"
    r"|Scheme|SCHEME|Chart|Box|Plate|Algorithm|Listing)"
    r"\.?[\s-]*(?:[A-Z]{0,2}\.?\d+|[IVX]+\b)[A-Za-z]?)\s*(?P<mark>[.:|)–—-]?)"
)
TABLE_CAPTION = re.compile(r"(?:Table(?:au)?|TABLE|Tab(?:elle|la|ela|\.)|Box)\b")

ABSTRACT = re.compile(r"\W*(?:abstract|summary|a\s?b\s?s\s?t\s?r\s?a\s?c\s?t|résumé|zusammenfassung|resumen|resumo)\W*", re.I)
INTRODUCTION = re.compile(rf"\W*{_NUMBER}(?:introduction|background|einleitung|introducción|introdução)\W*", re.I)
KEYWORDS = re.compile(
    r"\W*(?:key\s?words?(?: and phrases)?|index terms|abbreviations?|jel|pacs|msc|how to cite.*|citation)\b\s*(?:[:.—–-]|$|(?<=words)\s)", re.I
)
ARTICLE_TYPE = re.compile(
    r"\W*(?:(?:original |research |review |short |clinical |invited |systematic |mini )*"
    r"(?:articles?|papers?|reviews?|reports?|communications?|letters?|study|studies|notes?|research)"
    r"(?: articles?)?(?: open access)?|open access|article (?:info|history)|graphical abstract|edited by|reviewed by)\W*",
    re.I,
)

JOURNAL = re.compile(
    r"(?:the )?(?:[\w&-]+ ){0,4}(?:journal|bulletin|annals|archives|proceedings|transactions|revista)"
    r"(?: (?:(?:of|for|in|on|de|and) )*[\w&-]+){0,7}",
    re.I,
)
REFERENCES = re.compile(
    rf"\W*{_NUMBER}(?:(?:notes and )?references?(?: cited| and notes)?|bibliography|literature(?: cited)?|works cited"
    r"|literatur(?:verzeichnis)?|références|referencias|referências|bibliograf[ií]a)\W*",
    re.I,
)
_INTERESTS = r"(?:declarations? of )?(?:conflicts?|competing|declaration) (?:of )?(?:financial )?(?:interests?|statement)(?: statement)?"
_AUTHORS = r"(?:authors?['’]?s?['’]?|author) (?:contributions?|details|information|disclosure.*|roles)|contributions?(?: of authors)?"
BACK = re.compile(
    rf"\W*{_NUMBER}(?:acknowledge?ments?|funding(?: (?:information|statement|sources?))?|{_INTERESTS}|disclosures?(?: statement)?|{_AUTHORS}"
    r"|abbreviations(?: used)?|(?:data|code) availability(?: statement)?|availability of (?:data|supporting).*|data archiving.*"
    r"|ethic(?:s|al)\b.{0,60}"
    r"|(?:electronic )?(?:additional|supplementa(?:ry|l)) (?:information|files?|materials?|data).*|supporting information.*|appendi(?:x|ces)\b.{0,60}"
    r"|consent for publication|publisher['’]s note|pre-?publication history|financial support.{0,40}|sources? of (?:support|funding).{0,20}"
    r"|grant support"
    r"|open access|rights and permissions|compliance with ethical standards|orcid.*|nomenclature|notes|declarations?|competing financial interests?"
    r"|(?:availability of )?data and materials?|data accessibility.*|endnotes?|footnotes?)\W*",
    re.I,
)
SECTION = re.compile(
    rf"\W*{_NUMBER}(?:abstract|introduction|background|objectives?|aims?|purpose|(?:materials? ?(?:and|&|/) ?|patients and )?(?:methods?|methodology)"
    r"|methods? and materials?|experimental(?: section| procedures?| details| methods)?|results?(?: and discussions?)?|discussions?"
    r"|conclusions?(?: and .{0,40})?|summary|concluding remarks|case (?:report|presentation)|statistical analys[ie]s|limitations|findings"
    r"|significance"
    r"|einleitung|methoden|ergebnisse|diskussion|schlussfolgerung(?:en)?|zusammenfassung|résumé|méthodes|résultats|resumen|introducción|métodos"
    r"|materiales y métodos|resultados|discusión|conclusi(?:ón|ones)|resumo|introdução|materiais e métodos|discussão|conclus(?:ão|ões)"
    r"|outlook|design|setting|participants|interventions?|theory|related work|future (?:work|directions|perspectives?))\W*",
    re.I,
)
NUMBERED = re.compile(r"(?P<number>(?:\d{1,2}(?:\.\d{1,2}){0,4}|[IVX]{1,5}|[A-H])(?:\.(?=\s)|\)|(?=\s)))\s*(?=\S)")
ENUMERATED = re.compile(rf"{NUMBERED.pattern}|\(?(?:[ivx]{{1,4}}|[a-z]|\d{{1,2}})\)\s")
AFFILIATION = re.compile(
    r"@|\b(?:universit|department|dept\.|institut|faculty|college|hospital|laborator|school of|correspond|received|accepted|revised|published|e-?mail"
    r"|academic editor|edited by|reviewed by|address|cite this)",
    re.I,
)
LICENCE = re.compile(r"creative commons|unrestricted use|©|corresponding author|address correspondence|\be-?mail:", re.I)
LEADERS = re.compile(r"(?:\. ?){5,}\s*\d*$")  # an entry of a table of contents
NOTICE = re.compile(
    r"creative commons|open.access|licen[cs]e|copyright|©|correspond|@|\breceived\b|accepted|published (?:online|by)|conflict|funded|cite this",
    re.I,
)
REFERENCE_START = re.compile(r"(?:\[\d{1,3}\]|\(?\d{1,3}[.)]|\d{1,3}\s)\s*\S")
SENTENCE_END = re.compile(r"[.!?:;][\"'”’)\]]*\s*(?:[\[(]?\d[\d,–\- ]*[\])]?)?$")
