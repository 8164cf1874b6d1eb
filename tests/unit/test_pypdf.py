"""pypdf, the fallback: a page that it cannot manage is refused at once, and alone."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from papertune.extract.backend import Options, PartlyRead
from papertune.extract.backends.pypdf import MOST_UNPACKED, open_backend
from tests.hostile import FONT, PROSE, assemble, drawing, stream


def test_a_page_that_unpacks_to_too_much_is_left_out_alone(tmp_path: Path) -> None:
    words = b"(rather long) Tj "
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [4 0 R 5 0 R] /Count 2 >>", FONT, page % 6, page % 7,
        stream(drawing(PROSE)),
        stream(zlib.compress(b"BT /F1 9 Tf " + words * (MOST_UNPACKED // len(words) + 1) + b"ET"), b"/Filter /FlateDecode"),
    ]  # fmt: skip
    path = tmp_path / "large.pdf"
    path.write_bytes(assemble(objects))
    with pytest.raises(PartlyRead, match="1 of 2 pages are missing; page 2: LimitReachedError: Limit reached while decompressing") as refused:
        open_backend(Options()).read(path)
    assert refused.value.document.running_text().strip() == PROSE
