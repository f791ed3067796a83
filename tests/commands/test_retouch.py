"""`gfprestore retouch` from the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from doubles import call, make_faces, records
from numpy.typing import NDArray
from samples import pixels_of, save

from gfprestore.data.retouching_levels import OPERATIONS


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "retouch.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_pairs_of_a_folder_are_made_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = make_faces(tmp_path / "faces", count=2, size=128)
    command = ("retouch", faces, "-o", tmp_path / "set", "--seed", 3, "--keep-alignment", "--variants", 2, "--json")
    assert call(*command, "--preset", "single-shrink-80") == 0
    assert records(capsys)[1] == {"made": 4, "done_before": 0, "failed": 0, "output": str(tmp_path / "set")}
    for row in rows_of(tmp_path / "set"):
        assert {name: int(row[name]) for name in OPERATIONS} == {**dict.fromkeys(OPERATIONS, 0), "shrink": 80}
        gt, lq = (pixels_of(tmp_path / "set" / part / f"{row['file']}.png") for part in ("gt", "lq"))
        assert np.array_equal(gt, pixels_of(faces / row["source"]))
        assert not np.array_equal(gt, lq)
    assert call(*command, "--preset", "single-shrink-80") == 0
    assert records(capsys)[1]["done_before"] == 4
    assert call(*command, "--preset", "deepfrr") == 4
    assert "is a set with another preset" in capsys.readouterr().err


def test_a_real_face_is_found_again_after_retouching(
    astronaut: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photos" / "a.png", astronaut)
    prepared = call("prepare", tmp_path / "photos", "-o", tmp_path / "faces", "--size", 128, "--offline", "--json")
    assert prepared == 0
    command = ("retouch", tmp_path / "faces", "-o", tmp_path / "set", "--seed", 1, "--detector", "mtcnn", "--offline")
    assert call(*command) == 0
    (row,) = rows_of(tmp_path / "set")
    eyes = np.array(row["landmarks"].split(), float).reshape(5, 2)[:2]
    template = np.array([[193.0, 239.9], [318.9, 240.2]]) / 4  # the crop is aligned on the retouched face, with jitter
    assert np.abs(eyes - template).max() < 6


def test_a_folder_without_a_face_names_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = make_faces(tmp_path / "faces", count=2, size=128)
    options = ("--seed", 1, "--detector", "mtcnn", "--offline", "--json")
    assert call("retouch", faces, "-o", tmp_path / "set", *options) == 1
    told = capsys.readouterr().err
    assert all(f"{name}.png after retouching" in told for name in ("00", "01"))
    assert "--keep-alignment" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "single-nose-5"), "single-nose-5 is unknown"),
        (("--variants", "0"), "--variants 0"),
        (("--seed", "-1"), "--seed -1 is negative"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = make_faces(tmp_path / "faces", count=1, size=128)
    assert call("retouch", faces, "-o", tmp_path / "set", "--seed", 1, "--keep-alignment", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
