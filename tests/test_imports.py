"""Every module imports cleanly on its own, and the package alone imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gfprestore"
MODULES = sorted(
    ".".join(("gfprestore", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


def run_python(program: str, *options: str) -> str:
    """What a fresh interpreter prints; its complaints fail the test."""
    result = subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_importing_the_package_imports_nothing_else() -> None:
    program = """
import sys
before = set(sys.modules)
import gfprestore
print(gfprestore.__version__)
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    version, loaded = run_python(program).splitlines()
    assert loaded == "gfprestore"
    assert version.count(".") >= 1


def test_every_module_imports_without_a_warning_from_our_code() -> None:
    """In one interpreter, as torch takes seconds to import; warnings of our own files are errors."""
    program = f"""
import importlib, warnings
warnings.simplefilter("ignore")
warnings.filterwarnings("error", module=r"gfprestore(\\.|$)")
for name in {MODULES!r}:
    importlib.import_module(name)
print("all")
"""
    assert run_python(program).strip() == "all"


@pytest.mark.parametrize(
    "name", ["gfprestore.batch.folders", "gfprestore.batch.journal", "gfprestore.errors", "gfprestore.commands.app"]
)
def test_light_modules_import_nothing_heavy(name: str) -> None:
    heavy = ("torch", "cv2", "numpy", "PIL")
    assert run_python(f"import {name}, sys; print(*[n for n in {heavy!r} if n in sys.modules])").strip() == ""


def test_importing_writes_nothing_and_runs_nothing(tmp_path: Path) -> None:
    program = f"import os; os.chdir({str(tmp_path)!r})\nimport threading, gfprestore.commands.app\n"
    program += "print(threading.active_count())"
    assert run_python(program, "-B").strip() == "1"
    assert list(tmp_path.iterdir()) == []


def test_python_dash_m_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gfprestore", "--version"], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.strip() != ""
