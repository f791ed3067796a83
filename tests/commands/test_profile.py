"""`run --profile`: where the seconds of a run went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import call
from numpy.typing import NDArray
from samples import save


def test_the_parts_of_a_run_add_up_to_its_time(
    tmp_path: Path, astronaut: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", np.roll(astronaut, 5 * number, axis=0)[:300, 60:360])
    arguments: list[Any] = ["run", tmp_path / "in", "--offline", "--device", "cpu", "--profile"]
    assert call(*arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
    profile = summary["profile"]
    assert {"plan", "start", "compare", "detect", "align", "restore", "background", "paste", "journal", "waiting",
            "report"} == set(profile["seconds"])  # fmt: skip
    assert set(profile["in_threads"]) == {"decode", "encode"}
    assert 0.95 <= sum(profile["seconds"].values()) / profile["whole_run"] <= 1.01
    assert profile["seconds"]["detect"] + profile["seconds"]["restore"] + profile["seconds"]["background"] > 0
    assert 0 < profile["network_share"] <= 1
    assert summary["seconds"] <= profile["whole_run"] + 0.01
    assert call(*arguments) == 0  # all done: no network runs
    told = capsys.readouterr().err
    assert "compare: compare with the journal" in told
    assert "detect: detect faces" not in told
    assert call(*arguments[:-1], "--json") == 0
    assert "profile" not in json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
