"""Batch scheduler: decode ahead, detect faces, batch faces across photos, paste, encode in the background.

Decoding and encoding run in threads with a limit on their memory; the networks run in the calling thread. They are
opened, and torch is imported, when the first photo to restore is found, while it is being decoded. A bad photo gives
one failed result. A run that ends early (Ctrl-C, a full disk) leaves no incomplete output file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gfprestore.batch.folders import create_folder_of
from gfprestore.batch.journal import FAILED, RESTORED, Journal, JournalEntry, utc_now
from gfprestore.batch.page_results import result_of_pages
from gfprestore.batch.previews import PreviewWriter, write_comparison, write_faces
from gfprestore.batch.results import OutputOptions, PhotoResult, error_message, face_details, invalid_faces
from gfprestore.batch.settings import run_settings
from gfprestore.batch.sidecars import carry_sidecars, update_sidecars
from gfprestore.batch.single_file import SingleFileJournal
from gfprestore.batch.source_state import SourceState, check_unchanged, read_source_state
from gfprestore.batch.stages import DecodedPhoto, EncodingPhoto, PendingPhoto, WrittenPhoto
from gfprestore.batch.task_list import PhotoTask, folders_of
from gfprestore.batch.threads import wait_for_result, worker_threads
from gfprestore.batch.upright import prepared_upright
from gfprestore.batch.written_files import FileKeptError, FileState
from gfprestore.errors import FolderError
from gfprestore.hardware import free_system_memory
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.photo.writing import check_pages, check_size, write_photo
from gfprestore.pixels import enlarged_size
from gfprestore.restoration.pages import RestoredPage, restore_pages
from gfprestore.restoration.planned import NetworkNames, PlannedRestoration
from gfprestore.stopwatch import Stopwatch

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import PreparedPhoto, Restoration, RestoredFace, RestoredPhoto

log = logging.getLogger(__name__)
Value = TypeVar("Value")

# Memory limit for decoded photos waiting for the networks, and again for results waiting for the encoder.
MOST_WAITING_BYTES = 1 << 30
SHARE_OF_FREE_MEMORY = 0.1


class PhotoRun:
    """One run over many photos.

    Args:
        restoration: The planned restoration, or one that is open already.
        output: Output options.
        on_progress: Called with the current photo and its finished share in [0, 1].
        on_start: Called with the names of the networks when the journals are open.
        stopwatch: Measures the parts of the run; None makes one.
    """

    def __init__(
        self,
        restoration: PlannedRestoration | Restoration,
        output: OutputOptions | None = None,
        on_progress: Callable[[Path, float], None] | None = None,
        on_start: Callable[[NetworkNames], None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.planned = restoration
        self.stopwatch = stopwatch or Stopwatch()
        self.output = output or OutputOptions()
        self.on_progress = on_progress or (lambda _path, _share: None)
        self.on_start = on_start or (lambda _names: None)
        self.waiting_bytes = min(MOST_WAITING_BYTES, int(SHARE_OF_FREE_MEMORY * free_system_memory()))
        self._settings: dict[str, Any] = {}
        self._fingerprint = ""
        self._differs_from_plan = False
        self._opened: Restoration | None = None
        self._journals: dict[Path, Journal] = {}
        self._encodings: deque[EncodingPhoto] = deque()

    @property
    def restoration(self) -> Restoration:
        """The restoration with its networks, opened on first access.

        Raises:
            WeightsError: Weights are damaged or for another network.
            DeviceError: The device is not available.
        """
        if self._opened is None:
            with self.stopwatch.part("start"):
                self._opened = self.planned.opened()
            self._opened.stopwatch = self.stopwatch
            settings = run_settings(self._opened, self.output)
            if settings != self._settings:  # the device is not the one that the plan expected
                self._differs_from_plan = True
                self._take_settings(settings)
        return self._opened

    def results(self, tasks: Sequence[PhotoTask]) -> Iterator[PhotoResult]:
        """Restore the photos and yield one result per photo as they finish.

        Raises:
            FolderError: The output folder no longer exists or is not writable.
            UsageError: The value of an option is unknown, or options contradict one another.
            WeightsError: Weights are missing, damaged or for another network.
            DeviceError: The device is not available.
        """
        with contextlib.ExitStack() as stack:
            for folder in folders_of(tasks):
                recorded = tasks[0].recorded  # a single file is the only task of its run
                with self.stopwatch.part("compare"):
                    opened = Journal.open(folder) if recorded else SingleFileJournal(folder)
                journal = self._journals[folder] = stack.enter_context(opened)
                if journal.damaged_lines:
                    log.warning(
                        f"{journal.path}: {journal.damaged_lines} lines are damaged and skipped. Photos that are "
                        "recorded only in them are restored again."
                    )
                if isinstance(self.planned, PlannedRestoration):
                    self.planned.recognize(journal.settings)
            with self.stopwatch.part("start"):
                self._take_settings(run_settings(self.planned, self.output))
                self.on_start(self.planned.names)
            decoders = stack.enter_context(worker_threads(self.output.workers, "decode"))
            encoders = stack.enter_context(worker_threads(self.output.workers, "encode"))
            pending: list[PendingPhoto] = []
            for item in self._decode_ahead(tasks, decoders):
                prepared = self._prepared(item) if isinstance(item, DecodedPhoto) else item
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

    def _take_settings(self, settings: dict[str, Any]) -> None:
        """Record the settings in every journal."""
        self._settings = settings
        for journal in self._journals.values():
            self._fingerprint = journal.note_settings(settings)

    def _decode_ahead(
        self, tasks: Sequence[PhotoTask], threads: ThreadPoolExecutor
    ) -> Iterator[DecodedPhoto | PhotoResult]:
        """Photos in task order, decoded ahead within the memory limit; results for skipped and unreadable ones."""
        waiting = iter(tasks)
        ahead: deque[tuple[PhotoTask, int, Future[DecodedPhoto] | PhotoResult]] = deque()
        held, exhausted = 0, False
        while True:
            while not exhausted and (not ahead or (held < self.waiting_bytes and len(ahead) < 4 * self.output.workers)):
                with self.stopwatch.part("compare"):
                    task = next(waiting, None)
                    if task is None:
                        exhausted = True
                    elif (skipped := self._skipped(task)) is not None:
                        ahead.append((task, 0, skipped))
                    else:
                        size = decoded_bytes(task.source)
                        held += size
                        ahead.append((task, size, threads.submit(self._timed, "decode", self._decode, task)))
            if not ahead:
                return
            task, size, item = ahead.popleft()
            held -= size
            if isinstance(item, PhotoResult):
                yield item
                continue
            self.on_progress(task.source, 0.0)
            _ = self.restoration  # opened while the photo is being decoded
            if self._differs_from_plan and (skipped := self._skipped(task)) is not None:
                yield skipped
                continue
            try:
                with self.stopwatch.part("waiting"):
                    decoded = wait_for_result(item)
            except Exception as error:
                yield self._failed(task, error)
            else:
                yield decoded

    def _timed(self, part: str, work: Callable[..., Value], *arguments: object) -> Value:
        """Do some work, and count its time for a part of the run."""
        with self.stopwatch.part(part):
            return work(*arguments)

    def _decode(self, task: PhotoTask) -> DecodedPhoto:
        """Decode a photo, or the first of its pages, and check that its result fits into the output's format."""
        started = time.monotonic()
        state = read_source_state(task.source)
        options = self.planned.options
        photo = read_photo(task.source, options.max_pixels, options.accept_truncated, True)
        check_unchanged(task.source, state, photo)
        check_pages(task.output, photo)
        if not options.aligned:
            height, width = enlarged_size(photo.pixels.shape[0], photo.pixels.shape[1], self.planned.names.upscale)
            check_size(task.output, width, height, photo)
        return DecodedPhoto(task, photo, state, time.monotonic() - started)

    def _prepared(self, decoded: DecodedPhoto) -> PendingPhoto | PhotoResult:
        if decoded.photo.pages > 1:
            return self._timed("encode", self._restore_pages, decoded)
        return self._timed("align", self._prepare, decoded)

    def _restore_pages(self, decoded: DecodedPhoto) -> PhotoResult:
        """Restore and write the pages of a file one after another; they are decoded here, not ahead."""
        task, started = decoded.task, time.monotonic()
        states: list[SourceState] = []
        turned: list[tuple[int, int]] = []  # of each page: degrees, and the orientation that stands for all turns

        def prepare(page: Photo, name: str) -> tuple[Photo, PreparedPhoto]:
            upright, prepared, degrees = prepared_upright(self.restoration, page, name, self.output.auto_rotate)
            turned.append((degrees, upright.metadata.orientation))
            return upright, prepared

        try:
            note = self._begin_writing(task, states)
            pages = restore_pages(
                self.restoration,
                task.source,
                task.output,
                name=task.relative.as_posix(),
                on_progress=functools.partial(self.on_progress, task.source),
                on_complete=note,
                prepare=prepare,
            )
            problems: list[str] = []
            report = result_of_pages(
                self._with_previews(decoded, pages, problems), task.source, task.output, self.planned.names
            )
        except FileKeptError as kept:
            return self._skipped_result(task, kept.state.value, str(kept))
        except Exception as error:
            return self._failed(task, error, decoded.seconds + time.monotonic() - started)
        if problems:
            report = replace(report, status="failed", error=" ".join(filter(None, (report.error, *problems))))
        rotated, orientation = turned[0]  # sidecars belong to the first page
        report = replace(report, rotated=rotated, seconds=decoded.seconds + time.monotonic() - started)
        self._note(task, report, decoded.state, states[0], orientation)
        return report

    def _with_previews(
        self, decoded: DecodedPhoto, pages: Iterator[RestoredPage], problems: list[str]
    ) -> Iterator[RestoredPage]:
        """Pages with their previews written; those of the second and further pages have its number in their names."""
        task = decoded.task
        for page in pages:
            check_unchanged(task.source, decoded.state, page.before)
            relative = task.relative.with_name(f"{task.relative.name}-page{page.number}")
            named = task if page.number == 1 else replace(task, relative=relative)
            kept, problem = self._write_previews(named, page.before, page.finished, page.after)
            if page.number == 1:
                kept = (*kept, *self._carry_sidecars(task, page.before, page.after))
            problems += [problem] if problem is not None else []
            yield replace(page, notes=(*page.notes, *kept))

    def _prepare(self, decoded: DecodedPhoto) -> PendingPhoto | PhotoResult:
        started = time.monotonic()
        name = decoded.task.relative.as_posix()
        try:
            photo, prepared, rotated = prepared_upright(self.restoration, decoded.photo, name, self.output.auto_rotate)
        except Exception as error:
            return self._failed(decoded.task, error, decoded.seconds + time.monotonic() - started)
        seconds = decoded.seconds + time.monotonic() - started
        return PendingPhoto(replace(decoded, photo=photo), prepared, seconds, rotated)

    def _is_batch(self, pending: Sequence[PendingPhoto]) -> bool:
        """Whether to stop collecting: enough faces, no faces to batch, or the memory limit."""
        faces = sum(len(photo.prepared.crops) for photo in pending)
        held = sum(photo.photo.pixels.nbytes for photo in pending)
        return faces == 0 or faces >= self.restoration.batch_size or held >= self.waiting_bytes

    def _finish(self, pending: Sequence[PendingPhoto], threads: ThreadPoolExecutor) -> Iterator[PhotoResult]:
        """Restore the faces of the pending photos together, then finish each photo."""
        if not pending:
            return
        started = time.monotonic()
        restored = self._timed("paste", self._restore_faces, pending)
        seconds_a_face = (time.monotonic() - started) / max(sum(len(photo.prepared.crops) for photo in pending), 1)
        for photo, faces in zip(pending, restored, strict=True):
            spent = photo.seconds + seconds_a_face * len(photo.prepared.crops)
            if isinstance(faces, Exception):
                yield self._failed(photo.task, faces, spent, len(photo.prepared.crops))
                continue
            started = time.monotonic()
            try:
                with self.stopwatch.part("paste"):
                    finished = self.restoration.finish(
                        photo.prepared, faces, functools.partial(self.on_progress, photo.task.source)
                    )
                    result = self.restoration.with_result(photo.photo, finished)
            except Exception as error:
                spent += time.monotonic() - started
                yield self._failed(photo.task, error, spent, len(photo.prepared.crops))
                continue
            yield from self._encode_in_background(photo, finished, result, spent + time.monotonic() - started, threads)

    def _restore_faces(self, pending: Sequence[PendingPhoto]) -> list[list[RestoredFace | None] | Exception]:
        """Restored faces per photo; if a batch fails, photos are retried one by one to isolate the error."""
        try:
            return list(self.restoration.restore_faces([photo.prepared for photo in pending]))
        except Exception as error:
            if len(pending) == 1:
                return [error]
            return [self._restore_faces([photo])[0] for photo in pending]

    def _encode_in_background(
        self, photo: PendingPhoto, finished: RestoredPhoto, result: Photo, seconds: float, threads: ThreadPoolExecutor
    ) -> Iterator[PhotoResult]:
        """Submit a result to the encoder; first yields written results until it fits the memory limit."""
        held = result.pixels.nbytes
        while self._encodings and sum(encoding.held_bytes for encoding in self._encodings) + held > self.waiting_bytes:
            yield self._encoded()
        while self._encodings and self._encodings[0].written.done():
            yield self._encoded()
        report = PhotoResult(
            source=photo.task.source,
            output=photo.task.output,
            status="restored",
            faces=max(len(finished.faces), len(finished.crops)),  # an aligned input is one crop without detection
            restored_faces=finished.restored_faces,
            untouched_faces=finished.untouched_faces,
            face_details=face_details(finished),
            rotated=photo.rotated,
            width=result.pixels.shape[1],
            height=result.pixels.shape[0],
            seconds=seconds,
            restorer=self.restoration.restorer_name,
            background=self.restoration.background_name,
            warnings=result.metadata.warnings,
        )
        missing = len(finished.crops) - report.restored_faces - report.untouched_faces
        if missing:
            error = invalid_faces(photo.task.source, missing, len(finished.crops), report.restorer)
            report = replace(report, status="failed", error=error)
        written = threads.submit(self._timed, "encode", self._write, photo, finished, result)
        self._encodings.append(EncodingPhoto(photo, report, held, written))

    def _begin_writing(self, task: PhotoTask, states: list[SourceState]) -> Callable[[Path], None]:
        """Create the folder of a result and record that it is being written; returns what records the file."""
        create_folder_of(task)
        journal = self._journals[task.folder]
        journal.begin(task.relative.as_posix(), task.source, task.output, self._fingerprint)

        def note(temporary: Path) -> None:
            states.append(journal.note_file(task.output, temporary, overwrite=self.output.overwrite))

        return note

    def _write(self, photo: PendingPhoto, finished: RestoredPhoto, result: Photo) -> WrittenPhoto:
        started = time.monotonic()
        states: list[SourceState] = []
        note = self._begin_writing(photo.task, states)
        warnings = write_photo(result, photo.task.output, quality=self.output.quality, on_complete=note)
        warnings += self._carry_sidecars(photo.task, photo.photo, result)
        kept, problem = self._write_previews(photo.task, photo.photo, finished, result)
        return WrittenPhoto(states[0], time.monotonic() - started, (*warnings, *kept), problem)

    def _carry_sidecars(self, task: PhotoTask, photo: Photo, result: Photo) -> tuple[str, ...]:
        return carry_sidecars(task, self._journals[task.folder], photo, result, overwrite=self.output.overwrite)

    def _write_previews(
        self, task: PhotoTask, before: Photo, finished: RestoredPhoto, result: Photo
    ) -> tuple[tuple[str, ...], str | None]:
        """Write the requested previews and return warnings and an error message; the photo is already written."""
        attributes = before.metadata.file_attributes
        previews = PreviewWriter(task, self._journals[task.folder], self.output.overwrite, attributes)
        try:
            if self.output.compare:
                write_comparison(previews, before, result)
            if self.output.save_faces:
                write_faces(previews, finished)
        except FolderError:
            raise
        except Exception as error:
            return tuple(previews.kept), error_message(error, task.source)
        return tuple(previews.kept), None

    def _encoded(self) -> PhotoResult:
        """Wait for the oldest result to be written."""
        encoding = self._encodings.popleft()
        report = encoding.result
        try:
            with self.stopwatch.part("waiting"):
                written = wait_for_result(encoding.written)
        except FolderError:
            raise
        except FileKeptError as kept:  # it was changed during the run
            return self._skipped_result(encoding.photo.task, kept.state.value, str(kept))
        except Exception as error:
            return self._failed(encoding.photo.task, error, report.seconds, report.faces)
        warnings = (*report.warnings, *written.warnings)
        report = replace(report, seconds=report.seconds + written.seconds, warnings=warnings)
        if written.problem is not None:
            report = replace(report, status="failed", error=" ".join(filter(None, (report.error, written.problem))))
        orientation = encoding.photo.photo.metadata.orientation
        self._note(encoding.photo.task, report, encoding.photo.decoded.state, written.state, orientation)
        return report

    def _skipped(self, task: PhotoTask) -> PhotoResult | None:
        """Result of a finished photo, or of one whose output path is a file that must not be replaced unasked."""
        if self.output.overwrite:
            return None
        journal = self._journals[task.folder]
        if journal.is_done(task.relative.as_posix(), task.source, self._fingerprint, task.output):
            return replace(self._skipped_result(task, "done", None), warnings=update_sidecars(task, journal))
        state = journal.state_of(task.output)
        if state in (FileState.CHANGED, FileState.TAKEN):
            return self._skipped_result(task, state.value, str(FileKeptError(task.output, state, task.recorded)))
        return None

    def _skipped_result(self, task: PhotoTask, because: str, reason: str | None) -> PhotoResult:
        names = (self.planned.names.restorer, self.planned.names.background)
        return PhotoResult(
            task.source, task.output, "skipped", 0, 0, None, None, 0.0, *names, error=reason, skipped_because=because
        )

    def _failed(self, task: PhotoTask, error: Exception, seconds: float = 0.0, faces: int = 0) -> PhotoResult:
        """Result of a failed photo, recorded in the journal; an error that ends the whole run is raised."""
        if isinstance(error, FolderError):
            raise error
        names = (self.planned.names.restorer, self.planned.names.background)
        text = error_message(error, task.source)
        result = PhotoResult(task.source, None, "failed", faces, 0, None, None, seconds, *names, error=text)
        self._note(task, result)
        return result

    def _note(
        self,
        task: PhotoTask,
        result: PhotoResult,
        state: SourceState | None = None,
        written: SourceState | None = None,
        orientation: int | None = None,
    ) -> None:
        """Append a result to the journal; a photo written with an unrestored face is recorded as failed."""
        self._timed(
            "journal",
            self._journals[task.folder].record,
            JournalEntry(
                relative=task.relative.as_posix(),
                source=str(task.source.absolute()),
                source_sha256=None if state is None else state.sha256,
                source_size=None if state is None else state.size,
                source_modified_ns=None if state is None else state.modified_ns,
                fingerprint=self._fingerprint,
                status=RESTORED if result.status == "restored" else FAILED,
                output=None if result.output is None else task.output.relative_to(task.folder).as_posix(),
                output_size=None if written is None else written.size,
                output_modified_ns=None if written is None else written.modified_ns,
                output_sha256=None if written is None else written.sha256,
                faces=result.faces,
                restored_faces=result.restored_faces,
                orientation=orientation,
                seconds=round(result.seconds, 3),
                error=result.error,
                finished=utc_now(),
            ),
        )


def decoded_bytes(path: Path) -> int:
    """Memory of a photo's pixels in bytes, from its header; 0 if it is unreadable, which decoding reports."""
    try:
        width, height = photo_size(path)
    except Exception:  # a malformed header must not end the run; decoding fails for that photo only
        return 0
    return 3 * width * height
