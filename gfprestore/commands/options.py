"""Options that several commands share, each declared once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

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


class Color(str, Enum):
    """What happens to the tone of a monochrome, sepia or otherwise toned photo."""

    AUTO = "auto"
    KEEP = "keep"
    RESTORE = "restore"


class Precision(str, Enum):
    """The floating-point type of the networks."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Format(str, Enum):
    """The format of the outputs."""

    KEEP = "keep"
    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


class Alignment(str, Enum):
    """What the inputs of an evaluation are."""

    AUTO = "auto"
    ALIGNED = "aligned"
    PHOTO = "photo"


Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never use the network.", rich_help_panel=BEHAVIOR),
]


WeightsDir = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir", metavar="DIR", help="Folder of weights that is searched first.", rich_help_panel=BEHAVIOR
    ),
]


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks and log messages.", rich_help_panel=BEHAVIOR),
]


Json = Annotated[
    bool,
    typer.Option("--json", help="Write one JSON object per line to stdout and nothing else.", rich_help_panel=BEHAVIOR),
]


Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="NAME", help="Device: auto, cpu, cuda, cuda:N or mps.", rich_help_panel=PERFORMANCE
    ),
]


Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="Skip matching names; repeatable.", rich_help_panel=INPUT_OUTPUT),
]
Upscale = Annotated[
    float | None,
    typer.Option(
        "--upscale",
        metavar="1..4",
        help="Enlargement of the photo; default: 2, or 1 with frrffusion.",
        rich_help_panel=INPUT_OUTPUT,
    ),
]
RestorerName = Annotated[
    str,
    typer.Option(
        "--restorer",
        metavar="NAME",
        help="Face restorer: auto, none, frrffusion (reverses face retouching), or a name from `weights list`.",
        rich_help_panel=FACES,
    ),
]
OwnRestorer = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Your own face restorer, recognized by its tensors.", rich_help_panel=FACES
    ),
]
DetectorName = Annotated[
    str,
    typer.Option(
        "--detector",
        metavar="NAME",
        help="Face detector: auto, mtcnn, retinaface-resnet50 or retinaface-mobilenet.",
        rich_help_panel=FACES,
    ),
]
BackgroundName = Annotated[
    str,
    typer.Option(
        "--background",
        metavar="NAME",
        help="Background network: auto (none with frrffusion), none, lanczos, or a name from `weights list`.",
        rich_help_panel=BACKGROUND,
    ),
]
NamedPrecision = Annotated[
    Precision,
    typer.Option("--precision", help="Floating-point type of the networks.", rich_help_panel=PERFORMANCE),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Maximum number of faces per batch.", rich_help_panel=PERFORMANCE),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="PX",
        help="Side of the background's tiles; default: by available memory.",
        rich_help_panel=PERFORMANCE,
    ),
]


SetOutput = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Output folder.", rich_help_panel=INPUT_OUTPUT)
]
SetSeed = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=BEHAVIOR)]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Use only these rows of the source's index.csv.",
        rich_help_panel=INPUT_OUTPUT,
    ),
]
Threads = Annotated[
    int, typer.Option("--workers", metavar="N", min=1, help="Number of threads.", rich_help_panel=PERFORMANCE)
]
