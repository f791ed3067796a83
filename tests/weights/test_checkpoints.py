"""Checkpoint files: safe reading, and recognition of the network, with files as the field writes them."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gfprestore.errors import (
    ExitCode,
    GfprestoreError,
    WeightsDamagedError,
    WeightsError,
    WeightsMismatchError,
    WeightsMissingError,
    WeightsUnsafeError,
)
from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.networks.stylegan2 import StyleGAN2Config, StyleGAN2Generator
from gfprestore.weights.checkpoints import load_network, load_state, network_from_state, read_metadata

STATE = {"first.weight": torch.arange(6.0).view(2, 3), "first.bias": torch.tensor([7.0, 8.0])}
OTHER = {name: tensor + 100 for name, tensor in STATE.items()}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def assert_is_state(state: dict[str, Tensor]) -> None:
    assert list(state) == list(STATE)
    for name, tensor in STATE.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"params_ema": STATE, "params": OTHER},
        {"params": STATE},
        {"state_dict": STATE, "epoch": 3},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"params_ema": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        {**STATE, "iteration": 3, "note": "text"},
    ],
    ids=["bare", "ordered", "params_ema", "params", "state_dict", "module", "both", "with numbers"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_every_layout_of_the_field_is_read(tmp_path: Path, content: Any, zipped: bool) -> None:
    path = saved(tmp_path / "net.pth", content, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    assert_is_state(load_state(path))


def test_a_prefix_of_some_names_only_is_part_of_them(tmp_path: Path) -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(load_state(saved(tmp_path / "net.pth", mixed))) == ["module.a", "b"]


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"], ids=["by suffix", "by content"])
def test_safetensors_are_read_with_what_they_say_about_themselves(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name, metadata={"network": "gfpgan", "<script>": "harmless"})
    state = load_state(tmp_path / name)
    assert sorted(state) == sorted(STATE)
    torch.testing.assert_close(state["first.weight"], STATE["first.weight"])
    assert read_metadata(tmp_path / name) == {"network": "gfpgan", "<script>": "harmless"}
    assert read_metadata(saved(tmp_path / "other.pth", STATE)) == {}


def test_a_missing_file_and_a_folder_are_missing_weights(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsMissingError, match=r"Specify a \.pth or \.safetensors file") as caught:
            load_state(path)
        assert caught.value.exit_code == ExitCode.WEIGHTS == 3
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"Just a text file.\n", "it is text"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100), "format is unknown"),
        (b"PK\x03\x04" + bytes(200), "truncated, damaged"),
        (b"\x80\x02" + bytes(200), "truncated, damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "truncated or not a .safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_told_as_what_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsDamagedError, match=told) as caught:
        load_state(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "older", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_damaged(tmp_path: Path, kind: str, share: float) -> None:
    whole = {"a.weight": torch.rand(64, 64), "b.weight": torch.rand(64, 64)}
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        save_file(whole, path)
    else:
        torch.save(whole, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsDamagedError):
        load_state(path)


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo sprung > '{self.target}'",)


def test_the_trap_springs_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("form", ["zip", "older", "plain 2", "plain 4", "beside tensors"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, target = tmp_path / "net.pth", tmp_path / "sprung"
    if form.startswith("plain"):
        path.write_bytes(pickle.dumps(Trap(target), protocol=int(form[-1])))
    elif form == "beside tensors":
        torch.save({"params": STATE, "extra": Trap(target)}, path)
    else:
        torch.save(Trap(target), path, _use_new_zipfile_serialization=form == "zip")
    for load in (load_state, load_network):
        with pytest.raises(WeightsUnsafeError, match="contains pickled Python code.* never run") as caught:
            load(path)
        assert form == "plain 4" or f"{os.system.__module__}.system" in str(caught.value)
        assert caught.value.exit_code == 3
    assert not target.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::DeprecationWarning")
def test_a_program_of_torch_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "net.pt"))
    with pytest.raises(WeightsUnsafeError, match="TorchScript program, which is never run"):
        load_state(tmp_path / "net.pt")


def test_harmless_objects_are_refused_with_their_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", {"params": STATE, "options": argparse.Namespace(lr=1)})
    with pytest.raises(WeightsUnsafeError, match=r"argparse\.Namespace.*safetensors"):
        load_state(path)


@pytest.mark.parametrize("content", [{"epoch": 3, "name": "x"}, [torch.ones(2)], torch.ones(2), {}, {"params": {}}])
def test_a_checkpoint_without_named_tensors_is_told(tmp_path: Path, content: Any) -> None:
    with pytest.raises(WeightsMismatchError, match="named tensors"):
        load_state(saved(tmp_path / "net.pth", content))


def whole_file() -> bytes:
    stream = io.BytesIO()
    torch.save({"params_ema": SRVGGNetCompact(SRVGGConfig(2, 4, 1)).state_dict()}, stream)
    return stream.getvalue()


@hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_no_damage_to_a_file_raises_anything_but_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(whole_file())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    try:
        load_network(path)
    except GfprestoreError as error:
        assert error.exit_code == 3


def clean(**changes: Any) -> GFPGAN:
    return GFPGAN(GFPGANConfig.from_widths("clean", **{"size": 64, "narrow": 0.0625, "style_dim": 32} | changes))


def paper(**changes: Any) -> GFPGAN:
    return GFPGAN(GFPGANConfig.from_widths("paper", **{"size": 64, "narrow": 0.0625, "style_dim": 32} | changes))


def randomized(module: nn.Module) -> nn.Module:
    """Every tensor of the state random, so that none can be right by its initial value."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return module.eval()


