"""Plan of a run with one output file: `run photo.jpg -o restored.jpg`.

The file stands anywhere, so no journal is written beside it: a folder with a journal counts as a folder of results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from gfprestore.batch.folders import Plan, find_photos
from gfprestore.batch.journal import Journal, JournalEntry, Json, settings_fingerprint
from gfprestore.batch.output_folder import check_writable
from gfprestore.batch.source_state import SourceState, read_source_state
from gfprestore.batch.task_list import TaskList, TaskRow
from gfprestore.batch.walk import file_identity
from gfprestore.batch.written_files import FileKeptError, FileState
from gfprestore.errors import FolderError, UsageError
from gfprestore.photo.encoding import writable_formats
from gfprestore.photo.photo import FORMATS, SUFFIXES

_IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes) | {".jxl", ".pdf", ".dng"}


def names_a_file(output: Path) -> bool:
    """Whether --output names a file: it has the suffix of an image and is no existing folder."""
    return output.suffix.lower() in _IMAGE_SUFFIXES and not output.is_dir()


def plan_single_file(
    inputs: Sequence[Path | str],
    output: Path,
    *,
    format: str,
    suffixes: frozenset[str],
    exclude: Sequence[str] = (),
    kinds: frozenset[str] = frozenset(),
    system_folders: bool = False,
) -> Plan:
    """Find the one photo of the inputs and plan its result as `output`; creates and changes nothing.

    Args:
        inputs: photos, folders and unexpanded globs.
        output: the output file.
        format: format that was asked for, `keep` or a key of `FORMATS`.
        suffixes: suffixes of photos, see `plan_photos`.
        exclude: shell patterns, see `plan_photos`.
        kinds: kinds of images, see `plan_photos`.
        system_folders: see `plan_photos`.

    Raises:
        UsageError: There are several photos, or the format of `output` cannot be written or is not `format`.
        FolderError: There is no photo, an input does not exist, `output` is the photo itself, or its folder is not
            usable.
    """
    suffix = output.suffix.lower()
    if all(suffix not in SUFFIXES[name] for name in writable_formats()):
        raise UsageError(
            f"--output {output} names a file, and {output.suffix} files cannot be written. Use .jpg, .png, .tif or "
            ".webp, or name a folder."
        )
    if format != "keep" and suffix not in SUFFIXES[FORMATS[format]]:
        raise UsageError(f"--output {output} and --format {format} contradict each other. Leave out --format.")
    found, skipped = find_photos(inputs, suffixes=suffixes, exclude=exclude, kinds=kinds, system_folders=system_folders)
    if len(found) > 1:
        raise UsageError(f"--output {output} names one file, but there are {len(found)} photos. Name a folder instead.")
    source = found[0]
    identity = file_identity(output)
    if identity is not None and identity == file_identity(source):
        raise FolderError(
            f"The result of {source} would overwrite the original {output}. Choose another file with --output."
        )
    check_writable(output.parent)
    row = TaskRow(source.parent, output.parent, PurePath(), output.parent, source.name, output.name, recorded=False)
    return Plan(TaskList([row]), tuple(skipped))


class SingleFileJournal(Journal):
    """Journal that records nothing: a file that is there was not written by a run, and is only replaced when asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, None, read_only=True)

    def note_settings(self, settings: Mapping[str, Json]) -> str:
        """Fingerprint of the settings."""
        return settings_fingerprint(settings)

    def is_done(self, relative: str, source: Path, fingerprint: str | None, output: Path | None = None) -> bool:
        """False: nothing is known of earlier runs."""
        return False

    def note_file(self, output: Path, temporary: Path, *, overwrite: bool) -> SourceState:
        """State of the complete file.

        Raises:
            FileKeptError: A file is there that must not be replaced.
            PhotoError: The file cannot be read.
        """
        if not overwrite and self.state_of(output) is not FileState.NEW:
            raise FileKeptError(output, FileState.TAKEN, recorded=False)
        return read_source_state(temporary)

    def begin(self, relative: str, source: Path, output: Path, fingerprint: str) -> None:
        """Do nothing."""

    def record(self, entry: JournalEntry) -> None:
        """Do nothing."""
