"""Alignment and paste-back: geometry by arithmetic, images against analytic patterns, sharpness by their spectra."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
import skimage.data
from facexlib.utils import face_restoration_helper

from gfprestore.faces.alignment import FFHQ_TEMPLATE, FaceCrop, align_face, crop_sharpness, fit_landmarks
from gfprestore.faces.detection import DetectedFace
from gfprestore.faces.geometry import fit_similarity, rescaled, transformed
from gfprestore.faces.pasting import face_mask, paste_face, yield_to_neighbors


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    return cv2.invertAffineTransform(matrix)


def face_with(photo_to_crop: np.ndarray) -> DetectedFace:
    """A face that the given matrix brings exactly onto the template of 512."""
    landmarks = transformed(inverse(photo_to_crop), FFHQ_TEMPLATE).astype(np.float32)
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]).astype(np.float32)
    return DetectedFace(box, landmarks, 1.0)


def waves(width: int, height: int, matrix: np.ndarray | None = None, period: float = 40) -> np.ndarray:
    """A smooth analytic color pattern (height, width, 3) float in 0..255, seen through a matrix to the pattern."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    if matrix is not None:
        x, y = (transformed(matrix, np.stack([x.ravel(), y.ravel()], axis=1)).T).reshape(2, height, width)
    turn = 2 * np.pi / period
    layers = [np.sin(turn * x) * np.cos(turn * y), np.cos(turn * (x + 0.5 * y)), np.sin(turn * (0.7 * x - y))]
    return 128 + 90 * np.stack(layers, axis=2)


def pixels_of(values: np.ndarray, dtype: type = np.uint8) -> np.ndarray:
    share = 257 if dtype == np.uint16 else 1
    return np.rint(np.clip(values, 0, 255) * share).astype(dtype)


