"""The stream of patches: random draws, skipped photos, and reproducibility by position."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from samples import save

from gfprestore.data.degradation import DegradationOptions
from gfprestore.data.scene_patches import PatchOptions, ScenePatches, list_photos
from gfprestore.errors import FolderError

PLAIN = PatchOptions(24, shrink=(1.0, 1.0), clean=1.0, degradation=DegradationOptions())


def of_one_color(folder: Path, name: str, size: tuple[int, int], color: int) -> Path:
    """An image (height, width) of a single color, so that a patch shows which photo it comes from."""
    return save(folder / name, np.full((*size, 3), color, np.uint8))


def gradient(folder: Path, name: str, size: int) -> Path:
    """An image whose red is the column and whose green is the row, so that a patch shows its position."""
    rows, columns = np.mgrid[:size, :size]
    return save(folder / name, np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8))


def test_the_same_position_gives_the_same_patch_in_another_process_and_another_order(tmp_path: Path) -> None:
    gradient(tmp_path, "a.png", 120)
    gradient(tmp_path, "b.png", 90)
    options = replace(PLAIN, shrink=(1.0, 2.0), clean=0.3)
    first, second = ScenePatches(tmp_path, options, seed=7), ScenePatches(tmp_path, options, seed=7)
    backwards = {position: second.patch(position) for position in reversed(range(12))}
    patches = [first.patch(position) for position in range(12)]
    assert all(np.array_equal(patch, backwards[position]) for position, patch in enumerate(patches))
    assert len({patch.tobytes() for patch in patches}) == 12
    assert not np.array_equal(patches[0], ScenePatches(tmp_path, options, seed=8).patch(0))


def test_a_clean_patch_of_a_photo_that_is_not_shrunk_is_a_piece_of_it_pixel_for_pixel(tmp_path: Path) -> None:
    gradient(tmp_path, "a.png", 200)
    patch = ScenePatches(tmp_path, PLAIN, seed=1).patch(3)
    left, top = int(patch[0, 0, 0]), int(patch[0, 0, 1])
    rows, columns = np.mgrid[top : top + 24, left : left + 24]
    assert patch.dtype == np.uint8
    np.testing.assert_array_equal(patch[..., 0], columns)
    np.testing.assert_array_equal(patch[..., 1], rows)


def test_shrinking_brings_more_of_the_photo_into_the_patch(tmp_path: Path) -> None:
    gradient(tmp_path, "a.png", 200)
    patch = ScenePatches(tmp_path, replace(PLAIN, shrink=(3.0, 3.0)), seed=1).patch(0)
    steps = np.diff(patch[..., 0].astype(int), axis=1)  # a column of the patch spans three of the photo
    assert set(np.unique(steps)) == {3}


def test_what_is_not_clean_is_degraded_and_keeps_its_size(tmp_path: Path) -> None:
    of_one_color(tmp_path, "a.png", (80, 80), 128)
    noisy = DegradationOptions(sigma=(0.1, 0.1), downscale=(1, 1), noise=(10, 10), jpeg_quality=(100, 100),
                               shift_probability=0, jitter_probability=0, gray_probability=0)  # fmt: skip
    patches = ScenePatches(tmp_path, replace(PLAIN, clean=0.5, degradation=noisy), seed=2)
    deviations = [float(patches.patch(position).std()) for position in range(60)]
    clean = sum(deviation == 0 for deviation in deviations)
    assert 20 <= clean <= 40
    assert all(4 < deviation < 13 for deviation in deviations if deviation > 0)  # JPEG smooths the noise of colors


def test_a_large_photo_stands_in_the_stream_as_often_as_it_has_quarter_megapixels(tmp_path: Path) -> None:
    of_one_color(tmp_path, "large.png", (512, 1536), 200)
    of_one_color(tmp_path, "small.png", (100, 100), 50)
    patches = ScenePatches(tmp_path, PLAIN, seed=0)
    colors = [int(patches.patch(position)[0, 0, 0]) for position in range(40)]
    assert colors.count(200) == 30
    assert colors.count(50) == 10
    assert all(sorted(colors[start : start + 4]) == [50, 200, 200, 200] for start in range(0, 40, 4))


def test_photos_of_the_split_test_are_skipped_in_every_subfolder(tmp_path: Path) -> None:
    for folder, name in ((".", "a.png"), (".", "b.png"), ("faces", "c.png"), ("faces", "d.png")):
        of_one_color(tmp_path / folder, name, (40, 40), 90)
    (tmp_path / "index.csv").write_text("file,split\na.png,test\nb.png,train\n", encoding="utf-8")
    (tmp_path / "faces" / "index.csv").write_text("file,split\nd.png,test\n", encoding="utf-8")
    assert [path.name for path in list_photos(tmp_path)] == ["b.png", "c.png"]


def test_unusable_photos_are_reported_and_replaced_by_the_next(tmp_path: Path) -> None:
    of_one_color(tmp_path, "good.png", (60, 60), 77)
    of_one_color(tmp_path, "narrow.png", (400, 20), 10)
    (tmp_path / "torn.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()[:400])
    (tmp_path / "empty.png").touch()
    patches = ScenePatches(tmp_path, PLAIN, seed=0)
    assert {int(patches.patch(position)[0, 0, 0]) for position in range(9)} == {77}
    assert {skipped.path.name for skipped in patches.skipped} == {"narrow.png", "torn.jpg", "empty.png"}
    assert any("20 x 400 pixels" in skipped.reason for skipped in patches.skipped)


def test_a_folder_without_usable_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="There are no photos"):
        ScenePatches(tmp_path, PLAIN, seed=0)
    with pytest.raises(FolderError, match="is not a folder"):
        ScenePatches(tmp_path / "nowhere", PLAIN, seed=0)
    of_one_color(tmp_path, "small.png", (10, 10), 5)
    with pytest.raises(FolderError, match="None of the 1 photos"):
        ScenePatches(tmp_path, PLAIN, seed=0)
