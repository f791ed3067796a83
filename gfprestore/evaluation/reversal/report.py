"""Report of a reversal's evaluation as JSON, Markdown and HTML: tables of all frames, comparisons, untouched faces.

This module computes no scores. Each frame is a `Report` of its own, with a page of its images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gfprestore.evaluation import report as base
from gfprestore.evaluation.html_report import open_template
from gfprestore.evaluation.intervals import Estimate
from gfprestore.evaluation.metrics.opening import METRICS
from gfprestore.evaluation.published import relative_for
from gfprestore.evaluation.report import Report, table_of
from gfprestore.evaluation.reversal.comparisons import Comparison
from gfprestore.evaluation.reversal.retouched_set import NAME

TEMPLATE = "reversal/report.html.j2"

WHAT_IT_IS = "A reversed face is an estimate and no evidence of how a person looks."


@dataclass(frozen=True)
class View:
    """One frame of the comparison.

    Attributes:
        key: Short name, also of its page.
        title: Name in the report.
        report: The scores.
        comparisons: Comparisons of its rows.
    """

    key: str
    title: str
    report: Report
    comparisons: tuple[Comparison, ...]

    @property
    def page(self) -> str:
        """File name of the page with its images."""
        return f"{self.key}.html"


@dataclass(frozen=True)
class UntouchedSummary:
    """What a network does to faces that are not retouched, or only slightly.

    Attributes:
        method: Name of the network.
        count: Number of originals that were given to it.
        psnr: Mean PSNR of the results in dB, each at most 60; None without results.
        above: Share of results above 35 dB.
        passed: Share that was passed through unchanged.
        slight_count: Number of slightly retouched faces in the set (mean level above 0 and below 25).
        slight_passed: Share of these that was passed through; None if there are none.
        level_error: Mean absolute error of the estimated levels, 0 to 100; None without known levels.
    """

    method: str
    count: int
    psnr: float | None
    above: float | None
    passed: float | None
    slight_count: int
    slight_passed: float | None
    level_error: float | None


@dataclass(frozen=True)
class ReversalReport:
    """Result of the evaluation of a retouched set.

    Attributes:
        title: Kind of the set.
        count: Number of pairs.
        views: The frames that were compared.
        untouched: One summary per network.
        notes: What was left out, and why.
        warnings: Problems of the set and of single images.
        failed: Errors by image name.
        versions: Versions of this program and its libraries.
        created: UTC time in ISO 8601.
    """

    title: str
    count: int
    views: tuple[View, ...]
    untouched: tuple[UntouchedSummary, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    failed: Mapping[str, str]
    versions: Mapping[str, str]
    created: str

    @property
    def name(self) -> str:
        """Title of the report."""
        return f"deepfrr ({self.title})"


def published_lines() -> list[str]:
    """What the paper says of itself, with the reason why it cannot be compared."""
    return [base.relative_note(gains) for gains in relative_for(NAME)]


def as_json(report: ReversalReport, *, with_images: bool) -> dict[str, Any]:
    """Convert the report to a JSON object.

    Args:
        report: The report.
        with_images: Include the scores of each image; `--json` omits them.
    """
    views = {view.key: base.as_json(view.report, with_images=with_images) for view in report.views}
    return {
        "sets": [{**entry, "view": key} for key, document in views.items() for entry in document["sets"]],
        "test_set": {"name": "deepfrr", "title": report.title, "count": report.count},
        "views": {
            view.key: {
                "title": view.title,
                "count": len(view.report.test_set.names),
                "checksum": view.report.checksum,
                "protocol": view.report.rules,
                "unavailable": view.report.unavailable,
                "comparisons": [_comparison_json(entry) for entry in view.comparisons],
            }
            for view in report.views
        },
        "untouched": [asdict(entry) for entry in report.untouched],
        "published": published_lines(),
        "notes": [WHAT_IT_IS, *report.notes],
        "warnings": list(report.warnings),
        "failed": dict(report.failed),
        "versions": dict(report.versions),
        "created": report.created,
    }


def json_text(report: ReversalReport) -> str:
    """Text of `report.json`."""
    return json.dumps(as_json(report, with_images=True), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def comparison_table(view: View) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the comparisons of a view."""
    columns = ["method", "compared with", "what", "metric", "value", "95 % interval", "images"]
    rows = [
        [
            entry.method,
            entry.other,
            entry.what,
            METRICS[entry.metric].label,
            _number(entry.estimate.value),
            f"{_number(entry.estimate.low)} to {_number(entry.estimate.high)}",
            str(entry.estimate.count),
        ]
        for entry in view.comparisons
    ]
    return columns, rows


