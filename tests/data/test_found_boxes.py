"""Component boxes that a training finds itself: their places, their index, and what is searched again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import DOTTED_SIDE, PLACES, DotFinder, marked_face
from numpy.typing import NDArray
from samples import save

from gfprestore.data.found_boxes import INDEX_NAME, BoxIndex, check_found
from gfprestore.errors import FolderError
from gfprestore.faces.detection import DetectedFace


class CountingFinder(DotFinder):
    def __init__(self) -> None:
        self.seen = 0

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        self.seen += 1
        return super().detect(pixels)


@pytest.fixture
def faces(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "data" / "part" / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        save(path, marked_face(number, PLACES + number - 2))
    return paths


def search(index: BoxIndex, paths: list[Path], finder: DotFinder) -> None:
    index.search([path for path in paths if path not in index.boxes(paths)], finder, None, lambda done, total: None)


def test_the_boxes_are_around_eyes_and_mouth(faces: list[Path], tmp_path: Path) -> None:
    index = BoxIndex(tmp_path / "data", tmp_path / "out")
    search(index, faces, DotFinder())
    found = BoxIndex(tmp_path / "data", tmp_path / "out").boxes(faces)
    for number, path in enumerate(faces):
        boxes = found[path]
        assert boxes is not None
        places = PLACES + number - 2
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2 * DOTTED_SIDE
        expected = np.stack([places[0], places[1], (places[3] + places[4]) / 2]) + 0.5
        expected[:2, 1] += 3.5 * DOTTED_SIDE / 512  # the middle of the eyelids lies below the pupil
        assert np.abs(centers - expected).max() < 0.5
        sides = (boxes[:, 2:] - boxes[:, :2]) * DOTTED_SIDE
        assert sides == pytest.approx(np.repeat([[18.55], [18.55], [27.9]], 2, axis=1), abs=0.8)


def test_an_interrupted_search_resumes_and_changed_images_are_searched_again(faces: list[Path], tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise StoppedError

    finder = CountingFinder()
    index = BoxIndex(tmp_path / "data", tmp_path / "out")
    with pytest.raises(StoppedError):
        index.search(faces, finder, None, stop)
    with index.path.open("ab") as stream:
        stream.write(b'{"file": "part/4.png", "bytes": 1')  # killed while it wrote a line
    again = BoxIndex(tmp_path / "data", tmp_path / "out")
    assert set(again.boxes(faces)) == set(faces[:2])
    search(again, faces, finder)
    assert finder.seen == 5
    save(faces[0], marked_face(77))
    last = BoxIndex(tmp_path / "data", tmp_path / "out")
    assert set(last.boxes(faces)) == set(faces[1:])
    search(last, faces, finder)
    assert finder.seen == 6
    assert len(BoxIndex(tmp_path / "data", tmp_path / "out").boxes(faces)) == 5


def test_processes_share_the_search_and_read_what_the_others_found(faces: list[Path], tmp_path: Path) -> None:
    for rank in range(2):
        own = BoxIndex(tmp_path / "data", tmp_path / "out", rank)
        own.search(faces[rank::2], DotFinder(), None, lambda done, total: None)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["component-boxes-1.jsonl", INDEX_NAME]
    index = BoxIndex(tmp_path / "data", tmp_path / "out", 1)
    assert set(index.boxes(faces)) == set(faces)


def test_images_without_an_aligned_face_have_no_boxes_and_too_many_of_them_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    save(folder / "turned.png", marked_face(0)[::-1])
    save(folder / "empty.png", np.full((128, 128, 3), 90, np.uint8))
    save(folder / "wide.png", np.concatenate([marked_face(1)] * 2, axis=1))
    (folder / "damaged.png").write_bytes(b"no image")
    save(folder / "good.png", marked_face(2))
    paths = sorted(folder.iterdir())
    index = BoxIndex(folder, tmp_path / "out")
    search(index, paths, DotFinder())
    index.reload()
    found = index.boxes(paths)
    assert [path.name for path, boxes in found.items() if boxes is not None] == ["good.png"]
    assert json.loads(index.path.read_text().splitlines()[0])["boxes"] is None
    with pytest.raises(FolderError, match="Only 1 of 5 images .*`gfprestore prepare "):
        check_found(found, folder)
    check_found({path: boxes for path, boxes in found.items() if path.stem in ("good", "empty")}, folder)
