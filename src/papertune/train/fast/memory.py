"""How much memory a micro-batch needs under a plan.

The sum is over the very tensors that ``layer`` makes, at the moments when most of them are alive at once: the forward pass of a layer, the
loss, and the backward pass of a layer that was kept and of one that is run again. By the time the first recomputed layer runs its backward
pass, all kept ones have finished theirs and are gone, so keeping layers costs nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from papertune.train.fast.flat import GROUPS, sizes
from papertune.train.fast.host import pinned_size
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import Shape


@dataclass(frozen=True, slots=True)
class Work:
    """A micro-batch: all tokens, those that carry loss, and the sequences they form."""

    tokens: int
    positions: int
    documents: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what a layer makes, in numbers of ``bytes`` each. ``u``: LoRA columns of each group; ``weights``: those dequantised.

    ``multiprocessors`` of the card matter where torch is asked for deterministic algorithms (else 0): then flash attention's backward pass
    sums the queries' gradient in several copies, as many as give each multiprocessor work, and adds these up in order. ``dropout``: whether
    the projections' inputs are copied to have some of their numbers dropped. ``lasting``: whether no weights come and go, since they stay
    dequantised or are counted elsewhere.
    """

    shape: Shape
    bytes: int
    u: tuple[int, ...]
    multiprocessors: int = 0
    dropout: bool = False
    lasting: bool = False

    @property
    def layer(self) -> int:
        """Bytes of a layer's dequantised weights."""
        return sum(replace(self, lasting=False).weights)

    @property
    def weights(self) -> list[int]:
        """Of each group, in bytes: those that come and go."""
        size = sizes(self.shape)
        if self.lasting:
            return [0] * len(GROUPS)
        return [(sum(size[n][0] for n in names) + u) * (size[names[0]][1] + u) * self.bytes for names, u in zip(GROUPS, self.u, strict=True)]

    @property
    def layer_on_host(self) -> int:
        """Bytes of a layer's dequantised weights in pinned memory."""
        return sum(map(pinned_size, replace(self, lasting=False).weights))

    def on_host(self, plan: Plan, tokens: int) -> int:
        """Bytes of pinned host memory that a plan asks for."""
        n = self.shape.layers
        _, offload, _, again = plan.counts(n)
        offloaded = offload * sum(pinned_size(self.bytes * tokens * columns) for columns in self._parked)
        inputs = again * pinned_size(self.bytes * tokens * self.shape.hidden) if plan.park_inputs else 0
        return offloaded + inputs + len(plan.streamed(n)) * self.layer_on_host

    def kept(self, tokens: int) -> int:
        """Bytes of a kept layer."""
        return self.offloaded(tokens) + self.small(tokens)

    def offloaded(self, tokens: int) -> int:
        """The part of that which goes to the host."""
        return self.bytes * tokens * sum(self._parked)

    def attended(self, tokens: int) -> int:
        """Bytes of a layer of which all but the MLP is kept."""
        s = self.shape
        numbers = 2 * s.hidden + self._qkv + s.queries + self.u[0] + self.u[1]
        return tokens * (self.bytes * numbers + 4 * s.heads + 4)

    def small(self, tokens: int) -> int:
        """And the part that stays."""
        return tokens * (self.bytes * sum(self.u) + 4 * self.shape.heads + 8)

    @property
    def _qkv(self) -> int:
        """Columns of queries, keys and values with the room for their backward pass; ``_wide``: of gate and up."""
        return self.shape.queries + 2 * self.shape.keys + self.u[0]

    @property
    def _wide(self) -> int:
        return 2 * self.shape.inner + self.u[2]

    @property
    def _parked(self) -> tuple[int, ...]:
        """Columns of each tensor that an offloaded layer parks."""
        return self.shape.hidden, self._qkv, self.shape.queries, self.shape.hidden, self._wide

    def peak(self, plan: Plan, work: Work) -> int:
        """Bytes above what is resident: the largest of the moments below, each the tensors that are alive then."""
        s, n, tokens = self.shape, self.shape.layers, work.tokens
        if plan.dequantised:
            rest = replace(self, lasting=self.lasting or plan.dequantised >= n).peak(replace(plan, dequantised=0), work)
            return min(plan.dequantised, n) * self.layer + rest
        if plan.stream_every and not self.lasting:  # in a layer to which weights come, and in another
            return max(replace(self, lasting=True).peak(plan, work), self.peak(replace(plan, stream_every=0), work))
        one, two = (min(count, len(plan.streamed(n))) * self.layer for count in (1, 2))  # whose weights have come: the layer at work, and the next
        row = self.bytes * tokens
        keep, offload, attention, again = plan.counts(n)
        kept, offloaded = self.kept(tokens), self.offloaded(tokens)
        inputs = 0 if plan.park_inputs else again * row * s.hidden
        waiting = offload * self.small(tokens) + inputs + attention * self.attended(tokens)
        passing = 2 * row * s.hidden if plan.park_inputs else 0  # inputs on their way to the host
        moments = [waiting + keep * kept + self._loss(plan, work) + one]
        if again:
            passing += self.small(tokens) + max(self._attention(tokens), self._mlp(tokens, plan.rows(tokens)))
            first = offload * self.small(tokens) + inputs + two
            moments += [first + passing, first + self._again(plan, work)]
        if attention:
            moments += [waiting + two + self._mlp(tokens, plan.rows(tokens)), waiting + two + self._mlp_again(plan, work)]
        if keep or offload:  # at most two offloaded layers are on the card at a time, the last of them until the kept ones are made
            made = [(keep, min(offload, 1), one), (0, min(offload, 2), two)]
            made += [(keep - 1, min(offload, 1), two)] if keep else []
            forward = max(layers * kept + leaving * offloaded + lent for layers, leaving, lent in made)
            backward = max(keep * kept + (offloaded if keep == 1 and offload else 0), min(offload, 2) * offloaded) + two
            moments += [waiting + forward + self._keeping(tokens), waiting + backward + self._backward(work)]
        return tokens * (4 * s.head + 44) + max(moments)  # angles, and what ``Packed`` has in integers

    # Each of the following is what one moment needs beside what is saved. Numbers a token first, then bytes.

    def _loss(self, plan: Plan, work: Work) -> int:
        """The last hidden state; the predicting positions' and its normalised form; logits, or the gradients of all three."""
        h, rows = self.shape.hidden, min(plan.loss_rows, work.positions)
        logits = rows * self.shape.vocabulary
        return self.bytes * (work.tokens * h + 2 * work.positions * h + max(logits, work.tokens * self._gradient + work.positions * h))

    def _attention(self, tokens: int) -> int:
        """Forward, where nothing is saved, beside the copy of its input to which attention is added: the norm's output with queries, keys and
        values; these with attention's output; this and its copy; the output projection."""
        h, q, row, (w_qkv, w_out, *_) = self.shape.hidden, self.shape.queries, self.bytes * tokens, self.weights
        behind = q + self.u[1] + self._dropped(q)
        ahead = row * (h + self.u[0] + self._qkv + self._dropped(h)) + w_qkv
        return row * h + max(ahead, row * (self._qkv + q), row * (q + behind), row * behind + w_out)

    def _mlp(self, tokens: int, rows: int) -> int:
        """Forward, where nothing is saved, ``rows`` tokens at a time (0: all)."""
        h, f, (*_, u_wide, u_down), (*_, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.u, self.weights
        narrow = f + u_down + self._dropped(f)
        if rows:
            return self.bytes * (tokens * h + rows * (self._wide + narrow)) + w_wide + w_down
        return self.bytes * tokens * h + max(
            self.bytes * tokens * (h + u_wide + self._wide + self._dropped(h)) + w_wide,
            self.bytes * tokens * (self._wide + narrow),
            self.bytes * tokens * narrow + w_down,
        )

    def _keeping(self, tokens: int) -> int:
        """Forward, beside all that the layer itself saves: y with the MLP's normalised input, or with its last input."""
        h, f, (*_, u_wide, u_down), (*_, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.u, self.weights
        first, last = h + u_wide + self._dropped(h), f + u_down + self._dropped(f)
        return self.bytes * tokens * h + max(self.bytes * tokens * first + w_wide, self.bytes * tokens * last + w_down)

    def _backward(self, work: Work) -> int:
        """Backward, beside all that the layer saved: the MLP's two projections, then attention, when gate and up are gone."""
        h, f, (_, _, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.weights
        row = self.bytes * work.tokens
        return row * self._gradient + max(row * f + w_down, row * h + w_wide, self._attention_backward(work, 1) - row * (self._wide + h))

    def _again(self, plan: Plan, work: Work) -> int:
        """A layer that is run again: what it saves as it goes, and its backward pass."""
        h, f, q, tokens = self.shape.hidden, self.shape.inner, self.shape.queries, work.tokens
        (_, u_out, u_wide, u_down), (w_qkv, w_out, w_wide, w_down) = self.u, self.weights
        row, rows = self.bytes * tokens, plan.rows(tokens)
        x = row * h if plan.park_inputs else 0  # else among the inputs
        first, both = (w_qkv, w_qkv + w_out) if plan.hold_weights else (0, 0)
        saved = row * (self._qkv + q + h)
        attention = x + saved + row * (q + u_out + self._dropped(q)) + first + w_out
        if rows:
            part = self._wide + f + u_down + self._dropped(f)
            mlp = saved + self.bytes * rows * part + w_wide + w_down + both
        else:
            held = w_wide + both if plan.hold_weights else 0
            wide = x + saved + row * (h + u_wide + self._wide + self._dropped(h)) + w_wide + both
            mlp = max(wide, x + saved + row * (self._wide + f + u_down + self._dropped(f)) + w_down + held)
        attention_backward = row * (self._qkv + q) + first + self._attention_backward(work, plan.head_groups)
        out_backward = row * (self._qkv + 2 * q + self._dropped(q)) + first + w_out
        qkv_backward = x + row * (self._qkv + h) + w_qkv
        return self.small(tokens) + row * self._gradient + max(attention, mlp, attention_backward, out_backward, qkv_backward)

    def _mlp_again(self, plan: Plan, work: Work) -> int:
        """Backward, beside all that was kept of attention: the MLP that is run again, then attention, when the MLP's input is gone."""
        h, f, tokens, (*_, u_wide, u_down), (_, w_out, w_wide, w_down) = self.shape.hidden, self.shape.inner, work.tokens, self.u, self.weights
        row, rows = self.bytes * tokens, plan.rows(tokens) or tokens
        part = self._wide + max(h + u_wide + self._dropped(h), f + u_down + self._dropped(f))
        out = row * (self.shape.queries + self._dropped(self.shape.queries)) + w_out
        after = max(out, self._attention_backward(work, plan.head_groups)) - row * h
        return row * self._gradient + max(w_wide + w_down + self.bytes * rows * part, after)

    def _attention_backward(self, work: Work, groups: int) -> int:
        """Gradients of attention's output and of queries, keys and values, and what flash attention is given and needs: keys and values once for
        each head of the queries, the queries' gradient in float32, of which each document has up to 128 rows more."""
        s = self.shape
        copies = -(-self.multiprocessors // (work.documents * s.heads // groups)) or 1
        spread = 2 * s.queries if s.kv_heads < s.heads else 0
        padded = work.tokens + 128 * work.documents
        gradients = self.bytes * work.tokens * (3 * s.queries + spread) + 4 * padded * (copies * s.queries + s.heads)
        return self.bytes * work.tokens * s.queries + gradients // groups

    @property
    def _gradient(self) -> int:
        """Columns of the gradient that goes from layer to layer, with the room that its first product asks for."""
        return self.shape.hidden + max(self.u[1], self.u[3])

    def _dropped(self, columns: int) -> int:
        """The copy of a projection's input with some of its numbers dropped."""
        return columns if self.dropout else 0
