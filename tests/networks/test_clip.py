"""CLIP's image encoder, with the same random weights as torch's own transformer layers and as Hugging Face's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks.clip import DEVIATION, MEAN, CLIPImageEncoder, QuickGELU


def random_encoder() -> CLIPImageEncoder:
    encoder = CLIPImageEncoder(patch=8, grid=3, width=128, layers=2, embedding=32).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def openai_state(encoder: CLIPImageEncoder) -> dict[str, Tensor]:
    return {f"visual.{name}": tensor for name, tensor in encoder.state_dict().items()} | {"logit_scale": torch.ones(())}


def test_the_encoder_equals_one_of_torchs_transformer_layers() -> None:
    encoder = random_encoder()
    images = torch.rand(2, 3, 24, 24) * 2 - 1
    x = ((images + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    x = encoder.conv1(x).flatten(2).mT
    x = torch.cat([encoder.class_embedding.expand(2, 1, -1), x], 1) + encoder.positional_embedding
    x = encoder.ln_pre(x)
    blocks: Any = encoder.transformer["resblocks"]
    for block in blocks:
        layer = nn.TransformerEncoderLayer(
            128, 2, 512, dropout=0.0, activation=QuickGELU(), batch_first=True, norm_first=True
        )
        names = {"attn": "self_attn", "ln_1": "norm1", "ln_2": "norm2", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2"}
        state = {}
        for name, tensor in block.state_dict().items():
            start = next(start for start in names if name.startswith(start))
            state[name.replace(start, names[start])] = tensor
        layer.load_state_dict(state, strict=True)
        x = layer.eval()(x)
    expected = encoder.ln_post(x)[:, 0] @ encoder.proj
    loaded = CLIPImageEncoder.from_state(openai_state(encoder))
    assert loaded.size == 24
    assert torch.allclose(loaded(images), expected, atol=1e-4, rtol=1e-4)


def test_the_encoder_equals_hugging_faces_on_its_own_names() -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    config = transformers.CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, image_size=24,
        patch_size=8, projection_dim=32, hidden_act="quick_gelu",
    )  # fmt: skip
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = CLIPImageEncoder.from_state(theirs.state_dict())
    images = torch.rand(2, 3, 24, 24)
    normal = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    with torch.no_grad():
        expected = theirs(pixel_values=normal).image_embeds
    assert torch.allclose(ours(images * 2 - 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", ["missing", "shape", "none"])
def test_other_weights_are_refused(change: str) -> None:
    state = openai_state(random_encoder())
    if change == "missing":
        del state["visual.ln_post.weight"]
    elif change == "shape":
        state["visual.proj"] = torch.zeros(7, 7)
    else:
        state = {"weight": torch.zeros(3)}
    with pytest.raises(ValueError, match="not the weights of CLIP"):
        CLIPImageEncoder.from_state(state)
