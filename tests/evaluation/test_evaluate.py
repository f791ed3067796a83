"""`gfprestore eval`: what is restored and scored once, what stops what, and that nothing is silent."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from doubles import Difference, MeanColor, Opener, logged, make_set, smooth
from samples import pixels_of, save

from gfprestore.data import test_sets
from gfprestore.data.test_sets import KNOWN_SETS, open_test_set
from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation import restoring
from gfprestore.evaluation.evaluate import EvalOptions, Evaluation, Listener
from gfprestore.evaluation.report import Report, as_json


def evaluated(opener: Opener, lines: list[str] | None = None, **options: Any) -> Report:
    with logged([] if lines is None else lines):
        return Evaluation(EvalOptions(device="cpu", offline=True, **options), Listener(), opener).run()


def values(report: Report, method: int = 0) -> dict[str, float | None]:
    return {name: score.value for name, score in report.methods[method].scores.scores.items()}


def test_anyones_images_are_scored_side_by_side_in_small_batches(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 20)
    for number in range(20):
        save(tmp_path / "better" / f"{number:02d}.png", pixels_of(folder / "gt" / f"{number:02d}.png") + np.uint8(1))
    difference, color = Difference(), MeanColor()
    report = evaluated(
        Opener(difference, color),
        test_set=str(folder),
        restored=(folder / "lq", tmp_path / "better"),
        metrics=("psnr", "fid"),
        output=tmp_path / "out",
    )
    assert [method.name for method in report.methods] == ["lq", "better"]
    assert values(report, 0)["psnr"] == 2.0
    assert values(report, 1)["psnr"] == 1.0
    red = np.mean([pixels_of(path)[..., 0].mean() for path in (tmp_path / "better").iterdir()])
    assert values(report, 1)["fid"] == pytest.approx(red, rel=1e-6)
    assert difference.largest_batch <= 8 and difference.seen == color.seen == 40


def test_a_second_run_and_a_second_metric_restore_and_score_nothing_again(
    tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint = make_set(tmp_path / "set", 3), make_checkpoint(size=32)
    options = {"test_set": str(folder), "weights": checkpoint, "output": tmp_path / "out"}
    first, second, color = Difference(), Difference(), MeanColor()
    report = evaluated(Opener(first), metrics=("psnr",), **options)
    assert first.seen == 3
    written = {path: path.stat().st_mtime_ns for path in report.methods[0].folder.iterdir()}
    assert len(written) == 3

    def restores(*_arguments: object) -> None:
        raise AssertionError("nothing is to be restored")

    monkeypatch.setattr(restoring, "_restore", lambda batch, *_others: restores() if batch else None)
    again = evaluated(Opener(second, color), metrics=("psnr", "fid"), **options)
    assert second.seen == 0 and color.seen == 3
    assert values(again)["psnr"] == values(report)["psnr"]
    assert {path: path.stat().st_mtime_ns for path in again.methods[0].folder.iterdir()} == written


def test_what_is_restored_is_the_networks_own_output(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
    from gfprestore.weights.checkpoints import load_network

    folder, checkpoint = make_set(tmp_path / "set", 1), make_checkpoint(size=32)
    evaluated(
        Opener(Difference()), test_set=str(folder), weights=checkpoint, output=tmp_path / "out", metrics=("psnr",)
    )
    (restored,) = (tmp_path / "out/restored").rglob("*.png")
    lq = torch.from_numpy(pixels_of(folder / "lq/00.png")).permute(2, 0, 1)[None].float() / 127.5 - 1
    module: Any = load_network(checkpoint, "restorer").module.eval()
    with torch.no_grad():
        output = module(lq)
    image = (output[0] if isinstance(output, tuple) else output)[0].permute(1, 2, 0)
    expected = ((image.clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert np.abs(pixels_of(restored) - expected).max() <= 1


def test_an_interrupted_run_goes_on(
    tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint = make_set(tmp_path / "set", 5), make_checkpoint(size=32)
    options: dict[str, Any] = {
        "test_set": str(folder), "weights": checkpoint, "output": tmp_path / "out", "metrics": ("psnr",),
        "batch_size": 2,
    }  # fmt: skip
    original, calls = restoring._restore, []

    def stops(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(restoring, "_restore", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluated(Opener(Difference()), **options)
    monkeypatch.setattr(restoring, "_restore", original)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/restored").rglob("*.png")}
    assert len(kept) == 2
    lines: list[str] = []
    report = evaluated(Opener(Difference()), lines, **options)
    assert report.methods[0].scores.scores["psnr"].count == 5
    assert any("2 of them from an earlier run" in line for line in lines)
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/restored").rglob("*.png")}
    assert kept.items() <= now.items()


def test_a_torn_cache_is_mended_and_a_changed_image_is_scored_anew(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 3)
    options: dict[str, Any] = {
        "test_set": str(folder), "restored": (folder / "lq",), "output": tmp_path / "out", "metrics": ("psnr", "fid")
    }  # fmt: skip
    evaluated(Opener(Difference(), MeanColor()), **options)
    scores, (features,) = tmp_path / "out/cache/scores.jsonl", (tmp_path / "out/cache").glob("features-*.bin")
    scores.write_bytes(scores.read_bytes() + b'{"key": "torn')
    features.write_bytes(features.read_bytes()[:-5])
    save(folder / "lq/01.png", pixels_of(folder / "gt/01.png") + np.uint8(8))
    difference, color = Difference(), MeanColor()
    report = evaluated(Opener(difference, color), **options)
    assert difference.seen == 1
    assert color.seen == 2  # the changed one, and the last, whose vector was cut
    assert report.methods[0].scores.scores["psnr"].images["01"] == 8.0
    third = Difference()
    evaluated(Opener(third, MeanColor()), **options)
    assert third.seen == 0


def test_other_weights_of_a_metric_or_another_protocol_are_scored_anew(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)
    options: dict[str, Any] = {
        "test_set": str(folder), "restored": (folder / "lq",), "output": tmp_path / "out", "metrics": ("psnr",)
    }  # fmt: skip
    evaluated(Opener(Difference()), **options)

    class OtherWeights(Opener):
        def __call__(self, name: str, weights_used: dict[str, str]) -> Any:
            metric = super().__call__(name, weights_used)
            weights_used["network"] = "other"
            return metric

    other = Difference()
    evaluated(OtherWeights(other), **options)
    assert other.seen == 2


def test_a_metric_that_cannot_be_had_is_null_with_the_reason_and_stops_no_other(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)
    report = evaluated(
        Opener(Difference()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out",
        metrics=("lpips", "psnr"),
    )  # fmt: skip
    document = json.loads((tmp_path / "out/report.json").read_text())
    lpips = document["sets"][0]["scores"]["lpips"]
    assert lpips["value"] is None and "Run `get it`" in lpips["reason"] and lpips["protocol"]
    assert values(report)["psnr"] == 2.0
    assert "Run \\`get it\\`" in (tmp_path / "out/report.md").read_text()


def test_without_a_gt_its_metrics_are_null_with_the_reason(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "restored" / f"{number}.png", smooth(number))
    report = evaluated(
        Opener(Difference(), Difference("niqe")), restored=(tmp_path / "restored",), output=tmp_path / "out",
        metrics=("psnr", "niqe"),
    )  # fmt: skip
    scores = report.methods[0].scores.scores
    assert scores["psnr"].value is None and "--gt" in str(scores["psnr"].reason)
    assert scores["niqe"].value is not None and scores["niqe"].count == 2


def test_every_kind_of_unfitting_image_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 8)
    restored = tmp_path / "restored"
    for number in range(1, 8):
        save(restored / f"{number:02d}.jpg" if number == 7 else restored / f"{number:02d}.png", smooth(number))
    save(restored / "02.png", smooth(2, 64))  # resized
    save(restored / "03.png", smooth(3)[:16])  # another section
    save(restored / "04.png", smooth(4, channels=1))  # gray
    (restored / "05.png").write_bytes((restored / "05.png").read_bytes()[:60])  # damaged
    (folder / "gt/06.png").unlink()  # no gt
    save(restored / "99.png", smooth(9))  # extra
    for _run in range(2):  # what is told the first time is told of cached scores too
        report = evaluated(
            Opener(Difference(), Difference("niqe")), test_set=str(folder), restored=(restored,),
            output=tmp_path / "out", metrics=("psnr", "niqe"),
        )  # fmt: skip
        method, text = report.methods[0], "\n".join(report.warnings)
        assert set(method.scores.scores["psnr"].images) == {"01", "02", "04", "07"}
        assert set(method.scores.scores["niqe"].images) == {"01", "02", "03", "04", "06", "07"}
        assert method.missing == ("00",) and method.extra == ("99",)
        assert list(method.failed) == ["05"] and "05.png" in method.failed["05"]
        for kind, name in (
            ("differ in size from their gt and were resized", "02"),
            ("differ in aspect ratio from their gt", "03"),
            ("are gray but their gt is in color", "04"),
            ("have no ground truth", "06"),
            ("are missing", "00"),
            ("are not part of the set", "99"),
            ("could not be used", "05"),
        ):
            (line,) = [line for line in report.warnings if kind in line]
            assert f": {name}." in line, text
    size = cv2.resize(smooth(2, 64), (32, 32), interpolation=cv2.INTER_AREA)
    expected = np.abs(size.astype(float) - pixels_of(folder / "gt/02.png")).mean()
    assert method.scores.scores["psnr"].images["02"] == pytest.approx(expected)


def test_a_damaged_gt_leaves_its_image_out_of_what_needs_it(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 3)
    (folder / "gt/01.png").write_bytes(b"no image")
    report = evaluated(
        Opener(Difference(), Difference("niqe")), test_set=str(folder), restored=(folder / "lq",),
        output=tmp_path / "out", metrics=("psnr", "niqe"),
    )  # fmt: skip
    assert report.methods[0].scores.scores["psnr"].count == 2
    assert report.methods[0].scores.scores["niqe"].count == 3
    assert "gt" in report.methods[0].failed["01"]


def test_an_input_that_is_damaged_is_told_and_the_others_are_restored(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    folder = make_set(tmp_path / "set", 3)
    (folder / "lq/01.png").write_bytes(b"no image")
    report = evaluated(
        Opener(Difference()), test_set=str(folder), weights=make_checkpoint(size=32), output=tmp_path / "out",
        metrics=("psnr",),
    )  # fmt: skip
    assert [subject.name for subject in report.methods[0].subjects] == ["00", "02"]
    assert list(report.methods[0].failed) == ["01"] and "01.png" in report.methods[0].failed["01"]
    (folder / "lq/00.png").write_bytes(b"no image")
    (folder / "lq/02.png").write_bytes(b"no image")
    with pytest.raises(FolderError, match=r"None of the 3 images could be restored.*png"):
        evaluated(
            Opener(Difference()), test_set=str(folder), weights=make_checkpoint(size=32), output=tmp_path / "out",
            metrics=("psnr",),
        )  # fmt: skip


def test_an_infinite_score_is_no_number_in_json(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)

    class Endless(Difference):
        def score(self, restored: Any, gt: Any) -> list[float]:
            return [math.inf if index == 0 else math.nan for index in range(len(restored))]

        def summarize(self, scores: Any) -> float:
            return math.inf

    for _run in range(2):
        report = evaluated(
            Opener(Endless()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out",
            metrics=("psnr",),
        )  # fmt: skip
        assert "identical to their gt: 00" in str(report.methods[0].scores.scores["psnr"].reason)
        assert any("1 images have no PSNR score: 01" in line for line in report.warnings)
        json.dumps(as_json(report, with_images=True), allow_nan=False)


def test_features_are_kept_when_the_statistics_change_and_those_are_named(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 3)

    class OtherStatistics(Opener):
        def __call__(self, name: str, weights_used: dict[str, str]) -> Any:
            weights_used["fid-statistics"] = "other"
            return super().__call__(name, weights_used)

    first, second = MeanColor(), MeanColor()
    (tmp_path / "ffhq.npz").touch()
    options: dict[str, Any] = {
        "test_set": str(folder), "restored": (folder / "lq",), "output": tmp_path / "out", "metrics": ("fid",)
    }  # fmt: skip
    evaluated(Opener(first), **options)
    report = evaluated(OtherStatistics(second), statistics=tmp_path / "ffhq.npz", **options)
    assert (first.seen, second.seen) == (3, 0)
    assert "The reference of the FID is ffhq.npz." in report.rules


def test_too_few_images_for_a_fid_are_told(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 3)
    report = evaluated(
        Opener(MeanColor()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out", metrics=("fid",)
    )
    assert any("3 images are few." in line for line in report.warnings)
    (folder / "lq/01.png").unlink()
    (folder / "lq/02.png").unlink()
    report = evaluated(
        Opener(MeanColor()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out", metrics=("fid",)
    )
    assert values(report)["fid"] is None


def test_memory_that_runs_out_makes_the_batch_smaller(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 5)

    class Large(Difference):
        def score(self, restored: Any, gt: Any) -> list[float]:
            if len(restored) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return super().score(restored, gt)

    report = evaluated(
        Opener(Large()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out", metrics=("psnr",)
    )
    assert report.methods[0].scores.scores["psnr"].count == 5


def test_the_checksum_is_that_of_names_and_contents(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)
    report = evaluated(
        Opener(Difference()), test_set=str(folder), restored=(folder / "lq",), output=tmp_path / "out",
        metrics=("psnr",),
    )  # fmt: skip
    lines = sorted(
        f"{part}\t{name}\t{hashlib.sha256((folder / part / f'{name}.png').read_bytes()).hexdigest()}\n"
        for part in ("gt", "lq")
        for name in ("00", "01")
    )
    assert report.checksum == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_results_never_go_among_the_images(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)
    for output in (folder / "lq/out", folder / "gt"):
        with pytest.raises(FolderError, match="is inside the input folder"):
            evaluated(Opener(Difference()), test_set=str(folder), restored=(folder / "lq",), output=output)
    with pytest.raises(FolderError, match="is inside the input folder"):
        evaluated(Opener(Difference()), test_set=str(folder / "lq"), restored=(folder / "lq",), output=folder / "lq/x")


def test_names_that_do_not_fit_are_an_error_that_shows_both(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 2)
    save(tmp_path / "restored/00_restored.png", smooth(0))
    with pytest.raises(FolderError, match=r"00_restored.*the set has 00, 01"):
        evaluated(Opener(), test_set=str(folder), restored=(tmp_path / "restored",), output=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"test_set": "nothing-test", "restored": (Path(),)}, "celeba-test, celeba-test-sr4, lfw-test"),
        ({"test_set": "x", "metrics": ("psnr", "nonsense")}, "unknown metric nonsense.*psnr_matched"),
        ({}, "--set"),
        ({"restored": (Path(),), "restorer": "auto"}, "--lq"),
        ({"test_set": "x", "restorer": "none"}, "none"),
        ({"test_set": "x", "statistics": Path("nowhere.npz")}, "nowhere"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        evaluated(Opener(), output=tmp_path / "out", **options)


def test_a_known_set_is_counted_and_one_that_is_missing_says_where_to_get_it(tmp_path: Path) -> None:
    assert {name: known.count for name, known in KNOWN_SETS.items()} == {
        "celeba-test": 3000, "celeba-test-sr4": 3000, "lfw-test": 1711, "celebchild-test": 180, "webphoto-test": 407
    }  # fmt: skip
    with pytest.raises(FolderError, match=r"3000 images.*xinntao\.github\.io/projects/gfpgan.*test.lq .*test.gt,"):
        open_test_set("celeba-test", None)
    make_set(tmp_path / "celeba-test", 3)
    for data in (tmp_path, tmp_path / "celeba-test"):
        found = open_test_set("celeba-test", data)
        assert len(found.names) == 3 and found.expected == 3000
        assert any("3 images" in line and "should have 3000" in line for line in found.warnings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="no images"):
        open_test_set(str(tmp_path / "empty"))


def test_lfws_photos_are_aligned_first_and_crops_are_not(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.png", smooth(1, 250))
    assert open_test_set("lfw-test", tmp_path / "photos").whole_photos
    assert not open_test_set(str(tmp_path / "photos")).whole_photos
    assert open_test_set(str(tmp_path / "photos"), alignment="photo").whole_photos
    save(tmp_path / "crops/a.png", smooth(1, test_sets.ALIGNED_SIDE))
    assert not open_test_set("lfw-test", tmp_path / "crops").whole_photos


def test_whole_photos_are_aligned_as_run_does_and_one_without_a_face_is_told(
    tmp_path: Path, make_checkpoint: Callable[..., Path], astronaut: np.ndarray
) -> None:
    from gfprestore.faces.alignment import align_face
    from gfprestore.faces.mtcnn import MTCNNDetector

    photo = np.ascontiguousarray(astronaut[:256, 96:352])
    save(tmp_path / "photos/face.png", photo)
    save(tmp_path / "photos/none.png", np.full((64, 64, 3), 128, np.uint8))
    report = evaluated(
        Opener(Difference("niqe")), test_set=str(tmp_path / "photos"), alignment="photo", detector="mtcnn",
        weights=make_checkpoint(size=32), output=tmp_path / "out", metrics=("niqe",),
    )  # fmt: skip
    (face,) = MTCNNDetector().detect(photo)
    assert (pixels_of(tmp_path / "out/aligned/face.png") == align_face(photo, face, 512).pixels).all()
    assert report.methods[0].scores.scores["niqe"].count == 1
    assert "no face" in report.methods[0].failed["none"]
    assert any("detected by mtcnn, aligned to the FFHQ template" in rule for rule in report.rules)
