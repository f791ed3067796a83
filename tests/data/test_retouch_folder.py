"""Folders of retouched pairs: the same bytes whatever the order, aligned on the retouched face, resumable."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from doubles import DOTTED_SIDE, PLACES, SHARES, DotFinder, dots_of, marked_face
from numpy.typing import NDArray
from samples import pixels_of, save

from gfprestore.data import retouch_folder as module
from gfprestore.data.pair_folders import SetReport
from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.data.retouched_dataset import list_pairs, read_matching
from gfprestore.data.retouched_pairs import read_frr_pairs, read_retouched_pairs
from gfprestore.data.retouching_levels import Levels
from gfprestore.errors import FolderError, PhotoError, UsageError

SIZE = DOTTED_SIDE


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".gfprestore.jsonl"
    }


def images_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if name.endswith(".png")}


def run(source: Path, output: Path, workers: int = 2, **options: Any) -> SetReport:
    return retouch_folder(source, output, RetouchOptions(**{"seed": 3, **options}), DotFinder(), workers=workers)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for seed, name in enumerate(("b", "a", "deep/c")):
        save(tmp_path / "faces" / f"{name}.png", marked_face(seed))
    return tmp_path / "faces"


def test_any_part_of_a_folder_gives_the_same_files(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "one", preset="mixed", variants=2, workers=1)
    save(tmp_path / "part" / "0.png", marked_face(9))
    (tmp_path / "part" / "b.png").write_bytes((source / "b.png").read_bytes())
    run(tmp_path / "part", tmp_path / "two", preset="mixed", workers=3)
    one, two = images_of(tmp_path / "one"), images_of(tmp_path / "two")
    names = [name + ending for name in ("a", "b", "deep/c") for ending in ("", "-v2")]
    assert sorted(one) == sorted(f"{part}/{name}.png" for part in ("gt", "lq") for name in names)
    assert one["lq/b.png"] == two["lq/b.png"] and one["gt/b.png"] == two["gt/b.png"]
    run(source, tmp_path / "three", preset="mixed", variants=2)
    assert files_of(tmp_path / "three") == files_of(tmp_path / "one")
    run(source, tmp_path / "four", preset="mixed", variants=2, seed=4)
    assert images_of(tmp_path / "four") != one


def test_a_pair_is_cut_by_the_retouched_face_and_both_images_alike(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "set", preset="single-shrink-100", jitter=0)
    for pair in read_retouched_pairs(tmp_path / "set"):
        lq, gt = (dots_of(pixels_of(tmp_path / "set" / part / f"{pair.name}.png")) for part in ("lq", "gt"))
        assert np.abs(lq - PLACES).max() < 0.6  # on FFHQ's template again
        assert np.abs(lq - pair.landmarks).max() < 0.6
        assert np.abs(gt - pair.original_landmarks).max() < 0.6
        # in the middle of the face `shrink` takes 5 % off, at the eyes somewhat less; the original is that much larger
        assert 1.03 < np.hypot(*(gt[1] - gt[0])) / np.hypot(*(lq[1] - lq[0])) < 1.06


def test_a_kept_alignment_leaves_the_original_as_it_is_and_needs_no_detector(source: Path, tmp_path: Path) -> None:
    options = RetouchOptions(seed=3, preset="single-shrink-100", keep_alignment=True)
    retouch_folder(source, tmp_path / "set", options)
    for pair in read_retouched_pairs(tmp_path / "set"):
        lq, gt = (pixels_of(tmp_path / "set" / part / f"{pair.name}.png") for part in ("lq", "gt"))
        assert (gt == pixels_of(source / pair.source)).all()
        assert np.abs(dots_of(lq) - pair.landmarks).max() < 0.6
        assert np.hypot(*(pair.landmarks[1] - pair.landmarks[0])) < 0.97 * np.hypot(*(PLACES[1] - PLACES[0]))
    retouch_folder(source, tmp_path / "small", RetouchOptions(seed=3, size=64, keep_alignment=True))
    (pair, *_) = read_retouched_pairs(tmp_path / "small")
    assert pixels_of(tmp_path / "small/lq/a.png").shape == (64, 64, 3)
    assert np.abs(pair.original_landmarks - (SHARES * 64 - 0.5)).max() < 0.1


@pytest.mark.parametrize("preset", ["single-shrink-100", "single-slim-100", "single-eyes-100"])
def test_the_field_of_a_row_takes_the_retouching_back(preset: str, source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "set", preset=preset)
    for pair in read_retouched_pairs(tmp_path / "set"):
        lq, gt = (pixels_of(tmp_path / "set" / part / f"{pair.name}.png").astype(np.float32) for part in ("lq", "gt"))
        x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))

        def seen(image: NDArray[np.float32], field: NDArray[np.float32]) -> NDArray[np.float32]:
            at_x, at_y = x + field[..., 0], y + field[..., 1]  # noqa: B023
            return np.asarray(cv2.remap(image, at_x, at_y, cv2.INTER_CUBIC))[8:-8, 8:-8]

        before = np.abs(lq - gt)[8:-8, 8:-8].mean()
        assert np.abs(seen(lq, pair.field()) - gt[8:-8, 8:-8]).mean() < 0.3 * before
        assert np.abs(seen(gt, pair.field(inverse=False)) - lq[8:-8, 8:-8]).mean() < 0.3 * before
        assert np.abs(pair.field(64)[16:48, 16:48] - cv2.resize(pair.field(), (64, 64))[16:48, 16:48] / 2).max() < 0.1
        skin = pair.skin(gt.astype(np.uint8))
        assert skin.shape == (SIZE, SIZE) and skin[80, 40] > 0.5 and skin[2, 2] == 0


def test_landmarks_come_from_the_table_where_there_is_one(tmp_path: Path) -> None:
    places = PLACES + (6, -4)
    save(tmp_path / "faces/a.png", marked_face(1, places))
    text = " ".join(f"{value:.3f}" for value in places.ravel())
    (tmp_path / "faces/index.csv").write_text(f"file,landmarks\na.png,{text}\n")
    run(tmp_path / "faces", tmp_path / "set", preset="single-slim-50", jitter=0)
    lq, gt = (dots_of(pixels_of(tmp_path / "set" / part / "a.png")) for part in ("lq", "gt"))
    (pair,) = read_retouched_pairs(tmp_path / "set")
    assert np.abs(gt - pair.original_landmarks).max() < 0.6 and np.abs(lq - PLACES).max() < 0.8
    (tmp_path / "faces/index.csv").write_text("file,landmarks\na.png,1 2 3\n")
    with pytest.raises(FolderError, match=r"index\.csv"):
        run(tmp_path / "faces", tmp_path / "other")


def test_jitter_moves_the_crop_by_its_size(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "faces" / f"{number}.png", marked_face(number))
    run(tmp_path / "faces", tmp_path / "set", preset="single-brow-1", jitter=4.0)
    errors = [pair.landmarks - PLACES for pair in read_retouched_pairs(tmp_path / "set")]
    # 4 pixels of 512 are 1 of 128; of five landmarks' noise a similarity follows four tenths of the variance
    assert 0.4 < float(np.std(errors)) < 0.9


def test_untouched_pairs_are_two_equal_images(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / "faces" / f"{number}.png", marked_face(number))
    run(tmp_path / "faces", tmp_path / "set", preset="mixed", untouched=0.3)
    pairs = read_retouched_pairs(tmp_path / "set")
    untouched = [pair for pair in pairs if pair.levels == Levels()]
    assert 3 <= len(untouched) <= 16  # 9 are expected; the chance of fewer or more is below 0.2 %
    assert all(pair.lq_sha256 == pair.gt_sha256 for pair in untouched)
    assert all(pair.lq_sha256 != pair.gt_sha256 for pair in pairs if pair.levels != Levels())


def test_the_table_says_what_was_done(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "set", preset="deepfrr", variants=2)
    with (tmp_path / "set/retouch.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == ["a", "a-v2", "b", "b-v2", "deep/c", "deep/c-v2"]
    assert [(row["source"], row["variant"]) for row in rows[:2]] == [("a.png", "0"), ("a.png", "1")]
    operations = ("smooth", "whiten", "eyes", "slim", "shrink", "brow")
    assert {tuple(row[name] for name in operations) for row in rows} == {("100",) * 6}
    assert {(row["seed"], row["recipe"], row["size"]) for row in rows} == {("3", "1", "128")}
    assert all(len(row["landmarks"].split()) == 10 and len(row["source_to_crop"].split()) == 6 for row in rows)
    description = json.loads((tmp_path / "set/set.json").read_text())
    assert (description["preset"], description["count"], description["detector"]) == ("deepfrr", 6, "dots")


def test_68_landmarks_are_used_and_kept(source: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    angles = np.linspace(np.pi, 0, 17)  # a jaw from ear to ear through the chin, everything else about the nose
    jaw = np.stack([64 + 36 * np.cos(angles), 60 + 58 * np.sin(angles)], axis=1)
    many = np.concatenate([jaw, 64 + random.normal(0, 6, (51, 2))])
    options = RetouchOptions(seed=3, preset="single-slim-100", keep_alignment=True)
    retouch_folder(source, tmp_path / "set", options, find_landmarks=lambda _: many)
    retouch_folder(source, tmp_path / "five", options)
    (pair, *_), (plain, *_) = (read_retouched_pairs(tmp_path / name) for name in ("set", "five"))
    assert pair.original_points is not None and np.allclose(pair.original_points, many, atol=1e-4)
    assert plain.original_points is None
    assert np.abs(pair.field() - plain.field()).max() > 0.2


def test_an_interrupted_run_resumes_and_mends_what_was_damaged(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "whole")
    original, made = module.retouch, []

    def counted(*arguments: Any) -> NDArray[np.uint8]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, "retouch", counted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "set", workers=1)
    monkeypatch.setattr(module, "retouch", original)
    with (tmp_path / "set/retouch.csv").open("ab") as stream:
        stream.write(b'torn,"b.png')
    done = read_retouched_pairs(tmp_path / "set")
    assert 1 <= len(done) <= 2
    (tmp_path / "set/lq" / f"{done[0].name}.png").write_bytes(b"damaged")
    report = run(source, tmp_path / "set")
    assert (report.made, report.done_before) == (4 - len(done), len(done) - 1)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")
    assert run(source, tmp_path / "set").done_before == 3


def test_images_that_cannot_be_used_are_named_and_the_others_are_made(source: Path, tmp_path: Path) -> None:
    save(source / "wide.png", marked_face(1)[:100])
    save(source / "tiny.png", marked_face(1)[:20, :20])
    save(source / "blank.png", np.full((SIZE, SIZE, 3), 99, np.uint8))
    save(source / "elsewhere.png", marked_face(1, PLACES * 0.5))
    save(source / "a.jpg", marked_face(1))
    (source / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    report = run(source, tmp_path / "set", preset="single-eyes-30")
    reasons = {entry.path.name: entry.reason for entry in report.failed}
    assert (report.made, len(reasons)) == (3, 6)
    assert "128 x 100" in reasons["wide.png"]
    assert "20 pixels a side" in reasons["tiny.png"]
    assert "No face was found" in reasons["blank.png"]
    assert "lies elsewhere" in reasons["elsewhere.png"]
    assert "damaged.png" in reasons["damaged.png"]
    assert "would have the same name" in (reasons.get("a.png") or reasons["a.jpg"])
    assert sorted(images_of(tmp_path / "set")) == [
        f"{part}/{name}.png" for part in ("gt", "lq") for name in ("a", "b", "deep/c")
    ]


def test_a_variant_does_not_take_the_name_of_another_face(source: Path, tmp_path: Path) -> None:
    save(source / "a-v2.png", marked_face(7))
    report = run(source, tmp_path / "set", variants=2)
    assert [("would have the same name" in entry.reason) for entry in report.failed] == [True]
    assert report.made == 7


def test_sets_are_not_mixed_and_sources_not_written_to(source: Path, tmp_path: Path) -> None:
    before = files_of(source)
    run(source, tmp_path / "set")
    with pytest.raises(FolderError, match="another jitter, seed|another seed, jitter"):
        run(source, tmp_path / "set", seed=4, jitter=1.0)
    save(tmp_path / "others/lq/a.png", marked_face(1))
    with pytest.raises(FolderError, match="did not create"):
        run(source, tmp_path / "others")
    with pytest.raises(FolderError, match="within its source"):
        run(source, source / "set")
    assert files_of(source) == before


def test_only_the_rows_of_a_split_are_taken(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"index\.csv"):
        run(source, tmp_path / "set", split="test")
    (source / "index.csv").write_text("file,split\na.png,test\nb.png,train\ndeep/c.png,test\n")
    run(source, tmp_path / "set", split="test", exclude=("deep/*",))
    assert sorted(images_of(tmp_path / "set")) == ["gt/a.png", "lq/a.png"]
    with pytest.raises(UsageError, match="test, train"):
        run(source, tmp_path / "none", split="val")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"preset": "x"}, "deepfrr"),
        ({"preset": "single-eyes-0"}, "1 to 100"),
        ({"seed": -1}, "seed"),
        ({"variants": 0}, "variants"),
        ({"size": 20}, "64 pixels"),
        ({"untouched": 1.5}, "untouched"),
        ({"jitter": float("nan")}, "jitter"),
    ],
)
def test_wrong_options_are_reported(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        RetouchOptions(**{"seed": 1, **values})


def test_a_detector_is_asked_for_unless_the_alignment_is_kept(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--keep-alignment"):
        retouch_folder(source, tmp_path / "set", RetouchOptions(seed=1))
    assert not (tmp_path / "set").exists()


def test_the_embedded_detector_finds_a_retouched_portrait(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", exc_type=ImportError)
    from gfprestore.faces.mtcnn import MTCNNDetector

    portrait = data.astronaut()[20:220, 125:325]  # not aligned, so that its landmarks are needed; read off the image
    save(tmp_path / "faces/a.png", portrait)
    text = "79 81 122 84 100 108 77 120 120 122"
    (tmp_path / "faces/index.csv").write_text(f"file,landmarks\na.png,{text}\n")
    report = retouch_folder(tmp_path / "faces", tmp_path / "set", RetouchOptions(seed=0, size=128), MTCNNDetector())
    assert (report.made, report.failed) == (1, ())
    (pair,) = read_retouched_pairs(tmp_path / "set")
    assert np.abs(pair.landmarks - PLACES).max() < 5
    # the whole face is smaller than before, and the crop follows it: the original's eyes are further apart
    assert np.hypot(*(pair.original_landmarks[1] - pair.original_landmarks[0])) > np.hypot(*(PLACES[1] - PLACES[0]))


def test_the_authors_folders_are_read_as_pairs(tmp_path: Path) -> None:
    for name in ("1", "2", "10", "lonely"):
        save(tmp_path / "rawimage" / f"{name}.png", marked_face(1))
    for name in ("face1", "face2", "face10", "other", "face99"):
        save(tmp_path / "deimage" / f"{name}.png", marked_face(2))
    pairs, problems = read_frr_pairs(tmp_path)
    assert [(pair.name, pair.retouched.name, pair.original.name) for pair in pairs] == [
        (name, f"face{name}.png", f"{name}.png") for name in ("1", "2", "10")
    ]
    assert sorted(problem.path.name for problem in problems) == ["face99.png", "lonely.png", "other.png"]
    lq, gt = read_matching(list_pairs(tmp_path)[0])
    assert (lq == marked_face(2)).all() and (gt == marked_face(1)).all()


def test_authors_folders_that_do_not_match_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "rawimage/1.png", marked_face(1))
    with pytest.raises(FolderError, match="no folder deimage"):
        read_frr_pairs(tmp_path)
    save(tmp_path / "deimage/1.png", marked_face(1))
    with pytest.raises(FolderError, match="original"):
        read_frr_pairs(tmp_path)
    save(tmp_path / "deimage/face1.png", marked_face(1, size=96))
    (pair,) = list_pairs(tmp_path)
    with pytest.raises(PhotoError, match="96 pixels a side, but its original .* 128"):
        read_matching(pair)
    save(tmp_path / "deimage/face1.png", marked_face(1)[:100])
    with pytest.raises(PhotoError, match="128 x 100"):
        read_matching(pair)
