"""Evaluation of a test set as in the papers (GFP-GAN, section 4.2): restore, score and report.

Everything is written to one output folder: `restored/` (and `aligned/` if photos are cropped), `cache/` with the
results, `report.json`, `report.md`, `report.html` and its `thumbnails/`. The same command resumes an interrupted run,
and adding a metric restores no image again.
"""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal, utc_now
from gfprestore.batch.output_folder import prepare_output
from gfprestore.data.test_sets import (
    Alignment,
    TestSet,
    file_list_checksum,
    folders_as_set,
    list_named,
    listed,
    open_test_set,
)
from gfprestore.device import choose_device
from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation.cache import FileHashes
from gfprestore.evaluation.html_report import Page
from gfprestore.evaluation.metrics.opening import (
    DEFAULT_METRICS,
    FaceMetric,
    ImageMetric,
    SetMetric,
    open_metric,
)
from gfprestore.evaluation.options import CommonOptions
from gfprestore.evaluation.published import published_for, relative_for
from gfprestore.evaluation.report import MethodReport, Report, json_text, markdown
from gfprestore.evaluation.restoring import Written, align_photos, restoration_settings, restore_set
from gfprestore.evaluation.scoring import MetricOpener, Scorer, Subject, open_metrics
from gfprestore.files import write_whole
from gfprestore.restoration.choices import DownloadReport
from gfprestore.restoration.model_loader import Opener
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration
from gfprestore.weights.store import WeightsStore, user_folder

log = logging.getLogger(__name__)

CACHE_FOLDER = "cache"
STATISTICS_FOLDER = "statistics"
SCORED_TOGETHER = 8  # images in memory; more is not faster, because the networks batch within
MOST_REPORTED = 5


@dataclass(frozen=True, kw_only=True)
class EvalOptions(CommonOptions):
    """Options of an evaluation of restored images.

    Attributes:
        test_set: Name of a known test set, or a folder; None to compare only folders of images.
        gt: Folder of ground truth images that replaces the set's own.
        lq: Folder of inputs that replaces the set's own.
        statistics: File of FID statistics, or a folder of images to compute them from.
        weights: Custom checkpoint that replaces `restorer`.
        alignment: Kind of inputs: `auto`, `aligned` or `photo`.
    """

    test_set: str | None = None
    gt: Path | None = None
    lq: Path | None = None
    statistics: Path | None = None
    weights: Path | None = None
    alignment: Alignment = "auto"

    @property
    def restores(self) -> bool:
        """Whether this run restores the set, instead of only scoring given images."""
        return not self.restored or self.restorer is not None or self.weights is not None

    def check(self) -> None:
        """Check the options that do not depend on files.

        Raises:
            UsageError: Options contradict each other, or a metric is unknown.
        """
        super().check()
        if self.test_set is None and not self.restored:
            raise UsageError("No input was given. Choose a test set with --set, or a folder of images with --restored.")
        if self.restores and self.test_set is None and self.lq is None:
            raise UsageError("--restorer and --weights need a test set. Choose it with --set, or its inputs with --lq.")
        if self.alignment not in ("auto", "aligned", "photo"):
            raise UsageError(f"--alignment must be auto, aligned or photo, not {self.alignment}.")
        if self.restorer == "none":
            raise UsageError(
                "--restorer none is not supported here. To score the inputs, pass their folder to --restored."
            )
        if self.statistics is not None and not self.statistics.exists():
            raise UsageError(f"--statistics {self.statistics} does not exist.")


@dataclass(frozen=True)
class Listener:
    """Callbacks of an evaluation.

    Attributes:
        progress: Called with the name of the step, the number of finished images and their total.
        downloads: Maps a weights name to a callback with (bytes received, total bytes or None).
    """

    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    downloads: DownloadReport | None = None


