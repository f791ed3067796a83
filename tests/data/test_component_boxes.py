"""Boxes of eyes and mouth: the rules on synthetic faces, mirroring, and the files of FFHQ."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gfprestore.data.component_boxes import (
    COMPONENT_FILE,
    LANDMARK_FILE,
    boxes_from_68,
    boxes_from_five,
    known_boxes,
    mirrored_boxes,
    number_of,
    read_component_file,
    read_landmark_file,
    unknown_boxes,
)
from gfprestore.errors import FolderError


def drawn_face(size: int = 512) -> NDArray[np.float64]:
    """68 points: eyes 50 pixels wide around (190, 240) and (320, 240), a mouth 104 wide around (256, 370), at 512."""
    points = np.full((68, 2), 256.0)
    turn = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    for first, center in ((36, (190, 240)), (42, (320, 240))):
        points[first : first + 6] = np.stack([25 * np.cos(turn), 9 * np.sin(turn)], axis=1) + center
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    points[48:] = np.stack([52 * np.cos(turn), 20 * np.sin(turn)], axis=1) + (256, 370)
    return (points + 0.5) * size / 512 - 0.5


def test_boxes_of_68_landmarks_are_squares_around_the_parts_the_eyes_enlarged() -> None:
    left, right, mouth = boxes_from_68(drawn_face(), 512).tolist()
    assert left == pytest.approx([190.5 - 35, 240.5 - 35, 190.5 + 35, 240.5 + 35])  # half of 50, times 1.4
    assert right == pytest.approx([320.5 - 35, 240.5 - 35, 320.5 + 35, 240.5 + 35])
    assert mouth == pytest.approx([256.5 - 52, 370.5 - 52, 256.5 + 52, 370.5 + 52])


def test_boxes_agree_with_the_official_ones_to_a_pixel() -> None:
    """Official boxes: center and half side from the same points, and edges from mean - half + 1 to mean + half."""
    points = drawn_face()
    boxes = boxes_from_68(points, 512)
    for box, part, enlargement in zip(boxes, (points[36:42], points[42:48], points[48:68]), (1.4, 1.4, 1), strict=True):
        mean, half = part.mean(axis=0), enlargement * max(np.ptp(part[:, 0]) / 2, np.ptp(part[:, 1]) / 2, 16)
        official = np.concatenate([mean - half + 1, mean + half])
        assert np.abs(box - official).max() <= 1


def test_tiny_parts_get_the_smallest_box() -> None:
    points = drawn_face()
    points[42:48] = (320, 240)
    left, top, right, bottom = boxes_from_68(points, 512)[1]
    assert (right - left, bottom - top) == pytest.approx((2 * 16 * 1.4, 2 * 16 * 1.4))


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_boxes_grow_with_the_image(size: int) -> None:
    five = np.array([[190, 240], [320, 240], [256, 310], [200, 370], [312, 370]], np.float64)
    for rule, points in ((boxes_from_68, drawn_face()), (boxes_from_five, five)):
        grown = (points + 0.5) * size / 512 - 0.5
        assert rule(grown, size) == pytest.approx(rule(points, 512) * size / 512, rel=1e-5)


def test_boxes_of_five_landmarks_lie_on_them_and_agree_with_those_of_68() -> None:
    five = np.array([[190, 240], [320, 240], [256, 310], [204, 370], [308, 370]], np.float64)
    boxes = boxes_from_five(five, 512)
    centers = np.array([[190.5, 244], [320.5, 244], [256.5, 370.5]])
    assert (boxes[:, :2] + boxes[:, 2:]) / 2 == pytest.approx(centers)
    assert np.abs(boxes - boxes_from_68(drawn_face() + (0, 3.5), 512)).max() <= 4
    wide = boxes_from_five(five + np.array([[0, 0], [0, 0], [0, 0], [-20, 0], [20, 0]]), 512)
    assert wide[2, 2] - wide[2, 0] == pytest.approx(144)
    narrow = boxes_from_five(five + np.array([[0, 0], [0, 0], [0, 0], [40, 0], [-40, 0]]), 512)
    assert narrow[2, 2] - narrow[2, 0] == pytest.approx(98)


def test_mirrored_boxes_are_those_of_the_mirrored_landmarks() -> None:
    points = drawn_face() + np.linspace(0, 3, 68)[:, None]
    mirrored = points.copy()
    mirrored[:, 0] = 511 - mirrored[:, 0]
    mirrored[36:48] = np.concatenate([mirrored[42:48], mirrored[36:42]])
    boxes = boxes_from_68(points, 512)
    kept = boxes.copy()
    assert mirrored_boxes(boxes, 512) == pytest.approx(boxes_from_68(mirrored, 512), abs=1e-3)
    assert np.array_equal(boxes, kept), "the table is shared, so it must stay as it is"
    assert mirrored_boxes(mirrored_boxes(boxes, 512), 512) == pytest.approx(boxes, abs=1e-3)


def test_unknown_boxes_stay_unknown() -> None:
    assert unknown_boxes().shape == (3, 4)
    assert np.isnan(mirrored_boxes(unknown_boxes(), 512)).all()


def component_table(kind: str) -> dict[str, Any]:
    numbers = {"left_eye": (190.0, 240.0, 25.0), "right_eye": (320.0, 240.0, 24.0), "mouth": (256.0, 370.0, 52.0)}
    make: dict[str, Any] = {
        "arrays": lambda values: np.array(values),
        "single": lambda values: np.array(values, np.float32),
        "scalars": lambda values: [np.float64(value) for value in values],
        "tensors": lambda values: torch.tensor(values),
        "numbers": list,
        "mixed": lambda values: [*np.array(values[:2]), int(values[2])],
    }
    return {f"{index:08d}": {part: make[kind](values) for part, values in numbers.items()} for index in (0, 7)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "single", "scalars", "tensors", "numbers", "mixed"])
def test_the_official_component_file_is_read_with_all_number_types(tmp_path: Path, kind: str, zipped: bool) -> None:
    path = tmp_path / COMPONENT_FILE
    torch.save(component_table(kind), path, _use_new_zipfile_serialization=zipped)
    table = read_component_file(path)
    assert sorted(table) == [0, 7]
    expected = [[155.5, 205.5, 225.5, 275.5], [286.9, 206.9, 354.1, 274.1], [204.5, 318.5, 308.5, 422.5]]
    assert table[7] * 512 == pytest.approx(np.array(expected), abs=1e-3)


def test_a_component_file_written_with_numpy_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / COMPONENT_FILE
    torch.save(component_table("mixed"), path)
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            target.writestr(entry, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    with zipfile.ZipFile(old) as archive:
        (stream,) = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    names = {argument for code, argument, _ in pickletools.genops(stream) if code.name == "GLOBAL"}
    assert "numpy.core.multiarray scalar" in names
    assert read_component_file(old)[0] == pytest.approx(read_component_file(path)[0])


class Opened:
    """An object that would create a folder when unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_code_in_a_component_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / COMPONENT_FILE
    torch.save({"00000000": Opened(tmp_path / "broken-in")}, path)
    with pytest.raises(FolderError, match=COMPONENT_FILE):
        read_component_file(path)
    path.write_bytes(pickle.dumps({"00000000": Opened(tmp_path / "broken-in")}))
    with pytest.raises(FolderError):
        read_component_file(path)
    assert not (tmp_path / "broken-in").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"{}", b"\x80\x02}"])
