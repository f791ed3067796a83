"""Results and their folders are open to no more people than their sources; tags and folder times stay."""

from __future__ import annotations

import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from doubles import call
from samples import save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")

PLAIN = ("--restorer", "none", "--background", "lanczos")
TIME = 946_684_800  # the first second of the year 2000, UTC
PIXELS = np.random.default_rng(2).integers(0, 256, (30, 36, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o600, 0o600), (0o640, 0o640), (0o644, 0o644), (0o664, 0o644), (0o777, 0o644), (0o444, 0o444)],
)
def test_a_result_has_the_permissions_of_its_source_within_the_umask(
    suffix: str, mode: int, expected: int, tmp_path: Path
) -> None:
    source = save(tmp_path / "in" / f"a{suffix}", PIXELS)
    source.chmod(mode)
    assert call("run", source.parent, "-o", tmp_path / "out", *PLAIN) == 0
    assert mode_of(tmp_path / "out" / f"a{suffix}") == expected
    assert call("run", source.parent, "-o", tmp_path / "out", *PLAIN, "--upscale", "3") == 0  # replaced
    assert mode_of(tmp_path / "out" / f"a{suffix}") == expected


def test_an_unfinished_result_is_not_open_to_others_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "in" / "a.png", PIXELS)
    source.chmod(0o600)
    real, modes = Path.replace, []

    def watched(path: Path, target: Path) -> Path:
        modes.append(mode_of(path))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    real_open, created = os.open, []

    def opened(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if str(path).endswith(".part") and flags & os.O_CREAT:
            created.append(mode)
        return real_open(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", opened)
    assert call("run", source.parent, "-o", tmp_path / "out", *PLAIN) == 0
    assert (created, modes) == ([0o600], [0o600])


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o700, 0o700), (0o750, 0o750), (0o755, 0o755), (0o777, 0o755), (0o555, 0o755)]
)
def test_folders_have_the_permissions_of_their_sources_and_can_be_written(
    mode: int, expected: int, tmp_path: Path
) -> None:
    save(tmp_path / "in" / "open" / "closed" / "a.png", PIXELS)
    (tmp_path / "in" / "open" / "closed").chmod(mode)
    try:
        assert call("run", tmp_path / "in", *PLAIN, "--compare") == 0
    finally:
        (tmp_path / "in" / "open" / "closed").chmod(0o755)
    out = tmp_path / "in-restored"
    for place in (out, out / "_compare"):
        assert mode_of(place / "open" / "closed") == expected
        assert mode_of(place / "open") == 0o755


