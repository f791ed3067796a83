"""What a restorer does to held-out faces: the table of its model card.

Run: gfprestore degrade FACES -o SET --split test --seed 1
     python tests/benchmarks/bench_restorer.py SET... [--weights FILE] [--every N] [--worst FOLDER] [--sides 32,64]
     python tests/benchmarks/bench_restorer.py SET... --by sharpness|turn [--shares 0.5,1] [--sides 48,96]

Compares the lq itself, Real-ESRGAN x4plus on the same crop shrunk to a quarter, the restorer, and the blend of its
image and the lq that `run` makes by the measured rule, each with the gt.
PSNR, SSIM, NIQE and ST-LPIPS are of the face itself (rows 120 to 450, columns 105 to 407 of the aligned 512), so that a
clean background hides nothing; the identity distance (dlib's recognizer) is of the whole crop. A restorer of another
size gets the crop shrunk, and its image is enlarged by cubics. Needs the extras `offline`, `eval` and, for the
identity, `landmarks`. `--worst` writes the faces whose identity suffers most, the methods and the gt side by side;
`--sides` compares with plain enlargement on faces of those sizes in the photo. `--by` asks where the restorer does
good: what shares of its image, last that of `run`, change at faces of like sharpness (those of `--sides` among
them), or turned alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.data.capture import jpeg
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.faces.alignment import crop_sharpness
from gfprestore.faces.mtcnn import MTCNNDetector
from gfprestore.photo.reading import read_photo
from gfprestore.pixels import resized
from gfprestore.restoration.background import NetworkBackground
from gfprestore.restoration.model_loader import EMBEDDED_LIMITS
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration
from gfprestore.weights.store import WeightsStore

Pixels = NDArray[Any]

FACE = (slice(120, 450), slice(105, 407))
METRICS = ("psnr", "ssim", "niqe", "st_lpips", "identity_dlib")
SIDE_METRICS = ("psnr", "ssim", "identity_dlib")
WORST = 6
EDGES = {  # of the rows of `--by`
    "sharpness": (0.38, 0.43, 0.47, 0.51, 0.55, 0.60, 0.66, 0.72),
    "turn": (0.1, 0.3, 0.5, 0.6, 0.8),
}
SIDE_FACES = 13  # of each of `--sides` in the rows of `--by`
SIDE_NOISE, SIDE_QUALITY = 4.0, 85  # of the faces of `--sides`: a decent scan


def open_methods(weights: Path | None, strength: float = 1.0) -> dict[str, Callable[[Pixels], Pixels]]:
    """What is compared, by its name in the table."""
    store = WeightsStore(offline=True)
    network: Any = store.load("real-esrgan-x4plus").module
    enlarger = NetworkBackground(network, "real-esrgan-x4plus", torch.device("cpu"), None)
    name = "auto" if weights is not None else "compact-restorer"
    restoration = Restoration(
        RunOptions(restorer=name, weights=weights, strength=strength, aligned=True, color="restore", offline=True)
    )

    def restore_large_enough(lq: Pixels) -> Pixels:
        side = max(len(lq), 256)
        return resized(restoration.restore(lq).pixels, side, side)

    return {
        "degraded input": lambda lq: lq,
        "real-esrgan-x4plus": lambda lq: enlarger.enlarge(resized(lq, len(lq) // 4, len(lq) // 4), 4.0),
        restoration.restorer_name: restore_large_enough,
    }


def blended(plain: Pixels, restored: Pixels, share: float) -> Pixels:
    """This share of the restored face, and the rest of the plain one."""
    blend = share * restored.astype(np.float32) + (1 - share) * plain.astype(np.float32)
    return np.asarray(np.rint(blend).astype(np.uint8))


def as_run_takes_it(lq: Pixels, restored: Pixels) -> Pixels:
    """The blend of `run` for the embedded restorer, whatever restored the face."""
    return blended(lq, restored, EMBEDDED_LIMITS.share(len(lq), crop_sharpness(resized(lq, 256, 256))))


def scores_of(
    images: Sequence[Pixels], gts: Sequence[Pixels], metrics: Sequence[str] = METRICS
) -> dict[str, list[float]]:
    """One number an image, by metric."""
    scores: dict[str, list[float]] = {}
    for name in metrics:
        metric: Any = open_metric(name, WeightsStore(offline=True), torch.device("cpu"))
        whole = name == "identity_dlib"
        pairs = [(a, b) if whole else (a[FACE], b[FACE]) for a, b in zip(images, gts, strict=True)]
        scores[name] = [metric.score([a], [b])[0] for a, b in pairs]
    return scores


def faces_of_side(gts: Sequence[Pixels], side: int) -> list[Pixels]:
    """The faces as a photo holds them in which their crop is `side` pixels wide: (side, side, 3)."""
    random = np.random.default_rng(side)
    faces = []
    for gt in gts:
        small = resized(gt, side, side).astype(np.float32) / np.float32(255)
        noisy = small + random.standard_normal(small.shape, np.float32) * np.float32(SIDE_NOISE / 255)
        coded = np.rint(jpeg(noisy, SIDE_QUALITY) * 255).astype(np.uint8)
        faces.append(coded)
    return faces


def print_sides(restore: Callable[[Pixels], Pixels], gts: Sequence[Pixels], sides: Sequence[int]) -> None:
    """One row a side: plainly enlarged against restored."""
    for side in sides:
        faces = faces_of_side(gts, side)
        size = len(gts[0])
        plain = scores_of([resized(face, size, size) for face in faces], gts, SIDE_METRICS)
        ours = scores_of([resized(restore(face), size, size) for face in faces], gts, SIDE_METRICS)
        row = {name: [round(float(np.nanmean(x[name])), 3) for x in (plain, ours)] for name in SIDE_METRICS}
        print(json.dumps({"side": side, "faces": len(gts), "plain_and_restored": row}), flush=True)


@dataclass(frozen=True)
class Case:
    """A face at the gt's size: without the restorer, with it, and as it should be.

    Attributes:
        key: What it is sorted by.
        side: Of the crop in the photo; 0 for those of the set.
        share: What `run` takes of the restored one.
    """

    plain: Pixels
    restored: Pixels
    gt: Pixels
    key: float
    side: int
    share: float


def cases_of(
    restore: Callable[[Pixels], Pixels], lqs: Sequence[Pixels], gts: Sequence[Pixels], sides: Sequence[int], by: str
) -> list[Case]:
    """The faces of the set, side 0, and some of them as photos of good quality hold them at other sides."""
    faces = [(lq, gt, 0) for lq, gt in zip(lqs, gts, strict=True)]
    some = gts[:: max(1, len(gts) // SIDE_FACES)][:SIDE_FACES]
    for side in sides:
        faces += [(face, gt, side) for face, gt in zip(faces_of_side(some, side), some, strict=True)]
    cases = []
    for face, gt, side in faces:
        sharpness, size = crop_sharpness(resized(face, 256, 256)), len(gt)
        key = sharpness if by == "sharpness" else turn_of(gt)
        if not np.isnan(key):
            share = EMBEDDED_LIMITS.share(len(face), sharpness)
            cases.append(Case(resized(face, size, size), resized(restore(face), size, size), gt, key, side, share))
    return cases


def turn_of(gt: Pixels) -> float:
    """How far a face is turned: the nose's way off the middle between the eyes, in eye distances; NaN if not found."""
    found = MTCNNDetector().detect(gt)
    if not found:
        return float("nan")
    left, right, nose = max(found, key=lambda face: face.score).landmarks[:3].astype(np.float64)
    along = right - left
    return float(abs((nose - (left + right) / 2) @ along) / (along @ along))


