"""FRRffusion from the command line, from end to end: sample, retouch, train both stages, run, eval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from doubles import call, make_faces, records, tiny_config
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from samples import pixels_of, save

from gfprestore.training.train import train

FMAR = ("fmar.attention=", "fmar.channels=16", "fmar.multipliers=1,2", "level_estimator.channels=8,8")
HFDG = ("hfdg.embed_dim=12", "hfdg.depths=2", "hfdg.heads=2", "hfdg.window_size=4", "hfdg.overlap_window_size=6",
        "hfdg.compress_ratio=3", "hfdg.squeeze_factor=3", "hfdg.features=8", "cascade_faces=2")  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces that a tiny prior has drawn, their retouched pairs, and weights of both stages."""
    folder = tmp_path_factory.mktemp("frrffusion")
    config = replace(tiny_config(make_faces(folder / "faces"), folder / "prior", steps=2), stage="prior")
    drawn = ("sample", train(config).weights, "--count", 4, "--seed", 1, "-o", folder / "drawn", "--size", 128)
    assert call(*drawn, "--device", "cpu") == 0
    pairs = ("retouch", folder / "drawn", "-o", folder / "pairs", "--seed", 1, "--preset", "mixed", "--keep-alignment")
    assert call(*pairs) == 0
    common = ("--data", folder / "pairs", "--preset", "frrffusion-compact", "--device", "cpu", "--workers", 0,
              "--steps", 2, "--batch-size", 2, "--size", 32)  # fmt: skip
    sets = [f"--set=reversal.{value}" for value in FMAR]
    assert call("train", "--stage", "fmar", "-o", folder / "fmar", *common, *sets) == 0
    sets = [f"--set=reversal.{value}" for value in HFDG]
    first = ("--weights", folder / "fmar" / "frrffusion.safetensors")
    assert call("train", "--stage", "hfdg", "-o", folder / "hfdg", *common, *first, *sets) == 0
    return folder


def weights(work: Path, stage: str = "hfdg") -> tuple[object, ...]:
    return ("--restorer", "frrffusion", "--weights", work / stage / "frrffusion.safetensors", "--device", "cpu")


def test_aligned_faces_are_reversed_the_same_way_every_time(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    command = (
        "run",
        work / "pairs" / "lq",
        "--aligned",
        "--retouch-levels",
        "smooth=30,slim=60",
        "--seed",
        3,
        "--json",
    )
    assert call(*command, *weights(work), "-o", tmp_path / "a", "--batch-size", 1) == 0
    lines, summary = records(capsys)
    assert summary["restored_faces"] == 4
    levels = {"smooth": 30, "whiten": 0, "eyes": 0, "slim": 60, "shrink": 0, "brow": 0}
    assert all(
        line["face_details"] == [{"box": None, "outcome": "restored", "levels": levels}] for line in lines.values()
    )
    assert call(*command, *weights(work), "-o", tmp_path / "b", "--batch-size", 4) == 0
    with Image.open(tmp_path / "a" / "000000.png") as image:
        assert "They are no evidence of how a person looks." in image.info["xmp"].decode()
    for name in lines:
        one, other = (pixels_of(tmp_path / part / name).astype(int) for part in ("a", "b"))
        assert one.shape == (128, 128, 3)
        assert np.abs(one - other).max() <= 1


def test_untouched_faces_are_told_and_kept(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    command = ("run", work / "pairs" / "lq", "--aligned", "--retouch-levels", 0, *weights(work, "fmar"))
    assert call(*command, "-o", tmp_path / "kept") == 0
    assert "0 faces (1 more taken for untouched and left unchanged)" in capsys.readouterr().err
    for path in sorted((work / "pairs" / "lq").glob("*.png")):
        given = pixels_of(path).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))  # reduced to the network's size
        assert np.abs(pixels_of(tmp_path / "kept" / path.name) - given).max() <= 1


