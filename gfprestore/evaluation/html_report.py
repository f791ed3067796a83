"""The report as a page with images: input, restored by each method, gt, with the scores of each, worst first.

The page is one file without any address on a network; beside it lies a folder of thumbnails, named by the content of
the images, which the browser fetches as they come into view. Page and folder can be moved together. The images are
sorted by the first metric; a small script sorts them by any other. A thumbnail leads to the whole image where that
lies in the report's folder.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from gfprestore.batch.output_folder import create_folder_within
from gfprestore.data.images import read_pixels, resized
from gfprestore.errors import PhotoError
from gfprestore.evaluation.metrics.opening import METRICS
from gfprestore.evaluation.report import ARROWS, MethodReport, Report, number_text, published_notes, table_of
from gfprestore.files import write_whole

THUMBNAILS = "thumbnails"
THUMBNAIL_SIDE = 256
THUMBNAIL_QUALITY = 88

Order = tuple[MethodReport, str]  # a method and the metric of it that the images are sorted by


class Page:
    """Writes the page of a report.

    Args:
        report: What to show.
        folder: Where the page goes, and where the thumbnails go into a folder of their own.
        inputs: The input of each image by name: the crop where a photo was aligned.
        hashes: SHA-256 of the files of inputs, restored images and gt, by path.
        on_progress: Told how many images are done.
    """

    def __init__(
        self,
        report: Report,
        folder: Path,
        inputs: Mapping[str, Path],
        hashes: Mapping[Path, str],
        on_progress: Callable[[int], None],
    ) -> None:
        self.report = report
        self.folder = folder
        self.inputs = inputs
        self.hashes = hashes
        self.on_progress = on_progress
        self._restored = [{subject.name: subject.restored for subject in method.subjects} for method in report.methods]

    def write(self) -> Path:
        """Makes the thumbnails that are missing and writes `report.html`.

        Raises:
            FolderError: The folder cannot be written.
            PhotoError: A folder of thumbnails cannot be made.
        """
        orders = self._orders()
        names = sorted(self.report.test_set.names, key=lambda name: _badness(name, orders[0]) if orders else 0.0)
        items = []
        for number, name in enumerate(names, start=1):
            items.append(self._item(name, orders))
            self.on_progress(number)
        text = "".join([*self._head(), *self._top(orders), '<ol id="images">\n', *items, "</ol>\n", _script(orders)])
        path = self.folder / "report.html"
        write_whole(path, f"{text}</body>\n</html>\n".encode("utf-8", "backslashreplace"))
        return path

    def _orders(self) -> list[Order]:
        """What the images can be sorted by: every metric that has a number for some image of a method."""
        return [
            (method, name)
            for name in self.report.metrics
            for method in self.report.methods
            if method.scores.scores[name].images
        ]

    def _head(self) -> Iterator[str]:
        title = self.report.test_set.known.title if self.report.test_set.known else self.report.test_set.name
        yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)} · gfprestore eval</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --soft: #8882; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 90rem; padding: 1rem; }}
table {{ border-collapse: collapse; }}
.wide {{ overflow-x: auto; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.published {{ opacity: .75; }}
ol {{ list-style: none; padding: 0; }}
#images > li {{ border-top: 1px solid var(--line); padding: .75rem 0; content-visibility: auto;
  contain-intrinsic-size: auto 24rem; }}
h3 {{ font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; width: 16rem; }}
figure img {{ display: block; width: 16rem; height: auto; background: var(--soft); }}
.none {{ align-items: center; background: var(--soft); display: flex; height: 16rem; justify-content: center;
  padding: 0 1rem; text-align: center; }}
figcaption {{ font-size: .875rem; }}
figcaption span {{ white-space: nowrap; }}
label, select {{ font: inherit; }}
</style>
</head>
<body>
"""
        yield f"<h1>{_text(title)}</h1>\n"

    def _top(self, orders: list[Order]) -> Iterator[str]:
        test_set = self.report.test_set
        with_gt = sum(name in test_set.gt for name in test_set.names)
        of = "" if test_set.expected is None else f" of {test_set.expected}"
        yield f"<p>{len(test_set.names)} images{of}, {with_gt} with gt. "
        yield f"Checksum of the file list: <code>{_text(self.report.checksum)}</code></p>\n"
        columns, rows = table_of(self.report)
        yield '<div class="wide"><table>\n<caption hidden>Scores by method</caption>\n<thead><tr>'
        yield "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
        yield "</tr></thead>\n<tbody>\n"
        for number, row in enumerate(rows):
            kind = ' class="published"' if number >= len(self.report.methods) else ""
            cells = "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
            yield f'<tr{kind}><th scope="row">{_text(row[0])}</th>{cells}</tr>\n'
        yield "</tbody></table></div>\n"
        yield from _section("Beside the published rows", published_notes(self.report))
        yield from _section("No number", self.report.unavailable)
        yield from _section("Warnings", self.report.warnings)
        protocols = [f"{METRICS[name].label}: {METRICS[name].protocol}" for name in self.report.metrics]
        yield from _section("Protocol", [*self.report.rules, *protocols], is_open=False)
        yield "<h2>Images</h2>\n"
        if not orders:
            yield "<p>No metric has a number for single images; they stand in the order of the set.</p>\n"
            return
        yield '<p><label for="order">Worst first by</label> <select id="order">'
        for index, (method, name) in enumerate(orders):
            yield f'<option value="{index}">{_text(_order_label(method, name))}</option>'
        yield f"</select> <noscript>(sorted by {_text(_order_label(*orders[0]))})</noscript></p>\n"

    def _item(self, name: str, orders: list[Order]) -> str:
        """One image: a heading and the figures; its badness by each order stands with it for the script."""
        badness = ",".join(f"{_badness(name, order):.6g}" for order in orders)
        figures = []
        if name in self.inputs:
            figures.append(self._figure(self.inputs[name], "input", f"input of {name}", ""))
        for method, restored in zip(self.report.methods, self._restored, strict=True):
            scores = "<br>".join(_scores_of(method, name))
            missing = method.failed.get(name, "missing")
            figures.append(self._figure(restored.get(name), method.name, f"{name} by {method.name}", scores, missing))
        if name in self.report.test_set.gt:
            figures.append(self._figure(self.report.test_set.gt[name], "gt", f"gt of {name}", ""))
        row = f'<div class="row">\n{"".join(figures)}</div>'
        return f'<li data-badness="{badness}">\n<h3>{_text(name)}</h3>\n{row}\n</li>\n'

    def _figure(self, path: Path | None, label: str, alt: str, scores: str, missing: str = "missing") -> str:
        caption = f"<figcaption><strong>{_text(label)}</strong>{'<br>' if scores else ''}{scores}</figcaption>"
        thumbnail = None if path is None else self._thumbnail(path)
        if path is None or thumbnail is None:
            told = missing if path is None else "cannot be read"
            return f'<figure><div class="none">{_text(told)}</div>{caption}</figure>\n'
        source, (width, height) = thumbnail
        image = (
            f'<img src="{_text(source)}" alt="{_text(alt)}" width="{width}" height="{height}" loading="lazy" '
            'decoding="async">'
        )
        address = self._address(path)
        if address is not None:
            image = f'<a href="{_text(address)}">{image}</a>'
        return f"<figure>{image}{caption}</figure>\n"

    def _thumbnail(self, path: Path) -> tuple[str, tuple[int, int]] | None:
        """Address of an image's thumbnail and its width and height; None where the image cannot be read."""
        digest = self.hashes.get(path)
        if not digest:
            return None
        relative = f"{THUMBNAILS}/{digest[:2]}/{digest[2:34]}.jpg"
        target = self.folder / relative
        if target.is_file():
            kept = cv2.imdecode(np.fromfile(target, np.uint8), cv2.IMREAD_COLOR)
            if kept is not None:
                return relative, (kept.shape[1], kept.shape[0])
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
        return relative, (width, height)

    def _address(self, path: Path) -> str | None:
        """The image's address relative to the page, where it lies in the page's folder."""
        real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(self.folder))
        if not real.is_relative_to(folder):
            return None
        return PurePosixPath("/", real.relative_to(folder).as_posix()).as_uri().removeprefix("file:///")


