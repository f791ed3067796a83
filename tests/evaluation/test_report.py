"""What readers see: tables beside published rows, Markdown and the page, with names that try to be markup."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Difference, Opener, make_set, smooth
from samples import pixels_of, save, size_of

from gfprestore.data.test_sets import KNOWN_SETS
from gfprestore.evaluation.evaluate import EvalOptions, Evaluation, Listener
from gfprestore.evaluation.published import CELEBA_TEST, PUBLISHED, RELATIVE, published_for, relative_for
from gfprestore.evaluation.report import Report, as_json, markdown, published_notes, table_of

HOSTILE = "<img src=x onerror=alert(1)>|`a`_b_"


class Reader(HTMLParser):
    """Collects what a browser would see of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.addresses: list[str] = []
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(str(values["href"]))
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]
        self._in_heading = tag == "h3"

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.names.append(data)
            self._in_heading = False


def evaluated(tmp_path: Path, folder: Path, *restored: Path, **options: Any) -> Report:
    metrics = ("psnr", "niqe")
    opener = Opener(Difference(), Difference("niqe"))
    asked = {"test_set": str(folder), "restored": restored, "metrics": metrics, "output": tmp_path / "out", **options}
    return Evaluation(EvalOptions(device="cpu", **asked), Listener(), opener).run()


def page_of(tmp_path: Path) -> Reader:
    reader = Reader()
    reader.feed((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    return reader


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_hostile_file_name_stays_text_in_page_and_table(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 1)
    for part in ("lq", "gt"):
        save(folder / part / f"{HOSTILE}.png", smooth(7))
    (folder / "lq" / f"{HOSTILE}2.png").write_bytes(b"damaged")
    evaluated(tmp_path, folder, folder / "lq")
    reader = page_of(tmp_path)
    assert HOSTILE in reader.names and f"{HOSTILE}2" in reader.names
    assert all("onerror" not in image for image in reader.images)
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "\\<img src=x onerror=alert(1)\\>\\|\\`a\\`\\_b\\_" in text
    assert re.search(r"(?<!\\)<img", text) is None


def test_the_page_shows_input_restored_and_gt_worst_first_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 3)
    for number, error in enumerate((1, 9, 4)):
        pixels = pixels_of(folder / "gt" / f"{number:02d}.png")
        save(tmp_path / "ours" / f"{number:02d}.png", pixels + np.array([0, 0, error], np.uint8))
    # The metric stands for PSNR, of which higher is better: the smallest number is the worst.
    (tmp_path / "out").mkdir()
    (tmp_path / "ours").rename(tmp_path / "out/ours")
    evaluated(tmp_path, folder, tmp_path / "out/ours")
    reader = page_of(tmp_path)
    assert reader.names == ["00", "02", "01"]
    assert [image["alt"] for image in reader.images[:3]] == ["input of 00", "00 by ours", "gt of 00"]
    assert all(image["loading"] == "lazy" for image in reader.images)
    for image in reader.images:
        assert size_of(tmp_path / "out" / str(image["src"])) == (int(str(image["width"])), int(str(image["height"])))
    assert reader.links == ["ours/00.png", "ours/02.png", "ours/01.png"]
    assert not [address for address in reader.addresses if ":" in address or address.startswith("/")]
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert text.count("<option") == 2 and 'data-badness="0.333333,' in text


def test_thumbnails_are_small_made_once_and_follow_the_content(tmp_path: Path) -> None:
    save(tmp_path / "set/a.png", smooth(1, 700)[:350])
    evaluated(tmp_path, tmp_path / "set", tmp_path / "set")
    (thumbnail,) = (tmp_path / "out/thumbnails").rglob("*.jpg")
    assert size_of(thumbnail) == (256, 128)
    before = thumbnail.stat().st_mtime_ns
    evaluated(tmp_path, tmp_path / "set", tmp_path / "set")
    assert thumbnail.stat().st_mtime_ns == before
    save(tmp_path / "set/a.png", smooth(2, 64))
    evaluated(tmp_path, tmp_path / "set", tmp_path / "set")
    assert str(page_of(tmp_path).images[0]["src"]) != thumbnail.relative_to(tmp_path / "out").as_posix()


def test_published_rows_stand_beside_ours_with_source_and_protocol(tmp_path: Path) -> None:
    make_set(tmp_path / "celeba-test", 2)
    report = evaluated(
        tmp_path, Path("celeba-test"), tmp_path / "celeba-test/lq", data=tmp_path, metrics=("psnr", "psnr_matched")
    )
    columns, rows = table_of(report)
    assert columns == ["method", "images", "PSNR ↑"]  # the other has no number here
    assert rows[0] == ["lq", "2", "2.00"]
    assert ["PMRF (published)", "", "26.37"] in rows and ["GFPGAN (published)", "", "24.99"] in rows
    notes = "\n".join(published_notes(report))
    assert "arXiv 2410.00418" in notes and "3000 images" in notes and "not comparable" in notes
    text = markdown(report)
    assert "| PMRF (published) |  | 26.37 |" in text and "2410.00418" in text


def test_a_published_number_of_another_protocol_is_marked(tmp_path: Path) -> None:
    make_set(tmp_path / "celeba-test", 2)
    opener = Opener(Difference("lmd"), Difference("deg"))
    report = Evaluation(
        EvalOptions(
            test_set="celeba-test", data=tmp_path, restored=(tmp_path / "celeba-test/lq",), metrics=("lmd", "deg"),
            output=tmp_path / "out", device="cpu",
        ),
        Listener(),
        opener,
    ).run()  # fmt: skip
    columns, rows = table_of(report)
    assert columns[2:] == ["LMD (dlib, 68 points) ↓", "Deg ↓"]
    assert ["GFPGAN (published)", "", "2.443†", "36.05‡"] in rows
    notes = published_notes(report)
    assert any(note.startswith("LMD") and "another protocol" in note and "not comparable" in note for note in notes)
    assert any(note.startswith("Deg") and "not known" in note for note in notes)


def test_a_set_without_published_rows_says_why_and_a_folder_says_nothing(tmp_path: Path) -> None:
    make_set(tmp_path / "celeba-test-sr4", 2)
    known = evaluated(tmp_path, Path("celeba-test-sr4"), tmp_path / "celeba-test-sr4/lq", data=tmp_path)
    (note,) = published_notes(known)
    assert "table 2 is not included" in note
    assert published_notes(evaluated(tmp_path, tmp_path / "celeba-test-sr4", tmp_path / "celeba-test-sr4/lq")) == []


def test_rows_of_other_sources_name_their_source_and_that_they_are_not_comparable(tmp_path: Path) -> None:
    make_set(tmp_path / "celeba-test", 2)
    opener = Opener(Difference("lpips"), Difference("niqe"))
    options = EvalOptions(
        test_set="celeba-test", data=tmp_path, restored=(tmp_path / "celeba-test/lq",), metrics=("niqe", "lpips"),
        output=tmp_path / "out", device="cpu",
    )  # fmt: skip
    report = Evaluation(options, Listener(), opener).run()
    _, rows = table_of(report)
    assert ["GFPGAN (published)", "", "4.415", "0.3643"] in rows
    assert ["input (published, survey)", "", "13.200‡", "0.4866‡"] in rows
    assert ["GFP-GAN (published, survey)", "", "4.158‡", "0.3646‡"] in rows
    assert ["OSDFace (published, OSDFace)", "", "–", "0.3365†"] in rows
    notes = published_notes(report)
    assert any(note.startswith("Published rows (survey): ") and "2309.15490" in note for note in notes)
    (survey,) = [note for note in notes if note.startswith("NIQE, LPIPS (VGG) (survey): ")]
    assert "unstated" in survey and "not comparable" in survey
    (osdface,) = [note for note in notes if note.startswith("LPIPS (VGG) (OSDFace): ")]
    assert "DAEFR" in osdface and "not comparable" in osdface
    assert any("OSDFace DISTS 0.1773, MUSIQ 75.64" in note for note in notes)
    assert any("GFP-GAN identity distance 0.5709" in note for note in notes)
    document = as_json(report, with_images=False)
    assert document["published"]["source"] == CELEBA_TEST.source  # scripts read this field
    assert [table["origin"] for table in document["published_tables"]] == ["", "survey", "OSDFace"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("lfw-test", {"fid": 50.04, "niqe": 3.965}),
        ("webphoto-test", {"fid": 87.13, "niqe": 4.228}),
        ("celebchild-test", {"fid": 111.4, "niqe": 4.447}),
    ],
)
def test_the_sets_of_real_photos_have_the_rows_of_the_survey(name: str, row: dict[str, float]) -> None:
    (table,) = published_for(name)
    assert (table.origin, table.rows["GFP-GAN"]) == ("survey", row)


