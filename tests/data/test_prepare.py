"""Creation of a training set: crops, rejected faces and reasons, interruption and resuming."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from doubles import logged
from numpy.typing import NDArray
from samples import pixels_of, save

from gfprestore.data import prepare as module
from gfprestore.data.degradation import PAPER
from gfprestore.data.dlib_landmarks import open_landmarks
from gfprestore.data.face_dataset import FaceDataset
from gfprestore.data.prepare import PrepareOptions, PrepareReport, face_sharpness, prepare
from gfprestore.data.prepared_index import IndexedPhoto, read_index
from gfprestore.errors import FolderError, PhotoWriteError, UsageError
from gfprestore.faces.alignment import FFHQ_TEMPLATE, align_face, face_turn
from gfprestore.faces.detection import DetectedFace, Detector
from gfprestore.faces.geometry import transformed
from gfprestore.faces.mtcnn import MTCNNDetector

SIZE = 64
OPTIONS = PrepareOptions(size=SIZE, min_sharpness=5)
TEMPLATE = (FFHQ_TEMPLATE + 0.5) * SIZE / 512 - 0.5


def photo(seed: int, side: int = 200) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC))


def face_at(x: float, y: float, scale: float = 1.5, turn: float = 0.0, score: float = 0.99) -> DetectedFace:
    """A face on the template, scaled by `scale`, centered at (x, y), with its nose shifted by `turn` eye distances."""
    points = (TEMPLATE - SIZE / 2) * scale + (x, y)
    points[2, 0] += turn * (points[1, 0] - points[0, 0])
    box = np.concatenate([points.min(axis=0) - 10, points.max(axis=0) + 10])
    return DetectedFace(box.astype(np.float32), points.astype(np.float32), score)


class KnowingDetector:
    """A detector that finds faces by the width of the photo, and counts its calls."""

    name = "knowing"
    default_threshold = 0.8

    def __init__(self, faces: dict[int, list[DetectedFace]], interrupt_at: int | None = None) -> None:
        self.faces = faces
        self.asked: list[int] = []
        self.interrupt_at = interrupt_at

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        width = pixels.shape[1]
        if width == self.interrupt_at:
            raise KeyboardInterrupt
        self.asked.append(width)
        return self.faces.get(width, [])


def run(source: Path, output: Path, detector: Detector, options: PrepareOptions = OPTIONS) -> PrepareReport:
    return prepare(source, output, options, lambda: detector, lambda _done, _all: None)


def never() -> Any:
    raise AssertionError("no detector is needed")


@pytest.fixture(autouse=True)
def five_landmarks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five landmarks everywhere, even if dlib is installed."""
    monkeypatch.setattr(module, "open_landmarks", lambda: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of widths 200 to 204, each with one good face; the last has two."""
    folder = tmp_path / "photos"
    for number in range(5):
        save(folder / f"{'abc'[number % 3]}" / f"{number}.png", photo(number, 200 + number))
    return folder


@pytest.fixture
def detector() -> KnowingDetector:
    faces = {200 + number: [face_at(100, 100)] for number in range(5)}
    faces[204].append(face_at(110, 102, 1.4))
    return KnowingDetector(faces)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def entries(output: Path) -> dict[str, IndexedPhoto]:
    return {entry.source: entry for entry in read_index(output)}


def test_a_real_face_is_cut_out_on_the_template_with_its_numbers(astronaut: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "photos" / "eileen.jpg", astronaut, quality=95)
    detector = MTCNNDetector()
    options = PrepareOptions(size=256, min_eye_distance=20, min_sharpness=5)
    report = run(tmp_path / "photos", tmp_path / "set", detector, options)
    assert (report.photos, report.faces, report.rejected, report.failed) == (1, 1, {}, ())
    (face,) = entries(tmp_path / "set")["eileen.jpg"].faces
    crop = pixels_of(tmp_path / "set" / face.file)
    assert crop.shape == (256, 256, 3)
    template = (FFHQ_TEMPLATE + 0.5) / 2 - 0.5
    assert np.abs(np.array(face.landmarks) - template).max() < 12
    (again,) = detector.detect(crop)
    assert np.abs(again.landmarks - np.array(face.landmarks)).max() < 5  # found anew in the crop
    assert 35 < face.eye_px < 50  # the eyes at about (205, 107) and (245, 107) of the photo
    boxes = np.array(face.boxes)
    centers = [again.landmarks[0], again.landmarks[1], again.landmarks[3:].mean(axis=0)]
    for box, center in zip(boxes, centers, strict=True):
        assert np.abs((box[:2] + box[2:]) / 2 - 0.5 - center).max() < 5
    assert (boxes[:, 2] - boxes[:, 0]) == pytest.approx([37.1, 37.1, 49], rel=0.35)


def test_the_crop_is_the_photo_seen_through_the_template(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png", photo(1))
    face = face_at(100, 100, scale=1.0)
    run(tmp_path / "photos", tmp_path / "set", KnowingDetector({200: [face]}))
    crop = pixels_of(tmp_path / "set" / "a.png-1.png").astype(float)
    expected = photo(1)[100 - SIZE // 2 :, 100 - SIZE // 2 :][:SIZE, :SIZE]
    assert np.abs(crop - expected).max() <= 1


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        (face_at(100, 100), None),
        (face_at(100, 100, turn=0.6), "turned"),
        (face_at(100, 100, turn=-0.6), "turned"),
        (face_at(100, 100, scale=0.7), "small"),
        (face_at(20, 100), "cut off"),
        (face_at(100, 100, score=0.5), "no face"),
    ],
)
def test_a_face_that_does_not_serve_is_counted_by_its_reason(
    tmp_path: Path, face: DetectedFace, reason: str | None
) -> None:
    save(tmp_path / "photos" / "a.png", photo(1))
    report = run(tmp_path / "photos", tmp_path / "set", KnowingDetector({200: [face]}))
    assert report.rejected == ({} if reason is None else {reason: 1})
    assert report.faces == (reason is None)
    assert len(list((tmp_path / "set").rglob("*.png"))) == report.faces


def test_a_blurred_face_is_rejected_and_the_thresholds_are_options(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "soft.png", np.asarray(cv2.GaussianBlur(photo(1), (0, 0), 8)))
    detector = KnowingDetector({200: [face_at(100, 100, turn=0.6)]})
    strict = PrepareOptions(size=SIZE, max_yaw=1.0)
    assert run(tmp_path / "photos", tmp_path / "set", detector, strict).rejected == {"blurred": 1}
    lenient = PrepareOptions(size=SIZE, max_yaw=1.0, min_sharpness=0)
    assert run(tmp_path / "photos", tmp_path / "set", detector, lenient).faces == 1
    large = PrepareOptions(size=SIZE, max_yaw=1.0, min_sharpness=0, min_eye_distance=30)
    report = run(tmp_path / "photos", tmp_path / "set", detector, large)
    assert (report.faces, report.rejected) == (0, {"small": 1})
    assert list((tmp_path / "set").rglob("*.png")) == [], "what no longer serves is taken away"


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    crop = np.full((100, 100, 3), 100, np.uint8)
    assert face_sharpness(crop) == 0
    crop[50, 50] = 110  # one pixel of -40 and four neighbors of 10 among the 55 x 50 that are looked at
    count = 55 * 50
    mean = (-40 + 4 * 10) / count
    assert face_sharpness(crop) == pytest.approx((40**2 + 4 * 10**2) / count - mean**2, rel=1e-4)
    crop[50, 50] = 100
    crop[5, 5] = 255
    assert face_sharpness(crop) == 0, "what is no face does not count"


def test_yaw_is_the_offset_of_the_nose_from_the_middle_at_any_tilt() -> None:
    landmarks = np.array([[0, 0], [10, 0], [8, 6], [2, 10], [8, 10]], float)
    assert face_turn(landmarks) == pytest.approx(0.3)
    angle = 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert face_turn(landmarks @ turn.T) == pytest.approx(0.3)


def test_a_second_run_does_nothing_again(photos: Path, detector: KnowingDetector, tmp_path: Path) -> None:
    first = run(photos, tmp_path / "set", detector)
    assert (first.photos, first.faces, first.done_before) == (5, 6, 0)
    before = contents(tmp_path / "set")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.png")}
    second = prepare(photos, tmp_path / "set", OPTIONS, never, lambda _d, _a: None)
    assert (second.photos, second.faces, second.done_before) == (5, 6, 5)
    assert contents(tmp_path / "set") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.png")} == times


def test_what_changed_since_is_done_again_and_nothing_else(
    photos: Path, detector: KnowingDetector, tmp_path: Path
) -> None:
    run(photos, tmp_path / "set", detector)
    detector.asked.clear()
    save(photos / "a" / "0.png", photo(50, 200))
    os.utime(photos / "a" / "0.png", ns=(1, 1))
    (tmp_path / "set" / "b" / "1.png-1.png").unlink()
    save(photos / "new.png", photo(9, 210))
    (photos / "c" / "2.png").unlink()
    report = run(photos, tmp_path / "set", detector)
    assert sorted(detector.asked) == [200, 201, 210]
    assert (report.photos, report.done_before, report.faces) == (5, 2, 6), "the crops of a photo that is gone stay"
    assert (tmp_path / "set" / "b" / "1.png-1.png").is_file()
    assert report.rejected == {"no face": 1}


def test_an_interrupted_run_resumes_and_gives_the_same_set(
    photos: Path, detector: KnowingDetector, tmp_path: Path
) -> None:
    run(photos, tmp_path / "whole", detector)
    for width in range(200, 205):
        broken = tmp_path / f"broken{width}"
        with pytest.raises(KeyboardInterrupt):
            run(photos, broken, KnowingDetector(detector.faces, interrupt_at=width))
        index = broken / "index.jsonl"
        index.write_bytes(index.read_bytes() + b'{"source": "a/0.p')  # a line cut short by a power cut
        run(photos, broken, detector)
        assert contents(broken) == contents(tmp_path / "whole")


def test_what_a_table_holds_out_for_tests_stays_out(photos: Path, detector: KnowingDetector, tmp_path: Path) -> None:
    (photos / "index.csv").write_text("file,split\na/0.png,train\nb/1.png,test\n")
    report = run(photos, tmp_path / "set", detector)
    assert sorted(entries(tmp_path / "set")) == ["a/0.png", "a/3.png", "b/4.png", "c/2.png"]
    assert report.photos == 4


def test_a_set_of_another_size_is_refused(photos: Path, detector: KnowingDetector, tmp_path: Path) -> None:
    run(photos, tmp_path / "set", detector)
    before = contents(tmp_path / "set")
    with pytest.raises(FolderError, match="--size 64"):
        run(photos, tmp_path / "set", detector, PrepareOptions(size=128))
    assert contents(tmp_path / "set") == before


def test_a_damaged_photo_is_named_and_the_others_are_done(
    photos: Path, detector: KnowingDetector, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_text("no photo")
    (photos / "empty.png").touch()
    lines: list[str] = []
    steps: list[tuple[int, int]] = []

    def on_progress(done: int, count: int) -> None:
        steps.append((done, count))

    with logged(lines):
        report = prepare(photos, tmp_path / "set", OPTIONS, lambda: detector, on_progress)
    assert (report.photos, report.faces) == (7, 6)
    assert sorted(skipped.path.name for skipped in report.failed) == ["bad.jpg", "empty.png"]
    assert all(any(name in line for line in lines) for name in ("bad.jpg", "empty.png"))
    assert steps == [(done, 7) for done in range(1, 8)]


def test_originals_are_left_alone_and_the_set_may_lie_among_them(photos: Path, detector: KnowingDetector) -> None:
    before = contents(photos)
    run(photos, photos / "set", detector)
    assert run(photos, photos / "set", detector).photos == 5
    assert {name: digest for name, digest in contents(photos).items() if not name.startswith("set/")} == before


def test_a_full_disk_stops_the_run_and_loses_nothing(
    photos: Path, detector: KnowingDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = module.write_photo
    written: list[Path] = []

    def full_after_two(photo: Any, path: Path, **options: Any) -> Any:
        if len(written) == 2:
            raise PhotoWriteError(f"{path} cannot be written: the disk is full. Make room and run again.")
        written.append(path)
        return real(photo, path, **options)

    monkeypatch.setattr(module, "write_photo", full_after_two)
    with pytest.raises(FolderError, match="the disk is full"):
        run(photos, tmp_path / "set", detector)
    assert sum(len(entry.faces) for entry in read_index(tmp_path / "set")) == 2
    monkeypatch.setattr(module, "write_photo", real)
    assert run(photos, tmp_path / "set", detector).done_before == 2
    run(photos, tmp_path / "whole", detector)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_the_set_goes_straight_into_training(photos: Path, detector: KnowingDetector, tmp_path: Path) -> None:
    run(photos, tmp_path / "set", detector)
    data = FaceDataset(tmp_path / "set", SIZE, PAPER, 0, flip=False)
    assert data.count == 6
    shown = {data.faces[data._order.index_at(position)].path: data[position] for position in range(6)}
    for path, sample in shown.items():
        pixels = (sample.gt.permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(pixels - pixels_of(path)).max() < 1e-3
        assert torch.isfinite(sample.boxes).all()
        centers = ((sample.boxes[:2, :2] + sample.boxes[:2, 2:]) / 2 - 0.5).numpy()
        assert np.abs(centers - (TEMPLATE[:2] + (0, 3.5 / 8))).max() < 0.1


def eyes_and_mouth(shift: float) -> NDArray[np.float64]:
    """68 landmarks with eyes and mouth on the template, shifted right by `shift`."""
    points = np.repeat(TEMPLATE[[0, 0, 0, 0, 0]].mean(axis=0)[None], 68, axis=0)
    points[36:42], points[42:48] = TEMPLATE[0], TEMPLATE[1]
    points[36:38, 0] -= 4
    points[38:40, 0] += 4
    points[48:] = (TEMPLATE[3] + TEMPLATE[4]) / 2
    return points + (shift, 0)


def test_boxes_come_from_68_landmarks_where_they_can_be_had_and_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "photos" / "a.png", photo(1))
    detector = KnowingDetector({200: [face_at(100, 100)]})

    def boxes() -> NDArray[np.float64]:
        run(tmp_path / "photos", tmp_path / "set", detector)
        ((face,),) = (entry.faces for entry in read_index(tmp_path / "set"))
        return np.array(face.boxes)

    by_five = boxes()
    monkeypatch.setattr(module, "open_landmarks", lambda: lambda crop: eyes_and_mouth(1.0))
    by_68 = boxes()
    assert len(detector.asked) == 2, "other landmarks, so the photo is done again"
    x, y = TEMPLATE[0] + 0.5 + (1, 0)
    assert by_68[0] == pytest.approx([x - 5.6, y - 5.6, x + 5.6, y + 5.6], abs=0.01)  # half of 8, times 1.4
    monkeypatch.setattr(module, "open_landmarks", lambda: lambda crop: eyes_and_mouth(20.0))  # lost the face
    (tmp_path / "set" / "a.png-1.png").unlink()
    assert boxes() == pytest.approx(by_five)


def test_dlib_finds_the_eyes_and_mouth_that_the_detector_finds(astronaut: NDArray[np.uint8]) -> None:
    pytest.importorskip("dlib")
    find = open_landmarks()
    if find is None:
        pytest.skip("the landmark model is not installed")
    face = max(MTCNNDetector().detect(astronaut), key=lambda found: found.score)
    crop = align_face(astronaut, face, 256)
    points = find(np.asarray(crop.pixels, np.uint8))
    assert points.shape == (68, 2)
    five = transformed(crop.photo_to_crop, face.landmarks.astype(float))
    for part, expected in ((slice(36, 42), five[0]), (slice(42, 48), five[1]), (slice(48, 68), five[3:].mean(axis=0))):
        assert np.abs(points[part].mean(axis=0) - expected).max() < 8


def test_without_dlib_there_are_no_68_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert open_landmarks() is None


def test_crops_can_be_jpeg_and_photos_of_16_bits_become_8(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (200, 200), np.uint16)
    save(tmp_path / "photos" / "deep.png", deep)
    detector = KnowingDetector({200: [face_at(100, 100)]})
    run(tmp_path / "photos", tmp_path / "set", detector)
    png = pixels_of(tmp_path / "set" / "deep.png-1.png")
    options = PrepareOptions(size=SIZE, min_sharpness=5, jpeg_quality=98)
    report = run(tmp_path / "photos", tmp_path / "set", detector, options)
    jpeg = pixels_of(tmp_path / "set" / "deep.png-1.jpg")
    assert png.dtype == jpeg.dtype == np.uint8
    assert np.abs(png.astype(float) - jpeg).mean() < 4
    assert png.std() > 20
    assert report.faces == 1
    assert not (tmp_path / "set" / "deep.png-1.png").exists()


def test_odd_names_stay_apart_and_fit(tmp_path: Path) -> None:
    names = ["x.png", "x.bmp", "Фото 1.png", "x-1.png", f"{'a' * 250}.png", f"{'ä' * 120}.png"]
    for name in names:
        save(tmp_path / "photos" / name, photo(1))
    report = run(tmp_path / "photos", tmp_path / "set", KnowingDetector({200: [face_at(100, 100)]}))
    files = [face.file for entry in read_index(tmp_path / "set") for face in entry.faces]
    assert report.faces == len(set(files)) == len(names)
    assert len(list((tmp_path / "set").glob("*.png"))) == len(names)
    assert "Фото 1.png-1.png" in files


def test_ffhq_is_read_with_its_landmark_file_and_needs_no_detector(tmp_path: Path) -> None:
    turn = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    points = np.full((68, 2), 128.0)
    for first, center in ((36, (96, 120)), (42, (160, 120))):
        points[first : first + 6] = np.stack([12 * np.cos(turn), 5 * np.sin(turn)], axis=1) + center
    points[48:] = np.stack([30 * np.cos(np.arange(20)), 9 * np.sin(np.arange(20))], axis=1) + (128, 180)
    ffhq = tmp_path / "ffhq-dataset"
    entry = {"image": {"face_landmarks": ((points + 0.5) * 4 - 0.5).tolist()}}  # of an image of 256, at 1024
    ffhq.mkdir()
    (ffhq / "ffhq-dataset-v2.json").write_text(json.dumps({"3": entry, "4": entry, "5": entry}))
    save(ffhq / "images1024x1024" / "00000" / "00003.png", photo(3, 256))
    save(ffhq / "images1024x1024" / "00000" / "00004.png", photo(4, 48))
    save(ffhq / "images1024x1024" / "00000" / "00005.png", photo(5, 256)[:200])
    save(ffhq / "in-the-wild-images" / "00000" / "00003.png", photo(9, 300))
    report = prepare(ffhq, tmp_path / "set", OPTIONS, never, lambda _d, _a: None)
    assert (report.photos, report.faces, report.rejected) == (3, 1, {"small": 1})
    assert [skipped.path.name for skipped in report.failed] == ["00005.png"]
    (face,) = entries(tmp_path / "set")["00000/00003.png"].faces
    expected = cv2.resize(photo(3, 256), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels_of(tmp_path / "set" / face.file).astype(float) - expected).max() <= 1
    left = np.array(face.boxes[0]) * 4  # edges in the image of 256
    assert left == pytest.approx([96.5 - 16.8, 120.5 - 16.8, 96.5 + 16.8, 120.5 + 16.8], abs=0.01)
    assert face.eye_px == pytest.approx(64, abs=0.1)


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"jpeg_quality": 0}, {"max_yaw": -1.0}, {"min_sharpness": float("nan")}]
)
def test_options_out_of_range_are_errors_before_files_are_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    save(tmp_path / "photos" / "a.png", photo(1))
    with pytest.raises(UsageError):
        run(tmp_path / "photos", tmp_path / "set", KnowingDetector({}), PrepareOptions(**wrong))
    assert not (tmp_path / "set").exists()


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError):
        run(tmp_path, tmp_path / "set", KnowingDetector({}))
    with pytest.raises(FolderError):
        run(tmp_path / "nowhere", tmp_path / "set", KnowingDetector({}))
