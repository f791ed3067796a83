"""The test sets of the field by name, and any folder as one.

A set lies in a folder as `lq/` and, where it has one, `gt/`; a set without a gt may also lie flat. Images belong
together by their path within these folders without the suffix. None of the sets is downloaded: their authors offer them
on the page named below (said by the authors of GFP-GAN and CodeFormer in their repositories), without a checksum, so
the count is checked here and the checksum of the files goes into every report.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gfprestore.data.degrade_folder import GT, LQ, read_description, read_pairs
from gfprestore.data.image_folders import images_in
from gfprestore.data.images import image_name
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.photo.reading import photo_size
from gfprestore.weights.store import user_folder

Alignment = Literal["auto", "aligned", "photo"]

PAGE = "https://xinntao.github.io/projects/gfpgan"
REPOSITORY = "https://github.com/TencentARC/GFPGAN"
ALIGNED_SIDE = 512

CHECKSUM_RULE = (
    "SHA-256 over one line an image, sorted by the line's bytes: `lq` or `gt`, the name without suffix, the SHA-256 "
    "of the file, separated by tabs and ended by a line feed"
)


@dataclass(frozen=True)
class KnownSet:
    """A test set of the papers.

    Attributes:
        name: What `--set` calls it.
        title: What the papers call it.
        count: Images it has.
        has_gt: It is synthetic and has a gt.
        about: What it is, in a sentence.
    """

    name: str
    title: str
    count: int
    has_gt: bool
    about: str

    @property
    def advice(self) -> str:
        """Where to get it and how to lay it out."""
        parts = "the inputs in lq/ and the originals in gt/" if self.has_gt else "the images in it, or in lq/"
        return (
            f"{self.title} has {self.count} images. Its authors offer it on {PAGE} (code: {REPOSITORY}). Put it into "
            f"{default_folder(self.name)}, {parts}, or name its folder with --data."
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
    """Images to restore and what they should look like.

    Attributes:
        name: Of a known set, else the folder's name.
        folder: Where it lies; None where only folders of images were named.
        names: The images of the set, in natural order.
        lq: Inputs by name.
        gt: Originals by name.
        known: The known set, where it is one.
        whole_photos: The inputs are whole photos, whose face nearest the center is aligned first.
        description: What `gfprestore degrade` wrote about the set.
        degradation: What was drawn for each image, by name, where `gfprestore degrade` made the set.
        warnings: What is not as it should be.
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
        """Images that the set should have; None where nobody knows."""
        if self.known is not None:
            return self.known.count
        count = None if self.description is None else self.description.get("count")
        return count if isinstance(count, int) else None


def default_folder(name: str) -> Path:
    """Where a named set is looked for without `--data`: beside the user's folder of weights."""
    return user_folder().parent / "testsets" / name


def open_test_set(
    name: str,
    data: Path | None = None,
    lq: Path | None = None,
    gt: Path | None = None,
    alignment: Alignment = "auto",
) -> TestSet:
    """Finds the images of a set and checks their number.

    Args:
        name: A key of `KNOWN_SETS`, or a folder.
        data: The folder of the named set, or the folder that its folder lies in.
        lq: Inputs in place of the set's own.
        gt: Originals in place of the set's own.
        alignment: Whether the inputs are `aligned` crops or whole `photo`s; `auto` takes them for crops, but those of
            LFW-Test for photos where they are not all of 512 pixels.

    Raises:
        UsageError: No set is called so.
        FolderError: The folder is not there, cannot be read, or has no images.
    """
    known = KNOWN_SETS.get(name)
    folder = Path(name) if known is None else _folder_of(known, data)
    if known is None and not folder.is_dir():
        raise UsageError(
            f"--set {name} is neither a folder nor a known test set. Known are: {', '.join(KNOWN_SETS)}. "
            "Any other folder of faces is a set too; with lq/ and gt/ in it, it has a gt."
        )
    if known is not None and not folder.is_dir():
        raise FolderError(f"{known.name} is not in {folder}. {known.advice}")
    has_parts = (folder / LQ).is_dir()
    inputs, warnings = list_named(lq or (folder / LQ if has_parts else folder))
    originals_folder = gt or (folder / GT if (folder / GT).is_dir() else None)
    originals, more = ({}, []) if originals_folder is None else list_named(originals_folder)
    if not has_parts and lq is None and gt is None and originals_folder is not None:
        raise FolderError(f"{folder} has gt/ and no lq/. Name the inputs with --lq, or put them into {folder / LQ}.")
    if not inputs:
        advice = known.advice if known else "Name another folder."
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
    warnings += more + _count_warnings(found) + _gt_warnings(found)
    return replace(found, warnings=tuple(warnings))


def folders_as_set(restored: Path, lq: Path | None, gt: Path | None) -> TestSet:
    """A set of what was named beside `--restored`: the images of the gt, else of the inputs, else the restored ones.

    Raises:
        FolderError: A folder cannot be read or has no images.
    """
    (inputs, of_lq), (originals, of_gt) = (({}, []) if part is None else list_named(part) for part in (lq, gt))
    for option, folder, found in (("--lq", lq, inputs), ("--gt", gt, originals)):
        if folder is not None and not found:
            raise FolderError(f"There are no images in {folder}. Name another folder with {option}.")
    names = tuple(originals or inputs or list_named(restored)[0])
    test_set = TestSet((gt or lq or restored).resolve().name, None, names, inputs, originals)
    return replace(test_set, warnings=(*of_lq, *of_gt, *_gt_warnings(test_set)))


def list_named(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The images of a folder by name, in natural order, and a word on names that two files share.

    Raises:
        FolderError: The folder is not there or cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder. Check the name.")
    named: dict[str, Path] = {}
    doubles = []
    for path in images_in(folder):
        first = named.setdefault(image_name(path, folder), path)
        if first is not path:
            doubles.append(f"{path} has the name of {first} but for the suffix and is left out.")
    return named, doubles


def file_list_checksum(hashes: Mapping[tuple[str, str], str]) -> str:
    """The checksum of a set by `CHECKSUM_RULE`.

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
    """Whether faces must be aligned first; of a damaged file nothing is known, and it will be told when it is read."""
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
        f"{found.name} has {len(found.lq)} images in {found.folder} and should have {found.expected}: scores are "
        "those of another set."
    ]


def _gt_warnings(found: TestSet) -> list[str]:
    """Inputs without a gt, named; a set that has none at all needs no word."""
    if not found.gt:
        return [f"{found.name} should have a gt and has none."] if found.known and found.known.has_gt else []
    without = [name for name in found.names if name not in found.gt]
    alone = [name for name in found.gt if found.lq and name not in found.lq]
    warnings = []
    if without:
        warnings.append(f"{len(without)} images have no gt and are left out of what needs one: {listed(without)}.")
    if alone:
        warnings.append(f"{len(alone)} images of the gt have no input: {listed(alone)}.")
    return warnings


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    everyone = list(names)
    shown = ", ".join(everyone[:most])
    return shown if len(everyone) <= most else f"{shown} and {len(everyone) - most} more"