def print_shares(cases: Sequence[Case], by: str, shares: Sequence[float]) -> None:
    """One row a bin of the key, and one a side: what each share of the restored image changes, last that of `run`."""
    gts = [case.gt for case in cases]
    before = scores_of([case.plain for case in cases], gts, SIDE_METRICS)
    columns = [*([share] * len(cases) for share in shares), [case.share for case in cases]]
    after = []
    for column in columns:
        images = [blended(case.plain, case.restored, share) for case, share in zip(cases, column, strict=True)]
        after.append(scores_of(images, gts, SIDE_METRICS))
    keys, sides = np.array([case.key for case in cases]), np.array([case.side for case in cases])
    edges = (0.0, *EDGES[by], np.inf)
    groups = [(f"{by} {low} to {high}", (keys >= low) & (keys < high)) for low, high in pairwise(edges)]
    groups += [(f"side {side or 'of the set'}", sides == side) for side in np.unique(sides)]
    for name, members in groups:
        if not members.any():
            continue
        row: dict[str, Any] = {name: int(members.sum())}
        for metric in SIDE_METRICS:
            old = np.array(before[metric])[members]
            row[metric] = round(float(np.nanmean(old)), 3)
            new = [np.array(scores[metric])[members] for scores in after]
            row[f"{metric}_change"] = [round(float(np.nanmean(values - old)), 3) for values in new]
            row[f"{metric}_less"] = [round(float(np.mean(values < old)), 2) for values in new]
        print(json.dumps(row), flush=True)


