"""Report of an evaluation as JSON, as a table for the terminal, and as Markdown.

Published rows are listed with their source, and each published score with whether it uses the same protocol. This
module computes no scores. `html_report` writes the page with the images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gfprestore.data.test_sets import CHECKSUM_RULE, TestSet, listed
from gfprestore.evaluation.metrics.specs import METRICS
from gfprestore.evaluation.published import NOT_INCLUDED, PublishedProtocol, PublishedTable, RelativeGains
from gfprestore.evaluation.scoring import READING_RULE, SIZE_RULE, MethodScores, MetricScore, Subject

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}
NOT_SAME = {"other": "†", "unknown": "‡"}
NO_VALUE = "–"
PLACES = {  # 4 for all others
    **dict.fromkeys(("fid", "psnr", "psnr_matched", "psnr_capped", "deg", "deg_all", "tone"), 2),
    **dict.fromkeys(("niqe", "lmd", "geometry", "texture"), 3),
}

ALIGNED_RULE = "Inputs are aligned crops. The network output is scored unchanged."
PHOTO_RULE = (
    "Inputs are whole photos. The face nearest the center is detected by {detector}, aligned to the FFHQ template at "
    "512 and restored. The network output for this crop is scored unchanged."
)
GIVEN_RULE = "Images of --restored come from other programs and are scored unchanged."
NAME_RULE = "Images are matched by their path within their folder, without the suffix."


@dataclass(frozen=True)
class MethodReport:
    """One method and its scores.

    Attributes:
        name: Name in tables.
        folder: Folder of its images.
        subjects: Scored images.
        scores: Results of the scoring.
        missing: Images of the set that are missing from the folder.
        extra: Images that are not part of the set.
        unrestored: Error messages of images that could not be restored, by name.
        settings: Settings of the restoration; None for given images.
        notes: Warnings from listing its folder.
    """

    name: str
    folder: Path
    subjects: tuple[Subject, ...]
    scores: MethodScores = field(default_factory=MethodScores)
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unrestored: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> dict[str, str]:
        """Error messages of images without a score, by name."""
        return {**self.unrestored, **self.scores.failed}

    @property
    def warnings(self) -> list[str]:
        """Warnings about the scores."""
        found = [*self.notes, *self.scores.warnings]
        for names, text in (
            (self.missing, "{count} images of the set are missing: {names}."),
            (self.extra, "{count} images are not part of the set and were skipped: {names}."),
            (tuple(self.failed), "{count} images could not be used: {names}."),
        ):
            if names:
                found.append(text.format(count=len(names), names=listed(names)))
        for score in self.scores.scores.values():
            if score.warning:
                found.append(f"{score.spec.label}: {score.warning}")
        return found


@dataclass(frozen=True)
class Report:
    """Result of an evaluation, with the context needed to judge it.

    Attributes:
        test_set: The test set.
        checksum: Checksum of its files, by `CHECKSUM_RULE`.
        metrics: Names of the metrics, in the order of the tables.
        methods: Methods in command line order; the one restored in this run comes first.
        published: Tables of published scores for the same set, the main table first.
        relative: Published gains without absolute values for a set of the same name.
        versions: Versions of this program and its libraries.
        machine: Device and precision.
        created: UTC time in ISO 8601.
        statistics: Name of the reference of the FID; None if none was given.
        own_rules: Protocol rules that replace those about how the images were restored; None for the usual ones.
    """

    test_set: TestSet
    checksum: str
    metrics: tuple[str, ...]
    methods: tuple[MethodReport, ...]
    published: tuple[PublishedTable, ...]
    relative: tuple[RelativeGains, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    created: str
    statistics: str | None = None
    own_rules: tuple[str, ...] | None = None

    @property
    def rules(self) -> list[str]:
        """Protocol rules that apply to all metrics."""
        rules = [NAME_RULE, READING_RULE, SIZE_RULE]
        if self.own_rules is not None:
            return [*rules, *self.own_rules]
        if any(method.settings is not None for method in self.methods):
            detectors = {str(method.settings["detector"]) for method in self.methods if method.settings is not None}
            photo_rule = PHOTO_RULE.format(detector=" and ".join(sorted(detectors)))
            rules.append(photo_rule if self.test_set.whole_photos else ALIGNED_RULE)
        if any(method.settings is None for method in self.methods):
            rules.append(GIVEN_RULE)
        if self.statistics is not None and "fid" in self.metrics:
            rules.append(f"The reference of the FID is {self.statistics}.")
        return rules

    @property
    def warnings(self) -> list[str]:
        """All warnings; those of a method start with its name."""
        of_methods = [f"{method.name}: {text}" for method in self.methods for text in method.warnings]
        return [*self.test_set.warnings, *of_methods]

    @property
    def unavailable(self) -> list[str]:
        """Reasons for missing scores, one sentence each; a reason shared by all methods is listed once."""
        found: list[str] = []
        for name in self.metrics:
            label = METRICS[name].label
            reasons = {method.name: method.scores.scores[name].reason for method in self.methods}
            distinct = {reason for reason in reasons.values() if reason}
            if len(distinct) == 1 and None not in reasons.values():
                reason = next(iter(distinct))
                found.append(reason if reason.startswith(label) else f"{label}: {reason}")
            else:
                found += [f"{label} of {method}: {reason}" for method, reason in reasons.items() if reason]
        return found


def as_json(report: Report, *, with_images: bool) -> dict[str, Any]:
    """Convert the report to a JSON object; NaN and infinite scores are null.

    Args:
        report: The report.
        with_images: Include the scores of each image; `--json` omits them.
    """
    test_set = report.test_set
    document: dict[str, Any] = {
        "sets": [_method_json(report, method, with_images) for method in report.methods],
        "test_set": {
            "name": test_set.name,
            "folder": None if test_set.folder is None else str(test_set.folder),
            "count": len(test_set.names),
            "expected_count": test_set.expected,
            "with_gt": sum(name in test_set.gt for name in test_set.names),
            "checksum": report.checksum,
            "checksum_rule": CHECKSUM_RULE,
            "whole_photos": test_set.whole_photos,
            "made_with": test_set.description,
        },
        "protocol": report.rules,
        "versions": dict(report.versions),
        "machine": dict(report.machine),
        "created": report.created,
        "warnings": report.warnings,
        "published": _published_json(report.published[0]) if report.published else None,
        "published_tables": [_published_json(table) for table in report.published],
        "published_relative": [asdict(gains) for gains in report.relative],
    }
    if with_images and test_set.degradation:
        document["test_set"]["degradation"] = test_set.degradation
    return document


def json_text(report: Report) -> str:
    """Text of `report.json`."""
    return json.dumps(as_json(report, with_images=True), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _method_json(report: Report, method: MethodReport, with_images: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": report.test_set.name,
        "method": method.name,
        "restored": str(method.folder),
        "count": len(method.subjects),
        "scores": {name: _score_json(score) for name, score in method.scores.scores.items()},
        "settings": None if method.settings is None else dict(method.settings),
        "missing": list(method.missing),
        "extra": list(method.extra),
        "failed": method.failed,
        "warnings": method.warnings,
    }
    if with_images:
        document["pictures"] = [
            {
                "name": subject.name,
                "restored_sha256": subject.restored_sha256,
                "gt_sha256": subject.gt_sha256,
                "scores": {
                    name: number if math.isfinite(number) else None
                    for name, score in method.scores.scores.items()
                    if (number := score.images.get(subject.name)) is not None
                },
            }
            for subject in method.subjects
        ]
    return document


def _score_json(score: MetricScore) -> dict[str, Any]:
    return {
        "value": score.value,
        "reason": score.reason,
        "protocol": score.spec.protocol,
        "better": score.spec.better,
        "count": score.count,
        "warning": score.warning,
        "weights": dict(score.weights),
    }


def _published_json(table: PublishedTable) -> dict[str, Any]:
    return {
        "source": table.source,
        "protocols": {
            name: {"same_as_here": protocol.sameness, "text": protocol.text}
            for name, protocol in table.protocols.items()
        },
        "rows": table.rows,
        "origin": table.origin,
        "other_scores": table.other_scores,
    }


def number_text(value: float, name: str) -> str:
    """Format a score with as many decimals as the papers use."""
    return "∞" if math.isinf(value) else f"{value:.{PLACES.get(name, 4)}f}"


def shown_metrics(report: Report) -> list[str]:
    """Metrics with a score for at least one method, or all metrics if none has."""
    with_value = [
        name
        for name in report.metrics
        if any(method.scores.scores[name].value is not None for method in report.methods)
    ]
    return with_value or list(report.metrics)


def table_of(report: Report) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table: evaluated methods, then published ones."""
    names = shown_metrics(report)
    columns = ["method", "images", *(f"{METRICS[name].label} {ARROWS[METRICS[name].better]}" for name in names)]
    rows = []
    for method in report.methods:
        scores = [method.scores.scores[name] for name in names]
        cells = [NO_VALUE if score.value is None else number_text(score.value, score.spec.name) for score in scores]
        rows.append([method.name, str(len(method.subjects)), *cells])
    for table in report.published:
        for label, numbers in table.rows.items():
            cells = [_published_cell(table, numbers, name) for name in names]
            rows.append([f"{label} (published{f', {table.origin}' if table.origin else ''})", "", *cells])
    for gains in report.relative:
        if any(name in gains.gains for name in names):
            cells = [f"{gains.gains[name]:+g} %†" if name in gains.gains else NO_VALUE for name in names]
            rows.append([f"{gains.method} over {gains.over} (published, relative)", "", *cells])
    return columns, rows


