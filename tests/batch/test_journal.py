"""The journal: what it skips and redoes, and that neither a killed run nor a hostile folder harms it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from samples import journal_states

from gfprestore._version import __version__
from gfprestore.batch import journal as journal_module
from gfprestore.batch.journal import FAILED, RESTORED, STARTED, Journal, JournalEntry, settings_fingerprint, utc_now
from gfprestore.batch.source_state import read_source_state
from gfprestore.batch.walk import JOURNAL_NAME
from gfprestore.batch.written_files import FileKeptError, FileState
from gfprestore.errors import ExitCode, FolderError, PhotoError

SETTINGS = {"upscale": 2.0, "restorer": "gfpgan-1.4", "weights": "e2cd", "strength": 1.0, "seed": 0}
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, links and limits")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"the original")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def finished(source: Path, folder: Path, relative: str = "a.jpg", content: bytes = b"the result") -> JournalEntry:
    """The entry of a photo that was restored, its result written."""
    output = folder / relative
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(content)
    state = read_source_state(source)
    return JournalEntry(
        relative=relative,
        status=RESTORED,
        output=relative,
        output_size=len(content),
        source=str(source),
        source_sha256=state.sha256,
        source_size=state.size,
        source_modified_ns=state.modified_ns,
        fingerprint=settings_fingerprint(SETTINGS),
        faces=2,
        restored_faces=2,
        seconds=1.5,
        finished=utc_now(),
    )


def lines(folder: Path) -> list[dict[str, object]]:
    """The journal as any reader of JSON lines sees it."""
    return [json.loads(line) for line in (folder / JOURNAL_NAME).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def done(source: Path, folder: Path) -> Iterator[tuple[Path, Path, str]]:
    """One restored photo: its original, the output folder, the fingerprint."""
    with Journal.open(folder) as journal:
        fingerprint = journal.note_settings(SETTINGS)
        journal.record(finished(source, folder))
    return source, folder, fingerprint  # type: ignore[return-value]


def is_done(source: Path, folder: Path, fingerprint: str) -> bool:
    with Journal.open(folder) as journal:
        return journal.is_done("a.jpg", source, fingerprint, folder / "a.jpg")


def test_what_is_done_is_done_for_the_next_run(done: tuple[Path, Path, str]) -> None:
    assert is_done(*done)


def test_the_journal_is_json_lines_that_tell_everything(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    described, entry = lines(folder)
    assert described["settings"] == SETTINGS
    assert described["gfprestore"] == __version__
    assert described["fingerprint"] == entry["fingerprint"] == fingerprint
    assert entry["relative"] == entry["output"] == "a.jpg"
    assert entry["source"] == str(source)
    assert entry["source_sha256"] == hashlib.sha256(b"the original").hexdigest()
    assert entry["source_size"] == len(b"the original")
    assert entry["source_modified_ns"] == source.stat().st_mtime_ns
    assert (entry["status"], entry["faces"], entry["seconds"]) == ("restored", 2, 1.5)
    moment = datetime.fromisoformat(str(entry["finished"]))
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - moment) < timedelta(minutes=5)


def test_settings_are_written_down_once(folder: Path) -> None:
    for _run in range(3):
        with Journal.open(folder) as journal:
            journal.note_settings(SETTINGS)
            journal.note_settings({**SETTINGS, "upscale": 4.0})
    assert [line["settings"] for line in lines(folder)] == [SETTINGS, {**SETTINGS, "upscale": 4.0}]


def test_other_settings_redo(done: tuple[Path, Path, str]) -> None:
    source, folder, _fingerprint = done
    for change in ({"upscale": 4.0}, {"weights": "beef"}, {"seed": 1}, {"new option": None}):
        assert not is_done(source, folder, settings_fingerprint({**SETTINGS, **change}))


def test_another_version_of_the_program_redoes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_fingerprint(SETTINGS)
    monkeypatch.setattr(journal_module, "__version__", "99.0")
    assert settings_fingerprint(SETTINGS) != before


def test_the_fingerprint_depends_on_values_not_on_how_they_are_written() -> None:
    reordered = dict(reversed(SETTINGS.items()))
    assert settings_fingerprint({**reordered, "upscale": 2}) == settings_fingerprint(SETTINGS)
    assert settings_fingerprint({"a": (1, 2)}) == settings_fingerprint({"a": [1.0, 2]})
    different: list[object] = [1, 1.5, "1", None, [], [1], {}, False, ""]
    assert len({settings_fingerprint({"a": value}) for value in different}) == len(different)
    with pytest.raises(ValueError, match="Out of range float"):
        settings_fingerprint({"a": float("nan")})


def test_a_changed_original_is_redone_and_a_touched_one_is_not(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    os.utime(source, ns=(0, 1_000_000_000))
    assert is_done(source, folder, fingerprint), "the same content under another time"
    source.write_bytes(b"THE original")
    os.utime(source, ns=(0, 1_000_000_000))
    assert not is_done(source, folder, fingerprint), "another content of the same size"
    source.write_bytes(b"the original, longer")
    assert not is_done(source, folder, fingerprint)
    source.unlink()
    assert not is_done(source, folder, fingerprint)


def test_another_photo_of_the_same_name_size_and_time_is_not_taken_for_done(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    other = source.parent / "elsewhere" / "a.jpg"
    other.parent.mkdir()
    other.write_bytes(b"one original")
    shutil.copystat(source, other)
    assert (other.stat().st_size, other.stat().st_mtime_ns) == (source.stat().st_size, source.stat().st_mtime_ns)
    assert not is_done(other, folder, fingerprint)
    shutil.copy2(source, other)
    assert is_done(other, folder, fingerprint), "the same photo moved is done"


def test_a_result_that_is_gone_or_cut_is_redone(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    with Journal.open(folder) as journal:
        assert not journal.is_done("a.jpg", source, fingerprint, folder / "a.png")
    (folder / "a.jpg").write_bytes(b"the res")
    assert not is_done(*done)
    (folder / "a.jpg").unlink()
    assert not is_done(*done)
    (folder / "a.jpg").mkdir()
    assert not is_done(*done)


def test_a_failed_photo_is_redone_and_the_last_entry_counts(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    with Journal.open(folder) as journal:
        entry = journal.last("a.jpg")
        assert entry is not None
        journal.record(replace(entry, status=FAILED, output=None, output_size=None, error="truncated"))
        assert not journal.is_done("a.jpg", source, fingerprint)
        assert journal.last("a.jpg") == replace(entry, status=FAILED, output=None, output_size=None, error="truncated")
    with Journal.open(folder) as journal:
        assert not journal.is_done("a.jpg", source, fingerprint)
        journal.record(entry)
    assert is_done(*done)


def test_a_photo_begun_and_not_ended_is_redone(source: Path, folder: Path) -> None:
    with Journal.open(folder) as journal:
        fingerprint = journal.note_settings(SETTINGS)
        journal.begin("a.jpg", source, folder / "a.png", fingerprint)
    with Journal.open(folder) as journal:
        assert not journal.is_done("a.jpg", source, fingerprint)
        entry = journal.last("a.jpg")
        assert entry is not None
        assert (entry.status, entry.output, entry.finished) == (STARTED, "a.png", None)
        (folder / "a.png").write_bytes(b"stood there before")
        assert journal.state_of(folder / "a.png") is FileState.TAKEN


def test_a_result_is_known_by_its_content_before_it_has_its_name(source: Path, folder: Path) -> None:
    """A run may be killed on either side of the move: both the earlier and the new result are ours."""
    output, temporary = folder / "a.jpg", folder / "unfinished"
    with Journal.open(folder) as journal:
        journal.record(replace(finished(source, folder), output_sha256=hashlib.sha256(b"the result").hexdigest()))
        temporary.write_bytes(b"the next result")
        state = journal.note_file(output, temporary, overwrite=False)
    assert (state.sha256, state.size) == (hashlib.sha256(b"the next result").hexdigest(), 15)
    for content, expected in (
        (b"the result", FileState.RESTORED),
        (b"the next result", FileState.RESTORED),
        (b"the RESULT", FileState.CHANGED),
        (b"", FileState.CHANGED),
    ):
        output.write_bytes(content)
        with Journal.open(folder) as journal:
            assert journal.state_of(output) is expected, content
    output.unlink()
    with Journal.open(folder) as journal:
        assert journal.state_of(output) is FileState.NEW
        output.symlink_to(temporary)
        assert journal.state_of(output) is FileState.CHANGED, "a link in the place of the result"
        with pytest.raises(FileKeptError, match=r"a\.jpg was changed by you .*--overwrite"):
            journal.note_file(output, temporary, overwrite=False)
        assert journal.state_of(output) is FileState.CHANGED
        journal.note_file(output, temporary, overwrite=True)


def test_a_result_whose_time_alone_changed_is_done_and_one_of_another_content_is_not(
    source: Path, folder: Path
) -> None:
    entry = finished(source, folder)
    status = (folder / "a.jpg").stat()
    digest = hashlib.sha256(b"the result").hexdigest()
    with Journal.open(folder) as journal:
        journal.record(replace(entry, output_sha256=digest, output_modified_ns=status.st_mtime_ns))
        assert journal.is_done("a.jpg", source, entry.fingerprint)
        os.utime(folder / "a.jpg", (1, 1))
        assert journal.is_done("a.jpg", source, entry.fingerprint), "copied without its time"
        (folder / "a.jpg").write_bytes(b"THE result")
        os.utime(folder / "a.jpg", (1, 1))
        assert not journal.is_done("a.jpg", source, entry.fingerprint)


def test_a_result_stays_ours_after_a_failure(done: tuple[Path, Path, str]) -> None:
    _source, folder, _fingerprint = done
    with Journal.open(folder) as journal:
        entry = journal.last("a.jpg")
        assert entry is not None
        journal.record(replace(entry, status=FAILED, output=None))
    with Journal.open(folder) as journal:
        assert journal.state_of(folder / "a.jpg") is FileState.RESTORED


@pytest.mark.parametrize(
    "name",
    ["祖母/写真.jpg", "a\nb.jpg", 'quote".jpg', "line\u2028end.jpg", os.fsdecode(b"Gro\xdfmutter.jpg"), "👪.jpg"],
)
def test_any_name_comes_back_as_it_went_in(name: str, source: Path, folder: Path) -> None:
    with Journal.open(folder) as journal:
        fingerprint = journal.note_settings(SETTINGS)
        journal.record(replace(finished(source, folder), relative=name))
    with Journal.open(folder) as journal:
        assert journal.is_done(name, source, fingerprint)
    assert lines(folder)[-1]["relative"] == name


def test_a_torn_last_line_costs_only_itself(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    path = folder / JOURNAL_NAME
    whole = path.read_bytes()
    second = json.dumps({**asdict(finished(source, folder, "b.jpg"))}).encode() + b"\n"
    for length in [*range(1, len(second), 23), len(second) - 2, len(second) - 1]:
        path.write_bytes(whole + second[:length])
        is_whole = length == len(second) - 1  # only the line's end is missing
        with Journal.open(folder) as journal:
            assert journal.is_done("a.jpg", source, fingerprint)
            assert journal.is_done("b.jpg", source, fingerprint) == is_whole
            assert journal.damaged_lines == (0 if is_whole else 1)
            if not is_whole:
                journal.record(finished(source, folder, "c.jpg"))
        if not is_whole:
            with Journal.open(folder) as journal:
                assert journal.is_done("a.jpg", source, fingerprint)
                assert journal.is_done("c.jpg", source, fingerprint)


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"\0" * 4096 + b"\n",
        b"\xff\xfe garbage \x80\n",
        b"[" * 200_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"null\n",
        b'"text"\n',
        b"[1]\n",
        b"{}\n",
        b'{"relative": 1, "status": "restored", "output": null}\n',
        b'{"relative": "b.jpg", "status": "restored", "output": ["x"]}\n',
        b'{"relative": "b.jpg"\n',
        b'{"settings": {}, "fingerprint": ["list"]}\n',
        b'{"file": ["a.jpg"], "sha256": "00"}\n',
        b'{"file": "a.jpg"}\n',
        b'{"pad": "' + b"x" * (3 << 20) + b'"}\n',
        b"y" * (1 << 20) + b"\n",
    ],
    ids=lambda damage: f"{damage[:12]!r}x{len(damage)}",
)
def test_damaged_lines_are_counted_and_skipped(damage: bytes, done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    path = folder / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(damage + whole + damage)
    with Journal.open(folder) as journal:
        assert journal.damaged_lines == 2
        assert journal.is_done("a.jpg", source, fingerprint)


def test_entries_with_values_of_other_types_or_leading_elsewhere_are_not_done(done: tuple[Path, Path, str]) -> None:
    source, folder, fingerprint = done
    (folder.parent / "outside.jpg").write_bytes(b"the result")
    good = lines(folder)[-1]
    for change in (
        {"source_size": "12"},
        {"source_modified_ns": [1]},
        {"faces": None},
        {"fingerprint": 3},
        {"output": "../outside.jpg"},
        {"output": str(folder.parent / "outside.jpg")},
        {"output": "a\0.jpg"},
        {"output_size": None},
        {"output_sha256": 5},
        {"output_modified_ns": "now"},
    ):
        with (folder / JOURNAL_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**good, **change}) + "\n")
        with Journal.open(folder) as journal:
            assert not journal.is_done("a.jpg", source, fingerprint), change


def test_a_second_run_into_the_same_folder_is_refused_until_the_first_ends(folder: Path, source: Path) -> None:
    with Journal.open(folder) as first:
        with pytest.raises(FolderError, match=r"Another run is writing to .*out.*--output") as refusal:
            Journal.open(folder)
        assert refusal.value.exit_code == ExitCode.FOLDER
        first.record(finished(source, folder))
        with Journal.open(folder, read_only=True) as onlooker:
            assert onlooker.last("a.jpg") is not None
    with Journal.open(folder) as second:
        assert second.last("a.jpg") is not None


WRITER = """
import sys
from pathlib import Path
from gfprestore.batch.journal import Journal, JournalEntry
with Journal.open(Path(sys.argv[1])) as journal:
    print("open", flush=True)
    number = int(sys.argv[2])
    while True:
        journal.record(JournalEntry(relative=f"{number}.jpg", status="restored", source="x" * 3000, fingerprint="f"))
        number += 1
