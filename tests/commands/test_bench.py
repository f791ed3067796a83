"""`bench`: each part is timed as often as asked, on as many pixels and faces as it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from samples import save
from torch import Tensor

from gfprestore.commands.app import main
from gfprestore.commands.bench import bench, of_size
from gfprestore.errors import UsageError
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration

WARM_UP = 50.0  # seconds of a clock that only the parts move on
ROUNDS = (3.0, 12.0, 6.0)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return int(leaving.value.code or 0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "photo.png", np.random.default_rng(1).integers(0, 255, (120, 180, 3), np.uint8))


class Slow:
    """Any part of a restoration: notes what it is given, and moves a clock on by `WARM_UP` and then by `ROUNDS`."""

    name = "slow"
    input_size = 64
    now = 0.0

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def detect(self, pixels: np.ndarray) -> list[object]:
        return self._take(pixels.shape, [])

    def restore(self, crops: Tensor) -> Tensor:
        return self._take(tuple(crops.shape), crops)

    def enlarge(self, pixels: np.ndarray, upscale: float) -> np.ndarray:
        return self._take((*pixels.shape, int(upscale * 10)), pixels)

    def _take(self, shape: tuple[int, ...], result):  # type: ignore[no-untyped-def]
        Slow.now += (WARM_UP, *ROUNDS)[len(self.seen)]
        self.seen.append(shape)
        return result


def test_seconds_are_of_one_face_and_of_one_megapixel(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {part: Slow() for part in ("detector", "restorer", "background")}
    opened = Restoration.__init__

    def slow(self: Restoration, *arguments: object) -> None:
        opened(self, *arguments)  # type: ignore[arg-type]
        for part, stand_in in parts.items():
            setattr(self, part, stand_in)

    monkeypatch.setattr(Restoration, "__init__", slow)
    monkeypatch.setattr("gfprestore.commands.bench.time.perf_counter", lambda: Slow.now)
    options = RunOptions(restorer="none", background="lanczos", batch_size=4, device="cpu")
    report = bench(options, photo, megapixels=0.06, rounds=3)
    assert parts["detector"].seen == [(200, 300, 3)] * 4
    assert parts["restorer"].seen == [(4, 3, 64, 64)] * 4
    assert parts["background"].seen == [(200, 300, 3, 20)] * 4
    units = {"detector": 0.06, "restorer": 4, "background": 0.06}
    for timing in report.parts:
        expected = [seconds / units[timing.part] for seconds in (6.0, 3.0, 12.0)]
        assert [timing.seconds, timing.fastest, timing.slowest] == pytest.approx(expected)
    assert [timing.per for timing in report.parts] == ["megapixel", "face", "megapixel"]


def test_the_command_times_what_run_would_take(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--megapixels", "0.01", "--rounds", "1", "--offline", "--device", "cpu"]
    assert call("bench", photo, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu"
    found = [(part["part"], part["name"], part["per"]) for part in report["parts"]]
    assert found == [
        ("detector", "mtcnn", "megapixel"),
        ("restorer", "compact-restorer", "face"),
        ("background", "compact-background", "megapixel"),
    ]
    assert all(part["seconds"] > 0 for part in report["parts"])
    assert call("bench", photo, *options, "--restorer", "none", "--background", "lanczos") == 0
    answer = capsys.readouterr().out
    assert "lanczos" in answer and "s per megapixel" in answer and "restorer" not in answer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--rounds", 0), "--rounds must be at least 1"), (("--megapixels", "nan"), "--megapixels must be at least 0.01")],
)
def test_a_number_out_of_range_is_wrong_usage(
    arguments: tuple[object, ...], message: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", photo, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_the_portrait_it_asks_for_a_photo_or_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfprestore.commands.demo.packaged_file", lambda package, file: None)
    with pytest.raises(UsageError, match=r"pip install 'gfprestore\[demo\]'"):
        bench(RunOptions(restorer="none", background="lanczos"))


def test_a_photo_is_resized_to_the_size_that_is_timed() -> None:
    assert of_size(np.zeros((1000, 1500, 3), np.uint8), 150_000).shape == (316, 474, 3)
    assert of_size(np.zeros((20, 30, 3), np.uint16), 60_000).dtype == np.uint16