@pytest.mark.parametrize("given", [True, False])
def test_a_new_output_folder_is_as_closed_as_what_it_mirrors(given: bool, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", PIXELS)
    (tmp_path / "in").chmod(0o700)
    output = tmp_path / ("new/out" if given else "in-restored")
    assert call("run", tmp_path / "in", *(("-o", output) if given else ()), *PLAIN, "--compare") == 0
    assert mode_of(output) == mode_of(output / "_compare") == 0o700


def test_an_output_folder_for_several_is_as_closed_as_the_most_closed(tmp_path: Path) -> None:
    for name, mode in (("one", 0o750), ("two", 0o705)):
        save(tmp_path / name / "a.png", PIXELS)
        (tmp_path / name).chmod(mode)
    assert call("run", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out", *PLAIN) == 0
    assert mode_of(tmp_path / "out") == 0o700
    assert (mode_of(tmp_path / "out" / "one"), mode_of(tmp_path / "out" / "two")) == (0o750, 0o705)


def test_an_output_folder_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", PIXELS)
    (tmp_path / "in").chmod(0o700)
    (tmp_path / "out").mkdir(0o755)
    os.utime(tmp_path / "out", (TIME, TIME))
    assert call("run", tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 0
    assert mode_of(tmp_path / "out") == 0o755
    assert (tmp_path / "out").stat().st_mtime != TIME


@pytest.mark.parametrize("name", ["_compare", "_faces"])
def test_previews_of_a_private_photo_are_private(
    name: str, tmp_path: Path, astronaut: np.ndarray, make_checkpoint: Callable[..., Path]
) -> None:
    source = save(tmp_path / "in" / "a.png", astronaut[0:240:2, 120:340:2])
    source.chmod(0o600)
    options = ("--compare", "--save-faces", "--detector", "mtcnn", "--background", "lanczos")
    assert call("run", tmp_path / "in", "-o", tmp_path / "out", "--weights", make_checkpoint(), *options) == 0
    files = [path for path in (tmp_path / "out" / name).rglob("*") if path.is_file()]
    assert files and {mode_of(path) for path in files} == {0o600}
    if name == "_faces":
        assert mode_of(tmp_path / "out" / "_faces" / "a.png") == 0o700


def test_folders_keep_their_times_and_so_does_a_new_output_folder(tmp_path: Path) -> None:
    for name in ("a.png", "old/b.png", "old/older/c.png"):
        save(tmp_path / "in" / name, PIXELS)
    times = {"old/older": TIME, "old": TIME + 10, ".": TIME + 20}
    for name, moment in times.items():
        os.utime(tmp_path / "in" / name, (moment, moment))
    for _attempt in range(2):
        assert call("run", tmp_path / "in", *PLAIN) == 0
        found = {name: (tmp_path / "in-restored" / name).stat().st_mtime for name in times}
        assert found == times


def test_folder_times_are_kept_in_labeled_folders_and_the_shared_one_is_left_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / name / "sub" / "a.png", PIXELS)
        for place in (tmp_path / name / "sub", tmp_path / name):
            os.utime(place, (TIME, TIME))
    assert call("run", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out", *PLAIN) == 0
    for place in ("one", "one/sub", "two", "two/sub"):
        assert (tmp_path / "out" / place).stat().st_mtime == TIME


# --- extended attributes -----------------------------------------------------------------------------------------


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A photo with a tag and a rating as a file manager stores them."""
    source = save(tmp_path / "in" / "a.png", PIXELS)
    try:
        os.setxattr(source, "user.xdg.tags", b"family")  # type: ignore[attr-defined, unused-ignore]
    except (OSError, AttributeError):
        pytest.skip("no extended attributes here")
    os.setxattr(source, "user.baloo.rating", b"8")
    os.setxattr(source, "user.shatag.sha256", b"00" * 32)
    return source


def extended(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


@pytest.mark.parametrize("mode", [0o644, 0o400])
def test_tags_of_a_file_manager_are_kept_and_checksums_of_the_old_content_are_not(
    mode: int, tagged: Path, tmp_path: Path
) -> None:
    tagged.chmod(mode)
    assert call("run", tagged.parent, "-o", tmp_path / "out", *PLAIN) == 0
    assert extended(tmp_path / "out" / "a.png") == {"user.xdg.tags": b"family", "user.baloo.rating": b"8"}


def test_tags_that_a_user_gave_a_result_outlive_its_replacement(tagged: Path, tmp_path: Path) -> None:
    assert call("run", tagged.parent, "-o", tmp_path / "out", *PLAIN) == 0
    result = tmp_path / "out" / "a.png"
    os.setxattr(result, "user.xdg.comment", b"the best one")
    os.setxattr(result, "user.baloo.rating", b"10")
    assert call("run", tagged.parent, "-o", tmp_path / "out", *PLAIN, "--upscale", "3") == 0
    assert extended(result) == {
        "user.xdg.tags": b"family",
        "user.baloo.rating": b"10",
        "user.xdg.comment": b"the best one",
    }


def test_attributes_that_cannot_be_kept_are_told_and_cost_no_result(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(*_arguments: object, **_options: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    assert call("run", tagged.parent, "-o", tmp_path / "out", *PLAIN) == 0
    told = capsys.readouterr().err.replace("\n", " ")
    assert "cannot store its extended attributes: user.baloo.rating, user.xdg.tags" in told
    assert (tmp_path / "out" / "a.png").exists()


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Linux's form of an access control list: (tag, permissions, number) each; tags 1 owner, 2 user, 4 group, ..."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
FOR_ONE_USER = access_list((1, 6, NOBODY), (2, 4, 12345), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))


def test_an_access_control_list_is_kept_and_where_it_cannot_be_the_group_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode of such a file shows the mask, here `r--`, as if the group could read it; it cannot."""
    source = save(tmp_path / "in" / "a.png", PIXELS)
    try:
        os.setxattr(source, "system.posix_acl_access", FOR_ONE_USER)  # type: ignore[attr-defined, unused-ignore]
    except (OSError, AttributeError):
        pytest.skip("no access control lists here")
    assert mode_of(source) == 0o640
    assert call("run", source.parent, "-o", tmp_path / "out", *PLAIN) == 0
    kept = os.getxattr(tmp_path / "out" / "a.png", "system.posix_acl_access")
    assert kept == os.getxattr(source, "system.posix_acl_access")

    def unsupported(*_arguments: object, **_options: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    assert call("run", source.parent, "-o", tmp_path / "other", *PLAIN) == 0
    assert mode_of(tmp_path / "other" / "a.png") == 0o600


def test_a_list_that_the_output_folder_hands_down_does_not_open_a_private_photo(tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "a.png", PIXELS)
    source.chmod(0o640)
    (tmp_path / "out").mkdir()
    try:
        os.setxattr(tmp_path / "out", "system.posix_acl_default", FOR_ONE_USER)  # type: ignore[attr-defined, unused-ignore]
    except (OSError, AttributeError):
        pytest.skip("no access control lists here")
    assert call("run", source.parent, "-o", tmp_path / "out", *PLAIN) == 0
    assert "system.posix_acl_access" not in os.listxattr(tmp_path / "out" / "a.png")
    assert mode_of(tmp_path / "out" / "a.png") == 0o640