"""


@needs_posix
def test_a_killed_run_loses_no_finished_line_and_leaves_no_lock(folder: Path) -> None:
    seen = 0
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(attempt * 100_000)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(0.02 + 0.013 * attempt)
        with pytest.raises(FolderError, match="Another run"):
            Journal.open(folder)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        with Journal.open(folder) as journal:
            assert journal.damaged_lines <= attempt + 1
            numbers = [int(relative.removesuffix(".jpg")) for relative in journal_states(folder)]
        own = [number for number in numbers if number >= attempt * 100_000]
        assert own == list(range(attempt * 100_000, attempt * 100_000 + len(own))), "no line is missing in between"
        assert len(numbers) >= seen
        seen = len(numbers)
    assert seen > 0


def test_threads_do_not_mix_their_lines(folder: Path, source: Path) -> None:
    entry = replace(finished(source, folder), error="e" * 9000)
    with Journal.open(folder) as journal:

        def work(number: int) -> None:
            for index in range(20):
                journal.record(replace(entry, relative=f"{number}/{index}"))
                assert journal.last(f"{number}/{index}") is not None

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({line["relative"] for line in lines(folder)}) == len(lines(folder)) == 120


FULL_DISK = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from gfprestore.errors import FolderError
from gfprestore.batch.journal import Journal, JournalEntry
entry = JournalEntry(relative="a.jpg", status="restored", source="s", fingerprint="f")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal.open(Path(sys.argv[1])) as journal:
    journal.record(entry)
    size = journal.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    try:
        journal.record(replace(entry, relative="b.jpg", error="e" * 1000))
    except FolderError as error:
        print(error)
    assert journal.path.stat().st_size == size
    assert journal.last("b.jpg") is None
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.record(replace(entry, relative="c.jpg"))
"""


