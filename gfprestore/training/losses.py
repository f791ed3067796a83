"""The losses of GFP-GAN (Wang et al., CVPR 2021, section 3.5) and of its StyleGAN2 prior, one function each.

Each function returns an unweighted scalar (a float32 tensor without dimensions); the recipe computes the weighted sum.
Images are (B, 3, S, S) float RGB in [-1, 1]. The ground truth receives no gradient. Losses are computed in float32,
even if the networks run in lower precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torchvision.ops import roi_align

from gfprestore.networks.dlib_resnet import SIZE as CHIP_SIZE
from gfprestore.networks.layers import luma
from gfprestore.networks.vgg import VGGLayout

Component = Literal["left_eye", "right_eye", "mouth"]

COMPONENTS: tuple[Component, ...] = ("left_eye", "right_eye", "mouth")
"""Order of the component boxes of a face."""

PATCH_SIZES: dict[Component, int] = {"left_eye": 80, "right_eye": 80, "mouth": 120}
"""Side of the component patches, in faces of 512 pixels."""

FACE_REGION = (0.15, 0.2, 0.85, 0.95)
"""Left, top, right and bottom of the face in an aligned crop, relative to its side."""

PERCEPTUAL_WEIGHTS: dict[VGGLayout, dict[str, float]] = {
    "vgg19": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0},
    "vgg16": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_3": 1.0, "conv4_3": 1.0, "conv5_3": 1.0},
}
"""Layers and their weights: the last convolution of each block. VGG-16 is not the paper's network."""

BLURRED_PERCEPTUAL_WEIGHTS = {"conv1_2": 4.0, "conv2_2": 2.3, "conv3_3": 3.6, "conv4_3": 0.36, "conv5_3": 0.009}
"""Weights for the retrained VGG-16 of shift-tolerant LPIPS. The mean magnitudes of its features on aligned faces are
0.12, 0.21, 0.28, 2.8 and 57, so the weights are 0.5, 0.5, 1, 1 and 0.5 divided by these."""

COMPONENT_STYLE_WEIGHTS = (0.5, 1.0)
"""Weights of the component discriminators' features at half and at quarter size."""

DLIB_CHIP = (87, 138, 428, 479)
"""Left, top, right and bottom of the crop for dlib's recognizer, in an aligned face of 512 pixels.

It is the mean of the crops of `get_face_chip` (padding 0.25) over 96 faces, which vary by 10 pixels in side and 2
degrees in rotation.
"""

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue with which the recognizer was trained; BT.601 with one more digit."""


def reconstruction_loss(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute difference of the images (first term of equation 5)."""
    return F.l1_loss(restored.float(), gt.detach().float())


