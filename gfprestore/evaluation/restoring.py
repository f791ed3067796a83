"""Restores the images of a test set into a folder, going on where an earlier run stopped.

The network's output is taken as it is: crops in, crops out, no tone kept, no brightness matched, nothing pasted. Whole
photos are aligned first, by the face nearest their center, as `gfprestore run` does it. What is done stands in the
journal of the output folder; an image is done again where it, the settings or the weights changed.
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
    """What a step made of the images of a set.

    Attributes:
        folder: Where the results lie.
        images: Results by name.
        failed: Why there is none, by name.
        done_before: How many results were there already.
    """

    folder: Path
    images: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    done_before: int = 0


class Step:
    """Turns images into images of an output folder, each once.

    Args:
        journal: Of the output folder.
        folder: Where in the output folder the results go.
        settings: Everything that decides the pixels.
    """

    def __init__(self, journal: Journal, folder: Path, settings: Mapping[str, Any]) -> None:
        self.journal = journal
        self.written = Written(folder)
        self.fingerprint = journal.note_settings(settings)

    def waiting(self, sources: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
        """The images that are not done; those that are go into `written`."""
        for name, source in sources.items():
            if self.journal.is_done(self._relative(name), source, self.fingerprint, self._path(name)):
                self.written.images[name] = self._path(name)
                self.written.done_before += 1
            else:
                yield name, source

    def keep(self, name: str, source: Path, pixels: Pixels) -> None:
        """Writes a result and notes it.

        Raises:
            PhotoError: It cannot be written.
            FolderError: The output folder is gone.
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
        """Notes why there is no result.

        Raises:
            FolderError: The output folder itself cannot be used any more.
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
    """Cuts the face nearest the center out of every photo, at 512 pixels on the FFHQ template.

    Args:
        sources: Photos by name.
        journal: Of the output folder; the crops go into its folder `aligned`.
        detector: Finds the faces.
        detector_sha256: Of its weights, where they are a file.
        on_progress: Told how many photos are done.

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
    """Restores aligned crops in batches.

    Args:
        sources: Crops by name.
        journal: Of the output folder; the results go into `restored/<restorer>-<hash of the settings>`.
        restoration: The open network, for aligned crops.
        on_progress: Told how many images are done.

    Raises:
        FolderError: The output folder cannot be written.
        DeviceError: Memory does not suffice for one face.
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
    """Everything that decides the pixels of a restored crop."""
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
    """The restorer's name and the beginning of its settings' hash, fit for a folder."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', restoration.restorer_name)}-{fingerprint[:8]}"


def _aligned_face(source: Path, detector: Detector) -> Pixels:
    """The face nearest the center of a photo, (512, 512, 3).

    Raises:
        FaceError: There is none.
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
        raise FaceError(f"{source}: {detector.name} found no face in it.")
    return np.asarray(align_face(pixels, faces[0], ALIGNED_SIDE).pixels, np.uint8)


def _restore(batch: list[tuple[str, Path, PreparedPhoto]], restoration: Restoration, step: Step) -> None:
    """Restores a batch and keeps what comes of it."""
    if not batch:
        return
    restored = restoration.restore_faces([prepared for _name, _source, prepared in batch])
    for (name, source, prepared), faces in zip(batch, restored, strict=True):
        try:
            step.keep(name, source, np.asarray(restoration.finish(prepared, faces).pixels, np.uint8))
        except GfprestoreError as error:
            step.fail(name, source, error)