def _published_cell(table: PublishedTable, numbers: Mapping[str, float], name: str) -> str:
    if name not in numbers:
        return NO_VALUE
    return number_text(numbers[name], name) + NOT_SAME.get(table.protocols[name].sameness, "")


def published_notes(report: Report) -> list[str]:
    """Notes on comparing the published rows with ours."""
    relative = [relative_note(gains) for gains in report.relative]
    if not report.published:
        known = report.test_set.known
        if known is None or relative:
            return relative
        return [NOT_INCLUDED.get(known.name, f"No published scores are included for {known.title}.")]
    notes = [f"Published rows{_of(table)}: {table.source}." for table in report.published]
    expected = report.test_set.expected
    if any(len(method.subjects) != expected for method in report.methods):
        notes.append(f"Published rows cover {expected} images. A row with another number of images is not comparable.")
    notes.append(
        "Published rows are comparable only for the same files, which no published checksum can verify, and only in "
        "columns with the same protocol."
    )
    names = shown_metrics(report)
    return [*notes, *(note for table in report.published for note in _table_notes(table, names)), *relative]


def _table_notes(table: PublishedTable, names: Sequence[str]) -> list[str]:
    """Notes on the protocols of the shown metrics, one for each protocol, and on metrics that are not computed here."""
    groups: dict[PublishedProtocol, list[str]] = {}
    for name in names:
        if name in table.protocols:
            groups.setdefault(table.protocols[name], []).append(METRICS[name].label)
    notes = []
    for protocol, labels in groups.items():
        word = {
            "same": "same protocol",
            "other": "another protocol (†), not comparable",
            "unknown": "protocol not known to be the same (‡)",
        }[protocol.sameness]
        notes.append(f"{', '.join(labels)}{_of(table)}: {word}: {protocol.text}")
    if table.other_scores:
        methods = (
            f"{method} {', '.join(f'{name} {number:g}' for name, number in scores.items())}"
            for method, scores in table.other_scores.items()
        )
        notes.append(f"Published metrics that are not computed here{_of(table)}: {'; '.join(methods)}.")
    return notes