class Evaluation:
    """One evaluation.

    Args:
        options: Options of the evaluation.
        listener: Callbacks; None for no output.
        opener: Factory of metrics; None for the built-in metrics.
    """

    def __init__(
        self, options: EvalOptions, listener: Listener | None = None, opener: MetricOpener | None = None
    ) -> None:
        self.options = options
        self.listener = listener or Listener()
        self.metric_opener = opener
        self._hash = FileHashes()

    def run(self) -> Report:
        """Restore the set, score it and write the report.

        Raises:
            UsageError: An option is invalid.
            FolderError: An input folder has no images, or the output folder is not usable.
            WeightsError: The restorer's weights are missing, damaged or from another network.
            DeviceError: The device is not usable or too small.
        """
        options = self.options
        options.check()
        device = choose_device(options.device)
        test_set = self._test_set()
        output = options.output or Path(f"gfprestore-eval-{test_set.name}")
        refuse_within(output, self._folders_read(test_set))
        self._report_set(test_set)
        prepare_output(output)
        with Journal.open(output) as journal:
            inputs, restored = self._restored_here(test_set, journal)
            methods = ([restored] if restored is not None else []) + self._given(test_set)
            if not any(method.subjects for method in methods):
                raise FolderError(_nothing_to_score(test_set, methods))
            scored = self._scored(methods, device, output)
            report = Report(
                test_set=test_set,
                checksum=self._checksum(test_set),
                metrics=tuple(options.metrics or DEFAULT_METRICS),
                methods=tuple(scored),
                published=published_for(test_set.known.name if test_set.known else None),
                relative=relative_for(test_set.name),
                versions=versions(),
                machine={"device": str(device), "precision": options.precision},
                created=utc_now(),
                statistics=None if options.statistics is None else options.statistics.resolve().name,
            )
            write_whole(output / "report.json", json_text(report).encode("ascii"))
            write_whole(output / "report.md", markdown(report).encode("utf-8", "backslashreplace"))
            self._write_page(report, output, inputs)
        log.info(f"Report: {output / 'report.html'}, also as report.md and report.json")
        return report

    def _test_set(self) -> TestSet:
        options = self.options
        if options.test_set is not None:
            return open_test_set(options.test_set, options.data, options.lq, options.gt, options.alignment)
        if options.lq is not None and options.restores:
            return open_test_set(str(options.lq), None, None, options.gt, options.alignment)
        return folders_as_set(options.restored[0], options.lq, options.gt)

    def _folders_read(self, test_set: TestSet) -> list[Path | None]:
        options = self.options
        is_flat = test_set.folder is not None and not (test_set.folder / "lq").is_dir()
        parts = [test_set.folder / name for name in ("lq", "gt")] if test_set.folder is not None else []
        return [*parts, *options.restored, options.lq, options.gt, test_set.folder if is_flat else None]

    def _report_set(self, test_set: TestSet) -> None:
        of = f" of {test_set.expected}" if test_set.expected is not None else ""
        with_gt = sum(name in test_set.gt for name in test_set.names)
        log.info(f"{test_set.name}: {len(test_set.names)}{of} images, {with_gt} with gt")

    def _restored_here(self, test_set: TestSet, journal: Journal) -> tuple[Mapping[str, Path], MethodReport | None]:
        """Restore the set if requested; returns the inputs (crops if photos were aligned) and the method."""
        options = self.options
        if not options.restores:
            return test_set.lq, None
        restoration = Restoration(
            RunOptions(
                restorer=options.restorer or "auto",
                weights=options.weights,
                background="none",
                color="restore",
                aligned=True,
                device=options.device,
                precision=options.precision,
                batch_size=options.batch_size,
                offline=options.offline,
                weights_dir=options.weights_dir,
            ),
            self.listener.downloads,
        )
        inputs, failed = test_set.lq, {}
        detector = None
        if test_set.whole_photos:
            aligned, detector = self._aligned(test_set, journal)
            inputs, failed = aligned.images, aligned.failed
        written = restore_set(inputs, journal, restoration, self._watch("restore", len(inputs)))
        self._report_written(written)
        subjects = self._subjects(test_set, written.images)
        method = MethodReport(
            name=written.folder.name,
            folder=written.folder,
            subjects=subjects,
            unrestored={**failed, **written.failed},
            settings={**restoration_settings(restoration), "detector": detector},
        )
        return inputs, method

    def _aligned(self, test_set: TestSet, journal: Journal) -> tuple[Written, str]:
        """Align whole photos; returns the crops and the name of the face detector."""
        options = self.options
        opener = Opener(
            WeightsStore(options.weights_dir, offline=options.offline),
            choose_device(options.device),
            self.listener.downloads,
        )
        detector = opener.detector(options.detector)
        watch = self._watch(f"align ({detector.name})", len(test_set.lq))
        written = align_photos(test_set.lq, journal, detector, opener.weights_used.get("detector"), watch)
        return written, detector.name

    def _given(self, test_set: TestSet) -> list[MethodReport]:
        """Methods of the folders in `--restored`."""
        methods = []
        taken: set[str] = set()
        known = set(test_set.names)
        for folder, wanted in self.options.named_folders():
            images, doubles = images_to_score(folder)
            name = wanted if wanted and wanted not in taken else _free_name(folder, taken)
            taken.add(name)
            methods.append(
                MethodReport(
                    name=name,
                    folder=folder,
                    subjects=self._subjects(test_set, images),
                    missing=tuple(name for name in test_set.names if name not in images),
                    extra=tuple(name for name in images if name not in known),
                    notes=tuple(doubles),
                )
            )
        return methods

    def _subjects(self, test_set: TestSet, images: Mapping[str, Path]) -> tuple[Subject, ...]:
        """Images of a method that belong to the set, with their gt if any; an unreadable file has no hash."""
        subjects = []
        for name in test_set.names:
            if name in images:
                gt = test_set.gt.get(name)
                gt_sha256 = None if gt is None else self._hash(gt)
                subjects.append(Subject(name, images[name], self._hash(images[name]), gt, gt_sha256))
        return tuple(subjects)

    def _scored(self, methods: Sequence[MethodReport], device: torch.device, output: Path) -> list[MethodReport]:
        """Score the methods."""
        options = self.options
        opened = open_metrics(options.metrics or DEFAULT_METRICS, self.metric_opener or self._opener(device))
        unavailable = [entry.spec.label for entry in opened if entry.metric is None]
        if unavailable:
            log.info(f"Not available: {', '.join(unavailable)}. The reasons are at the end and in the report.")
        cache = output / CACHE_FOLDER
        prepare_output(cache)
        total = sum(len(method.subjects) for method in methods)
        before = 0
        scored = []
        for method in methods:
            watch = functools.partial(self._watch("score", total), offset=before)
            scorer = Scorer(opened, cache, device, SCORED_TOGETHER, watch)
            scored.append(replace(method, scores=scorer.score(method.subjects)))
            before += len(method.subjects)
        return scored

    def _opener(self, device: torch.device) -> MetricOpener:
        """Factory of the built-in metrics; weights are never downloaded."""
        options = self.options
        store = WeightsStore(options.weights_dir, offline=True)
        is_folder = options.statistics is not None and options.statistics.is_dir()

        def opened(name: str, weights_used: dict[str, str]) -> ImageMetric | FaceMetric | SetMetric:
            return open_metric(
                name,
                store,
                device,
                statistics=None if is_folder else options.statistics,
                reference=options.statistics if is_folder else None,
                cache=user_folder().parent / STATISTICS_FOLDER,
                weights_used=weights_used,
                progress=lambda done, total: self.listener.progress("FID statistics", done, total),
            )

        return opened

    def _checksum(self, test_set: TestSet) -> str:
        """Checksum of the set's files; an unreadable file counts as empty text."""
        parts = {"lq": test_set.lq, "gt": test_set.gt}
        total = sum(map(len, parts.values()))
        hashes = {}
        for part, images in parts.items():
            for name, path in images.items():
                hashes[part, name] = self._hash(path)
                self.listener.progress("checksum", len(hashes), total)
        return file_list_checksum(hashes)

    def _write_page(self, report: Report, output: Path, inputs: Mapping[str, Path]) -> None:
        for path in inputs.values():
            self._hash(path)
        Page(report, output, inputs, self._hash.known, self._watch("page", len(report.test_set.names))).write()

    def _watch(self, what: str, total: int) -> Callable[..., None]:
        return lambda done, offset=0: self.listener.progress(what, offset + done, total)

    def _report_written(self, written: Written) -> None:
        done = len(written.images)
        log.info(f"{done} images in {written.folder}, {written.done_before} of them from an earlier run")
        for name, reason in list(written.failed.items())[:MOST_REPORTED]:
            log.info(f"{name} failed: {reason}")


