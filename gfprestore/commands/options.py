"""Options that several commands share, each declared once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

INPUT_OUTPUT = "Input and output"
FACES = "Faces"
BACKGROUND = "Background"
PERFORMANCE = "Performance"
BEHAVIOR = "Behavior"
INITIAL_WEIGHTS = "Initial weights"
LOSSES = "Losses"
REVERSAL = "Face retouching reversal (an estimate, no evidence of how a person looks)"
TRAINING = "Training"


def _in_panel(name: str) -> Callable[..., Any]:
    """`typer.Option` for one panel of the help."""
    return functools.partial(typer.Option, rich_help_panel=name)


io_option = _in_panel(INPUT_OUTPUT)
faces_option = _in_panel(FACES)
background_option = _in_panel(BACKGROUND)
performance_option = _in_panel(PERFORMANCE)
behavior_option = _in_panel(BEHAVIOR)
initial_weights_option = _in_panel(INITIAL_WEIGHTS)
losses_option = _in_panel(LOSSES)
reversal_option = _in_panel(REVERSAL)
training_option = _in_panel(TRAINING)


class Color(str, Enum):
    """Treatment of the tone of a monochrome, sepia or otherwise toned photo."""

    AUTO = "auto"
    KEEP = "keep"
    RESTORE = "restore"


class Precision(str, Enum):
    """Floating-point type of the networks."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Format(str, Enum):
    """Format of the outputs."""

    KEEP = "keep"
    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


class Alignment(str, Enum):
    """Kind of the inputs of an evaluation."""

    AUTO = "auto"
    ALIGNED = "aligned"
    PHOTO = "photo"


Offline = Annotated[bool, behavior_option("--offline", help="Never use the network.")]


WeightsDir = Annotated[
    Path | None, behavior_option("--weights-dir", metavar="DIR", help="Folder of weights that is searched first.")
]


Debug = Annotated[bool, behavior_option("--debug", help="Show tracebacks and log messages.")]


Json = Annotated[bool, behavior_option("--json", help="Write one JSON object per line to stdout and nothing else.")]


Device = Annotated[str, performance_option("--device", metavar="NAME", help="Device: auto, cpu, cuda, cuda:N or mps.")]


Exclude = Annotated[
    list[str] | None, io_option("--exclude", metavar="PATTERN", help="Skip matching names; repeatable.")
]
Upscale = Annotated[
    float | None,
    io_option("--upscale", metavar="1..4", help="Enlargement of the photo; default: 2, or 1 with frrffusion."),
]
RestorerName = Annotated[
    str,
    faces_option(
        "--restorer",
        metavar="NAME",
        help="Face restorer: auto, none, frrffusion (reverses face retouching), or a name from `weights list`.",
    ),
]
OwnRestorer = Annotated[
    Path | None, faces_option("--weights", metavar="FILE", help="Your own face restorer, recognized by its tensors.")
]
DetectorName = Annotated[
    str,
    faces_option(
        "--detector", metavar="NAME", help="Face detector: auto, mtcnn, retinaface-resnet50 or retinaface-mobilenet."
    ),
]
BackgroundName = Annotated[
    str,
    background_option(
        "--background",
        metavar="NAME",
        help="Background network: auto (none with frrffusion), none, lanczos, or a name from `weights list`.",
    ),
]
NamedPrecision = Annotated[Precision, performance_option("--precision", help="Floating-point type of the networks.")]
BatchSize = Annotated[
    int | None, performance_option("--batch-size", metavar="N", help="Maximum number of faces per batch.")
]
Tile = Annotated[
    int | None,
    performance_option("--tile", metavar="PX", help="Side of the background's tiles; default: by available memory."),
]


SetOutput = Annotated[Path, io_option("--output", "-o", metavar="DIR", help="Output folder.")]
SetSeed = Annotated[int, behavior_option("--seed", metavar="N", help="Random seed.")]
Split = Annotated[
    str | None, io_option("--split", metavar="NAME", help="Use only these rows of the source's index.csv.")
]
Threads = Annotated[int, performance_option("--workers", metavar="N", min=1, help="Number of threads.")]
