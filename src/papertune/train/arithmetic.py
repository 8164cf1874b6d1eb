"""``papertune plan``: what training needs on a card that need not be here, by arithmetic on the model's configuration.

No weights are read and nothing is measured. Memory is the sum of the tensors that the fast engine makes (``fast.memory``), which it keeps
to within a few percent; of the reference engine it is the lines of ``docs/memory-budget.md``. Time is what matrix products, dequantisation
and the link to the host cost at the card's data-sheet rates, less what large products reach of them; the host's memory is taken to be this
machine's. All of it is an estimate, within a twentieth of what was measured of a slice of an H200 as wide as an RTX 3070 and within a tenth of
the whole card (``tests/unit/test_train_plan.py``); ``finetune.py --dry-run`` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from papertune.cards import Card
from papertune.device import GIB, memory
from papertune.train.checkpoint import KEEP
from papertune.train.fast.budget import HOST_SHARE, MARGIN, Link, capacity, choose, costs, cut
from papertune.train.fast.flat import GROUPS, sizes
from papertune.train.fast.memory import Sizes, Work
from papertune.train.fast.plan import Fate, words
from papertune.train.fast.shape import Shape

RESERVE = 0.1  # of a card's memory: the driver, CUDA's own and the desktop (7.2 of 8 GiB remain)
REST = 0.045  # seconds a step beyond that, on any card: launches; measured on a whole H200, where the rest took 0.081
RATE = 0.8  # of the data sheet's rate that large matrix products reach: 790 of 989 TFLOP/s on an H200
REFERENCE = 0.37  # of the speed that products alone allow with recomputation: transformers + PEFT + bitsandbytes on the slice
WORK = 0.32 * GIB  # one layer of a 7B model at work in the reference engine, at 512 tokens


@dataclass(frozen=True, slots=True)
class Outlook:
    """Sizes in bytes. ``plan`` is empty for the reference engine; ``fits`` says whether the GPU's memory is enough."""

    engine: str
    plan: str
    gpu: int
    available: int
    host: int
    disk: int
    tokens_per_second: float
    fits: bool


def outlook(card: Card, shape: Shape, unsupported: str, rank: int, targets: Sequence[str], lengths: Sequence[int], size: int) -> Outlook:
    """For a step of sequences of such ``lengths``, of which the reference engine takes ``size`` at a time."""
    lora = lora_weights(shape, rank, targets)
    products = shape.layers * sum(rows * columns for rows, columns in sizes(shape).values())
    available = int(card.memory * GIB * (1 - RESERVE))
    rate = card.tflops * 1e12 * RATE
    tokens = sum(lengths)
    disk = lora * (4 + 2) * (KEEP + 1) + 2 * lora * 4
    if card.bf16 and not unsupported:
        u = tuple(-(-rank * sum(name in targets for name in names) // 16) * 16 for names in GROUPS)
        measure, resident = Sizes(shape, 2, u), base_bytes(shape) + lora * 10
        link = Link(rate, card.link * 1e9)
        host = int(memory() * HOST_SHARE)
        free = available - resident - MARGIN
        parts = cut(lengths, capacity(measure, free=free))
        most = max(sum(lengths[part]) for part in parts)  # all micro-batches are taken to be as large
        work = Work(most, most, -(-len(lengths) // len(parts)))
        plan = choose(measure, work, free=free, host_free=host, link=link)
        peak = resident + measure.peak(plan, work)
        _, offload, attention, again = plan.counts(shape.layers)
        layer, cost = 2 * products / shape.layers * most / rate, costs(measure, work, link)
        late = again * layer + attention * cost[Fate.ATTENTION] + offload * cost[Fate.OFFLOAD]  # of each micro-batch
        seconds = REST + 4 * (products + shape.vocabulary * shape.hidden) * tokens / rate + late * tokens / most
        twice = 2 * (1 - plan.ready(shape.layers) / shape.layers)
        seconds += len(parts) * twice * 2.5 * products / (card.bandwidth * 1e9)  # dequantised: half a byte read, two written
        pinned = measure.on_host(plan, most)
        return Outlook(
            "fast", words(plan, shape.layers), peak, available, 2 * GIB + pinned, disk, tokens / seconds, peak + MARGIN <= available
        )
    most = max(lengths) * size
    peak = int(base_bytes(shape) + lora * 10 + shape.layers * most * shape.hidden * 2 + WORK * max(1.0, most / 512))
    speed = REFERENCE * rate / (6 * products)
    return Outlook("reference", "", peak, available, 3 * GIB, disk, speed, peak <= available)


def lora_weights(shape: Shape, rank: int, targets: Sequence[str]) -> int:
    return shape.layers * sum(rank * sum(size) for name, size in sizes(shape).items() if name in targets)


def base_bytes(shape: Shape) -> int:
    """The frozen base: products in NF4 with doubly quantised scales, embedding, head and norms in 16 bits."""
    products = shape.layers * sum(rows * columns for rows, columns in sizes(shape).values())
    tables = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
    return products // 2 + products // 64 + products // (64 * 256) * 4 + 2 * (tables + (2 * shape.layers + 1) * shape.hidden)
