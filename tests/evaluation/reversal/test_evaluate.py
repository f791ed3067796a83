"""`eval --set deepfrr` with a double of the network: rows and frames, numbers that follow by arithmetic, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doubles import DotFinder, logged, marked_face
from samples import pixels_of, save
from torch import Tensor

from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.data.retouched_pairs import read_retouched_pairs
from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation.evaluate import Listener
from gfprestore.evaluation.reversal.evaluate import ReversalEvaluation
from gfprestore.evaluation.reversal.options import ReversalEvalOptions
from gfprestore.evaluation.reversal.report import ReversalReport, View, as_json, comparison_table, markdown
from gfprestore.evaluation.reversal.rows import Network

METRICS = ("psnr_capped", "ssim", "geometry", "tone", "texture")


@dataclass(frozen=True)
class Result:
    levels: Tensor
    untouched: Tensor
    at_256: Tensor
    at_1024: Tensor | None


class Darkener:
    """A network that subtracts 0.1 times the mean level, and passes dark faces through."""

    name = "darkener"

    def __init__(self, *, enlarges: bool = True, takes_levels: bool = True) -> None:
        self.enlarges, self.takes_levels = enlarges, takes_levels
        self.seen: list[tuple[int, list[int], bool]] = []

    def reverse(self, crops: Tensor, seeds: Sequence[int] | None = None, levels: Tensor | None = None) -> Result:
        assert crops.shape[1:] == (3, 256, 256) and float(crops.abs().max()) <= 1
        if levels is not None and not self.takes_levels:
            raise UsageError("This network takes no levels.")
        self.seen.append((len(crops), list(seeds or ()), levels is not None))
        used = torch.full((len(crops), 6), 0.5) if levels is None else levels
        untouched = (crops.mean((1, 2, 3)) < -0.5) if levels is None else torch.zeros(len(crops), dtype=torch.bool)
        amount = torch.where(untouched, 0.0, 0.1 * used.mean(1)).view(-1, 1, 1, 1)
        small = (crops - amount).clamp(-1, 1)
        return Result(used, untouched, small, self.enlarge(small) if self.enlarges else None)

    def enlarge(self, faces: Tensor) -> Tensor:
        return F.interpolate(faces, scale_factor=4, mode="nearest")


def make_pairs(folder: Path, count: int = 3, size: int = 128, **options: Any) -> Path:
    for number in range(count):
        save(folder / "faces" / f"{number}.png", marked_face(number, size=size, places=places(size)))
    chosen = RetouchOptions(**{"seed": 1, "keep_alignment": True, **options})
    retouch_folder(folder / "faces", folder / "set", chosen, DotFinder())
    return folder / "set"


def places(size: int) -> Any:
    return np.array([[0.377, 0.469], [0.623, 0.469], [0.501, 0.613], [0.393, 0.725], [0.611, 0.725]]) * size - 0.5


def evaluate(
    tmp_path: Path, double: Darkener | None = None, lines: list[str] | None = None, **options: Any
) -> ReversalReport:
    double = double or Darkener()
    chosen = ReversalEvalOptions(
        **{"output": tmp_path / "out", "device": "cpu", "offline": True, "metrics": METRICS, **options}
    )

    def opener(path: Path | None) -> Network:
        return Network(path.stem if path else "released", double, f"{'ab' * 16}{path}", double.enlarges)  # type: ignore[arg-type]

    with logged([] if lines is None else lines):
        return ReversalEvaluation(chosen, Listener(), None, opener, DotFinder()).run()


def view(report: ReversalReport, key: str) -> View:
    return next(view for view in report.views if view.key == key)


def scores(report: ReversalReport, key: str, metric: str) -> dict[str, float | None]:
    methods = view(report, key).report.methods
    return {method.name: method.scores.scores[metric].value for method in methods}


def test_photos_are_reversed_as_they_arrive_and_compared_in_every_frame(tmp_path: Path) -> None:
    folder, double = make_pairs(tmp_path, 3), Darkener()
    report = evaluate(tmp_path, double, data=folder, weights=(Path("ours.safetensors"),), restored=(folder / "gt",))
    assert [view.key for view in report.views] == ["photos-256", "crops-256"]
    rows = ["retouched", "ours, levels estimated", "ours, levels given", "gt"]
    assert [method.name for method in view(report, "crops-256").report.methods] == rows
    # What the originals themselves score does not depend on any of our code for images.
    for key in ("photos-256", "crops-256"):
        assert scores(report, key, "psnr_capped")["gt"] == 60
        assert scores(report, key, "geometry")["gt"] == 0
        assert scores(report, key, "tone")["gt"] == 0
        assert scores(report, key, "texture")["gt"] == 1
    assert [seen[0] for seen in double.seen if seen[2]] == [2, 1]  # batches of two, with given levels
    seeds = [seed for _, seeds, given in double.seen if given for seed in seeds]
    assert len(set(seeds)) == 3
    # all levels are 100: 0.1 of [-1, 1] is 12.75 levels
    (row,) = [method for method in view(report, "crops-256").report.methods if method.name == "ours, levels given"]
    for subject in row.subjects:
        lq = pixels_of(view(report, "crops-256").report.test_set.lq[subject.name]).astype(float)
        inside = (lq > 13).all(axis=2)
        assert np.abs(lq - pixels_of(subject.restored) - 12.75)[inside].max() <= 0.5
    assert "There is no" not in "\n".join(report.notes)
    assert any("--constant-from" in note for note in report.notes)
    assert any("256 pixels or fewer" in note for note in report.notes)


def test_the_photo_is_pasted_back_where_the_face_was_found(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 1)
    report = evaluate(tmp_path, data=folder, weights=(Path("ours"),))
    (row,) = [method for method in view(report, "photos-256").report.methods if method.name == "ours, levels given"]
    (subject,) = row.subjects
    photo = view(report, "photos-256").report.test_set.lq[subject.name]
    difference = pixels_of(photo).astype(float) - pixels_of(subject.restored)
    assert np.median(difference[120:170, 100:156]) == pytest.approx(12.75, abs=0.5)  # the middle of the face
    assert np.abs(difference[:10]).max() == 0 and np.abs(difference[:, :10]).max() == 0


def test_a_large_set_has_the_ceiling_and_bicubic_at_its_own_size(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2, size=320)
    report = evaluate(tmp_path, data=folder, weights=(Path("ours"),), metrics=("psnr_capped",))
    found = scores(report, "crops-full", "psnr_capped")
    assert list(found) == [
        "retouched",
        "ours, levels estimated",
        "ours, levels estimated, first stage alone",
        "ours, levels given",
        "ours, levels given, first stage alone",
        "ours, ceiling",
        "bicubic from the reduced original",
    ]
    assert found["ours, ceiling"] > found["retouched"]  # type: ignore[operator]
    assert pixels_of(view(report, "crops-full").report.methods[1].subjects[0].restored).shape == (1024, 1024, 3)


def test_without_a_second_stage_or_levels_it_says_so(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2, size=320)
    double = Darkener(enlarges=False, takes_levels=False)
    report = evaluate(tmp_path, double, data=folder, weights=(Path("plain"),), metrics=("psnr_capped",))
    assert "plain, levels given" not in scores(report, "crops-256", "psnr_capped")
    notes = "\n".join(report.notes)
    assert "plain, levels given has no row: This network takes no levels." in notes
    assert "plain has no second stage" in notes
    assert "plain, ceiling" not in scores(report, "crops-full", "psnr_capped")


def test_aligned_pairs_are_compared_as_crops_only(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2, keep_alignment=False)
    report = evaluate(tmp_path, data=folder, weights=(Path("ours"),), restored=(folder / "gt",), names=("GP-UNIT",))
    assert [view.key for view in report.views] == ["crops-256"]
    assert "GP-UNIT" in scores(report, "crops-256", "psnr_capped")
    assert any("retouch --keep-alignment" in note for note in report.notes)
    rows = {pair.name: pair for pair in read_retouched_pairs(folder)}
    face = view(report, "crops-256").report.methods[0].subjects[0].face
    assert face is not None and np.allclose(face.landmarks, rows["0"].original_landmarks)


def test_the_authors_folders_are_read_and_their_levels_are_unknown(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2)
    for number in range(2):
        save(tmp_path / "frr/rawimage" / f"{number}.png", pixels_of(folder / "gt" / f"{number}.png"))
        save(tmp_path / "frr/deimage" / f"face{number}.png", pixels_of(folder / "lq" / f"{number}.png"))
    save(tmp_path / "frr/deimage/face9.png", marked_face(9))
    report = evaluate(tmp_path, data=tmp_path / "frr", weights=(Path("ours"),))
    assert report.count == 2 and "levels unknown" in report.title
    assert list(scores(report, "photos-256", "tone")) == ["retouched", "ours, levels estimated"]
    assert scores(report, "photos-256", "tone")["retouched"] > 0  # type: ignore[operator]
    assert any("levels of this set are unknown" in note for note in report.notes)
    assert any("face9.png" in line for line in report.warnings)


def test_held_out_faces_are_retouched_first_and_named_synthetic(tmp_path: Path) -> None:
    rows = ["file,split"]
    for number in range(3):
        save(tmp_path / "faces" / f"{number}.png", marked_face(number))
        rows.append(f"{number}.png,{'test' if number else 'train'}")
    (tmp_path / "faces/index.csv").write_text("\n".join(rows) + "\n")
    report = evaluate(tmp_path, data=tmp_path / "faces")
    assert report.title == "synthetic, recipe v1, seed 0" and report.count == 2
    assert sorted(path.name for path in (tmp_path / "out/set/lq").iterdir()) == ["1.png", "2.png"]
    pairs = read_retouched_pairs(tmp_path / "out/set")
    assert all(pair.levels.smooth == 100 and pair.seed == 0 for pair in pairs)
    shown = list(scores(report, "photos-256", "psnr_capped"))
    assert shown == ["retouched", "released, levels estimated", "released, levels given"]  # the packaged network


def test_a_second_run_computes_nothing_and_a_changed_image_only_itself(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 3)
    options: dict[str, Any] = {"data": folder, "weights": (Path("ours"),), "metrics": ("psnr_capped",)}
    first = evaluate(tmp_path, **options)
    again = Darkener()
    second = evaluate(tmp_path, again, **options)
    assert again.seen == []
    assert scores(first, "photos-256", "psnr_capped") == scores(second, "photos-256", "psnr_capped")
    (tmp_path / "out/rows").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "out/rows")
    lq = folder / "lq/1.png"
    save(lq, np.clip(pixels_of(lq).astype(int) - 3, 0, 255).astype(np.uint8))
    third = Darkener()
    evaluate(tmp_path, third, **options)
    assert [seen[0] for seen in third.seen] == [1, 1]  # estimated and given levels; the original is the same


def test_untouched_and_slightly_retouched_faces_are_summarized(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2, preset="single-smooth-60")  # mean level 10
    for part in ("lq", "gt"):  # the second face is dark, which the double takes for untouched
        path = folder / part / "1.png"
        save(path, pixels_of(path) // np.uint8(4))
    double = Darkener()

    class Somewhere(DotFinder):
        def detect(self, pixels: Any) -> Any:
            return super().detect(marked_face(0))

    chosen = ReversalEvalOptions(data=folder, weights=(Path("ours"),), output=tmp_path / "out", device="cpu",
                             metrics=("psnr_capped",))  # fmt: skip
    network = Network("ours", double, "key" * 8, True)
    report = ReversalEvaluation(chosen, Listener(), None, lambda _path: network, Somewhere()).run()
    (entry,) = report.untouched
    assert (entry.count, entry.passed, entry.above) == (2, 0.5, 1.0)
    # one is 60; the other is darker by 6.4 levels in the face and the same outside: more than 20 log10(255 / 6.4) = 32
    assert entry.psnr is not None and (60 + 32) / 2 < entry.psnr < (60 + 40) / 2
    assert (entry.slight_count, entry.slight_passed) == (2, 0.5)
    # estimated as 50 each: one operation is off by 10, five by 50
    assert entry.level_error == pytest.approx((10 + 5 * 50) / 6)


def test_comparisons_have_paired_intervals(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 3)
    report = evaluate(tmp_path, data=folder, restored=(folder / "gt",))
    found = {entry.what: entry for entry in view(report, "photos-256").comparisons}
    gain = found["PSNR gain (dB)"].estimate
    before = view(report, "photos-256").report.methods[0].scores.scores["psnr_capped"].images
    gains = [60 - score for score in before.values()]
    assert gain.value == pytest.approx(np.mean(gains)) and gain.count == 3
    assert min(gains) <= gain.low <= gain.value <= gain.high <= max(gains)
    assert found["geometry, ratio to the other"].estimate.value == 0
    assert found["tone, ratio to the other"].estimate.high == 0
    columns, rows = comparison_table(view(report, "photos-256"))
    assert len(columns) == len(rows[0]) and rows[0][:2] == ["gt", "retouched"]


def test_the_report_is_json_markdown_and_html_with_the_papers_gains(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2)
    names = ("<b>x|y</b>",)
    report = evaluate(tmp_path, data=folder, weights=(Path("ours"),), restored=(folder / "gt",), names=names)
    document = json.loads((tmp_path / "out/report.json").read_text())
    assert {entry["view"] for entry in document["sets"]} == {"photos-256", "crops-256"}
    assert document["sets"][0]["pictures"] and document["untouched"][0]["method"] == "ours"
    assert "pictures" not in as_json(report, with_images=False)["sets"][0]
    assert all(part in document["published"][0] for part in ("SSIM +22 %", "PSNR +11 %", "VGGS +20 %", "CLIPS +6 %"))
    assert "abstract only" in document["published"][0]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;x|y&lt;/b&gt;" in page and "<b>x" not in page
    assert "no evidence of how a person looks" in page
    for key in ("photos-256", "crops-256"):
        assert f'href="{key}.html"' in page
        assert (tmp_path / "out" / f"{key}.html").is_file()
    assert "\\<b\\>x\\|y" in markdown(report)


def test_a_pair_that_cannot_be_used_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 3)
    (folder / "lq/0.png").write_bytes(b"no image")
    save(folder / "lq/1.png", np.full((128, 128, 3), 90, np.uint8))
    report = evaluate(tmp_path, data=folder)
    assert set(report.failed) == {"0", "1"}
    assert "found no face" in report.failed["1"] and "0.png" in report.failed["0"]
    assert len(view(report, "photos-256").report.test_set.names) == 1
    (folder / "lq/2.png").write_bytes(b"no image")
    with pytest.raises(FolderError, match="None of the 3 pairs can be used"):
        evaluate(tmp_path, data=folder)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"data": Path("nowhere")}, FolderError, "does not exist.*not public"),
        ({"metrics": ("x",)}, UsageError, "unknown metric x"),
        ({"metrics": ("fid",)}, UsageError, "fid is not computed"),
        ({"batch_size": 0}, UsageError, "--batch-size"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        evaluate(tmp_path, **options)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "other/x.png", marked_face(1))
    with pytest.raises(FolderError, match="is not a set of retouched faces"):
        evaluate(tmp_path, data=tmp_path / "other")
    with pytest.raises(FolderError, match="contains no images"):
        evaluate(tmp_path, data=folder, restored=(tmp_path / "empty",))
    with pytest.raises(FolderError, match="do not match"):
        evaluate(tmp_path, data=folder, restored=(tmp_path / "other",))
    with pytest.raises(FolderError, match="inside the input folder"):
        evaluate(tmp_path, data=folder, output=folder / "lq/out")
    with pytest.raises(UsageError, match="no retouch.csv"):
        evaluate(tmp_path, data=folder, constant_from=tmp_path / "other")
    with pytest.raises(UsageError, match="without --keep-alignment"):
        evaluate(tmp_path, data=folder, constant_from=folder, output=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()  # before the pairs are cut
    table = (folder / "retouch.csv").read_text().replace("\n0,", "\n../../0,")
    (folder / "retouch.csv").write_text(table)
    with pytest.raises(FolderError, match="names a file outside the set"):
        evaluate(tmp_path, data=folder)
