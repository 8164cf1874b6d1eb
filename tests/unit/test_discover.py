"""What is found, and what its outputs are called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from papertune.errors import FolderMissing
from papertune.extract.discover import Found, discover, folded, name_outputs


def sources(*folders: Path) -> list[str]:
    return [file.source for file in discover(folders, pytest.fail)]


def test_files_of_both_kinds_are_found_at_any_depth_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ["b.pdf", "a.epub", "A.PDF", "notes.txt", "deep/er/c.Pdf", "folder.pdf/d.pdf", "deep/b.pdf"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sources(tmp_path) == ["A.PDF", "a.epub", "b.pdf", "deep/b.pdf", "deep/er/c.Pdf", "folder.pdf/d.pdf"]


def test_folders_keep_their_order_and_one_inside_another_is_not_read_twice(tmp_path: Path) -> None:
    for name in ["one/a.pdf", "one/in/b.pdf", "two/c.pdf"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sources(tmp_path / "two", tmp_path / "one", tmp_path / "one" / "in", tmp_path / "two") == ["c.pdf", "a.pdf", "in/b.pdf"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_loops_of_links_end_and_what_is_no_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "paper.pdf").touch()
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "round.pdf").symlink_to("round.pdf")
    (tmp_path / "nowhere.pdf").symlink_to("gone.pdf")
    (tmp_path / "link.pdf").symlink_to("in/paper.pdf")
    os.mkfifo(tmp_path / "pipe.pdf")
    found = {file.source: file.problem for file in discover([tmp_path], pytest.fail)}
    assert set(found) == {"in/paper.pdf", "round.pdf", "nowhere.pdf", "link.pdf", "pipe.pdf"}
    assert found["in/paper.pdf"] == found["link.pdf"] == ""
    assert found["pipe.pdf"] == "not a regular file"
    assert "No such file" in found["nowhere.pdf"]
    assert found["round.pdf"]


def test_a_missing_folder_or_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderMissing, match="nowhere does not exist"):
        discover([tmp_path / "nowhere"], pytest.fail)
    (tmp_path / "paper.pdf").touch()
    with pytest.raises(FolderMissing, match="is not a folder"):
        discover([tmp_path / "paper.pdf"], pytest.fail)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything")
def test_a_subfolder_that_cannot_be_listed_is_told_and_the_rest_is_found(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / "a.pdf").touch()
    told: list[str] = []
    assert [file.source for file in discover([tmp_path], told.append)] == ["a.pdf"]
    assert "shut" in told[0]


def names(*sources: str, earlier: dict[str, str] | None = None, owners: dict[str, str] | None = None, longest: int = 200) -> list[str]:
    """Each file's hash is its source; ``owners`` are those of names that this run's files have not had."""
    files = [Found("/in", source.rpartition("/")[0] + "/", source.rpartition("/")[2]) for source in sources]
    had = earlier or {}
    owned = {folded(name): source for source, name in had.items()} | (owners or {})
    return name_outputs(files, sources, [(had[source], source) if source in had else ("", "") for source in sources], owned, longest)


def test_a_name_is_the_files_own_where_it_can_be() -> None:
    assert names("a.pdf", "b c.epub", "PMC1.final.pdf", "🌳.pdf") == ["a", "b c", "PMC1.final", "🌳"]


def test_no_two_outputs_share_a_name_on_any_file_system() -> None:
    given = names("x/a.pdf", "y/a.pdf", "a.epub", "A.pdf", "e\u0301.pdf", "é.pdf")
    assert given[0] == "a"
    assert all(name.startswith(("a-", "A-")) for name in given[1:4])
    assert len({name.casefold() for name in given}) == 6
    assert not given[5].startswith("é.")


def test_a_pdf_goes_before_an_epub_of_the_same_name() -> None:
    epub, pdf = names("a.epub", "a.pdf")
    assert pdf == "a"
    assert epub.startswith("a-")


def test_a_mark_depends_on_the_path_alone() -> None:
    assert names("a.pdf", "x/a.pdf", "y/a.pdf")[2] == names("a.pdf", "y/a.pdf")[1]


def test_a_name_once_given_is_kept_when_files_are_added() -> None:
    assert names("a/p.pdf", "b/p.pdf", earlier={"b/p.pdf": "p"})[1] == "p"
    assert names("a/p.pdf", "b/p.pdf", earlier={"b/p.pdf": "p"})[0].startswith("p-")


def test_only_the_same_bytes_may_have_a_name_that_is_in_use() -> None:
    assert names("a.pdf", owners={"a": "another file's"})[0].startswith("a-")
    assert names("A.pdf", owners={"a": ""})[0].startswith("A-")
    assert names("a.pdf", owners={"a": "a.pdf"}) == ["a"]
    assert names("a.pdf", earlier={"a.pdf": "a"}, owners={"a": "another file's"})[0].startswith("a-")


def test_names_fit_the_file_system() -> None:
    name = names("n" * 190 + ".pdf", longest=112)[0]
    assert len(f"{name}-12345678.txt.edited-12345678") <= 143


@pytest.mark.parametrize(
    ("stem", "safe"),
    [
        ("-rf", "_-rf"),
        (".hidden", "_.hidden"),
        ("two\nlines", "two_lines"),
        ("CON", "_CON"),
        ("com1.paper", "_com1.paper"),
        ("console", "console"),
        ("what?", "what_"),
        ("dots...", "dots"),
        (" ", "_"),
        ("bad\udcff", "bad_"),
    ],
)
def test_names_that_some_system_stumbles_over_are_mended(stem: str, safe: str) -> None:
    assert names(f"{stem}.pdf") == [safe]


def test_long_names_leave_room_for_suffixes_and_stay_apart() -> None:
    first, second = names("ü" * 120 + "1.pdf", "ü" * 120 + "2.pdf")
    assert first != second
    assert len(f"{first}.blocks.json.part".encode()) <= 255
