"""Docling: its StandardPdfPipeline with the layout model, for the best labels where a GPU is at hand.

Tables and OCR are off. Docling builds its table stage even then, and that stage imports torchvision, which may be absent or not fit the
installed torch; so ``_LayoutPipeline`` makes its stages itself and leaves those two out. Everything is loaded from the folder of the
weights; nothing is downloaded. On a CPU the model runs in ONNX Runtime where that is installed, and then torch is not needed: loaded in 0.4 s
instead of 2.6 s, 281 MB instead of 567 MB with a model of no size. Written against docling-slim 2.143.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from docling.backend.docling_parse_backend import ThreadedDoclingParseDocumentBackend
from docling.datamodel.accelerator_options import AcceleratorOptions
from docling.datamodel.base_models import ConversionStatus, InputFormat, Page
from docling.datamodel.document import ConversionResult, InputDocument
from docling.datamodel.object_detection_engine_options import OnnxRuntimeObjectDetectionEngineOptions
from docling.datamodel.pipeline_options import LayoutObjectDetectionOptions, LayoutPostprocessorOptions, ThreadedPdfPipelineOptions
from docling.datamodel.settings import DEFAULT_PAGE_RANGE, DocumentLimits
from docling.models.stages.form_field.form_field_model import PdfFormFieldModel
from docling.models.stages.heading_hierarchy.heading_hierarchy_model import HeadingHierarchyModel
from docling.models.stages.layout.layout_object_detection_model import LayoutObjectDetectionModel
from docling.models.stages.layout.layout_postprocessing_model import LayoutPostprocessingModel
from docling.models.stages.page_assemble.page_assemble_model import PageAssembleModel, PageAssembleOptions
from docling.models.stages.page_preprocessing.page_preprocessing_model import PagePreprocessingModel, PagePreprocessingOptions
from docling.models.stages.reading_order.readingorder_model import ReadingOrderModel, ReadingOrderOptions
from docling.pipeline.standard_pdf_pipeline import StandardPdfPipeline
from docling_core.types.doc.common.content_layer import ContentLayer
from docling_core.types.doc.document import DoclingDocument
from docling_core.types.doc.items.node import DocItem
from docling_core.types.doc.items.table.table import TableItem
from docling_core.types.doc.items.text import TextItem
from docling_core.types.doc.labels import DocItemLabel

from papertune.extract.backend import Damaged, NoTextLayer, Options, PartlyRead
from papertune.extract.engines import runs_on_onnx
from papertune.extract.sections import mark_references
from papertune.records import Block, Document, Kind, Place

_BATCH = {"cuda": 16, "cpu": 4}
"""Pages a layout batch: with 16 of 640 x 640 a model of this size takes 2.7 GiB, so an 8 GB card keeps room for the desktop."""

_CPU_ALONE = ["CPUExecutionProvider", "CPUExecutionProvider"]
"""Named once, Docling takes it for its default and asks torch for a GPU, the only thing that it would need torch for."""

_KINDS: dict[DocItemLabel, Kind] = {
    DocItemLabel.TITLE: "title",
    DocItemLabel.SECTION_HEADER: "heading",
    DocItemLabel.TEXT: "paragraph",
    DocItemLabel.PARAGRAPH: "paragraph",
    DocItemLabel.LIST_ITEM: "paragraph",
    DocItemLabel.CAPTION: "caption",
    DocItemLabel.FOOTNOTE: "footnote",
    DocItemLabel.FORMULA: "formula",
    DocItemLabel.CODE: "formula",  # set apart, and not prose
    DocItemLabel.REFERENCE: "reference",
    DocItemLabel.PAGE_HEADER: "furniture",
    DocItemLabel.PAGE_FOOTER: "furniture",
    DocItemLabel.DOCUMENT_INDEX: "furniture",
}
_OTHER: Kind = "table"  # forms, check boxes, key and value regions


class Docling:
    name = "docling"

    def __init__(self, options: Options) -> None:
        settings = ThreadedPdfPipelineOptions(artifacts_path=options.models, do_ocr=False, do_table_structure=False)
        settings.accelerator_options = AcceleratorOptions(device=options.device, num_threads=options.threads)
        settings.layout_batch_size = _BATCH[options.device]
        settings.queue_max_size = 2 * _BATCH[options.device]  # page images wait there
        if runs_on_onnx(options.device, options.models):
            layout = cast(LayoutObjectDetectionOptions, settings.layout_options)
            layout.engine_options = OnnxRuntimeObjectDetectionEngineOptions(providers=_CPU_ALONE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pipeline = _LayoutPipeline(settings)

    def read(self, path: Path) -> Document:
        """Raises Damaged, NoTextLayer or PartlyRead."""
        result = self._convert(path, DEFAULT_PAGE_RANGE)
        blocks = mark_references(_blocks(result.document))
        if not blocks:
            raise NoTextLayer(f"{len(result.pages)} pages without text")
        document = Document("", "", self.name, len(result.document.pages), blocks)
        if result.status is ConversionStatus.PARTIAL_SUCCESS:
            raise PartlyRead(_reason(result), document)
        return document

    def read_pages(self, path: Path, first: int, last: int) -> tuple[Block, ...]:
        """The blocks of some pages, counted from 1, the last one included. Raises Damaged when one of them cannot be read."""
        result = self._convert(path, (first, last))
        if result.status is not ConversionStatus.SUCCESS:
            raise Damaged(_reason(result))
        return tuple(_blocks(result.document))

    def _convert(self, path: Path, pages: tuple[int, int]) -> ConversionResult:
        """Goes around ``DocumentConverter``, whose module imports torch for its readers of other formats."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means of no pages, deprecated options of its own
            source = InputDocument(path, InputFormat.PDF, ThreadedDoclingParseDocumentBackend, limits=DocumentLimits(page_range=pages))
            if not source.valid:
                raise Damaged(source._rejection.message if source._rejection else "Docling cannot open it")
            result = self._pipeline.execute(source, raises_on_error=False)
        if result.status not in (ConversionStatus.SUCCESS, ConversionStatus.PARTIAL_SUCCESS):
            raise Damaged(_reason(result) or f"Docling ended with {result.status.value}")
        return result


