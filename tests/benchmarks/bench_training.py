"""Images a second of a paper step: ours against the official classes, the same random weights, one process, in turns.

Run: python tests/benchmarks/bench_training.py [--pairs 3] [--size 512] [--batch-size 1] [--threads 2] [--half]

A step is everything: generator (U-Net and frozen prior) with reconstruction, perceptual (VGG-19), pyramid, adversarial,
component and identity losses, then the discriminator and the three component discriminators, Adam and moving average.
The official step is composed of the official networks and losses in the order of the official training. Plain steps and
steps with the gradient penalty are timed apart and weighed 15 to 1. The generator's total loss of both is printed: it
is the same. Needs the extra `official`. Only the ratio means something on a machine with other work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.transforms import functional

from gfprestore.data.face_dataset import Sample
from gfprestore.networks.arcface import ArcFaceResNet18
from gfprestore.networks.vgg import VGGFeatures
from gfprestore.training.config import make_config
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.initial_weights import InitialWeights
from gfprestore.training.loss_networks import LossNetworks, arcface_loss_network
from gfprestore.training.losses import COMPONENTS, PERCEPTUAL_WEIGHTS
from gfprestore.training.recipe import Batch

PENALTY_EVERY = 16


def bias_activation(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    """What the official CUDA-only operation computes."""
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale


def import_official() -> types.SimpleNamespace:
    """The official classes; what they import of torchvision is put back, what runs on CUDA alone is written plainly."""
    alias = types.ModuleType("torchvision.transforms.functional_tensor")
    alias.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules.setdefault(alias.__name__, alias)
    from basicsr.archs import stylegan2_arch, vgg_arch
    from basicsr.losses.basic_loss import PerceptualLoss
    from basicsr.losses.gan_loss import GANLoss, r1_penalty
    from basicsr.ops.fused_act import fused_act
    from gfpgan.archs.arcface_arch import ResNetArcFace
    from gfpgan.archs.gfpganv1_arch import FacialComponentDiscriminator, GFPGANv1

    fused_act.fused_leaky_relu = bias_activation
    stylegan2_arch.fused_leaky_relu = bias_activation
    return types.SimpleNamespace(
        generator=GFPGANv1,
        discriminator=stylegan2_arch.StyleGAN2Discriminator,
        component=FacialComponentDiscriminator,
        arcface=ResNetArcFace,
        perceptual=PerceptualLoss,
        gan=GANLoss,
        r1_penalty=r1_penalty,
        vgg=vgg_arch.vgg,
    )


class OfficialStep:
    """A step of the official networks and losses, in float32, as its training makes it."""

    def __init__(self, size: int, vgg: nn.Module, narrow: float = 1.0) -> None:
        official = import_official()
        self.size = size
        self.narrow = narrow
        sizes = {"channel_multiplier": 1, "narrow": narrow, "fix_decoder": True}
        kind = {"input_is_latent": True, "different_w": True, "sft_half": True}
        self.generator = official.generator(size, **sizes, **kind)
        self.average = official.generator(size, **sizes, **kind)
        self.discriminator = official.discriminator(size, channel_multiplier=1, narrow=narrow)
        self.components = {component: official.component() for component in COMPONENTS}
        self.arcface = official.arcface("IRBlock", [2, 2, 2, 2], use_se=False).eval().requires_grad_(False)
        maker = official.vgg.vgg19
        official.vgg.vgg19 = lambda pretrained: vgg  # random weights: nothing is downloaded
        self.perceptual = official.perceptual(PERCEPTUAL_WEIGHTS["vgg19"], range_norm=True)
        official.vgg.vgg19 = maker
        self.gan = official.gan("wgan_softplus", loss_weight=0.1)
        self.component_gan = official.gan("vanilla", loss_weight=1.0)
        self.r1_penalty = official.r1_penalty
        learning = [item for item in self.generator.parameters() if item.requires_grad]
        lazy = PENALTY_EVERY / (PENALTY_EVERY + 1)
        self.adam = torch.optim.Adam(learning, 2e-3, betas=(0.0, 0.99))
        self.discriminator_adam = torch.optim.Adam(
            self.discriminator.parameters(), 2e-3 * lazy, betas=(0.0, 0.99**lazy)
        )
        self.component_adams = [
            torch.optim.Adam(item.parameters(), 2e-3, betas=(0.9, 0.99)) for item in self.components.values()
        ]

    def patches(self, images: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Eyes and mouth."""
        numbers = torch.arange(len(boxes)).view(-1, 1).float()
        sides = (80 * self.size // 512, 80 * self.size // 512, 120 * self.size // 512)
        return {
            component: roi_align(images, torch.cat([numbers, boxes[:, index]], 1), sides[index])
            for index, component in enumerate(COMPONENTS)
        }

    def __call__(self, lq: Tensor, gt: Tensor, boxes: Tensor, penalized: bool) -> float:
        """One step; returns the generator's total loss."""
        discriminators = [self.discriminator, *self.components.values()]
        for discriminator in discriminators:
            discriminator.requires_grad_(False)
        self.adam.zero_grad()
        restored, pyramid = self.generator(lq, return_rgb=True)
        fake_patches, real_patches = self.patches(restored, boxes), self.patches(gt, boxes)
        total = self.generator_loss(restored, pyramid, gt, fake_patches, real_patches)
        total.backward()
        self.adam.step()
        with torch.no_grad():
            learned = dict(self.generator.named_parameters())
            for name, parameter in self.average.named_parameters():
                parameter.mul_(0.5 ** (32 / 10_000)).add_(learned[name], alpha=1 - 0.5 ** (32 / 10_000))
        for discriminator in discriminators:
            discriminator.requires_grad_(True)
        self.teach_discriminator(restored.detach(), gt, penalized)
        for component, adam in zip(COMPONENTS, self.component_adams, strict=True):
            adam.zero_grad()
            fake, _ = self.components[component](fake_patches[component].detach())
            real, _ = self.components[component](real_patches[component])
            loss = self.component_gan(real, True, is_disc=True) + self.component_gan(fake, False, is_disc=True)
            loss.backward()
            adam.step()
        return float(total.detach())

    def generator_loss(
        self, restored: Tensor, pyramid: list[Tensor], gt: Tensor, fakes: dict[str, Tensor], reals: dict[str, Tensor]
    ) -> Tensor:
        """All losses of the paper with its weights."""
        total = 0.1 * F.l1_loss(restored, gt)
        smaller = gt
        for image in reversed(pyramid):
            total = total + F.l1_loss(image, smaller)
            smaller = F.interpolate(smaller, scale_factor=0.5, mode="bilinear", align_corners=False)
        total = total + self.perceptual(restored, gt)[0]
        total = total + self.gan(self.discriminator(restored), True, is_disc=False)
        for component in COMPONENTS:
            logits, features = self.components[component](fakes[component], return_feats=True)
            _, real_features = self.components[component](reals[component], return_feats=True)
            total = total + self.component_gan(logits, True, is_disc=False)
            for weight, ours, theirs in zip((0.5, 1.0), features, real_features, strict=True):
                total = total + 200 * weight * F.l1_loss(gram(ours), gram(theirs.detach()))
        embeddings = [self.arcface(gray(images)) for images in (restored, gt)]
        return total + 10 * F.l1_loss(embeddings[0], embeddings[1].detach())

    def teach_discriminator(self, restored: Tensor, gt: Tensor, penalized: bool) -> None:
        """The logistic loss, and the penalty from a pass of its own."""
        self.discriminator_adam.zero_grad()
        fake, real = self.discriminator(restored), self.discriminator(gt)
        loss = self.gan(real, True, is_disc=True) + self.gan(fake, False, is_disc=True)
        loss.backward()
        if penalized:
            real_gt = gt.clone().requires_grad_(True)
            penalty = self.r1_penalty(self.discriminator(real_gt), real_gt)
            (10 / 2 * PENALTY_EVERY * penalty).backward()
        self.discriminator_adam.step()


def gram(features: Tensor) -> Tensor:
    """Correlations of features."""
    batch, channels, height, width = features.shape
    flat = features.reshape(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


def gray(images: Tensor) -> Tensor:
    """Gray images of 128 pixels."""
    weights = torch.tensor([0.2989, 0.5870, 0.1140]).view(1, 3, 1, 1)
    return F.interpolate((images * weights).sum(1, keepdim=True), (128, 128), mode="bilinear", align_corners=False)


def our_recipe(official: OfficialStep, vgg: nn.Module, dtype: torch.dtype) -> RestorationRecipe:
    """Our recipe of the paper with the official step's weights."""
    config = make_config(Path("faces"), Path("out"), "paper", size=official.size)
    config = replace(config, preset=replace(config.preset, batch_size=1, narrow=official.narrow))
    weights = PERCEPTUAL_WEIGHTS["vgg19"]
    loss_networks = LossNetworks(
        VGGFeatures.from_state(vgg.state_dict(), list(weights)),
        weights,
        arcface_loss_network(ArcFaceResNet18.from_state(official.arcface.state_dict())),
    )
    start = InitialWeights(config.preset.network(), official.generator.state_dict(), "restorer", Path("official"))
    recipe = RestorationRecipe(config, start, loss_networks, torch.device("cpu"), dtype)
    recipe.discriminator.load_state_dict(official.discriminator.state_dict())
    for component, module in official.components.items():
        recipe.component_discriminators[component].load_state_dict(module.state_dict())
    return recipe


def seconds(step: Callable[[], float]) -> tuple[float, float]:
    """Runs once; gives the time and the loss."""
    start = time.perf_counter()
    loss = step()
    return time.perf_counter() - start, loss


def faces(size: int, count: int) -> Batch:
    """Smooth random images with boxes where eyes and mouths would be."""
    gt = F.interpolate(torch.rand(count, 3, 16, 16) * 2 - 1, size=(size, size), mode="bicubic").clamp(-1, 1)
    lq = F.interpolate(F.avg_pool2d(gt, 4), size=(size, size), mode="bilinear")
    boxes = torch.tensor([[0.29, 0.40, 0.45, 0.56], [0.55, 0.40, 0.71, 0.56], [0.38, 0.64, 0.62, 0.88]]) * size
    channels_last = [item.contiguous(memory_format=torch.channels_last) for item in (lq, gt)]
    return Batch(Sample(*channels_last, boxes.expand(count, 3, 4).clone()), list(range(count)))


def main() -> int:
    """Exit code 1 when ours is less than 1.3 times as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", action="store_true", help="ours in bfloat16 against the official in float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    vgg = torchvision.models.vgg19(weights=None)
    official = OfficialStep(options.size, vgg)
    recipe = our_recipe(official, vgg, torch.bfloat16 if options.half else torch.float32)
    batch = faces(options.size, options.batch_size)
    lq, gt = (item.contiguous() for item in (batch.sample.lq, batch.sample.gt))
    boxes = batch.sample.boxes - 0.5  # the official ROI align counts from the first pixel's center, ours from its edge

    def theirs(penalized: bool) -> Callable[[], float]:
        return lambda: official(lq, gt, boxes, penalized)

    def ours(penalized: bool) -> Callable[[], float]:
        def step() -> float:
            losses: Any = recipe.step([batch], PENALTY_EVERY if penalized else 1, 1.0)
            return float(recipe.weighted(losses))

        return step

    pairs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for pair in range(options.pairs + 1):
        for penalized in (False, True):
            (official_time, official_loss), (our_time, our_loss) = seconds(theirs(penalized)), seconds(ours(penalized))
            kind = "with penalty" if penalized else "plain"
            print(
                f"{'warm-up' if pair == 0 else f'pair {pair}'} {kind}: official {official_time:.2f} s "
                f"(loss {official_loss:.5f}), ours {our_time:.2f} s (loss {our_loss:.5f}), "
                f"ratio {official_time / our_time:.2f}"
            )
            if pair:
                pairs[penalized].append((official_time, our_time))
    share = 1 / PENALTY_EVERY
    mixed = [
        ((1 - share) * plain[side] + share * penalized[side])
        for plain, penalized in zip(pairs[False], pairs[True], strict=True)
        for side in (0, 1)
    ]
    ratio = statistics.median(first / second for first, second in zip(mixed[::2], mixed[1::2], strict=True))
    pace = [options.batch_size / statistics.median(side) for side in (mixed[::2], mixed[1::2])]
    print(f"images/s: official {pace[0]:.4f}, ours {pace[1]:.4f}; median ratio of the pairs {ratio:.2f}")
    return 0 if ratio >= 1.3 else 1


if __name__ == "__main__":
    sys.exit(main())
