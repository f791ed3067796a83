"""The constant inverse: the mean warp and the mean residual of training pairs, applied to every face alike.

It knows nothing of the face before it. A network has learned something only where it is better than this. Everything
is at 256 pixels, in the frame of an aligned crop.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.images import Pixels, read_pixels, sha256_of
from gfprestore.data.pair_folders import GT, LQ, image_path, read_description
from gfprestore.data.retouched_pairs import PAIRS_NAME, RetouchedPair, read_retouched_pairs
from gfprestore.data.retouching_geometry import pixel_grid
from gfprestore.errors import PhotoError, UsageError
from gfprestore.evaluation.reversal.crops import SMALL, Pair, small
from gfprestore.evaluation.reversal.kept import Kept, key_of
from gfprestore.evaluation.reversal.rows import AT_256, IN_PHOTO, Row, Work, paste_small
from gfprestore.files import write_whole

Floats = NDArray[np.float32]

VERSION = 1


@dataclass(frozen=True, eq=False)
class ConstantInverse:
    """What is applied to every face.

    Attributes:
        field: (256, 256, 2) float32 x, y: mean of the true inverse fields, in pixels.
        residual: (256, 256, 3) float32: mean difference of the originals to the warped retouched faces, in levels.
        count: Number of pairs.
    """

    field: Floats
    residual: Floats
    count: int

    def apply(self, pixels: Pixels) -> Pixels:
        """Reverse a crop (256, 256, 3)."""
        levels = np.rint(np.clip(_warped(pixels, self.field) + self.residual, 0, 255))
        return np.asarray(levels, np.uint8)


def training_pairs(folder: Path) -> list[RetouchedPair]:
    """The pairs to learn from.

    Args:
        folder: A set of `gfprestore retouch`.

    Raises:
        UsageError: The folder is not such a set, or its pairs are aligned on the original.
        FolderError: The table cannot be read.
    """
    pairs = read_retouched_pairs(folder) if folder.is_dir() else []
    if not pairs:
        raise UsageError(
            f"--constant-from {folder} is not a set of training pairs: it has no {PAIRS_NAME} with rows. Make it with "
            "`gfprestore retouch`."
        )
    if (read_description(folder) or {}).get("keep_alignment") is True:
        raise UsageError(
            f"--constant-from {folder} holds pairs in the frame of the originals. Make a set without --keep-alignment: "
            "faces are aligned on the retouched face here."
        )
    return pairs


def learn(folder: Path, cache: Path, on_progress: Callable[[int, int], None]) -> ConstantInverse:
    """Average the pairs of a training set; the result is cached.

    Args:
        folder: See `training_pairs`.
        cache: An existing folder for the result.
        on_progress: Called with the number of finished steps and their total.

    Raises:
        UsageError: See `training_pairs`.
        PhotoError: An image cannot be read.
        FolderError: The table or the cache cannot be accessed.
    """
    pairs = training_pairs(folder)
    path = cache / f"constant-{key_of(VERSION, sha256_of(folder / PAIRS_NAME))[:16]}.npz"
    known = _read(path)
    if known is not None:
        return known
    total = 2 * len(pairs)
    field = np.zeros((SMALL, SMALL, 2), np.float64)
    for number, pair in enumerate(pairs, 1):
        field += pair.field(SMALL)
        on_progress(number, total)
    mean_field = (field / len(pairs)).astype(np.float32)
    residual = np.zeros((SMALL, SMALL, 3), np.float64)
    for number, pair in enumerate(pairs, len(pairs) + 1):
        lq, gt = _images(folder, pair)
        residual += gt.astype(np.float32) - _warped(lq, mean_field)
        on_progress(number, total)
    found = ConstantInverse(mean_field, (residual / len(pairs)).astype(np.float32), len(pairs))
    stream = io.BytesIO()
    np.savez(stream, field=found.field, residual=found.residual, count=np.array(found.count))
    write_whole(path, stream.getvalue())
    return found


def constant_row(inverse: ConstantInverse, pairs: Sequence[Pair], work: Work) -> Row:
    """Apply the constant inverse to all pairs.

    Raises:
        PhotoError: An image cannot be read or written.
        FolderError: The output folder cannot be written.
    """
    kept = Kept(work.root / "rows" / "constant", work.root)
    digest = key_of(VERSION, inverse.field.tobytes().hex(), inverse.residual.tobytes().hex())
    row = Row()
    for number, pair in enumerate(pairs, 1):
        key = key_of("constant", digest, sha256_of(pair.lq_small), sha256_of(pair.case.lq))
        if not kept.is_done(pair.name, key):
            face = inverse.apply(read_pixels(pair.lq_small).pixels)
            images = {AT_256: face}
            if pair.lq_photo is not None:
                images[IN_PHOTO] = paste_small(pair, face)
            kept.put(pair.name, key, images)
        row.small[pair.name] = kept.path(AT_256, pair.name)
        if pair.lq_photo is not None:
            row.photo[pair.name] = kept.path(IN_PHOTO, pair.name)
        work.on_progress(number)
    return row


def _images(folder: Path, pair: RetouchedPair) -> tuple[Pixels, Pixels]:
    """Retouched and original at 256 pixels.

    Raises:
        PhotoError: One cannot be read or is not square.
    """
    images = []
    for part in (LQ, GT):
        path = image_path(folder, part, pair.name)
        pixels = small(read_pixels(path).pixels)
        if pixels.shape[0] != SMALL:
            raise PhotoError(f"{path} is not square, and an aligned face is.")
        images.append(pixels)
    return images[0], images[1]


def _warped(pixels: Pixels, field: Floats) -> Floats:
    x, y = pixel_grid((slice(0, SMALL), slice(0, SMALL)))
    values = pixels.astype(np.float32)
    from_x, from_y = x + field[..., 0], y + field[..., 1]
    return np.asarray(cv2.remap(values, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101))


def _read(path: Path) -> ConstantInverse | None:
    """The cached result; None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            field, residual = arrays["field"], arrays["residual"]
            count = int(arrays["count"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if field.shape != (SMALL, SMALL, 2) or residual.shape != (SMALL, SMALL, 3):
        return None
    return ConstantInverse(field, residual, count)
