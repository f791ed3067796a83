"""Faces drawn from a StyleGAN2 prior: what they show, the same bytes whatever the count and batch, resumable."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import pixels_of, save
from torch import Tensor

from gfprestore.data.sample_folder import SampleOptions, SampleReport, sample_folder
from gfprestore.data.sampled_faces import FacePrior
from gfprestore.errors import FolderError, UsageError, WeightsDamagedError
from gfprestore.networks.configs import Layout
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.weights.checkpoints import LoadedNetwork, load_network

CPU = torch.device("cpu")


def random_prior(path: Path, layout: Layout = "clean", seed: int = 1) -> LoadedNetwork:
    """A prior of 32 pixels with random weights, noise included."""
    torch.manual_seed(seed)
    generator = StyleGAN2Generator((16, 16, 16, 16), 32, 3, layout)
    for strength in generator.noise_strengths():
        torch.nn.init.constant_(strength, 0.3)
    torch.save({"params_ema": generator.state_dict()}, path)
    return load_network(path, "prior")


def plain_prior(path: Path, **biases: list[float]) -> LoadedNetwork:
    """A prior whose images are the sum of what `to_rgb1` and `to_rgbs.0` add, whatever z is."""
    generator = StyleGAN2Generator((4, 4), 8, 1, "clean")
    state = generator.state_dict()
    for name, tensor in state.items():
        if name.startswith("to_rgb") and name.endswith("modulated_conv.weight"):
            tensor.zero_()
    for name in ("to_rgb1", "to_rgbs.0"):
        state[f"{name}.bias"] = torch.tensor(biases[name.replace(".", "_")]).view(1, 3, 1, 1)
    torch.save(state, path)
    return load_network(path, "prior")


def sampled(prior: LoadedNetwork, output: Path, count: int = 3, seed: int = 7, **options: Any) -> SampleReport:
    return sample_folder(prior, output, SampleOptions(count, seed, **options), CPU)


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def normal(text: str, length: int) -> Tensor:
    """Gaussian numbers from the first 63 bits of the SHA-256 of a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.randn(1, length, generator=torch.Generator().manual_seed(seed))


def test_minus_one_is_black_one_is_white_and_colors_are_red_green_blue(tmp_path: Path) -> None:
    prior = plain_prior(tmp_path / "prior.pth", to_rgb1=[0.25, -0.5, 2.0], to_rgbs_0=[0.5, -1.5, 0.0])
    sampled(prior, tmp_path / "set", count=1)
    pixels = pixels_of(tmp_path / "set" / "000000.png")
    assert pixels.shape == (8, 8, 3)
    expected = [round((0.75 + 1) * 127.5), 0, 255]  # the sums are 0.75, -2 and 2; the last two are clipped
    assert (pixels.reshape(-1, 3) == expected).all()


