"""One section of an article: sentence by sentence, until it is long enough or the model has truly ended it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from papertune import prompts
from papertune.prompts import SENTENCE, Sections
from papertune.sampling import Sampling
from papertune.write.guard import Guard, endless
from papertune.writers import Writer

_STRIKES = 4  # sentences in a row that may be rejected, each followed by another attempt
_HEAT = {"repeats": 0.15, "drifts": -0.15}  # by what share each rejection in a row changes the temperature of the next attempt
_ATTEMPTS = 60  # requests a section may take in all
_EARLY = 0.3  # share of the wished length from which an end by the model is taken for one
_LATE = 1.15  # share from which any sentence may be the last; before, the end of a paragraph is waited for
_LEAST, _MOST = 128, 512  # tokens asked for at a time
_TOKENS_A_WORD = 1.8  # of scientific English, on the safe side
_HEADING = re.compile(r"(?:^|\n)[ \t]*#")


@dataclass
class Section:
    """The section under ``heading`` in the making. ``before`` are the sections before it; ``emit`` gets each piece of text that stays.

    ``number`` and the sampling's seed decide all draws, so that a section begun again comes out the same.
    """

    title: str
    before: Sections
    heading: str
    words: int
    number: int
    guard: Guard
    emit: Callable[[str], None]
    text: str = ""
    _pending: str = ""  # the beginning of the next sentence
    _strikes: int = 0
    _fault: str = ""  # of the last sentence that was rejected
    _faults: Counter[str] = field(default_factory=Counter)

    def write(self, writer: Writer, sampling: Sampling) -> str:
        """Writes the section; returns its text. May be empty, if the model brings nothing that the guard lets pass.

        When a model has drifted as often as it may, the guard becomes lenient for the rest of the article: word salad shows a user more
        about the model than an empty section.
        """
        for attempt in range(_ATTEMPTS):
            most = min(_MOST, writer.context // 4, max(_LEAST, int((self.words - self.written) * _TOKENS_A_WORD)))
            written = self.text + self._pending
            asked = prompts.section(self.title, self.before, (self.heading,), written, room=writer.context - most - 2, count=writer.count)
            seed = (sampling.seed * 1_000_003 + self.number * 1_009 + attempt) % (1 << 31)
            heat = 1 + _HEAT.get(self._fault, 0.0) * self._strikes
            if self._take(writer, asked, replace(sampling, seed=seed, temperature=sampling.temperature * heat), most):
                break
            if self._strikes >= _STRIKES:
                if self.guard.lenient or self._fault != "drifts":
                    break
                self.guard.lenient, self._strikes = True, 0
        self.text = self.text.rstrip()
        return self.text

    @property
    def written(self) -> int:
        return len(self.text.split())

    @property
    def troubles(self) -> str:
        """What was rejected, in words; empty when nothing was."""
        said = {"repeats": "repeated what stood there", "drifts": "were no prose"}
        return ", ".join(f"{count} {said[fault]}" for fault, count in sorted(self._faults.items()))

    def _take(self, writer: Writer, asked: str, sampling: Sampling, most: int) -> bool:
        """Reads one answer as long as it is of use; returns whether the section is done."""
        stream = writer.write(asked, sampling, most)
        try:
            while True:
                try:
                    piece = next(stream)
                except StopIteration as stop:
                    return bool(stop.value) and self._end()
                self._pending += piece
                if not self.text:
                    self._pending = self._pending.lstrip()
                if heading := _HEADING.search(self._pending):
                    self._pending = self._pending[: heading.start()]
                    return self._end()
                if not self._sentences():
                    return self._done()
        finally:
            stream.close()

    def _sentences(self) -> bool:
        """Moves whole sentences from what is pending to the text; False when reading on is of no use."""
        while match := SENTENCE.search(self._pending):
            sentence, self._pending = self._pending[: match.end()], self._pending[match.end() :]
            if not self._accept(sentence) or self._done():
                return False
        if endless(self._pending):
            if not self.guard.lenient:
                self._reject("drifts")
                return False
            words, _, self._pending = self._pending.rpartition(" ")
            return self._accept(words + " ") and not self._done()
        return True

    def _accept(self, sentence: str) -> bool:
        if fault := self.guard.fault(sentence):
            self._reject(fault)
            return False
        self.guard.keep(sentence)
        self._strikes, self._fault = 0, ""
        self.text += sentence
        self.emit(sentence)
        return True

    def _reject(self, fault: str) -> None:
        self._pending = ""
        self._strikes += 1
        self._fault = fault
        self._faults[fault] += 1

    def _done(self) -> bool:
        words = self.written
        return words >= _LATE * self.words or (words >= self.words and self.text.endswith("\n"))

    def _end(self) -> bool:
        """The model has ended the section: what is pending is its last sentence. Too early an end is not taken: a new paragraph is begun."""
        last, self._pending = self._pending.rstrip(), ""
        if last.endswith((".", "!", "?", ".”", '."', ".)")) and not self._accept(last):
            return False
        if self.written >= _EARLY * self.words:
            return True
        self._strikes += 1
        if self.text and not self.text.endswith("\n\n"):
            self.text += "\n\n"
            self.emit("\n\n")
        return False
