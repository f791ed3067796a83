"""Synthetic degradation: kernels, noise, JPEG and colors compared with the official code; reproducibility."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from gfprestore.data import capture, degradation
from gfprestore.data.aging import Aging
from gfprestore.data.capture import gaussian_kernel, jpeg
from gfprestore.data.degradation import HEAVY, OFFICIAL, OLD_PRINTS, PAPER, DegradationOptions, degrade

NOTHING = DegradationOptions(
    sigma=(0.001, 0.001),
    downscale=(1, 1),
    noise=(0, 0),
    jpeg_quality=(100, 100),
    shift_probability=0,
    jitter_probability=0,
    gray_probability=0,
)

ALL = {"paper": PAPER, "official": OFFICIAL, "heavy": HEAVY, "old-prints": OLD_PRINTS}


@pytest.fixture
def face(astronaut: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A face (96, 96, 3) in [0, 1]."""
    return astronaut[64:160, 176:272].astype(np.float32) / 255


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def levels_apart(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(np.abs(first.astype(np.float64) - second).max() * 255)


@pytest.mark.parametrize(
    ("sigma_x", "sigma_y", "angle"), [(0.2, 0.2, 0.0), (10, 10, 0), (1.5, 6, 0.7), (8, 0.4, -2.9), (3, 9, 1.57)]
)
def test_kernels_are_the_official_ones(official: None, sigma_x: float, sigma_y: float, angle: float) -> None:
    from basicsr.data.degradations import bivariate_Gaussian

    expected = bivariate_Gaussian(41, sigma_x, sigma_y, angle, isotropic=sigma_x == sigma_y)
    kernel = gaussian_kernel(41, sigma_x, sigma_y, angle)
    assert np.abs(kernel - expected).max() <= 1e-6
    assert kernel.sum() == pytest.approx(1)


@pytest.mark.parametrize("isotropic", [True, False])
def test_the_blur_is_a_filter_with_the_whole_official_kernel(
    official: None, face: NDArray[np.float32], isotropic: bool
) -> None:
    from basicsr.data.degradations import bivariate_Gaussian

    for seed in range(8):
        options = replace(NOTHING, sigma=(0.2, 10.0), isotropic_probability=float(isotropic))
        degraded = degrade(face, options, generator(seed))
        drawn = degraded.parameters
        kernel = bivariate_Gaussian(41, drawn["sigma_x"], drawn["sigma_y"], drawn["angle"], isotropic=isotropic)
        blurred = cv2.filter2D(face, -1, kernel)
        assert (drawn["sigma_x"] == drawn["sigma_y"]) == isotropic
        assert levels_apart(degraded.lq, jpeg(blurred, 100)) <= 1.01  # a level may tip over in the JPEG


def test_a_whole_degradation_is_the_official_chain_of_steps(official: None, face: NDArray[np.float32]) -> None:
    from basicsr.data.degradations import add_jpg_compression, bivariate_Gaussian

    options = replace(PAPER, noise=(0, 0), shift_probability=0, jitter_probability=0, gray_probability=0)
    for seed in range(8):
        degraded = degrade(face, options, generator(seed))
        drawn = degraded.parameters
        kernel = bivariate_Gaussian(41, drawn["sigma_x"], drawn["sigma_y"], drawn["angle"])
        image = cv2.filter2D(face[..., ::-1], -1, kernel)  # the official code works in BGR
        side = int(96 // drawn["downscale"])
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        image = add_jpg_compression(image, int(drawn["jpeg_quality"]))
        image = cv2.resize(image, (96, 96), interpolation=cv2.INTER_LINEAR)
        expected = np.round(image[..., ::-1] * 255)
        difference = np.abs(degraded.lq * 255 - expected)
        assert (difference < 0.01).mean() > 0.99
        assert difference.max() < 2.01


def test_jpeg_is_the_official_one(official: None, face: NDArray[np.float32]) -> None:
    from basicsr.data.degradations import add_jpg_compression

    for quality in (5, 60, 100):
        expected = add_jpg_compression(face[..., ::-1], quality)[..., ::-1]
        assert np.array_equal(jpeg(face, quality), expected)


def test_jpeg_artifacts_are_those_of_another_encoder(face: NDArray[np.float32]) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.rint(face * 255).astype(np.uint8)).save(stream, "JPEG", quality=60, subsampling="4:2:0")
    expected = np.asarray(Image.open(stream)).astype(np.float32) / 255
    assert levels_apart(jpeg(face, 60), expected) < 12
    assert np.abs(jpeg(face, 60) - expected).mean() * 255 < 0.5


def test_noise_has_the_drawn_deviation_in_every_channel_and_no_color_of_its_own() -> None:
    gray = np.full((128, 128, 3), 0.5, np.float32)
    for seed in range(6):
        degraded = degrade(gray, replace(NOTHING, noise=(5, 20)), generator(seed))
        noise = (degraded.lq - 0.5) * 255
        assert 5 <= degraded.parameters["noise"] <= 20
        luma = noise @ np.array([0.299, 0.587, 0.114])
        expected = degraded.parameters["noise"] * np.sqrt(0.299**2 + 0.587**2 + 0.114**2)
        assert luma.std() == pytest.approx(expected, rel=0.03)  # JPEG smears the colors of noise, hardly its luma
        assert np.abs(noise.mean(axis=(0, 1))).max() < 1


def test_noise_before_the_jpeg_has_the_statistics_of_the_official_noise(
    official: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.data.degradations import add_gaussian_noise

    monkeypatch.setattr(capture, "jpeg", lambda image, _quality: np.clip(image, 0, 1))
    for base in (0.5, 0.02):  # near black, half of the noise is clipped away
        flat = np.full((160, 160, 3), base, np.float32)
        ours = degrade(flat, replace(NOTHING, noise=(15, 15)), generator()).lq
        theirs = add_gaussian_noise(flat, sigma=15)
        for quantile in (0.02, 0.25, 0.5, 0.75, 0.98):
            assert np.quantile(ours, quantile) == pytest.approx(np.quantile(theirs, quantile), abs=1.2 / 255)
        between = np.corrcoef(ours.reshape(-1, 3).T)[np.triu_indices(3, 1)]
        assert np.abs(between).max() < 0.03


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_changes_are_those_of_torchvision(face: NDArray[np.float32], name: str, factor: float) -> None:
    ours = {
        "brightness": degradation.brightened,
        "contrast": degradation.contrasted,
        "saturation": degradation.saturated,
    }[name]
    tensor = torch.from_numpy(face).permute(2, 0, 1)
    expected = getattr(functional, f"adjust_{name}")(tensor, factor).permute(1, 2, 0).numpy()
    assert levels_apart(ours(face, factor), expected) < 0.1


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.1])
def test_the_hue_turns_as_in_torchvision(face: NDArray[np.float32], turn: float) -> None:
    tensor = torch.from_numpy(face).permute(2, 0, 1)
    expected = functional.adjust_hue(tensor, turn).permute(1, 2, 0).numpy()
    assert levels_apart(degradation.hue_turned(face, turn), expected) < 0.1


