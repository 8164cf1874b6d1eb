"""What models wrote is compared with the training text as held-out papers are, and each copy in it is told by place."""

from __future__ import annotations

from pathlib import Path

from papertune.config import EvaluateConfig
from papertune.evaluate.passages import Paper, Passage
from papertune.evaluate.stage import _copies
from papertune.events import ignore
from papertune.records import Example

TEXT = " ".join(f"word{k} stands here as the {k}th of its kind" for k in range(40))


def test_a_copy_in_what_a_model_wrote_is_found_with_its_place_and_source(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(Example("a#0", "a", TEXT, source="a.pdf", pages=(3, 3)).to_json() + "\n")
    copied = TEXT[: TEXT.index("word20")].strip()
    written = [{"text": f"My own beginning, then: {copied}. And my own end."}, {"text": "Nothing of theirs."}]
    config = EvaluateConfig(train_file=train, text_dir=tmp_path / "none")
    found = _copies(config, [Paper("b", (Passage("", "Other words."),))], written, ignore)
    (copy,) = written[0]["copies"]
    assert written[0]["text"][copy["start"] : copy["end"]] == copied
    assert copy["from"] == "a.pdf, page 3"
    assert copy["tokens"] >= 50
    assert written[1]["copies"] == []
    assert found is not None
    assert found["papers"][0]["copies"] == []


def test_without_training_text_nothing_is_claimed(tmp_path: Path) -> None:
    written = [{"text": TEXT}]
    assert _copies(EvaluateConfig(train_file=tmp_path / "none.jsonl"), [], written, ignore) is None
    assert "copies" not in written[0]
