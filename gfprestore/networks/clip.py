"""Image encoder of CLIP (Radford et al., ICML 2021): a vision transformer whose embedding describes an image.

Tensors have OpenAI's names (without `visual.`); files of Hugging Face are converted by `from_state`. Sizes are derived
from the weights. Tensors are (B, C, H, W) float. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1]
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64

_HUGGING_FACE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # the misspelling is Hugging Face's
    "post_layernorm": "ln_post",
}
_HUGGING_FACE_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class QuickGELU(nn.Module):
    """The approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """Attention and a two-layer network, each after a normalization and added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False)[0]
        result: Tensor = x + self.mlp(self.ln_2(x))
        return result


class CLIPImageEncoder(nn.Module):
    """The image encoder.

    Args:
        patch: Side of a patch in pixels.
        grid: Patches a side; the input has `patch * grid` pixels a side.
        width: Channels of a token, a multiple of 64.
        layers: Number of blocks.
        embedding: Channels of the result.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, patch: int, grid: int, width: int, layers: int, embedding: int) -> None:
        super().__init__()
        self.size = patch * grid
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        blocks = nn.Sequential(*(ResidualAttentionBlock(width) for _ in range(layers)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embedding))
        # [-1, 1] -> [0, 1] -> CLIP's mean and deviation, in one step
        mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
        self.register_buffer("mean", (2 * mean - 1).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", (2 * deviation).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> CLIPImageEncoder:
        """Build the encoder for these weights, frozen: without gradients of its own.

        Args:
            state: OpenAI's names (with or without the text encoder) or Hugging Face's.

        Raises:
            ValueError: The weights are for another network.
        """
        own = _own_names(state)
        sizes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        try:
            width, _, patch, _ = sizes["conv1.weight"]
            grid = round((sizes["positional_embedding"][0] - 1) ** 0.5)
            layers = len([name for name in own if re.fullmatch(r"transformer\.resblocks\.\d+\.ln_1\.weight", name)])
            if width % HEAD_WIDTH:
                raise ValueError(f"the width {width} is not a multiple of {HEAD_WIDTH}")
            encoder = cls(patch, grid, width, layers, sizes["proj"][1])
            encoder.load_state_dict({name: tensor.float() for name, tensor in own.items()}, strict=True)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError("these are not the weights of CLIP with a vision transformer") from error
        return encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, 3, S, S) RGB in [-1, 1] of the encoder's size.

        Returns:
            (B, embedding), not normalized.
        """
        patches = self.conv1((images - self.mean) / self.deviation).flatten(2).transpose(1, 2)  # (B, grid**2, width)
        first = self.class_embedding.expand(len(images), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        tokens = self.transformer["resblocks"](tokens)
        result: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return result


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's tensors under OpenAI's names."""
    if "vision_model.embeddings.class_embedding" in state:
        return _from_hugging_face(state)
    return {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if "visual_projection.weight" in state:
        found["proj"] = state["visual_projection.weight"].T
    for name, tensor in state.items():
        if not name.startswith("vision_model.") or name.endswith("position_ids"):
            continue
        name = name.removeprefix("vision_model.")
        block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            whole = _HUGGING_FACE.get(name)
            part, _, kind = name.rpartition(".")
            found[whole or f"{_HUGGING_FACE.get(part, part)}.{kind}"] = tensor
        elif block[2] == "self_attn.q_proj":
            parts = [state[f"vision_model.encoder.layers.{block[1]}.self_attn.{p}_proj.{block[3]}"] for p in "qkv"]
            found[f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"] = torch.cat(parts)
        elif block[2] in _HUGGING_FACE_BLOCK:
            found[f"transformer.resblocks.{block[1]}.{_HUGGING_FACE_BLOCK[block[2]]}.{block[3]}"] = tensor
    return found
