"""The wheel, installed as users install it, restores the demo's portraits on the oldest and the newest Pythons.

Needs minutes, a package index and some 6 GB of disk for each interpreter. Interpreters that are not found are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import size_of

pytestmark = [pytest.mark.slow, pytest.mark.network]

ROOT = Path(__file__).resolve().parents[1]
QUICK_TESTS = ("faces", "photo/test_icc.py", "commands/test_help.py", "test_files.py", "test_pixels.py")
SUPPORT = ("conftest.py", "doubles.py", "samples.py", "golden")


def interpreter(version: str) -> Path | None:
    """An interpreter of this version, from PATH or from pyenv."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for path in [*installed, *([Path(on_path)] if on_path else [])]:
        program = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([path, "-c", program], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:
            return path
    return None


def checked(*command: str | Path, cwd: Path) -> str:
    """Stdout of a command that succeeds, run without what this process passes to its own Python."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GFPRESTORE_WEIGHTS", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout[-8000:]}\n{result.stderr[-8000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built once."""
    folder = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("gfprestore-*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """Folder of a virtual environment; removed at once, as each one takes gigabytes."""
    folder = tmp_path / "environment"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_the_wheel_restores_the_demo_and_passes_quick_tests(
    version: str, wheel: Path, environment: Path, tmp_path: Path
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} was found neither on PATH nor in ~/.pyenv/versions")
    checked(python, "-m", "venv", environment, cwd=tmp_path)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    checked(python, "-m", "pip", "install", "-q", f"{wheel}[offline,demo]", "pytest", "hypothesis", cwd=tmp_path)

    shown = checked(scripts / "gfprestore", "demo", "--offline", "--json", "-o", "demo", cwd=tmp_path)
    *photos, last = [json.loads(line) for line in shown.splitlines()]
    assert [(photo["faces"], photo["restored_faces"]) for photo in photos] == [(1, 1), (1, 1)]
    assert (last["summary"]["restored"], last["summary"]["faces"], last["summary"]["restored_faces"]) == (2, 2, 2)
    for name in ("astronaut", "officer"):
        restored = size_of(tmp_path / "demo" / "restored" / f"{name}.jpg")
        assert size_of(tmp_path / "demo" / "restored" / "_compare" / f"{name}.jpg.png")[1] == restored[1]

    copy_tests(tmp_path / "copy")
    where = "import gfprestore; print(gfprestore.__file__)"
    assert Path(checked(python, "-c", where, cwd=tmp_path / "copy").strip()).is_relative_to(environment)
    summary = checked(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "copy").splitlines()[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 50, summary


def copy_tests(folder: Path) -> None:
    """The quick tests and what they share, away from the checkout, so that they import the installed package."""
    for name in (*SUPPORT, *QUICK_TESTS):
        source, target = ROOT / "tests" / name, folder / "tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    shutil.copy2(ROOT / "pyproject.toml", folder)
