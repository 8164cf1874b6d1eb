"""Docling end to end with a layout model of the right kind and random weights: it says nothing of quality, but every line of ours runs."""

from __future__ import annotations

import json
import os
import subprocess
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

PROCESSOR = {
    "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": 640, "width": 640}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": False, "do_pad": False, "resample": 2,
}  # fmt: skip

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
    (layout / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def onnx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the inputs and outputs of Docling's own in ONNX form, that finds the same two boxes on every page: a heading over a text."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("onnx-models")
    layout = folder / "docling-project--docling-layout-heron-onnx"
    layout.mkdir()
    constants = [
        helper.make_tensor("relative", TensorProto.FLOAT, [1, 2, 4], [0.0, 0.0, 1.0, 0.06, 0.0, 0.07, 1.0, 1.0]),
        helper.make_tensor("kinds", TensorProto.INT64, [1, 2], [LABELS.index("section_header"), LABELS.index("text")]),
        helper.make_tensor("certain", TensorProto.FLOAT, [1, 2], [0.9, 0.9]),
        helper.make_tensor("twice", TensorProto.INT64, [4], [0, 1, 0, 1]), helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]), helper.make_tensor("two", TensorProto.INT64, [1], [2]),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["orig_target_sizes", "twice"], ["sizes"], axis=1),
        helper.make_node("Cast", ["sizes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "one"], ["scale"]),
        helper.make_node("Mul", ["relative", "scale"], ["boxes"]),
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["pages"]),
        helper.make_node("Concat", ["pages", "two"], ["both"], axis=0),
        helper.make_node("Expand", ["kinds", "both"], ["labels"]),
        helper.make_node("Expand", ["certain", "both"], ["scores"]),
    ]
    inputs = [("images", TensorProto.FLOAT, ["N", 3, 640, 640]), ("orig_target_sizes", TensorProto.INT64, ["N", 2])]
    outputs = [("labels", TensorProto.INT64, ["N", 2]), ("boxes", TensorProto.FLOAT, ["N", 2, 4]), ("scores", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "layout", *([helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, layout / "model.onnx")
    (layout / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (layout / "config.json").write_text(json.dumps({"model_type": "rt_detr_v2", "id2label": dict(enumerate(LABELS))}))
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


def test_onnx_runs_the_layout_model_without_torch(onnx_models: Path, tmp_path: Path) -> None:
    """In a process of its own, in which torch cannot be imported."""
    path = tmp_path / "a.pdf"
    path.write_bytes(hostile.pdf(hostile.PROSE, f"On page two. {hostile.PROSE}"))
    script = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; from pathlib import Path\n"
        "from papertune.extract.backend import Options; from papertune.extract.backends.docling import Docling\n"
        f"docling = Docling(Options('cpu', Path({str(onnx_models)!r}), 1))\n"
        f"print([(block.kind, block.text[:12], block.places[0].page) for block in docling.read(Path({str(path)!r})).blocks])\n"
        f"print([block.text[:12] for block in docling.read_pages(Path({str(path)!r}), 2, 2)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "[('heading', '1 Introducti', 1), ('paragraph', 'The willow s', 1), ('paragraph', 'On page two.', 2)]",
        "['On page two.']",
    ]


def test_auto_gives_a_doubtful_page_to_docling(onnx_models: Path, tmp_path: Path) -> None:
    pdfs, out = tmp_path / "pdfs", tmp_path / "out"
    pdfs.mkdir()
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1), f"Behind it. {hostile.PROSE}"))
    run(ExtractConfig(input_dir=(pdfs,), output_dir=out, engine="auto", ocr="off", device="cpu", docling_models=onnx_models, timeout=60.0))
    document = Document.from_json((out / "odd.blocks.json").read_text())
    assert document.engine == "fast+docling"
    pages = [block.places[0].page for block in document.blocks]
    assert pages == sorted(pages)
    assert set(pages) == {1, 2, 3}
    assert "measured" in " ".join(block.text for block in document.blocks if block.places[0].page == 2)
