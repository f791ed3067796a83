"""The library: arrays and files in, restored arrays and files out, whatever the type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from doubles import Finder, Painter, logged, opened
from numpy.typing import NDArray
from PIL import Image
from samples import info_of

import gfprestore
from gfprestore.errors import UsageError
from gfprestore.photo.reading import read_photo
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration
from gfprestore.restoration.restorers import FaceLimits


@pytest.fixture
def scene() -> NDArray[np.uint8]:
    """A smooth colorful image (160, 240, 3) without any face."""
    y, x = np.mgrid[0:160, 0:240].astype(np.float32)
    channels = [128 + 100 * np.sin(x / 37 + y / 53), 60 + y, 200 - x / 2]
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def test_the_library_is_found_at_the_top_and_importing_the_package_alone_loads_nothing() -> None:
    assert gfprestore.Restoration is Restoration
    assert gfprestore.RunOptions is RunOptions
    with pytest.raises(AttributeError, match="nonsense"):
        gfprestore.nonsense  # noqa: B018


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_faces_are_painted_and_all_else_is_the_enlarged_photo(scene: NDArray[np.uint8], dtype: type) -> None:
    pixels = scene.astype(dtype) * (257 if dtype is np.uint16 else 1)
    red = Painter(color=(1.0, -1.0, -1.0))
    finder = Finder([(60, 60), (180, 90)])
    result = opened(red, finder, RunOptions(upscale=2)).restore(pixels)
    plain = opened(red, Finder([]), RunOptions(upscale=2)).restore(pixels)
    assert result.pixels.dtype == dtype
    assert result.pixels.shape == (320, 480, 3)
    full = np.iinfo(dtype).max
    for x, y in ((60, 60), (180, 90)):
        share = result.pixels[2 * (y + 10), 2 * x] / full
        assert share == pytest.approx([1, 0, 0], abs=0.002)
    changed = np.any(result.pixels != plain.pixels, axis=2)
    boxes = np.zeros_like(changed)
    for x, y in ((60, 60), (180, 90)):
        boxes[max(0, 2 * y - 90) : 2 * y + 110, max(0, 2 * x - 100) : 2 * x + 100] = True
    assert changed.any()
    assert not (changed & ~boxes).any()
    assert result.restored_faces == 2


def test_a_face_that_fails_is_left_as_it_was_and_counted_as_not_restored(scene: NDArray[np.uint8]) -> None:
    red = Painter(color=(1.0, -1.0, -1.0), broken=[1])
    finder = Finder([(60, 60), (180, 90)])
    result = opened(red, finder).restore(scene)
    plain = opened(Painter(), Finder([])).restore(scene)
    assert (len(result.faces), result.restored_faces) == (2, 1)
    assert result.restored[1] is None
    assert np.array_equal(result.pixels[130:250, 300:420], plain.pixels[130:250, 300:420])
    assert not np.array_equal(result.pixels[100:160, 100:140], plain.pixels[100:160, 100:140])


def test_faces_beyond_the_restorers_limits_are_found_and_left_as_they_were(scene: NDArray[np.uint8]) -> None:
    red = Painter(color=(1.0, -1.0, -1.0), limits=FaceLimits(least_side=(90, 120)))
    result = opened(red, Finder([(60, 60), (180, 90)], eyes=20)).restore(scene)  # 20 pixels of 126 in a crop of 512
    assert (len(result.faces), len(result.crops), result.restored_faces) == (2, 0, 0)
    assert red.seen == []
    assert np.array_equal(result.pixels, opened(Painter(), Finder([])).restore(scene).pixels)


def test_faces_near_the_restorers_limits_are_blended(scene: NDArray[np.uint8]) -> None:
    side = 20 * 512 / 126.0
    half = FaceLimits(least_side=(side - 10, side + 10))
    full, blended, plain = (
        opened(Painter((1.0, -1.0, -1.0), limits=limits), Finder(centers), RunOptions(upscale=1)).restore(scene).pixels
        for limits, centers in ((None, [(60, 60)]), (half, [(60, 60)]), (None, []))
    )
    at = (70, 60)
    expected = (full[at].astype(float) + plain[at]) / 2
    assert blended[at] == pytest.approx(expected, abs=8)
    assert abs(int(full[at][0]) - int(plain[at][0])) > 40


def test_faces_of_several_photos_share_batches_and_come_back_to_their_photo(scene: NDArray[np.uint8]) -> None:
    painter = Painter()
    restoration = opened(painter, Finder([(60, 60), (180, 90)]), RunOptions(batch_size=3))
    photos = [restoration.prepare(scene), restoration.prepare(scene[::-1].copy()), restoration.prepare(scene)]
    restored = restoration.restore_faces(photos)
    assert [count for count, _ in painter.seen] == [3, 3]
    for photo, faces in zip(photos, restored, strict=True):
        for crop, face in zip(photo.crops, faces, strict=True):
            assert face is not None
            assert np.abs(face.pixels.astype(int) - crop.pixels).max() <= 1


def test_seeds_come_from_the_photos_name_and_the_faces_index_only(scene: NDArray[np.uint8]) -> None:
    def seeds(name: str, batch: int) -> list[int]:
        painter = Painter()
        opened(painter, Finder([(60, 60), (180, 90)]), RunOptions(seed=7, batch_size=batch)).restore(scene, name)
        return [seed for _, given in painter.seen for seed in given or []]

    assert seeds("a.png", 1) == seeds("a.png", 8)
    assert len(set(seeds("a.png", 1) + seeds("b.png", 1))) == 4
    painter = Painter()
    opened(painter, Finder([(60, 60)])).restore(scene)
    assert painter.seen == [(1, None)]


def test_a_gray_photo_stays_gray_unless_color_is_asked_for(scene: NDArray[np.uint8]) -> None:
    gray = np.repeat(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    orange = Painter(color=(0.6, 0.0, -0.6))
    finder = Finder([(120, 70)])
    kept = opened(orange, finder).restore(gray).pixels.astype(int)
    colored = opened(orange, finder, RunOptions(color="restore")).restore(gray).pixels.astype(int)
    assert (kept.max(axis=2) - kept.min(axis=2)).max() <= 1
    assert (colored[160, 240, 0] - colored[160, 240, 2]) > 100


def test_files_keep_their_type_alpha_and_metadata(scene: NDArray[np.uint8], tmp_path: Path) -> None:
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:, :120] = 0
    source = tmp_path / "in.png"
    Image.fromarray(np.dstack([scene, alpha])).save(source, dpi=(150, 150))
    opened(Painter(), Finder([(180, 90)])).restore_file(source, tmp_path / "out.png")
    written = read_photo(tmp_path / "out.png")
    assert written.pixels.shape == (320, 480, 3)
    assert written.alpha is not None
    assert (written.alpha[:, :238] == 0).all()
    assert (written.alpha[:, 242:] == 255).all()
    assert info_of(tmp_path / "out.png")["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_the_library_logs_what_a_file_does_not_keep(scene: NDArray[np.uint8], tmp_path: Path) -> None:
    alpha = np.full(scene.shape[:2], 200, np.uint8)
    Image.fromarray(np.dstack([scene, alpha])).save(tmp_path / "in.png")
    (tmp_path / "in.png").write_bytes((tmp_path / "in.png").read_bytes() + b"clip")
    lines: list[str] = []
    with logged(lines):
        Restoration(RunOptions(restorer="none", background="none")).restore_file(
            tmp_path / "in.png", tmp_path / "out.jpg"
        )
    assert lines == [
        f"{tmp_path / 'in.png'}: not copied: 4 bytes after the image (a second image or a clip)",
        f"{tmp_path / 'in.png'}: JPEG has no transparency; the photo was placed on white",
    ]


def test_an_aligned_crop_of_another_size_is_resized_to_the_network_and_blended_by_strength(
    scene: NDArray[np.uint8], make_checkpoint: Callable[..., Path]
) -> None:
    weights = make_checkpoint(size=64)
    full = Restoration(RunOptions(weights=weights, aligned=True)).restore(scene).pixels
    none = Restoration(RunOptions(weights=weights, aligned=True, strength=0)).restore(scene).pixels
    half = Restoration(RunOptions(weights=weights, aligned=True, strength=0.5)).restore(scene).pixels
    assert full.shape == none.shape == (64, 64, 3)
    assert np.array_equal(none, cv2.resize(scene, (64, 64), interpolation=cv2.INTER_AREA))
    assert np.abs(half.astype(float) - (full.astype(float) + none) / 2).max() <= 0.5


def test_an_array_that_is_no_photo_is_refused() -> None:
    restoration = Restoration(RunOptions(restorer="none", background="lanczos"))
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match="are not supported"):
            restoration.restore(wrong)
