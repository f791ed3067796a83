"""Runs that are killed: the next one finishes the work, and the folder equals that of a run nobody disturbed.

Starting costs seconds, most of it imports. One helper process imports everything once, then forks a child for each run;
it kills the child with a real SIGKILL, at a random moment or just before or after a chosen system call. What it leaves
is looked at, the run is done again, and the folders are compared byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from samples import journal_states, save

from gfprestore.batch.journal import Journal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

PHOTOS = 30
JOURNAL = ".gfprestore.jsonl"
UNFINISHED = re.compile(r"\.gfprestore-[0-9a-f]{16}\.part")

# Reads one JSON request a line, runs it in a forked child, answers with what became of the child.
HELPER = '''
import json, os, signal, sys, time
import cv2, numpy, torch
import gfprestore.commands.app, gfprestore.console, gfprestore.batch.folders, gfprestore.batch.journal
import gfprestore.photo.reading, gfprestore.photo.writing, gfprestore.batch.pipeline
import gfprestore.restoration
torch.set_num_threads(1)
cv2.setNumThreads(1)


def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def sabotage(point, count):
    """Lets the process be killed at the count-th time it comes to this point."""
    seen = [0]

    def reached():
        seen[0] += 1
        return seen[0] == count

    def around(owner, name, before=False, after=False, instead=None):
        real = getattr(owner, name)

        def wrapped(*arguments, **options):
            mine = reached()
            if mine and before:
                die()
            if mine and instead:
                instead(real, *arguments, **options)
                die()
            value = real(*arguments, **options)
            if mine and after:
                die()
            return value

        setattr(owner, name, wrapped)

    from pathlib import Path
    from gfprestore.batch import pipeline
    from gfprestore.photo import encoding
    half_line = lambda real, descriptor, data: real(descriptor, data[: len(data) // 2])
    half_file = lambda real, stream, *rest: stream.write(bytes(100))
    {
        "before an entry": lambda: around(os, "write", before=True),
        "within an entry": lambda: around(os, "write", instead=half_line),
        "after an entry": lambda: around(os, "write", after=True),
        "within a photo": lambda: around(encoding, "encode", instead=half_file),
        "before fsync": lambda: around(os, "fsync", before=True),
        "before a photo has its name": lambda: around(Path, "replace", before=True),
        "after a photo has its name": lambda: around(Path, "replace", after=True),
        "before a photo is told": lambda: around(pipeline.PhotoRun, "_note", before=True),
        "after a photo is told": lambda: around(pipeline.PhotoRun, "_note", after=True),
        "before the comparison": lambda: around(pipeline, "write_comparison", before=True),
    }[point]()


def child(request):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.get("point"):
        sabotage(request["point"], request["count"])
    try:
        gfprestore.commands.app.main(request["arguments"])
    except SystemExit as leaving:
        os._exit(leaving.code or 0)
    os._exit(99)


def results_in(journal):
    try:
        with open(journal, "rb") as file:
            return file.read().count(b'"restored", ')
    except FileNotFoundError:
        return 0


for line in sys.stdin:
    request = json.loads(line)
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        child(request)
    ended, status = 0, 0
    if request.get("signal"):
        while results_in(request["journal"]) < request["results"] and not ended:
            time.sleep(0.001)
            ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            time.sleep(request["after"])
            os.kill(pid, getattr(signal, request["signal"]))
    if not ended:
        status = os.waitpid(pid, 0)[1]
    answer = {"killed": os.WIFSIGNALED(status), "code": os.waitstatus_to_exitcode(status)}
    print(json.dumps({**answer, "seconds": time.monotonic() - started}), flush=True)
'''


class Runner:
    """The helper process: `run` restores the folder once and says what became of the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = folder / "photos"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HELPER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
        )  # fmt: skip

    def run(self, out: Path, *options: str, **request: Any) -> dict[str, Any]:
        """One run. `signal` is sent `after` so many seconds from when the journal tells of `results` photos."""
        arguments = ["run", str(self.photos), "-o", str(out), "--restorer", "none", "--background", "lanczos", *options]
        assert self.process.stdin and self.process.stdout
        request |= {"arguments": arguments, "log": str(self.log), "journal": str(out / JOURNAL)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    @property
    def log(self) -> Path:
        """What the last run told people."""
        return self.folder / "log"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kills")
    random = np.random.default_rng(5)
    for index in range(PHOTOS):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
        kind = (".jpg", ".png", ".tif")[index % 3]
        save(folder / "photos" / f"{index // 10}" / f"{index}{kind}", np.asarray(pixels, np.uint8))
    (folder / "photos" / "bad.jpg").write_text("no photo")
    runner = Runner(folder)
    with runner.process:  # closes its pipes, which ends it
        yield runner


@pytest.fixture(scope="module")
def undisturbed(runner: Runner) -> tuple[dict[str, bytes], float]:
    """All files of a run that nobody disturbed, and its seconds (the second run's: the first one warms the caches)."""
    runner.run(runner.folder / "warm")
    answer = runner.run(runner.folder / "whole")
    assert (answer["code"], answer["killed"]) == (1, False), runner.log.read_text()
    files = outputs(runner.folder / "whole")
    assert len(files) == PHOTOS
    return files, answer["seconds"]


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file but the journal."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_no_partial_result(out: Path, whole: dict[str, bytes]) -> int:
    """Whatever stands under a final name is the whole result already. Gives the number of results."""
    found = outputs(out) if out.exists() else {}
    results = {name: content for name, content in found.items() if not UNFINISHED.fullmatch(Path(name).name)}
    for name, content in results.items():
        assert content == whole[name], name
    return len(results)


def assert_finished(out: Path, whole: dict[str, bytes], kills: int = 1) -> None:
    """The folder equals the undisturbed one byte for byte, and the journal tells that every photo is done.

    Each kill may have torn one line, no more.
    """
    assert outputs(out) == whole
    with Journal.open(out, read_only=True) as journal:
        states = journal_states(out)
        assert journal.interrupted == ()
        assert journal.damaged_lines <= kills
    done = {name for name in whole if not name.startswith("_")}
    assert states == {**dict.fromkeys(done, "restored"), "bad.jpg": "failed"}


def test_runs_killed_at_20_random_moments_are_completed_by_the_next(
    runner: Runner, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    whole, seconds = undisturbed
    random = np.random.default_rng(11)
    killed, counts = 0, []
    for trial in range(20):
        out = tmp_path / f"{trial}"
        results, after = int(random.integers(0, PHOTOS - 1)), float(random.uniform(0, 2 * seconds / PHOTOS))
        killed += runner.run(out, signal="SIGKILL", results=results, after=after)["killed"]
        counts.append(assert_no_partial_result(out, whole))
        assert runner.run(out)["code"] == 1, runner.log.read_text()
        assert_finished(out, whole)
    assert killed >= 15
    assert len({count for count in counts if 0 < count < PHOTOS}) >= 5  # they were killed at different stages


def test_one_run_killed_20_times_in_a_row_is_completed(
    runner: Runner, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    whole, seconds = undisturbed
    random = np.random.default_rng(12)
    for kill in range(20):
        runner.run(tmp_path / "out", signal="SIGKILL", results=kill, after=float(random.uniform(0, seconds / PHOTOS)))
        assert_no_partial_result(tmp_path / "out", whole)
    assert runner.run(tmp_path / "out")["code"] == 1
    assert_finished(tmp_path / "out", whole, kills=20)


POINTS = [
    ("before an entry", 1), ("before an entry", 9), ("within an entry", 2), ("within an entry", 10),
    ("after an entry", 9), ("within a photo", 1), ("within a photo", 7), ("before fsync", 3), ("before fsync", 12),
    ("before a photo has its name", 5), ("after a photo has its name", 5), ("before a photo is told", 6),
    ("after a photo is told", 6),
]  # fmt: skip


@pytest.mark.parametrize(("point", "count"), POINTS)
def test_a_run_killed_at_a_chosen_point_is_completed_by_the_next(
    point: str, count: int, runner: Runner, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    whole, out = undisturbed[0], tmp_path / "out"
    assert runner.run(out, point=point, count=count)["killed"], runner.log.read_text()
    assert assert_no_partial_result(out, whole) < PHOTOS
    if point == "within a photo":
        assert any(UNFINISHED.fullmatch(path.name) for path in out.rglob("*"))
    assert runner.run(out)["code"] == 1
    assert_finished(out, whole)


def test_a_run_killed_between_a_photo_and_its_comparison_makes_both_the_next_time(
    runner: Runner, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    whole, out = undisturbed[0], tmp_path / "out"
    assert runner.run(out, "--compare", point="before the comparison", count=4)["killed"]
    assert runner.run(out, "--compare")["code"] == 1
    found = outputs(out)
    comparisons = {name for name in found if name.startswith("_compare/")}
    assert comparisons == {f"_compare/{name}.png" for name in whole}
    assert {name: content for name, content in found.items() if name not in comparisons} == whole


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_asked_to_stop_ends_with_130_and_is_completed_by_the_next(
    signal_name: str, runner: Runner, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    whole, seconds = undisturbed
    answers: list[dict[str, Any]] = []
    for results in (1, 10, 20):
        out = tmp_path / f"{results}"
        answers.append(runner.run(out, signal=signal_name, results=results, after=0.1 * seconds))
        told = runner.log.read_text()
        count = assert_no_partial_result(out, whole)
        if answers[-1]["code"] != 1:  # it was not done before the signal came
            assert answers[-1]["code"] == 130, told
            assert "Interrupted. No output file is incomplete." in told and "Traceback" not in told
        assert not out.exists() or len(outputs(out)) == count  # nothing unfinished lies about
        assert runner.run(out)["code"] == 1
        assert_finished(out, whole)
    assert sum(answer["code"] == 130 for answer in answers) >= 1
