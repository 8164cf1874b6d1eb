"""An export that was stopped goes on where it stopped, and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from papertune.config import ExportConfig
from papertune.errors import Busy
from papertune.events import Event, Started, Unit
from papertune.export.stage import run
from papertune.files import sha256_of


def test_a_run_stopped_between_tensors_goes_on_there(config: Callable[..., ExportConfig]) -> None:
    run(config(gguf_path=Path("whole/scientific-mistral.gguf")))

    def stop_at(number: int) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            if isinstance(event, Unit) and event.done == number:
                raise KeyboardInterrupt

        return on_event

    for number in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            run(config(), on_event=stop_at(number))
        assert not Path("scientific-mistral.gguf").exists()
    events: list[Event] = []
    run(config(), on_event=events.append)
    assert next(event for event in events if isinstance(event, Started)).done == 9
    assert sha256_of(Path("scientific-mistral.gguf")) == sha256_of(Path("whole/scientific-mistral.gguf"))
    assert sorted(path.name for path in Path().iterdir()) == ["Modelfile", "scientific-mistral.gguf", "scientific-mistral.gguf.json", "whole"]


def test_a_part_that_was_tampered_with_is_not_trusted(config: Callable[..., ExportConfig]) -> None:
    run(config(gguf_path=Path("whole/scientific-mistral.gguf")))

    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), on_event=stop)
    part = Path("scientific-mistral.gguf.part")
    raw = bytearray(part.read_bytes())
    raw[-5000] ^= 1
    part.write_bytes(raw)
    events: list[Event] = []
    run(config(), on_event=events.append)
    assert next(event for event in events if isinstance(event, Started)).done < 6
    assert sha256_of(Path("scientific-mistral.gguf")) == sha256_of(Path("whole/scientific-mistral.gguf"))


def test_two_exports_into_one_file_do_not_mix(config: Callable[..., ExportConfig]) -> None:
    def second(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 1:
            with pytest.raises(Busy):
                run(config())

    run(config(), on_event=second)
