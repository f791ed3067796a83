"""What `auto` does when weights are missing: one line per network, and no second attempt to download."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from gfprestore.errors import DownloadError
from gfprestore.restoration.choices import auto_choices
from gfprestore.restoration.model_loader import Opener
from gfprestore.weights.store import WeightsStore


def opener(folder: Path, offline: bool = True) -> Opener:
    return Opener(WeightsStore(folder, offline=offline), torch.device("cpu"))


def test_missing_weights_are_reported_in_one_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gfprestore"):
        restorer = opener(tmp_path).restorer("auto")
        detector = opener(tmp_path).detector("auto")
    assert restorer is not None
    assert (restorer.name, detector.name) == ("compact-restorer", "mtcnn")
    assert [record.getMessage() for record in caplog.records] == [
        "gfpgan-1.4 is not available offline; using compact-restorer instead. "
        "Run `gfprestore weights fetch gfpgan-1.4` to download it (348.6 MB).",
        "retinaface-resnet50 is not available offline; using mtcnn instead. "
        "Run `gfprestore weights fetch retinaface-resnet50` to download it (109.5 MB).",
    ]


def test_a_failed_download_is_reported_in_one_line_and_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def fail(store: WeightsStore, *_arguments: object) -> Path:
        attempts.append(store)
        raise DownloadError("gfpgan-1.4: could not be downloaded:\n  https://one: no\n  https://two: no")

    monkeypatch.setattr("gfprestore.weights.download.Downloader.download", fail)
    networks = opener(tmp_path, offline=False)
    with caplog.at_level(logging.INFO, "gfprestore"):
        networks.restorer("auto")
        networks.detector("auto")
    first, second = (record.getMessage() for record in caplog.records)
    assert first == (
        "gfpgan-1.4 could not be downloaded; using compact-restorer instead. "
        "Run `gfprestore weights fetch gfpgan-1.4` to download it (348.6 MB)."
    )
    assert second.startswith("retinaface-resnet50 is not available offline; using mtcnn instead.")
    assert len(attempts) == 1


def test_the_background_that_replaces_the_best_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = auto_choices("background", "cuda")  # opened on the CPU, where one would be enough
    monkeypatch.setattr("gfprestore.restoration.choices.auto_choices", lambda *_: choices)
    monkeypatch.setattr("gfprestore.weights.store.find_packaged_ncnn", lambda *_: None)
    with caplog.at_level(logging.INFO, "gfprestore"):
        background = opener(tmp_path).background("auto", 2.0)
    assert background.name == "compact-background"
    lines = [record.getMessage() for record in caplog.records if "not available" in record.getMessage()]
    assert lines == [
        "real-esrgan-x2plus is not available offline; using compact-background instead. "
        "Run `gfprestore weights fetch real-esrgan-x2plus` to download it (67.1 MB)."
    ]
