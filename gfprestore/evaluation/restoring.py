"""Restoration of a test set into a folder, with resume after an interrupted run.

The network output is used unchanged: crops in, crops out, without tone or brightness matching and without pasting.
Whole photos are first aligned by the face nearest their center, as in `gfprestore run`. Finished images are recorded in
the journal of the output folder; an image is restored again if the image, the settings or the weights have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gfprestore.batch.journal import FAILED, RESTORED, Journal, JournalEntry, utc_now
from gfprestore.batch.output_folder import create_folder_within
from gfprestore.batch.source_state import read_source_state
from gfprestore.data.images import Pixels, read_pixels, write_png
from gfprestore.data.test_sets import ALIGNED_SIDE
from gfprestore.device import precision_name
from gfprestore.errors import FaceError, FolderError, GfprestoreError
from gfprestore.faces.alignment import align_face
from gfprestore.faces.detection import Detector, select_faces
from gfprestore.restoration.restoration import PreparedPhoto, Restoration

ALIGNED_FOLDER = "aligned"
RESTORED_FOLDER = "restored"
SMALLEST_FACE = 16.0  # pixels, as in `gfprestore run`


@dataclass
class Written:
    """Results of a step for the images of a set.

    Attributes:
        folder: Folder of the results.
        images: Results by name.
        failed: Error messages by name.
        done_before: Number of results from an earlier run.
    """

    folder: Path
    images: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    done_before: int = 0


class Step:
    """A resumable step that writes one image to the output folder per input image.

    Args:
        journal: Journal of the output folder.
        folder: Folder of the results, inside the output folder.
        settings: Everything that affects the pixels.
    """

    def __init__(self, journal: Journal, folder: Path, settings: Mapping[str, Any]) -> None:
        self.journal = journal
        self.written = Written(folder)
        self.fingerprint = journal.note_settings(settings)

    def waiting(self, sources: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
        """Yield the unfinished images; finished ones are added to `written`."""
        for name, source in sources.items():
            if self.journal.is_done(self._relative(name), source, self.fingerprint, self._path(name)):
                self.written.images[name] = self._path(name)
                self.written.done_before += 1
            else:
                yield name, source

    def keep(self, name: str, source: Path, pixels: Pixels) -> None:
        """Write a result and record it in the journal.

        Raises:
            PhotoError: The result cannot be written.
            FolderError: The output folder no longer exists.
        """
        path = self._path(name)
        create_folder_within(path.parent, self.journal.folder)
        state = read_source_state(source)
        self.journal.begin(self._relative(name), source, path, self.fingerprint)
        write_png(path, pixels)
        self.journal.record(
            JournalEntry(
                relative=self._relative(name),
                status=RESTORED,
                output=path.relative_to(self.journal.folder).as_posix(),
                output_size=path.stat().st_size,
                source=str(source.absolute()),
                source_sha256=state.sha256,
                source_size=state.size,
                source_modified_ns=state.modified_ns,
                fingerprint=self.fingerprint,
                faces=1,
                restored_faces=1,
                finished=utc_now(),
            )
        )
        self.written.images[name] = path

    def fail(self, name: str, source: Path, error: GfprestoreError) -> None:
        """Record an error in the journal.

        Raises:
            FolderError: The output folder is no longer usable.
        """
        if isinstance(error, FolderError):
            raise error
        self.written.failed[name] = str(error)
        self.journal.record(
            JournalEntry(
                relative=self._relative(name),
                status=FAILED,
                source=str(source.absolute()),
                fingerprint=self.fingerprint,
                error=str(error),
                finished=utc_now(),
            )
        )

    def _path(self, name: str) -> Path:
        return self.written.folder / f"{name}.png"

    def _relative(self, name: str) -> str:
        return self._path(name).relative_to(self.journal.folder).as_posix()


def align_photos(
    sources: Mapping[str, Path],
    journal: Journal,
    detector: Detector,
    detector_sha256: str | None,
    on_progress: Callable[[int], None],
) -> Written:
    """Align the face nearest the center of each photo to the FFHQ template at 512 pixels.

    Args:
        sources: Photos by name.
        journal: Journal of the output folder; crops are written to its folder `aligned`.
        detector: Face detector.
        detector_sha256: SHA-256 of its weights file; None if it has none.
        on_progress: Called with the number of finished photos.

    Raises:
        FolderError: The output folder cannot be written.
    """
    settings = {"step": "align", "detector": detector.name, "weights": detector_sha256, "size": ALIGNED_SIDE}
    step = Step(journal, journal.folder / ALIGNED_FOLDER, settings)
    for name, source in step.waiting(sources):
        try:
            step.keep(name, source, _aligned_face(source, detector))
        except GfprestoreError as error:
            step.fail(name, source, error)
        on_progress(len(step.written.images) + len(step.written.failed))
    return step.written


def restore_set(
    sources: Mapping[str, Path], journal: Journal, restoration: Restoration, on_progress: Callable[[int], None]
) -> Written:
    """Restore aligned crops in batches.

    Args:
        sources: Crops by name.
        journal: Journal of the output folder; results are written to `restored/<restorer>-<hash of the settings>`.
        restoration: The loaded network, for aligned crops.
        on_progress: Called with the number of finished images.

    Raises:
        FolderError: The output folder cannot be written.
        DeviceError: There is not enough memory for one face.
    """
    settings = restoration_settings(restoration)
    folder = journal.folder / RESTORED_FOLDER / method_name(restoration, journal.note_settings(settings))
    step = Step(journal, folder, settings)
    batch: list[tuple[str, Path, PreparedPhoto]] = []
    for name, source in step.waiting(sources):
        try:
            batch.append((name, source, restoration.prepare(read_pixels(source).pixels, name)))
        except GfprestoreError as error:
            step.fail(name, source, error)
        if len(batch) >= restoration.batch_size:
            _restore(batch, restoration, step)
            batch = []
        on_progress(len(step.written.images) + len(step.written.failed))
    _restore(batch, restoration, step)
    on_progress(len(step.written.images) + len(step.written.failed))
    return step.written


def restoration_settings(restoration: Restoration) -> dict[str, Any]:
    """Settings that affect the pixels of a restored crop."""
    return {
        "step": "restore",
        "restorer": restoration.restorer_name,
        "weights": restoration.weights_used.get("restorer"),
        "aligned": restoration.options.aligned,
        "colour": restoration.options.color,
        "strength": restoration.options.strength,
        "precision": precision_name(restoration.dtype),
        "seed": restoration.options.seed,
    }


def method_name(restoration: Restoration, fingerprint: str) -> str:
    """Folder name from the restorer's name and the start of its settings' hash."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', restoration.restorer_name)}-{fingerprint[:8]}"


def _aligned_face(source: Path, detector: Detector) -> Pixels:
    """Align the face nearest the center of a photo to (512, 512, 3).

    Raises:
        FaceError: No face was found.
        PhotoError: The photo cannot be read.
    """
    pixels = read_pixels(source).pixels
    faces = select_faces(
        detector.detect(pixels),
        (pixels.shape[1], pixels.shape[0]),
        only_center=True,
        min_face=SMALLEST_FACE,
        threshold=detector.default_threshold,
    )
    if not faces:
        raise FaceError(f"{source}: {detector.name} found no face.")
    return np.asarray(align_face(pixels, faces[0], ALIGNED_SIDE).pixels, np.uint8)


def _restore(batch: list[tuple[str, Path, PreparedPhoto]], restoration: Restoration, step: Step) -> None:
    """Restore a batch and record its results."""
    if not batch:
        return
    restored = restoration.restore_faces([prepared for _name, _source, prepared in batch])
    for (name, source, prepared), faces in zip(batch, restored, strict=True):
        try:
            step.keep(name, source, np.asarray(restoration.finish(prepared, faces).pixels, np.uint8))
        except GfprestoreError as error:
            step.fail(name, source, error)