NETWORKS = [
    pytest.param(clean, "gfpgan-clean", "restorer", 64, id="clean"),
    pytest.param(paper, "gfpgan-paper", "restorer", 64, id="paper"),
    pytest.param(lambda: clean(size=128, channel_multiplier=1), "gfpgan-clean", "restorer", 128, id="clean 128"),
    pytest.param(lambda: RRDBNet(RRDBNetConfig(4, 8, 4, 2)), "rrdbnet-x4", "background", 12, id="rrdbnet x4"),
    pytest.param(lambda: RRDBNet(RRDBNetConfig(2, 8, 4, 1)), "rrdbnet-x2", "background", 12, id="rrdbnet x2"),
    pytest.param(lambda: SRVGGNetCompact(SRVGGConfig(4, 8, 3)), "srvgg-x4", "background", 12, id="srvgg"),
]


@pytest.mark.parametrize(("make", "name", "role", "size"), NETWORKS)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_network_is_recognized_and_computes_as_the_one_that_was_saved(
    tmp_path: Path, make: Any, name: str, role: Any, size: int, form: str
) -> None:
    original = randomized(make())
    path = tmp_path / f"nét 網.{form}"
    if form == "pth":
        torch.save({"params_ema": {f"module.{key}": tensor for key, tensor in original.state_dict().items()}}, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in original.state_dict().items()}, path, {"made": "here"})
    loaded = load_network(path, role)
    assert (loaded.name, loaded.role, loaded.path) == (name, role, path)
    assert loaded.config == original.config
    assert loaded.metadata == ({"made": "here"} if form == "safetensors" else {})
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    convolutions = [weight for weight in loaded.module.state_dict().values() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    lq = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(lq), original(lq), rtol=1e-4, atol=1e-4)