def perceptual_loss(
    features: Mapping[str, Tensor], gt_features: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    """Mean absolute difference of VGG's features, summed over the layers (second term of equation 5).

    Args:
        features: Features of the restored images, (B, C, H, W) by layer.
        gt_features: Features of the gt.
        weights: Weight of each layer, see `PERCEPTUAL_WEIGHTS`.
    """
    terms = [weight * _l1(features[layer], gt_features[layer]) for layer, weight in weights.items()]
    return torch.stack(terms).sum()


def style_loss(
    features: Mapping[str, Tensor], gt_features: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    """Mean absolute difference of the Gram matrices of VGG's features; an addition of the official training.

    The arguments are those of `perceptual_loss`.
    """
    terms = [weight * _l1(gram(features[layer]), gram(gt_features[layer])) for layer, weight in weights.items()]
    return torch.stack(terms).sum()


def pyramid_loss(pyramid: Sequence[Tensor], gt: Tensor) -> Tensor:
    """Mean absolute difference at every scale of the U-Net, summed over the scales (section 3.2).

    Args:
        pyramid: Images of the U-Net, (B, 3, s, s) for s = 8, 16, ... S.
        gt: Ground truth (B, 3, S, S); halved bilinearly for the smaller scales.
    """
    target = gt.detach().float()
    terms = []
    for image in reversed(pyramid):
        if image.shape[2] < target.shape[2]:
            target = F.avg_pool2d(target, 2)  # halving bilinearly averages 2 x 2 pixels
        terms.append(_l1(image, target))
    return torch.stack(terms).sum()


def generator_adversarial_loss(logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator, the mean of softplus(-logits) (equation 6).

    Equation 6 has the opposite sign inside; both versions push the restored images toward "real".

    Args:
        logits: Logits of restored images, of any shape; the loss of an empty tensor is 0.
    """
    return _mean(F.softplus(-logits.float()))


def discriminator_adversarial_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator: the mean of softplus(-real) plus that of softplus(fake).

    Args:
        real_logits: Logits of real images, of any shape.
        fake_logits: Logits of generated images.
    """
    return _mean(F.softplus(-real_logits.float())) + _mean(F.softplus(fake_logits.float()))


def r1_penalty(real: Tensor, real_logits: Tensor) -> Tensor:
    """Mean squared norm of the discriminator's gradient at real images (Mescheder et al., ICML 2018, equation 9).

    The recipe multiplies it by gamma / 2 and by the number of steps between two penalties.

    Args:
        real: Real images (B, 3, S, S) that require gradients.
        real_logits: Their logits (B, 1).
    """
    (gradient,) = torch.autograd.grad(real_logits.float().sum(), real, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def path_length_penalty(
    images: Tensor, latents: Tensor, mean_length: Tensor, directions: Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Path length regularization of StyleGAN2 (Karras et al., CVPR 2020, equation 4).

    Args:
        images: Generated images (B, 3, S, S).
        latents: Style codes (B, L, D) of the images.
        mean_length: Running mean of the path lengths, a scalar; initially 0.
        directions: Standard normal noise of the shape of the images.
        decay: Weight of the batch in the new running mean.

    Returns:
        The penalty, and the new running mean without gradient.
    """
    directions = directions / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images.float() * directions).sum(), latents, create_graph=True)
    lengths = gradient.float().square().sum(2).mean(1).sqrt()  # (B, L, D) -> (B,)
    mean = torch.lerp(mean_length.to(lengths), lengths.mean(), decay)
    return (lengths - mean).square().mean(), mean.detach()


def component_patches(images: Tensor, boxes: Tensor) -> dict[Component, Tensor]:
    """Cut eyes and mouth out of faces by ROI align (section 3.5).

    Components with an unknown box (NaN) are skipped. Restored and gt faces with the same boxes give corresponding
    patches.

    Args:
        images: Faces (B, 3, S, S).
        boxes: Left, top, right and bottom edges (B, 3, 4) in pixels, in the order of `COMPONENTS`. A box over the whole
            image is (0, 0, S, S).

    Returns:
        Patches (N, 3, P, P) float32 by component, N <= B. P is `PATCH_SIZES` for S = 512, and proportional otherwise.
    """
    patches: dict[Component, Tensor] = {}
    for index, component in enumerate(COMPONENTS):
        known = torch.isfinite(boxes[:, index]).all(1)
        faces = known.nonzero().float()  # (N, 1)
        regions = torch.cat([faces, boxes[known, index].float()], dim=1).to(images.device)
        size = round(PATCH_SIZES[component] * images.shape[2] / 512)
        patches[component] = roi_align(images.float(), regions, size, aligned=True)
    return patches


def random_face_crops(images: Sequence[Tensor], side: int) -> list[Tensor]:
    """Cut a random square out of each face, at the same position in every batch.

    The positions are drawn from torch's global generator.

    Args:
        images: Batches (B, 3, S, S) of the same aligned faces.
        side: Side of the squares, at most S. They lie within `FACE_REGION` if they fit.

    Returns:
        Crops (B, 3, side, side) for each batch.
    """
    count, _, size, _ = images[0].shape
    side = min(side, size)
    left, top, right, bottom = (share * size for share in FACE_REGION)
    with unset_fake_temporarily():  # positions must be real numbers, even in a memory plan on fake tensors
        corner = torch.tensor([top, left])
        room = (torch.tensor([bottom, right]) - corner - side).clamp(min=0)
        places = (corner + torch.rand(count, 2) * room).clamp(max=size - side).int().tolist()
    return [
        torch.stack([face[:, y : y + side, x : x + side] for face, (y, x) in zip(batch, places, strict=True)])
        for batch in images
    ]


def component_adversarial_loss(logits: Tensor) -> Tensor:
    """First term of equation 7 for one component: the vanilla GAN loss.

    The cross-entropy of a logit with the label "real" is softplus(-logit), so this is the loss of whole faces.

    Args:
        logits: Logits of restored patches, (N, 1, p, p); the loss is 0 if N is 0.
    """
    return generator_adversarial_loss(logits)


def component_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Vanilla GAN loss of one component discriminator: the cross-entropy of real and of restored patches.

    Args:
        real_logits: Logits of patches of the gt, (N, 1, p, p).
        fake_logits: Logits of restored patches.
    """
    return discriminator_adversarial_loss(real_logits, fake_logits)


def component_style_loss(features: Sequence[Tensor], gt_features: Sequence[Tensor]) -> Tensor:
    """Second term of equation 7 for one component: absolute difference of the Gram matrices of the discriminator.

    Args:
        features: Features of restored patches in the component discriminator, (N, C, H, W) at half and at quarter size.
        gt_features: Features of the patches of the gt.
    """
    return _component_features_loss([gram(x) for x in features], [gram(x) for x in gt_features])


def component_matching_loss(features: Sequence[Tensor], gt_features: Sequence[Tensor]) -> Tensor:
    """Feature matching instead of the style term, an ablation of the paper: absolute difference of the features.

    The arguments are those of `component_style_loss`.
    """
    return _component_features_loss(features, gt_features)


def identity_loss(embeddings: Tensor, gt_embeddings: Tensor) -> Tensor:
    """Mean absolute difference of ArcFace embeddings (B, 512) (equation 8)."""
    return _l1(embeddings, gt_embeddings)


def gray_for_identity(images: Tensor, size: int = 128) -> Tensor:
    """Input of ArcFace from images (B, 3, S, S): gray (B, 1, 128, 128) float32 in [-1, 1], resized bilinearly."""
    return F.interpolate(luma(images.float(), GRAY_WEIGHTS), size=(size, size), mode="bilinear", align_corners=False)


def embedding_distance(embeddings: Tensor, gt_embeddings: Tensor) -> Tensor:
    """Mean Euclidean distance of dlib's embeddings (B, D); above 0.6 two faces count as different people."""
    difference = embeddings.float() - gt_embeddings.detach().float()
    return _mean((difference.square().sum(1) + 1e-8).sqrt())  # the square root has no finite gradient at 0


def chip_for_identity(images: Tensor, size: int = CHIP_SIZE) -> Tensor:
    """Input of dlib's recognizer from aligned images (B, 3, S, S): the face alone, (B, 3, 150, 150) float32.

    All channels are gray, so that the loss does not change colors. For the same reason the gradient is equal for red,
    green and blue; the gradient of the weighted sum would favor green edges.
    """
    left, top, right, bottom = (round(edge * images.shape[-1] / 512) for edge in DLIB_CHIP)
    face = images[..., top:bottom, left:right].float()
    neutral = face.mean(1, keepdim=True)
    chips = (luma(face, GRAY_WEIGHTS).detach() + (neutral - neutral.detach())).expand(-1, 3, -1, -1)
    return F.interpolate(chips, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def gram(features: Tensor) -> Tensor:
    """Gram matrices (B, C, C) float32 of features (B, C, H, W), divided by C H W."""
    _, channels, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        places = features.float().permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C)
        return places.transpose(1, 2) @ places / (channels * height * width)


def _component_features_loss(features: Sequence[Tensor], gt_features: Sequence[Tensor]) -> Tensor:
    layers = zip(COMPONENT_STYLE_WEIGHTS, features, gt_features, strict=True)
    return torch.stack([weight * _l1(ours, theirs) for weight, ours, theirs in layers]).sum()


def _l1(ours: Tensor, gt: Tensor) -> Tensor:
    return _mean((ours.float() - gt.detach().float()).abs())


def _mean(x: Tensor) -> Tensor:
    """Mean of a tensor, 0 if it is empty; a batch without known eyes or mouths then still has gradients."""
    return x.sum() / max(x.numel(), 1)
