"""The batch scheduler: decode ahead, find faces, batch faces over photos, paste, encode behind.

Decoding and encoding run in threads and are bounded by the bytes they hold; the networks run in the calling thread. One
bad photo is one failed result. Whatever ends the run early (Ctrl-C, a full disk) leaves whole files or none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from gfprestore.batch.folders import PhotoTask, create_folder_of
from gfprestore.batch.journal import FAILED, RESTORED, Journal, JournalEntry, utc_now
from gfprestore.batch.previews import write_comparison, write_faces
from gfprestore.batch.results import OutputOptions, PhotoResult
from gfprestore.batch.source_state import SourceState, read_source_state
from gfprestore.device import free_memory, precision_name
from gfprestore.errors import FaceError, FolderError, GfprestoreError, PhotoError
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.photo.writing import write_photo
from gfprestore.restoration.restoration import PreparedPhoto, Restoration, RestoredFace, RestoredPhoto

log = logging.getLogger("gfprestore")
Value = TypeVar("Value")

# Decoded photos waiting for the networks, and results waiting for the encoder, may each hold this much.
MOST_WAITING_BYTES = 1 << 30
SHARE_OF_FREE_MEMORY = 0.1


@dataclass(frozen=True)
class _Decoded:
    """A photo that was read, the state of its file then, and the seconds it took."""

    task: PhotoTask
    photo: Photo
    state: SourceState
    seconds: float


@dataclass(frozen=True)
class _Pending:
    """A photo whose faces wait for a batch."""

    decoded: _Decoded
    prepared: PreparedPhoto
    seconds: float

    @property
    def task(self) -> PhotoTask:
        return self.decoded.task

    @property
    def photo(self) -> Photo:
        return self.decoded.photo


@dataclass(frozen=True)
class _Written:
    """What the encoder reports.

    Attributes:
        size: The file's bytes.
        seconds: Time spent.
        warnings: What the output's format could not keep.
        problem: Why a preview could not be written beside it.
    """

    size: int
    seconds: float
    warnings: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class _Encoding:
    """A result on its way to the disk, and what will be reported when it is there."""

    photo: _Pending
    result: PhotoResult
    held_bytes: int
    written: Future[_Written]


class PhotoRun:
    """One run over many photos.

    Args:
        restoration: The open networks.
        output: How to write.
        on_progress: Told the photo that is worked on and the share 0..1 of it that is done.
    """

    def __init__(
        self,
        restoration: Restoration,
        output: OutputOptions | None = None,
        on_progress: Callable[[Path, float], None] | None = None,
    ) -> None:
        self.restoration = restoration
        self.output = output or OutputOptions()
        self.on_progress = on_progress or (lambda _path, _share: None)
        self.waiting_bytes = min(MOST_WAITING_BYTES, int(SHARE_OF_FREE_MEMORY * free_memory(torch.device("cpu"))))
        self._settings = run_settings(restoration, self.output)
        self._fingerprint = ""
        self._journals: dict[Path, Journal] = {}
        self._encodings: deque[_Encoding] = deque()

    def results(self, tasks: Sequence[PhotoTask]) -> Iterator[PhotoResult]:
        """Restores the photos and yields one result each, as they are finished.

        Raises:
            FolderError: The output folder is gone or cannot be written any more.
        """
        with contextlib.ExitStack() as stack:
            for folder in dict.fromkeys(task.folder for task in tasks):
                journal = self._journals[folder] = stack.enter_context(Journal.open(folder))
                if journal.damaged_lines:
                    self.restoration.tell(
                        f"{journal.path}: {journal.damaged_lines} lines cannot be read and are skipped; a photo "
                        "that only they name counts as not done."
                    )
                self._fingerprint = journal.note_settings(self._settings)
            decoders = stack.enter_context(_worker_threads(self.output.workers, "decode"))
            encoders = stack.enter_context(_worker_threads(self.output.workers, "encode"))
            pending: list[_Pending] = []
            for item in self._decode_ahead(tasks, decoders):
                prepared = item if isinstance(item, PhotoResult) else self._prepare(item)
                if isinstance(prepared, PhotoResult):
                    yield prepared
                    continue
                pending.append(prepared)
                if self._is_batch(pending):
                    yield from self._finish(pending, encoders)
                    pending = []
            yield from self._finish(pending, encoders)
            while self._encodings:
                yield self._encoded()

    def _decode_ahead(
        self, tasks: Sequence[PhotoTask], threads: ThreadPoolExecutor
    ) -> Iterator[_Decoded | PhotoResult]:
        """Photos in the order of the tasks, read ahead as far as the bytes allow; skipped and unreadable as results."""
        waiting = iter(tasks)
        ahead: deque[tuple[PhotoTask, int, Future[_Decoded] | PhotoResult]] = deque()
        held, exhausted = 0, False
        while True:
            while not exhausted and (not ahead or (held < self.waiting_bytes and len(ahead) < 4 * self.output.workers)):
                task = next(waiting, None)
                if task is None:
                    exhausted = True
                elif (skipped := self._skipped(task)) is not None:
                    ahead.append((task, 0, skipped))
                else:
                    size = decoded_bytes(task.source)
                    held += size
                    ahead.append((task, size, threads.submit(self._decode, task)))
            if not ahead:
                return
            task, size, item = ahead.popleft()
            held -= size
            if isinstance(item, PhotoResult):
                yield item
                continue
            self.on_progress(task.source, 0.0)
            try:
                yield patient_result(item)
            except Exception as error:
                yield self._failed(task, error)

    def _decode(self, task: PhotoTask) -> _Decoded:
        started = time.monotonic()
        state = read_source_state(task.source)
        photo = read_photo(task.source, self.restoration.options.max_pixels)
        check_unchanged(task.source, state, photo)
        return _Decoded(task, photo, state, time.monotonic() - started)

    def _prepare(self, decoded: _Decoded) -> _Pending | PhotoResult:
        started = time.monotonic()
        try:
            prepared = self.restoration.prepare(decoded.photo.pixels, decoded.task.relative.as_posix())
        except Exception as error:
            return self._failed(decoded.task, error, decoded.seconds + time.monotonic() - started)
        return _Pending(decoded, prepared, decoded.seconds + time.monotonic() - started)

    def _is_batch(self, pending: Sequence[_Pending]) -> bool:
        """Whether to stop collecting: enough faces, no face to wait for, or enough bytes held."""
        faces = sum(len(photo.prepared.crops) for photo in pending)
        held = sum(photo.photo.pixels.nbytes for photo in pending)
        return faces == 0 or faces >= self.restoration.batch_size or held >= self.waiting_bytes

    def _finish(self, pending: Sequence[_Pending], threads: ThreadPoolExecutor) -> Iterator[PhotoResult]:
        """Restores the faces of the pending photos together, then finishes photo by photo."""
        if not pending:
            return
        started = time.monotonic()
        restored = self._restore_faces(pending)
        seconds_a_face = (time.monotonic() - started) / max(sum(len(photo.prepared.crops) for photo in pending), 1)
        for photo, faces in zip(pending, restored, strict=True):
            spent = photo.seconds + seconds_a_face * len(photo.prepared.crops)
            if isinstance(faces, Exception):
                yield self._failed(photo.task, faces, spent, len(photo.prepared.crops))
                continue
            started = time.monotonic()
            try:
                finished = self.restoration.finish(
                    photo.prepared, faces, functools.partial(self.on_progress, photo.task.source)
                )
                result = self.restoration.with_result(photo.photo, finished)
            except Exception as error:
                spent += time.monotonic() - started
                yield self._failed(photo.task, error, spent, len(photo.prepared.crops))
                continue
            yield from self._encode_behind(photo, finished, result, spent + time.monotonic() - started, threads)

    def _restore_faces(self, pending: Sequence[_Pending]) -> list[list[RestoredFace | None] | Exception]:
        """The restored faces a photo; where a batch fails, each photo alone, so that one cannot fail the others."""
        try:
            return list(self.restoration.restore_faces([photo.prepared for photo in pending]))
        except Exception as error:
            if len(pending) == 1:
                return [error]
            return [self._restore_faces([photo])[0] for photo in pending]

    def _encode_behind(
        self, photo: _Pending, finished: RestoredPhoto, result: Photo, seconds: float, threads: ThreadPoolExecutor
    ) -> Iterator[PhotoResult]:
        """Hands a result to the encoder; first waits, yielding what is written, until the bytes allow one more."""
        held = result.pixels.nbytes
        while self._encodings and sum(encoding.held_bytes for encoding in self._encodings) + held > self.waiting_bytes:
            yield self._encoded()
        while self._encodings and self._encodings[0].written.done():
            yield self._encoded()
        report = PhotoResult(
            source=photo.task.source,
            output=photo.task.output,
            status="restored",
            faces=max(len(finished.faces), len(finished.crops)),  # aligned inputs are one crop and no found face
            restored_faces=finished.restored_faces,
            width=result.pixels.shape[1],
            height=result.pixels.shape[0],
            seconds=seconds,
            restorer=self.restoration.restorer_name,
            background=self.restoration.background_name,
            warnings=photo.photo.metadata.warnings,
        )
        missing = len(finished.crops) - report.restored_faces
        if missing:
            error = FaceError(
                f"{photo.task.source}: {missing} of {len(finished.crops)} faces could not be restored: "
                f"{report.restorer} gave values that are not finite, in fp32 too. They were left as they were; check "
                "the weights file."
            )
            report = replace(report, status="failed", error=str(error))
        written = threads.submit(self._write, photo, finished, result)
        self._encodings.append(_Encoding(photo, report, held, written))

    def _write(self, photo: _Pending, finished: RestoredPhoto, result: Photo) -> _Written:
        started = time.monotonic()
        create_folder_of(photo.task)
        journal = self._journals[photo.task.folder]
        journal.begin(photo.task.relative.as_posix(), photo.task.source, photo.task.output, self._fingerprint)
        warnings = write_photo(result, photo.task.output, quality=self.output.quality)
        size = photo.task.output.stat().st_size
        problem = self._write_previews(photo, finished, result)
        return _Written(size, time.monotonic() - started, warnings, problem)

    def _write_previews(self, photo: _Pending, finished: RestoredPhoto, result: Photo) -> str | None:
        """Writes the comparison and the faces where they were asked for; says what went wrong, the photo is written."""
        try:
            if self.output.compare:
                write_comparison(photo.task, photo.photo, result)
            if self.output.save_faces:
                write_faces(photo.task, finished)
        except FolderError:
            raise
        except Exception as error:
            return told(error, photo.task.source)
        return None

    def _encoded(self) -> PhotoResult:
        """Waits for the oldest result to be on the disk."""
        encoding = self._encodings.popleft()
        report = encoding.result
        try:
            written = patient_result(encoding.written)
        except FolderError:
            raise
        except Exception as error:
            return self._failed(encoding.photo.task, error, report.seconds, report.faces)
        warnings = (*report.warnings, *written.warnings)
        report = replace(report, seconds=report.seconds + written.seconds, warnings=warnings)
        if written.problem is not None:
            report = replace(report, status="failed", error=" ".join(filter(None, (report.error, written.problem))))
        self._note(encoding.photo.task, report, encoding.photo.decoded.state, written.size)
        return report

    def _skipped(self, task: PhotoTask) -> PhotoResult | None:
        """The result of a photo that is done already, or whose place is taken by a file that no run wrote."""
        if self.output.overwrite:
            return None
        journal = self._journals[task.folder]
        if journal.is_done(task.relative.as_posix(), task.source, self._fingerprint, task.output):
            return self._left_out(task, None)
        if os.path.lexists(task.output) and not journal.owns(task.output):
            return self._left_out(
                task, f"{task.output} exists and no run wrote it; move it away, or use --overwrite to replace it."
            )
        return None

    def _left_out(self, task: PhotoTask, reason: str | None) -> PhotoResult:
        names = (self.restoration.restorer_name, self.restoration.background_name)
        return PhotoResult(task.source, task.output, "skipped", 0, 0, None, None, 0.0, *names, error=reason)

    def _failed(self, task: PhotoTask, error: Exception, seconds: float = 0.0, faces: int = 0) -> PhotoResult:
        """The result of a photo that failed, noted in the journal; what ends the whole run is raised."""
        if isinstance(error, FolderError):
            raise error
        names = (self.restoration.restorer_name, self.restoration.background_name)
        text = told(error, task.source)
        result = PhotoResult(task.source, None, "failed", faces, 0, None, None, seconds, *names, error=text)
        self._note(task, result)
        return result

    def _note(
        self, task: PhotoTask, result: PhotoResult, state: SourceState | None = None, output_size: int | None = None
    ) -> None:
        """Appends a result to the journal; a photo that was written with a face missing counts as failed there."""
        self._journals[task.folder].record(
            JournalEntry(
                relative=task.relative.as_posix(),
                source=str(task.source.absolute()),
                source_sha256=None if state is None else state.sha256,
                source_size=None if state is None else state.size,
                source_modified_ns=None if state is None else state.modified_ns,
                fingerprint=self._fingerprint,
                status=RESTORED if result.status == "restored" else FAILED,
                output=None if result.output is None else task.output.relative_to(task.folder).as_posix(),
                output_size=output_size,
                faces=result.faces,
                restored_faces=result.restored_faces,
                seconds=round(result.seconds, 3),
                error=result.error,
                finished=utc_now(),
            )
        )


def run_settings(restoration: Restoration, output: OutputOptions) -> dict[str, Any]:
    """Everything that decides what is written, for the journal: a change of any of it redoes the photo."""
    options = restoration.options
    return {
        "restorer": restoration.restorer_name,
        "background": restoration.background_name,
        "detector": restoration.detector.name if restoration.detector is not None else None,
        "parser": restoration.parser is not None,
        "weights": restoration.weights_used,
        "upscale": options.upscale,
        "strength": options.strength,
        "colour": options.color,
        "aligned": options.aligned,
        "only_center_face": options.only_center_face,
        "min_face": options.min_face,
        "detection_threshold": options.detection_threshold,
        "precision": precision_name(restoration.dtype),
        "seed": options.seed,
        "format": output.format,
        "quality": output.quality,
        "compare": output.compare,
        "save_faces": output.save_faces,
    }


def decoded_bytes(path: Path) -> int:
    """Bytes that a photo's pixels will take, from its header; nothing where it cannot be read: that is told later."""
    try:
        width, height = photo_size(path)
    except Exception:  # a header that trips the reader must not end the run; decoding it fails that photo alone
        return 0
    return 3 * width * height