def _reason(result: ConversionResult) -> str:
    return "; ".join(dict.fromkeys(error.error_message for error in result.errors))


def _blocks(document: DoclingDocument) -> Iterator[Block]:
    layers = {ContentLayer.BODY, ContentLayer.FURNITURE}
    for item, _depth in document.iterate_items(included_content_layers=layers, traverse_pictures=True):
        if not isinstance(item, DocItem):
            continue
        if isinstance(item, TableItem):
            text = " ".join(cell.text for cell in item.data.table_cells)
        elif isinstance(item, TextItem):
            text = item.text or item.orig
        else:
            continue
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        if text:
            kind = "furniture" if item.content_layer is ContentLayer.FURNITURE else _KINDS.get(item.label, _OTHER)
            level = max(1, getattr(item, "level", 1)) if kind == "heading" else 0
            yield Block(kind, text, tuple(_places(item, document)), level)


def _places(item: DocItem, document: DoclingDocument) -> Iterator[Place]:
    for origin in item.prov:
        box = origin.bbox.to_top_left_origin(document.pages[origin.page_no].size.height)
        yield Place(origin.page_no, (round(box.l, 1), round(box.t, 1), round(box.r, 1), round(box.b, 1)))


class _PassOn:
    """A stage that is left out."""

    def __call__(self, _result: ConversionResult, pages: Iterable[Page]) -> Iterable[Page]:
        yield from pages


class _LayoutPipeline(StandardPdfPipeline):
    """The standard pipeline with neither table nor OCR stage, nor any enrichment."""

    def _init_models(self) -> None:
        options = self.pipeline_options
        layout = cast(LayoutObjectDetectionOptions, options.layout_options)
        self.keep_images = self.keep_backend = False
        self.preprocessing_model = PagePreprocessingModel(
            options=PagePreprocessingOptions(
                images_scale=options.images_scale,
                skip_cell_extraction=False,
                capture_reading_order_separators=options.use_reading_order_separators,
            )
        )
        self.layout_model = LayoutObjectDetectionModel(self.artifacts_path, options.accelerator_options, layout)
        self.layout_postprocessing_model = LayoutPostprocessingModel(
            options=LayoutPostprocessorOptions(
                skip_cell_assignment=layout.skip_cell_assignment,
                keep_empty_clusters=layout.keep_empty_clusters,
                create_orphan_clusters=layout.create_orphan_clusters,
                run_postprocessor=self.layout_model.requires_layout_postprocessing,
            )
        )
        self.form_field_model = PdfFormFieldModel(enabled=False)
        self.ocr_model: Any = _PassOn()
        self.table_model: Any = _PassOn()
        self.assemble_model = PageAssembleModel(options=PageAssembleOptions())
        self.reading_order_model = ReadingOrderModel(options=ReadingOrderOptions(use_page_separators=options.use_reading_order_separators))
        self.heading_hierarchy_model = HeadingHierarchyModel(options=options.heading_hierarchy_options)
        self.enrichment_pipe = []


def open_backend(options: Options) -> Docling:
    return Docling(options)
