"""The command line: what comes out for scripts and for people, in pixels, JSON fields and exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from doubles import call, records
from numpy.typing import NDArray
from samples import pixels_of, save, size_of

FIELDS = [
    "source", "output", "status", "faces", "restored_faces", "width", "height", "seconds", "restorer", "background",
    "error",
]  # fmt: skip


@pytest.fixture
def photo(astronaut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The portrait at a quarter of its pixels: one face of about 50 pixels."""
    return np.asarray(cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("layout", ["paper", "clean"])
def test_aligned_crops_come_out_as_the_official_network_makes_them(
    layout: str, official_gfpgan: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = official_gfpgan[layout](
        out_size=64, channel_multiplier=1, narrow=0.25, input_is_latent=True, different_w=True, sft_half=True
    ).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(("style_conv1.weight", ".bias")) or parameter.numel() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.1)
    checkpoint = tmp_path / "official.pth"
    torch.save({"params_ema": network.state_dict()}, checkpoint)
    random = np.random.default_rng(1)
    crops = {f"{index}.png": random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for index in range(3)}
    for name, crop in crops.items():
        save(tmp_path / "crops" / name, crop)

    code = call(
        "run",
        tmp_path / "crops",
        "-o",
        tmp_path / "out",
        "--weights",
        checkpoint,
        "--aligned",
        "--background",
        "none",
        "--json",
    )

    results, summary = records(capsys)
    assert code == 0
    assert summary["restored"] == 3
    for name, crop in crops.items():
        lq = torch.from_numpy(crop).permute(2, 0, 1).float().div(127.5).sub(1).unsqueeze(0)
        with torch.no_grad():
            expected = network(lq, return_rgb=False, randomize_noise=False)[0][0].clamp(-1, 1)
        levels = np.rint((expected.permute(1, 2, 0).numpy() + 1) * 127.5)
        found = pixels_of(results[name]["output"]).astype(float)
        assert (np.abs(found - levels) <= 1).mean() >= 0.999
        assert levels.std() > 20  # not a flat image that anything would match


def test_json_lines_have_the_documented_fields_and_stdout_nothing_else(
    photo: NDArray[np.uint8], make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    code = call(
        "run", source.parent, "--weights", make_checkpoint(), "--detector", "mtcnn", "--background", "lanczos", "--json"
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert list(lines[0]) == FIELDS
    assert lines[0]["source"] == str(source)
    assert lines[0]["output"] == str(tmp_path / "in-restored" / "a.png")
    assert (lines[0]["status"], lines[0]["faces"], lines[0]["restored_faces"]) == ("restored", 1, 1)
    assert (lines[0]["width"], lines[0]["height"]) == (512, 512)
    assert (lines[0]["restorer"], lines[0]["background"], lines[0]["error"]) == ("gfpgan-clean", "lanczos", None)
    assert list(lines[1]) == ["summary"]
    assert lines[1]["summary"]["faces"] == 1


def test_only_the_face_differs_from_the_enlarged_photo(
    photo: NDArray[np.uint8], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    common = ["run", source.parent, "--background", "lanczos", "--upscale", "2"]
    assert call(*common, "-o", tmp_path / "plain", "--restorer", "none") == 0
    assert call(*common, "-o", tmp_path / "faces", "--weights", make_checkpoint(), "--detector", "mtcnn") == 0
    plain, restored = (pixels_of(tmp_path / name / "a.png").astype(int) for name in ("plain", "faces"))
    rows, columns = np.nonzero(np.abs(plain - restored).max(axis=2))
    # the face of the astronaut at this size, by eye: columns 170..280 and rows 60..190 of the enlarged photo
    assert 120 < columns.min() < 200 and 250 < columns.max() < 330
    assert rows.min() < 90 and 150 < rows.max() < 240


def test_strength_0_leaves_the_enlarged_photo_as_it_was(
    photo: NDArray[np.uint8], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    common = ["run", source.parent, "--background", "lanczos"]
    call(*common, "-o", tmp_path / "plain", "--restorer", "none")
    call(*common, "-o", tmp_path / "faces", "--weights", make_checkpoint(), "--detector", "mtcnn", "--strength", "0")
    plain, restored = (pixels_of(tmp_path / name / "a.png") for name in ("plain", "faces"))
    assert np.array_equal(plain, restored)


def test_bad_photos_fail_one_by_one_with_their_reason_and_the_good_one_is_written(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    save(folder / "good.png", photo)
    save(folder / "one.png", np.zeros((1, 1, 3), np.uint8))
    (folder / "text.jpg").write_text("Dear diary")
    (folder / "empty.jpg").touch()
    whole = save(tmp_path / "whole.jpg", photo).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])

    code = call("run", folder, "-o", tmp_path / "out", "--restorer", "none", "--background", "lanczos", "--json")

    results, summary = records(capsys)
    assert code == 1
    assert (summary["restored"], summary["failed"]) == (2, 3)
    for name in ("text.jpg", "empty.jpg", "cut.jpg"):
        assert results[name]["status"] == "failed"
        assert str(folder / name) in results[name]["error"]
        assert results[name]["output"] is None
        assert not (tmp_path / "out" / name).exists()
    assert "empty" in results["empty.jpg"]["error"]
    assert size_of(tmp_path / "out" / "good.png") == (512, 512)
    assert size_of(tmp_path / "out" / "one.png") == (2, 2)


def test_a_folder_without_photos_is_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    assert call("run", tmp_path, "--restorer", "none") == 4
    assert str(tmp_path) in capsys.readouterr().err.replace("\n", "")


def test_weights_that_are_missing_damaged_or_of_another_network_are_exit_code_3(
    photo: NDArray[np.uint8], make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(make_checkpoint().read_bytes()[:5000])
    other = tmp_path / "other.pth"
    torch.save({"params": {"conv_first.weight": torch.zeros(64, 3, 3, 3)}}, other)
    for weights in (tmp_path / "absent.pth", damaged, other):
        assert call("run", source, "-o", tmp_path / "out", "--weights", weights) == 3
        assert weights.name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_offline_and_with_no_download_faces_are_restored_by_what_ships_with_the_package(
    astronaut: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = astronaut[0:240, 120:340]
    small = np.asarray(cv2.resize(face, (110, 120), interpolation=cv2.INTER_AREA), np.uint8)
    source = save(tmp_path / "in" / "a.png", small)
    assert call("run", source, "--offline", "--json") == 0
    shown = capsys.readouterr()
    assert "gfpgan-1.4 is not available offline; using compact-restorer instead." in shown.err
    assert "gfprestore weights fetch gfpgan-1.4" in shown.err
    result = json.loads(shown.out.splitlines()[0])
    assert (result["restorer"], result["background"]) == ("compact-restorer", "compact-background")
    assert (result["faces"], result["restored_faces"], result["width"]) == (1, 1, 220)
    restored = pixels_of(Path(result["output"])).astype(float)
    truth = cv2.resize(face, (220, 240), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(restored - truth).mean() < 12, "the same image, enlarged"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--upscale", "5"], 2),
        (["--upscale", "0.5"], 2),
        (["--strength", "2"], 2),
        (["--background", "nonsense"], 2),
        (["--restorer", "retinaface-resnet50"], 2),
        (["--colour", "blue"], 2),
        (["--tile", "3"], 2),
        (["--device", "tpu"], 5),
        (["--device", "cuda:7"], 5),
        (["--precision", "fp16", "--device", "cpu"], 5),
    ],
)
def test_wrong_usage_is_exit_code_2_and_an_unusable_device_5(
    arguments: list[str], code: int, photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    base = [] if "--restorer" in arguments else ["--restorer", "none"]
    assert call("run", source, "-o", tmp_path / "out", *base, *arguments) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_second_run_skips_what_is_done_and_redoes_what_changed(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "b.png"):
        save(folder / name, photo)
    common = ["run", folder, "-o", tmp_path / "out", "--restorer", "none", "--background", "lanczos", "--json"]
    call(*common)
    capsys.readouterr()
    save(folder / "b.png", 255 - photo)
    assert call(*common) == 0
    results, _ = records(capsys)
    assert results["a.png"]["status"] == "skipped"
    assert results["b.png"]["status"] == "restored"
    mean = pixels_of(tmp_path / "out" / "b.png").mean()
    assert abs(mean - (255 - photo).mean()) < 1
    assert call(*common, "--upscale", "3") == 0
    results, summary = records(capsys)
    assert summary["restored"] == 2
    assert results["a.png"]["width"] == 768


def test_a_file_that_no_run_wrote_is_not_overwritten_without_being_asked(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    common = ["run", source.parent, "-o", tmp_path / "out", "--restorer", "none", "--background", "lanczos", "--json"]
    assert call(*common) == 0
    results, _ = records(capsys)
    assert results["a.png"]["status"] == "skipped"
    assert "--overwrite" in results["a.png"]["error"]
    assert (tmp_path / "out" / "a.png").read_text() == "mine"
    assert call(*common, "--overwrite") == 0
    assert size_of(tmp_path / "out" / "a.png") == (512, 512)


def test_dry_run_names_what_would_be_written_and_writes_nothing(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    assert call("run", source.parent, "-o", tmp_path / "out", "--dry-run") == 0
    assert f"{source} -> {tmp_path / 'out' / 'a.png'}" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_dry_run_tells_what_was_restored_before_and_whose_place_is_taken(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png"):
        save(folder / name, photo)
    plain = ("--restorer", "none", "--background", "lanczos", "--json")
    assert call("run", folder, "-o", out, *plain) == 0
    save(folder / "b.png", photo[::-1])  # another image now
    save(folder / "c.png", photo)
    save(folder / "d.png", photo)
    (out / "d.png").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert call("run", folder, "-o", out, "--dry-run", *plain) == 0
    *photos, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {Path(entry["source"]).name: entry["state"] for entry in photos} == {
        "a.png": "restored",
        "b.png": "new",
        "c.png": "new",
        "d.png": "taken",
    }
    assert summary == {
        "summary": {"photos": 4, "new": 2, "restored": 1, "changed": 0, "taken": 1, "left_out": [], "dry_run": True}
    }
    assert call("run", folder, "-o", out, "--dry-run") == 0
    told = capsys.readouterr()
    assert f"{out / 'a.png'} (restored before)" in told.out
    assert f"{out / 'd.png'} (exists and no run wrote it)" in told.out
    assert "2 photos would be restored" in told.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert call("run", folder, "-o", out, "--dry-run", "--overwrite", *plain) == 0
    *photos, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {entry["state"] for entry in photos} == {"new"}


def test_faces_and_comparisons_are_written_when_asked_for(
    photo: NDArray[np.uint8], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = save(tmp_path / "in" / "a.png", photo)
    out = tmp_path / "out"
    common = ["run", source.parent, "-o", out, "--detector", "mtcnn", "--background", "lanczos"]
    assert call(*common, "--weights", make_checkpoint(), "--compare", "--save-faces") == 0
    comparison = pixels_of(out / "_compare" / "a.png.png")
    assert comparison.shape == (512, 512 + 8 + 512, 3)
    left = comparison[:, :512].astype(float)
    expected = cv2.resize(photo, (512, 512), interpolation=cv2.INTER_CUBIC).astype(float)
    assert np.abs(left - expected).max() <= 1
    assert size_of(out / "_faces" / "a.png" / "01-before.png") == (64, 64)
    assert size_of(out / "_faces" / "a.png" / "01-after.png") == (64, 64)


def test_ctrl_c_stops_within_seconds_with_130_and_leaves_no_partial_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    first = save(folder / "0.png", np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    for index in range(1, 400):
        (folder / f"{index}.png").write_bytes(first.read_bytes())
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "gfprestore", "run", folder, "-o", out, "--restorer", "none", "--background", "lanczos",
         "--upscale", "4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(out.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    written = list(out.glob("*.png"))
    assert process.returncode == 130, told
    assert 0 < len(written) < 400
    assert {entry.name for entry in out.iterdir()} == {".gfprestore.jsonl", *(path.name for path in written)}
    for path in written:
        assert pixels_of(path).shape == (1200, 1200, 3)
    assert "Interrupted. No output file is incomplete." in told


def test_version_and_help_need_neither_torch_nor_cv2() -> None:
    code = "import sys; from gfprestore.commands.app import main\n"
    code += "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'torch', 'cv2', 'numpy'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_weights_list_shows_every_released_file_with_its_license(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("weights", "list", "--json") == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["gfpgan-1.4"]["sha256"] == "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad"
    assert rows["real-esrgan-x4plus"]["license"].startswith("BSD-3-Clause")
    assert len(rows) == 21
    for name in ("compact-restorer", "frrffusion-compact", "compact-background"):
        assert rows[name]["state"] == "embedded"
        assert "Apache-2.0" in rows[name]["license"]
        assert Path(rows[name]["card"]).is_file()


def test_weights_path_and_verify_speak_of_the_folder_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("weights", "path", "parsenet", "--weights-dir", tmp_path) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "parsing_parsenet.pth")
    (tmp_path / "parsing_parsenet.pth").write_bytes(b"x" * 100)
    assert call("weights", "verify", "--weights-dir", tmp_path) == 3
    assert "parsing_parsenet.pth" in capsys.readouterr().err
    assert call("weights", "path", "parsnet") == 2


def test_doctor_tells_what_run_would_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["run restores faces with"].startswith("gfpgan-1.4 if it can be downloaded")
