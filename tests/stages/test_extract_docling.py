"""Docling end to end with a layout model of the right kind and random weights: it says nothing of quality, but every line of ours runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from papertune.config import ExtractConfig
from papertune.events import Event, Notice
from papertune.extract.stage import run
from papertune.manifest import read_manifest
from papertune.records import Document
from tests import hostile

pytest.importorskip("docling")

LABELS = [
    "caption", "footnote", "formula", "list_item", "page_footer", "page_header", "picture", "section_header", "table", "text", "title",
    "document_index", "code", "checkbox_selected", "checkbox_unselected", "form", "key_value_region",
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights where docling-tools would put them: RT-DETR v2 as published, with the smallest backbone and two layers."""
    import torch
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    folder = tmp_path_factory.mktemp("models")
    layout = folder / "docling-project--docling-layout-heron"
    stages = ["stage2", "stage3", "stage4"]
    backbone = RTDetrResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[64, 128, 256, 512], out_features=stages)
    config = RTDetrV2Config(
        backbone_config=backbone, encoder_in_channels=[128, 256, 512], encoder_layers=1, decoder_layers=2, num_queries=50, num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)), label2id={label: number for number, label in enumerate(LABELS)},
    )  # fmt: skip
    torch.manual_seed(0)
    RTDetrV2ForObjectDetection(config).save_pretrained(layout)
    processor = {
        "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": 640, "width": 640}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": False, "do_pad": False, "resample": 2,
    }  # fmt: skip
    (layout / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_docling_reads_and_what_it_cannot_read_goes_on_to_fast(models: Path, tmp_path: Path) -> None:
    pdfs, out = tmp_path / "pdfs", tmp_path / "out"
    pdfs.mkdir()
    (pdfs / "a.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.PROSE.upper()))
    (pdfs / "b.epub").write_bytes(hostile.epub())
    (pdfs / "broken.pdf").write_bytes(hostile.CORPUS["head-and-noise.pdf"][0]())
    (pdfs / "locked.pdf").write_bytes(hostile.CORPUS["locked.pdf"][0]())
    heard: list[Event] = []
    report = run(
        ExtractConfig(input_dir=(pdfs,), output_dir=out, engine="docling", device="auto", docling_models=models, timeout=300.0), on_event=heard.append
    )
    assert report.states == {"ok": 2, "damaged": 1, "needs_password": 1}
    document = Document.from_json((out / "a.blocks.json").read_text())
    assert (document.engine, document.pages) == ("docling", 2)
    assert "two hundred years" in " ".join(block.text for block in document.blocks)
    left, top, right, bottom = document.blocks[0].places[0].box or (0, 0, 0, 0)
    assert 0 <= left < right <= 612
    assert 0 <= top < bottom <= 792
    items = read_manifest(out / ".resume.json")[1]
    assert [failure[0] for failure in items["../pdfs/broken.pdf"]["failures"]] == ["docling", "fast", "pypdf", "pdfplumber"]
    assert len([event for event in heard if isinstance(event, Notice) and "CUDA" in event.text]) <= 1


def test_torchvision_is_not_needed(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from papertune.extract.backend import Options
    from papertune.extract.backends.docling import open_backend

    monkeypatch.setitem(sys.modules, "torchvision", None)
    path = tmp_path / "a.pdf"
    path.write_bytes(hostile.pdf(hostile.PROSE))
    assert open_backend(Options("cpu", models, 2)).read(path).pages == 1