def test_gains_without_absolute_values_are_printed_as_such(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "deepfrr", 2)
    report = evaluated(tmp_path, folder, folder / "lq")
    columns, rows = table_of(report)
    assert columns[2:] == ["PSNR ↑", "NIQE ↓"]
    assert rows[1:] == [["FRRffusion over its best rival (published, relative)", "", "+11 %†", "–"]]
    (note,) = published_notes(report)
    assert "PSNR +11 %, SSIM +22 %, VGGS +20 %, CLIPS +6 %" in note
    assert all(
        words in note for words in ("abstract only", "not named", "Not comparable", "10.1016/j.asoc.2025.113062")
    )
    assert "+11 %†" in markdown(report) and note.split(".")[0].replace("(†)", "") in markdown(report).replace("(†)", "")
    document = as_json(report, with_images=False)
    assert (document["published"], document["published_tables"]) == (None, [])
    assert document["published_relative"][0]["gains"] == {"psnr": 11, "ssim": 22, "VGGS": 20, "CLIPS": 6}


def test_a_row_of_gains_needs_a_metric_that_is_shown(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "deepfrr", 2)
    report = evaluated(tmp_path, folder, folder / "lq", metrics=("niqe",))
    assert len(table_of(report)[1]) == 1
    assert len(published_notes(report)) == 1


def test_published_tables_are_those_of_known_sets_and_each_column_has_a_protocol() -> None:
    for table in PUBLISHED:
        assert table.test_set in KNOWN_SETS
        assert all(set(row) == set(table.protocols) for row in table.rows.values())
        assert set(table.other_scores) <= set(table.rows)
        assert bool(table.origin) == (table is not CELEBA_TEST)
    assert [gains.method for gains in relative_for("deepfrr")] == ["FRRffusion"] == [one.method for one in RELATIVE]
    assert relative_for("celeba-test") == ()


@pytest.mark.parametrize("metric", ["psnr", "niqe"])
def test_reports_hold_what_is_needed_to_judge_them(tmp_path: Path, metric: str) -> None:
    folder = make_set(tmp_path / "set", 2)
    report = evaluated(tmp_path, folder, folder / "lq")
    text = markdown(report)
    label = report.methods[0].scores.scores[metric].spec.label
    for word in (report.checksum, "torch ", "numpy ", "opencv ", "abc", label):
        assert word in text