@pytest.mark.parametrize("layout", ["paper", "clean"])
@pytest.mark.parametrize("truncation", [1.0, 0.6])
def test_faces_are_those_of_the_official_generator(
    layout: Layout, truncation: float, tmp_path: Path, official_layers: None
) -> None:
    from basicsr.archs.stylegan2_arch import StyleGAN2Generator as Paper
    from gfpgan.archs.stylegan2_clean_arch import StyleGAN2GeneratorClean as Clean

    prior = random_prior(tmp_path / "prior.pth", layout)
    sampled(prior, tmp_path / "set", truncation=truncation)
    maker = Paper if layout == "paper" else Clean
    official = maker(32, num_style_feat=32, num_mlp=3, channel_multiplier=1, narrow=1 / 32).eval()
    official.load_state_dict(torch.load(tmp_path / "prior.pth", weights_only=True)["params_ema"])
    with torch.no_grad():
        codes = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
        mean = official.style_mlp(codes).mean(0, keepdim=True)
        for index in range(3):
            random = torch.Generator().manual_seed(
                int.from_bytes(hashlib.sha256(f"7\0noise\0{index}".encode()).digest()[:8], "big") >> 1
            )
            noise = [torch.randn(1, 1, size, size, generator=random) for size in (4, 8, 8, 16, 16, 32, 32)]
            z = normal(f"7\0z\0{index}", 32)
            image = official([z], noise=noise, truncation=truncation, truncation_latent=mean)[0][0]
            expected = ((image.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
            assert expected.std() > 5
            assert np.abs(pixels_of(tmp_path / "set" / f"{index:06d}.png") - expected).max() < 0.51


def test_a_face_depends_on_seed_and_index_and_not_on_count_batch_or_threads(tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    sampled(prior, tmp_path / "all", count=7)
    faces = images(tmp_path / "all")
    assert list(faces) == [f"{index:06d}.png" for index in range(7)]
    assert len(set(faces.values())) == 7
    for name, options in {"few": {"count": 3}, "pairs": {"count": 5, "batch_size": 2}, "1": {"count": 1}}.items():
        sampled(prior, tmp_path / name, **options)
        made = images(tmp_path / name)
        assert made == {key: faces[key] for key in made} and len(made) == options["count"]
    sample_folder(prior, tmp_path / "one-thread", SampleOptions(7, 7), CPU, workers=1)
    assert images(tmp_path / "one-thread") == faces
    sampled(prior, tmp_path / "other", seed=8)
    assert not set(images(tmp_path / "other").values()) & set(faces.values())


def test_truncation_moves_faces_toward_the_mean_face(tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    for strength in prior.module.noise_strengths():  # type: ignore[operator]
        strength.zero_()
    drawn = {share: FacePrior(prior, CPU, share).draw(7, range(6)) for share in (0.0, 0.5, 1.0)}
    spread = {share: float(faces.std(dim=0).mean()) for share, faces in drawn.items()}
    assert spread[0.0] < 1e-6  # one face
    assert 0.01 < spread[0.5] < 0.8 * spread[1.0]
    assert torch.equal(drawn[1.0], FacePrior(prior, CPU).draw(7, range(6)))


def test_the_index_names_the_origin_of_each_face(tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    sampled(prior, tmp_path / "set", count=2, truncation=0.7)
    weights = hashlib.sha256((tmp_path / "prior.pth").read_bytes()).hexdigest()
    assert rows(tmp_path / "set") == [
        {
            "file": name,
            "index": str(index),
            "seed": "7",
            "truncation": "0.7",
            "weights_sha256": weights,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for index, (name, content) in enumerate(images(tmp_path / "set").items())
    ]
    description = json.loads((tmp_path / "set" / "set.json").read_text())
    assert (description["count"], description["size"], description["weights"]) == (2, 32, "prior.pth")


@pytest.mark.parametrize("size", [16, 64])
def test_another_size_averages_or_enlarges(size: int, tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    sampled(prior, tmp_path / "own", count=1)
    sampled(prior, tmp_path / "set", count=1, size=size)
    own, other = (pixels_of(tmp_path / name / "000000.png").astype(float) for name in ("own", "set"))
    assert other.shape == (size, size, 3)
    if size == 16:
        assert np.abs(own.reshape(16, 2, 16, 2, 3).mean((1, 3)) - other).max() <= 0.5
    else:
        assert np.abs(own - other.reshape(32, 2, 32, 2, 3).mean((1, 3))).mean() < 0.1 * own.std()


def test_a_set_is_resumed_repaired_and_extended(tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    sampled(prior, tmp_path / "whole", count=5)
    assert sampled(prior, tmp_path / "set", count=3) == SampleReport(3, 0)
    (tmp_path / "set" / "000001.png").write_bytes(b"changed")
    (tmp_path / "set" / "000002.png").unlink()
    with (tmp_path / "set" / "index.csv").open("ab") as stream:
        stream.write(b'000003.png,3,7,"1.')  # a killed run left an incomplete row
    assert sampled(prior, tmp_path / "set", count=3) == SampleReport(2, 1)
    assert sampled(prior, tmp_path / "set", count=5) == SampleReport(2, 3)
    assert sampled(prior, tmp_path / "set", count=2) == SampleReport(0, 2)  # the others stay
    for name in ("index.csv", "set.json"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert images(tmp_path / "set") == images(tmp_path / "whole")


def test_a_set_with_other_options_or_other_images_is_left_alone(tmp_path: Path) -> None:
    prior = random_prior(tmp_path / "prior.pth")
    sampled(prior, tmp_path / "set")
    before = images(tmp_path / "set")
    with pytest.raises(FolderError, match="another seed"):
        sampled(prior, tmp_path / "set", seed=8)
    with pytest.raises(FolderError, match="another truncation"):
        sampled(prior, tmp_path / "set", truncation=0.5)
    with pytest.raises(FolderError, match="another weights_sha256"):
        sampled(random_prior(tmp_path / "other.pth", seed=2), tmp_path / "set")
    assert images(tmp_path / "set") == before
    save(tmp_path / "photos" / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FolderError, match="holds images that this command did not create"):
        sampled(prior, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").glob("*.*") if not path.name.startswith(".")] == ["a.png"]


def test_a_prior_that_diverged_is_an_error(tmp_path: Path) -> None:
    bias = [float("nan"), 0.0, 0.0]
    prior = plain_prior(tmp_path / "prior.pth", to_rgb1=bias, to_rgbs_0=bias)
    with pytest.raises(WeightsDamagedError, match=r"prior\.pth draws NaN or infinite values"):
        sampled(prior, tmp_path / "set")


def test_memory_that_runs_out_makes_the_batch_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = FacePrior(random_prior(tmp_path / "prior.pth"), CPU)
    assert prior.most_at_once == 1  # on a CPU
    expected = prior.draw(7, range(5))
    sizes: list[int] = []

    def synthesized(self: FacePrior, seed: int, indices: range) -> Tensor:
        sizes.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, seed, indices)

    original = FacePrior._synthesized
    monkeypatch.setattr(FacePrior, "_synthesized", synthesized)
    monkeypatch.setattr(prior, "most_at_once", 8)
    assert torch.allclose(prior.draw(7, range(5)), expected, atol=1e-5)
    assert sizes == [5, 3, 2, 2, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "--count must be 1 or more, not 0"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"truncation": 1.5}, "--truncation must be 0 to 1"),
        ({"truncation": float("nan")}, "--truncation must be 0 to 1"),
        ({"size": 8}, "--size must be 16 or more"),
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SampleOptions(**{"count": 1, "seed": 1, **options})
