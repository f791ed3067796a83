"""A user study as a static page: pairs of results, blind, in random order; votes are saved as a JSON file by download.

The FRRffusion paper asked 85 people and its readable part does not describe the protocol. Ours: two results of one
image by two methods beside the original, and a forced choice of the one that looks more like the original, because
reversal is to bring a certain face back and not a handsome one. Without originals the question is which one looks more
like a photo that was not retouched. Each voter sees a random part of all questions, and the sides are random.

The folder of a study has `page/`, which is given to the voters, and `key.json`, which says which image is whose and is
not. Image files have random names, the same size and no metadata, so that nothing tells the methods apart.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfprestore.batch.output_folder import create_folder_within, prepare_output
from gfprestore.data.images import Pixels, read_pixels, write_png
from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation.html_report import open_template
from gfprestore.evaluation.report import MethodReport
from gfprestore.files import write_whole
from gfprestore.pixels import resized

TEMPLATE = "study.html.j2"
PAGE_FOLDER, IMAGE_FOLDER, KEY_NAME = "page", "images", "key.json"
KEY_FORMAT, VERSION = "gfprestore-study", 1
LARGEST_SIDE = 512
QUESTIONS_PER_VOTER = 60

Images = Mapping[str, Path]


@dataclass(frozen=True)
class Question:
    """One question: two results of the same image.

    Attributes:
        image: Name of the image.
        methods: Method of each shown file, by its random name.
    """

    image: str
    methods: Mapping[str, str]


@dataclass(frozen=True)
class StudyKey:
    """What the page hides.

    Attributes:
        study: Random name of the study.
        methods: Names of the methods.
        reference: The originals were shown.
        questions: Questions by random name.
    """

    study: str
    methods: tuple[str, ...]
    reference: bool
    questions: Mapping[str, Question]


def write_study(
    folder: Path,
    methods: Mapping[str, Images],
    originals: Images,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> StudyKey:
    """Write a study; every pair of methods is compared on every image that both have.

    Args:
        folder: Folder of the study; new or empty.
        methods: Images of each method by name.
        originals: Originals by name; images without one are left out, unless there are none at all.
        on_progress: Called with the number of finished images and their total.

    Returns:
        The key, as written.

    Raises:
        UsageError: There are fewer than two methods, or no image that two of them have.
        FolderError: The folder holds a study or other files, or cannot be written.
        PhotoError: An image cannot be read.
    """
    check_new(folder)
    names = _names(methods, originals)
    prepare_output(folder)
    images = folder / PAGE_FOLDER / IMAGE_FOLDER
    create_folder_within(images, folder)
    questions: dict[str, Question] = {}
    shown: list[dict[str, Any]] = []
    for number, name in enumerate(names, 1):
        owners = [method for method in methods if name in methods[method]]
        size = _size(originals[name] if originals else methods[owners[0]][name])
        tokens = {method: _show(methods[method][name], size, images) for method in owners}
        original = _show(originals[name], size, images) if originals else None
        for pair in itertools.combinations(owners, 2):
            token = secrets.token_hex(8)
            files = sorted(tokens[method] for method in pair)
            questions[token] = Question(name, {tokens[method]: method for method in pair})
            shown.append({"question": token, "images": files, "original": original})
        on_progress(number, len(names))
    key = StudyKey(secrets.token_hex(8), tuple(methods), bool(originals), questions)
    shown.sort(key=lambda entry: str(entry["question"]))  # random names: the order tells nothing
    page = open_template(TEMPLATE).render(
        study={"study": key.study, "perVoter": QUESTIONS_PER_VOTER, "questions": shown}, reference=key.reference
    )
    write_whole(folder / KEY_NAME, (json.dumps(_key_json(key), indent=1) + "\n").encode("ascii"))
    write_whole(folder / PAGE_FOLDER / "index.html", page.encode("utf-8"))
    return key


def check_new(folder: Path) -> None:
    """Check that a study can be written to a folder, before the work that it needs.

    Raises:
        FolderError: The folder holds a study or other files.
    """
    if (folder / KEY_NAME).exists():
        raise FolderError(
            f"{folder} holds a study already, whose votes would be lost. Use another folder with --study."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderError(f"{folder} is not empty. Use a new folder with --study.")


def methods_of(reports: Sequence[MethodReport], also: str | None = None) -> dict[str, dict[str, Path]]:
    """Images of evaluated methods by name.

    Args:
        reports: The methods to compare.
        also: Left out where there are two others.
    """
    found = {report.name: {entry.name: entry.restored for entry in report.subjects} for report in reports}
    if also in found and len(found) > 2:
        del found[also]
    return found


def read_key(folder: Path) -> StudyKey:
    """Read the key of a study.

    Raises:
        FolderError: It is missing or damaged.
    """
    path = folder / KEY_NAME
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != KEY_FORMAT or document["version"] != VERSION:
            raise ValueError("it is not the key of a study")
        questions = {
            str(token): Question(str(entry["image"]), {str(file): str(name) for file, name in entry["methods"].items()})
            for token, entry in document["questions"].items()
        }
        methods = tuple(str(name) for name in document["methods"])
        if any(len(entry.methods) != 2 or set(entry.methods.values()) - set(methods) for entry in questions.values()):
            raise ValueError("a question does not compare two of its methods")
        return StudyKey(str(document["study"]), methods, bool(document["reference"]), questions)
    except FileNotFoundError:
        raise FolderError(f"{path} does not exist. Name the folder that `eval --study` wrote.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FolderError(
            f"{path} cannot be used ({type(error).__name__}: {error}). Name the folder that `eval --study` wrote."
        ) from error


def _names(methods: Mapping[str, Images], originals: Images) -> list[str]:
    """Names of the images to show, in the order of the first method that has them."""
    if len(methods) < 2:
        raise UsageError(
            f"--study needs at least two methods, and there is {len(methods)}. Add images with --restored NAME=DIR."
        )
    all_names = dict.fromkeys(name for images in methods.values() for name in images)
    names = [
        name
        for name in all_names
        if sum(name in images for images in methods.values()) > 1 and (not originals or name in originals)
    ]
    if not names:
        raise UsageError("--study: no image exists for two methods. Check that their files have the same names.")
    return names


def _size(path: Path) -> tuple[int, int]:
    """Width and height at which an image and its results are shown."""
    height, width = read_pixels(path).pixels.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _show(path: Path, size: tuple[int, int], folder: Path) -> str:
    """Write an image under a random name and return that."""
    pixels: Pixels = np.asarray(resized(read_pixels(path).pixels, *size), np.uint8)
    token = secrets.token_hex(8)
    write_png(folder / f"{token}.png", pixels)
    return token


def _key_json(key: StudyKey) -> dict[str, Any]:
    return {
        "format": KEY_FORMAT,
        "version": VERSION,
        "study": key.study,
        "methods": list(key.methods),
        "reference": key.reference,
        "questions": {
            token: {"image": entry.image, "methods": dict(entry.methods)} for token, entry in key.questions.items()
        },
    }