@needs_posix
def test_a_line_for_which_there_is_no_room_is_taken_back_whole_and_told(folder: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, check=True)
    assert "cannot be written" in result.stdout
    assert "Then run again; finished photos are skipped." in result.stdout
    assert [line["relative"] for line in lines(folder)] == ["a.jpg", "c.jpg"]


@needs_posix
def test_an_output_folder_that_goes_away_during_the_run_is_told(folder: Path, source: Path) -> None:
    entry = finished(source, folder)
    with Journal.open(folder) as journal:
        journal.record(entry)
        shutil.rmtree(folder)
        with pytest.raises(FolderError, match=r"cannot be written.*still exists"):
            journal.record(entry)
        folder.mkdir()
        (folder / JOURNAL_NAME).write_bytes(b"")
        with pytest.raises(FolderError, match="removed or replaced during the run"):
            journal.begin("b.jpg", source, folder / "b.jpg", "f")


def test_a_missing_output_folder_is_told(folder: Path) -> None:
    with pytest.raises(FolderError, match="No such file or directory"):
        Journal.open(folder / "nowhere")


@needs_posix
def test_a_journal_that_is_a_link_a_pipe_or_a_folder_is_refused_and_nothing_elsewhere_changes(folder: Path) -> None:
    path, precious = folder / JOURNAL_NAME, folder.parent / "precious.txt"
    precious.write_bytes(b"precious")
    path.symlink_to(precious)
    with pytest.raises(FolderError, match="it is a link"):
        Journal.open(folder)
    assert precious.read_bytes() == b"precious"
    path.unlink()
    os.mkfifo(path)
    for read_only in (False, True):
        with pytest.raises(FolderError, match="is not a regular file"):
            Journal.open(folder, read_only=read_only)
    path.unlink()
    path.mkdir()
    with pytest.raises(FolderError, match="Is a directory"):
        Journal.open(folder)


