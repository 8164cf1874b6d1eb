"""NVIDIA cards that training is likely to meet: what their data sheets promise, for estimates on a machine that has none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Card:
    """``tflops``: dense matrix products in bf16 with float32 sums (fp16 where a card has no bf16); ``memory`` in GiB; ``bandwidth`` of it and
    ``link`` to the host, each way, in GB/s; ``bf16``: compute capability 8.0 or later, which the fast engine needs."""

    name: str
    tflops: float
    memory: int
    bandwidth: int
    link: int
    bf16: bool = True


# From NVIDIA's architecture papers and data sheets. A GeForce card's ``tflops`` are 4 × cores × boost clock, on laptops the highest one: a
# laptop that grants its GPU less power is slower. Links are PCI Express at four fifths of its rate, by generation and lanes.
CARDS = (
    Card("RTX 3050", 18.2, 8, 224, 12),
    Card("RTX 3060", 25.5, 12, 360, 25),
    Card("RTX 3060 Laptop", 26.1, 6, 336, 12),
    Card("RTX 3060 Ti", 32.4, 8, 448, 25),
    Card("RTX 3070", 40.6, 8, 448, 25),
    Card("RTX 3070 Laptop", 33.2, 8, 448, 12),
    Card("RTX 3070 Ti", 43.5, 8, 608, 25),
    Card("RTX 3070 Ti Laptop", 35.0, 8, 448, 12),
    Card("RTX 3080", 59.5, 10, 760, 25),
    Card("RTX 3080 Laptop", 42.0, 8, 448, 12),
    Card("RTX 3080 Ti", 68.2, 12, 912, 25),
    Card("RTX 3080 Ti Laptop", 47.2, 16, 512, 12),
    Card("RTX 3090", 71.0, 24, 936, 25),
    Card("RTX 4050 Laptop", 24.3, 6, 192, 12),
    Card("RTX 4060", 30.2, 8, 272, 12),
    Card("RTX 4060 Laptop", 29.1, 8, 256, 12),
    Card("RTX 4060 Ti", 44.1, 8, 288, 12),
    Card("RTX 4070", 58.3, 12, 504, 25),
    Card("RTX 4070 Laptop", 40.1, 8, 256, 12),
    Card("RTX 4070 Super", 70.9, 12, 504, 25),
    Card("RTX 4070 Ti", 80.2, 12, 504, 25),
    Card("RTX 4070 Ti Super", 88.2, 16, 672, 25),
    Card("RTX 4080", 97.5, 16, 717, 25),
    Card("RTX 4080 Laptop", 67.7, 12, 432, 12),
    Card("RTX 4080 Super", 104.4, 16, 736, 25),
    Card("RTX 4090", 165.2, 24, 1008, 25),
    Card("RTX 4090 Laptop", 79.4, 16, 576, 12),
    Card("RTX 5060", 38.4, 8, 448, 25),
    Card("RTX 5060 Laptop", 33.2, 8, 384, 25),
    Card("RTX 5060 Ti", 47.4, 8, 448, 25),
    Card("RTX 5070", 61.7, 12, 672, 50),
    Card("RTX 5070 Laptop", 43.3, 8, 384, 25),
    Card("RTX 5070 Ti", 87.9, 16, 896, 50),
    Card("RTX 5080", 112.6, 16, 960, 50),
    Card("RTX 5090", 209.5, 32, 1792, 50),
    Card("T4", 65.0, 15, 320, 12, bf16=False),
    Card("V100", 125.0, 16, 900, 12, bf16=False),
    Card("A10", 125.0, 24, 600, 25),
    Card("A10G", 70.0, 24, 600, 25),
    Card("L4", 121.0, 24, 300, 12),
    Card("A40", 149.7, 48, 696, 25),
    Card("A100", 312.0, 40, 1555, 25),
    Card("L40S", 362.0, 48, 864, 25),
    Card("H100", 989.0, 80, 3350, 50),
    Card("H200", 989.0, 141, 4800, 50),
)
STAND_IN = next(card for card in CARDS if card.name == "RTX 3070")
"""The card of the user's document: what estimates are for where none is named or known."""


_VARIANTS = {"laptop", "mobile", "maxq", "ti", "super", "d"}  # words that make another card of the same number
_SIZE = re.compile(r"(?<!\d)([1-9]\d{0,2}) ?gi?b\b")
_JOINED = re.compile(r"(?<=rtx)(?=\d)|(?<=\d{4})(?=ti|super|laptop)")


def card_called(name: str) -> Card | None:
    """The card all of whose name's words stand in ``name`` ("NVIDIA GeForce RTX 3070 Ti"), or None; RTX may be left away.

    A size of memory in ``name`` takes the place of the card's own. A word that makes another card, such as Laptop, stands in both names or in none.
    """
    words, memory = _read(name)
    fitting = [card for card in CARDS if _needed(card) <= words and _needed(card) & _VARIANTS == words & _VARIANTS]
    found = max(fitting, key=lambda card: len(card.name), default=None)
    return replace(found, memory=memory) if found and memory else found


def cards_near(name: str) -> list[str]:
    """The names of the cards with a word of ``name`` that has a digit in it; those of all cards where there is none."""
    words, _ = _read(name)
    near = [card.name for card in CARDS if any(word in words for word in _needed(card) if not word.isalpha())]
    return near or [card.name for card in CARDS]


def _needed(card: Card) -> set[str]:
    return _read(card.name)[0] - {"rtx"}


def _read(name: str) -> tuple[set[str], int]:
    """The words of a card's name, and the GiB of memory that it tells; 0 where it tells none."""
    text = re.sub(r"max[- ]q", "maxq", name.casefold())
    size = _SIZE.search(text)
    words = re.findall(r"[a-z0-9]+", _JOINED.sub(" ", _SIZE.sub(" ", text)))
    return set(words), int(size[1]) if size else 0
