"""Restore photos as a library: open the networks once, then restore arrays or files.

photo -> faces -> crops -> restored crops -> enlarged background with the restored faces pasted in. The command line and
the batch scheduler are thin layers on `Restoration`. Pixels are RGB (H, W, 3) uint8 or uint16; the dtype is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.device import choose_device, choose_precision, face_seed, precision_name
from gfprestore.errors import FaceError, UsageError
from gfprestore.faces.alignment import FaceCrop, align_face, crop_sharpness
from gfprestore.faces.detection import DetectedFace, select_faces
from gfprestore.faces.pasting import face_mask, paste_face, yield_to_neighbors
from gfprestore.faces.tone import Toning, match_brightness, toning_of
from gfprestore.networks.retouching_operations import OPERATIONS
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import check_size, write_photo
from gfprestore.photo.xmp import labeled
from gfprestore.pixels import enlarged_size, resized
from gfprestore.restoration.background import ResampledBackground, StopRequest
from gfprestore.restoration.choices import DownloadReport, NetworkChooser
from gfprestore.restoration.frrffusion import ESTIMATE_LABEL, FRRffusionRestorer
from gfprestore.restoration.model_loader import Opener
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.pages import restore_pages
from gfprestore.restoration.planned import NetworkNames, resolved
from gfprestore.restoration.transparency import enlarge_alpha, filled_outward
from gfprestore.stopwatch import Stopwatch
from gfprestore.tensors import pixels_to_signed, signed_to_pixels
from gfprestore.weights.store import WeightsStore

log = logging.getLogger(__name__)

Pixels = NDArray[Any]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo with its detected and cropped faces, ready for the restorer.

    Attributes:
        pixels: The photo, (H, W, 3) uint8 or uint16.
        faces: Detected faces, in stable order.
        crops: One aligned crop for each face to restore, in the same order; faces outside the restorer's limits are
            skipped.
        toning: Tone of a monochrome or toned photo, if it is to be preserved.
        seeds: One seed per crop if the run has a seed.
        shares: Weight of each restored crop, 0 to 1, in addition to the option `strength`.
    """

    pixels: Pixels
    faces: tuple[DetectedFace, ...]
    crops: tuple[FaceCrop, ...]
    toning: Toning | None
    seeds: tuple[int, ...] | None
    shares: tuple[float, ...]


@dataclass(frozen=True)
class RestoredFace:
    """A restored face.

    Attributes:
        pixels: Pixels (T, T, 3) of the photo's dtype.
        mask: Soft mask (T, T) float32 in [0, 1].
        levels: Levels in [0, 1] of the six retouching operations that were assumed, by name; None with other restorers.
        is_untouched: The face was taken for untouched: nothing is to be reversed, and it is not pasted.
    """

    pixels: Pixels
    mask: NDArray[np.float32]
    levels: Mapping[str, float] | None = None
    is_untouched: bool = False


@dataclass(frozen=True)
class RestoredPhoto:
    """Result for one photo.

    Attributes:
        pixels: Restored photo, (round(H * upscale), round(W * upscale), 3), dtype of the input; the restored crop,
            (T, T, 3), where inputs are aligned.
        faces: Detected faces in pixels of the input, including those outside the restorer's limits.
        crops: Input crops of the network.
        restored: The restored crops; None where a face could not be computed and was not changed.
    """

    pixels: Pixels
    faces: tuple[DetectedFace, ...]
    crops: tuple[FaceCrop, ...]
    restored: tuple[RestoredFace | None, ...]

    @property
    def restored_faces(self) -> int:
        """Number of restored faces."""
        return sum(face is not None and not face.is_untouched for face in self.restored)

    @property
    def untouched_faces(self) -> int:
        """Number of faces that were taken for untouched and not changed."""
        return sum(face is not None and face.is_untouched for face in self.restored)