def untouched_table(report: ReversalReport) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of what the networks do to untouched and slightly retouched faces."""
    columns = [
        *("network", "originals given", "PSNR (at most 60)", "above 35 dB", "passed through"),
        *("slightly retouched", "of them passed through", "error of the estimated levels"),
    ]
    rows = [
        [
            entry.method,
            str(entry.count),
            _optional(entry.psnr, "{:.2f}"),
            _optional(entry.above, "{:.1%}"),
            _optional(entry.passed, "{:.1%}"),
            str(entry.slight_count),
            _optional(entry.slight_passed, "{:.1%}"),
            _optional(entry.level_error, "{:.1f}"),
        ]
        for entry in report.untouched
    ]
    return columns, rows


def unavailable_lines(report: ReversalReport) -> list[str]:
    """Reasons for missing scores, each once."""
    return list(dict.fromkeys(line for view in report.views for line in view.report.unavailable))


def markdown(report: ReversalReport) -> str:
    """Text of `report.md`."""
    lines = [f"# {base.plain(report.name)}", "", f"{report.count} pairs. {WHAT_IT_IS}", ""]
    for view in report.views:
        lines += [f"## {base.plain(view.title)}", "", f"{len(view.report.test_set.names)} pairs.", ""]
        lines += base.markdown_table(*table_of(view.report))
        if view.comparisons:
            lines += [
                "",
                "Compared image by image (paired bootstrap):",
                "",
                *base.markdown_table(*comparison_table(view)),
            ]
        lines.append("")
    if report.untouched:
        lines += ["## Untouched and slightly retouched faces", "", *base.markdown_table(*untouched_table(report)), ""]
    for title, items in _sections(report).items():
        if items:
            lines += [f"## {title}", "", *(f"- {base.plain(item)}" for item in items), ""]
    lines.append(f"Created on {report.created} by gfprestore {report.versions.get('gfprestore', '')}.")
    return "\n".join(lines) + "\n"


def html(report: ReversalReport) -> str:
    """Text of `report.html`: the tables, with links to the pages of the views."""
    views = [
        {
            "title": view.title,
            "page": view.page,
            "count": len(view.report.test_set.names),
            "table": table_of(view.report),
            "comparisons": comparison_table(view) if view.comparisons else None,
        }
        for view in report.views
    ]
    return open_template(TEMPLATE).render(
        title=report.name,
        count=report.count,
        what=WHAT_IT_IS,
        views=views,
        untouched=untouched_table(report) if report.untouched else None,
        sections=_sections(report),
        created=report.created,
        version=report.versions.get("gfprestore", ""),
    )


def _sections(report: ReversalReport) -> dict[str, Sequence[str]]:
    metrics = dict.fromkeys(name for view in report.views for name in view.report.metrics)
    rules = dict.fromkeys(rule for view in report.views for rule in view.report.rules)
    used = dict.fromkeys(line for view in report.views for line in base.weights_lines(view.report))
    protocols = [f"{METRICS[name].label}: {METRICS[name].protocol}" for name in metrics]
    return {
        "Published": published_lines(),
        "Left out": report.notes,
        "No number": unavailable_lines(report),
        "Warnings": report.warnings,
        "Protocol": [*rules, *protocols],
        "Weights": list(used),
        "Versions": [f"{name} {version}" for name, version in report.versions.items()],
    }


def _comparison_json(entry: Comparison) -> dict[str, Any]:
    estimate: Estimate = entry.estimate
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return {
        "method": entry.method,
        "compared_with": entry.other,
        "what": entry.what,
        "metric": entry.metric,
        **finite,
        "count": estimate.count,
    }


def _number(value: float) -> str:
    return f"{value:.3f}"


def _optional(value: float | None, form: str) -> str:
    return base.NO_VALUE if value is None else form.format(value)