def relative_note(gains: RelativeGains) -> str:
    """Published gains without absolute values, as a sentence with their protocol and source."""
    numbers = ", ".join(
        f"{METRICS[name].label if name in METRICS else name} {percent:+g} %" for name, percent in gains.gains.items()
    )
    return f"{gains.method} over {gains.over} (†): {numbers}. {gains.protocol} Source: {gains.source}."


def _of(table: PublishedTable) -> str:
    """The short name of a table in parentheses, after a space; empty for the main table."""
    return f" ({table.origin})" if table.origin else ""


def markdown(report: Report) -> str:
    """Text of `report.md`."""
    test_set = report.test_set
    columns, rows = table_of(report)
    expected = "" if test_set.expected is None else f" (of {test_set.expected})"
    lines = [
        f"# {plain(test_set.known.title if test_set.known else test_set.name)}",
        "",
        f"{len(test_set.names)} images{expected}, "
        f"{sum(name in test_set.gt for name in test_set.names)} with gt. "
        f"Checksum of the file list: `{report.checksum}`.",
        "",
        *markdown_table(columns, rows),
        "",
    ]
    sections = {
        "Beside the published rows": published_notes(report),
        "No number": report.unavailable,
        "Warnings": report.warnings,
        "Protocol": [*report.rules, *(f"{METRICS[name].label}: {METRICS[name].protocol}" for name in report.metrics)],
        "Weights": weights_lines(report),
        "Generation of the set": _description_lines(test_set.description),
        "Versions": [f"{name} {version}" for name, version in {**report.versions, **report.machine}.items()],
    }
    for title, items in sections.items():
        if items:
            lines += [f"## {title}", "", *(f"- {plain(item)}" for item in items), ""]
    lines.append(f"Created on {report.created} by gfprestore {report.versions.get('gfprestore', '')}.")
    return "\n".join(lines) + "\n"


def weights_lines(report: Report) -> list[str]:
    """The weights of restorers and metrics with their SHA-256."""
    used: dict[str, str] = {}
    for method in report.methods:
        if method.settings is not None:
            used[f"restorer {method.name}"] = str(method.settings.get("weights"))
        for score in method.scores.scores.values():
            used.update({f"{score.spec.label}, {name}": digest for name, digest in score.weights.items()})
    return [f"{name}: {digest}" for name, digest in used.items()]


def _description_lines(description: Mapping[str, Any] | None) -> list[str]:
    if description is None:
        return []
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in description.items()]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; cells are escaped, and all but the first are aligned to the right."""
    return [
        _markdown_row(columns),
        "| " + " | ".join(["---", *("---:" for _ in columns[1:])]) + " |",
        *map(_markdown_row, rows),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def plain(text: str) -> str:
    """Escape text for Markdown, so that a file name cannot end a cell or become a link or markup."""
    one_line = " ".join(text.split())
    for character in "\\`*_[]<>|#&":
        one_line = one_line.replace(character, f"\\{character}")
    return one_line
