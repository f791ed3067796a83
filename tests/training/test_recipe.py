"""The recipes: trained parameters, losses in use, initial weights and exported files."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from doubles import logged, make_faces, none_but, tiny_config
from safetensors.torch import save_file
from samples import pixels_of, save
from torch import Tensor, nn

from gfprestore.commands.app import main
from gfprestore.data.face_dataset import collate
from gfprestore.errors import ExitCode, WeightsDamagedError, WeightsMismatchError, WeightsMissingError
from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.discriminators import StyleGAN2Discriminator
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.config import TrainConfig, TrainSettings, make_config
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.initial_weights import (
    COMPONENTS_NAME,
    DISCRIMINATOR_NAME,
    InitialWeights,
    open_initial_weights,
)
from gfprestore.training.loss_networks import LossNetworks, open_loss_networks
from gfprestore.training.losses import COMPONENTS
from gfprestore.training.optimizers import update_average
from gfprestore.training.overrides import ablated
from gfprestore.training.plan import memory_needed, plan
from gfprestore.training.presets import Stage
from gfprestore.training.prior import PriorRecipe
from gfprestore.training.progressive_growing import grown_discriminator
from gfprestore.training.recipe import Batch
from gfprestore.training.train import open_data, train
from gfprestore.weights.checkpoints import load_network, load_state, read_metadata
from gfprestore.weights.store import WeightsStore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("recipe") / "faces")


def recipe_of(config: TrainConfig, **options: Any) -> RestorationRecipe:
    return RestorationRecipe(config, open_initial_weights(config, WeightsStore()), LossNetworks(), CPU, **options)


def batch_of(config: TrainConfig, count: int = 2, first: int = 0) -> Batch:
    dataset = open_data(config)
    places = range(first, first + count)
    return Batch(collate([dataset[place] for place in places]), list(places))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def restorer_state(**options: Any) -> dict[str, Tensor]:
    sizes = {"size": 32, "narrow": 1 / 32, "channel_multiplier": 1, "style_dim": 32, "mlp_layers": 2, **options}
    return GFPGAN(GFPGANConfig.from_widths("clean", **sizes)).state_dict()


def test_the_reconstruction_loss_falls_by_half(data: Path, tmp_path: Path) -> None:
    losses = {"reconstruction": 1.0, "pyramid": 1.0}
    config = tiny_config(
        data, tmp_path, losses=losses, narrow=1 / 8, batch_size=6, learning_rate=3e-3, steps=50, log_every=1
    )
    train(config)
    log = [json.loads(line)["reconstruction"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(log[-5:]) / 5 < 0.5 * log[0]


def test_a_trained_restorer_loads_and_restores_as_the_moving_average_does(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, steps=2)
    report = train(config)
    assert report.weights == tmp_path / "restorer.safetensors"
    loaded = load_network(report.weights, "restorer")
    assert loaded.name == "gfpgan-clean"
    average = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["recipe"]["average"]
    reference = GFPGAN(config.preset.network())
    reference.load_state_dict(average)
    lq = batch_of(config).sample.lq
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(lq), reference(lq))
    metadata = read_metadata(report.weights)
    assert (metadata["size"], metadata["channels"], metadata["step"]) == ("32", "[16, 16, 16, 16]", "2")
    assert all(tensor.is_contiguous() for tensor in load_state(report.weights).values())


def test_run_takes_a_trained_restorer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = train(tiny_config(data, tmp_path / "trained", steps=1))
    crop = pixels_of(data / "00.png")
    source = save(tmp_path / "crops" / "face.png", crop)
    options = ["--weights", str(report.weights), "--aligned", "--background", "none", "--json"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["run", str(source), "-o", str(tmp_path / "out"), *options])
    assert exit_info.value.code in (0, None)
    result = json.loads(capsys.readouterr().out.splitlines()[0])
    network = load_network(report.weights).module
    with torch.no_grad():
        expected = network(torch.from_numpy(crop).permute(2, 0, 1).float().div(127.5).sub(1)[None])[0].clamp(-1, 1)
    levels = (expected.permute(1, 2, 0).numpy() + 1) * 127.5
    assert abs(pixels_of(result["output"]) - levels).max() <= 1
    assert levels.std() > 5


def test_the_paper_freezes_the_prior_and_trains_the_rest(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, "paper", start="nothing")
    recipe = recipe_of(config)
    before = snapshot(recipe.generator)
    recipe.step([batch_of(config)], 1, 1.0)
    moved = changed(recipe.generator, before)
    learning = {name for name in before if not name.startswith("stylegan_decoder.")}
    assert moved == learning


def test_without_a_prior_the_decoder_learns_too(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, "paper")
    config = replace(config, preset=ablated(config.preset, "no-prior"))
    recipe = recipe_of(config)
    before = snapshot(recipe.generator)
    recipe.step([batch_of(config)], 1, 1.0)
    moved = {name for name in changed(recipe.generator, before) if name.startswith("stylegan_decoder.")}
    still = {name for name in before if name.startswith("stylegan_decoder.")} - moved
    assert {name.split(".")[1] for name in still} == {"style_mlp", "noises"}


def test_the_discriminators_learn_first_where_the_preset_says_so(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, discriminator_warmup=2)
    recipe = recipe_of(config)
    for step, learns in ((1, False), (2, False), (3, True)):
        before = [snapshot(module) for module in (recipe.generator, recipe.average, recipe.discriminator)]
        recipe.step([batch_of(config)], step, 1.0)
        assert bool(changed(recipe.generator, before[0])) is learns
        assert bool(changed(recipe.average, before[1])) is learns
        assert changed(recipe.discriminator, before[2])


def test_the_penalty_comes_every_so_many_steps_and_the_rates_fit(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, r1_every=3)
    recipe = recipe_of(config)
    penalties = [recipe.step([batch_of(config)], step, 1.0)["r1"].item() for step in range(1, 8)]
    assert penalties[:2] == [0.0, 0.0]
    assert penalties[2] == penalties[3] == penalties[4] > 0
    assert penalties[5] == penalties[6] != penalties[4]
    group = recipe.optimizers.optimizers["discriminator"].param_groups[0]
    assert group["lr"] == pytest.approx(config.preset.discriminator_learning_rate * 3 / 4)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (3 / 4)))
    assert recipe.optimizers.optimizers["components"].param_groups[0]["betas"] == (0.9, 0.99)


def test_the_pyramid_loss_ends_when_the_preset_says_so(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0, "pyramid": 1.0}, pyramid_until=2)
    recipe = recipe_of(config)
    named = [set(recipe.step([batch_of(config)], step, 1.0)) for step in (2, 3)]
    assert named == [{"reconstruction", "pyramid"}, {"reconstruction"}]


def test_rates_are_halved_by_milestones_and_by_the_loops_scale(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, milestones=(2, 3), learning_rate=8e-3)
    recipe = recipe_of(config)
    rates = []
    for step in (2, 3, 4):
        recipe.step([batch_of(config)], step, 0.5)
        rates.append(recipe.learning_rate())
    assert rates == pytest.approx([4e-3, 2e-3, 1e-3])


def test_parts_of_a_batch_add_up_to_the_whole(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0, "pyramid": 1.0, "components": 1.0})
    whole, parted = recipe_of(config), recipe_of(config)
    first = whole.step([batch_of(config, 4)], 1, 1.0)
    second = parted.step([batch_of(config, 2), batch_of(config, 2, first=2)], 1, 1.0)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-6)
    gradients = [
        torch.cat([item.grad.flatten() for item in recipe.generator.parameters() if item.grad is not None])
        for recipe in (whole, parted)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_steps_of_the_paper_are_those_of_the_official_classes(official: None) -> None:
    """With all losses, five networks and their optimizers: any difference changes the loss of the next step."""
    benchmark = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_training.py"
    spec = importlib.util.spec_from_file_location("bench_training", benchmark)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    vgg = torchvision.models.vgg19(weights=None, init_weights=False)
    step_of_official = bench.OfficialStep(64, vgg, narrow=1 / 16)
    recipe = bench.our_recipe(step_of_official, vgg, torch.float32)
    batch = bench.faces(64, 2)  # patches of 10 and 15 pixels: no size is rounded
    lq, gt, boxes = batch.sample.lq.contiguous(), batch.sample.gt.contiguous(), batch.sample.boxes
    for step, tolerance in ((1, 1e-5), (16, 1e-3), (17, 1e-2)):  # the penalty comes at 16; Adam enlarges differences
        expected = step_of_official(lq, gt, boxes - 0.5, step == 16)  # theirs counts from a pixel's center
        losses = recipe.step([batch], step, 1.0)
        assert float(recipe.weighted(losses)) == pytest.approx(expected, rel=tolerance), step


def test_the_generator_is_pushed_by_the_weighted_sum_of_its_losses(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 0.5, "pyramid": 2.0, "adversarial": 0.25})
    recipe = recipe_of(config)
    batch = batch_of(config)
    restored, pyramid = recipe.generator(batch.sample.lq, batch.seeds, return_pyramid=True)
    gt = batch.sample.gt
    total = 0.5 * (restored - gt).abs().mean()
    total = total + 0.25 * torch.log1p(torch.exp(-recipe.discriminator(restored))).mean()
    for image in pyramid:
        smaller = nn.functional.interpolate(gt, size=image.shape[2:], mode="bilinear", antialias=False)
        if image.shape[2] == 8:  # halved twice, which is not quartered
            smaller = nn.functional.avg_pool2d(gt, 4)
        total = total + 2.0 * (image - smaller).abs().mean()
    expected = torch.autograd.grad(total, recipe.generator.final_linear.weight)[0]
    recipe.optimizers.apply = lambda name, factor, limit=None: None  # type: ignore[method-assign]
    recipe.step([batch], 1, 1.0)
    torch.testing.assert_close(recipe.generator.final_linear.weight.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("ablation", "terms"),
    [
        ("no-components", set()),
        ("component-discriminator-only", {"components", "component-discriminator"}),
        ("feature-matching", {"components", "component-matching", "component-discriminator"}),
        ("feature-style", {"components", "component-style", "component-discriminator"}),
    ],
)
def test_the_ablations_of_the_component_loss_compute_what_they_say(
    ablation: str, terms: set[str], data: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, tmp_path)
    config = replace(config, preset=ablated(config.preset, ablation))
    values = recipe_of(config).step([batch_of(config)], 1, 1.0)
    assert {name for name in values if "component" in name} == terms
    assert all(value.isfinite() for value in values.values())


@pytest.mark.parametrize(("ablation", "scales"), [("no-spatial-modulation", 0), ("plain-sft", 16)])
def test_the_ablations_of_the_modulation_train_and_load(ablation: str, scales: int, data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, steps=1)
    report = train(replace(config, preset=ablated(config.preset, ablation), ablation=ablation))
    state = load_state(report.weights)
    assert state.get("condition_scale.0.2.weight", torch.empty(0)).shape[0] == scales
    assert load_network(report.weights).config.modulation == {0: "none", 16: "all"}[scales]
    assert read_metadata(report.weights)["ablation"] == ablation


def test_unknown_boxes_leave_a_face_out_of_the_component_losses(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"components": 1.0, "component_style": 200.0})
    recipe = recipe_of(config)
    batch = batch_of(config)
    batch.sample.boxes[:] = math.nan
    values = recipe.step([batch], 1, 1.0)
    assert values["components"] == values["component-style"] == values["component-discriminator"] == 0
    assert recipe.is_finite()


def test_bfloat16_trains_near_float32(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path)
    full, half = recipe_of(config), recipe_of(config, dtype=torch.bfloat16)
    for step in (1, 2):
        ours, theirs = (recipe.step([batch_of(config)], step, 1.0) for recipe in (half, full))
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    assert half.is_finite()
    assert {parameter.dtype for parameter in half.generator.parameters()} == {torch.float32}


def test_the_moving_average_has_the_papers_decay_once_it_is_long_enough() -> None:
    average, module = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for step, share in ((1, 10 / 11), (90, 0.1), (10**6, 1 - 0.5 ** (32 / 10_000))):
        with torch.no_grad():
            average.weight.fill_(0.0)
            module.weight.fill_(1.0)
        update_average(average, module, step, 10_000 / 32)
        assert average.weight.item() == pytest.approx(share, rel=1e-4)


def test_a_prior_goes_into_the_decoder_and_stays_there(data: Path, tmp_path: Path) -> None:
    prior_config = replace(tiny_config(data, tmp_path / "prior", "paper", steps=2), stage="prior")
    report = train(prior_config)
    assert report.weights.name == "prior.safetensors"
    messages: list[str] = []
    config = tiny_config(data, tmp_path / "restorer", "paper", steps=2, weights=report.weights)
    with logged(messages):
        restorer = load_state(train(config).weights)
    discriminator = tmp_path / "prior" / "discriminator.safetensors"
    assert f"Starting from the prior {report.weights} with the discriminator {discriminator}." in messages
    for name, tensor in load_state(report.weights).items():
        assert torch.equal(restorer[f"stylegan_decoder.{name}"], tensor), name


def test_a_prior_learns_by_its_own_losses(data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(data, tmp_path, "paper", r1_every=2, path_every=2), stage="prior")
    recipe = PriorRecipe(config, InitialWeights(config.preset.network(), {}), CPU)
    before = snapshot(recipe.generator)
    values = [recipe.step([batch_of(config)], step, 1.0) for step in (1, 2)]
    assert set(values[0]) == {"discriminator", "adversarial", "r1", "path"}
    assert values[0]["r1"] == values[0]["path"] == 0
    assert values[1]["r1"] > 0 and values[1]["path"] > 0
    assert recipe.mean_path_length > 0
    still = set(before) - changed(recipe.generator, before)
    assert {name.split(".")[0] for name in still} == {"noises"}
    lazy = config.preset.path_every / (config.preset.path_every + 1)
    assert recipe.learning_rate() == pytest.approx(config.preset.learning_rate * lazy)


def small_prior(data: Path, output: Path, **options: Any) -> Path:
    config = tiny_config(data, output, **{"size": 16, "steps": 2, "milestones": (), **options})
    return train(replace(config, stage="prior")).weights


def test_a_prior_grows_and_its_discriminator_with_it(data: Path, tmp_path: Path) -> None:
    small = small_prior(data, tmp_path / "small")
    config = replace(tiny_config(data, tmp_path / "large", weights=small), stage="prior")
    recipe = PriorRecipe(config, open_initial_weights(config, WeightsStore()), CPU)
    smaller = StyleGAN2Generator((16, 16, 16), 32, 2, "clean")
    smaller.load_state_dict(load_state(small))
    latents = recipe.generator.latents(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        image = recipe.generator(latents)
        enlarged = torch.nn.functional.interpolate(
            smaller(latents[:, :-2]), scale_factor=2, mode="bilinear", align_corners=False
        )
    assert image.shape == (3, 3, 32, 32)
    torch.testing.assert_close(image, enlarged)
    before = snapshot(recipe.generator)
    recipe.step([batch_of(config)], 1, 1.0)
    assert "to_rgbs.2.modulated_conv.weight" in changed(recipe.generator, before)


@pytest.mark.parametrize(
    ("channels", "tolerance"), [((16, 16, 16, 16, 16), 1e-3), ((16, 16, 16, 32, 24), 1e-3), ((64, 64, 64, 32, 16), 0.1)]
)
def test_a_grown_discriminator_says_of_an_image_what_it_said_of_the_small_one(
    channels: tuple[int, ...], tolerance: float
) -> None:
    torch.manual_seed(4)
    small, large = StyleGAN2Discriminator(channels[:3]), StyleGAN2Discriminator(channels)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            parameter += 0.3 * torch.randn_like(parameter) if name.endswith("bias") else 0
        large.load_state_dict(grown_discriminator(small.state_dict(), large))
        tiny = torch.rand(6, 3, 4, 4) * 2 - 1
        side = 4 << (len(channels) - 1)
        before, after = (
            network(torch.nn.functional.interpolate(tiny, size=(size, size), mode="bilinear", align_corners=True))
            for network, size in ((small, 16), (large, side))
        )
        flat = torch.tensor([0.4, -0.2, 0.7]).view(1, 3, 1, 1)
        taken_in = small.conv_body[0](flat.expand(1, 3, 16, 16))
        passed_on = large.conv_body[: len(channels) - 2](flat.expand(1, 3, side, side))
    assert passed_on.shape == taken_in.shape
    inside = (taken_in - passed_on)[:, :, 4:12, 4:12].abs().max()  # off the rims, where filters see zeros
    assert inside < tolerance * taken_in.abs().max()
    correlation = torch.corrcoef(torch.cat([before, after], dim=1).T)[0, 1]
    assert correlation > 0.9
    kept = large.state_dict()
    for name, tensor in small.state_dict().items():
        if not name.startswith("conv_body"):
            assert torch.equal(kept[name], tensor)


def test_a_discriminator_of_half_precision_grows_too() -> None:
    channels = (16, 16, 16, 16)
    small, large = StyleGAN2Discriminator(channels[:3]), StyleGAN2Discriminator(channels)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    logits = []
    for dtype in (torch.float32, torch.float16):
        torch.manual_seed(1)
        large.load_state_dict(grown_discriminator({n: t.to(dtype) for n, t in small.state_dict().items()}, large))
        with torch.no_grad():
            logits.append(large(images))
    torch.testing.assert_close(logits[1], logits[0], rtol=0.02, atol=0.02)


def test_a_trained_decoder_may_start_from_a_smaller_prior(data: Path, tmp_path: Path) -> None:
    small = small_prior(data, tmp_path / "small")
    recipe = recipe_of(tiny_config(data, tmp_path / "out", weights=small))
    decoder = recipe.generator.stylegan_decoder.state_dict()
    for name, tensor in load_state(small).items():
        assert torch.equal(decoder[name], tensor), name
    discriminator = load_state(small.with_name("discriminator.safetensors"))
    assert torch.equal(
        recipe.discriminator.state_dict()["final_linear.1.weight"], discriminator["final_linear.1.weight"]
    )
    frozen = tiny_config(data, tmp_path / "frozen", weights=small, train_decoder=False)
    with pytest.raises(WeightsMismatchError, match=r"prior of 16 .*at 32.*--stage prior --size 32 --weights"):
        open_initial_weights(frozen, WeightsStore())


@pytest.mark.parametrize("size", [16, 32])
def test_a_prior_goes_into_a_restorer(size: int, data: Path, tmp_path: Path) -> None:
    prior = small_prior(data, tmp_path / "small", size=size)
    restorer = tmp_path / "restorer.pth"
    before = restorer_state()
    torch.save({"params_ema": before}, restorer)
    config = replace(tiny_config(data, tmp_path / "out", weights=restorer), prior=prior)
    recipe = recipe_of(config)
    after, seated = recipe.generator.state_dict(), load_state(prior)
    changed_names = {name for name in after if not torch.equal(after[name], before[name])}
    decoder = {f"stylegan_decoder.{name}" for name in seated}
    same = {name for name in decoder if torch.equal(seated[name.removeprefix("stylegan_decoder.")], before[name])}
    assert changed_names == decoder - same | {"final_linear.weight", "final_linear.bias"}
    for name in decoder:
        assert torch.equal(after[name], seated[name.removeprefix("stylegan_decoder.")]), name
    codes = {16: 5, 32: 8}[size]  # the sixth code of a prior of 16 pixels is that of the next scale as well
    generator = StyleGAN2Generator((16,) * (size.bit_length() - 2), 32, 2, "clean")
    generator.load_state_dict(seated)
    mean = generator.mean_latent(20_000)[0]
    new, old = (state["final_linear.bias"].view(-1, 32) for state in (after, before))
    assert (new[:codes] - mean).abs().max() < 0.2 * mean.std()
    assert torch.equal(new[codes:], old[codes:])
    weight, old_weight = (state["final_linear.weight"].view(8, -1) for state in (after, before))
    torch.testing.assert_close(weight[:codes], 0.1 * old_weight[:codes])
    assert torch.equal(weight[codes:], old_weight[codes:])
    discriminator = load_state(prior.with_name("discriminator.safetensors"))
    assert torch.equal(
        recipe.discriminator.state_dict()["final_linear.1.weight"], discriminator["final_linear.1.weight"]
    )
    start = f"the restorer {restorer} with the prior {prior} and the discriminator {prior.parent}"
    assert dict(plan(config))["start"].startswith(start)


def test_a_training_can_start_from_a_prior_alone(data: Path, tmp_path: Path) -> None:
    prior = small_prior(data, tmp_path / "small", size=32)
    for preset in ("paper", "compact"):
        start = open_initial_weights(replace(tiny_config(data, tmp_path / "out", preset), prior=prior), WeightsStore())
        assert (start.kind, start.path, start.prior_path) == ("prior", prior, None)


def test_a_prior_that_does_not_fit_the_restorer_is_an_error(data: Path, tmp_path: Path) -> None:
    prior = small_prior(data, tmp_path / "small")
    config = tiny_config(data, tmp_path / "out", weights=prior)
    with pytest.raises(WeightsMismatchError, match=r"prior\.safetensors is not a GFP-GAN, .*Omit --weights or --prior"):
        open_initial_weights(replace(config, prior=prior), WeightsStore())
    restorer = tmp_path / "restorer.pth"
    torch.save({"params_ema": restorer_state()}, restorer)
    config = tiny_config(data, tmp_path / "out", weights=restorer)
    with pytest.raises(WeightsMismatchError, match=r"restorer\.pth is not a StyleGAN2 prior, so it cannot be"):
        open_initial_weights(replace(config, weights=None, prior=restorer), WeightsStore())
    other = small_prior(data, tmp_path / "other", narrow=1 / 16)
    with pytest.raises(WeightsMismatchError, match=r"does not fit the decoder of this restorer.*size mismatch"):
        recipe_of(replace(config, prior=other))


def test_a_larger_prior_than_the_training_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({"params_ema": StyleGAN2Generator((16,) * 5, 32, 2, "clean").state_dict()}, path)
    config = replace(tiny_config(data, tmp_path / "out", weights=path), stage="prior")
    with pytest.raises(WeightsMismatchError, match=r"prior of 64 pixels, .* at 32. Use --size 64\.$"):
        open_initial_weights(config, WeightsStore())


def test_a_discriminator_that_does_not_fit_is_an_error(data: Path, tmp_path: Path) -> None:
    small = small_prior(data, tmp_path / "small")
    other = small_prior(data, tmp_path / "other", narrow=1 / 16)
    small.with_name("discriminator.safetensors").write_bytes(other.with_name("discriminator.safetensors").read_bytes())
    with pytest.raises(WeightsMismatchError, match=r"discriminator\.safetensors does not fit the discrim.*Move"):
        recipe_of(tiny_config(data, tmp_path / "out", weights=small))


@pytest.mark.parametrize("state", [{"weight": torch.zeros(1)}, {"conv_body.0.0.weight": torch.zeros(8, 1)}])
def test_another_file_with_the_name_of_the_discriminator_is_an_error(
    state: dict[str, Tensor], data: Path, tmp_path: Path
) -> None:
    small = small_prior(data, tmp_path / "small")
    save_file(state, small.with_name("discriminator.safetensors"))
    with pytest.raises(WeightsMismatchError, match=r"discriminator\.safetensors does not fit the discrim.*Move"):
        recipe_of(tiny_config(data, tmp_path / "out", weights=small))


def test_while_the_discriminator_warms_up_the_prior_stands_still(data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(data, tmp_path, discriminator_warmup=1), stage="prior")
    recipe = PriorRecipe(config, InitialWeights(config.preset.network(), {}), CPU)
    generator, average, discriminator = map(snapshot, (recipe.generator, recipe.average, recipe.discriminator))
    values = recipe.step([batch_of(config)], 1, 1.0)
    assert "adversarial" not in values and values["discriminator"] > 0
    assert not changed(recipe.generator, generator) and not changed(recipe.average, average)
    assert changed(recipe.discriminator, discriminator)
    assert "adversarial" in recipe.step([batch_of(config)], 2, 1.0)
    assert changed(recipe.generator, generator) and changed(recipe.average, average)


def test_a_prior_without_noise_never_learns_to_add_any(data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(data, tmp_path, decoder_noise=False), stage="prior")
    recipe = PriorRecipe(config, InitialWeights(config.preset.network(), {}), CPU)
    recipe.step([batch_of(config)], 1, 1.0)
    assert [strength.item() for strength in recipe.generator.noise_strengths()] == [0.0] * 7
    latents = recipe.generator.latents(torch.zeros(1, 32))
    with torch.no_grad():
        first, second = (recipe.generator(latents, recipe.generator.seeded_noise([seed])) for seed in (1, 2))
    assert torch.equal(first, second)


def test_a_prior_without_path_length_never_measures_it(data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(data, tmp_path, path_every=1, path_weight=0.0), stage="prior")
    recipe = PriorRecipe(config, InitialWeights(config.preset.network(), {}), CPU)
    assert recipe.step([batch_of(config)], 1, 1.0)["path"] == 0
    assert recipe.mean_path_length == 0
    assert recipe.learning_rate() == config.preset.learning_rate


def test_a_prior_sees_the_faces_and_no_degraded_ones(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path)
    whole, prior = (batch_of(replace(config, stage=stage)).sample for stage in ("restoration", "prior"))
    assert torch.equal(prior.lq, prior.gt) and torch.equal(prior.gt, whole.gt)
    assert not torch.equal(whole.lq, whole.gt)


def test_mixed_styles_change_over_once_and_belong_to_the_image(data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(data, tmp_path, "paper"), stage="prior")
    recipe = PriorRecipe(config, InitialWeights(config.preset.network(), {}), CPU)
    with torch.no_grad():
        images, latents = recipe._generate(recipe.generator, list(range(8)), mixing=1.0)
        alone, _ = recipe._generate(recipe.generator, [5], mixing=1.0)
        _, unmixed = recipe._generate(recipe.generator, list(range(8)), mixing=0.0)
    jumps = (latents[:, 1:] != latents[:, :-1]).any(2).sum(1)
    assert jumps.tolist() == [1] * 8
    assert (unmixed[:, 1:] == unmixed[:, :-1]).all()
    torch.testing.assert_close(alone[0], images[5], rtol=1e-4, atol=1e-4)


def test_a_whole_restorer_decides_the_sizes_and_is_gone_on_from(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    state = restorer_state(narrow=1 / 16, input_share=0.25, color_radius=2)
    torch.save({"params_ema": state}, path)
    config = tiny_config(data, tmp_path / "out", "finetune", weights=path)
    start = open_initial_weights(config, WeightsStore())
    assert (start.kind, start.network.channels) == ("restorer", (32, 32, 32, 32))
    assert (start.network.input_share, start.network.color_radius) == (0.25, 2)
    recipe = RestorationRecipe(config, start, LossNetworks(), CPU)
    assert changed(recipe.generator, dict(state)) == set()


def test_a_restorer_is_trained_further_with_the_discriminator_beside_it(data: Path, tmp_path: Path) -> None:
    torch.save({"params_ema": restorer_state()}, tmp_path / "own.pth")
    config = tiny_config(data, tmp_path / "out", weights=tmp_path / "own.pth")
    discriminator = StyleGAN2Discriminator(config.preset.discriminator_channels()).state_dict()
    save_file({name: tensor.clone() for name, tensor in discriminator.items()}, tmp_path / "discriminator.safetensors")
    start = open_initial_weights(config, WeightsStore())
    assert str(start) == f"the restorer {tmp_path / 'own.pth'} with the discriminator {start.discriminator_path}"
    recipe = recipe_of(config)
    assert changed(recipe.discriminator, discriminator) == set() and discriminator
    assert open_initial_weights(replace(config, stage="prior"), WeightsStore()).discriminator_path is None


def test_a_trained_restorer_is_trained_further_with_its_own_discriminators(data: Path, tmp_path: Path) -> None:
    losses = {"reconstruction": 1.0, "adversarial": 0.1, "components": 0.1}
    first = tiny_config(data, tmp_path / "first", losses=losses, steps=2)
    weights = train(first).weights
    trained = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["recipe"]
    config = tiny_config(data, tmp_path / "second", losses=losses, weights=weights)
    whole, parts = (weights.with_name(name) for name in (DISCRIMINATOR_NAME, COMPONENTS_NAME))
    row = f"the restorer {weights} with the discriminator {whole} and the discriminators of eyes and mouth {parts}"
    assert str(open_initial_weights(config, WeightsStore())) == row
    recipe = recipe_of(config)
    assert trained["discriminator"] and changed(recipe.discriminator, trained["discriminator"]) == set()
    assert changed(recipe.component_discriminators, trained["component_discriminators"]) == set()
    assert {name.split(".")[0] for name in trained["component_discriminators"]} == set(COMPONENTS)
    with pytest.raises(WeightsMismatchError, match=r"component-discr.*does not fit the discriminators of eyes.*Move"):
        recipe_of(tiny_config(data, tmp_path / "third", weights=weights, component_width=4))


def test_the_unet_stands_still_as_long_as_the_preset_says(data: Path, tmp_path: Path) -> None:
    losses = {"reconstruction": 1.0, "pyramid": 1.0}
    config = tiny_config(data, tmp_path, losses=losses, unet_start_step=2, max_grad_norm=1.0, start="nothing")
    recipe = recipe_of(config)
    unet = {name for name in recipe.generator.state_dict() if name.startswith(("conv_body_", "final_conv.", "toRGB."))}
    for step in (1, 2, 3):
        before, average = snapshot(recipe.generator), snapshot(recipe.average)
        recipe.step([batch_of(config)], step, 1.0)
        moved = changed(recipe.generator, before)
        assert moved & unet == (unet if step == 3 else set())
        assert {name.split(".")[0] for name in moved - unet} >= {"final_linear", "condition_scale", "stylegan_decoder"}
        assert bool(changed(recipe.average, average) & unet) is (step == 3)
    assert all(parameter.requires_grad for part in recipe.generator.unet for parameter in part.parameters())


def test_what_the_next_compact_restorer_is_trained_from_fits_its_preset(data: Path, tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "weights"
    for path in [kept / "compact-restorer.safetensors", *(kept / "training" / "restorer").glob("*.safetensors")]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = make_config(
        data, tmp_path / "out", "compact", TrainSettings(weights=tmp_path / "compact-restorer.safetensors")
    )
    recipe = RestorationRecipe(config, open_initial_weights(config, WeightsStore()), LossNetworks(), CPU)
    for module, name in (
        (recipe.generator, "compact-restorer.safetensors"),
        (recipe.discriminator, DISCRIMINATOR_NAME),
        (recipe.component_discriminators, COMPONENTS_NAME),
    ):
        assert changed(module, load_state(tmp_path / name)) == set(), name
    prior = make_config(data, tmp_path / "out", "compact", stage="prior", size=64)
    prior = replace(prior, weights=kept / "training" / "prior.safetensors")
    start = open_initial_weights(prior, WeightsStore())
    grown = PriorRecipe(prior, start, CPU).generator.state_dict()
    assert all(torch.equal(grown[name], tensor.float()) for name, tensor in start.state.items())
    assert start.discriminator_path == kept / "training" / DISCRIMINATOR_NAME


def test_discriminators_that_learned_nothing_are_not_written(data: Path, tmp_path: Path) -> None:
    weights = train(tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, steps=1)).weights
    assert not weights.with_name(DISCRIMINATOR_NAME).exists() and not weights.with_name(COMPONENTS_NAME).exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (restorer_state(size=64), r"faces of 64 pixels.*Use --size 64"),
        (restorer_state(modulation="all"), r"trained with the modulation 'all', not 'split'"),
        ({"body.0.weight": torch.zeros(1)}, r"neither a StyleGAN2 prior nor a GFP-GAN"),
        (StyleGAN2Generator((32, 32, 32, 32), 32, 2, "clean").state_dict(), r"does not fit the prior.*size mismatch"),
    ],
    ids=["size", "modulation", "other", "prior"],
)
def test_initial_weights_that_do_not_fit_are_an_error(
    state: dict[str, Tensor], message: str, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "start.pth"
    torch.save({"params_ema": state}, path)
    with pytest.raises(WeightsMismatchError, match=message):
        recipe_of(tiny_config(data, tmp_path / "out", weights=path))


@pytest.mark.parametrize(
    ("losses", "preset", "options", "message"),
    [
        ({"perceptual": 1.0}, "paper", {}, "weights fetch vgg19.*--without perceptual"),
        ({"style": 1.0}, "paper", {}, r"--without perceptual"),
        ({"identity": 1.0}, "paper", {}, r"gfprestore weights fetch arcface-resnet18.*--without identity"),
        ({"reconstruction": 1.0}, "paper", {}, r"No prior of 32 pixels.*--stage prior.*--ablation no-prior"),
        ({"reconstruction": 1.0}, "finetune", {}, r"gfprestore weights fetch gfpgan-1\.4.*--weights FILE"),
    ],
)
def test_missing_weights_are_an_error_that_names_the_next_step(
    losses: dict[str, float], preset: str, options: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, tmp_path, preset, losses=losses)
    with pytest.raises(WeightsMissingError, match=message) as error:
        open_loss_networks(config, WeightsStore())
        open_initial_weights(config, WeightsStore())
    assert error.value.exit_code == ExitCode.WEIGHTS


def test_the_paper_at_full_size_asks_for_the_released_prior(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, "paper", size=512, narrow=1.0, style_dim=512, mlp_layers=8)
    with pytest.raises(WeightsMissingError, match="gfprestore weights fetch stylegan2-ffhq-512"):
        open_initial_weights(config, WeightsStore())


def test_a_loss_that_is_switched_off_is_reported(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    config = tiny_config(data, tmp_path, steps=1)
    with logged(messages):
        train(config)
    assert [line.split("'")[1] for line in messages if line.startswith("The loss")] == list(config.disabled_losses)
    assert config.disabled_losses == ("perceptual", "identity")


def test_the_vgg16_of_a_package_is_found_and_compares(data: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("stlpips_pytorch") is None:
        pytest.skip("stlpips-pytorch is not here")
    config = tiny_config(data, tmp_path, losses={"perceptual": 1.0, "style": 1.0}, perceptual_network="vgg16")
    loss_networks = open_loss_networks(config, WeightsStore())
    recipe = RestorationRecipe(config, open_initial_weights(config, WeightsStore()), loss_networks, CPU)
    before = snapshot(recipe.generator)
    values = recipe.step([batch_of(config, 1)], 1, 1.0)
    assert values["perceptual"] > 0.1 and values["style"] > 0
    assert changed(recipe.generator, before)
    with pytest.raises(WeightsMismatchError, match="is not a VGG, but the perceptual loss needs vgg16"):
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
        open_loss_networks(replace(config, perceptual_weights=tmp_path / "x.pth"), WeightsStore())


def test_dlibs_recognizer_of_a_package_is_found_and_used(data: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("face-recognition-models is not here")
    config = tiny_config(data, tmp_path, losses={"identity": 1.0}, identity_network="dlib")
    loss_networks = open_loss_networks(config, WeightsStore())
    assert loss_networks.identity is not None
    batch = batch_of(config, 2)
    assert loss_networks.identity.loss(batch.sample.gt, batch.sample.gt) < 1e-3
    recipe = RestorationRecipe(config, open_initial_weights(config, WeightsStore()), loss_networks, CPU)
    before = snapshot(recipe.generator)
    values = recipe.step([batch], 1, 1.0)
    assert 0.01 < values["identity"] < 3
    assert changed(recipe.generator, before)
    assert dict(plan(config))["critics"] == "dlib's recognizer"
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    for path, error in ((tmp_path / "x.pth", WeightsMismatchError), (tmp_path / "none.dat", WeightsDamagedError)):
        with pytest.raises(error, match=path.name):
            open_loss_networks(replace(config, identity_weights=path), WeightsStore())


def saved_restorer(path: Path, **sizes: Any) -> GFPGAN:
    """A restorer with random weights, written to a file and read again."""
    state = restorer_state(**sizes)
    torch.save({"params_ema": state}, path)
    module = load_network(path, "restorer").module
    assert isinstance(module, GFPGAN)
    return module


def test_the_generator_learns_the_output_of_a_teacher(data: Path, tmp_path: Path) -> None:
    teacher = saved_restorer(tmp_path / "teacher.pth", input_share=0.5)
    losses = {"distillation": 1.0}
    config = tiny_config(
        data, tmp_path / "out", losses=losses, teacher=tmp_path / "teacher.pth", narrow=1 / 8, batch_size=6,
        learning_rate=3e-3, steps=40, log_every=1, ema_half_life=2.0,
    )  # fmt: skip
    row = dict(plan(config))["critics"]
    assert row == f"the teacher {tmp_path / 'teacher.pth'}"
    report = train(config)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    found = [line["distillation"] for line in log]
    assert sum(found[-5:]) / 5 < 0.5 * found[0]
    lq, gt = (getattr(batch_of(config, 6).sample, name) for name in ("lq", "gt"))
    with torch.no_grad():
        learned, expected = load_network(report.weights).module(lq), teacher(lq)
    assert (learned - expected).abs().mean() < 0.8 * (learned - gt).abs().mean()


def test_a_teacher_of_another_size_sees_the_faces_at_its_own(data: Path, tmp_path: Path) -> None:
    teacher = saved_restorer(tmp_path / "teacher.pth", size=64, input_share=0.9)
    config = tiny_config(data, tmp_path / "out", losses={"distillation": 1.0}, teacher=tmp_path / "teacher.pth")
    recipe = RestorationRecipe(
        config, open_initial_weights(config, WeightsStore()), open_loss_networks(config, WeightsStore()), CPU
    )
    batch = batch_of(config)
    values, made = recipe.losses_of(batch, 1)
    larger = np.stack([cv2.resize(face.permute(1, 2, 0).numpy(), (64, 64)) for face in batch.sample.lq])
    with torch.no_grad():
        restored = teacher(torch.from_numpy(larger).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    smaller = np.stack([cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA) for face in restored])
    expected = abs(made.restored.permute(0, 2, 3, 1).numpy() - smaller).mean()
    assert values["distillation"].item() == pytest.approx(expected, rel=0.05)


def test_an_invalid_teacher_is_an_error_and_appears_in_the_plan(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path / "out", losses={"distillation": 1.0}, teacher=tmp_path / "teacher.pth")
    with pytest.raises(WeightsMissingError, match=r"teacher\.pth"):
        open_loss_networks(config, WeightsStore())
    assert dict(plan(config))["critics"].startswith("MISSING: ")
    torch.save({"x": torch.zeros(1)}, tmp_path / "teacher.pth")
    with pytest.raises(WeightsMismatchError, match=r"teacher\.pth"):
        open_loss_networks(config, WeightsStore())
    untaught = memory_needed(tiny_config(data, tmp_path, losses={"reconstruction": 1.0}), torch.float32)
    assert memory_needed(config, torch.float32).weights == untaught.weights
    teacher = saved_restorer(tmp_path / "teacher.pth")
    own = sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values())
    assert memory_needed(config, torch.float32).weights == untaught.weights + own


def test_without_its_package_dlibs_recognizer_is_missed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = tiny_config(data, tmp_path, losses={"identity": 1.0}, identity_network="dlib")
    with pytest.raises(WeightsMissingError, match=r"pip install gfprestore\[train\].*--without identity"):
        open_loss_networks(config, WeightsStore())


def test_a_decoder_without_noise_stays_without(data: Path, tmp_path: Path) -> None:
    state = restorer_state()
    noisy = {name: tensor for name, tensor in state.items() if "style_conv" in name and tensor.shape == (1,)}
    assert noisy
    torch.save({"params_ema": {**state, **{name: tensor + 0.5 for name, tensor in noisy.items()}}}, tmp_path / "s.pth")
    strengths = {}
    for noise in (True, False):
        config = tiny_config(
            data, tmp_path, weights=tmp_path / "s.pth", losses={"reconstruction": 1.0}, decoder_noise=noise
        )
        recipe = recipe_of(config)
        recipe.step([batch_of(config, 2)], 1, 1.0)
        recipe.step([batch_of(config, 2)], 2, 1.0)
        strengths[noise] = [strength.item() for strength in recipe.average.stylegan_decoder.noise_strengths()]
    assert len(strengths[True]) == len(noisy)
    assert all(abs(strength) > 0.4 for strength in strengths[True]) and set(strengths[True]) != {0.5}
    assert set(strengths[False]) == {0.0}


def test_the_plan_describes_the_training_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path / "out", "paper", losses={"reconstruction": 0.1, "identity": 10.0})
    rows = dict(plan(config))
    assert rows["steps"] == "4 of 2 images"
    assert rows["data"].endswith("each seen 1.33 times")
    assert rows["start"].startswith("MISSING: No prior of 32 pixels")
    assert rows["critics"].startswith("MISSING: The identity loss needs arcface-resnet18")
    assert rows["losses"] == "reconstruction x 0.1, identity x 10; switched off: perceptual, identity"
    assert "GiB" in rows["memory"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["prior", "restoration"])
def test_a_plan_also_counts_random_crops(stage: Stage, data: Path, tmp_path: Path) -> None:
    losses = {"perceptual": 1.0, "adversarial": 1.0}
    config = tiny_config(data, tmp_path, losses=losses, perceptual_network="vgg16", perceptual_crop=16, mixing=0.5)
    assert "GiB" in dict(plan(replace(config, stage=stage)))["memory"]


def test_the_memory_of_the_plan_is_that_of_the_networks(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0})
    memory = memory_needed(config, torch.float32)
    recipe = recipe_of(config)
    numbers = sum(item.numel() for item in recipe.generator.state_dict().values())
    of_discriminator = sum(item.numel() for item in recipe.discriminator.state_dict().values())
    assert memory.weights == 4 * (numbers + of_discriminator)
    learning = [*recipe.generator.parameters(), *recipe.discriminator.parameters()]
    assert memory.optimizers == 12 * sum(item.numel() for item in learning if item.requires_grad) + 4 * numbers
    doubled = memory_needed(replace(config, preset=replace(config.preset, batch_size=4)), torch.float32)
    assert 1.5 < doubled.activations / memory.activations <= 2.01
    assert memory_needed(config, torch.bfloat16).activations * 2 == memory.activations


def test_a_training_by_one_loss_alone_has_only_that_loss() -> None:
    assert none_but(pyramid=2.0).used() == {"pyramid": 2.0}


def test_discriminators_join_after_the_steps_that_go_without_them(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, discriminator_start_step=2)
    recipe = recipe_of(config)
    untouched = {name: tensor.clone() for name, tensor in recipe.discriminator.state_dict().items()}
    for step in (1, 2):
        values = recipe.step([batch_of(config)], step, 1.0)
        assert not {"adversarial", "discriminator", "components", "component-discriminator"} & values.keys()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in recipe.discriminator.state_dict().items())
    values = recipe.step([batch_of(config)], 3, 1.0)
    assert {"adversarial", "discriminator", "components", "component-discriminator"} <= values.keys()
    assert any(not torch.equal(tensor, untouched[name]) for name, tensor in recipe.discriminator.state_dict().items())


def test_the_perceptual_loss_may_look_at_a_piece_of_each_face(data: Path, tmp_path: Path) -> None:
    class Seen(nn.Module):
        """Double of VGG: its features are the images, and it records their sizes."""

        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[tuple[int, ...]] = []

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            self.sizes.append(tuple(images.shape[2:]))
            return {"conv1_2": images}

    config = tiny_config(data, tmp_path, losses={"perceptual": 1.0}, perceptual_crop=8)
    seen = Seen()
    recipe = RestorationRecipe(
        config,
        InitialWeights(config.preset.network(), {}),
        LossNetworks(seen, {"conv1_2": 1.0}),
        torch.device("cpu"),  # type: ignore[arg-type]
    )
    batch = batch_of(config)
    values, made = recipe.losses_of(batch, 1)
    assert set(seen.sizes) == {(8, 8)}
    whole = (made.restored - batch.sample.gt).abs().mean()
    assert 0 < values["perceptual"].item() != pytest.approx(whole.item(), rel=1e-6)


def test_a_long_gradient_is_shortened_to_the_limit(data: Path, tmp_path: Path) -> None:
    gradients = {}
    for limit in (None, 1e-3):
        config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, max_grad_norm=limit)
        recipe = recipe_of(config)
        recipe.step([batch_of(config)], 1, 1.0)
        learning = [item.grad for item in recipe.generator.parameters() if item.grad is not None]
        gradients[limit] = torch.cat([gradient.flatten() for gradient in learning])
    assert gradients[None].norm() > 1e-2
    assert gradients[1e-3].norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(gradients[1e-3] / 1e-3, gradients[None] / gradients[None].norm(), rtol=1e-3, atol=1e-6)


def test_a_small_network_is_exported_in_half_the_bytes_and_loads_as_what_it_was(data: Path, tmp_path: Path) -> None:
    sizes = {}
    for half in (False, True):
        config = tiny_config(data, tmp_path / str(half), exports_half=half)
        config.output.mkdir()
        recipe = recipe_of(config)
        path = recipe.export(config.output, 1)
        sizes[half] = path.stat().st_size
        loaded = load_network(path, "restorer").module.state_dict()
        for name, tensor in recipe.average.state_dict().items():
            assert loaded[name].dtype == torch.float32
            torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-6)
    assert sizes[True] < 0.6 * sizes[False]