def test_a_run_is_repeated_only_when_the_levels_change(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("run", work / "pairs" / "lq", "--aligned", "--json", *weights(work), "-o", tmp_path / "out")
    capsys.readouterr()
    restored = []
    for levels in (40, 40, 50):
        assert call(*command, "--retouch-levels", levels) == 0
        restored.append(records(capsys)[1]["restored"])
    assert restored == [4, 0, 4]


def test_a_photo_without_a_face_or_with_a_tiny_one_is_written_as_it_is(
    work: Path, tmp_path: Path, astronaut: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    photo = np.full((80, 100, 3), 120, np.uint8)
    save(tmp_path / "in" / "plain.png", photo)
    small = np.asarray(Image.fromarray(astronaut).resize((120, 120), Image.Resampling.LANCZOS))  # a face of 23 pixels
    save(tmp_path / "in" / "tiny.png", small)
    command = ("run", tmp_path / "in", *weights(work), "--detector", "mtcnn", "--offline", "-o", tmp_path / "out")
    assert call(*command) == 0
    told = capsys.readouterr().err
    assert "plain.png: 0 faces, 100 x 80" in told
    assert "0 faces (1 more too small or too sharp for frrffusion), 120 x 120" in told
    assert np.array_equal(pixels_of(tmp_path / "out" / "plain.png"), photo)
    assert np.array_equal(pixels_of(tmp_path / "out" / "tiny.png"), small)


def test_a_set_is_scored_with_rows_for_both_stages(work: Path, tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    save(tmp_path / "photos" / "a.png", astronaut)
    assert call("prepare", tmp_path / "photos", "-o", tmp_path / "faces", "--size", 128, "--offline") == 0
    mtcnn = ("--detector", "mtcnn", "--offline")
    for seed, name in ((1, "pairs"), (2, "training")):
        assert call("retouch", tmp_path / "faces", "-o", tmp_path / name, "--seed", seed, *mtcnn) == 0
    command = ("eval", "--set", "deepfrr", "--data", tmp_path / "pairs", "--metrics", "psnr,geometry", *mtcnn)
    file = ("--weights", work / "hfdg" / "frrffusion.safetensors", "--constant-from", tmp_path / "training")
    assert call(*command, *file, "-o", tmp_path / "report", "--device", "cpu") == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    psnr = {row["method"]: row["scores"]["psnr"]["value"] for row in report["sets"] if row["view"] == "crops-256"}
    assert {"retouched", "constant inverse", "frrffusion, levels estimated", "frrffusion, levels given"} <= psnr.keys()
    lq, gt = (pixels_of(next((tmp_path / "pairs" / part).rglob("*.png"))).astype(float) for part in ("lq", "gt"))
    enlarged = [np.asarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_CUBIC)) for image in (lq, gt)]
    error = np.square(np.diff(np.clip(np.rint(enlarged), 0, 255), axis=0)).mean()
    assert psnr["retouched"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.05)
    assert psnr["constant inverse"] > psnr["retouched"] + 3  # it was made of the same face


def test_an_untouched_aligned_face_of_the_output_size_keeps_every_pixel_and_gets_no_label(
    work: Path, tmp_path: Path
) -> None:
    command = ("run", work / "pairs" / "lq", "--aligned", "--retouch-levels", 0, "--save-faces", *weights(work))
    assert call(*command, "-o", tmp_path / "kept") == 0
    for path in sorted((work / "pairs" / "lq").glob("*.png")):  # 128 pixels a side, as the second stage's results
        kept = tmp_path / "kept" / path.name
        assert np.array_equal(pixels_of(kept), pixels_of(path))
        assert np.array_equal(pixels_of(tmp_path / "kept" / "_faces" / path.name / "01-after.png"), pixels_of(path))
        with Image.open(kept) as image:
            assert "xmp" not in image.info


def test_a_photo_with_broken_xmp_is_labeled_all_the_same(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next((work / "pairs" / "lq").glob("*.png"))
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta><rdf:RDF>cut off")
    (tmp_path / "in").mkdir()
    with Image.open(source) as image:
        image.save(tmp_path / "in" / "a.png", pnginfo=info)
    capsys.readouterr()
    command = ("run", tmp_path / "in", "--aligned", "--retouch-levels", 60, *weights(work), "-o", tmp_path / "out")
    assert call(*command) == 0
    assert "a.png: its XMP is not valid and was replaced by the label" in " ".join(capsys.readouterr().err.split())
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert "They are no evidence of how a person looks." in image.info["xmp"].decode()
        assert "cut off" not in image.info["xmp"].decode()


def test_the_faces_of_all_pages_are_reported_with_their_page(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    first, second = (Image.open(path) for path in sorted((work / "pairs" / "lq").glob("*.png"))[:2])
    with first, second:
        first.save(tmp_path / "in" / "a.tif", save_all=True, append_images=[second])
    capsys.readouterr()
    command = ("run", tmp_path / "in", "--aligned", "--retouch-levels", "eyes=40", "--json", *weights(work))
    assert call(*command, "-o", tmp_path / "out") == 0
    line = records(capsys)[0]["a.tif"]
    assert (line["pages"], line["restored_faces"]) == (2, 2)
    assert [(face["page"], face["outcome"], face["levels"]["eyes"]) for face in line["face_details"]] == [
        (1, "restored", 40),
        (2, "restored", 40),
    ]


def test_the_packaged_network_reverses_a_real_face_without_a_download(
    tmp_path: Path, astronaut: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    photo = astronaut[:320, 60:380]
    save(tmp_path / "in" / "a.png", photo)
    command = ("run", tmp_path / "in", "--restorer", "frrffusion", "--offline", "--device", "cpu", "--json")
    assert call(*command, "--retouch-levels", "eyes=100", "-o", tmp_path / "out") == 0
    lines, _ = records(capsys)
    assert (lines["a.png"]["restorer"], lines["a.png"]["restored_faces"]) == ("frrffusion-compact", 1)
    left, top, right, bottom = (round(edge) for edge in lines["a.png"]["face_details"][0]["box"])
    change = np.abs(pixels_of(tmp_path / "out" / "a.png").astype(int) - photo).mean(axis=2)
    assert change[top:bottom, left:right].mean() > 0.5
    assert change[-40:].max() == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--retouch-levels", "nose=3"), 2, "'nose' is unknown. Use smooth, whiten, eyes, slim, shrink, brow."),
        (("--sampler", "euler"), 2, "--sampler euler is unknown. Use one of ddim, ddpm."),
        (("--sampling-steps", 0), 2, "--sampling-steps must be 1 or more, not 0."),
        (("--eta", 2), 2, "--eta must be from 0 to 1, not 2."),
    ],
)
def test_wrong_options_are_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], code: int, words: str
) -> None:
    capsys.readouterr()
    assert call("run", work / "pairs" / "lq", "--aligned", *weights(work), *options, "-o", tmp_path / "out") == code
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