def test_the_ranges_of_the_presets_are_drawn_in_full_and_never_left() -> None:
    small = np.full((16, 16, 3), 0.5, np.float32)
    for options, bounds in (
        (PAPER, {"sigma_x": (0.2, 10), "downscale": (1, 8), "noise": (0, 15), "jpeg_quality": (60, 100)}),
        (OFFICIAL, {"sigma_y": (0.1, 10), "downscale": (0.8, 8), "noise": (0, 20), "jpeg_quality": (60, 100)}),
    ):
        random = generator()
        drawn = [degrade(small, options, random).parameters for _ in range(1500)]
        for name, (low, high) in bounds.items():
            values = np.array([entry[name] for entry in drawn])
            assert low <= values.min() <= low + 0.02 * (high - low), name
            assert high >= values.max() >= high - 0.02 * (high - low), name
            assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low)), name
        for name, probability in (("shift_red", 0.3), ("brightness", 0.3), ("hue", 0.3), ("grey", 0.01)):
            share = np.mean([name in entry for entry in drawn])
            assert share == pytest.approx(probability, abs=0.045 if probability > 0.1 else 0.008), name
        shifts = np.array([entry["shift_blue"] for entry in drawn if "shift_blue" in entry])
        assert 19 < np.abs(shifts).max() <= 20
        contrasts = np.array([entry["contrast"] for entry in drawn if "contrast" in entry])
        assert 0.5 <= contrasts.min() < 0.52
        assert 1.48 < contrasts.max() <= 1.5
    round_kernels = [entry["sigma_x"] == entry["sigma_y"] for entry in drawn]
    assert np.mean(round_kernels) == pytest.approx(0.5, abs=0.05)  # of the official preset


