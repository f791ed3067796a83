"""68 landmarks of an aligned face by dlib, if the extra `landmarks` is installed.

Kazemi and Sullivan, "One millisecond face alignment with an ensemble of regression trees", CVPR 2014. The model file
is part of the package `face-recognition-models`. It was trained on data for non-commercial use, so it is optional.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gfprestore.faces.alignment import FACE_ON_TEMPLATE, TEMPLATE_SIZE
from gfprestore.packaged_files import packaged_file

FindLandmarks = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Function from an aligned crop (S, S, 3) RGB uint8 to its landmarks (68, 2), pixel centers."""

MODEL = "models/shape_predictor_68_face_landmarks.dat"


def open_landmarks() -> FindLandmarks | None:
    """Load the landmark finder; None unless the packages `dlib-bin` and `face-recognition-models` are installed."""
    model = packaged_file("face_recognition_models", MODEL)
    if model is None or importlib.util.find_spec("dlib") is None:
        return None
    import dlib

    predictor = dlib.shape_predictor(str(model))

    def find(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        face = dlib.rectangle(*(round(edge * len(crop) / TEMPLATE_SIZE) for edge in FACE_ON_TEMPLATE))
        return np.array([(point.x, point.y) for point in predictor(crop, face).parts()], np.float64)

    return find
