"""Permissions, group and extended attributes of files and folders, carried from a source to its result.

A result is never open to more people than its source. Errors of the system are not raised: a file system without
permissions or attributes is no reason to lose a photo. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

_ACCESS_LIST, _DEFAULT_LIST = "system.posix_acl_access", "system.posix_acl_default"
# Checksums of the old content and the state of programs that synchronize: they would be wrong for the result.
_ABOUT_THE_CONTENT = ("user.checksum", "user.shatag", "user.hash", "user.md5", "user.sha", "user.com.dropbox.")


@dataclass(frozen=True)
class FileAttributes:
    """Attributes of a file or folder.

    Attributes:
        mode: Permission bits for owner, group and others.
        owner: User and group numbers.
        extended: Extended attributes by name: those of users, such as `user.xdg.tags`, and access control lists.
    """

    mode: int
    owner: tuple[int, int]
    extended: tuple[tuple[str, bytes], ...] = ()


def attributes_of(file: Path | int, status: os.stat_result) -> FileAttributes:
    """Attributes of a file or folder, given by its path or descriptor, and its status."""
    return FileAttributes(stat.S_IMODE(status.st_mode) & 0o777, (status.st_uid, status.st_gid), _extended(file))


def with_extended_of(attributes: FileAttributes, path: Path) -> FileAttributes:
    """Add the extended attributes of a result that is about to be replaced: its user may have tagged it."""
    own = [(name, value) for name, value in _extended(path) if name.startswith("user.")] if _is_file(path) else []
    return replace(attributes, extended=tuple((dict(attributes.extended) | dict(own)).items()))


def folder_attributes(sources: Iterable[Path]) -> FileAttributes | None:
    """Attributes for a folder with results from these sources, the narrowest of them; None if there are none.

    A file stands for a folder that those can list who can read the file. The owner can always write to the folder.
    """
    found: list[FileAttributes] = []
    for source in sources:
        with contextlib.suppress(OSError):
            status = source.stat()
            attributes = attributes_of(source, status)
            if not stat.S_ISDIR(status.st_mode):
                attributes = replace(attributes, mode=attributes.mode & 0o666 | (attributes.mode & 0o444) >> 2)
            found.append(attributes)
    if not found:
        return None
    mode = 0o777
    for attributes in found:
        mode &= attributes.mode
    same_owner = len({attributes.owner for attributes in found}) == 1
    if len(found) > 1 and not same_owner:
        mode &= 0o707 | (mode & 0o007) << 3  # no group for whom all the sources are open
    first = found[0] if same_owner else replace(found[0], owner=(os_user(), -1))
    return replace(first, mode=mode | 0o700, extended=first.extended if len(found) == 1 else ())


def without_tags(attributes: FileAttributes) -> FileAttributes:
    """The same permissions without the extended attributes of users, for images made from a photo."""
    lists = (_ACCESS_LIST, _DEFAULT_LIST)
    return replace(attributes, extended=tuple(pair for pair in attributes.extended if pair[0] in lists))


def os_user() -> int:
    """Number of the user who runs the program; -1 where the system has none."""
    return os.geteuid() if sys.platform != "win32" else -1


def creation_mode(attributes: FileAttributes) -> int:
    """Permissions with which a file is created that will get these attributes, so that it is never open in between."""
    return 0o666 if sys.platform == "win32" else attributes.mode & 0o666 | 0o600


def give(attributes: FileAttributes, path: Path) -> tuple[str, ...]:
    """Give a new file or folder these attributes, never with more permissions than it was created with.

    Returns:
        Names of the extended attributes that could not be kept.
    """
    if sys.platform == "win32":
        return ()
    with contextlib.suppress(OSError):
        created = stat.S_IMODE(path.stat().st_mode)
        mode = created & (attributes.mode | stat.S_IRUSR)
        extended = dict(attributes.extended)
        if not _give_owner(path, attributes.owner) or not _give_access_list(path, extended):
            mode &= 0o707 | (mode & 0o007) << 3  # the group may be another one: no more than for everyone
        path.chmod(mode)
        return tuple(
            name for name, value in extended.items() if name not in (_ACCESS_LIST, _DEFAULT_LIST)
            and not _set_extended(path, name, value)
        )  # fmt: skip
    return tuple(name for name, _ in attributes.extended)


def _give_owner(path: Path, owner: tuple[int, int]) -> bool:
    """Give a file its source's group and, if the program may, its owner; False if the group is another one."""
    user, group = owner
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.chown(path, user if os_user() == 0 else -1, group)
        return path.stat().st_gid == group
    return True


def _give_access_list(path: Path, extended: dict[str, bytes]) -> bool:
    """Give a file its source's access control lists and none that its folder hands down; False if one is lost."""
    is_kept = True
    for name in (_DEFAULT_LIST, _ACCESS_LIST):
        if name in extended:
            is_kept &= _set_extended(path, name, extended[name])
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.removexattr(path, name)
    return is_kept


def _set_extended(path: Path, name: str, value: bytes) -> bool:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setxattr(path, name, value)
            return True
    return False


def _extended(file: Path | int) -> tuple[tuple[str, bytes], ...]:
    found: dict[str, bytes] = {}
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for name in os.listxattr(file):
                is_wanted = name.startswith("user.") and not name.startswith(_ABOUT_THE_CONTENT)
                if is_wanted or name in (_ACCESS_LIST, _DEFAULT_LIST):
                    with contextlib.suppress(OSError):
                        found[name] = os.getxattr(file, name)
    return tuple(found.items())


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False
