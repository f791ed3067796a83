"""The options of every command: none lost, none with another default; `--help` groups them in panels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gfprestore.commands.app import app, main
from gfprestore.commands.options import BACKGROUND, BEHAVIOR, FACES, INPUT_OUTPUT, PERFORMANCE, REVERSAL

STORED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "options.json").read_text(encoding="utf-8")
)
PANELS = {
    "run": [INPUT_OUTPUT, FACES, BACKGROUND, REVERSAL, PERFORMANCE, BEHAVIOR],
    "sample": [INPUT_OUTPUT, PERFORMANCE, BEHAVIOR],
    "train": [INPUT_OUTPUT, "Training", "Initial weights", "Losses", PERFORMANCE, BEHAVIOR],
    "eval": [INPUT_OUTPUT, FACES, PERFORMANCE, BEHAVIOR],
    "prepare": [INPUT_OUTPUT, FACES, PERFORMANCE, BEHAVIOR],
    "degrade": [INPUT_OUTPUT, PERFORMANCE, BEHAVIOR],
    "retouch": [INPUT_OUTPUT, FACES, PERFORMANCE, BEHAVIOR],
    "bench": [INPUT_OUTPUT, FACES, BACKGROUND, PERFORMANCE, BEHAVIOR],
    "demo": [INPUT_OUTPUT, FACES, BACKGROUND, PERFORMANCE, BEHAVIOR],
    "doctor": [PERFORMANCE, BEHAVIOR],
    "weights list": [BEHAVIOR],
    "weights fetch": [BEHAVIOR],
    "weights verify": [BEHAVIOR],
    "weights path": [BEHAVIOR],
}


@pytest.mark.parametrize("name", STORED)
def test_every_option_of_the_first_version_is_there_with_its_default(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    defaults = {
        option: repr(getattr(parameter.default, "value", parameter.default))
        for parameter in command.params
        for option in parameter.opts
    }
    assert {option: defaults.get(option) for option in STORED[name]} == STORED[name]


def commands() -> dict[str, Any]:
    """Every command by its name, such as `weights fetch`."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {inner}": below for inner, below in getattr(command, "commands", {}).items()} or {
            name: command
        }
    return found


@pytest.mark.parametrize("name", PANELS)
def test_help_groups_the_options_in_panels(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert [panel for panel in PANELS[name] if f"─ {panel} ─" not in shown] == []


@pytest.mark.parametrize("name", PANELS)
def test_names_of_options_are_whole_in_a_narrow_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert re.findall(r"--[a-z-]+…", capsys.readouterr().out) == []


def test_every_option_of_every_command_is_in_a_panel() -> None:
    assert set(commands()) == set(PANELS)
    for name, command in commands().items():
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        panels = {option.rich_help_panel for option in options if option.name != "help"}
        assert panels == set(PANELS[name]), name


@pytest.mark.parametrize("value", ["auto", "keep", "restore"])
def test_colour_is_the_same_option_as_color(value: str) -> None:
    command = commands()["run"]
    given = [command.make_context("run", [option, value, "photo.jpg"]).params for option in ("--color", "--colour")]
    assert given[0] == given[1]
    assert given[0]["color"].value == value


def test_shell_completion_can_be_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--install-completion" in capsys.readouterr().out