def main() -> None:
    """Prints one row a method, and the share of faces that are nearer to the gt than the input is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth face of the sets")
    parser.add_argument("--worst", type=Path)
    parser.add_argument("--strength", type=float, default=1.0, help="blend of the restored face and the input")
    parser.add_argument("--without", action="append", default=[], help="leave a method out")
    parser.add_argument("--sides", help="sides of crops in the photo, as 32,64: measures these instead")
    parser.add_argument("--by", choices=sorted(EDGES), help="rows of faces that are alike in this")
    parser.add_argument("--shares", default="0.5,0.75,1", help="of the restored image, in the rows of --by")
    arguments = parser.parse_args()
    pairs = [(folder, path) for folder in arguments.sets for path in sorted((folder / "lq").rglob("*.png"))]
    pairs = pairs[:: arguments.every]
    paths = [path for _, path in pairs]
    lqs = [read_photo(path).pixels for path in paths]
    gts = [read_photo(folder / "gt" / path.relative_to(folder / "lq")).pixels for folder, path in pairs]
    sides = [int(side) for side in (arguments.sides or "").split(",") if side]
    if sides or arguments.by:
        *_, restore = open_methods(arguments.weights, arguments.strength).values()
        if arguments.by:
            shares = [float(share) for share in arguments.shares.split(",")]
            print_shares(cases_of(restore, lqs, gts, sides, arguments.by), arguments.by, shares)
        else:
            print_sides(restore, gts, sides)
        return
    made: dict[str, list[Pixels]] = {}
    table: dict[str, dict[str, list[float]]] = {}
    methods = open_methods(arguments.weights, arguments.strength)
    ours = list(methods)[-1]
    for name, method in methods.items():
        if name not in arguments.without:
            made[name] = [method(lq) for lq in lqs]
    if ours in made:
        made["as run takes it"] = [as_run_takes_it(lq, restored) for lq, restored in zip(lqs, made[ours], strict=True)]
    for name, images_made in made.items():
        table[name] = scores_of(images_made, gts)
        means = {metric: round(float(np.nanmean(values)), 4) for metric, values in table[name].items()}
        distances = zip(table[name]["identity_dlib"], table["degraded input"]["identity_dlib"], strict=True)
        nearer = [after < before for after, before in distances]
        print(json.dumps({"method": name, "faces": len(lqs), **means, "identity_nearer": round(np.mean(nearer), 3)}))
    if arguments.worst is not None and ours in made:
        change = np.subtract(table[ours]["identity_dlib"], table["degraded input"]["identity_dlib"])
        arguments.worst.mkdir(parents=True, exist_ok=True)
        for place, index in enumerate(np.argsort(-change)[:WORST]):
            row = np.concatenate([*(images[index] for images in made.values()), gts[index]], axis=1)
            cv2.imwrite(str(arguments.worst / f"{place}-{paths[index].stem}.png"), row[..., ::-1])


if __name__ == "__main__":
    main()