def test_reading_only_creates_repairs_and_locks_nothing(folder: Path, source: Path) -> None:
    with Journal.open(folder, read_only=True) as journal:
        assert not journal.is_done("a.jpg", source, "f")
        with pytest.raises(ValueError, match="reading only"):
            journal.record(finished(source, folder))
    assert not (folder / JOURNAL_NAME).exists()
    (folder / JOURNAL_NAME).write_bytes(b'{"torn": ')
    with Journal.open(folder, read_only=True) as journal, Journal.open(folder):
        assert journal.damaged_lines == 1
        assert journal.note_settings(SETTINGS) == settings_fingerprint(SETTINGS)
    assert (folder / JOURNAL_NAME).read_bytes() == b'{"torn": \n', "only the writer ended the line"


def test_a_file_system_without_locks_is_written_all_the_same(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(journal_module.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Journal.open(folder) as first, Journal.open(folder) as second:
        for number in range(5):
            first.record(finished(source, folder, f"first {number}"))
            second.record(finished(source, folder, f"second {number}"))
        assert first.last("second 1") is None
        assert first.last("first 4") == second_reading(folder, "first 4")
    assert len(lines(folder)) == 10


def second_reading(folder: Path, relative: str) -> JournalEntry | None:
    with Journal.open(folder, read_only=True) as journal:
        return journal.last(relative)


def test_an_original_that_changes_while_it_is_read_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = read_source_state(source)
    assert state.sha256 == hashlib.sha256(b"the original").hexdigest()
    assert (state.size, state.modified_ns) == (12, source.stat().st_mtime_ns)
    real_fstat = os.fstat

    def fstat_then_write(descriptor: int) -> os.stat_result:
        status = real_fstat(descriptor)
        with source.open("ab") as file:
            file.write(b"!")
        return status

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fstat_then_write)
        with pytest.raises(PhotoError, match="changed while it was read"):
            read_source_state(source)
    with pytest.raises(PhotoError, match="cannot be read: No such file"):
        read_source_state(source.parent / "gone.jpg")


def test_a_hundred_thousand_entries_load_in_seconds(folder: Path, source: Path) -> None:
    line = json.dumps({**asdict(finished(source, folder)), "relative": "NAME"}) + "\n"
    with (folder / JOURNAL_NAME).open("w", encoding="utf-8") as file:
        for number in range(100_000):
            file.write(line.replace("NAME", f"album/{number % 50_000}.jpg"))
    before = time.process_time()
    with Journal.open(folder) as journal:
        assert time.process_time() - before < 10
        last = journal.last("album/49999.jpg")
        assert last is not None
        assert last.relative == "album/49999.jpg"


def test_what_a_killed_run_left_unfinished_is_named_and_cleared_away(source: Path, folder: Path) -> None:
    leftover = folder / "sub" / ".gfprestore-0123456789abcdef.part"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half a res")
    with Journal.open(folder) as journal:
        assert journal.interrupted == ()
        journal.begin("sub/b.jpg", source, folder / "sub" / "b.jpg", "f")
        journal.begin("a.jpg", source, folder / "a.jpg", "f")
        journal.record(finished(source, folder))
        assert journal.interrupted == ("sub/b.jpg",)
    with Journal.open(folder, read_only=True) as journal:
        assert journal.interrupted == ("sub/b.jpg",)
        assert leftover.exists(), "only looking removes nothing"
    with Journal.open(folder) as journal:
        assert journal.interrupted == ("sub/b.jpg",)
        assert not leftover.exists()
        assert (folder / "a.jpg").exists()
