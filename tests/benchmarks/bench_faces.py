"""Seconds a face of GFP-GAN: ours against the official class, the same random weights, one process, taking turns.

Run: python tests/benchmarks/bench_faces.py [--pairs 5] [--threads 2] [--half]

Only the ratio means something on a machine with other work: each pair of runs meets the same conditions, and the median
of the pairs' ratios is printed beside the ratio of the fastest runs. Needs the extra `official`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import functional

from gfprestore.networks.gfpgan import GFPGAN, config_from_state


def official_network() -> nn.Module:
    """The official clean network at full size (channel multiplier 2), weights random."""
    alias = types.ModuleType("torchvision.transforms.functional_tensor")  # dropped by torchvision, imported by basicsr
    alias.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules.setdefault(alias.__name__, alias)
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

    network: nn.Module = GFPGANv1Clean(512, channel_multiplier=2, input_is_latent=True, different_w=True, sft_half=True)
    return network.eval()


def seconds(restore: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Runs once and times it."""
    start = time.perf_counter()
    result = restore()
    return time.perf_counter() - start, result


def compare(name: str, pairs: int, theirs: Callable[[], Tensor], ours: Callable[[], Tensor]) -> float:
    """Times both in turns and prints; returns the median ratio."""
    theirs()
    ours()
    ratios, fastest = [], [float("inf"), float("inf")]
    for pair in range(1, pairs + 1):
        official_seconds, expected = seconds(theirs)
        our_seconds, restored = seconds(ours)
        ratios.append(official_seconds / our_seconds)
        fastest = [min(fastest[0], official_seconds), min(fastest[1], our_seconds)]
        difference = (restored - expected).abs() / (2 * expected.std())  # of the image's scale, as [-1, 1]
        print(
            f"{name} pair {pair}: official {official_seconds:6.2f} s/face, ours {our_seconds:6.2f} s/face, "
            f"ratio {ratios[-1]:5.2f}; difference in levels of 255: mean {127.5 * difference.mean().item():.4f}, "
            f"max {127.5 * difference.max().item():.4f}"
        )
    ratio = statistics.median(ratios)
    print(f"{name}: official/ours, median of the pairs {ratio:.2f}, of the fastest runs {fastest[0] / fastest[1]:.2f}")
    return ratio


def main() -> int:
    """Exit code 1 when ours is less than 1.1 times as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", action="store_true", help="also ours in bfloat16 against the official in float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    official = official_network()
    state = official.state_dict()
    config = config_from_state(state)
    assert config is not None
    network = GFPGAN(config).eval()
    network.load_state_dict(state)
    network.to(memory_format=torch.channels_last)
    small = torch.rand(1, 3, 64, 64) * 2 - 1
    lq = torch.nn.functional.interpolate(small, size=(512, 512), mode="bicubic").clamp(-1, 1)

    with torch.inference_mode():

        def theirs() -> Tensor:
            image: Tensor = official(lq, return_rgb=False, randomize_noise=False)[0]
            return image

        ratio = compare("float32", options.pairs, theirs, lambda: network(lq))
        if options.half:
            half = copy.deepcopy(network).to(torch.bfloat16)
            compare("bfloat16", options.pairs, theirs, lambda: half(lq))
    return 0 if ratio >= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