def test_images_left_as_they_are_have_the_asked_share(face: NDArray[np.float32]) -> None:
    options, random = replace(PAPER, clean_probability=0.25), generator()
    drawn = [degrade(face[:16, :16], options, random) for _ in range(1000)]
    clean = [entry for entry in drawn if "clean" in entry.parameters]
    assert len(clean) / 1000 == pytest.approx(0.25, abs=0.04)
    assert all(levels_apart(entry.lq, face[:16, :16]) < 0.51 and len(entry.parameters) == 1 for entry in clean)
    spoiled = [levels_apart(entry.lq, face[:16, :16]) for entry in drawn if "clean" not in entry.parameters]
    assert min(spoiled) > 2


def test_the_asked_share_of_images_has_aged_and_the_others_are_the_papers(face: NDArray[np.float32]) -> None:
    aging = Aging(grain_probability=1.0)  # so that whatever has aged has grain
    options, random = replace(PAPER, aging=aging, aging_probability=0.3), generator()
    drawn = [set(degrade(face[:16, :16], options, random).parameters) for _ in range(1000)]
    aged = [names for names in drawn if "grain" in names]
    assert len(aged) / 1000 == pytest.approx(0.3, abs=0.045)
    assert any("scratches" in names for names in aged)
    papers = set().union(*(degrade(face[:16, :16], PAPER, random).parameters for _ in range(200)))
    assert all(names <= papers for names in drawn if "grain" not in names)


def test_old_prints_keep_the_tones_of_the_whole_image() -> None:
    """Blurred to nothing, the low quality is the gt, whatever else happened to it; not so in heavy degradation."""
    yy, xx = np.mgrid[:128, :128].astype(np.float32) / 128
    image = np.stack([0.3 + 0.4 * xx, 0.3 + 0.3 * yy, 0.6 - 0.3 * xx], axis=2).astype(np.float32)
    largest = {}
    for name, options in (("old prints", OLD_PRINTS), ("heavy", HEAVY)):
        random, apart = generator(), []
        for _ in range(150):
            degraded = degrade(image, options, random)
            local = {"stain", "scratches", "specks", "halftone_period"} & set(degraded.parameters)
            if "grey" not in degraded.parameters and not local:
                apart.append(np.abs(degraded.lq.mean((0, 1)) - image.mean((0, 1))).max() * 255)
        assert len(apart) > 40
        largest[name] = max(apart)
    assert largest["old prints"] < 3
    assert largest["heavy"] > 10


def test_only_the_colors_of_the_low_quality_are_shifted(face: NDArray[np.float32]) -> None:
    before = face.copy()
    degraded = degrade(face, replace(NOTHING, shift_probability=1), generator(5))
    assert np.array_equal(face, before)
    shift = [degraded.parameters[f"shift_{color}"] for color in ("red", "green", "blue")]
    moved = (degraded.lq - jpeg(face, 100)) * 255
    inside = (face > 0.1).all(axis=2) & (face < 0.9).all(axis=2)
    assert np.abs(moved[inside] - shift).max() <= 0.51
    assert max(np.abs(shift)) > 3


def test_a_gray_image_is_the_luma_in_three_channels(face: NDArray[np.float32]) -> None:
    degraded = degrade(face, replace(NOTHING, gray_probability=1), generator())
    assert degraded.parameters["grey"] == 1
    assert np.ptp(degraded.lq, axis=2).max() == 0
    expected = np.asarray(Image.fromarray(np.rint(face * 255).astype(np.uint8)).convert("L"))
    assert np.abs(degraded.lq[..., 0] * 255 - expected).max() < 4


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_the_same_seed_gives_the_same_image_and_another_seed_another(
    options: DegradationOptions, face: NDArray[np.float32]
) -> None:
    for seed in range(12):
        first, again = (degrade(face, options, generator(seed)) for _ in range(2))
        other = degrade(face, options, generator(seed + 100))
        assert np.array_equal(first.lq, again.lq)
        assert first.parameters == again.parameters
        assert not np.array_equal(first.lq, other.lq) or "clean" in first.parameters


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 9, 3), (64, 64, 3)])
def test_the_low_quality_has_the_size_of_the_image_and_8_bit_levels(
    options: DegradationOptions, shape: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    for seed in range(12):
        lq = degrade(image, options, generator(seed)).lq
        assert lq.shape == shape
        assert lq.dtype == np.float32
        assert np.isfinite(lq).all()
        assert 0 <= lq.min() <= lq.max() <= 1
        assert np.abs(lq * 255 - np.rint(lq * 255)).max() < 1e-4


def only(step: str, **ranges: Any) -> DegradationOptions:
    """Options with a single kind of aging."""
    steps = ("copy", "grain", "fading", "sepia", "halftone", "scratch", "dust", "stain")
    never = {f"{name}_probability": float(name == step) for name in steps}
    return replace(NOTHING, aging=Aging(**never, **ranges))


def test_fading_lifts_black_and_dulls_white() -> None:
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 64, axis=0).repeat(3, axis=2)
    options = only("fading", fading_black=(0.2, 0.2), fading_white=(0.8, 0.8))
    lq = degrade(ramp, options, generator()).lq
    assert np.abs(lq.mean(axis=(0, 2)) - np.linspace(0.2, 0.8, 64)).max() < 2 / 255