def _badness(name: str, order: Order) -> float:
    """Sorts images worst first, ascending: lower is worse; an image without the number comes last."""
    method, metric = order
    number = method.scores.scores[metric].images.get(name)
    if number is None:
        return math.inf
    return number if METRICS[metric].better == "higher" else -number


def _scores_of(method: MethodReport, name: str) -> Iterator[str]:
    for metric, score in method.scores.scores.items():
        if name in score.images:
            spec = METRICS[metric]
            number = number_text(score.images[name], metric)
            yield f"<span>{_text(spec.label)} {ARROWS[spec.better]} {number}</span>"


def _order_label(method: MethodReport, metric: str) -> str:
    return f"{METRICS[metric].label} of {method.name}"


def _section(title: str, items: list[str], is_open: bool = True) -> Iterator[str]:
    if items:
        yield f"<details{' open' if is_open else ''}><summary>{_text(title)}</summary>\n<ul>\n"
        yield from (f"<li>{_text(item)}</li>\n" for item in items)
        yield "</ul></details>\n"


def _script(orders: list[Order]) -> str:
    """Sorts the images anew where the reader chooses another metric; without it the page stays as it is."""
    if len(orders) < 2:
        return ""
    return """<script>
document.getElementById("order").addEventListener("change", event => {
  const index = Number(event.target.value), list = document.getElementById("images");
  const badness = item => {
    const text = item.dataset.badness.split(",")[index];
    return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
  };
  const items = [...list.children].map(item => [badness(item), item]);
  items.sort((one, other) => one[0] === other[0] ? 0 : one[0] < other[0] ? -1 : 1);
  list.append(...items.map(item => item[1]));
});
</script>
"""


def _text(text: str) -> str:
    return html.escape(text, quote=True)
