"""No tracked file holds what does not belong in the repository. ruff and mypy run in `.ci/run`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"CHANGELOG.md", "LICENSE", "README.md", "gfprestore", "pyproject.toml", "tests", "weights"}
LARGEST = 1 << 20  # bytes, outside weights/
PLACES_OF_ONE_MACHINE = [f"/{name}/" for name in ("work", "root", "shared")]
BINARY = {".png", ".jpg", ".npz", ".safetensors", ".onnx"}


def tracked_files() -> list[Path]:
    """The files under version control; in an unpacked source archive all that stand in the known places."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        names = [name for name in listing.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    found = (path for name in sorted(TOP_LEVEL) for path in [ROOT / name, *(ROOT / name).rglob("*")])
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def texts() -> dict[str, str]:
    """Every tracked text by its path."""
    files = [path for path in tracked_files() if path.suffix not in BINARY and "weights" not in path.parent.parts[-1:]]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes().decode("utf-8") for path in files}


def test_all_sources_compile_without_a_warning() -> None:
    for name, text in texts().items():
        if name.endswith(".py"):
            compile(text, name, "exec", dont_inherit=True)


def test_the_top_level_is_the_one_of_the_design() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {name for name in tops if not name.startswith(".")} - TOP_LEVEL == set()


def test_no_large_file_is_tracked_outside_the_weights() -> None:
    large = [path for path in tracked_files() if path.stat().st_size > LARGEST]
    assert [path for path in large if path.relative_to(ROOT).parts[0] != "weights"] == []


def test_no_text_names_a_place_of_one_machine() -> None:
    places = re.compile(r"(?<![\w.])(?:" + "|".join(PLACES_OF_ONE_MACHINE) + r")|\.\./shared\b")
    found = {
        f"{name}:{number}": line.strip()
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if places.search(line)
    }
    assert found == {}


def test_texts_are_utf8_with_plain_line_ends_and_nothing_left_over() -> None:
    for name, text in texts().items():
        assert "\r" not in text, name
        assert not text or text.endswith("\n"), f"{name} does not end with a line end"
        assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), f"{name} holds a merge conflict"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text) or name == "tests/test_style.py", name


def test_tracked_names_are_held_apart_by_every_file_system() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    assert len({name.casefold() for name in names}) == len(names)
    assert [name for name in names if not re.fullmatch(r"[\w.\-/]+", name, re.ASCII)] == []
