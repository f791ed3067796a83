"""Evaluates as the papers do (GFP-GAN, section 4.2): a test set is restored, scored, and reported.

Everything lies in one output folder: `restored/` (and `aligned/`, where photos had to be cropped), `cache/` with what
was measured, `report.json`, `report.md`, `report.html` and its `thumbnails/`. The same command goes on where it was
stopped, and another metric restores nothing again.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal, utc_now
from gfprestore.batch.output_folder import prepare_output
from gfprestore.data.images import sha256_of
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
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.evaluation.html_report import Page
from gfprestore.evaluation.metrics.opening import DEFAULT_METRICS, METRICS, ImageMetric, SetMetric, open_metric
from gfprestore.evaluation.published import published_for
from gfprestore.evaluation.report import MethodReport, Report, json_text, markdown
from gfprestore.evaluation.restoring import Written, align_photos, restoration_settings, restore_set
from gfprestore.evaluation.scoring import MetricOpener, Scorer, Subject, open_metrics
from gfprestore.files import write_whole
from gfprestore.restoration.model_loader import DownloadReport, Opener
from gfprestore.restoration.restoration import Restoration, RunOptions
from gfprestore.weights.store import WeightsStore, user_folder

CACHE_FOLDER = "cache"
STATISTICS_FOLDER = "statistics"
SCORED_TOGETHER = 8  # images in memory; more would not be faster, the networks batch within
MOST_TOLD = 5


@dataclass(frozen=True)
class EvalOptions:
    """What to evaluate; the fields are the options of `gfprestore eval`.

    Attributes:
        test_set: A known test set's name or a folder; None where only folders of images are compared.
        data: Where the named set lies; None for its place below the user's data folder.
        restored: Folders of images restored elsewhere.
        gt: Originals in place of the set's own.
        lq: Inputs in place of the set's own.
        metrics: Keys of `METRICS`; None takes all.
        statistics: For FID: a file of statistics, or a folder of images to compute them from.
        restorer: `auto` or a name of `weights list`; None restores nothing where `restored` is given.
        weights: An own checkpoint in place of `restorer`.
        alignment: `auto`, `aligned` or `photo`: what the inputs are.
        detector: Finds the faces of photos, as in `gfprestore run`.
        output: Where everything goes; None for `gfprestore-eval-<set>` here.
        device: `auto` or a torch device name.
        precision: `auto`, `fp32`, `fp16` or `bf16`, of the restorer.
        batch_size: Faces restored together; None chooses by device.
        offline: Never touch the network.
        weights_dir: Folder of weights before all others.
    """

    test_set: str | None = None
    data: Path | None = None
    restored: tuple[Path, ...] = ()
    gt: Path | None = None
    lq: Path | None = None
    metrics: tuple[str, ...] | None = None
    statistics: Path | None = None
    restorer: str | None = None
    weights: Path | None = None
    alignment: Alignment = "auto"
    detector: str = "auto"
    output: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    offline: bool = False
    weights_dir: Path | None = None

    @property
    def restores(self) -> bool:
        """Whether the set is restored here, or only images of others are scored."""
        return not self.restored or self.restorer is not None or self.weights is not None

    def check(self) -> None:
        """Checks what does not depend on files.

        Raises:
            UsageError: Options contradict each other, or a metric is unknown.
        """
        unknown = [name for name in self.metrics or () if name not in METRICS]
        if unknown:
            raise UsageError(f"--metrics {', '.join(unknown)}: unknown. Known are: {', '.join(METRICS)}.")
        if self.metrics == ():
            raise UsageError(f"--metrics names none. Known are: {', '.join(METRICS)}.")
        if self.test_set is None and not self.restored:
            raise UsageError("Name a test set with --set, or images with --restored.")
        if self.restores and self.test_set is None and self.lq is None:
            raise UsageError("--restorer and --weights restore a set: name it with --set, or its inputs with --lq.")
        if self.alignment not in ("auto", "aligned", "photo"):
            raise UsageError(f"--alignment {self.alignment} is unknown; use auto, aligned or photo.")
        if self.restorer == "none":
            raise UsageError("--restorer none restores nothing. To score the inputs name their folder with --restored.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is below 1.")
        if self.statistics is not None and not self.statistics.exists():
            raise UsageError(f"--statistics {self.statistics} does not exist.")


@dataclass(frozen=True)
class Listener:
    """Who is told what happens.

    Attributes:
        tell: Takes lines for people.
        progress: Told what is being done, and how many of how many images are done.
        downloads: Gives, for a weights name, a function that is told (bytes received, total bytes or None).
    """

    tell: Callable[[str], None] = lambda _line: None
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    downloads: DownloadReport | None = None


class Evaluation:
    """One evaluation.

    Args:
        options: What to evaluate.
        listener: Who is told.
        opener: Opens a metric; None opens ours.
    """

    def __init__(
        self, options: EvalOptions, listener: Listener | None = None, opener: MetricOpener | None = None
    ) -> None:
        self.options = options
        self.listener = listener or Listener()
        self.metric_opener = opener
        self._hashes: dict[Path, str] = {}

    def run(self) -> Report:
        """Restores, scores, and writes the report.

        Raises:
            UsageError: An option is wrong.
            FolderError: An input folder has no images, or the output folder cannot be used.
            WeightsError: The restorer's weights are missing, damaged or of another network.
            DeviceError: The device is not usable or too small.
        """
        options = self.options
        options.check()
        device = choose_device(options.device)
        test_set = self._test_set()
        output = options.output or Path(f"gfprestore-eval-{test_set.name}")
        self._check_apart(test_set, output)
        self._tell_set(test_set)
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
                versions=versions(),
                machine={"device": str(device), "precision": options.precision},
                created=utc_now(),
                statistics=None if options.statistics is None else options.statistics.resolve().name,
            )
            write_whole(output / "report.json", json_text(report).encode("ascii"))
            write_whole(output / "report.md", markdown(report).encode("utf-8", "backslashreplace"))
            self._write_page(report, output, inputs)
        self.listener.tell(f"report: {output / 'report.html'}, report.md and report.json beside it")
        return report

    def _test_set(self) -> TestSet:
        options = self.options
        if options.test_set is not None:
            return open_test_set(options.test_set, options.data, options.lq, options.gt, options.alignment)
        if options.lq is not None and options.restores:
            return open_test_set(str(options.lq), None, None, options.gt, options.alignment)
        return folders_as_set(options.restored[0], options.lq, options.gt)

    def _check_apart(self, test_set: TestSet, output: Path) -> None:
        """Raises FolderError where results would come to lie among the images that are read."""
        options = self.options
        is_flat = test_set.folder is not None and not (test_set.folder / "lq").is_dir()
        parts = [test_set.folder / name for name in ("lq", "gt")] if test_set.folder is not None else []
        read = [*parts, *options.restored, options.lq, options.gt, test_set.folder if is_flat else None]
        for folder in read:
            if folder is not None and output.resolve().is_relative_to(folder.resolve()):
                raise FolderError(
                    f"The output folder {output} lies within {folder}, whose images are read and never written to. "
                    "Name another folder with --output."
                )

    def _tell_set(self, test_set: TestSet) -> None:
        of = f" of {test_set.expected}" if test_set.expected is not None else ""
        with_gt = sum(name in test_set.gt for name in test_set.names)
        self.listener.tell(f"{test_set.name}: {len(test_set.names)}{of} images, {with_gt} with gt")

    def _restored_here(self, test_set: TestSet, journal: Journal) -> tuple[Mapping[str, Path], MethodReport | None]:
        """Restores the set where that is asked for; the inputs are the crops where photos were aligned."""
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
            self.listener.tell,
            self.listener.downloads,
        )
        inputs, failed = test_set.lq, {}
        detector = None
        if test_set.whole_photos:
            aligned, detector = self._aligned(test_set, journal)
            inputs, failed = aligned.images, aligned.failed
        written = restore_set(inputs, journal, restoration, self._watch("restore", len(inputs)))
        self._tell_written(written)
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
        """The crops of whole photos, and the name of the detector that found the faces."""
        options = self.options
        opener = Opener(
            WeightsStore(options.weights_dir, offline=options.offline),
            choose_device(options.device),
            self.listener.tell,
            self.listener.downloads,
        )
        detector = opener.detector(options.detector)
        watch = self._watch(f"align ({detector.name})", len(test_set.lq))
        written = align_photos(test_set.lq, journal, detector, opener.weights_used.get("detector"), watch)
        return written, detector.name

    def _given(self, test_set: TestSet) -> list[MethodReport]:
        """The methods whose images were named."""
        methods = []
        taken: set[str] = set()
        known = set(test_set.names)
        for folder in self.options.restored:
            images, doubles = list_named(folder)
            if not images:
                raise FolderError(f"There are no images in {folder}. Name another folder with --restored.")
            name = _free_name(folder, taken)
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
        """The set's images of a method, with their gt where there is one; a file that cannot be read has no hash."""
        subjects = []
        for name in test_set.names:
            if name in images:
                gt = test_set.gt.get(name)
                gt_sha256 = None if gt is None else self._hash(gt)
                subjects.append(Subject(name, images[name], self._hash(images[name]), gt, gt_sha256))
        return tuple(subjects)

    def _scored(self, methods: Sequence[MethodReport], device: torch.device, output: Path) -> list[MethodReport]:
        """The methods with their scores."""
        options = self.options
        opened = open_metrics(options.metrics or DEFAULT_METRICS, self.metric_opener or self._opener(device))
        unavailable = [entry.spec.label for entry in opened if entry.metric is None]
        if unavailable:
            self.listener.tell(f"without {', '.join(unavailable)}: why stands in the report and at the end")
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
        """Opens our metrics; what they need is looked for here and never downloaded."""
        options = self.options
        store = WeightsStore(options.weights_dir, offline=True)
        is_folder = options.statistics is not None and options.statistics.is_dir()

        def opened(name: str, weights_used: dict[str, str]) -> ImageMetric | SetMetric:
            return open_metric(
                name,
                store,
                device,
                statistics=None if is_folder else options.statistics,
                reference=options.statistics if is_folder else None,
                cache=user_folder().parent / STATISTICS_FOLDER,
                weights_used=weights_used,
                progress=lambda done, total: self.listener.progress("statistics for the FID", done, total),
            )

        return opened

    def _checksum(self, test_set: TestSet) -> str:
        """The checksum of the set's files; a file that cannot be read counts as empty text."""
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
        Page(report, output, inputs, self._hashes, self._watch("page", len(report.test_set.names))).write()

    def _hash(self, path: Path) -> str:
        """SHA-256 of a file, computed once; that of nothing where it cannot be read, which reading it will tell."""
        if path not in self._hashes:
            try:
                self._hashes[path] = sha256_of(path)
            except PhotoError:
                self._hashes[path] = ""
        return self._hashes[path]

    def _watch(self, what: str, total: int) -> Callable[..., None]:
        return lambda done, offset=0: self.listener.progress(what, offset + done, total)

    def _tell_written(self, written: Written) -> None:
        done = len(written.images)
        self.listener.tell(f"{done} images in {written.folder}, {written.done_before} of them done before")
        for name, reason in list(written.failed.items())[:MOST_TOLD]:
            self.listener.tell(f"{name} failed: {reason}")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {
        "gfprestore": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "platform": platform.platform(),
    }


def _free_name(folder: Path, taken: set[str]) -> str:
    """A folder's name for tables, with as much of the path before it as tells it from the others."""
    parts = folder.resolve().parts
    names = ("/".join(parts[-length:]) for length in range(1, len(parts) + 1))
    first = "/".join(parts)
    return next((name for name in names if name not in taken), f"{first} ({len(taken) + 1})")


def _nothing_to_score(test_set: TestSet, methods: Sequence[MethodReport]) -> str:
    failed = next((reason for method in methods for reason in method.failed.values()), None)
    if failed is not None:
        return f"None of the {len(test_set.names)} images could be restored. The first: {failed}"
    extra = next((method.extra for method in methods if method.extra), ())
    return (
        f"No image of --restored has the name of one of {test_set.name}: there are {listed(extra, 2)}, the set has "
        f"{listed(test_set.names, 2)}. Names are compared without suffix; rename the files."
    )
