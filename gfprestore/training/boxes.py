"""Component boxes of a training whose data come without them: found once, and kept in the output folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from gfprestore.data.component_boxes import Boxes
from gfprestore.data.dlib_landmarks import open_landmarks
from gfprestore.data.face_dataset import list_faces
from gfprestore.data.found_boxes import BoxIndex, check_found
from gfprestore.restoration.model_loader import Opener
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.weights.store import WeightsStore

log = logging.getLogger(__name__)

StageProgress = Callable[[str, int, int], None]
"""Receives a description of the work, and how much of it is done."""


def faces_without_boxes(config: TrainConfig) -> list[Path]:
    """Images whose boxes a training needs and finds itself; empty if it needs none, or some are known.

    Raises:
        FolderError: The data cannot be used.
    """
    if config.stage != "restoration" or not config.preset.losses.components > 0:
        return []
    faces = list_faces(config.data)
    unknown = [face.path for face in faces if not face.has_boxes]
    return unknown if len(unknown) == len(faces) else []


def found_boxes(
    config: TrainConfig,
    store: WeightsStore,
    device: torch.device,
    world: World,
    progress: StageProgress = lambda stage, done, total: None,
) -> Mapping[Path, Boxes]:
    """Find the boxes of a training whose data come without them; each process searches its share of the images.

    Args:
        config: Configuration of the training.
        store: Folders with weights.
        device: Device of the training.
        world: The processes that train together.
        progress: Receives the progress of the search in the main process.

    Returns:
        Boxes (3, 4), relative to the side; empty if the training needs none or the data have them.

    Raises:
        FolderError: The data or the output folder cannot be used, or few images show an aligned face.
    """
    paths = faces_without_boxes(config)
    if not paths:
        return {}
    index = BoxIndex(config.data, config.output, world.rank)
    known = index.boxes(paths)
    missing = [path for path in paths if path not in known]
    if world.any(bool(missing), device):  # no process writes before all have looked
        world.log(log, f"Finding eyes and mouths in {len(missing)} images. They are kept in {index.path}.")
        detector = Opener(store, device).detector("auto" if device.type == "cuda" else "mtcnn")

        def report(done: int, total: int) -> None:
            if world.is_main_process:
                progress("eyes and mouths", done, total)

        index.search(missing[world.rank :: world.size], detector, open_landmarks(), report)
        world.any(False, device)  # every process waits for the others
        index.reload()
        known = index.boxes(paths)
    check_found(known, config.data)
    return {path: boxes for path, boxes in known.items() if boxes is not None}
