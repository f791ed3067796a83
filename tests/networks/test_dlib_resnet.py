"""dlib's recognizer in torch against what dlib itself says of the same images."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from gfprestore.networks.dlib_resnet import DlibFaceRecognizer
from gfprestore.training.loss_networks import PACKAGED_RECOGNIZER

GOLDEN = Path(__file__).parents[1] / "golden" / "dlib_recognizer.csv"


@pytest.fixture(scope="module")
def content() -> bytes:
    package, inner = PACKAGED_RECOGNIZER
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not here")
    return (Path(found.origin).parent / inner).read_bytes()


def chips() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(3, 150, 150, 3): a face of scikit-image's, at three places and in three lights."""
    data = pytest.importorskip("skimage.data", exc_type=ImportError)
    astronaut = np.asarray(data.astronaut(), np.uint8)
    cuts = [astronaut[top : top + 150, left : left + 150] for top, left in ((40, 150), (60, 140), (30, 170))]
    return np.stack([cuts[0], cuts[1] // 2, 255 - cuts[2]])


def test_descriptions_equal_those_of_dlib(content: bytes) -> None:
    with GOLDEN.open(newline="") as stream:
        expected = np.array([[float(value) for value in row] for row in csv.reader(stream)])
    network = DlibFaceRecognizer.from_file(content)
    faces = torch.from_numpy(chips()).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = network(faces.contiguous(memory_format=torch.channels_last)).numpy()
    assert found.shape == expected.shape == (3, 128)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    assert np.abs(found - expected).max() < 2e-6


def test_the_face_can_be_moved_toward_the_person(content: bytes) -> None:
    network = DlibFaceRecognizer.from_file(content)
    first, _, other = torch.from_numpy(chips()).permute(0, 3, 1, 2).float() / 127.5 - 1
    aim = network(first[None])
    face = other[None].requires_grad_()
    distance = (network(face) - aim).norm()
    (gradient,) = torch.autograd.grad(distance, face)
    with torch.no_grad():
        nearer = (network(face - 0.5 * gradient / gradient.norm()) - aim).norm()
    assert nearer < 0.97 * distance
    assert all(not parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda content: b"", "file of dlib's recognizer is truncated"),
        (lambda content: content[:100_000], "is truncated or has an unsupported version"),
        (lambda content: content[: content.rfind(b"\x01\x04fc_2")], "file of dlib's recognizer is truncated"),
        (lambda content: content + content, "larger network"),
        (lambda content: content[content.find(b"\x01\x05con_4") + 1 :], "but the file has"),
    ],
    ids=["empty", "cut in a tensor", "without its end", "twice", "without its first layer"],
)
def test_other_files_are_refused(spoiled: object, message: str, content: bytes) -> None:
    with pytest.raises(ValueError, match=message):
        DlibFaceRecognizer.from_file(spoiled(content))  # type: ignore[operator]
