"""EPUB: our own reader, with a cap on everything a hostile file could make large.

Nothing is unpacked to disk. Names in the archive are only looked up, never joined to a path of ours. Package files go through expat, where any
entity declaration ends the reading (no entity bombs, no external entities); chapters through the tolerant ``html.parser``, which knows HTML's
named characters and nothing else. Sources: EPUB 3.3 (package document, spine, structural semantics), OCF 3.3 (container, encryption).
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from papertune.extract.backend import Damaged, NotEpub, NoTextLayer, Options, PartlyRead, Protected, TooLarge
from papertune.extract.chapters import blocks_of_chapter
from papertune.extract.sections import mark_references
from papertune.records import Block, Document

MOST_ENTRIES = 20_000
MOST_BYTES = 256 << 20  # of one archive's text, unpacked
MOST_OF_ENTRY = 64 << 20  # bytes of one entry, unpacked
MOST_RATIO = 200  # unpacked bytes to packed ones, beyond the first MiB; prose packs to a third or a fourth

_DEEPEST = 200  # elements in one another in a package file
_CONTAINER = "META-INF/container.xml"
_CONTENT_TYPES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"}
_FONT_LOCKS = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}  # font obfuscation, which hides no text


class Epub:
    name = "epub"

    def read(self, path: Path) -> Document:
        """Raises NotEpub, Damaged, Protected, TooLarge, NoTextLayer or PartlyRead."""
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise Damaged(f"not a whole zip archive: {error}") from error
        with archive:
            return self._document(_Entries(archive))

    def _document(self, entries: _Entries) -> Document:
        package_name = _package_name(entries)
        _check_locks(entries)
        package = _parse(entries.read(package_name), package_name)
        blocks = list(_front(package))
        chapters = list(_spine(package, posixpath.dirname(package_name)))
        failed = []
        for name, linear in chapters:
            try:
                blocks.extend(blocks_of_chapter(entries.read(name), linear=linear))
            except Damaged as error:
                failed.append(f"{name}: {error}")
        body = [block for block in blocks if block.kind not in ("title", "author")]
        if not body:
            if failed:
                raise Damaged(failed[0])
            raise NoTextLayer(f"{len(chapters)} chapters without text")
        document = Document("", "", self.name, 0, mark_references(_without_second_title(blocks)))
        if failed:
            raise PartlyRead(f"{len(failed)} of {len(chapters)} chapters are missing; {failed[0]}", document)
        return document


class _Entries:
    """The archive's entries by name, under the caps."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._unpacked = 0
        infos = archive.infolist()
        if len(infos) > MOST_ENTRIES:
            raise TooLarge(f"{len(infos)} entries, the limit is {MOST_ENTRIES}")
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            self._infos.setdefault(info.filename, info)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str) -> bytes:
        """Raises Damaged or TooLarge. Counts what really comes out: sizes in the archive may lie."""
        info = self._infos.get(name)
        if info is None:
            raise Damaged(f"there is no entry {name!r}")
        if info.flag_bits & 1:
            raise Protected(f"the entry {name!r} is encrypted")
        most = min(MOST_OF_ENTRY, MOST_BYTES - self._unpacked, (1 << 20) + MOST_RATIO * info.compress_size)
        try:
            with self._archive.open(info) as file:
                data = file.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
            raise Damaged(f"the entry {name!r} cannot be unpacked: {error}") from error
        if len(data) > most:
            raise TooLarge(f"the entry {name!r} unpacks to more than {most} bytes")
        self._unpacked += len(data)
        return data


def _parse(data: bytes, name: str) -> Element:
    """Raises Damaged. A document type is fine, as old EPUBs have one; a declared entity is not. Names keep their part after the colon only."""
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise Damaged(f"{name} is nested deeper than {_DEEPEST} elements")
        builder.start(tag.rpartition(":")[2], attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(":")[2])

    def refuse(*_declaration: object) -> None:
        raise Damaged(f"{name} declares an entity")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:  # the last: TreeBuilder, for no element at all
        raise Damaged(f"{name} is not well-formed: {error}") from error


def _package_name(entries: _Entries) -> str:
    if _CONTAINER not in entries:
        raise NotEpub(f"a zip archive without {_CONTAINER}")
    for element in _parse(entries.read(_CONTAINER), _CONTAINER).iter():
        if element.tag == "rootfile" and element.get("full-path"):
            return unquote(element.attrib["full-path"])
    raise Damaged(f"{_CONTAINER} names no package")


def _check_locks(entries: _Entries) -> None:
    """Raises Protected when anything but fonts is encrypted."""
    if "META-INF/rights.xml" in entries:
        raise Protected("it has rights management (META-INF/rights.xml)")
    if "META-INF/encryption.xml" not in entries:
        return
    for locked in _parse(entries.read("META-INF/encryption.xml"), "META-INF/encryption.xml").iter():
        if locked.tag != "EncryptedData":
            continue
        methods = {element.get("Algorithm") for element in locked.iter() if element.tag == "EncryptionMethod"}
        if not methods <= _FONT_LOCKS:
            raise Protected("its text is encrypted (META-INF/encryption.xml)")


def _front(package: Element) -> Iterator[Block]:
    """The title and the authors, from the metadata."""
    texts = [(element.tag, " ".join((element.text or "").split())) for element in package.iter()]
    title = next((text for name, text in texts if name == "title" and text), "")
    if title:
        yield Block("title", title)
    yield from (Block("author", text) for name, text in texts if name == "creator" and text)


def _spine(package: Element, folder: str) -> Iterator[tuple[str, bool]]:
    """Names of the chapters in reading order, each with whether it belongs to the main line. The table of contents is left out."""
    items = {element.get("id"): element for element in package.iter() if element.tag == "item"}
    seen = set()
    for reference in package.iter():
        if reference.tag != "itemref":
            continue
        item = items.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split() or item.get("media-type") not in _CONTENT_TYPES:
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote((item.get("href") or "").partition("#")[0])))
        if name not in seen:
            seen.add(name)
            yield name, reference.get("linear") != "no"


def _without_second_title(blocks: list[Block]) -> list[Block]:
    """The title page repeats the title as a heading."""
    if blocks[0].kind != "title":
        return blocks
    title = blocks[0].text.casefold()
    first = next((index for index, block in enumerate(blocks) if block.kind in ("heading", "paragraph")), None)
    return [block for index, block in enumerate(blocks) if index != first or block.text.casefold() != title]


def open_backend(_options: Options) -> Epub:
    return Epub()
