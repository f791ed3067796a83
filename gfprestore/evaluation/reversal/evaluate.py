"""Evaluation of face retouching reversal (FRRffusion) on retouched pairs: reverse, score, compare, report.

Everything is written to one output folder; the same command resumes an interrupted run. The rows are the retouched
images, the constant inverse (what a network must beat), the networks with estimated and with given levels, the ceiling,
and the images of other methods.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gfprestore.batch.journal import Journal, utc_now
from gfprestore.batch.output_folder import prepare_output
from gfprestore.data.dlib_landmarks import open_landmarks
from gfprestore.data.retouched_pairs import ORIGINAL_FOLDER, RETOUCHED_FOLDER
from gfprestore.data.retouching_levels import OPERATIONS
from gfprestore.data.test_sets import file_list_checksum, listed
from gfprestore.device import choose_device, choose_precision
from gfprestore.errors import FolderError, MetricUnavailable, UsageError, WeightsMismatchError
from gfprestore.evaluation.cache import FileHashes
from gfprestore.evaluation.evaluate import SCORED_TOGETHER, Listener, images_to_score, refuse_within, versions
from gfprestore.evaluation.html_report import Page
from gfprestore.evaluation.metrics.opening import (
    METRICS,
    REVERSAL_METRICS,
    FaceMetric,
    ImageMetric,
    SetMetric,
    open_metric,
)
from gfprestore.evaluation.metrics.reversal import LandmarkError
from gfprestore.evaluation.report import Report
from gfprestore.evaluation.reversal.comparisons import CONSTANT, RETOUCHED, compare
from gfprestore.evaluation.reversal.constant_inverse import constant_row, learn, training_pairs
from gfprestore.evaluation.reversal.crops import Pair, cut_pairs
from gfprestore.evaluation.reversal.kept import key_of
from gfprestore.evaluation.reversal.options import ReversalEvalOptions
from gfprestore.evaluation.reversal.report import (
    ReversalReport,
    UntouchedSummary,
    View,
    html,
    json_text,
    markdown,
)
from gfprestore.evaluation.reversal.retouched_set import RetouchedSet, open_retouched_set
from gfprestore.evaluation.reversal.rows import (
    Network,
    Row,
    UntouchedFace,
    Work,
    bicubic_row,
    ceiling_row,
    reversed_row,
    untouched_faces,
)
from gfprestore.evaluation.reversal.views import (
    ALIGNED,
    BICUBIC,
    FULL,
    RULES,
    TITLES,
    Frame,
    Rows,
    frames_of,
    given_row,
    row_name,
)
from gfprestore.evaluation.scoring import MetricOpener, Scorer, open_metrics
from gfprestore.faces.detection import Detector
from gfprestore.files import write_whole
from gfprestore.restoration.frrffusion import FRRffusionRestorer
from gfprestore.restoration.model_loader import Opener
from gfprestore.restoration.options import FRRFFUSION
from gfprestore.weights.store import WeightsStore

log = logging.getLogger(__name__)

CACHE_FOLDER = "cache"
DEFAULT_BATCH = {"cpu": 2, "cuda": 16}
GOOD_PSNR = 35.0  # dB, above which an untouched face counts as unharmed
SLIGHT = 25.0  # mean level below which a face counts as slightly retouched

NetworkOpener = Callable[[Path | None], Network]


class ReversalEvaluation:
    """One evaluation.

    Args:
        options: Options of the evaluation.
        listener: Callbacks; None for no output.
        metric_opener: Factory of metrics; None for the built-in metrics.
        network_opener: Factory of networks by weights file; None for the built-in ones.
        detector: Face detector; None opens the one of the options.
    """

    def __init__(
        self,
        options: ReversalEvalOptions,
        listener: Listener | None = None,
        metric_opener: MetricOpener | None = None,
        network_opener: NetworkOpener | None = None,
        detector: Detector | None = None,
    ) -> None:
        self.options = options
        self.listener = listener or Listener()
        self.output = options.output or Path("gfprestore-eval-deepfrr")
        self.metric_opener = metric_opener
        self.network_opener = network_opener or self._network
        self.frames: list[Frame] = []
        self._detector = detector
        self._detector_key = "" if detector is None else detector.name
        self._hash = FileHashes()

    def run(self) -> ReversalReport:
        """Reverse the set, score all rows and write the report.

        Raises:
            UsageError: An option is invalid, or a file is not a network of retouching reversal.
            FolderError: An input folder cannot be used, or the output folder is not usable.
            WeightsError: Weights are missing, damaged or from another network.
            DeviceError: The device is not usable or too small.
        """
        options = self.options
        options.check()
        device = choose_device(options.device)
        refuse_within(self.output, self._folders_read())
        if options.constant_from is not None:
            training_pairs(options.constant_from)  # before the pairs are cut, which takes minutes
        prepare_output(self.output)
        with Journal.open(self.output):  # as a lock: two runs must not write into one folder
            networks = self._networks()
            find = open_landmarks()
            found = open_retouched_set(options.data, self.output, find, functools.partial(self._tell, "retouch"))
            log.info(f"deepfrr ({found.title}): {len(found.cases)} pairs")
            detector = self._opened_detector() if found.arrives else None
            watch = self._watch("align", len(found.cases))
            pairs, failed = cut_pairs(found.cases, self.output, detector, self._detector_key, watch)
            if not pairs:
                first = next(iter(failed.values()), "the set is empty")
                raise FolderError(f"None of the {len(found.cases)} pairs can be used. First error: {first}")
            rows, notes = self._rows(pairs, networks, device, found)
            self.frames = frames_of(found.title, pairs, rows, self._hash)
            name = ALIGNED if detector is None else detector.name
            views = self._views(self.frames, device, name)
            untouched, lost = self._untouched(pairs, rows, networks, detector, device)
            report = ReversalReport(
                title=found.title,
                count=len(found.cases),
                views=tuple(views),
                untouched=tuple(untouched),
                notes=tuple(notes),
                warnings=(*found.warnings, *self._warnings(views), *lost),
                failed=failed,
                versions={**versions(), "device": str(device), "precision": options.precision},
                created=utc_now(),
            )
            write_whole(self.output / "report.json", json_text(report).encode("ascii"))
            write_whole(self.output / "report.md", markdown(report).encode("utf-8", "backslashreplace"))
            for view in views:
                watch = self._watch("page", len(view.report.test_set.names))
                inputs = view.report.test_set.lq
                Page(view.report, self.output, inputs, self._hash.known, watch, view.page).write()
            write_whole(self.output / "report.html", html(report).encode("utf-8", "backslashreplace"))
        log.info(f"Report: {self.output / 'report.html'}, also as report.md and report.json")
        return report

    def _folders_read(self) -> list[Path | None]:
        data = self.options.data
        parts = [data / part for part in ("lq", "gt", ORIGINAL_FOLDER, RETOUCHED_FOLDER)] if data is not None else []
        return [data, *parts, *self.options.restored, self.options.constant_from]

    def _networks(self) -> list[Network]:
        """Open the networks of the options, with distinct labels."""
        options = self.options
        files: list[Path | None] = list(options.weights)
        if options.restorer is not None or (not files and not options.restored):
            files.append(None)
        networks: list[Network] = []
        for path in files:
            network = self.network_opener(path)
            label = _distinct(network.label, {other.label for other in networks})
            networks.append(replace(network, label=label))
        return networks

    def _network(self, weights: Path | None) -> Network:
        """Open a network of retouching reversal."""
        options, device = self.options, choose_device(self.options.device)
        dtype = choose_precision(options.precision, device)
        store = WeightsStore(options.weights_dir, offline=options.offline)
        opener = Opener(store, device, self.listener.downloads, dtype)
        restorer = opener.restorer("auto" if weights is not None else options.restorer or FRRFFUSION, weights)
        label = "none" if restorer is None else restorer.name
        if not isinstance(restorer, FRRffusionRestorer):
            advice = (
                "Use a file that `gfprestore train` wrote for the stages fmar and hfdg, or score its images with "
                "--restored."
            )
            if weights is not None:
                raise WeightsMismatchError(f"{weights} is {label}, which does not reverse retouching. {advice}")
            raise UsageError(f"--restorer {options.restorer} does not reverse retouching. {advice}")
        digest = opener.weights_used.get("restorer", "")
        key = key_of("network", digest, str(dtype), label)
        name = label if weights is None else weights.stem
        return Network(
            label=name,
            reverser=restorer,
            key=key,
            has_second_stage=restorer.output_size > restorer.input_size,
            takes_levels=restorer.takes_levels,
            size=restorer.input_size,
        )

    def _opened_detector(self) -> Detector:
        if self._detector is None:
            options = self.options
            store = WeightsStore(options.weights_dir, offline=options.offline)
            opener = Opener(store, choose_device(options.device), self.listener.downloads)
            self._detector = opener.detector(options.detector)
            self._detector_key = f"{self._detector.name} {opener.weights_used.get('detector', '')}"
        return self._detector

    def _rows(
        self, pairs: Sequence[Pair], networks: Sequence[Network], device: torch.device, found: RetouchedSet
    ) -> tuple[Rows, list[str]]:
        """Images of all rows, and what was left out."""
        rows, notes = Rows(), []
        if self.options.constant_from is None:
            notes.append(
                "The constant inverse, which a network must beat, has no row: name training pairs with --constant-from."
            )
        else:
            (self.output / CACHE_FOLDER).mkdir(exist_ok=True)
            inverse = learn(
                self.options.constant_from,
                self.output / CACHE_FOLDER,
                functools.partial(self._tell, "constant inverse"),
            )
            rows.constant = constant_row(inverse, pairs, self._work(CONSTANT, len(pairs), device))
        if not networks:
            notes.append("No network was given. Name its file with --weights, or a released one with --restorer.")
        known = [pair for pair in pairs if pair.case.levels is not None]
        for network in networks:
            self._network_rows(network, pairs, len(known), rows, notes, device)
        if networks and not known:
            notes.append("The levels of this set are unknown, so there is no row with given levels.")
        large = [pair for pair in pairs if pair.side > 256]
        if large:
            rows.bicubic = bicubic_row(large, self._work(BICUBIC, len(large), device))
            for network in networks:
                if network.has_second_stage:
                    work = self._work(f"{network.label}, ceiling", len(large), device)
                    rows.ceilings[network.label] = ceiling_row(network, large, work)
        else:
            notes.append("All originals have 256 pixels or fewer, so there is no comparison at a larger size.")
        if not found.arrives:
            notes.append(
                "The pairs are crops that were aligned on the retouched face when the set was made, so there is no "
                "comparison in the photo. Use a set made with `retouch --keep-alignment`, or a folder of faces."
            )
        self._given_rows(pairs, rows, device)
        return rows, notes

    def _network_rows(
        self,
        network: Network,
        pairs: Sequence[Pair],
        known: int,
        rows: Rows,
        notes: list[str],
        device: torch.device,
    ) -> None:
        for with_levels, count in ((False, len(pairs)), (True, known)):
            if not count or (with_levels and not network.takes_levels):
                continue
            name = row_name(network, with_levels=with_levels)
            try:
                row = reversed_row(network, pairs, self._work(name, count, device), with_levels=with_levels)
            except UsageError as error:
                notes.append(f"{name} has no row: {error}")
                continue
            rows.networks[name] = row
        if not network.takes_levels:
            notes.append(f"{network.label} reads no levels, so it has no row with given levels.")
        if not network.has_second_stage:
            notes.append(f"{network.label} has no second stage, so it has no rows above 256 pixels and no ceiling.")

    def _given_rows(self, pairs: Sequence[Pair], rows: Rows, device: torch.device) -> None:
        """Rows of the folders in `--restored`.

        Raises:
            FolderError: A folder has no images, or none with the name of a pair.
        """
        taken = {RETOUCHED, CONSTANT, BICUBIC, *rows.networks}
        names = {pair.name for pair in pairs}
        for folder, name in self.options.named_folders():
            images, doubles = images_to_score(folder)
            if not names & images.keys():
                raise FolderError(
                    f"The image names in {folder} do not match the set: the folder has {listed(images, 2)}, the set "
                    f"has {listed(names, 2)}. Rename the files; names are compared without suffix."
                )
            label = _distinct(name or folder.resolve().name, taken)
            taken.add(label)
            for line in doubles:
                log.info(line)
            rows.given[label] = given_row(images, pairs, label, self._work(label, len(pairs), device))

    def _views(self, frames: Sequence[Frame], device: torch.device, detector: str) -> list[View]:
        """Score the frames and compare their rows."""
        names = self.options.metrics or REVERSAL_METRICS
        opened = open_metrics(names, self._metric_opener(device))
        prepare_output(self.output / CACHE_FOLDER)
        views = []
        for frame in frames:
            methods = []
            for method in frame.methods:
                watch = self._watch(f"score {frame.key}, {method.name}", len(method.subjects))
                scorer = Scorer(opened, self.output / CACHE_FOLDER, device, SCORED_TOGETHER, watch)
                methods.append(replace(method, scores=scorer.score(method.subjects)))
            report = Report(
                test_set=frame.test_set,
                checksum=self._checksum(frame),
                metrics=tuple(names),
                methods=tuple(methods),
                published=(),
                relative=(),
                versions=versions(),
                machine={"device": str(device), "precision": self.options.precision},
                created=utc_now(),
                own_rules=(RULES[frame.key].format(detector=detector),),
            )
            others = (RETOUCHED, CONSTANT, BICUBIC) if frame.key == FULL else (RETOUCHED, CONSTANT)
            views.append(View(frame.key, TITLES[frame.key], report, tuple(compare(methods, others))))
        return views

    def _metric_opener(self, device: torch.device) -> MetricOpener:
        """Factory of metrics; weights are never downloaded."""
        if self.metric_opener is not None:
            return self.metric_opener
        store = WeightsStore(self.options.weights_dir, offline=True)

        def opened(name: str, weights_used: dict[str, str]) -> ImageMetric | FaceMetric | SetMetric:
            if name != "landmarks":
                return open_metric(name, store, device, weights_used=weights_used)
            if self._detector is None:
                raise MetricUnavailable(
                    METRICS[name].label, "the set is aligned already, so that no face detector was opened."
                )
            weights_used["detector"] = self._detector_key
            return LandmarkError(METRICS[name], self._detector)

        return opened

    def _untouched(
        self,
        pairs: Sequence[Pair],
        rows: Rows,
        networks: Sequence[Network],
        detector: Detector | None,
        device: torch.device,
    ) -> tuple[list[UntouchedSummary], list[str]]:
        """Summaries of what the networks do to untouched faces, and warnings."""
        found, lost = [], []
        for network in networks:
            row = rows.networks.get(row_name(network, with_levels=False))
            if row is None:
                continue
            work = self._work(f"{network.label}, untouched", len(pairs), device)
            faces, failed = untouched_faces(network, pairs, detector, work)
            if failed:
                lost.append(f"{len(failed)} originals could not be given to {network.label}: {listed(failed)}.")
            found.append(summary_of(network.label, pairs, row, faces))
        return found, lost

    def _warnings(self, views: Sequence[View]) -> list[str]:
        return [f"{view.title}, {line}" for view in views for line in view.report.warnings]

    def _checksum(self, frame: Frame) -> str:
        parts = {"lq": frame.test_set.lq, "gt": frame.test_set.gt}
        return file_list_checksum(
            {(part, name): self._hash(path) for part, images in parts.items() for name, path in images.items()}
        )

    def _work(self, what: str, total: int, device: torch.device) -> Work:
        batch = self.options.batch_size or DEFAULT_BATCH.get(device.type, 2)
        return Work(self.output, batch, self._watch(what, total))

    def _watch(self, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self.listener.progress(what, done, total)

    def _tell(self, what: str, done: int, total: int) -> None:
        self.listener.progress(what, done, total)


def summary_of(label: str, pairs: Sequence[Pair], row: Row, faces: Mapping[str, UntouchedFace]) -> UntouchedSummary:
    """Summarize what a network does to untouched and slightly retouched faces.

    Args:
        label: Name of the network.
        pairs: The pairs.
        row: Its row with estimated levels.
        faces: Results for the originals.
    """
    scores = [face.psnr for face in faces.values()]
    slight, errors = [], []
    for pair in pairs:
        levels = pair.case.levels
        if levels is None or pair.name not in row.levels:
            continue
        true = np.array([getattr(levels, name) for name in OPERATIONS], np.float64)
        errors.append(float(np.abs(true - 100 * np.array(row.levels[pair.name])).mean()))
        if 0 < true.mean() < SLIGHT:
            slight.append(row.untouched[pair.name])
    return UntouchedSummary(
        method=label,
        count=len(faces),
        psnr=_mean(scores),
        above=_mean([float(score > GOOD_PSNR) for score in scores]),
        passed=_mean([float(face.passed) for face in faces.values()]),
        slight_count=len(slight),
        slight_passed=_mean([float(passed) for passed in slight]),
        level_error=_mean(errors),
    )


def _distinct(name: str, taken: Collection[str]) -> str:
    """The name, numbered if it is taken."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(label for label in itertools.chain([name], numbered) if label not in taken)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
