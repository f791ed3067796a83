"""Folder walking on real temporary folders: what is found, where results go, what is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfprestore.batch.folders import Plan, create_folder_of, plan_photos
from gfprestore.batch.names import natural_key
from gfprestore.batch.output_folder import LONGEST_NAME, prepare_output
from gfprestore.batch.walk import JOURNAL_NAME
from gfprestore.errors import FolderError, PhotoError
from gfprestore.files import TEMPORARY_PREFIX, remove_leftovers

Rename = Callable[[Path], str]
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif"})
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names, links and permissions")


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of an ordinary user whom permissions stop; the superuser becomes one for the test."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, 65534)
        os.setresuid(65534, 65534, 0)
    try:
        yield folder
    finally:
        if user == 0:
            os.setresuid(0, 0, 0)
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def keep(source: Path) -> str:
    return source.suffix


def to_png(_source: Path) -> str:
    return ".png"


def plan(
    *inputs: Path | str,
    output: str | None = None,
    exclude: tuple[str, ...] = (),
    rename: Rename = keep,
    system_folders: bool = False,
) -> Plan:
    return plan_photos(
        inputs,
        None if output is None else Path(output),
        suffixes=SUFFIXES,
        rename=rename,
        exclude=exclude,
        system_folders=system_folders,
    )


def outputs(found: Plan) -> dict[str, str]:
    return {task.source.as_posix(): task.output.as_posix() for task in found.tasks}


def reasons(found: Plan) -> dict[str, str]:
    return {entry.path.as_posix(): entry.reason for entry in found.skipped}


def test_a_folder_is_mirrored_beside_itself() -> None:
    make("photos/a.jpg", "photos/1920/summer/b.PNG", "photos/1920/c.jpeg")
    found = plan("photos")
    assert outputs(found) == {
        "photos/1920/c.jpeg": "photos-restored/1920/c.jpeg",
        "photos/1920/summer/b.PNG": "photos-restored/1920/summer/b.PNG",
        "photos/a.jpg": "photos-restored/a.jpg",
    }
    assert [task.relative for task in found.tasks] == [
        PurePath("1920/c.jpeg"),
        PurePath("1920/summer/b.PNG"),
        PurePath("a.jpg"),
    ]
    assert found.output_folders == (Path("photos-restored"),)


def test_a_single_file_goes_where_a_run_over_its_folder_would_put_it() -> None:
    make("photos/a.jpg", "photos/b.jpg")
    whole = {task.source: (task.output, task.relative) for task in plan("photos").tasks}
    (single,) = plan("photos/a.jpg").tasks
    assert (single.output, single.relative) == whole[single.source]


def test_the_current_folder_is_mirrored_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("photos/a.jpg")
    monkeypatch.chdir("photos")
    for name in (".", "a.jpg"):
        (task,) = plan(name).tasks
        assert task.output == tmp_path / "photos-restored" / "a.jpg"


@needs_posix
def test_a_folder_behind_a_link_is_mirrored_beside_the_link() -> None:
    make("archive/photos/a.jpg")
    Path("album").symlink_to("archive/photos")
    assert outputs(plan("album")) == {"album/a.jpg": "album-restored/a.jpg"}


def test_one_input_folder_is_mirrored_straight_into_the_output_folder() -> None:
    make("photos/sub/a.jpg")
    assert outputs(plan("photos", output="out")) == {"photos/sub/a.jpg": "out/sub/a.jpg"}


def test_several_input_folders_get_a_sub_folder_each() -> None:
    make("x/photos/a.jpg", "y/photos/a.jpg", "z/a.jpg")
    assert outputs(plan("x/photos", "z", output="out")) == {
        "x/photos/a.jpg": "out/photos/a.jpg",
        "z/a.jpg": "out/z/a.jpg",
    }
    both = plan("x/photos", "y/photos", output="out")
    assert outputs(both) == {"x/photos/a.jpg": "out/x/photos/a.jpg", "y/photos/a.jpg": "out/y/photos/a.jpg"}
    assert [task.relative for task in both.tasks] == [PurePath("x/photos/a.jpg"), PurePath("y/photos/a.jpg")]


def test_files_of_several_folders_share_the_output_folder_until_their_names_clash() -> None:
    make("x/a.jpg", "y/b.jpg", "y/A.JPG")
    assert outputs(plan("x/a.jpg", "y/b.jpg", output="out")) == {"x/a.jpg": "out/a.jpg", "y/b.jpg": "out/b.jpg"}
    assert outputs(plan("x/a.jpg", "y/A.JPG", output="out")) == {"x/a.jpg": "out/x/a.jpg", "y/A.JPG": "out/y/A.JPG"}


def test_a_photo_named_in_several_ways_is_restored_once() -> None:
    make("photos/sub/a.jpg", "photos/b.jpg")
    expected = {"photos/b.jpg": "out/b.jpg", "photos/sub/a.jpg": "out/sub/a.jpg"}
    for inputs in (
        ["photos", "photos", "./photos/"],
        ["photos", "photos/sub", "photos/sub/a.jpg"],
        ["photos", "photos/sub/../b.jpg"],
    ):
        assert outputs(plan(*inputs, output="out")) == expected
    inner_first = plan("photos/sub/a.jpg", "photos/sub", "photos", output="out")
    assert {task.output.as_posix() for task in inner_first.tasks} == set(expected.values())
    assert inner_first.skipped == ()


def test_hidden_files_and_folders_are_left_out_unless_named() -> None:
    make("photos/a.jpg", "photos/.b.jpg", "photos/.secret/c.jpg", "photos/._a.jpg")
    found = plan("photos")
    assert list(outputs(found)) == ["photos/a.jpg"]
    assert reasons(found) == dict.fromkeys(["photos/.b.jpg", "photos/.secret", "photos/._a.jpg"], "hidden")
    assert not found.problems
    assert list(outputs(plan("photos/.secret"))) == ["photos/.secret/c.jpg"]
    assert set(outputs(plan("photos", "photos/.secret", "photos/.b.jpg"))) == {
        "photos/a.jpg",
        "photos/.b.jpg",
        "photos/.secret/c.jpg",
    }


SYSTEM_FOLDERS = [
    "@eaDir", "#recycle", "#snapshot", "@Recycle", ".@__thumb", ".recycle", "trashbox", "$RECYCLE.BIN", "$Recycle.Bin",
    "RECYCLER", "System Volume Information", "lost+found", ".thumbnails", ".Trash", ".Trash-1000", ".Trashes",
    ".Spotlight-V100", "__MACOSX", ".dtrash", ".stversions", "@SynoResource",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_system_and_trash_folders_are_left_out_unless_named_or_asked_for(name: str) -> None:
    make("photos/a.jpg", f"photos/{name}/a.jpg/thumb.jpg", f"photos/sub/{name}/b.jpg", "photos/sub/c.jpg")
    found = plan("photos")
    assert set(outputs(found)) == {"photos/a.jpg", "photos/sub/c.jpg"}
    assert reasons(found) == dict.fromkeys([f"photos/{name}", f"photos/sub/{name}"], "a system or trash folder")
    assert not found.problems
    every = {"photos/a.jpg", "photos/sub/c.jpg", f"photos/{name}/a.jpg/thumb.jpg", f"photos/sub/{name}/b.jpg"}
    assert set(outputs(plan("photos", system_folders=True))) == every
    assert set(outputs(plan(f"photos/sub/{name}"))) == {f"photos/sub/{name}/b.jpg"}
    assert set(outputs(plan("photos", f"photos/sub/{name}"))) == every - {f"photos/{name}/a.jpg/thumb.jpg"}
    assert set(outputs(plan(f"photos/sub/{name}/b.jpg"))) == {f"photos/sub/{name}/b.jpg"}


def test_folders_and_files_that_are_only_named_alike_are_taken() -> None:
    names = ["recycle/a.jpg", "Thumbnails/b.jpg", "eaDir/c.jpg", "lost+found.jpg", "Trash/d.jpg"]
    make(*[f"photos/{name}" for name in names])
    found = plan("photos")
    assert len(found.tasks) == 5 and not found.skipped


def test_patterns_do_not_lead_into_system_folders_that_they_do_not_name() -> None:
    make("photos/a.jpg", "photos/@eaDir/a.jpg", "photos/sub/@eaDir/b.jpg", "photos/sub/b.jpg")
    for pattern in ("photos/*", "photos/**/*.jpg"):
        found = plan(pattern)
        assert {Path(source).name for source in outputs(found)} == {"a.jpg", "b.jpg"}
        assert not any("@eaDir" in source for source in outputs(found))
        assert Path("photos/@eaDir") in [entry.path for entry in found.skipped]
    assert set(outputs(plan("photos/@eaDir/*.jpg"))) == {"photos/@eaDir/a.jpg"}
    assert len(plan("photos/**/*.jpg", system_folders=True).tasks) == 4


def test_what_is_no_photo_is_left_out_and_is_a_problem_only_where_it_was_named() -> None:
    make("photos/a.jpg", "photos/notes.txt", "photos/no suffix")
    found = plan("photos")
    assert set(reasons(found)) == {"photos/notes.txt", "photos/no suffix"}
    assert not found.problems
    named = plan("photos/a.jpg", "photos/notes.txt")
    assert [entry.path for entry in named.problems] == [Path("photos/notes.txt")]


@needs_posix
def test_links_to_folders_are_followed_once_and_never_in_a_circle() -> None:
    make("photos/sub/a.jpg", "elsewhere/b.jpg")
    Path("photos/Again").symlink_to("sub")  # sorts before the real folder, which keeps its name all the same
    Path("photos/sub/up").symlink_to("..")
    Path("photos/outside").symlink_to("../elsewhere")
    Path("photos/self").symlink_to("self")
    Path("elsewhere/back").symlink_to("../photos")
    found = plan("photos")
    assert outputs(found) == {
        "photos/outside/b.jpg": "photos-restored/outside/b.jpg",
        "photos/sub/a.jpg": "photos-restored/sub/a.jpg",
    }
    assert set(reasons(found)) == {"photos/Again", "photos/sub/up", "photos/outside/back", "photos/self"}
    assert not found.problems


@needs_posix
def test_many_links_among_folders_do_not_multiply_the_walk() -> None:
    for index in range(12):
        make(f"photos/{index}/a.jpg")
        for other in range(12):
            Path(f"photos/{index}/to {other}").symlink_to(f"../{other}")
    assert len(plan("photos").tasks) == 12


@needs_posix
def test_devices_pipes_sockets_and_broken_links_are_named_and_not_opened() -> None:
    make("photos/a.jpg")
    os.mkfifo("photos/pipe.jpg")
    Path("photos/zero.jpg").symlink_to("/dev/zero")
    Path("photos/gone.jpg").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("photos/s.jpg")
        found = plan("photos")
    assert list(outputs(found)) == ["photos/a.jpg"]
    assert {entry.path.name for entry in found.problems} == {"pipe.jpg", "zero.jpg", "gone.jpg", "s.jpg"}


@needs_posix
def test_a_folder_that_cannot_be_read_is_reported_and_the_others_go_on(unprivileged: Path) -> None:
    os.chdir(unprivileged)
    make("photos/a.jpg", "photos/secret/b.jpg")
    Path("photos/secret").chmod(0)
    found = plan("photos")
    assert list(outputs(found)) == ["photos/a.jpg"]
    (problem,) = found.problems
    assert problem.path == Path("photos/secret")
    assert "Permission denied" in problem.reason
    with pytest.raises(FolderError, match=r"photos/secret cannot be read: Permission denied"):
        plan("photos/secret")


@needs_posix
def test_an_output_folder_that_cannot_be_made_or_written_is_refused(unprivileged: Path) -> None:
    os.chdir(unprivileged)
    make("shelf/photos/a.jpg", "full/keep.txt")
    Path("shelf").chmod(0o500)
    Path("full").chmod(0o500)
    for output in (None, "shelf/out", "full"):
        with pytest.raises(FolderError, match=r"(?s)is not usable: .* is not writable.*--output"):
            plan("shelf/photos", output=output)
    with pytest.raises(FolderError, match="Permission denied"):
        prepare_output(Path("full"))
    assert outputs(plan("shelf/photos", output="elsewhere")) == {"shelf/photos/a.jpg": "elsewhere/a.jpg"}


def test_a_file_in_the_place_of_the_output_folder_is_refused_and_kept() -> None:
    make("photos/a.jpg", "out")
    for output in ("out", "out/inner"):
        with pytest.raises(FolderError, match="out is not a folder"):
            plan("photos", output=output)
        with pytest.raises(FolderError, match="is not usable"):
            prepare_output(Path(output))
    assert Path("out").read_bytes() == b"out"


def test_planning_creates_nothing_and_preparing_leaves_nothing_but_the_folder() -> None:
    make("photos/a.jpg")
    (task,) = plan("photos", output="deep/out").tasks
    assert sorted(path.name for path in Path().rglob("*")) == ["a.jpg", "photos"]
    prepare_output(task.folder)
    assert list(Path("deep/out").iterdir()) == []


def test_the_output_folder_inside_the_input_folder_is_not_walked() -> None:
    make("photos/a.jpg", "photos/out/a.jpg", "photos/out/sub/b.jpg")
    found = plan("photos", output="photos/out")
    assert outputs(found) == {"photos/a.jpg": "photos/out/a.jpg"}
    assert reasons(found) == {"photos/out": "the output folder"}


def test_results_of_earlier_runs_are_not_walked_unless_named() -> None:
    make("photos/a.jpg", "photos/old results/a.jpg", f"photos/old results/{JOURNAL_NAME}")
    found = plan("photos", output="photos/new")
    assert list(outputs(found)) == ["photos/a.jpg"]
    assert reasons(found) == {"photos/old results": "results of an earlier run"}
    assert list(outputs(plan("photos/old results"))) == ["photos/old results/a.jpg"]


@needs_posix
def test_an_output_folder_that_is_the_input_folder_is_refused_by_whatever_name() -> None:
    make("photos/a.jpg", "other/b.jpg")
    Path("alias").symlink_to("photos")
    for inputs, output in (
        (["photos"], "photos"),
        (["photos"], "other/../photos"),
        (["photos"], "alias"),
        (["alias"], "photos"),
        (["photos/a.jpg"], "photos"),
        (["photos", "other"], "."),  # the sub-folders would be the inputs
        (["photos", "other"], "other"),
    ):
        with pytest.raises(FolderError, match="Originals are never overwritten"):
            plan(*inputs, output=output)


def test_results_given_as_input_beside_their_own_originals_are_refused() -> None:
    make("photos/a.jpg", "photos-restored/a.jpg")
    with pytest.raises(FolderError, match="photos-restored is also an input folder"):
        plan("photos", "photos-restored")


def test_a_result_is_never_planned_over_an_original() -> None:
    make("photos/sub/a.jpg", "photos/sub/sub/a.jpg")
    with pytest.raises(FolderError, match=r"would overwrite the original photos/sub/a\.jpg"):
        plan("photos/sub", output="photos")


@needs_posix
def test_no_result_leaves_the_output_folder_through_a_link() -> None:
    make("photos/a.jpg", "photos/sub/deep/b.jpg", "precious/deep/b.jpg")
    Path("out").mkdir()
    Path("out/sub").symlink_to("../precious")
    found = plan("photos", output="out")
    assert outputs(found) == {"photos/a.jpg": "out/a.jpg"}
    (problem,) = found.problems
    assert problem.path == Path("photos/sub/deep/b.jpg")
    assert "points outside the output folder" in problem.reason


@needs_posix
def test_a_link_planted_after_planning_is_not_followed_either() -> None:
    make("photos/sub/b.jpg", "precious/b.jpg")
    (task,) = plan("photos", output="out").tasks
    Path("out").mkdir()
    Path("out/sub").symlink_to("../precious")
    with pytest.raises(PhotoError, match="points outside the output folder"):
        create_folder_of(task)


def test_the_folder_of_a_result_is_made_and_a_vanished_output_folder_is_told() -> None:
    make("photos/x/y/b.jpg")
    (task,) = plan("photos", output="out").tasks
    with pytest.raises(FolderError, match="out no longer exists"):
        create_folder_of(task)
    prepare_output(task.folder)
    create_folder_of(task)
    create_folder_of(task)
    assert Path("out/x/y").is_dir()


def test_a_file_or_folder_in_the_way_of_one_result_stops_only_that_photo() -> None:
    make("photos/a.jpg", "photos/b.jpg", "photos/sub/c.jpg", "out/sub", "out/b.jpg/d.txt")
    found = plan("photos", output="out")
    assert outputs(found) == {"photos/a.jpg": "out/a.jpg"}
    assert {entry.path.name: entry.reason for entry in found.problems} == {
        "b.jpg": "out/b.jpg is an existing folder",
        "c.jpg": "out/sub is a file, not a folder",
    }


def test_names_that_clash_after_a_change_of_format_are_told_apart_by_their_old_suffix() -> None:
    make("photos/a.jpg", "photos/a.png", "photos/a.tif", "photos/b.jpg")
    assert outputs(plan("photos", rename=to_png)) == {
        "photos/a.jpg": "photos-restored/a.jpg.png",
        "photos/a.png": "photos-restored/a.png",  # its name does not change, so it keeps it
        "photos/a.tif": "photos-restored/a.tif.png",
        "photos/b.jpg": "photos-restored/b.png",
    }


def test_names_that_clash_even_then_are_told_apart_by_a_hash() -> None:
    make("photos/a.jpg", "photos/a.jpg.png", "photos/a.png", "photos/b.png/c.jpg", "photos/b.jpg")
    digest = hashlib.sha256(b"a.jpg").hexdigest()[:8]
    planned = outputs(plan("photos", rename=to_png))
    assert planned["photos/a.jpg"] == f"photos-restored/a~{digest}.png"
    assert planned["photos/a.jpg.png"] == "photos-restored/a.jpg.png"
    assert planned["photos/b.jpg"] == "photos-restored/b.jpg.png"  # b.png is a folder


def test_the_spelling_of_a_suffix_stays_where_the_format_stays() -> None:
    make("photos/A.JPG", "photos/b.Png")
    planned = plan("photos", rename=lambda source: ".jpg" if source.suffix == ".JPG" else ".tif")
    assert [task.output.name for task in planned.tasks] == ["A.JPG", "b.tif"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("IMG.jpg", "img.jpg"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e.jpg", "STRASSE.jpg"),
        (unicodedata.normalize("NFC", "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}.jpg"),
         unicodedata.normalize("NFD", "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}.jpg")),
        ("Sub/a.jpg", "sub/a.jpg"),
    ],
)  # fmt: skip
def test_names_that_some_file_systems_hold_for_one_are_told_apart(first: str, second: str) -> None:
    make(f"photos/{first}", f"photos/{second}")
    if len([path for path in Path("photos").rglob("*") if path.is_file()]) < 2:
        pytest.skip("this file system holds the two names for one")
    planned = [task.output.as_posix() for task in plan("photos").tasks]
    folded = {unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()) for name in planned}
    assert len(folded) == len(planned) == 2
    unchanged = {f"photos-restored/{first}", f"photos-restored/{second}"} & set(planned)
    assert len(unchanged) == 1, "one of the two keeps its name"


@pytest.mark.parametrize(
    "name", ["写真/祖母.jpg", "фото/бабушка.jpg", "صور/جدة.jpg", "ภาพ/ย่า.jpg", "👪/🏠.jpg", "a b/ c .jpg"]
)
def test_names_in_any_script_are_mirrored_to_the_letter(name: str) -> None:
    make(f"photos/{name}")
    assert outputs(plan("photos")) == {f"photos/{name}": f"photos-restored/{name}"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds names that are no text")
def test_names_that_are_no_text_are_mirrored_byte_for_byte() -> None:
    name = os.fsdecode(b"Gro\xdfmutter \xff.jpg")
    make(f"photos/{name}", "photos/a.jpg")
    tasks = plan("photos", output="out").tasks
    assert [os.fsencode(task.output) for task in tasks] == [b"out/a.jpg", b"out/Gro\xdfmutter \xff.jpg"]
    assert plan("photos", exclude=("Gro*",)).tasks[0].source == Path("photos/a.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts characters")
def test_names_that_grow_beyond_the_limit_are_shortened_and_stay_apart() -> None:
    stem = "é" * 125  # 250 bytes
    make(f"photos/{stem}a.jpg", f"photos/{stem}b.jpg", f"photos/{stem}.jpg")
    tasks = plan("photos", rename=lambda _source: ".longer").tasks
    names = [task.output.name for task in tasks]
    assert len(set(names)) == 3
    assert all(len(os.fsencode(name)) <= LONGEST_NAME and name.endswith(".longer") for name in names)
    assert all(name.startswith("é" * 100) for name in names)
    again = plan("photos", rename=lambda _source: ".longer").tasks
    assert again == tasks
    for task in tasks:
        task.output.parent.mkdir(exist_ok=True)
        task.output.write_bytes(b"")  # the file system takes them


@needs_posix
def test_paths_beyond_255_bytes_are_mirrored() -> None:
    deep = "/".join(f"a rather long folder name {index:04}" for index in range(30))
    make(f"photos/{deep}/a.jpg")
    (task,) = plan("photos").tasks
    assert len(str(task.output)) > 900
    prepare_output(task.folder)
    create_folder_of(task)
    task.output.write_bytes(b"")


def test_globs_that_the_shell_did_not_expand_are_expanded() -> None:
    make("photos/a2.jpg", "photos/a10.jpg", "photos/b.jpg", "photos/.a3.jpg", "photos/sub/a1.jpg")
    assert [task.source.name for task in plan("photos/a*.jpg").tasks] == ["a2.jpg", "a10.jpg"]
    assert len(plan("photos/**/*.jpg").tasks) == 4
    with pytest.raises(FolderError, match=r"No file matches photos/x\*\.jpg"):
        plan("photos/x*.jpg")


def test_a_name_with_glob_characters_that_exists_is_taken_as_it_is() -> None:
    make("photos/scan [1].jpg", "photos/scan 1.jpg")
    assert list(outputs(plan("photos/scan [1].jpg"))) == ["photos/scan [1].jpg"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ((), {"a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.jpg", "Zoë.jpg"}),
        (("*.png",), {"a.jpg", "sub/a.jpg", "sub/deep/c.jpg", "Zoë.jpg"}),
        (("sub",), {"a.jpg", "b.png", "Zoë.jpg"}),
        (("sub/",), {"a.jpg", "b.png", "Zoë.jpg"}),
        (("deep", "b.*"), {"a.jpg", "sub/a.jpg", "Zoë.jpg"}),
        (("sub/*.jpg",), {"a.jpg", "b.png", "Zoë.jpg"}),
        (("sub/a.jpg",), {"a.jpg", "b.png", "sub/deep/c.jpg", "Zoë.jpg"}),
        (("photos/sub/deep",), {"a.jpg", "b.png", "sub/a.jpg", "Zoë.jpg"}),
        ((unicodedata.normalize("NFD", "Zoë*"),), {"a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.jpg"}),
    ],
)
def test_exclude_patterns_match_names_and_paths(patterns: tuple[str, ...], left: set[str]) -> None:
    make("photos/a.jpg", "photos/b.png", "photos/sub/a.jpg", "photos/sub/deep/c.jpg", "photos/Zoë.jpg")
    assert {task.relative.as_posix() for task in plan("photos", exclude=patterns).tasks} == left


def test_exclude_patterns_hold_for_named_files_too() -> None:
    make("photos/a.jpg", "photos/b.jpg")
    assert list(outputs(plan("photos/a.jpg", "photos/b.jpg", exclude=("b*",)))) == ["photos/a.jpg"]


def test_photos_come_in_natural_order_of_their_names() -> None:
    names = ["Scan 1.jpg", "scan 2.jpg", "scan 2b.jpg", "Scan 10.jpg", "scan 100.jpg", "Zug.jpg"]
    make(*(f"photos/{name}" for name in reversed(names)))
    assert [task.source.name for task in plan("photos").tasks] == names


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8))
def test_the_natural_order_holds_for_any_text(names: list[str]) -> None:
    names = [name.encode("utf-8", "ignore").decode() for name in names]
    other_way_round = names[::-1]
    assert sorted(names, key=natural_key) == sorted(other_way_round, key=natural_key)


NAMES = st.text(st.sampled_from("aAbB1é.~"), min_size=1, max_size=4).filter(lambda name: name[0] not in ".~")


@settings(max_examples=40, deadline=None)
@given(
    st.sets(
        st.tuples(st.sampled_from(["", "s/", "S/", "a.png/"]), NAMES, st.sampled_from([".jpg", ".png", ".JPG", ".tif"]))
    )
)
def test_no_two_photos_ever_share_a_result_and_none_leaves_the_output_folder(photos: set[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        make("photos/z.jpg")
        for folder, name, suffix in photos:
            path = Path(f"photos/{folder}{name}{suffix}")
            if not path.is_dir() and not any(parent.is_file() for parent in path.parents):
                make(path.as_posix())
        count = len([path for path in Path("photos").rglob("*") if path.is_file()])
        found = plan("photos", output="out", rename=to_png)
        assert len(found.tasks) == count
        keys = {unicodedata.normalize("NFC", task.output.as_posix()).casefold() for task in found.tasks}
        assert len(keys) == count
        assert len({task.relative for task in found.tasks}) == count
        assert all(task.output.resolve().is_relative_to(Path("out").resolve()) for task in found.tasks)
        assert plan("photos", output="out", rename=to_png) == found
        os.chdir(Path(place).parent)


@pytest.mark.parametrize("missing", ["nowhere", "photos/nowhere.jpg", "photos/a.jpg/x", "a\0b", "x" * 300])
def test_an_input_that_does_not_exist_is_refused(missing: str) -> None:
    make("photos/a.jpg")
    with pytest.raises(FolderError, match="does not exist"):
        plan("photos", missing)


def test_no_input_and_an_empty_name_are_refused() -> None:
    make("a.jpg")
    with pytest.raises(FolderError, match="No input was given"):
        plan()
    with pytest.raises(FolderError, match="empty name"):
        plan("")


def test_a_folder_without_photos_is_refused_with_what_it_holds() -> None:
    Path("empty").mkdir()
    with pytest.raises(FolderError, match="empty contains no photos: it is empty"):
        plan("empty")
    make("papers/letter.txt", "papers/.hidden.jpg")
    with pytest.raises(
        FolderError, match=r"papers contains no photos that can be restored\. Skipped: 2, such as papers/"
    ):
        plan("papers")
    make("photos/a.jpg")
    assert list(outputs(plan("papers", "photos"))) == ["photos/a.jpg"]


def test_the_root_of_a_file_system_needs_a_named_output_folder() -> None:
    root = Path.cwd().anchor
    with pytest.raises(FolderError, match=r"no parent folder for the results.*--output"):
        plan(root)


def test_the_originals_are_not_touched_by_planning() -> None:
    make("photos/a.jpg", "photos/sub/b.jpg")
    before = {path: path.stat() for path in Path("photos").rglob("*")}
    plan("photos", output="photos/out", rename=to_png)
    assert {path: path.stat() for path in Path("photos").rglob("*")} == before


def test_mirrored_folders_keep_clear_of_the_previews() -> None:
    make("photos/_faces/a.jpg", "photos/_Compare/b.jpg", "photos/sub/_faces/c.jpg")
    marks = {name: hashlib.sha256(name.encode()).hexdigest()[:8] for name in ("_faces", "_Compare")}
    assert outputs(plan("photos", output="out")) == {
        "photos/_Compare/b.jpg": f"out/_Compare~{marks['_Compare']}/b.jpg",
        "photos/_faces/a.jpg": f"out/_faces~{marks['_faces']}/a.jpg",
        "photos/sub/_faces/c.jpg": "out/sub/_faces/c.jpg",
    }


@needs_posix
def test_only_unfinished_files_of_ours_are_removed_and_none_behind_links() -> None:
    leftover = f"{TEMPORARY_PREFIX}0123456789abcdef.part"  # the name that the writer of photos uses
    make(f"out/{leftover}", f"out/sub/{leftover}", f"elsewhere/{leftover}", "out/a.jpg", "out/.gfprestore-notes.part")
    Path("out/link").symlink_to("../elsewhere")
    assert set(remove_leftovers(Path("out"))) == {Path("out", leftover), Path("out/sub", leftover)}
    left = {path.as_posix() for path in Path().rglob("*") if path.is_file()}
    assert left >= {f"elsewhere/{leftover}", "out/a.jpg", "out/.gfprestore-notes.part"}
    assert not left & {f"out/{leftover}", f"out/sub/{leftover}"}
