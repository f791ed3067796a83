"""The options of every command: none lost, none with another default; `--help` groups them in panels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.main

from gfprestore.commands.app import app, main

STORED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "options.json").read_text(encoding="utf-8")
)
PANELS = {
    "run": ["Input and output", "Faces", "Background", "Performance", "Behavior"],
    "train": ["Input and output", "Training", "Initial weights", "Losses", "Performance", "Behavior"],
    "eval": ["Input and output", "Faces", "Performance", "Behavior"],
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


@pytest.mark.parametrize("name", PANELS)
def test_help_groups_the_options_in_panels(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert [panel for panel in PANELS[name] if f"─ {panel} ─" not in shown] == []


def test_shell_completion_can_be_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--install-completion" in capsys.readouterr().out
