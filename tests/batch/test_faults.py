"""Faults in the middle of a run, made to happen: what is told, what is left, and that the next run does the rest.

Each test runs the command line in this process with one part of the system replaced by one that fails, then looks at
the exit code, at what people and scripts are told and at the output folder; then it runs again undisturbed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from doubles import call, records
from samples import journal_states, pixels_of, save, size_of

from gfprestore.batch import journal as journal_module
from gfprestore.batch import pipeline
from gfprestore.batch.journal import Journal
from gfprestore.restoration.restoration import Restoration

OPTIONS = ("--restorer", "none", "--background", "lanczos", "--json")
JOURNAL = ".gfprestore.jsonl"
NAMES = [f"{'sub/' if index % 2 else ''}{index}{suffix}" for index, suffix in enumerate((".png", ".jpg", ".tif") * 2)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six small photos of three formats in two folders."""
    random = np.random.default_rng(1)
    for name in NAMES:
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        save(tmp_path / "in" / name, np.asarray(cv2.resize(coarse, (36, 30), interpolation=cv2.INTER_CUBIC), np.uint8))
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(photos: Path, out: Path, *options: str) -> int:
    return call("run", photos, "-o", out, *OPTIONS, *options)


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything that was written but the journal."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_the_next_run_does_the_rest(photos: Path, out: Path, tmp_path: Path, *options: str) -> None:
    """It ends well, and the folder is what an undisturbed run makes."""
    assert run(photos, out, *options) == 0
    assert run(photos, tmp_path / "undisturbed", *options) == 0
    assert files_in(out) == files_in(tmp_path / "undisturbed")
    assert set(journal_states(out).values()) == {"restored"}


def assert_only_whole_results(out: Path) -> int:
    """No unfinished file is left, each result can be decoded to its end. Gives their number."""
    found = files_in(out)
    assert set(found) <= set(NAMES)
    for name in found:
        assert pixels_of(out / name).shape[:2] == (60, 72)
    return len(found)


# --- the disk ----------------------------------------------------------------------------------------------------


def failing(code: int, real: Callable[..., Any], matches: Callable[..., bool]) -> Callable[..., Any]:
    """`real`, but with this error where the arguments match."""

    def call_or_fail(*arguments: Any, **options: Any) -> Any:
        if matches(*arguments):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    return call_or_fail


