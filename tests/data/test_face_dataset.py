"""The endless stream: determined by seed and position, independent of workers; unusual folders and files."""

from __future__ import annotations

import csv
import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from samples import save
from torch import Tensor
from torch.utils.data import DataLoader

from gfprestore.data.component_boxes import COMPONENT_FILE
from gfprestore.data.degradation import HEAVY, PAPER, DegradationOptions
from gfprestore.data.face_dataset import (
    FaceDataset,
    Sample,
    StreamSampler,
    collate,
    jittered,
    list_faces,
    single_threaded,
)
from gfprestore.data.prepared_index import IndexedFace, IndexedPhoto, write_index
from gfprestore.errors import FolderError
from gfprestore.training.loader import _end_workers

SIZE = 32
CLEAN = DegradationOptions(
    sigma=(0.001, 0.001),
    downscale=(1, 1),
    noise=(0, 0),
    jpeg_quality=(100, 100),
    shift_probability=0,
    jitter_probability=0,
    gray_probability=0,
)


def image(number: int, side: int = SIZE) -> NDArray[np.uint8]:
    """A dark image with one bright square at the left, whose level encodes the number."""
    pixels = np.full((side, side, 3), 10, np.uint8)
    pixels[side // 4 : side // 2, side // 8 : side // 4] = (40 + 10 * number, 90, 200 - 10 * number)
    return pixels


def number_in(gt: Tensor) -> int:
    """Number of the image, and whether it is flipped."""
    return round((float((gt[0] + 1).max()) * 127.5 - 40) / 10)


def is_flipped(gt: Tensor) -> bool:
    return bool(gt[2, :, SIZE // 2 :].max() > gt[2, :, : SIZE // 2].max())


def component_entry(x: float) -> dict[str, NDArray[np.float64]]:
    places = {"left_eye": (x, 240.0, 25.0), "right_eye": (x + 130, 240.0, 30.0), "mouth": (256.0, 370.0, 52.0)}
    return {part: np.array(values) for part, values in places.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images `00000000.png`, ..., and the official component file for them."""
    place = tmp_path / "faces"
    for number in range(8):
        save(place / f"{number:08d}.png", image(number))
    torch.save({f"{number:08d}": component_entry(180.0 + number) for number in range(8)}, place / COMPONENT_FILE)
    return place


def opened(folder: Path, options: DegradationOptions = PAPER, seed: int = 3, size: int = SIZE) -> FaceDataset:
    return FaceDataset(folder, size, options, seed, boxes=False)


def same(first: Sample, second: Sample) -> bool:
    return all(
        torch.equal(torch.nan_to_num(getattr(first, name)), torch.nan_to_num(getattr(second, name)))
        for name in ("lq", "gt", "boxes")
    )


def test_a_sample_is_the_image_and_its_low_quality_in_signed_range(folder: Path) -> None:
    sample = opened(folder, CLEAN)[0]
    assert sample.lq.shape == sample.gt.shape == (3, SIZE, SIZE)
    assert sample.gt.dtype == sample.lq.dtype == sample.boxes.dtype == torch.float32
    expected = image(number_in(sample.gt))
    expected = expected[:, ::-1] if is_flipped(sample.gt) else expected
    assert np.abs((sample.gt.permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max() < 1e-3
    luma = torch.tensor([0.299, 0.587, 0.114])
    difference = torch.einsum("chw,c->hw", sample.lq - sample.gt, luma).abs() * 127.5
    assert difference.max() < 6  # the best JPEG changes hardly the luma
    assert -1 <= float(sample.lq.min()) <= float(sample.lq.max()) <= 1


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own(folder: Path) -> None:
    data = opened(folder, CLEAN)
    epochs = [[number_in(data[position].gt) for position in range(start, start + 8)] for start in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_half_of_the_images_are_flipped_and_none_where_not_asked(folder: Path) -> None:
    data = opened(folder, CLEAN)
    flips = [is_flipped(data[position].gt) for position in range(120)]
    assert 0.35 < np.mean(flips) < 0.65
    upright = FaceDataset(folder, SIZE, CLEAN, 3, flip=False, boxes=False)
    assert not any(is_flipped(upright[position].gt) for position in range(40))
    assert [number_in(upright[position].gt) for position in range(16)] == [
        number_in(data[position].gt) for position in range(16)
    ]


def test_the_same_seed_and_position_give_the_same_sample_in_any_order_of_asking(folder: Path) -> None:
    first, second = opened(folder, HEAVY), opened(folder, HEAVY)
    samples = {position: first[position] for position in range(20)}
    for position in (19, 3, 11, 0, 8):
        assert same(second[position], samples[position])
    other = opened(folder, HEAVY, seed=4)
    assert sum(same(other[position], samples[position]) for position in range(20)) == 0


def loaded(data: FaceDataset, start: int, batches: int, workers: int, rank: int = 0, world: int = 1) -> list[Sample]:
    loader = DataLoader(
        data,
        batch_size=3,
        sampler=StreamSampler(start, rank, world),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=single_threaded if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    iterator = iter(loader)
    try:
        return list(islice(iterator, batches))
    finally:
        _end_workers(iterator)  # one that is left to the garbage collector may abort, now and then


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_any_number_of_workers_gives_the_same_stream(folder: Path) -> None:
    data = opened(folder)
    alone = loaded(data, 0, 4, 0)
    assert all(same(first, second) for first, second in zip(alone, loaded(data, 0, 4, 2), strict=True))
    assert alone[0].lq.shape == (3, 3, SIZE, SIZE)
    assert alone[0].boxes.shape == (3, 3, 4)


def test_a_resumed_stream_continues_where_it_stopped(folder: Path) -> None:
    data = opened(folder)
    whole = loaded(data, 0, 5, 0)
    resumed = loaded(pickle.loads(pickle.dumps(opened(folder))), 9, 2, 0)
    assert all(same(first, second) for first, second in zip(whole[3:], resumed, strict=True))


def test_processes_share_the_stream_and_a_batch_of_all_is_a_stretch_of_it(folder: Path) -> None:
    positions = [list(islice(StreamSampler(40, rank, 3), 4)) for rank in range(3)]
    assert positions[1] == [41, 44, 47, 50]
    assert sorted(sum(positions, [])) == list(range(40, 52))
    with pytest.raises(ValueError, match="process 3 of 3"):
        StreamSampler(0, 3, 3)


def test_boxes_of_the_component_file_are_scaled_and_mirrored_with_the_image(folder: Path) -> None:
    data = FaceDataset(folder, SIZE, CLEAN, 3)
    for _ in range(2):  # the second time, nothing must have been changed by the first
        seen = Counter[bool]()
        for position in range(24):
            sample = data[position]
            eye = 180.5 + number_in(sample.gt)
            flipped = is_flipped(sample.gt)
            seen[flipped] += 1
            scale = SIZE / 512
            centers = (sample.boxes[:, 0] + sample.boxes[:, 2]) / 2 / scale
            widths = (sample.boxes[:, 2] - sample.boxes[:, 0]) / scale
            expected = [512 - eye - 130, 512 - eye, 512 - 256.5] if flipped else [eye, eye + 130, 256.5]
            assert centers.tolist() == pytest.approx(expected, abs=1e-2)
            assert widths.tolist() == pytest.approx([84, 70, 104] if flipped else [70, 84, 104], abs=1e-2)
        assert min(seen[True], seen[False]) >= 6


def test_images_without_known_boxes_have_nan_and_a_set_without_any_is_refused(folder: Path) -> None:
    save(folder / "someone.png", image(9))
    data = FaceDataset(folder, SIZE, CLEAN, 3)
    unknown = [bool(torch.isnan(data[position].boxes).all()) for position in range(9)]
    numbers = [number_in(data[position].gt) for position in range(9)]
    assert unknown == [number == 9 for number in numbers]
    (folder / COMPONENT_FILE).unlink()
    with pytest.raises(FolderError, match="gfprestore prepare"):
        FaceDataset(folder, SIZE, CLEAN, 3)
    assert torch.isnan(opened(folder)[0].boxes).all()


def test_a_damaged_image_is_named_and_the_next_of_the_stream_takes_its_place(folder: Path) -> None:
    whole = opened(folder)
    order = [number_in(whole[position].gt) for position in range(8)]
    bad = folder / f"{order[2]:08d}.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = opened(folder)
    assert data.count == 8
    samples = [data[position] for position in range(8)]
    assert [number_in(sample.gt) for sample in samples] == [*order[:2], order[3], *order[3:]]
    assert [[skipped.path for skipped in sample.skipped] for sample in samples] == [[], [], [bad], [], [], [], [], []]
    assert str(bad) in samples[2].skipped[0].reason
    assert [skipped.path for skipped in data.skipped] == [bad]
    assert not torch.equal(samples[2].lq, samples[3].lq), "the degradation goes by the position"
    again = opened(folder)
    assert same(again[2], samples[2])
    batch = loaded(opened(folder), 0, 1, 0)[0]
    assert [skipped.path for skipped in batch.skipped] == [bad]


def test_a_damaged_image_at_the_end_of_an_epoch_is_replaced_from_the_next(folder: Path) -> None:
    whole = opened(folder)
    last, following = number_in(whole[7].gt), number_in(whole[8].gt)
    if last == following:
        following = number_in(whole[9].gt)
    (folder / f"{last:08d}.png").write_bytes(b"")
    assert number_in(opened(folder)[7].gt) == following


def test_a_set_of_damaged_images_only_is_an_error(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.write_text("no image")
    with pytest.raises(FolderError, match="None of the 8 images"):
        opened(folder)[0]


def test_larger_images_are_downscaled_and_smaller_or_oblong_ones_skipped(tmp_path: Path) -> None:
    save(tmp_path / "large.png", image(1, SIZE * 2))
    save(tmp_path / "small.png", image(2, SIZE // 2))
    save(tmp_path / "oblong.png", np.zeros((SIZE, SIZE + 1, 3), np.uint8))
    data = opened(tmp_path, CLEAN)
    for position in range(6):
        sample = data[position]
        assert sample.gt.shape == (3, SIZE, SIZE)
        assert number_in(sample.gt) == 1
    reasons = {skipped.path.name: skipped.reason for skipped in data.skipped}
    assert "--size 16" in reasons["small.png"]
    assert "33 x 32" in reasons["oblong.png"]


def test_images_of_16_bits_gray_and_turned_are_read_as_the_photos_they_are(tmp_path: Path) -> None:
    gray = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    Image.fromarray(gray).save(tmp_path / "deep.png")
    sample = FaceDataset(tmp_path, SIZE, CLEAN, 0, flip=False, boxes=False)[0]
    assert np.abs((sample.gt[1].numpy() + 1) / 2 * 65535 - gray).max() < 1
    (tmp_path / "deep.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path / "turned.png", np.ascontiguousarray(image(3)[::-1, ::-1]), exif=exif)
    sample = FaceDataset(tmp_path, SIZE, CLEAN, 0, flip=False, boxes=False)[0]
    assert np.abs((sample.gt.permute(1, 2, 0).numpy() + 1) * 127.5 - image(3)).max() < 1e-3


def test_the_gt_of_an_image_that_lost_its_colors_is_gray_where_asked(folder: Path) -> None:
    options = replace(CLEAN, gray_probability=1)
    assert np.ptp(opened(folder, options)[0].gt.numpy(), axis=0).max() > 0.3
    sample = opened(folder, replace(options, gray_gt=True))[0]
    assert np.ptp(sample.gt.numpy(), axis=0).max() == 0
    colored = opened(folder, CLEAN)[0].gt
    luma = torch.einsum("chw,c->hw", colored, torch.tensor([0.299, 0.587, 0.114]))
    assert (sample.gt[0] - luma).abs().max() * 127.5 < 0.6


def test_nested_folders_are_walked_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.png", ".hidden/x.png", ".x.png", ".gfprestore-1.part", "notes.txt"):
        save(tmp_path / f"{name}.png", image(0)).rename(tmp_path / name)
    names = [face.path.relative_to(tmp_path).as_posix() for face in list_faces(tmp_path)]
    assert names == ["a.png", "b/2.png", "b/10.png"]


def test_of_the_layout_of_ffhq_only_the_aligned_images_are_taken(tmp_path: Path) -> None:
    for name in ("images1024x1024/00000", "thumbnails128x128/00000", "in-the-wild-images"):
        save(tmp_path / name / "00007.png", image(7))
    torch.save({"00000007": component_entry(190)}, tmp_path / COMPONENT_FILE)
    (face,) = list_faces(tmp_path)
    assert face.path == tmp_path / "images1024x1024/00000/00007.png"
    assert face.boxes is not None
    assert (face.boxes[0] * 512).tolist() == pytest.approx([155.5, 205.5, 225.5, 275.5], abs=1e-3)


def table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_gives_landmarks_and_keeps_the_split_test_out(folder: Path) -> None:
    points = "11.5 14.5 19.5 14.5 15.5 19.5 12.5 22.5 18.5 22.5"
    rows = [{"file": f"{number:08d}.png", "split": "train", "landmarks": points} for number in range(3)]
    rows[1]["split"] = "test"
    table(folder, rows)
    data = FaceDataset(folder, SIZE, CLEAN, 0, flip=False)
    assert data.count == 2
    assert {number_in(data[position].gt) for position in range(8)} == {0, 2}
    centers = (data[0].boxes[:, :2] + data[0].boxes[:, 2:]) / 2
    assert centers.numpy() == pytest.approx(np.array([[12, 15 + 3.5 / 16], [20, 15 + 3.5 / 16], [16, 23]]))
    half = FaceDataset(folder, SIZE // 2, CLEAN, 0, flip=False)[0].boxes
    assert half.numpy() == pytest.approx(data[0].boxes.numpy() / 2, rel=1e-5)


@pytest.mark.parametrize("row", [{"name": "x"}, {"file": "x.png", "landmarks": "1 2 3"}])
def test_a_table_that_makes_no_sense_is_an_error_with_its_name(folder: Path, row: dict[str, str]) -> None:
    table(folder, [row])
    with pytest.raises(FolderError, match=r"index\.csv"):
        list_faces(folder)


def indexed(file: str, size: int = SIZE) -> IndexedPhoto:
    boxes = ((2.0, 4.0, 8.0, 10.0), (16.0, 4.0, 24.0, 12.0), (10.0, 20.0, 20.0, 30.0))
    face = IndexedFace(file, size, (0.0, 0.0, 9.0, 9.0), (), 120.0, 50.0, 0.0, boxes)
    return IndexedPhoto(f"{file}.jpg", 10, 20, "x", (face,))


def test_a_prepared_set_is_what_its_index_says(folder: Path) -> None:
    write_index(folder, [indexed("00000001.png"), indexed("00000005.png"), IndexedPhoto("bad.jpg", 1, 2, "x")])
    data = FaceDataset(folder, SIZE // 2, CLEAN, 0, flip=False)
    assert data.count == 2
    assert data[0].boxes.tolist() == [[1, 2, 4, 5], [8, 2, 12, 6], [5, 10, 10, 15]]
    whole = FaceDataset(folder, SIZE, CLEAN, 0)
    mirrored = next(sample for sample in map(whole.__getitem__, range(50)) if is_flipped(sample.gt))
    assert mirrored.boxes.tolist() == [[8, 4, 16, 12], [24, 4, 30, 10], [12, 20, 22, 30]]


@pytest.mark.parametrize("file", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_an_index_does_not_lead_out_of_its_folder(folder: Path, file: str) -> None:
    write_index(folder, [indexed(file)])
    with pytest.raises(FolderError, match="line 1"):
        list_faces(folder)


def test_a_damaged_index_is_an_error_with_its_line_but_for_a_last_one_cut_short(folder: Path) -> None:
    write_index(folder, [indexed("00000001.png"), indexed("00000002.png")])
    path = folder / "index.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert len(list_faces(folder)) == 2
    path.write_bytes(whole.replace(b'"size": 32', b'"size": 0', 1))
    with pytest.raises(FolderError, match="line 1"):
        list_faces(folder)
    path.write_bytes(whole.replace(b'"source"', b'"sauce"', 1))
    with pytest.raises(FolderError, match="line 1"):
        list_faces(folder)


def test_an_empty_or_missing_folder_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="gfprestore prepare"):
        opened(tmp_path)
    with pytest.raises(FolderError, match="--data"):
        opened(tmp_path / "nowhere")


def test_a_sample_moves_whole() -> None:
    sample = Sample(torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.full((3, 4), 2.0))
    moved = sample.to(torch.device("meta"))
    assert {part.device.type for part in (moved.lq, moved.gt, moved.boxes)} == {"meta"}
    assert moved.boxes.shape == (3, 4)


def test_boxes_go_with_a_face_that_is_aligned_differently() -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    boxes = np.array([[20, 30, 32, 42], [80, 30, 92, 42], [50, 80, 74, 104]], np.float32)
    for channel, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        pixels[top:bottom, left:right, channel] = 255
    moves = []
    for seed in range(20):
        moved, there = jittered(pixels, boxes, 0.06, np.random.default_rng(seed))
        assert moved.shape == pixels.shape
        for channel, (left, top, right, bottom) in enumerate(there):
            rows, columns = np.nonzero(moved[..., channel] > 127)
            assert columns.mean() + 0.5 == pytest.approx((left + right) / 2, abs=0.35)
            assert rows.mean() + 0.5 == pytest.approx((top + bottom) / 2, abs=0.35)
            assert np.sqrt(len(rows)) == pytest.approx(right - left, abs=0.6)
        moves.append((there - boxes)[2])
    assert np.abs(moves).max() > 5
    assert np.abs(np.mean(moves, axis=0)).max() < 4, "in all directions"


def test_jitter_changes_lq_and_gt_alike_and_is_repeatable(folder: Path) -> None:
    straight = FaceDataset(folder, SIZE, CLEAN, 3, boxes=False)
    first, second = (FaceDataset(folder, SIZE, CLEAN, 3, boxes=False, jitter=0.1) for _ in range(2))
    assert all(same(first[position], second[position]) for position in range(8))
    assert not any(torch.equal(first[position].gt, straight[position].gt) for position in range(8))
    assert all((first[position].gt - first[position].lq).abs().mean() < 0.02 for position in range(8))
