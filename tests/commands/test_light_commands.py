"""Commands that need no network import neither torch nor torchvision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import call
from samples import save

from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.gfpgan import GFPGAN

HEAVY = ("torch", "torchvision", "facexlib")
PROGRAM = f"""
import json, sys
from gfprestore.commands.app import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = int(end.code or 0)
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def in_a_fresh_process(folder: Path, *arguments: object) -> tuple[int, list[str], str]:
    """Exit code, heavy modules that were imported, and stderr."""
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "LOCALAPPDATA": str(folder)}
    kept = {name: value for name, value in os.environ.items() if name != "GFPRESTORE_WEIGHTS"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env={**kept, **home}, timeout=300, check=True,
    )  # fmt: skip
    code, heavy = json.loads(result.stdout.splitlines()[-1])
    return code, heavy, result.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", np.full((40, 50, 3), 60 * number, np.uint8))
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["train", "--help"], 0),
        (["weights", "list"], 0),
        (["weights", "path", "parsenet"], 0),
        (["run"], 2),
        (["run", "{photos}", "--no-such-option"], 2),
        (["run", "{photos}", "--upscale", "9"], 2),
        (["run", "{photos}", "--restorer", "gfpgan-1.5"], 2),
        (["run", "{photos}", "--aligned", "--restorer", "none"], 2),
        (["run", "{photos}", "--background", "parsenet"], 2),
        (["run", "{photos}", "--retouch-levels", "101"], 2),
        (["run", "{photos}", "--precision", "fp16", "--device", "cpu"], 5),
        (["run", "{photos}/missing"], 4),
        (["run", "{photos}", "--dry-run"], 0),
        (["weights", "path", "no-such-name"], 2),
        (["weights", "fetch", "--for", "train"], 2),
        (["train", "--data", "{photos}"], 3),
        (["train", "--data", "{photos}", "--preset", "none"], 2),
    ],
)
def test_commands_that_restore_nothing_import_no_torch(
    arguments: list[str], code: int, photos: Path, tmp_path: Path
) -> None:
    texts = [argument.format(photos=photos) for argument in arguments]
    assert in_a_fresh_process(tmp_path, *texts)[:2] == (code, [])
    assert not (tmp_path / "in-restored").exists()


def test_a_run_whose_photos_are_all_done_imports_no_torch(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--offline", "--device", "cpu", "--json"]
    assert call("run", photos, *options) == 0
    states = [json.loads(line).get("status") for line in capsys.readouterr().out.splitlines()]
    assert states == ["restored"] * 3 + [None]
    code, heavy, told = in_a_fresh_process(tmp_path, "run", photos, *options)
    assert (code, heavy) == (0, [])
    assert "3 photos, faces with compact-restorer, background with compact-background, on cpu" in told
    assert "gfpgan-1.4 is not available offline; using compact-restorer instead" in told
    save(photos / "3.png", np.full((40, 50, 3), 200, np.uint8))  # a new one needs the networks
    code, heavy, _ = in_a_fresh_process(tmp_path, "run", photos, *options)
    assert (code, heavy) == (0, ["torch"])


def test_a_run_with_an_own_checkpoint_whose_photos_are_all_done_imports_no_torch(photos: Path, tmp_path: Path) -> None:
    module = GFPGAN(GFPGANConfig.from_widths("clean", size=64, narrow=0.0625, channel_multiplier=1))
    torch.save({"params_ema": module.state_dict()}, tmp_path / "own.pth")
    options = ["--offline", "--device", "cpu", "--weights", tmp_path / "own.pth"]
    assert call("run", photos, *options) == 0
    code, heavy, told = in_a_fresh_process(tmp_path, "run", photos, *options)
    assert (code, heavy) == (0, [])
    assert "faces with gfpgan-clean" in told
    torch.save({"params_ema": {**module.state_dict(), "final_linear.bias": torch.ones(1)}}, tmp_path / "own.pth")
    assert in_a_fresh_process(tmp_path, "run", photos, *options)[1] != []  # another file, though of the same name