def check_unchanged(source: Path, state: SourceState, photo: Photo) -> None:
    """What the journal will hold of an original must be what was decoded, and it was read whole.

    An original that is gone by now was in memory in time.

    Raises:
        PhotoError: The file was changed after its hash was taken or while it was decoded.
    """
    times = photo.metadata.file_times
    changed = times is not None and times[1] != state.modified_ns
    with contextlib.suppress(OSError):
        status = source.stat()
        changed = changed or (status.st_size, status.st_mtime_ns) != (state.size, state.modified_ns)
    if changed:
        raise PhotoError(f"{source} changed while it was read. Run again when nothing writes to it.")


def told(error: Exception, source: Path) -> str:
    """What a user reads of an error at one photo; a bug's traceback goes to the log, which `--debug` shows."""
    if isinstance(error, GfprestoreError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{source} does not fit into memory. Close other programs, or lower --workers."
    log.debug("%s failed", source, exc_info=error)
    return (
        f"{source} could not be restored: {type(error).__name__}: {error}. This is a bug of gfprestore; "
        "run it again with --debug and report what that shows."
    )


def patient_result(future: Future[Value]) -> Value:
    """The future's result, waited for in steps, so that Ctrl-C is heard on every platform."""
    while not future.done():
        concurrent.futures.wait([future], timeout=0.2)
    return future.result()


@contextlib.contextmanager
def _worker_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what they have not begun when the run ends early, and finish the file they are at."""
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
