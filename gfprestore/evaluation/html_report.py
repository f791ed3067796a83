"""The report as an HTML page: input, restored image of each method and gt with their scores, worst first.

The page is one file that needs no network. Its thumbnails are in a folder next to it, and the browser loads them as
they scroll into view. Page and folder can be moved together. Images are sorted by the first metric; a small script
sorts them by any other. A thumbnail links to the full image if that is in the report's folder. The markup is in
`report.html.j2`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import jinja2
import numpy as np

from gfprestore.batch.output_folder import create_folder_within
from gfprestore.data.images import read_pixels
from gfprestore.errors import PhotoError
from gfprestore.evaluation.metrics.specs import METRICS
from gfprestore.evaluation.report import ARROWS, MethodReport, Report, number_text, published_notes, table_of
from gfprestore.files import write_whole
from gfprestore.pixels import resized

TEMPLATE = "report.html.j2"
THUMBNAILS = "thumbnails"
THUMBNAIL_SIDE = 256
THUMBNAIL_QUALITY = 88

Order = tuple[MethodReport, str]  # sort key of the images: a method and one of its metrics


@dataclass(frozen=True)
class _Thumbnail:
    """Address of a thumbnail relative to the page, and its size in pixels."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class _Figure:
    """An image of the page with its caption.

    Attributes:
        label: First line of the caption.
        alt: Text for readers who do not see the image.
        scores: Further lines of the caption.
        thumbnail: None if there is no image to show.
        address: Address of the full image relative to the page; None if it is outside the page's folder.
        problem: Text in place of a missing image.
    """

    label: str
    alt: str
    scores: list[str]
    thumbnail: _Thumbnail | None
    address: str | None
    problem: str


@dataclass(frozen=True)
class _Item:
    """One image of the test set: its sort keys for the script, its name and its figures."""

    badness: str
    name: str
    figures: list[_Figure]


class Page:
    """Writer of a report's page.

    Args:
        report: The report to show.
        folder: Folder of the page; thumbnails go into a subfolder.
        inputs: Input of each image by name; the crop if a photo was aligned.
        hashes: SHA-256 of the files of inputs, restored images and gt, by path.
        on_progress: Called with the number of finished images.
        file_name: Name of the page.
    """

    def __init__(
        self,
        report: Report,
        folder: Path,
        inputs: Mapping[str, Path],
        hashes: Mapping[Path, str],
        on_progress: Callable[[int], None],
        file_name: str = "report.html",
    ) -> None:
        self.file_name = file_name
        self.report = report
        self.folder = folder
        self.inputs = inputs
        self.hashes = hashes
        self.on_progress = on_progress
        self._restored = [{subject.name: subject.restored for subject in method.subjects} for method in report.methods]

    def write(self) -> Path:
        """Create the missing thumbnails and write the page.

        Raises:
            FolderError: The folder cannot be written.
            PhotoError: A folder of thumbnails cannot be created.
        """
        orders = self._orders()
        names = sorted(self.report.test_set.names, key=lambda name: _badness(name, orders[0]) if orders else 0.0)
        items = []
        for number, name in enumerate(names, start=1):
            items.append(self._item(name, orders))
            self.on_progress(number)
        text = open_template(TEMPLATE).render(
            **self._summary(), orders=[_order_label(*order) for order in orders], items=items
        )
        path = self.folder / self.file_name
        write_whole(path, text.encode("utf-8", "backslashreplace"))
        return path

    def _orders(self) -> list[Order]:
        """Sort keys of the page: every metric with a number for at least one image of a method."""
        return [
            (method, name)
            for name in self.report.metrics
            for method in self.report.methods
            if method.scores.scores[name].images
        ]

    def _summary(self) -> dict[str, object]:
        """Values of the template above the images."""
        report, test_set = self.report, self.report.test_set
        columns, rows = table_of(report)
        return {
            "title": test_set.known.title if test_set.known else test_set.name,
            "count": len(test_set.names),
            "expected": test_set.expected,
            "with_gt": sum(name in test_set.gt for name in test_set.names),
            "checksum": report.checksum,
            "columns": columns,
            "rows": rows,
            "own_rows": len(report.methods),
            "published_notes": published_notes(report),
            "unavailable": report.unavailable,
            "warnings": report.warnings,
            "protocols": [
                *report.rules,
                *(f"{METRICS[name].label}: {METRICS[name].protocol}" for name in report.metrics),
            ],
        }

    def _item(self, name: str, orders: list[Order]) -> _Item:
        """One image with its figures, and its badness by each sort key for the script."""
        figures = []
        if name in self.inputs:
            figures.append(self._figure(self.inputs[name], "input", f"input of {name}"))
        for method, restored in zip(self.report.methods, self._restored, strict=True):
            missing = method.failed.get(name, "missing")
            scores = _scores_of(method, name)
            figures.append(self._figure(restored.get(name), method.name, f"{name} by {method.name}", scores, missing))
        if name in self.report.test_set.gt:
            figures.append(self._figure(self.report.test_set.gt[name], "gt", f"gt of {name}"))
        return _Item(",".join(f"{_badness(name, order):.6g}" for order in orders), name, figures)

    def _figure(
        self, path: Path | None, label: str, alt: str, scores: list[str] | None = None, missing: str = "missing"
    ) -> _Figure:
        thumbnail = None if path is None else self._thumbnail(path)
        address = None if path is None or thumbnail is None else self._address(path)
        problem = missing if path is None else "cannot be read"
        return _Figure(label, alt, scores or [], thumbnail, address, problem)

    def _thumbnail(self, path: Path) -> _Thumbnail | None:
        """Thumbnail of an image, created if it is missing; None if the image cannot be read."""
        digest = self.hashes.get(path)
        if not digest:
            return None
        relative = f"{THUMBNAILS}/{digest[:2]}/{digest[2:34]}.jpg"
        target = self.folder / relative
        if target.is_file():
            kept = cv2.imdecode(np.fromfile(target, np.uint8), cv2.IMREAD_COLOR)
            if kept is not None:
                return _Thumbnail(relative, kept.shape[1], kept.shape[0])
        try:
            pixels = read_pixels(path).pixels
        except PhotoError:
            return None
        scale = min(1.0, THUMBNAIL_SIDE / max(pixels.shape[:2]))
        width, height = (max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0]))
        small = resized(pixels, width, height)
        _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
        create_folder_within(target.parent, self.folder)
        write_whole(target, data.tobytes())
        return _Thumbnail(relative, width, height)

    def _address(self, path: Path) -> str | None:
        """Address of an image relative to the page; None if it is outside the page's folder."""
        real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(self.folder))
        if not real.is_relative_to(folder):
            return None
        return PurePosixPath("/", real.relative_to(folder).as_posix()).as_uri().removeprefix("file:///")


def _badness(name: str, order: Order) -> float:
    """Sort key of an image, ascending from the worst; an image without a score comes last."""
    method, metric = order
    number = method.scores.scores[metric].images.get(name)
    if number is None:
        return math.inf
    return METRICS[metric].badness(number)


def _scores_of(method: MethodReport, name: str) -> list[str]:
    """Scores of one image as text, one metric per entry."""
    return [
        f"{METRICS[metric].label} {ARROWS[METRICS[metric].better]} {number_text(score.images[name], metric)}"
        for metric, score in method.scores.scores.items()
        if name in score.images
    ]


def _order_label(method: MethodReport, metric: str) -> str:
    return f"{METRICS[metric].label} of {method.name}"


def open_template(name: str) -> jinja2.Template:
    """A template of this package; every value is escaped, and a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gfprestore.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
