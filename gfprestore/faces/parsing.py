"""Face masks from ParseNet, facexlib's parsing network (19 classes of CelebAMask-HQ, Lee et al., CVPR 2020).

A mask covers the classes that GFP-GAN restores well: skin, brows, eyes, glasses, ears, nose, mouth, lips, hair and
earrings. It excludes the others: background, hat, necklace, neck and cloth. Tensors are (B, 3, S, S)
float RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from facexlib.parsing.parsenet import ParseNet
from torch import Tensor

from gfprestore.errors import WeightsError

PARSING_SIZE = 512
# Numbers of the classes that belong to the face: 1 skin, 2 nose, 3 glasses, 4 and 5 eyes, 6 and 7 brows, 8 and 9 ears,
# 10 mouth, 11 and 12 lips, 13 hair, 15 earring. Excluded: 0 background, 14 hat, 16 necklace, 17 neck, 18 cloth.
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)
SOFTNESS = 15.0  # standard deviation of the mask's edge, in pixels of 512
BORDER = (10, 58)  # the mask is 0 up to the first and 1 from the second distance to the crop's border, in pixels of 512


class FaceParser:
    """Face parser: masks of the face pixels in aligned crops.

    Args:
        state: The released weights of ParseNet.
        device: Device to compute on.

    Raises:
        WeightsError: The weights are for another network.
    """

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self._network = ParseNet(in_size=PARSING_SIZE, out_size=PARSING_SIZE, parsing_ch=19)
        try:
            self._network.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise WeightsError(f"These are not ParseNet weights: {str(error).splitlines()[-1].strip()}") from None
        self._network.to(memory_format=torch.channels_last).to(device).eval().requires_grad_(False)
        self._device = device

    def masks(self, crops: Tensor) -> Tensor:
        """Compute soft masks of aligned faces.

        Args:
            crops: (B, 3, S, S) RGB in [-1, 1].

        Returns:
            (B, S, S) float32 in [0, 1] on the crops' device, zero at the border.
        """
        size = crops.shape[-1]
        images = crops.to(self._device, torch.float32)
        if size != PARSING_SIZE:
            images = F.interpolate(
                images, size=(PARSING_SIZE, PARSING_SIZE), mode="bilinear", align_corners=False, antialias=True
            )
        with torch.inference_mode():
            masks = torch.cat([self._face_pixels(image[None]) for image in images])  # one by one to limit memory
            masks = soft_masks(masks)
            if size != PARSING_SIZE:
                masks = F.interpolate(masks[:, None], size=(size, size), mode="bilinear", antialias=True)[:, 0]
        return masks.clamp(0, 1).to(crops.device)

    def _face_pixels(self, image: Tensor) -> Tensor:
        """Binary mask (1, 512, 512) of an image (1, 3, 512, 512): 1 where the most likely class belongs to the face."""
        classes = self._network(image.contiguous(memory_format=torch.channels_last))[0].argmax(dim=1)
        return torch.isin(classes, torch.tensor(FACE_CLASSES, device=classes.device)).float()


def soft_masks(masks: Tensor) -> Tensor:
    """Soften masks (B, 512, 512) and fade them out toward the crop's border, so that hair has no straight edge."""
    masks = _blurred(masks * _border_fade(masks.device), SOFTNESS)
    return masks * _border_fade(masks.device)


def _border_fade(device: torch.device) -> Tensor:
    """Weights (512, 512): 0 at the border, rising smoothly to 1."""
    position = torch.arange(PARSING_SIZE, device=device)
    distance = torch.minimum(position, PARSING_SIZE - 1 - position).float()
    rise = ((distance - BORDER[0]) / (BORDER[1] - BORDER[0])).clamp(0, 1)
    rise = rise * rise * (3 - 2 * rise)
    return rise[:, None] * rise[None, :]


def _blurred(masks: Tensor, deviation: float) -> Tensor:
    """Blur masks (B, H, W) with a Gaussian, with zeros beyond the border."""
    radius = round(3 * deviation)
    offsets = torch.arange(-radius, radius + 1, device=masks.device, dtype=masks.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    columns = F.conv2d(masks[:, None], kernel[None, None, :, None], padding=(radius, 0))
    return F.conv2d(columns, kernel[None, None, None, :], padding=(0, radius))[:, 0]
