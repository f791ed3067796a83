"""Exit codes and every error a user can meet.

A message says what happened, to which file, and what to do next. The class has the exit code, so that the command line
maps errors to codes in one place. Imports nothing of ours.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; scripts rely on them."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    WEIGHTS = 3
    FOLDER = 4
    DEVICE = 5
    INTERRUPTED = 130


class GfprestoreError(Exception):
    """Base of all errors that the user sees without a traceback."""

    exit_code: ExitCode = ExitCode.SOME_FAILED


class UsageError(GfprestoreError):
    """The options contradict each other or a value is out of range."""

    exit_code = ExitCode.USAGE


class FolderError(GfprestoreError):
    """The input or output folder cannot be used."""

    exit_code = ExitCode.FOLDER


class DeviceError(GfprestoreError):
    """The device is absent, broken or too small."""

    exit_code = ExitCode.DEVICE


class WeightsError(GfprestoreError):
    """Weights are missing, damaged or for another network."""

    exit_code = ExitCode.WEIGHTS


class PhotoError(GfprestoreError):
    """One photo could not be read, restored or written; the run continues with the others."""


class WeightsMissingError(WeightsError):
    """A weights file is missing and not available."""


class OfflineError(WeightsMissingError):
    """A weights file is missing, and downloads are disabled."""


class DownloadError(WeightsMissingError):
    """A weights file is missing, and its download failed."""


class WeightsDamagedError(WeightsError):
    """A weights file is empty, truncated, modified, or not a weights file."""


class WeightsUnsafeError(WeightsError):
    """A weights file contains pickled code, which is never run."""


class WeightsMismatchError(WeightsError):
    """A weights file is intact but was made for another network."""


class FaceError(PhotoError):
    """A face was found and could not be restored."""


class UnreadablePhotoError(PhotoError):
    """The file of a photo is missing, locked, empty, damaged, or not an image."""


class UnsupportedPhotoError(PhotoError):
    """The file of a photo is intact but unsupported: animated, with several pages, or floating-point."""


class PhotoTooLargeError(PhotoError):
    """A photo has more pixels than the limit allows or the memory can hold."""


class PhotoWriteError(PhotoError):
    """A restored photo could not be written; no incomplete file remains."""


class TrainingDivergedError(GfprestoreError):
    """The losses of a training diverged, and rollbacks at lower learning rates did not help."""


class TrainingInterruptedError(GfprestoreError):
    """A training was interrupted; its checkpoint is written."""

    exit_code = ExitCode.INTERRUPTED


class MetricUnavailable(GfprestoreError):  # noqa: N818 (a state of this machine, not an error)
    """A metric cannot be computed on this machine; the others can.

    Args:
        label: Name of the metric in messages.
        reason: Sentence that says what is missing.
        remedy: Sentence with the command that installs it; empty if the reason names it.
    """

    exit_code = ExitCode.WEIGHTS

    def __init__(self, label: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{label} is unavailable: {reason} {remedy}".rstrip())
        self.reason = reason
        self.remedy = remedy
