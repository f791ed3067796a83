"""ArcFace's recognizer (Deng et al., CVPR 2019) as a ResNet-18 of improved residual blocks on gray faces.

It computes the embedding of the identity loss (Wang et al., CVPR 2021, section 3.5). Tensors have the official names.
Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

SIZE = 128
EMBEDDING = 512


class ImprovedBlock(nn.Module):
    """Residual block with a normalization before the first convolution, and one shared PReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv1 = _convolution(in_channels, in_channels, 3)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.prelu = nn.PReLU()
        self.conv2 = _convolution(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        inner = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        inner = self.bn2(self.conv2(inner))
        activated: Tensor = self.prelu(inner + (x if self.downsample is None else self.downsample(x)))
        return activated


class ArcFaceResNet18(nn.Module):
    """Embedding of gray faces in which faces of the same person are close to each other.

    A fixed loss network: create it with `from_state` or call `eval()` on it; otherwise its normalizations would use
    batch statistics and its dropout would be active.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(1, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = _two_blocks(64, 64, stride=1)
        self.layer2 = _two_blocks(64, 128, stride=2)
        self.layer3 = _two_blocks(128, 256, stride=2)
        self.layer4 = _two_blocks(256, 512, stride=2)
        self.bn4 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout()
        self.fc5 = nn.Linear(512 * (SIZE // 16) ** 2, EMBEDDING)
        self.bn5 = nn.BatchNorm1d(EMBEDDING)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ArcFaceResNet18:
        """Build the network with these weights, frozen: in eval mode, without gradients of its own.

        Raises:
            ValueError: The tensors do not belong to this network.
        """
        module = cls()
        try:
            module.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise ValueError(f"these are not the weights of ArcFace's ResNet-18: {error}") from error
        return module.eval().requires_grad_(False)

    def forward(self, gray: Tensor) -> Tensor:
        """Embed faces.

        Args:
            gray: (B, 1, 128, 128) in [-1, 1], aligned like FFHQ faces.

        Returns:
            (B, 512), not normalized.
        """
        x = self.maxpool(self.prelu(self.bn1(self.conv1(gray))))  # (B, 64, 64, 64)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, 8, 8)
        x = self.dropout(self.bn4(x)).flatten(1)  # in the order (C, H, W), for any memory format
        embedding: Tensor = self.bn5(self.fc5(x))
        return embedding


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer


def _two_blocks(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ImprovedBlock(in_channels, out_channels, stride), ImprovedBlock(out_channels, out_channels, stride=1)
    )