def test_sepia_keeps_the_light_and_loses_the_colors(face: NDArray[np.float32]) -> None:
    degraded = degrade(face, only("sepia", sepia_strength=(1, 1)), generator())
    red, green, blue = (degraded.lq[..., channel] for channel in range(3))
    assert degraded.parameters["grey"] == 1
    for channel, share in ((green, 0.86), (blue, 0.66)):
        assert channel.mean() / red.mean() == pytest.approx(share, abs=0.005)
        assert np.abs(channel - share * red).mean() * 255 < 2  # JPEG halves the resolution of the colors
    luma = face @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(red.ravel(), luma.ravel())[0, 1] > 0.999


def test_grain_is_without_color_and_strongest_in_the_mid_tones() -> None:
    halves = np.full((128, 128, 3), 0.5, np.float32)
    halves[:, 64:] = 0.95
    lq = degrade(halves, only("grain", grain=(15, 15), grain_size=(0, 0)), generator()).lq * 255
    assert lq[:, :64].std() == pytest.approx(15, rel=0.05)
    assert lq[:, 72:].std() < 10
    assert np.ptp(lq, axis=2).max() < 2.5


def test_scratches_and_dust_cover_a_small_part_and_leave_the_rest(face: NDArray[np.float32]) -> None:
    clean = degrade(face, NOTHING, generator()).lq
    for step, name in (("scratch", "scratches"), ("dust", "specks")):
        shares = []
        for seed in range(10):
            degraded = degrade(face, only(step), generator(seed))
            changed = np.abs(degraded.lq - clean).max(axis=2) > 0.06
            shares.append(changed.mean())
            assert degraded.parameters[name] >= 1
        assert 0.001 < np.mean(shares) < 0.15
        assert max(shares) < 0.4


def test_a_halftone_is_a_raster_that_keeps_the_mean() -> None:
    flat = np.full((128, 128, 3), 0.5, np.float32)
    options = only("halftone", halftone_period=(0.0625, 0.0625), halftone_strength=(1, 1))
    lq = degrade(flat, options, generator()).lq[..., 0]
    spectrum = np.abs(np.fft.fft2(lq - lq.mean()))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.hypot(min(row, 128 - row), min(column, 128 - column)) / 128
    assert frequency == pytest.approx(1 / 8, rel=0.1)
    assert lq.mean() == pytest.approx(0.5, abs=0.03)
    assert lq.std() > 0.3


def test_a_copy_of_a_copy_is_softer_than_the_copy(face: NDArray[np.float32]) -> None:
    options = only("copy", copy_sigma=(2, 2), copy_noise=(0, 0), copy_jpeg_quality=(95, 95))
    detail = [np.abs(np.diff(degrade(face, each, generator()).lq, axis=0)).mean() for each in (NOTHING, options)]
    assert detail[1] < 0.75 * detail[0]


def test_stains_are_large_and_soft() -> None:
    flat = np.full((128, 128, 3), 0.5, np.float32)
    lq = degrade(flat, only("stain", stain_strength=(0.2, 0.2)), generator()).lq[..., 0]
    assert np.ptp(lq) > 0.15
    assert np.abs(np.diff(lq, axis=0)).max() < 0.03


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 40},
        {"sigma": (3.0, 1.0)},
        {"sigma": (0.0, 1.0)},
        {"downscale": (0.0, 2.0)},
        {"noise": (-1.0, 2.0)},
        {"jpeg_quality": (0, 101)},
        {"hue": (-0.7, 0.1)},
    ],
)
def test_invalid_ranges_are_errors(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DegradationOptions(**wrong)
