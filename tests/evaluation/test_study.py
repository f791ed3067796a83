"""The user study: nothing on the page tells the methods apart, its script works, votes are tallied or refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import smooth
from samples import info_of, pixels_of, save, size_of

from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation import study as module
from gfprestore.evaluation.study import StudyKey, read_key, write_study
from gfprestore.evaluation.votes import as_json, read_ballots, table_of, tally

SCRIPT = Path(module.__file__).with_name("study.js")


def make_study(tmp_path: Path, methods: tuple[str, ...] = ("ours", "gp-unit", "</script><b>"), count: int = 3) -> Path:
    found: dict[str, dict[str, Path]] = {}
    for index, method in enumerate(methods):
        for number in range(count):
            path = tmp_path / f"m{index}" / f"secret-{number}.png"
            save(path, smooth(10 * index + number, 64 if index else 32))
            found.setdefault(method, {})[path.stem] = path
    originals = {}
    for number in range(count):
        path = save(tmp_path / "gt" / f"secret-{number}.png", smooth(100 + number, 48))
        originals[path.stem] = path
    write_study(tmp_path / "study", found, originals)
    return tmp_path / "study"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids += [str(found["id"])] if "id" in found else []
        self.sources += [str(found[name]) for name in ("src", "href") if name in found]
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def page_of(study: Path) -> tuple[str, Page, dict[str, Any]]:
    text = (study / "page/index.html").read_text(encoding="utf-8")
    page = Page(text)
    return text, page, json.loads(page.scripts[0])


def ballot_of(key: StudyKey, voter: str, favorite: str, **changes: Any) -> dict[str, Any]:
    """A file of votes in which a voter always chooses one method where it stands, else the first image."""
    votes = []
    for token, question in key.questions.items():
        files = list(question.methods)
        chosen = next((file for file in files if question.methods[file] == favorite), files[0])
        votes.append({"question": token, "left": files[0], "right": files[1], "chosen": chosen, "milliseconds": 1200})
    return {"format": "gfprestore-votes", "version": 1, "study": key.study, "voter": voter, "votes": votes} | changes


def write_votes(folder: Path, *ballots: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, ballot in enumerate(ballots):
        (folder / f"{number}.json").write_text(json.dumps(ballot))
    return folder


def test_the_page_is_whole_and_tells_nothing_of_the_methods(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    text, page, data = page_of(study)
    for hidden in ("ours", "gp-unit", "secret", "<b>", "http:", "https:"):
        assert hidden not in text, hidden
    assert page.sources == []  # images are set by the script; nothing is loaded from elsewhere
    assert len(data["questions"]) == 3 * 3  # three pairs of methods, three images
    files = {path.stem for path in (study / "page/images").iterdir()}
    shown = {name for question in data["questions"] for name in (*question["images"], question["original"])}
    assert files == shown and len(files) == 4 * 3
    assert {size_of(path) for path in (study / "page/images").iterdir()} == {(48, 48)}
    assert all(not info_of(path) for path in (study / "page/images").iterdir())
    assert sorted(path.name for path in study.iterdir() if not path.name.startswith(".")) == ["key.json", "page"]
    assert {"question", "left", "right", "original", "progress", "undo", "save", "done"} <= set(page.ids)
    assert [question["question"] for question in data["questions"]] == sorted(read_key(study).questions)


def test_the_key_knows_which_image_is_whose(tmp_path: Path) -> None:
    study = make_study(tmp_path, ("ours", "other"))
    key = read_key(study)
    assert key.methods == ("ours", "other") and key.reference
    for question in key.questions.values():
        for file, method in question.methods.items():
            folder = tmp_path / ("m0" if method == "ours" else "m1")
            expected = pixels_of(folder / f"{question.image}.png").astype(float)
            shown = pixels_of(study / "page/images" / f"{file}.png").astype(float)
            assert abs(shown.mean() - expected.mean()) < 2


def test_without_originals_the_question_is_another(tmp_path: Path) -> None:
    images = {name: {"a": save(tmp_path / name / "a.png", smooth(seed))} for seed, name in enumerate(("x", "y"))}
    write_study(tmp_path / "study", images, {})
    text, page, data = page_of(tmp_path / "study")
    assert "not retouched?" in text and "original" not in page.ids and data["questions"][0]["original"] is None


def test_studies_that_cannot_be_are_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path, ("ours", "other"))
    images = {"a": tmp_path / "m0/secret-0.png"}
    with pytest.raises(FolderError, match="holds a study already"):
        write_study(study, {"x": images, "y": images}, {})
    with pytest.raises(FolderError, match="is not empty"):
        write_study(tmp_path / "m0", {"x": images, "y": images}, {})
    with pytest.raises(UsageError, match="at least two methods, and there is 1"):
        write_study(tmp_path / "new", {"x": images}, {})
    with pytest.raises(UsageError, match="no image exists for two methods"):
        write_study(tmp_path / "new", {"x": images, "y": {"b": images["a"]}}, {})
    with pytest.raises(FolderError, match=r"key\.json does not exist"):
        read_key(tmp_path / "new")
    (study / "key.json").write_text('{"format": "gfprestore-study", "version": 1, "questions": []}')
    with pytest.raises(FolderError, match=r"key\.json cannot be used"):
        read_key(study)


def test_votes_are_tallied_with_intervals(tmp_path: Path) -> None:
    key = read_key(make_study(tmp_path, ("ours", "gp-unit", "sd")))
    folder = write_votes(
        tmp_path / "votes",
        *(ballot_of(key, f"v{number}", "ours") for number in range(3)),
        ballot_of(key, "v3", "gp-unit"),
    )
    found = tally(read_ballots([folder], key), key)
    assert (found.voters, found.votes, found.reference) == (4, 36, True)
    shares = {share.name: share for share in found.methods}
    # "ours" stands in 6 questions of 9, in half of them beside gp-unit
    assert shares["ours"].asked == 4 * 6 and 3 * 6 <= shares["ours"].chosen <= 3 * 6 + 3
    pairs = {share.name: share for share in found.pairs}
    over = pairs["ours over gp-unit"]
    assert (over.chosen, over.asked) == (9, 12)
    assert over.wilson is not None and over.by_voters is not None
    assert (over.wilson.low, over.wilson.high) == pytest.approx((0.4677, 0.9111), abs=1e-3)  # Wilson, 9 of 12
    assert over.by_voters.low <= 0.25 and over.by_voters.high == 1
    assert sum(share.chosen for share in found.methods) == 36
    assert found.methods[0].name == "ours"
    document = as_json(found)
    assert document["voters"] == 4 and document["pairs"][0]["share"] == 0.75
    columns, rows = table_of(found.pairs)
    assert len(columns) == len(rows[0]) and "75.0%" in rows[0]
    json.dumps(document, allow_nan=False)


BAD: list[tuple[str, Any, str]] = [
    ("no json", None, "cannot be used"),
    ("list", [1], "not a file of votes"),
    ("format", {"format": "other"}, "not a file of votes"),
    ("version", {"version": 2}, "version is 2"),
    ("study", {"study": "0000"}, "votes of another study"),
    ("empty", {"votes": []}, "has no votes"),
    ("voter", {"voter": 5}, "voter or votes are missing"),
]


@pytest.mark.parametrize(("_name", "change", "text"), BAD, ids=[name for name, _, _ in BAD])
def test_damaged_files_are_refused(tmp_path: Path, _name: str, change: Any, text: str) -> None:
    key = read_key(make_study(tmp_path))
    folder = write_votes(tmp_path / "votes")
    whole = json.dumps(ballot_of(key, "v", "ours"))
    content = whole[:50]
    if change is not None:
        content = json.dumps(change if isinstance(change, list) else json.loads(whole) | change)
    (folder / "v.json").write_text(content)
    with pytest.raises(UsageError, match=text):
        read_ballots([folder / "v.json"], key)


def test_votes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    key = read_key(make_study(tmp_path))
    for text, change in (
        ("vote 2 answers a question that this study does not have", {"question": "ffff"}),
        ("vote 2 chooses an image that its question does not show", {"chosen": "ffff"}),
        ("vote 2 chooses an image that its question does not show", {"left": "ffff"}),
        ("vote 2 is damaged", {"chosen": None}),
    ):
        ballot = ballot_of(key, "v", "ours")
        ballot["votes"][1] |= change
        with pytest.raises(UsageError, match=text):
            read_ballots([write_votes(tmp_path / "votes", ballot)], key)
    ballot = ballot_of(key, "v", "ours")
    ballot["votes"].append(ballot["votes"][0])
    with pytest.raises(UsageError, match="answers a question twice"):
        read_ballots([write_votes(tmp_path / "votes", ballot)], key)
    one = ballot_of(key, "v", "ours")
    with pytest.raises(UsageError, match="of the same voter"):
        read_ballots([write_votes(tmp_path / "votes", one, one)], key)
    with pytest.raises(FolderError, match="does not exist"):
        read_ballots([tmp_path / "nowhere.json"], key)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="no JSON files"):
        read_ballots([tmp_path / "empty"], key)


# A document with just what the script uses. Runs the page: answers by click and key, takes back, saves.
HARNESS = """
const fs = require("fs");
const elements = {}, listeners = {}, written = [], storage = {};
const make = () => ({ handlers: {}, addEventListener(name, handler) { this.handlers[name] = handler; }, focus() {},
                      click() { (this.handlers.click ?? (() => written.push(this.download)))(); } });
