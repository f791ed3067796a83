"""What the README shows is what the program does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from samples import pixels_of, size_of

from gfprestore.batch.results import PhotoResult
from gfprestore.commands.app import main
from gfprestore.errors import ExitCode

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block_after(marker: str) -> str:
    """The fenced block that follows an HTML comment."""
    match = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, f"README has no block marked {marker}"
    return match[1]


def help_of(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_the_library_example_runs(
    astronaut: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut[:100, :150]).save("portrait.jpg")
    exec(block_after("library-example"), {"pixels": astronaut[:60, :80]})
    assert size_of("portrait-restored.jpg") == (300, 200)
    assert capsys.readouterr().out.strip() == "(120, 160, 3) uint8 0"


@pytest.mark.parametrize(
    ("command", "heading", "end"),
    [
        ("run", "## Restore photos", "With `--json`, stdout"),
        ("train", "## Train", "A prior trains fastest"),
        ("eval", "## Evaluate", "| Metric |"),
    ],
)
def test_the_tables_have_every_option_of_run_train_and_eval_and_no_other(
    command: str, heading: str, end: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README[README.index(heading) : README.index(end)]
    table = section[section.index("| Option ") :]
    documented = set(re.findall(r"--[a-z][a-z-]+", table))
    offered = set(re.findall(r"--[a-z][a-z-]+", help_of(command, capsys, monkeypatch))) - {"--help"}
    assert documented == offered


@pytest.mark.parametrize("command", ["prepare", "degrade", "retouch", "sample", "demo", "bench", "doctor"])
def test_every_option_of_the_other_commands_is_somewhere_in_the_readme(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = set(re.findall(r"--[a-z][a-z-]+", help_of(command, capsys, monkeypatch))) - {"--help"}
    assert offered - set(re.findall(r"--[a-z][a-z-]+", README)) == set()


def test_the_json_object_shown_has_the_fields_that_are_written() -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
    result = PhotoResult(Path("a"), None, "failed", 0, 0, None, None, 0.0, "none", "none")
    assert list(shown) == list(result.as_json())


def test_the_exit_codes_shown_are_all_there_are() -> None:
    rows = re.findall(r"^\| (\d+) \| ", README, re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in ExitCode]


def test_the_first_two_commands_set_up_everything_by_themselves() -> None:
    demo, tests = block_after("demo-commands"), block_after("test-commands")
    assert README.index(demo) < README.index(tests) < README.index("## ")
    for commands, last in ((demo, "gfprestore demo"), (tests, "pytest")):
        steps = [step.strip() for step in commands.strip().split("&&")]
        assert steps[0] == "python3 -m venv .venv"
        assert steps[2].startswith("pip install ")
        assert steps[-1] == last


def test_the_demo_ages_two_portraits_restores_them_and_shows_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage", exc_type=ImportError)
    pytest.importorskip("matplotlib", exc_type=ImportError)
    out = tmp_path / "demo"
    with pytest.raises(SystemExit) as leaving:
        main(["demo", "-o", str(out), "--offline", "--json"])
    assert leaving.value.code in (0, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["summary"]["restored"] == lines[-1]["summary"]["restored_faces"] == 2
    assert {(line["restorer"], line["background"]) for line in lines[:-1]} == {
        ("compact-restorer", "compact-background")
    }
    for name in ("astronaut", "officer"):
        aged = pixels_of(out / "aged" / f"{name}.jpg").astype(float)
        restored = size_of(out / "restored" / f"{name}.jpg")
        assert restored == (2 * aged.shape[1], 2 * aged.shape[0])
        assert size_of(out / "restored" / "_compare" / f"{name}.jpg.png")[1] == restored[1]
        assert aged.min() > 20  # faded: no black is left
    assert np.abs(aged - aged.mean(axis=2, keepdims=True)).max() > 15  # the second is sepia


def test_python_dash_m_is_the_same_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "gfprestore", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"gfprestore \d+\.\d+\.\d+\n", shown.stdout)