def test_half_precision_files_give_float32_networks(tmp_path: Path) -> None:
    original = randomized(SRVGGNetCompact(SRVGGConfig(4, 8, 3))).half()
    loaded = load_network(saved(tmp_path / "net.pth", original.state_dict()))
    assert {tensor.dtype for tensor in loaded.module.state_dict().values()} == {torch.float32}
    name = "body.0.weight"
    torch.testing.assert_close(loaded.module.state_dict()[name].half(), original.state_dict()[name], rtol=0, atol=0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the memory map of Linux")
def test_tensors_are_used_where_they_are_in_the_file_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    module = GFPGAN(GFPGANConfig.from_widths("clean", size=64, narrow=0.25, channel_multiplier=1))
    path = saved(tmp_path / "own.pth", {"params_ema": module.state_dict()})
    content = path.read_bytes()
    network = load_network(path).module
    mapped = [
        range(*(int(edge, 16) for edge in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    vectors = {name: item for name, item in network.named_parameters() if item.ndim != 4}
    in_file = [name for name, item in vectors.items() if any(item.data_ptr() in places for places in mapped)]
    assert len(in_file) == len(vectors) > 50
    with torch.no_grad():
        for item in network.parameters():
            item.fill_(3.0)
    assert path.read_bytes() == content


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", clean().state_dict())
    before = torch.get_rng_state()
    load_network(path)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = RRDBNet(RRDBNetConfig(4, 8, 4, 2)).state_dict()
    del state["conv_hr.bias"], state["conv_up1.weight"]
    state["conv_extra.weight"] = torch.ones(1)
    state["conv_up2.weight"] = torch.ones(8, 9, 3, 3)
    with pytest.raises(WeightsMismatchError) as caught:
        load_network(saved(tmp_path / "net.pth", state))
    text = str(caught.value)
    for part in (
        "does not fit RRDBNet",
        "2 tensors missing, first 'conv_up1.weight'",
        "1 unexpected, first 'conv_extra.weight'",
        "1 with the wrong shape, first 'conv_up2.weight' with (8, 9, 3, 3) instead of (8, 8, 3, 3)",
    ):
        assert part in text


@pytest.mark.parametrize("make", [clean, paper])
@pytest.mark.parametrize(
    "missing", ["final_linear.weight", "condition_shift.1.0.bias", "stylegan_decoder.noises.noise3"]
)
def test_a_gfpgan_without_one_tensor_is_still_told_as_gfpgan(tmp_path: Path, make: Any, missing: str) -> None:
    state = make().state_dict()
    del state[missing]
    with pytest.raises(WeightsMismatchError, match="GFP-GAN"):
        load_network(saved(tmp_path / "net.pth", state))


def test_a_background_network_is_no_restorer_and_the_other_way_round(tmp_path: Path) -> None:
    background = saved(tmp_path / "net.pth", RRDBNet(RRDBNetConfig(4, 8, 4, 1)).state_dict())
    with pytest.raises(WeightsMismatchError, match="is RRDBNet .*, a background network, not a face restorer"):
        load_network(background, "restorer")
    restorer = saved(tmp_path / "face.pth", clean().state_dict())
    with pytest.raises(WeightsMismatchError, match="is GFP-GAN, a face restorer, not a background network"):
        load_network(restorer, "background")


def test_an_unknown_network_is_told_with_its_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", STATE)
    with pytest.raises(
        WeightsMismatchError, match=r"does not belong to a supported network .*'first\.weight', 'first\.bias'"
    ):
        load_network(path)


@pytest.mark.parametrize("shape", [(0, 0, 3, 3), (4, 0, 3, 3), (1 << 20, 48, 1, 1), (3, 3, 3, 3), (8, 3, 3, 3)])
def test_senseless_shapes_are_a_mismatch(shape: tuple[int, ...]) -> None:
    first = torch.zeros(1).expand(shape)
    states = [
        {"conv_first.weight": first, "body.0.rdb1.conv1.weight": first, "conv_last.weight": torch.zeros(3, 8, 3, 3)},
        {"body.0.weight": first, "body.1.weight": torch.zeros(4), "body.2.weight": first},
        dict.fromkeys(clean().state_dict(), first),
        dict.fromkeys(paper().state_dict(), first),
    ]
    for state in states:
        with pytest.raises(WeightsMismatchError):
            network_from_state(state, Path("net.pth"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("retinaface", "a RetinaFace detector"),
        ("parsenet", "a ParseNet face parser"),
        ("bisenet", "a BiSeNet face parser"),
    ],
)
def test_the_official_detectors_and_parsers_are_named(tmp_path: Path, kind: str, told: str) -> None:
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    makers: dict[str, Any] = {
        "retinaface": lambda: RetinaFace(network_name="mobile0.25"),
        "parsenet": lambda: ParseNet(in_size=64, out_size=64, parsing_ch=19, base_ch=4),
        "bisenet": lambda: BiSeNet(19),
    }
    state = {f"module.{name}": tensor for name, tensor in makers[kind]().state_dict().items()}
    with pytest.raises(WeightsMismatchError, match=f"is {told}, not a face restorer"):
        load_network(saved(tmp_path / "net.pth", state), "restorer")


def test_the_official_discriminator_and_recognizer_are_named(tmp_path: Path, official: None) -> None:
    from basicsr.archs.stylegan2_arch import StyleGAN2Discriminator
    from gfpgan.archs.arcface_arch import ResNetArcFace

    for module, told in (
        (StyleGAN2Discriminator(32, narrow=0.0625), "a StyleGAN2 discriminator"),
        (ResNetArcFace("IRBlock", [1, 1, 1, 1], use_se=False), "an ArcFace recognizer"),
    ):
        path = saved(tmp_path / "net.pth", {"params_ema": module.state_dict()})
        with pytest.raises(WeightsMismatchError, match=f"is {told}, not a restorer, background network or prior"):
            load_network(path)


@pytest.mark.parametrize("layout", ["paper", "clean"])
def test_the_official_priors_own_file_is_recognized_and_is_not_a_restorer(
    tmp_path: Path, official: None, layout: str
) -> None:
    from basicsr.archs.stylegan2_arch import StyleGAN2Generator
    from gfpgan.archs.stylegan2_clean_arch import StyleGAN2GeneratorClean

    maker = StyleGAN2Generator if layout == "paper" else StyleGAN2GeneratorClean
    module = maker(64, num_style_feat=24, num_mlp=3, channel_multiplier=1, narrow=0.0625)
    path = saved(tmp_path / "prior.pth", {"params_ema": module.state_dict()})
    loaded = load_network(path, "prior")
    assert (loaded.name, loaded.role) == (f"stylegan2-{layout}", "prior")
    assert loaded.config == StyleGAN2Config(layout, (32, 32, 32, 32, 16), 24, 3)  # type: ignore[arg-type]
    assert loaded.config.size == 64
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in loaded.module.state_dict().items())
    with pytest.raises(WeightsMismatchError, match="is StyleGAN2, a face prior, not a face restorer"):
        load_network(path, "restorer")


def test_a_prior_that_lacks_its_style_network_does_not_fit(tmp_path: Path) -> None:
    state = StyleGAN2Generator((8, 8), 8, 2, "clean").state_dict()
    some = {name: tensor for name, tensor in state.items() if not name.startswith("style_mlp.1.")}
    with pytest.raises(WeightsMismatchError, match=r"does not fit StyleGAN2 .*tensors missing"):
        load_network(saved(tmp_path / "prior.pth", some), "prior")


def test_the_official_networks_own_files_are_recognized(tmp_path: Path, official: None) -> None:
    from basicsr.archs.rrdbnet_arch import RRDBNet as OfficialRRDBNet
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact as OfficialSRVGG

    torch.manual_seed(3)
    faces = GFPGANv1Clean(
        out_size=64, num_style_feat=32, narrow=0.0625, channel_multiplier=2, different_w=True, input_is_latent=True,
        sft_half=True, num_mlp=8,
    )  # fmt: skip
    for module, name in (
        (OfficialRRDBNet(3, 3, scale=2, num_feat=8, num_block=1, num_grow_ch=4), "rrdbnet-x2"),
        (OfficialSRVGG(num_feat=8, num_conv=2, upscale=4, act_type="prelu"), "srvgg-x4"),
        (faces, "gfpgan-clean"),
    ):
        loaded = load_network(saved(tmp_path / "net.pth", {"params": module.state_dict()}))
        assert loaded.name == name
        mine = loaded.module.state_dict()
        assert mine.keys() == module.state_dict().keys()
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(mine[key], tensor, rtol=0, atol=0)


def test_every_error_of_a_weights_file_ends_with_exit_code_3() -> None:
    kinds: list[type[GfprestoreError]] = [WeightsError]
    while kinds:
        kind = kinds.pop()
        assert kind.exit_code == 3
        kinds += kind.__subclasses__()