def refuse_within(output: Path, folders: Iterable[Path | None]) -> None:
    """Check that the output folder is not inside an input folder; None stands for a folder that is not given.

    Raises:
        FolderError: It is.
    """
    for folder in folders:
        if folder is not None and output.resolve().is_relative_to(folder.resolve()):
            raise FolderError(
                f"The output folder {output} is inside the input folder {folder}. Originals are never changed. "
                "Name another folder with --output."
            )


def images_to_score(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Images of a folder in `--restored` by name, and notes on names that occur twice.

    Raises:
        FolderError: The folder has no images or cannot be read.
    """
    images, doubles = list_named(folder)
    if not images:
        raise FolderError(f"{folder} contains no images. Choose another folder with --restored.")
    return images, doubles


def versions() -> dict[str, str]:
    """Versions of the program and the libraries that affect the scores."""
    return {
        "gfprestore": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "platform": platform.platform(),
    }


def _free_name(folder: Path, taken: set[str]) -> str:
    """Folder name for tables, with as many parent folders as needed to make it unique."""
    parts = folder.resolve().parts
    names = ("/".join(parts[-length:]) for length in range(1, len(parts) + 1))
    first = "/".join(parts)
    return next((name for name in names if name not in taken), f"{first} ({len(taken) + 1})")


def _nothing_to_score(test_set: TestSet, methods: Sequence[MethodReport]) -> str:
    failed = next((reason for method in methods for reason in method.failed.values()), None)
    if failed is not None:
        return f"None of the {len(test_set.names)} images could be restored. First error: {failed}"
    extra = next((method.extra for method in methods if method.extra), ())
    return (
        f"The image names in --restored do not match {test_set.name}: the folder has {listed(extra, 2)}, the set has "
        f"{listed(test_set.names, 2)}. Rename the files; names are compared without suffix."
    )
