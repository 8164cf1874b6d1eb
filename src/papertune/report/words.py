"""Numbers as the page writes them."""

from __future__ import annotations

import math

MINUS, DASH, THIN = "−", "–", "\u202f"  # a thin space that does not break


def count(number: float) -> str:
    """A whole number with thousands parted: ``12,345``."""
    return f"{number:,.0f}".replace("-", MINUS)


def counted(number: int, one: str, many: str = "") -> str:
    """``1 file``, ``12,345 files``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def fixed(number: float, places: int) -> str:
    """``2.608``, with a real minus sign."""
    return f"{number:,.{places}f}".replace("-", MINUS) if math.isfinite(number) else "no number"


def signed(number: float, places: int) -> str:
    """``+0.021``, ``−0.624``."""
    return f"{number:+,.{places}f}".replace("-", MINUS) if math.isfinite(number) else "no number"


def short(number: float) -> str:
    """Three digits at most, large numbers with their unit: ``950``, ``12.3 k``, ``1.25 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:.3g}{THIN}{unit}".replace("-", MINUS)
    return count(number)


def power(number: float) -> str:
    """A small number in powers of ten: ``2 × 10⁻⁴``."""
    if number == 0 or not math.isfinite(number):
        return fixed(number, 0)
    exponent = math.floor(math.log10(abs(number)) + 1e-12)
    if -3 < exponent < 4:
        return f"{number:g}".replace("-", MINUS)
    return f"{number / 10**exponent:.3g} × 10{str(exponent).translate(_RAISED)}".replace("-", MINUS)


def size(number: int) -> str:
    """Bytes: ``4.17 GB``, ``80.4 kB``."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= bytes_:
            return f"{number / bytes_:.3g} {unit}"
    return f"{number} bytes"


def gib(number: float) -> str:
    return f"{number / (1 << 30):.2f} GiB"


def percent(share: float, places: int = 0) -> str:
    return f"{fixed(100 * share, places)}{THIN}%"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``10 h 24 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