const data = fs.readFileSync(process.argv[2], "utf8");
const document = {
  getElementById: id => elements[id] ??= Object.assign(make(), id === "study" ? { textContent: data } : {}),
  createElement: make, addEventListener(name, handler) { listeners[name] = handler; },
};
let blob;
class Blob { constructor(parts) { blob = parts.join(""); } }
const URL = { createObjectURL: () => "blob:" };
const window = { addEventListener() {} };
const localStorage = { getItem: name => storage[name] ?? null, setItem(name, value) { storage[name] = value; } };
const code = fs.readFileSync(process.argv[3], "utf8");
const load = () => new Function("document", "Blob", "URL", "window", "localStorage", code)(
  document, Blob, URL, window, localStorage);
const key = name => listeners.keydown({ key: name, preventDefault() {} });
load();
const first = [elements.left.src, elements.right.src];
key("ArrowRight");
key("Backspace");
const again = [elements.left.src, elements.right.src];
key("ArrowRight");
load();  // the page is opened again: the vote is still there
const resumed = elements.progress.textContent;
const lefts = [];
let count = 0;
while (!elements.question.hidden && count++ < 1000) { lefts.push(elements.left.src); elements["choose-left"].click(); }
key("1");  // after the last question nothing happens
elements.save.click();
const done = elements.done.hidden, votes = JSON.parse(blob);
console.log(JSON.stringify({ first, again, resumed, lefts, done, votes, written }));
"""


def test_the_script_asks_everything_once_and_saves_what_the_tally_reads(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    study = make_study(tmp_path)
    text, page, data = page_of(study)
    assert page.scripts[1].strip() == SCRIPT.read_text(encoding="utf-8").strip()
    (tmp_path / "harness.js").write_text(HARNESS)
    results = []
    for number in range(2):
        (tmp_path / "data.json").write_text(page.scripts[0])
        command = [node, str(tmp_path / "harness.js"), str(tmp_path / "data.json"), str(SCRIPT)]
        shown = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)
        assert shown["first"] == shown["again"] and shown["resumed"] == "1 of 9 answered"
        assert shown["done"] is False and len(shown["lefts"]) == 8
        votes = shown["votes"]
        assert re.fullmatch(r"[0-9a-f]{16}", votes["voter"])
        assert shown["written"] == [f"votes-{votes['voter']}.json"]
        assert [vote["chosen"] == vote["right"] for vote in votes["votes"]] == [True] + 8 * [False]
        assert f"images/{votes['votes'][0]['left']}.png" == shown["first"][0]
        results.append(votes)
        (tmp_path / f"saved-{number}.json").write_text(json.dumps(votes))
    key = read_key(study)
    ballots = read_ballots([tmp_path / "saved-0.json", tmp_path / "saved-1.json"], key)
    assert [len(ballot.votes) for ballot in ballots] == [9, 9]
    orders = [[vote["question"] for vote in votes["votes"]] for votes in results]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(key.questions)
    assert orders[0] != orders[1]  # equal by chance once in 362,880 runs


def test_a_voter_is_asked_a_limited_number(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    program = (
        f"const document = undefined;\n{SCRIPT.read_text(encoding='utf-8')}\n"
        "const questions = Array.from({ length: 200 }, (_, n) => ({ question: `q${n}`, images: ['a', 'b'] }));\n"
        "const sessions = Array.from({ length: 200 }, () => startSession({ study: 's', perVoter: 60, questions }, "
        "Math.random, 'now'));\n"
        "console.log(JSON.stringify(sessions.map(session => session.asked.map(asked => "
        "[asked.question, asked.sides[0]]))));"
    )
    shown = json.loads(subprocess.run([node, "-e", program], capture_output=True, check=True, text=True).stdout)
    assert all(len({question for question, _ in asked}) == len(asked) == 60 for asked in shown)
    left = np.mean([side == "a" for asked in shown for _, side in asked])
    assert 0.47 < left < 0.53  # 12,000 draws: six standard deviations
    times = np.bincount([int(question[1:]) for asked in shown for question, _ in asked], minlength=200)
    assert times.min() > 20 and times.max() < 105  # 60 on average
