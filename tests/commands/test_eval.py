"""The commands `eval` and `degrade`: JSON alone on stdout, exit codes, and both together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import DotFinder, make_set, marked_face, smooth
from safetensors.torch import save_file
from samples import save

from gfprestore.commands.app import main
from gfprestore.console import Reporter, StageProgress
from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.networks.configs import DiffusionUNetConfig, FRRffusionConfig, HATConfig, LevelEstimatorConfig
from gfprestore.networks.frrffusion import FRRffusion


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return int(leaving.value.code or 0)


def test_a_degraded_set_is_restored_scored_and_reported(
    tmp_path: Path, make_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save(tmp_path / "faces" / f"{number}.png", smooth(number, 48))
    assert call("degrade", tmp_path / "faces", "-o", tmp_path / "set", "--seed", 7, "--size", 32, "--json") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["made"], summary["failed"]) == (3, 0)

    code = call(
        "eval", "--set", tmp_path / "set", "--weights", make_checkpoint(size=32), "-o", tmp_path / "out",
        "--metrics", "psnr, ssim,fid", "--device", "cpu", "--offline", "--json",
    )  # fmt: skip
    printed = capsys.readouterr()
    document = json.loads(printed.out)  # one object and nothing else
    assert code == 0
    (entry,) = document["sets"]
    assert entry["count"] == 3 and entry["name"] == "set" and Path(entry["restored"]).is_dir()
    assert list(entry["scores"]) == ["psnr", "ssim", "fid"]
    assert entry["scores"]["psnr"]["value"] > 0 and entry["scores"]["psnr"]["reason"] is None
    assert entry["scores"]["fid"]["value"] is None and entry["scores"]["fid"]["reason"]
    assert all(score["protocol"] for score in entry["scores"].values())
    assert document["test_set"]["made_with"]["seed"] == 7
    whole = json.loads((tmp_path / "out/report.json").read_text())
    assert set(whole["test_set"]["degradation"]) == {"0", "1", "2"}
    assert {image["name"] for image in whole["sets"][0]["pictures"]} == {"0", "1", "2"}
    assert "PSNR" in printed.err and "report" in printed.err


def test_the_table_is_the_answer_on_stdout_without_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_set(tmp_path / "set", 2)
    code = call(
        "eval", "--restored", folder / "lq", "--gt", folder / "gt", "--metrics", "psnr", "-o", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0
    assert "42.11" in printed.out  # 20 log10(255 / 2)
    assert "checksum" in printed.err and "42.11" not in printed.err


def test_exit_codes_tell_what_kind_of_thing_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_set(tmp_path / "set", 2)
    out = ("-o", tmp_path / "out", "--device", "cpu", "--metrics", "psnr")
    assert call("eval", "--set", "nonsense", *out) == 2
    assert call("eval", "--set", folder, "--metrics", "nonsense", "-o", tmp_path / "out") == 2
    assert call("eval", "--set", "celeba-test", *out) == 4
    assert call("eval", "--set", folder, "--restorer", "gfpgan-1.4", "--offline", *out) == 3  # not here
    assert call("eval", "--set", folder, "--restored", folder / "lq", "-o", folder / "lq/0.png/out") == 4
    (tmp_path / "file").touch()
    assert call("eval", "--set", folder, "--restored", folder / "lq", "-o", tmp_path / "file/out") == 4
    capsys.readouterr()
    (folder / "lq/01.png").write_bytes(b"damaged")
    assert call("eval", "--set", folder, "--restored", folder / "lq", *out) == 1
    assert "01.png" in capsys.readouterr().err
    assert call("degrade", tmp_path / "nowhere", "-o", tmp_path / "new", "--seed", 1) == 4
    assert call("degrade", folder / "gt", "-o", tmp_path / "new", "--seed", 1, "--preset", "x") == 2
    assert call("degrade", folder / "lq", "-o", tmp_path / "new", "--seed", 1, "--size", 32) == 1


def test_stages_are_told_by_tenths_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress(Reporter()) as progress:
        for done in range(1, 1001):
            progress("score", done, 1000)
        progress("page", 1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "score [1/1000]" and lines[-2:] == ["score [1000/1000]", "page [1/2]"]
    assert len(lines) == 12


def make_pairs(tmp_path: Path, count: int = 2) -> Path:
    for number in range(count):
        save(tmp_path / "faces" / f"{number}.png", marked_face(number))
    retouch_folder(tmp_path / "faces", tmp_path / "pairs", RetouchOptions(1, keep_alignment=False), DotFinder())
    return tmp_path / "pairs"


def test_retouched_pairs_are_scored_beside_named_methods_and_shown_in_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pairs(tmp_path)
    common = ("--device", "cpu", "--offline", "--metrics", "psnr_capped,tone", "--constant-from", folder)
    code = call(
        "eval", "--set", "deepfrr", "--data", folder, "--restored", f"perfect={folder / 'gt'}", *common,
        "-o", tmp_path / "out", "--study", tmp_path / "study", "--json",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    document = json.loads(printed.out)
    methods = {entry["method"]: entry["scores"] for entry in document["sets"]}
    assert list(methods) == ["retouched", "constant inverse", "perfect"]
    assert methods["perfect"]["psnr_capped"]["value"] == 60 and methods["perfect"]["tone"]["value"] == 0
    constant, retouched = (methods[name]["psnr_capped"]["value"] for name in ("constant inverse", "retouched"))
    assert constant > retouched  # it was learned from these very pairs
    assert "SSIM +22 %" in printed.err and "no evidence" in printed.err and "give " in printed.err
    assert (tmp_path / "study/page/index.html").is_file()

    key = json.loads((tmp_path / "study/key.json").read_text())
    assert key["methods"] == ["retouched", "perfect"]
    votes = []
    for token, question in key["questions"].items():
        first, second = question["methods"]
        best = next(file for file, method in question["methods"].items() if method == "perfect")
        votes.append({"question": token, "left": first, "right": second, "chosen": best})
    ballot = {"format": "gfprestore-votes", "version": 1, "study": key["study"], "voter": "a", "votes": votes}
    (tmp_path / "a.json").write_text(json.dumps(ballot))
    assert call("eval", "--study", tmp_path / "study", "--votes", tmp_path / "a.json") == 0
    printed = capsys.readouterr()
    assert "2 votes of 1 voters" in printed.out and "100.0%" in printed.out
    assert call("eval", "--study", tmp_path / "study", "--votes", tmp_path / "a.json", "--json") == 0
    shares = {entry["name"]: entry["share"] for entry in json.loads(capsys.readouterr().out)["methods"]}
    assert shares == {"perfect": 1.0, "retouched": 0.0}
    (tmp_path / "a.json").write_text("{")
    assert call("eval", "--study", tmp_path / "study", "--votes", tmp_path / "a.json") == 2
    assert "a.json cannot be used" in capsys.readouterr().err


def test_images_of_any_set_can_be_shown_in_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_set(tmp_path / "set", 2)
    arguments = (
        "eval", "--restored", f"one={folder / 'lq'}", "--restored", f"two={folder / 'gt'}", "--gt", folder / "gt",
        "--metrics", "psnr", "--device", "cpu", "--study", tmp_path / "study",
    )  # fmt: skip
    assert call(*arguments, "-o", tmp_path / "out") == 0
    assert "one" in capsys.readouterr().out
    assert json.loads((tmp_path / "study/key.json").read_text())["methods"] == ["one", "two"]
    assert call(*arguments, "-o", tmp_path / "other") == 4  # before anything is computed
    assert not (tmp_path / "other").exists()


def test_options_of_one_kind_of_set_are_refused_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_checkpoint: Callable[..., Path]
) -> None:
    folder, pairs, weights = make_set(tmp_path / "set", 2), make_pairs(tmp_path, 1), make_checkpoint(size=32)
    out = ("-o", tmp_path / "out", "--device", "cpu", "--offline")
    deepfrr = ("eval", "--set", "deepfrr", "--data", pairs, *out)
    assert call("eval", "--set", folder, "--constant-from", pairs, *out) == 2
    assert call("eval", "--set", folder, "--weights", weights, "--weights", weights, *out) == 2
    assert call(*deepfrr, "--gt", folder / "gt") == 2
    assert call("eval", "--votes", tmp_path / "a.json") == 2
    capsys.readouterr()
    assert call(*deepfrr, "--weights", weights) == 3
    assert "does not reverse retouching" in capsys.readouterr().err
    assert call("eval", "--set", "deepfrr", "--data", tmp_path / "nowhere", *out) == 4


def test_a_network_of_retouching_reversal_is_evaluated_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fmar = DiffusionUNetConfig(
        size=32, channels=16, multipliers=(1, 2), blocks=1, attention=(), groups=8, prediction="x0", residual=True,
        prior_std=0.05, warp=True, levels=True,
    )  # fmt: skip
    hfdg = HATConfig(
        embed_dim=12, depths=(2,), heads=2, window_size=4, overlap_window_size=6, compress_ratio=3, squeeze_factor=3,
        features=8,
    )  # fmt: skip
    module = FRRffusion(FRRffusionConfig(fmar, LevelEstimatorConfig(channels=(8, 8)), hfdg))
    save_file(module.state_dict(), tmp_path / "tiny.safetensors")
    for number in range(2):
        save(tmp_path / "faces" / f"{number}.png", smooth(number, 300))
    pairs = tmp_path / "pairs"
    retouch_folder(tmp_path / "faces", pairs, RetouchOptions(1, keep_alignment=True))
    (pairs / "set.json").write_text("{}")  # as if aligned on the retouched face: no face is to be found
    code = call(
        "eval", "--set", "deepfrr", "--data", pairs, "--weights", tmp_path / "tiny.safetensors", "-o", tmp_path / "out",
        "--device", "cpu", "--offline", "--metrics", "psnr_capped,geometry", "--json",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    document = json.loads(printed.out)
    methods = {(entry["view"], entry["method"]): entry["scores"]["psnr_capped"]["value"] for entry in document["sets"]}
    assert ("crops-256", "tiny, levels given") in methods and ("crops-256", "tiny, levels estimated") in methods
    assert ("crops-full", "tiny, ceiling") in methods and ("crops-full", "tiny, levels given") in methods
    assert all(value is not None and value > 5 for value in methods.values())
    (untouched,) = document["untouched"]
    assert untouched["method"] == "tiny" and untouched["count"] == 2 and untouched["level_error"] > 0
