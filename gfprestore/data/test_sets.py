"""Test sets of the field by name, and any folder as a test set.

A set is a folder with `lq/` and optionally `gt/`; a set without a gt may also be flat. Images correspond if their paths
within these folders are equal without the suffix. The sets are not downloaded. Their authors offer them on the page
below (named in the repositories of GFP-GAN and CodeFormer) without a checksum. Therefore the number of images is
checked here, and every report contains the checksum of the files.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gfprestore.data.degrade_folder import read_pairs
from gfprestore.data.image_folders import images_in
from gfprestore.data.images import image_name
from gfprestore.data.pair_folders import GT, LQ, read_description
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.photo.reading import photo_size
from gfprestore.weights.store import user_folder

Alignment = Literal["auto", "aligned", "photo"]

PAGE = "https://xinntao.github.io/projects/gfpgan"
REPOSITORY = "https://github.com/TencentARC/GFPGAN"
ALIGNED_SIDE = 512

CHECKSUM_RULE = (
    "SHA-256 over one line per image, sorted by the bytes of the line: `lq` or `gt`, the name without suffix, and the "
    "SHA-256 of the file, separated by tabs and ended by a line feed"
)


@dataclass(frozen=True)
class KnownSet:
    """A published test set.

    Attributes:
        name: Name in `--set`.
        title: Name in the papers.
        count: Number of images.
        has_gt: Whether it is synthetic and has a gt.
        about: Description in one sentence.
        preset: Preset of `gfprestore degrade` that makes it from the originals of CelebA-Test; empty for a set that its
            authors offer.
    """

    name: str
    title: str
    count: int
    has_gt: bool
    about: str
    preset: str = ""

    @property
    def advice(self) -> str:
        """Instructions to download or make, and store the set."""
        folder = default_folder(self.name)
        if self.preset:
            return (
                f"{self.title} has {self.count} images and is made from the originals of CelebA-Test ({PAGE}). Run "
                f"`gfprestore degrade ORIGINALS -o {folder} --seed 0 --preset {self.preset}`, or use another folder "
                "with --data."
            )
        place = f"the inputs into {folder / LQ} and the originals into {folder / GT}"
        if not self.has_gt:
            place = f"the images into {folder}"
        return (
            f"{self.title} has {self.count} images. Its authors offer it on {PAGE} (code: {REPOSITORY}). "
            f"Put {place}, or use another folder with --data."
        )


KNOWN_SETS: dict[str, KnownSet] = {
    known.name: known
    for known in (
        KnownSet(
            "celeba-test",
            "CelebA-Test",
            3000,
            True,
            "Faces of CelebA-HQ's test part, aligned, 512 pixels, degraded synthetically; with gt.",
        ),
        KnownSet(
            "celeba-test-sr4",
            "CelebA-Test, 4x super-resolution",
            3000,
            True,
            "The originals of CelebA-Test, reduced to 128 pixels and enlarged to 512 again, both bicubically.",
            preset="celeba-test-sr4",
        ),
        KnownSet(
            "lfw-test",
            "LFW-Test",
            1711,
            False,
            "The first photo of each person in LFW's validation part; whole photos of 250 pixels or aligned crops.",
        ),
        KnownSet("celebchild-test", "CelebChild-Test", 180, False, "Childhood photos of celebrities, aligned crops."),
        KnownSet("webphoto-test", "WebPhoto-Test", 407, False, "Faces of old photos from the internet, aligned crops."),
    )
}


@dataclass(frozen=True)
class TestSet:
    """Images to restore and their ground truth.

    Attributes:
        name: Name of the known set or of the folder.
        folder: Folder of the set; None if only folders of images were given.
        names: Names of the images, in natural order.
        lq: Inputs by name.
        gt: Originals by name.
        known: The known set, if it is one.
        whole_photos: Whether the inputs are whole photos, whose face nearest the center must be aligned first.
        description: Description written by `gfprestore degrade`, if any.
        degradation: Drawn values of each image by name, if `gfprestore degrade` created the set.
        warnings: Problems of the set.
    """

    name: str
    folder: Path | None
    names: tuple[str, ...]
    lq: dict[str, Path]
    gt: dict[str, Path]
    known: KnownSet | None = None
    whole_photos: bool = False
    description: dict[str, Any] | None = None
    degradation: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def expected(self) -> int | None:
        """Expected number of images; None if unknown."""
        if self.known is not None:
            return self.known.count
        count = None if self.description is None else self.description.get("count")
        return count if isinstance(count, int) else None


def default_folder(name: str) -> Path:
    """Folder of a known set without `--data`: beside the user's folder of weights."""
    return user_folder().parent / "testsets" / name


