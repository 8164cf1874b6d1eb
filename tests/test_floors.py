"""Imports go down only: commands (3) → rooms (2) → kernels (1) → foundation (0); the rooms never import one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "papertune"
ROOMS = {"extract", "dataset", "train", "export", "evaluate", "write"}
COMMANDS = {"__main__", "cli", "progress", "doctor", "demo", "analyze", "report"}
MODULES = sorted(SOURCE.rglob("*.py"))
HEAVY = {"torch", "transformers", "docling", "numba", "bitsandbytes", "peft", "accelerate", "gguf", "pypdfium2", "xllamacpp"}


def room_of(module: str) -> str:
    """``papertune.train.loop`` → ``train``; the package itself counts as foundation."""
    return module.split(".")[1] if "." in module else ""


def floor_of(module: str) -> int:
    room = room_of(module)
    return 3 if room in COMMANDS else 2 if room in ROOMS else 1 if room == "kernels" else 0


def name_of(path: Path) -> str:
    return ".".join(["papertune", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "papertune" else {str(node.module)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path))
def test_imports_go_down(path: Path) -> None:
    module = name_of(path)
    for imported in imports_of(path):
        if imported.split(".")[0] == "triton":
            assert room_of(module) == "kernels", f"{module} imports Triton; kernels is its only door"
        if imported.split(".")[0] != "papertune" or room_of(imported) == room_of(module):
            continue
        assert floor_of(imported) <= floor_of(module), f"{module} imports {imported}, which stands above it"
        assert floor_of(imported) != 2 or floor_of(module) != 2, f"{module} imports {imported}: rooms meet only in files"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "stage.py" or p.parent == SOURCE], ids=lambda path: name_of(path))
def test_heavy_libraries_are_not_imported_at_the_top(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in top} & HEAVY


def test_the_scripts_folder_holds_thin_scripts_only() -> None:
    folder = SOURCE.parents[1] / "finetune"
    scripts = {path.name: path for path in folder.glob("*.py")}
    assert set(scripts) == {"extract_text.py", "prepare_dataset.py", "finetune.py", "export_model.py"}
    assert all(len(path.read_text().splitlines()) <= 10 for path in scripts.values())