class Restoration:
    """Restorer of photos that loads the networks once and then takes arrays or files.

    Args:
        options: Options; the defaults are those of `gfprestore run`.
        download_progress: Returns, for a weights name, a function that is called with (bytes received, total bytes or
            None).
        chooser: Choices of networks that were made before; None makes them here.

    Raises:
        UsageError: The value of an option is out of range or unknown.
        WeightsError: Weights are missing, damaged or for another network.
        DeviceError: The device is not available.
    """

    def __init__(
        self,
        options: RunOptions | None = None,
        download_progress: DownloadReport | None = None,
        chooser: NetworkChooser | None = None,
    ) -> None:
        self.options = options or RunOptions()
        self.options.check()
        self.stopwatch = Stopwatch()
        self.device = choose_device(self.options.device)
        self.dtype = choose_precision(self.options.precision, self.device)
        if chooser is None or chooser.device_type != self.device.type:
            store = WeightsStore(self.options.weights_dir, offline=self.options.offline)
            chooser = NetworkChooser(store, self.device.type, download_progress)
        background_dtype = None if self.options.precision == "auto" else self.dtype
        opener = Opener(chooser.store, self.device, download_progress, self.dtype, background_dtype, chooser)
        self.restorer = opener.restorer(self.options.restorer, self.options.weights, self.options.reversal)
        self.upscale, background = resolved(self.options, self.restorer_name)
        finds_faces = self.restorer is not None and not self.options.aligned
        self.detector = opener.detector(self.options.detector) if finds_faces else None
        self.parser = opener.parser() if finds_faces else None
        self.background = (
            None if self.options.aligned else opener.background(background, self.upscale, self.options.tile)
        )
        self.weights_used = dict(opener.weights_used)

    @property
    def names(self) -> NetworkNames:
        """Names of the networks, as reports and the journal name them."""
        return NetworkNames(
            restorer=self.restorer_name,
            background=self.background_name,
            detector=None if self.detector is None else self.detector.name,
            parser=self.parser is not None,
            weights=self.weights_used,
            upscale=self.upscale,
            precision=precision_name(self.dtype),
        )

    def settings(self) -> dict[str, Any]:
        """Settings that affect the pixels, for the journal."""
        return self.names.settings(self.options)

    def opened(self) -> Restoration:
        """This restoration; `PlannedRestoration` opens its networks here."""
        return self

    @property
    def restorer_name(self) -> str:
        """Name of the face restorer, or `none`."""
        return self.restorer.name if self.restorer is not None else "none"

    @property
    def background_name(self) -> str:
        """Name of the background method, or `none` for aligned crops."""
        return self.background.name if self.background is not None else "none"

    @property
    def batch_size(self) -> int:
        """Maximum number of faces per batch."""
        if self.options.batch_size is not None:
            return self.options.batch_size
        return 8 if self.device.type == "cuda" else 2

    def restore(
        self,
        pixels: Pixels,
        name: str = "",
        on_progress: Progress | None = None,
        should_stop: StopRequest | None = None,
        *,
        alpha: Pixels | None = None,
    ) -> RestoredPhoto:
        """Restore one array.

        Args:
            pixels: RGB (H, W, 3) or gray (H, W), uint8 or uint16.
            name: Name from which the seeds of the faces are derived if the option `seed` is set.
            on_progress: Called with the finished fraction of the background, 0 to 1.
            should_stop: Called often while the background is enlarged; returns whether to stop.
            alpha: Transparency (H, W); what lies under full transparency has no influence on the rest.

        Returns:
            Restored RGB pixels and the faces.

        Raises:
            DeviceError: The memory is too small for one face or the smallest tile.
            UpscalingStopped: `should_stop` returned true.
            UsageError: The shape or type of the array is not supported.
        """
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in (np.uint8, np.uint16) or pixels.size == 0:
            raise UsageError(
                f"Arrays of shape {pixels.shape} and type {pixels.dtype} are not supported. "
                "Use RGB (H, W, 3) or gray (H, W), uint8 or uint16."
            )
        prepared = self.prepare(self.without_hidden_colors(pixels, alpha), name)
        return self.finish(prepared, self.restore_faces([prepared])[0], on_progress, should_stop)

    def restore_file(self, source: str | Path, output: str | Path) -> RestoredPhoto:
        """Restore one file into another, with its metadata; the suffix of the output determines the format.

        All pages of a TIFF are restored; the result is that of the first. What was not read or not kept is logged.

        Args:
            source: A photo; never written to.
            output: Output file; never left incomplete.

        Returns:
            The written photo and the faces.

        Raises:
            PhotoError: The source cannot be read or the output cannot be written.
            DeviceError: The memory is too small for one face or the smallest tile.
        """
        source, output = Path(source), Path(output)
        options = self.options
        photo = read_photo(source, options.max_pixels, accept_truncated=options.accept_truncated, first_page=True)
        if photo.pages > 1:
            return self._restore_pages(source, output)
        if not options.aligned:
            check_size(output, *self.output_size(photo.pixels.shape[1], photo.pixels.shape[0]), photo)
        result = self.restore(photo.pixels, source.name, alpha=photo.alpha)
        after = self.with_result(photo, result)
        for warning in (*after.metadata.warnings, *write_photo(after, output)):
            log.warning(f"{source}: {warning}")
        return result

    def _restore_pages(self, source: Path, output: Path) -> RestoredPhoto:
        """Restore the pages of a file, log their warnings, and return the result of the first."""
        result: RestoredPhoto | None = None
        for page in restore_pages(self, source, output, name=source.name):
            result = result or page.finished  # the others are not kept in memory
            for warning in (*page.after.metadata.warnings, *page.notes):
                log.warning(f"{source}, page {page.number}: {warning}")
        assert result is not None
        return result

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result for a photo that is not an aligned crop."""
        return enlarged_size(height, width, self.upscale)[::-1]

    def with_result(self, photo: Photo, result: RestoredPhoto) -> Photo:
        """Photo with restored pixels and alpha enlarged to their size, ready to be written.

        A photo with reversed faces is labeled: the faces are estimates.
        """
        alpha = photo.alpha
        if alpha is not None and self.options.aligned:
            height, width = result.pixels.shape[:2]
            alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR)
        elif alpha is not None:
            alpha = enlarge_alpha(alpha, self.upscale)
        metadata = photo.metadata
        if isinstance(self.restorer, FRRffusionRestorer) and result.restored_faces:
            label = labeled(metadata.xmp, ESTIMATE_LABEL)
            if label is None:  # the label is more important than a packet that no program can read
                metadata = metadata.warned("its XMP is not valid and was replaced by the label of estimated faces")
                label = labeled(None, ESTIMATE_LABEL)
            metadata = replace(metadata, xmp=label)
        return replace(photo, pixels=result.pixels, alpha=alpha, metadata=metadata)

    def without_hidden_colors(self, pixels: Pixels, alpha: Pixels | None) -> Pixels:
        """Pixels to prepare for a photo with transparency: colors under full transparency are those beside them.

        Where nothing is enlarged, hidden colors have no influence, and the pixels stay as they are.
        """
        if self.upscale == 1 and isinstance(self.background, ResampledBackground):
            return pixels
        return filled_outward(pixels, alpha)

    def prepare(self, pixels: Pixels, name: str = "") -> PreparedPhoto:
        """Detect and crop the faces of a photo (H, W, 3).

        Args:
            pixels: The photo.
            name: Name from which the seeds of the faces are derived.

        Returns:
            The photo with one crop per face; for aligned inputs the crop is the whole image.
        """
        faces: tuple[DetectedFace, ...] = ()
        crops: tuple[FaceCrop, ...] = ()
        shares: tuple[float, ...] = ()
        if self.restorer is not None:
            if self.options.aligned:
                crops, shares = (whole_image_crop(pixels, self.restorer.input_size),), (1.0,)
            elif self.detector is not None:
                threshold = self.options.detection_threshold
                with self.stopwatch.part("detect"):
                    found = self.detector.detect(pixels)
                faces = tuple(
                    select_faces(
                        found,
                        (pixels.shape[1], pixels.shape[0]),
                        only_center=self.options.only_center_face,
                        min_face=self.options.min_face,
                        threshold=self.detector.default_threshold if threshold is None else threshold,
                    )
                )
                crops, shares = self._crops(pixels, faces)
        toning = None
        if crops and self.options.color != "restore":
            toning = toning_of(pixels, [face.box for face in faces])
        seed = self.options.seed
        seeds = None if seed is None else tuple(face_seed(seed, name, index) for index in range(len(crops)))
        return PreparedPhoto(pixels, faces, crops, toning, seeds, shares)

    def _crops(self, pixels: Pixels, faces: Sequence[DetectedFace]) -> tuple[tuple[FaceCrop, ...], tuple[float, ...]]:
        """Crops of the faces that the restorer improves, and the weight of each restored face."""
        assert self.restorer is not None
        limits = self.restorer.limits
        kept: list[tuple[FaceCrop, float]] = []
        for face in faces:
            crop = align_face(pixels, face, self.restorer.input_size)
            share = 1.0
            if limits is not None:
                share = limits.share(crop.side_in_photo, crop_sharpness(crop.pixels))
            if share > 0:
                kept.append((crop, share))
        return tuple(crop for crop, _ in kept), tuple(share for _, share in kept)

    def restore_faces(self, photos: Sequence[PreparedPhoto]) -> list[list[RestoredFace | None]]:
        """Restore the faces of several photos in common batches.

        Args:
            photos: Prepared photos; a face's result does not depend on the others.

        Returns:
            For each photo one entry per face, None if the network's output was invalid in every precision.

        Raises:
            DeviceError: The memory is too small for one face.
        """
        jobs = [(photo, index) for photo in photos for index in range(len(photo.crops))]
        results: list[RestoredFace | None] = []
        for start in range(0, len(jobs), self.batch_size):
            results.extend(self._restore_batch(jobs[start : start + self.batch_size]))
        remaining = iter(results)
        return [[next(remaining) for _ in photo.crops] for photo in photos]

    def _restore_batch(self, jobs: Sequence[tuple[PreparedPhoto, int]]) -> list[RestoredFace | None]:
        assert self.restorer is not None
        crops = torch.cat([pixels_to_signed(photo.crops[index].pixels) for photo, index in jobs])  # (B, 3, S, S)
        seeds = None if self.options.seed is None else [photo.seeds[index] for photo, index in jobs if photo.seeds]
        with self.stopwatch.part("restore"):
            reversal = self.restorer.reverse(crops, seeds) if isinstance(self.restorer, FRRffusionRestorer) else None
            restored = self.restorer.restore(crops, seeds) if reversal is None else reversal.restored
            masks = self._masks(restored)
        if reversal is not None:
            masks = np.maximum(masks, reversal.changed_places(crops))
        faces: list[RestoredFace | None] = []
        for number, (photo, index) in enumerate(jobs):
            face, mask = restored[number], masks[number]
            levels = None
            if reversal is not None:
                levels = dict(zip(OPERATIONS, reversal.levels[number].tolist(), strict=True))
                if bool(reversal.untouched[number]):
                    faces.append(RestoredFace(self._original(photo, index), mask, levels, is_untouched=True))
                    continue
            if not bool(face.isfinite().all()):
                faces.append(None)
                continue
            pixels = signed_to_pixels(face.unsqueeze(0), photo.pixels.dtype)
            if not self.options.aligned and reversal is None:
                pixels = match_brightness(pixels, photo.crops[index].pixels, mask)
            if photo.toning is not None:
                pixels = photo.toning.apply(pixels)
            faces.append(RestoredFace(pixels, mask, levels))
        return faces

    def _original(self, photo: PreparedPhoto, index: int) -> Pixels:
        """A face as it is in the photo, at the size (T, T, 3) of a restored one; for aligned inputs the whole image."""
        assert self.restorer is not None
        pixels = photo.pixels if self.options.aligned else photo.crops[index].pixels
        return resized(pixels, self.restorer.output_size, self.restorer.output_size)

    def _masks(self, restored: Tensor) -> NDArray[np.float32]:
        """Paste masks (B, T, T): from the face parser if it is loaded, else the same face-shaped mask for all."""
        assert self.restorer is not None
        if self.parser is not None:
            return np.asarray(self.parser.masks(restored.nan_to_num(0.0)).cpu(), np.float32)
        size = self.restorer.output_size
        return np.broadcast_to(face_mask(size), (len(restored), size, size))

    def finish(
        self,
        prepared: PreparedPhoto,
        restored: Sequence[RestoredFace | None],
        on_progress: Progress | None = None,
        should_stop: StopRequest | None = None,
    ) -> RestoredPhoto:
        """Enlarge the background and paste the restored faces.

        Args:
            prepared: The photo.
            restored: Result of `restore_faces` for it.
            on_progress: Called with the finished fraction of the background, 0 to 1.
            should_stop: Called often while the background is enlarged; returns whether to stop.

        Returns:
            The restored photo.

        Raises:
            FaceError: Inputs are aligned and the network's output was invalid.
            DeviceError: The memory is too small for the smallest tile.
            UpscalingStopped: `should_stop` returned true.
        """
        if self.background is None:
            canvas = self._finish_aligned(prepared, restored)
        else:
            with self.stopwatch.part("background"):
                canvas = self.background.enlarge(
                    prepared.pixels, self.upscale, on_progress=on_progress, should_stop=should_stop
                )
            if np.may_share_memory(canvas, prepared.pixels):
                canvas = canvas.copy()
            height, width = prepared.pixels.shape[:2]
            scale = (canvas.shape[1] / width, canvas.shape[0] / height)
            for index, (crop, face) in enumerate(zip(prepared.crops, restored, strict=True)):
                if face is not None and not face.is_untouched:
                    neighbors = [*prepared.crops[:index], *prepared.crops[index + 1 :]]
                    mask = yield_to_neighbors(face.mask, crop, neighbors)
                    strength = self.options.strength * prepared.shares[index]
                    paste_face(canvas, face.pixels, crop, scale, mask, strength)
        return RestoredPhoto(canvas, prepared.faces, prepared.crops, tuple(restored))

    def _finish_aligned(self, prepared: PreparedPhoto, restored: Sequence[RestoredFace | None]) -> Pixels:
        face = restored[0]
        if face is None:
            raise FaceError(f"{self.restorer_name} produced NaN or infinite values for this face, even in fp32.")
        strength = self.options.strength
        if strength == 1 or face.is_untouched:
            return face.pixels
        original = self._original(prepared, 0)
        blended = face.pixels.astype(np.float32) * strength + original.astype(np.float32) * (1 - strength)
        return np.rint(blended).astype(face.pixels.dtype)


def whole_image_crop(pixels: Pixels, size: int) -> FaceCrop:
    """Resize an aligned image (H, W, 3) to the network's size (S, S, 3); unchanged if it already has that size."""
    height, width = pixels.shape[:2]
    across, down = size / width, size / height
    photo_to_crop = np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5]])
    return FaceCrop(resized(pixels, size, size), photo_to_crop)