def enlarged(pixels: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def center(pixels: np.ndarray, side: float = 0.4) -> np.ndarray:
    """The middle of a crop, well under its mask, as luma."""
    size = len(pixels)
    cut = slice(int(size * (0.56 - side / 2)), int(size * (0.56 + side / 2)))
    return pixels[cut, int(size * (0.5 - side / 2)) : int(size * (0.5 + side / 2))].astype(np.float64).mean(axis=2)


def test_the_template_is_facexlib_s(monkeypatch):
    for name in ("init_detection_model", "init_parsing_model"):  # they would download weights
        monkeypatch.setattr(face_restoration_helper, name, lambda *arguments, **options: None)
    helper = face_restoration_helper.FaceRestoreHelper(1, device="cpu")
    assert np.array_equal(FFHQ_TEMPLATE, helper.face_template)


@pytest.mark.parametrize("degrees", [0, 25, -90, 180])
def test_a_similarity_is_recovered_exactly(degrees):
    truth = similarity(0.37, degrees, 40.5, -12.25)
    points = np.random.default_rng(1).uniform(0, 500, (5, 2))
    assert np.allclose(fit_similarity(points, transformed(truth, points), np.ones(5)), truth, atol=1e-9)


def test_the_fit_is_the_least_squares_one():
    rng = np.random.default_rng(2)
    source, target = rng.uniform(0, 100, (5, 2)), rng.uniform(0, 100, (5, 2))
    rows = [[x, -y, 1, 0] for x, y in source] + [[y, x, 0, 1] for x, y in source]
    a, b, x, y = np.linalg.lstsq(np.array(rows), np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
    assert np.allclose(fit_similarity(source, target, np.ones(5)), [[a, -b, x], [b, a, y]])


def test_one_misplaced_landmark_does_not_move_the_crop():
    truth = similarity(2.0, 10, 5, 7)
    landmarks = transformed(inverse(truth), FFHQ_TEMPLATE)
    for index in range(5):
        spoiled = landmarks + np.random.default_rng(index).normal(0, 0.5, (5, 2))
        spoiled[index] += [25, -20]  # half an eye distance
        corners = np.array([[0.0, 0.0], [250.0, 0.0], [0.0, 250.0], [250.0, 250.0]])
        moved = transformed(fit_landmarks(spoiled, FFHQ_TEMPLATE), corners) - transformed(truth, corners)
        plain = transformed(fit_similarity(spoiled, FFHQ_TEMPLATE, np.ones(5)), corners) - transformed(truth, corners)
        assert np.abs(moved).max() < 10
        assert np.abs(plain).max() > 2 * np.abs(moved).max()


def test_a_face_that_turns_away_keeps_all_its_points():
    turned = FFHQ_TEMPLATE.copy()
    turned[:, 0] = 256 + (turned[:, 0] - 256) * 0.7  # foreshortened
    turned[2, 0] += 30  # the nose sticks out
    assert np.allclose(fit_landmarks(turned, FFHQ_TEMPLATE), fit_similarity(turned, FFHQ_TEMPLATE, np.ones(5)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [3.1, 1.0, 0.62, 0.22])
def test_a_crop_is_the_pattern_seen_through_the_transform(scale, dtype):
    size = int(420 / min(scale, 1))
    photo_to_crop = similarity(scale, 20, 256 - scale * size * 0.35, 256 - scale * size * 0.6)
    period = 40 / min(scale, 1)
    crop = align_face(pixels_of(waves(size, size, period=period), dtype), face_with(photo_to_crop), 512)
    assert crop.pixels.dtype == dtype
    assert np.allclose(crop.photo_to_crop, photo_to_crop, atol=1e-3 * max(size, 1) / 512)
    expected = waves(512, 512, inverse(photo_to_crop), period)
    difference = crop.pixels.astype(np.float64) / (257 if dtype == np.uint16 else 1) - expected
    inside = warped_inside(size, photo_to_crop)
    assert np.abs(difference[inside]).max() < 2.5
    assert np.abs(difference[inside]).mean() < 0.6


def warped_inside(size: int, photo_to_crop: np.ndarray) -> np.ndarray:
    """Crop pixels whose source lies well inside of a square photo."""
    x, y = np.meshgrid(np.arange(512.0), np.arange(512.0))
    points = transformed(inverse(photo_to_crop), np.stack([x.ravel(), y.ravel()], axis=1)).reshape(512, 512, 2)
    margin = 12 / np.sqrt(np.linalg.det(photo_to_crop[:, :2]))
    return ((points > margin) & (points < size - 1 - margin)).all(axis=2)


def test_other_crop_sizes_show_the_same_part_of_the_photo():
    photo = pixels_of(waves(700, 700))
    face = face_with(similarity(1.3, -15, -90, 60))
    large, small = align_face(photo, face, 512), align_face(photo, face, 256)
    halved = similarity(0.5, 0, -0.25, -0.25) @ np.vstack([large.photo_to_crop, [0, 0, 1]])
    assert np.allclose(small.photo_to_crop, halved)
    difference = cv2.resize(large.pixels, (256, 256), interpolation=cv2.INTER_AREA).astype(int) - small.pixels
    assert np.abs(difference).max() <= 3


def test_a_large_face_is_shrunk_without_aliasing():
    # Stripes finer than the crop can show must become gray; picking pixels would leave a beat.
    photo = np.zeros((2800, 2800, 3), np.uint8)
    photo[:, ::3] = 255
    crop = align_face(photo, face_with(similarity(0.19, 7, 30, -30)), 512).pixels[40:470, 40:470].astype(float)
    assert abs(crop.mean() - 85) < 1
    assert crop.std() < 1.5


def test_a_face_at_the_corner_gets_no_rim():
    photo = pixels_of(waves(300, 300, period=120) * 0.2 + 180)  # bright: a black or gray rim would show
    crop = align_face(photo, face_with(similarity(2.0, 0, 200, 180)), 512)  # the photo begins at (200, 180)
    assert crop.pixels.min() >= photo.min() - 2
    assert crop.pixels.max() <= photo.max() + 2
    mirrored = crop.pixels[:, 200 - 120 : 200][:, ::-1].astype(int)
    assert np.abs(mirrored[200:, 1:] - crop.pixels[200:, 202 : 200 + 121]).max() <= 6


def test_photos_of_a_few_pixels_can_be_aligned():
    for shape in ((1, 1), (2, 300), (300, 2)):
        photo = np.full((*shape, 3), 77, np.uint8)
        for scale in (0.2, 30):
            assert (align_face(photo, face_with(similarity(scale, 0, 100, 100)), 512).pixels == 77).all()


def test_the_default_mask_covers_the_face_and_ends_before_the_border():
    mask = face_mask(512)
    for x, y in FFHQ_TEMPLATE:
        assert mask[round(y), round(x)] == 1
    assert mask[130, 256] > 0.8  # forehead
    assert mask[450, 256] > 0.8  # chin
    assert max(mask[:24].max(), mask[-1].max(), mask[:, :40].max(), mask[:, -40:].max()) == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.05
    small = cv2.resize(mask, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(small - face_mask(256)).max() < 0.01


CASES = [
    (2.0, 3.0, np.uint8),
    (2, 1.0, np.uint8),
    (2, 1.0, np.uint16),
    (1.0, 0.8, np.uint8),
    (1.5, 0.4, np.uint8),
    (3, 0.6, np.uint8),
    (1.0, 4.0, np.uint8),
    (1.0, 4.0, np.uint16),
]


@pytest.mark.parametrize(("upscale", "scale", "dtype"), CASES)
def test_an_unrestored_face_pasted_back_leaves_the_image_as_it_was(upscale, scale, dtype):
    side = int(np.clip(700 / scale, 200, 1500))
    photo = pixels_of(waves(side, side, period=max(30, 24 / scale)), dtype)
    face = face_with(similarity(scale, 12, 256 - 0.6 * scale * side * 0.5, 256 - 0.5 * scale * side))
    crop = align_face(photo, face, 512)
    background = enlarged(photo, upscale)
    before = background.copy()
    mask = face_mask(512)
    paste_face(background, crop.pixels, crop, upscale, mask, 1.0)
    share = 257 if dtype == np.uint16 else 1
    difference = np.abs(background.astype(float) - before) / share
    assert difference.max() <= 2.5
    assert difference.mean() <= 0.3


@pytest.mark.parametrize("scale", [3.0, 0.45])
def test_pasting_does_not_move_the_face(scale):
    side = int(900 / scale)
    rng = np.random.default_rng(3)
    photo = pixels_of(cv2.GaussianBlur(rng.uniform(0, 255, (side, side, 3)), (0, 0), 1.5 / scale + 1) * 3 - 255)
    crop = align_face(photo, face_with(similarity(scale, -8, -0.1 * scale * side, -0.3 * scale * side)), 512)
    background = enlarged(photo, 2)
    once = background.copy()
    paste_face(once, crop.pixels, crop, 2, face_mask(512), 1.0)
    twice = once.copy()
    paste_face(twice, crop.pixels, crop, 2, face_mask(512), 1.0)
    half = int(110 / scale)
    x, y = (2 * transformed(inverse(crop.photo_to_crop), np.array([[256.0, 290.0]]))[0]).astype(int)
    cut = (slice(y - half, y + half), slice(x - half, x + half))
    for pasted in (once, twice):
        window = cv2.createHanningWindow(pasted[cut].shape[1::-1], cv2.CV_64F)
        shift, response = cv2.phaseCorrelate(background[cut].mean(axis=2), pasted[cut].mean(axis=2), window)
        assert response > 0.5
        assert np.hypot(*shift) < 0.1


def sample(upscale: float, dtype: type = np.uint8) -> tuple[np.ndarray, FaceCrop]:
    photo = pixels_of(waves(400, 300), dtype)
    crop = align_face(photo, face_with(similarity(2.2, 5, -150, -60)), 512)
    return enlarged(photo, upscale), crop


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("upscale", [1, 2, 5])
def test_outside_of_the_mask_nothing_changes_and_inside_the_restored_face_shows(upscale, dtype):
    background, crop = sample(upscale, dtype)
    before = background.copy()
    level = 200 * (257 if dtype == np.uint16 else 1)
    mask = face_mask(512)
    paste_face(background, np.full((512, 512, 3), level, dtype), crop, upscale, mask, 1.0)
    to_crop = crop.photo_to_crop
    x, y = np.meshgrid(np.arange(background.shape[1]), np.arange(background.shape[0]))
    points = transformed(to_crop, rescaled(np.stack([x.ravel(), y.ravel()], axis=1), 1 / upscale))
    cover = cv2.remap(mask, points.astype(np.float32).reshape(*x.shape, 2), None, cv2.INTER_LINEAR)
    reach = cv2.dilate(cover, np.ones((5, 5)))
    assert np.array_equal(background[reach == 0], before[reach == 0])
    assert (background != before).any()
    whole = cv2.erode(cover, np.ones((7, 7))) == 1
    tolerance = level * (0.12 if upscale == 5 else 0)  # at 5 the photo's own fine detail is kept
    assert np.abs(background[whole].astype(float) - level).max() <= tolerance + 1


def test_strength_blends_linearly_and_zero_changes_nothing():
    background, crop = sample(2)
    restored = np.full((512, 512, 3), 230, np.uint8)
    results = {}
    for strength in (0.0, 0.5, 1.0):
        results[strength] = background.copy()
        paste_face(results[strength], restored, crop, 2, face_mask(512), strength)
    assert np.array_equal(results[0.0], background)
    middle = (background.astype(float) + results[1.0]) / 2
    assert np.abs(results[0.5] - middle).max() <= 1


def test_restored_crops_of_another_type_or_size_are_brought_to_the_background():
    mask = face_mask(512)
    background, crop = sample(2, np.uint16)
    expected = background.copy()
    restored = crop.pixels // 2 + 9000
    paste_face(expected, restored, crop, 2, mask, 1.0)
    for other in (np.rint(restored / 257).astype(np.uint8), restored.astype(np.float32)):
        result = background.copy()
        paste_face(result, other, crop, 2, mask, 1.0)
        assert np.abs(result.astype(int) - expected).max() <= 257  # one 8-bit level
    larger = background.copy()
    paste_face(larger, cv2.resize(restored, (1024, 1024), interpolation=cv2.INTER_CUBIC), crop, 2, face_mask(1024), 1.0)
    assert np.abs(larger.astype(int) - expected).max() <= 2.5 * 257


def test_a_background_scaled_unevenly_by_rounding_is_hit_exactly():
    photo = pixels_of(waves(301, 211))
    crop = align_face(photo, face_with(similarity(3, 0, -200, -60)), 512)
    background = cv2.resize(photo, (452, 316), interpolation=cv2.INTER_CUBIC)
    before = background.copy()
    paste_face(background, crop.pixels, crop, (452 / 301, 316 / 211), face_mask(512), 1.0)
    assert (background != before).any()
    assert np.abs(background.astype(int) - before).max() <= 2


def fine_energy(pixels: np.ndarray) -> float:
    """Energy of the luma's finest two octaves."""
    luma = pixels.astype(np.float64).mean(axis=2)
    luma = (luma - luma.mean()) * np.outer(np.hanning(luma.shape[0]), np.hanning(luma.shape[1]))
    spectrum = np.abs(np.fft.fft2(luma)) ** 2
    frequency = np.hypot(np.fft.fftfreq(luma.shape[0])[:, None], np.fft.fftfreq(luma.shape[1])[None, :])
    return float(spectrum[(frequency > 0.125) & (frequency < 0.5)].sum())


def test_a_sharp_face_larger_than_the_network_s_output_stays_as_sharp():
    photo = enlarged(skimage.data.astronaut()[:260, 100:360], 5)
    rng = np.random.default_rng(5)
    texture = rng.normal(0, 14, photo.shape[:2])[..., None]
    photo = np.clip(photo + texture, 0, 255).astype(np.uint8)  # pores and grain that 512 pixels cannot hold
    crop = align_face(photo, face_with(similarity(0.58, 3, -60, -60)), 512)
    pasted = photo.copy()
    paste_face(pasted, crop.pixels, crop, 1, face_mask(512), 1.0)
    middle = transformed(inverse(crop.photo_to_crop), np.array([[256.0, 290.0]]))[0].astype(int)
    cut = (slice(middle[1] - 120, middle[1] + 120), slice(middle[0] - 120, middle[0] + 120))
    assert 0.93 < fine_energy(pasted[cut]) / fine_energy(photo[cut]) < 1.05
    soft = cv2.warpAffine(crop.pixels, inverse(crop.photo_to_crop), photo.shape[1::-1], flags=cv2.INTER_CUBIC)
    assert fine_energy(soft[cut]) / fine_energy(photo[cut]) < 0.3  # what a plain paste gives


def test_a_small_blurred_face_is_replaced_fully():
    sharp = skimage.data.astronaut()[30:230, 130:330]
    photo = cv2.GaussianBlur(sharp, (0, 0), 2.5)
    matrix = similarity(512 / 200, 0, 0.78, 0.78)
    crop = FaceCrop(enlarged(photo, 2.56), matrix)
    restored = enlarged(sharp, 2.56)
    background = enlarged(photo, 2)
    paste_face(background, restored, crop, 2, face_mask(512), 1.0)
    wanted = cv2.resize(sharp, (400, 400), interpolation=cv2.INTER_CUBIC)
    assert np.abs(center(background) - center(wanted)).mean() < 2
    assert np.abs(center(enlarged(photo, 2)) - center(wanted)).mean() > 6


def test_a_scratch_that_the_network_removed_does_not_come_back():
    photo = pixels_of(waves(1500, 1500, period=400) * 0.3 + 90)
    clean = photo.copy()
    photo[:, 740:752] = 250
    matrix = similarity(512 / 1500, 0, -0.33, -0.33)
    restored = align_face(clean, face_with(matrix), 512).pixels
    crop = align_face(photo, face_with(matrix), 512)
    pasted = photo.copy()
    paste_face(pasted, restored, crop, 1, face_mask(512), 1.0)
    strip = (slice(700, 1000), slice(730, 762))
    damage, left_over = (np.abs(image[strip].astype(float) - clean[strip]).mean() for image in (photo, pasted))
    assert left_over < 0.12 * damage


def test_a_face_beyond_the_photo_is_pasted_as_far_as_the_photo_goes():
    photo = pixels_of(waves(200, 150))
    for shift in (-400, 300):
        crop = align_face(photo, face_with(similarity(2, 0, shift, shift)), 512)
        background = enlarged(photo, 2)
        before = background.copy()
        paste_face(background, crop.pixels, crop, 2, face_mask(512), 1.0)
        assert np.abs(background.astype(int) - before).max() <= 5  # the last pixels are mirrored, not known
    crop = FaceCrop(np.zeros((512, 512, 3), np.uint8), similarity(1, 0, 5000, 0))
    background = before.copy()
    paste_face(background, crop.pixels, crop, 2, face_mask(512), 1.0)
    assert np.array_equal(background, before)


def test_faces_cheek_to_cheek_each_keep_their_side_in_either_order():
    photo = np.full((600, 900, 3), 128, np.uint8)
    left = FaceCrop(np.zeros((512, 512, 3), np.uint8), similarity(1.0, 0, -20, -40))
    right = FaceCrop(np.zeros((512, 512, 3), np.uint8), similarity(1.0, 0, -220, -40))
    masks = {
        "left": yield_to_neighbors(face_mask(512), left, [right]),
        "right": yield_to_neighbors(face_mask(512), right, [left]),
    }
    painted = []
    for order in (("left", "right"), ("right", "left")):
        canvas = photo.copy()
        for name in order:
            crop, level = (left, 20) if name == "left" else (right, 240)
            paste_face(canvas, np.full((512, 512, 3), level, np.uint8), crop, 1, masks[name], 1.0)
        painted.append(canvas.astype(int))
        assert np.abs(canvas[340, 256 + 20 - 60] - 20.0).max() <= 1
        assert np.abs(canvas[340, 256 + 220 + 60] - 240.0).max() <= 1
        assert np.abs(np.diff(canvas[340, :, 0].astype(int))).max() < 20  # no step between 20 and 240
    assert np.abs(painted[0] - painted[1]).max() < 60
    assert np.abs(painted[0] - painted[1]).mean() < 2
    far = FaceCrop(left.pixels, similarity(1.0, 0, -2000, 0))
    assert np.array_equal(yield_to_neighbors(face_mask(512), left, [far]), face_mask(512))


def test_memory_follows_the_box_and_large_boxes_go_in_bands():
    background = np.zeros((4000, 6000, 3), np.uint8)
    for side, bound in ((400, 40 << 20), (3600, 90 << 20)):
        crop = FaceCrop(np.full((512, 512, 3), 90, np.uint8), similarity(512 / side, 0, -40, -40))
        tracemalloc.start()
        paste_face(background, crop.pixels, crop, 1, face_mask(512), 1.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < bound


def test_sharpness_falls_with_blur_whatever_the_contrast_and_the_depth() -> None:
    random = np.random.default_rng(3)
    noise = random.standard_normal((256, 256, 1)).astype(np.float32)
    values = []
    for sigma in (1.5, 2.5, 4.0):
        spread = cv2.GaussianBlur(noise, (0, 0), sigma)
        luma = np.repeat((128 + 40 * spread / spread.std())[..., None], 3, axis=2).clip(0, 255)
        values.append(crop_sharpness(luma.astype(np.uint8)))
        assert crop_sharpness((luma * 257).astype(np.uint16)) == pytest.approx(values[-1], rel=0.02)
        assert crop_sharpness((64 + luma / 2).astype(np.uint8)) == pytest.approx(values[-1], rel=0.05)
    assert values[0] > 1.3 * values[1] > 1.3 * 1.3 * values[2]