def open_test_set(
    name: str,
    data: Path | None = None,
    lq: Path | None = None,
    gt: Path | None = None,
    alignment: Alignment = "auto",
) -> TestSet:
    """Find the images of a set and check their number.

    Args:
        name: A key of `KNOWN_SETS`, or a folder.
        data: Folder of the known set, or its parent folder.
        lq: Folder of inputs that replaces that of the set.
        gt: Folder of originals that replaces that of the set.
        alignment: Whether the inputs are `aligned` crops or whole `photo`s. `auto` means crops, except for LFW-Test
            with images of other sizes than 512 pixels.

    Raises:
        UsageError: The set is unknown.
        FolderError: The folder does not exist, cannot be read, or has no images.
    """
    known = KNOWN_SETS.get(name)
    folder = Path(name) if known is None else _folder_of(known, data)
    if known is None and not folder.is_dir():
        raise UsageError(
            f"--set {name} is neither a folder nor a known test set. Known sets: {', '.join(KNOWN_SETS)}, deepfrr. "
            "Any folder of faces can be a set; with subfolders lq/ and gt/ it has a ground truth."
        )
    if known is not None and not folder.is_dir():
        raise FolderError(f"{known.name} is missing: {folder} does not exist. {known.advice}")
    has_parts = (folder / LQ).is_dir()
    inputs, warnings = list_named(lq or (folder / LQ if has_parts else folder))
    originals_folder = gt or (folder / GT if (folder / GT).is_dir() else None)
    originals, more = ({}, []) if originals_folder is None else list_named(originals_folder)
    if not has_parts and lq is None and gt is None and originals_folder is not None:
        raise FolderError(f"{folder} has gt/ but no lq/. Name the inputs with --lq, or put them into {folder / LQ}.")
    if not inputs:
        advice = known.advice if known else "Use another folder."
        raise FolderError(f"There are no images in {lq or folder}. {advice}")
    own = lq is None
    found = TestSet(
        name=known.name if known else folder.resolve().name,
        folder=folder,
        names=tuple(inputs),
        lq=inputs,
        gt=originals,
        known=known,
        whole_photos=_are_whole_photos(known, inputs.values(), alignment),
        description=read_description(folder) if own else None,
        degradation={pair.name: pair.parameters for pair in read_pairs(folder)} if own else {},
    )
    warnings += more + _count_warnings(found) + _preset_warnings(found) + _gt_warnings(found)
    return replace(found, warnings=tuple(warnings))


def folders_as_set(restored: Path, lq: Path | None, gt: Path | None) -> TestSet:
    """Build a set for `--restored` from the images of the gt, else of the inputs, else of the restored folder.

    Raises:
        FolderError: A folder cannot be read or has no images.
    """
    (inputs, of_lq), (originals, of_gt) = (({}, []) if part is None else list_named(part) for part in (lq, gt))
    for option, folder, found in (("--lq", lq, inputs), ("--gt", gt, originals)):
        if folder is not None and not found:
            raise FolderError(f"There are no images in {folder}. Use another folder with {option}.")
    names = tuple(originals or inputs or list_named(restored)[0])
    test_set = TestSet((gt or lq or restored).resolve().name, None, names, inputs, originals)
    return replace(test_set, warnings=(*of_lq, *of_gt, *_gt_warnings(test_set)))


def list_named(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Images of a folder by name, in natural order, and warnings about files with the same name.

    Raises:
        FolderError: The folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder. Check the name.")
    named: dict[str, Path] = {}
    doubles = []
    for path in images_in(folder):
        first = named.setdefault(image_name(path, folder), path)
        if first is not path:
            doubles.append(f"{path} is skipped: it has the same name as {first}, apart from the suffix.")
    return named, doubles


def file_list_checksum(hashes: Mapping[tuple[str, str], str]) -> str:
    """Checksum of a set according to `CHECKSUM_RULE`.

    Args:
        hashes: SHA-256 of each file by (`lq` or `gt`, name).
    """
    lines = [f"{part}\t{name}\t{digest}\n" for (part, name), digest in hashes.items()]
    return hashlib.sha256(b"".join(sorted(line.encode("utf-8", "surrogateescape") for line in lines))).hexdigest()


def _folder_of(known: KnownSet, data: Path | None) -> Path:
    if data is None:
        return default_folder(known.name)
    return data / known.name if (data / known.name).is_dir() else data


def _are_whole_photos(known: KnownSet | None, paths: Iterable[Path], alignment: Alignment) -> bool:
    """Whether the faces must be aligned first; damaged files are ignored here and reported when they are read."""
    if alignment != "auto":
        return alignment == "photo"
    if known is None or known.name != "lfw-test":
        return False
    for path in paths:
        with contextlib.suppress(PhotoError):
            if photo_size(path) != (ALIGNED_SIDE, ALIGNED_SIDE):
                return True
    return False


def _count_warnings(found: TestSet) -> list[str]:
    if found.expected is None or len(found.lq) == found.expected:
        return []
    return [
        f"{found.name} has {len(found.lq)} images in {found.folder}, but should have {found.expected}. The scores are "
        "not comparable with published ones."
    ]


def _preset_warnings(found: TestSet) -> list[str]:
    made_with = None if found.description is None else found.description.get("preset")
    if found.known is None or not found.known.preset or made_with in (None, found.known.preset):
        return []
    return [f"{found.folder} was made with the preset {made_with}, not {found.known.preset}."]


def _gt_warnings(found: TestSet) -> list[str]:
    """Warnings about inputs without a gt and the reverse; none for a set without any gt."""
    if not found.gt:
        return [f"{found.name} should have a ground truth, but has none."] if found.known and found.known.has_gt else []
    without = [name for name in found.names if name not in found.gt]
    unmatched = [name for name in found.gt if found.lq and name not in found.lq]
    warnings = []
    if without:
        warnings.append(
            f"{len(without)} images have no ground truth and are skipped by metrics that need it: {listed(without)}."
        )
    if unmatched:
        warnings.append(f"{len(unmatched)} images of the ground truth have no input: {listed(unmatched)}.")
    return warnings


def listed(names: Iterable[str], most: int = 5) -> str:
    """List the first few names and the number of the others."""
    all_names = list(names)
    shown = ", ".join(all_names[:most])
    return shown if len(all_names) <= most else f"{shown} and {len(all_names) - most} more"