def every(count: int) -> Callable[..., bool]:
    """True from the count-th call on."""
    calls = iter(range(1, 1_000_000))
    return lambda *_arguments: next(calls) >= count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_disk_without_room_for_the_journal_ends_the_run_with_4(
    count: int, photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", failing(errno.ENOSPC, os.write, every(count)))
        assert run(photos, out) == 4
    told = capsys.readouterr().err.replace("\n", " ")
    assert "No space left on device" in told and str(out / JOURNAL) in told and "run again" in told
    assert assert_only_whole_results(out) < len(NAMES)
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def is_part(path: Any, *arguments: Any) -> bool:
    """An unfinished file; opening it to read its hash does not count."""
    is_read = bool(arguments) and isinstance(arguments[0], int) and not arguments[0] & os.O_WRONLY
    return str(path).endswith(".part") and not is_read


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("os.open", errno.ENOSPC, "the disk is full"),
        ("os.open", errno.EROFS, "permission denied"),
        ("os.open", errno.EMFILE, "Too many open files"),
        ("pathlib.Path.replace", errno.ENOSPC, "the disk is full"),
        ("pathlib.Path.replace", errno.EIO, "Input/output error"),
        ("os.utime", errno.EDQUOT, "the disk is full"),
    ],
)
def test_a_photo_that_cannot_be_written_fails_and_the_run_goes_on(
    place: str, code: int, words: str, photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    owner, name = (Path, "replace") if "Path" in place else (os, place.removeprefix("os."))
    third = every(3)
    with monkeypatch.context() as patch:
        matches = lambda *arguments: is_part(*arguments) and third()  # noqa: E731 - the third photo and all after it
        patch.setattr(owner, name, failing(code, getattr(owner, name), matches))
        assert run(photos, out, "--workers", "1") == 1
    results, summary = records(capsys)
    assert (summary["restored"], summary["failed"]) == (2, 4)
    failed = [result for result in results.values() if result["status"] == "failed"]
    assert all(words in result["error"] and str(out) in result["error"] for result in failed)
    assert assert_only_whole_results(out) == 2
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_a_sub_folder_that_cannot_be_made_fails_its_photos_alone(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", failing(errno.ENOSPC, os.mkdir, lambda path, *_: Path(path).name == "sub"))
        assert run(photos, out) == 1
    results, summary = records(capsys)
    assert (summary["restored"], summary["failed"]) == (3, 3)
    assert "cannot be created" in results["1.jpg"]["error"] and str(out / "sub") in results["1.jpg"]["error"]
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages in memory; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_disk_that_is_full_leaves_whole_results_and_more_room_completes_them(
    photos: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "out"
    assert run(photos, out, "--upscale", "2") in (1, 4)
    told = capsys.readouterr()
    assert "disk is full" in told.out or "No space left" in told.err
    assert assert_only_whole_results(out) < len(NAMES)
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


# --- the output folder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["removed", "replaced by another"])
def test_an_output_folder_that_goes_away_ends_the_run_with_4(
    fate: str, photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real, written = pipeline.write_photo, []

    def write_then_lose(*arguments: Any, **options: Any) -> Any:
        notes = real(*arguments, **options)
        written.append(1)
        if len(written) == 2:
            out.rename(tmp_path / "unplugged")
            if fate != "removed":
                out.mkdir()
        return notes

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_photo", write_then_lose)
        assert run(photos, out, "--workers", "1") == 4
    told = capsys.readouterr().err
    assert str(out) in told.replace("\n", "") and "run again" in told and "Traceback" not in told
    assert not files_in(out) and not (out / JOURNAL).exists()
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_a_folder_that_cannot_be_written_is_exit_code_4_and_nothing_is_read(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def must_not_be_called(*_arguments: Any) -> Any:
        raise AssertionError("a photo was read though nothing can be written")

    with monkeypatch.context() as patch:
        read_only = failing(errno.EROFS, os.open, lambda path, flags, *_: str(path).startswith(str(out)) and flags & 3)
        patch.setattr(os, "open", read_only)
        patch.setattr(pipeline, "read_photo", must_not_be_called)
        out.mkdir()
        assert run(photos, out) == 4
        assert "Read-only file system" in capsys.readouterr().err
    out.rmdir()
    out.write_text("a file")
    assert run(photos, out) == 4
    assert str(out) in capsys.readouterr().err.replace("\n", "")
    assert out.read_text() == "a file"
    out.unlink()
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_a_second_run_into_the_same_folder_is_refused_with_4_and_the_first_goes_on(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, second = pipeline.write_photo, []

    def write_while_another_tries(*arguments: Any, **options: Any) -> Any:
        if not second:
            command = [sys.executable, "-m", "gfprestore", "run", str(photos), "-o", str(out), *OPTIONS]
            second.append(subprocess.run(command, capture_output=True, text=True, check=False))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_photo", write_while_another_tries)
        assert run(photos, out, "--workers", "1") == 0
    assert second[0].returncode == 4
    assert "Another run is writing to" in second[0].stderr and str(out) in second[0].stderr.replace("\n", "")
    results, summary = records(capsys)
    assert summary["restored"] == len(NAMES)
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_the_journal_of_another_version_is_read_and_its_results_are_made_anew(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "__version__", "99.0")
        assert run(photos, out) == 0
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"format": 7, "photo": {"name": "0.png"}, "state": "done"}\n["another", "shape"]\n42\n')
    before = (out / JOURNAL).read_bytes()
    capsys.readouterr()
    assert run(photos, out) == 0
    _, summary = records(capsys)
    assert (summary["restored"], summary["skipped"], summary["failed"]) == (len(NAMES), 0, 0)
    assert (out / JOURNAL).read_bytes().startswith(before)  # only ever appended to
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


# --- the originals -----------------------------------------------------------------------------------------------


def with_hook(real: Callable[..., Any], name: str, hook: Callable[[Path], object], *, before: bool) -> Any:
    """A reader that lets something happen to the original called `name` before or after it reads."""

    def hooked(path: Path, *arguments: Any, **options: Any) -> Any:
        if before and path.name == name:
            hook(path)
        found = real(path, *arguments, **options)
        if not before and path.name == name:
            hook(path)
        return found

    return hooked


def repainted(path: Path) -> None:
    """Another image of the same size in bytes, as far as one can; only the time tells for sure."""
    old = path.stat()
    save(path, np.full((30, 36, 3), 77, np.uint8))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 10**9))


def test_an_original_that_changes_between_its_hash_and_its_reading_is_told_and_done_the_next_time(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        reader = with_hook(pipeline.read_photo, "0.png", repainted, before=True)
        patch.setattr(pipeline, "read_photo", with_hook(reader, "4.jpg", repainted, before=False))
        assert run(photos, out) == 1
    results, summary = records(capsys)
    assert summary["failed"] == 2
    for name in ("0.png", "4.jpg"):
        assert results[name]["status"] == "failed" and results[name]["output"] is None
        assert "changed while it was read" in results[name]["error"]
    assert_the_next_run_does_the_rest(photos, out, tmp_path)
    assert (pixels_of(out / "0.png") == 77).all()


def test_an_original_that_is_removed_before_it_is_read_fails_alone(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (photos / "2.tif").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_photo", with_hook(pipeline.read_photo, "2.tif", Path.unlink, before=True))
        assert run(photos, out) == 1
    results, summary = records(capsys)
    assert summary["failed"] == 1 and "does not exist" in results["2.tif"]["error"]
    (photos / "2.tif").write_bytes(content)
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_an_original_that_is_removed_once_it_is_read_is_restored_all_the_same(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256((photos / "2.tif").read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_photo", with_hook(pipeline.read_photo, "2.tif", Path.unlink, before=False))
        assert run(photos, out) == 0
    assert size_of(out / "2.tif") == (72, 60)
    with Journal.open(out, read_only=True) as journal:
        entry = journal.last("2.tif")
        assert entry is not None and (entry.status, entry.source_sha256) == ("restored", digest)


def test_an_original_that_changes_after_it_was_read_is_done_again_the_next_time(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256((photos / "0.png").read_bytes()).hexdigest()
    real = Restoration.prepare

    def change_then_prepare(self: Restoration, pixels: Any, name: str = "", *alpha: Any) -> Any:
        if name == "0.png":
            repainted(photos / name)
        return real(self, pixels, name, *alpha)

    with monkeypatch.context() as patch:
        patch.setattr(Restoration, "prepare", change_then_prepare)
        assert run(photos, out) == 0
    with Journal.open(out, read_only=True) as journal:
        entry = journal.last("0.png")
        assert entry is not None and entry.source_sha256 == digest  # of what was restored, not of what lies there now
    assert_the_next_run_does_the_rest(photos, out, tmp_path)
    assert (pixels_of(out / "0.png") == 77).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_an_original_that_becomes_a_pipe_is_not_waited_for(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def becomes_a_pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def free_the_reader() -> None:
        descriptor = os.open(photos / "0.png", os.O_RDWR)  # a reader that waits would go on, and the test fail
        os.close(descriptor)

    watch = threading.Timer(30, free_the_reader)
    watch.start()
    with monkeypatch.context() as patch:
        hooked = with_hook(pipeline.read_source_state, "0.png", becomes_a_pipe, before=True)
        patch.setattr(pipeline, "read_source_state", hooked)
        assert run(photos, out) == 1
    assert watch.is_alive()
    watch.cancel()
    watch.join()
    results, summary = records(capsys)
    assert summary["failed"] == 1 and "is not a regular file" in results["0.png"]["error"]


# --- the program itself ------------------------------------------------------------------------------------------


def failing_at(real: Callable[..., Any], error: Exception, matches: Callable[..., bool]) -> Callable[..., Any]:
    def call_or_fail(*arguments: Any, **options: Any) -> Any:
        if matches(*arguments):
            raise error
        return real(*arguments, **options)

    return call_or_fail


@pytest.mark.parametrize(
    ("error", "words"),
    [(MemoryError(), "does not fit into memory"), (ZeroDivisionError("oops"), "bug of gfprestore"),
     (RecursionError("too deep"), "bug of gfprestore"), (cv2.error("assertion failed"), "bug of gfprestore")],
)  # fmt: skip
@pytest.mark.parametrize("place", ["read_source_state", "photo_size", "read_photo", "prepare", "finish", "write_photo"])
def test_a_crash_at_one_photo_is_told_and_goes_no_further(
    place: str, error: Exception, words: str, photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen = iter(range(1, 100))
    matches: dict[str, Callable[..., bool]] = {
        "prepare": lambda _self, _pixels, name, *_: name == "2.tif",
        "finish": lambda *_: next(seen) == 3,
        "write_photo": lambda _photo, path, *_: path.name == "2.tif",
    }
    owner: Any = Restoration if place in ("prepare", "finish") else pipeline
    at = matches.get(place, lambda path, *_: path.name == "2.tif")
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, failing_at(getattr(owner, place), error, at))
        code = run(photos, out)
    results, summary = records(capsys)
    if place == "photo_size":  # which only tells how much memory to set aside
        assert (code, summary["restored"]) == (0, len(NAMES))
        return
    assert (code, summary["restored"], summary["failed"]) == (1, len(NAMES) - 1, 1)
    failed = next(result for result in results.values() if result["status"] == "failed")
    assert words in failed["error"] and failed["source"] in failed["error"]
    assert assert_only_whole_results(out) == len(NAMES) - 1
    assert_the_next_run_does_the_rest(photos, out, tmp_path)


def test_a_batch_that_crashes_fails_only_the_photo_that_is_to_blame(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network there is one batch a photo; the seed of the crash is the photo's mean level."""
    real = Restoration.restore_faces
    blame = round(float(pixels_of(photos / "0.png").mean()), 6)

    def crash(self: Restoration, prepared: Any) -> Any:
        if any(round(float(photo.pixels.mean()), 6) == blame for photo in prepared):
            raise MemoryError
        return real(self, prepared)

    monkeypatch.setattr(Restoration, "restore_faces", crash)
    assert run(photos, out) == 1
    results, summary = records(capsys)
    assert summary["restored"] == len(NAMES) - 1
    assert "does not fit into memory" in results["0.png"]["error"]


# --- comparisons and faces ---------------------------------------------------------------------------------------


def test_comparisons_do_not_leave_the_output_folder_through_a_link(
    photos: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    out.mkdir()
    (out / "_compare").symlink_to(tmp_path / "elsewhere")
    assert run(photos, out, "--compare") == 1
    results, summary = records(capsys)
    assert summary["failed"] == len(NAMES)
    assert all("points outside the output folder" in result["error"] for result in results.values())
    assert not list((tmp_path / "elsewhere").iterdir())
    (out / "_compare").unlink()
    assert_the_next_run_does_the_rest(photos, out, tmp_path, "--compare")


def test_a_photo_of_the_longest_name_gets_its_comparison(tmp_path: Path, out: Path) -> None:
    for letter in "äö":
        name = letter + "x" * 249 + ".png"
        save(tmp_path / "in" / name, np.zeros((8, 8, 3), np.uint8))
    assert run(tmp_path / "in", out, "--compare") == 0
    made = sorted(path.name for path in (out / "_compare").iterdir())
    assert len(made) == 2 and all(name.endswith(".png") and len(os.fsencode(name)) <= 255 for name in made)
    assert [name[0] for name in made] == ["ä", "ö"]


def test_a_comparison_that_cannot_be_written_is_told_and_made_the_next_time(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        full = failing(errno.ENOSPC, os.open, lambda path, *_: is_part(path) and "_compare" in str(path))
        patch.setattr(os, "open", full)
        assert run(photos, out, "--compare") == 1
    results, summary = records(capsys)
    assert summary["failed"] == len(NAMES)
    assert all("_compare" in result["error"] and "disk is full" in result["error"] for result in results.values())
    assert_the_next_run_does_the_rest(photos, out, tmp_path, "--compare")


def test_every_line_of_a_disturbed_journal_is_json(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", short_write(os.write, 4))
        assert run(photos, out) == 4
    for line in (out / JOURNAL).read_text().splitlines():
        json.loads(line)


def short_write(real: Callable[[int, bytes], int], count: int) -> Callable[[int, bytes], int]:
    """Writes half of what it gets from the count-th call on, as a disk does that is filling up."""
    is_full = every(count)
    return lambda descriptor, data: real(descriptor, data[: len(data) // 2] if is_full() else data)


def test_results_say_what_is_in_the_files(photos: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The yardstick of this file: undisturbed, everything is restored and told so."""
    assert run(photos, out) == 0
    results, summary = records(capsys)
    assert summary["restored"] == len(NAMES) == assert_only_whole_results(out)
    for result in results.values():
        assert size_of(result["output"]) == (result["width"], result["height"]) == (72, 60)
