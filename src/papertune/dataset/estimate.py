"""How long training will take, from tokens, floating-point operations and what such cards were measured to reach.

LoRA training of a model with N parameters takes 4 N operations a token (forward, and backward for the activations; the frozen weights need no
gradient), 6 N when activations are computed again to save memory. The range's ends are the two engines measured on a slice of an H200 as
wide as an RTX 3070: the fast one at its best (no recomputation, 80 % of the peak) and the reference one (recomputation, 33 % of it).
"""

from __future__ import annotations

from dataclasses import dataclass

PARAMETERS = 7.24e9  # Mistral-7B
STAND_IN = "RTX 3070"
_FAST = 0.80 / 4
_REFERENCE = 0.33 / 6

# Dense bf16 tensor TFLOP/s with fp32 sums (fp16 where a card has no bf16), from NVIDIA's architecture papers and data sheets.
_PEAK = {
    "RTX 3050": 18.2, "RTX 3060": 25.5, "RTX 3060 Ti": 32.4, "RTX 3070": 40.6, "RTX 3070 Ti": 43.5, "RTX 3080": 59.5, "RTX 3090": 71.0,
    "RTX 4060": 30.2, "RTX 4060 Ti": 44.1, "RTX 4070": 58.3, "RTX 4080": 97.5, "RTX 4090": 165.2,
    "T4": 65.0, "V100": 125.0, "A10": 125.0, "A10G": 70.0, "L4": 121.0, "A40": 149.7, "A100": 312.0, "L40S": 362.0, "H100": 989.0, "H200": 989.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours an epoch on ``gpu``, from the fast engine to the reference engine. ``found`` says the card is in this machine."""

    gpu: str
    found: bool
    hours: tuple[float, float]

    def words(self, epochs: int) -> str:
        low, high = self.hours
        where = self.gpu if self.found else f"an {self.gpu}"
        times = f"{_range(low, high)} an epoch"
        more = f", {_range(low * epochs, high * epochs)} for {epochs} epochs" if epochs > 1 else ""
        return f"{times}{more} on {where} with Mistral-7B (an estimate, not a measurement)"


def estimate(tokens: int, gpu: str) -> Estimate:
    """For one pass over so many tokens on the card of this name (``""``: none); an unknown card is taken as an RTX 3070."""
    known = _known(gpu)
    peak = _PEAK[known or STAND_IN] * 1e12
    seconds = tuple(tokens * PARAMETERS / (share * peak) for share in (_FAST, _REFERENCE))
    return Estimate(known or STAND_IN, bool(known), (seconds[0] / 3600, seconds[1] / 3600))


def _known(gpu: str) -> str:
    """The longest name in the table whose words stand in the card's name, "" when none does."""
    words = gpu.replace("-", " ").split()
    fitting = [name for name in _PEAK if set(name.split()) <= set(words)]
    return max(fitting, key=len, default="")


def _range(low: float, high: float) -> str:
    shortest, longest = _time(low), _time(high)
    return f"about {longest}" if shortest == longest else f"{shortest} to {longest}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