def test_a_damaged_file_of_ffhq_is_an_error_with_its_name(tmp_path: Path, content: bytes) -> None:
    components = tmp_path / "a.pth"
    components.write_bytes(content)
    with pytest.raises(FolderError, match=r"a\.pth"):
        read_component_file(components)
    landmarks = tmp_path / "b.json"
    landmarks.write_bytes(content or b"[1]")
    if content != b"{}":
        with pytest.raises(FolderError, match=r"b\.json"):
            read_landmark_file(landmarks)
    torch.save({"00000000": {"left_eye": [1.0, 2.0, 3.0]}}, components)
    with pytest.raises(FolderError, match="KeyError"):
        read_component_file(components)


def test_the_landmark_file_of_ffhq_gives_the_boxes_of_its_68_points(tmp_path: Path) -> None:
    entry = {"image": {"file_path": "images1024x1024/00000/00003.png", "face_landmarks": drawn_face(1024).tolist()}}
    path = tmp_path / LANDMARK_FILE
    path.write_text(json.dumps({"3": entry}))
    boxes = read_landmark_file(path)
    assert boxes[3] * 512 == pytest.approx(boxes_from_68(drawn_face(512), 512), abs=1e-3)


def test_files_of_ffhq_are_found_in_the_folder_and_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "ffhq_512"
    folder.mkdir()
    assert known_boxes(folder) == {}
    torch.save(component_table("arrays"), tmp_path / COMPONENT_FILE)
    assert sorted(known_boxes(folder)) == [0, 7]
    with pytest.raises(FolderError, match="missing.pth"):
        known_boxes(folder, tmp_path / "missing.pth")


def test_numbers_of_images_come_from_their_names() -> None:
    names = ["00000007.png", "07.jpg", "face.png", "٣.png", "-3.png", ".png"]
    assert [number_of(Path(name)) for name in names] == [7, 7, -1, -1, -1, -1]


def hand_placed() -> list[dict[str, NDArray[np.float64]]]:
    """Faces with landmarks set by hand, by dlib and by the detector; see tests/golden/README.md."""
    stored = json.loads((Path(__file__).parents[1] / "golden" / "component_points.json").read_text())
    return [{name: np.reshape(face[name], (-1, 2)) for name in ("by_hand", "dlib", "detected")} for face in stored]


def as_68(eyes_and_mouth: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.full((36, 2), 256.0), eyes_and_mouth])


@pytest.mark.parametrize(
    ("rule", "center_errors", "side_errors"),
    [
        (lambda face: boxes_from_five(face["detected"], 512), (2.5, 2.5, 4.8), (4, 4, 11)),
        (lambda face: boxes_from_68(as_68(face["dlib"]), 512), (2.0, 1.5, 3.0), (8, 8, 4)),
    ],
    ids=["five landmarks", "68 landmarks"],
)
def test_boxes_lie_where_points_set_by_hand_put_them(
    rule: Any, center_errors: tuple[float, ...], side_errors: tuple[float, ...]
) -> None:
    """Mean errors in pixels at 512 of left eye, right eye and mouth, whose boxes are about 75, 75 and 105 wide."""
    faces = hand_placed()
    boxes = np.array([rule(face) for face in faces])
    truth = np.array([boxes_from_68(as_68(face["by_hand"]), 512) for face in faces])
    centers, true_centers = (part[..., :2] + part[..., 2:] for part in (boxes, truth))
    errors = np.linalg.norm(centers - true_centers, axis=2).mean(axis=0) / 2
    sides = np.abs((boxes[..., 2] - boxes[..., 0]) - (truth[..., 2] - truth[..., 0])).mean(axis=0)
    assert (errors < center_errors).all(), errors
    assert (sides < side_errors).all(), sides
