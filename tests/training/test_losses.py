"""Each loss against the official one on random numbers, against arithmetic, and its gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from gfprestore.networks.configs import Layout
from gfprestore.networks.discriminators import FacialComponentDiscriminator, StyleGAN2Discriminator
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.networks.vgg import VGGFeatures, VGGLayout
from gfprestore.training import losses


@pytest.fixture
def official_model(official_gfpgan: dict[str, Any]) -> Any:
    """The official training; its methods are called on an object with the attributes that they read."""
    from gfpgan.models.gfpgan_model import GFPGANModel

    return GFPGANModel


def near(ours: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    assert ours.shape == expected.shape
    return bool((ours - expected).abs().max() <= tolerance * expected.abs().max())


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size) * 2 - 1


def unsettled(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def test_reconstruction_is_the_official_l1(official: None) -> None:
    from basicsr.losses.basic_loss import L1Loss

    restored, gt = images(), images()
    assert near(losses.reconstruction_loss(restored, gt), L1Loss()(restored, gt))
    assert losses.reconstruction_loss(gt + 0.25, gt).item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("layout", ["vgg19", "vgg16"])
def test_perceptual_and_style_losses_are_the_official_ones(
    layout: VGGLayout, official: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.archs import vgg_arch
    from basicsr.losses.basic_loss import PerceptualLoss

    network = nn.Module()
    network.features = make_layers(cfgs[{"vgg19": "E", "vgg16": "D"}[layout]])
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    monkeypatch.setattr(vgg_arch.vgg, layout, lambda **_options: network)
    weights = losses.PERCEPTUAL_WEIGHTS[layout]
    official_loss = PerceptualLoss(weights, layout, range_norm=True, perceptual_weight=1, style_weight=50)
    ours = VGGFeatures.from_state(state, list(weights))

    restored, gt = images().requires_grad_(), images()
    expected, expected_style = official_loss(restored, gt)
    features, gt_features = ours(restored), ours(gt)
    perceptual = losses.perceptual_loss(features, gt_features, weights)
    style = 50 * losses.style_loss(features, gt_features, weights)
    assert near(perceptual, expected) and near(style, expected_style)
    (gradient,) = torch.autograd.grad(perceptual + style, restored)
    (expected_gradient,) = torch.autograd.grad(expected + expected_style, restored)
    assert near(gradient, expected_gradient, 1e-4)


def test_layer_weights_are_the_papers_and_vgg16_has_the_last_of_each_block_too() -> None:
    assert losses.PERCEPTUAL_WEIGHTS["vgg19"] == {
        "conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1
    }  # fmt: skip
    assert list(losses.PERCEPTUAL_WEIGHTS["vgg16"].values()) == [0.1, 0.1, 1, 1, 1]
    assert list(losses.PERCEPTUAL_WEIGHTS["vgg16"]) == ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"]


def test_gram_matrix_is_the_official_one_in_any_memory_format(official_model: Any) -> None:
    features = torch.randn(2, 5, 6, 7)
    expected = official_model._gram_mat(None, features)
    assert near(losses.gram(features), expected)
    assert near(losses.gram(features.contiguous(memory_format=torch.channels_last)), expected)


def test_pyramid_loss_is_the_official_sum_over_the_scales(official_model: Any) -> None:
    gt = images(size=32)
    official = SimpleNamespace(gt=gt, log_size=5)
    targets = official_model.construct_img_pyramid(official)
    pyramid = [images(size=size) for size in (8, 16, 32)]
    assert [target.shape[2] for target in targets] == [8, 16, 32]
    expected = sum(F.l1_loss(image, target) for image, target in zip(pyramid, targets, strict=True))
    assert near(losses.pyramid_loss(pyramid, gt), expected)  # type: ignore[arg-type]
    assert losses.pyramid_loss(targets, gt).item() < 1e-6


def test_adversarial_losses_are_the_official_ones(official: None) -> None:
    from basicsr.losses.gan_loss import GANLoss

    real, fake = 3 * torch.randn(6, 1), 3 * torch.randn(6, 1)
    logistic, vanilla = GANLoss("wgan_softplus"), GANLoss("vanilla")
    assert near(losses.generator_adversarial_loss(fake), logistic(fake, True))
    assert near(
        losses.discriminator_adversarial_loss(real, fake),
        logistic(real, True, is_disc=True) + logistic(fake, False, is_disc=True),
    )
    assert near(losses.component_adversarial_loss(fake), vanilla(fake, True))
    assert near(
        losses.component_discriminator_loss(real, fake),
        vanilla(real, True, is_disc=True) + vanilla(fake, False, is_disc=True),
    )
    assert losses.generator_adversarial_loss(torch.zeros(3, 1)).item() == pytest.approx(math.log(2))
    assert losses.generator_adversarial_loss(torch.tensor([[1.0]])) < losses.generator_adversarial_loss(-torch.ones(1))


def test_r1_penalty_and_its_gradients_equal_the_official_ones(official_gfpgan: dict[str, Any]) -> None:
    from basicsr.archs.stylegan2_arch import StyleGAN2Discriminator as OfficialDiscriminator
    from basicsr.losses.gan_loss import r1_penalty

    theirs = unsettled(OfficialDiscriminator(16, channel_multiplier=1, narrow=0.03125))
    ours = StyleGAN2Discriminator((16, 16, 16))
    ours.load_state_dict(theirs.state_dict())
    real = images(4, 16).requires_grad_()
    penalty, expected = losses.r1_penalty(real, ours(real)), r1_penalty(theirs(real), real)
    assert expected > 1e-3
    assert near(penalty, expected)
    penalty.backward()
    expected.backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("weight"):
            assert near(parameter.grad, other.grad, 1e-4), name  # type: ignore[arg-type]


def test_r1_penalty_of_a_linear_discriminator_is_its_weights_squared_norm() -> None:
    weights = torch.randn(3, 4, 4)
    real = images(5, 4).requires_grad_()
    logits = (real * weights).sum((1, 2, 3))[:, None]
    assert losses.r1_penalty(real, logits).item() == pytest.approx(weights.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("layout", ["paper", "clean"])
def test_path_length_penalty_and_its_gradients_equal_the_official_ones(
    layout: Layout, official_gfpgan: dict[str, Any]
) -> None:
    from basicsr.archs.stylegan2_arch import StyleGAN2Generator as OfficialPaper
    from basicsr.losses.gan_loss import g_path_regularize
    from gfpgan.archs.stylegan2_clean_arch import StyleGAN2GeneratorClean as OfficialClean

    official_class = {"paper": OfficialPaper, "clean": OfficialClean}[layout]
    # 64 pixels, so that the clean layout's shortcut at larger features is differentiated twice too
    theirs = unsettled(official_class(64, num_style_feat=16, num_mlp=2, channel_multiplier=1, narrow=0.015625))
    ours = StyleGAN2Generator((8, 8, 8, 8, 4), 16, 2, layout)
    ours.load_state_dict(theirs.state_dict())
    z = torch.randn(3, 16)

    expected_images, expected_latents = theirs([z], randomize_noise=False, return_latents=True)
    torch.manual_seed(7)
    expected, expected_lengths, expected_mean = g_path_regularize(expected_images, expected_latents, 0.3)

    torch.manual_seed(7)
    directions = torch.randn(3, 3, 64, 64)
    latents = ours.latents(z)
    penalty, mean = losses.path_length_penalty(ours(latents), latents, torch.tensor(0.3), directions)
    assert near(penalty, expected) and near(mean, expected_mean)
    assert expected_lengths > 0.01 and not mean.requires_grad
    penalty.backward()
    expected.backward()
    expected_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected_gradients.values() if gradient is not None)
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None and expected_gradients[name] is not None:
            expected_gradient = expected_gradients[name].view_as(parameter)
            assert (parameter.grad - expected_gradient).abs().max() <= 1e-4 * largest, name
            compared += expected_gradient.abs().max() > 1e-3 * largest
    assert compared > 10


def test_path_length_of_a_linear_generator_is_its_gain() -> None:
    """Images that depend on one latent with gain g have path lengths of g times the length of the direction."""
    latents = torch.randn(2, 1, 3, requires_grad=True)
    gain = torch.tensor([2.0, 5.0])
    drawn = (gain[:, None] * latents[:, 0]).view(2, 3, 1, 1)
    directions = torch.ones(2, 3, 1, 1)
    penalty, mean = losses.path_length_penalty(drawn, latents, torch.tensor(1.0), directions, decay=0.5)
    lengths = gain * math.sqrt(3)
    expected_mean = 0.5 + 0.5 * lengths.mean()
    assert mean.item() == pytest.approx(expected_mean.item(), rel=1e-5)
    assert penalty.item() == pytest.approx((lengths - expected_mean).square().mean().item(), rel=1e-5)


def test_patches_are_the_official_ones(official_model: Any) -> None:
    """Official boxes are measured from pixel centers, ours from the edge of the image: half a pixel."""
    restored, gt = images(2, 512), images(2, 512)
    centers = torch.rand(2, 3, 2) * 300 + 100
    halves = torch.tensor([37.0, 41.5, 60.0])[None, :, None]
    boxes = torch.cat([centers - halves, centers + halves], dim=2)
    loc = boxes - 0.5
    official = SimpleNamespace(
        opt={"network_g": {"out_size": 512}}, device="cpu", gt=gt, output=restored,
        loc_left_eyes=loc[:, 0], loc_right_eyes=loc[:, 1], loc_mouths=loc[:, 2],
    )  # fmt: skip
    official_model.get_roi_regions(official)
    ours, theirs = losses.component_patches(restored, boxes), losses.component_patches(gt, boxes)
    assert near(ours["left_eye"], official.left_eyes) and near(theirs["left_eye"], official.left_eyes_gt)
    assert near(ours["right_eye"], official.right_eyes) and near(theirs["right_eye"], official.right_eyes_gt)
    assert near(ours["mouth"], official.mouths) and near(theirs["mouth"], official.mouths_gt)
    assert ours["mouth"].shape == (2, 3, 120, 120) and ours["left_eye"].shape == (2, 3, 80, 80)


def test_a_patch_as_large_as_its_box_is_cut_out_pixel_by_pixel() -> None:
    face = images(1, 128)  # patches of 20, 20 and 30 pixels
    boxes = torch.tensor([[[10.0, 30, 30, 50], [70, 30, 90, 50], [40, 80, 70, 110]]])
    patches = losses.component_patches(face, boxes)
    assert torch.allclose(patches["left_eye"], face[..., 30:50, 10:30], atol=1e-6)
    assert torch.allclose(patches["right_eye"], face[..., 30:50, 70:90], atol=1e-6)
    assert torch.allclose(patches["mouth"], face[..., 80:110, 40:70], atol=1e-6)


def test_components_without_a_box_are_skipped() -> None:
    faces = images(3, 64)
    boxes = torch.tensor([[5.0, 5, 25, 25], [35, 5, 55, 25], [20, 35, 45, 60]]).repeat(3, 1, 1)
    complete = losses.component_patches(faces, boxes)
    boxes[0, 0] = math.nan
    boxes[2, 0, 3] = math.nan
    boxes[:, 2] = math.nan
    patches = losses.component_patches(faces, boxes)
    assert torch.equal(patches["left_eye"], complete["left_eye"][1:2])
    assert torch.equal(patches["right_eye"], complete["right_eye"])
    assert patches["mouth"].shape == (0, 3, 15, 15)


def test_without_patches_the_component_losses_are_zero_and_give_gradients() -> None:
    faces = images(1, 64).requires_grad_()
    discriminator = FacialComponentDiscriminator(4)
    patches = losses.component_patches(faces, torch.full((1, 3, 4), math.nan))["mouth"]
    logits, features = discriminator(patches, with_features=True)
    total = (
        losses.component_adversarial_loss(logits)
        + losses.component_discriminator_loss(logits, logits)
        + losses.component_style_loss(features, features)
        + losses.component_matching_loss(features, features)
    )
    total.backward()
    assert total.item() == 0
    assert faces.grad is not None and faces.grad.abs().max() == 0
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_component_style_weighs_the_official_gram_differences_a_half_and_one(official_model: Any) -> None:
    features = [torch.randn(2, 6, 8, 8), torch.randn(2, 10, 4, 4)]
    gt_features = [torch.randn(2, 6, 8, 8), torch.randn(2, 10, 4, 4)]
    first, second = (
        F.l1_loss(official_model._gram_mat(None, ours), official_model._gram_mat(None, theirs))
        for ours, theirs in zip(features, gt_features, strict=True)
    )
    assert near(losses.component_style_loss(features, gt_features), 0.5 * first + second)


def test_style_does_not_mind_where_features_stand_and_matching_does() -> None:
    features = [torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)]
    turned = [x.flip(3) for x in features]
    assert losses.component_style_loss(turned, features) < 1e-6
    expected = 0.5 * F.l1_loss(turned[0], features[0]) + F.l1_loss(turned[1], features[1])
    assert near(losses.component_matching_loss(turned, features), expected)


def test_identity_compares_embeddings_of_official_gray_faces(official_model: Any) -> None:
    faces = images(2, 256)
    gray = losses.gray_for_identity(faces)
    assert gray.shape == (2, 1, 128, 128)
    assert near(gray, official_model.gray_resize_for_identity(None, faces))
    white = losses.gray_for_identity(torch.ones(1, 3, 128, 128))
    assert np.allclose(white, 0.9999), "the weights do not quite add up to one"
    embeddings = torch.randn(2, 512)
    assert losses.identity_loss(embeddings + 0.5, embeddings).item() == pytest.approx(0.5, abs=1e-6)


def test_a_face_is_shown_to_dlib_alone_and_gray() -> None:
    faces = torch.full((2, 3, 512, 512), -1.0)
    left, top, right, bottom = losses.DLIB_CHIP
    faces[:, 1, top:bottom, left:right] = 1.0
    chips = losses.chip_for_identity(faces)
    assert chips.shape == (2, 3, 150, 150)
    green = 0.2989 * -1 + 0.5870 - 0.1140
    assert (chips - green).abs().max() < 1e-5, "nothing of what is around the face"
    half = losses.chip_for_identity(faces[..., ::2, ::2])
    assert (half - green).abs().mean() < 0.01
    checks = torch.ones(1, 3, 512, 512)
    checks[..., ::2] = -1.0
    assert losses.chip_for_identity(checks).abs().max() < 0.3, "fine stripes become gray, not coarse ones"


def test_dlib_asks_for_no_colors() -> None:
    """The recognizer sees the luma; its gradient is equal for red, green and blue."""
    faces = images(1, 64).requires_grad_()
    chips = losses.chip_for_identity(faces, 16)
    left, top, right, bottom = (round(edge / 8) for edge in losses.DLIB_CHIP)
    luma = torch.einsum("bchw,c->bhw", faces[..., top:bottom, left:right], torch.tensor(losses.GRAY_WEIGHTS))
    shrunk = torch.nn.functional.interpolate(luma[:, None], size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(chips, shrunk.expand(-1, 3, -1, -1))
    (gradient,) = torch.autograd.grad((chips * torch.rand_like(chips)).sum(), faces)
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(gradient, gradient[:, :1].expand(-1, 3, -1, -1))


def test_the_distance_of_embeddings_is_euclidean_and_has_a_gradient_at_nothing() -> None:
    embeddings = torch.zeros(2, 4, requires_grad=True)
    gt = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    distance = losses.embedding_distance(embeddings, gt)
    assert distance.item() == pytest.approx(2.5, abs=1e-3)
    (gradient,) = torch.autograd.grad(distance, embeddings)
    assert torch.allclose(gradient, torch.tensor([[-0.3, -0.4, 0, 0], [0, 0, 0, 0]]), atol=1e-3)


def test_the_side_of_the_gt_gets_no_gradient() -> None:
    restored, gt = images(2, 16).requires_grad_(), images(2, 16).requires_grad_()
    weights = {"a": 1.0}
    total = (
        losses.reconstruction_loss(restored, gt)
        + losses.perceptual_loss({"a": restored}, {"a": gt}, weights)
        + losses.style_loss({"a": restored}, {"a": gt}, weights)
        + losses.pyramid_loss([restored], gt)
        + losses.component_style_loss([restored] * 2, [gt] * 2)
        + losses.component_matching_loss([restored] * 2, [gt] * 2)
        + losses.identity_loss(restored, gt)
        + losses.embedding_distance(restored.flatten(1), gt.flatten(1))
    )
    total.backward()
    assert gt.grad is None
    assert restored.grad is not None and (restored.grad != 0).all()


def test_losses_are_float32_under_autocast_and_of_half_precision_features() -> None:
    restored, gt = images(2, 16), images(2, 16)
    weights = {"a": 1.0}

    def all_of(restored: Tensor, gt: Tensor) -> list[Tensor]:
        return [
            losses.reconstruction_loss(restored, gt),
            losses.perceptual_loss({"a": restored}, {"a": gt}, weights),
            losses.style_loss({"a": restored}, {"a": gt}, weights),
            losses.pyramid_loss([restored], gt),
            losses.generator_adversarial_loss(restored),
            losses.discriminator_adversarial_loss(restored, gt),
            losses.component_style_loss([restored] * 2, [gt] * 2),
            losses.identity_loss(restored, gt),
            losses.embedding_distance(restored.flatten(1), gt.flatten(1)),
            losses.chip_for_identity(restored, 8).mean(),
            losses.gray_for_identity(restored, 8).mean(),
            losses.component_patches(restored, torch.tensor([2.0, 2, 9, 9]).expand(2, 3, 4))["mouth"].mean(),
        ]

    exact = all_of(restored, gt)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = all_of(restored.bfloat16(), gt.bfloat16())
    for expected, value in zip(exact, rounded, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=0.02, abs=2e-3)


def test_the_priors_losses_give_every_parameter_a_finite_gradient() -> None:
    generator, discriminator = StyleGAN2Generator((8, 8, 8), 8, 2, "paper"), StyleGAN2Discriminator((8, 8, 8))
    latents = generator.latents(torch.randn(4, 8))
    made = generator(latents)
    penalty, _ = losses.path_length_penalty(made, latents, torch.tensor(0.0), torch.randn_like(made))
    (losses.generator_adversarial_loss(discriminator(made)) + 2 * penalty).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_pieces_of_faces_are_cut_at_the_same_random_places_within_the_face() -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    places = torch.stack([rows, columns, rows * 64 + columns]).expand(40, 3, 64, 64)
    first, second = losses.random_face_crops((places, places + 0.5), 24)
    assert first.shape == (40, 3, 24, 24)
    assert torch.equal(second, first + 0.5), "one place for both"
    tops, lefts = first[:, 0, 0, 0], first[:, 1, 0, 0]
    assert torch.equal(first[:, 0, -1, 0], tops + 23)
    assert torch.equal(first[:, 1, 0, -1], lefts + 23)
    assert tops.min() >= int(0.2 * 64)
    assert tops.max() + 24 <= 0.95 * 64
    assert lefts.min() >= int(0.15 * 64)
    assert lefts.max() + 24 <= 0.85 * 64
    assert len(set(zip(tops.tolist(), lefts.tolist(), strict=True))) > 20, "places of their own"


def test_a_piece_larger_than_the_face_is_the_whole_face() -> None:
    faces = images(size=16)
    assert torch.equal(losses.random_face_crops([faces], 128)[0], faces)
