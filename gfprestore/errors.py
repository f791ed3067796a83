"""Exit codes and every error a user can meet.

A message says what happened, to which file, and what to do next. The class carries the exit code, so that the command
line maps errors to codes in one place. Imports nothing of ours.
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
    """Base of all errors that are told to the user without a traceback."""

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
    """Weights are missing, damaged or of another network."""

    exit_code = ExitCode.WEIGHTS


class PhotoError(GfprestoreError):
    """One photo could not be read, restored or written; the others go on."""

    exit_code = ExitCode.SOME_FAILED


class WeightsMissingError(WeightsError):
    """A weights file is neither here nor to be had."""


class OfflineError(WeightsMissingError):
    """A weights file is not here, and downloads are switched off."""


class DownloadError(WeightsMissingError):
    """A weights file is not here, and its download failed."""


class WeightsDamagedError(WeightsError):
    """A weights file is empty, cut short, changed, or no weights file at all."""


class WeightsUnsafeError(WeightsError):
    """A weights file holds pickled code, which is never run."""


class WeightsMismatchError(WeightsError):
    """A weights file is intact but was made for another network."""


class FaceError(PhotoError):
    """A face was found and could not be restored."""


class UnreadablePhotoError(PhotoError):
    """A photo's file is missing, locked, empty, damaged, or no photo at all."""


class UnsupportedPhotoError(PhotoError):
    """A photo's file is intact but of a kind that is not restored: animated, of several pages, floating point."""


class PhotoTooLargeError(PhotoError):
    """A photo has more pixels than the limit allows or memory holds."""


class PhotoWriteError(PhotoError):
    """A restored photo could not be written; nothing is left under its name."""


class TrainingDivergedError(GfprestoreError):
    """The losses of a training are no numbers, and going back with lower rates did not help."""


class TrainingInterruptedError(GfprestoreError):
    """A training was stopped; its checkpoint is written."""

    exit_code = ExitCode.INTERRUPTED


class MetricUnavailable(GfprestoreError):  # noqa: N818 (a state of this machine, no fault)
    """A metric cannot be computed here; the others can.

    Args:
        label: The metric, for people.
        reason: What is missing, as a sentence.
        remedy: The command that gets it, as a sentence; empty where the reason names it.
    """

    exit_code = ExitCode.WEIGHTS

    def __init__(self, label: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{label} is unavailable: {reason} {remedy}".rstrip())
        self.reason = reason
        self.remedy = remedy
