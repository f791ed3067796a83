"""The compact plan: photos in natural order, tasks that are made when they are asked for, memory per photo."""

from __future__ import annotations

import tracemalloc
from pathlib import Path, PurePath

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gfprestore.batch.folders import plan_photos
from gfprestore.batch.found_photos import FoundPhotos
from gfprestore.batch.names import natural_key
from gfprestore.batch.task_list import PhotoTask, TaskList, TaskRow

PARTS = st.sampled_from(["a", "b", "B", "scan 2", "scan 10", "1", "02"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: PurePath(*parts[:-1], f"{parts[-1]}.jpg"))


@settings(max_examples=150, deadline=None)
@given(st.sets(PATHS, max_size=25), st.sets(PATHS, max_size=4))
def test_found_photos_come_in_natural_order_of_the_parts_of_their_paths(
    walked: set[PurePath], named: set[PurePath]
) -> None:
    found = FoundPhotos()
    for within in named:
        found.add(within, Path("elsewhere", within.name))
    for parent in sorted({within.parent for within in walked}):
        names = sorted((within.name for within in walked if within.parent == parent), key=natural_key)
        found.add_folder(parent, Path("in") / parent, names)
    listed = [(row.within / name, row.source / name) for row in found.rows() for name in row.names]
    assert [within for within, _ in listed] == sorted(
        walked | named, key=lambda within: [natural_key(part) for part in within.parts]
    )
    assert len(found) == len(walked | named)
    for within, source in listed:
        assert within in found
        assert source == (Path("elsewhere", within.name) if within in named else Path("in") / within)
    assert PurePath("a/none.jpg") not in found


def test_a_list_of_tasks_is_a_sequence() -> None:
    rows = [
        TaskRow(Path("in/a"), Path("out/a"), PurePath("a"), Path("out"), "1.jpg\0002.png", "1.jpg\0002.jpg"),
        TaskRow(Path("in"), Path("out"), PurePath(), Path("out"), "3.jpg"),
    ]
    tasks = TaskList(rows)
    expected = [
        PhotoTask(Path("in/a/1.jpg"), Path("out/a/1.jpg"), PurePath("a/1.jpg"), Path("out")),
        PhotoTask(Path("in/a/2.png"), Path("out/a/2.jpg"), PurePath("a/2.png"), Path("out")),
        PhotoTask(Path("in/3.jpg"), Path("out/3.jpg"), PurePath("3.jpg"), Path("out")),
    ]
    assert list(tasks) == expected
    assert len(tasks) == 3
    assert [tasks[index] for index in (0, 1, 2, -1, -3)] == [*expected, expected[2], expected[0]]
    assert tasks[1:] == tuple(expected[1:])
    assert tasks[::-1] == tuple(expected[::-1])
    assert tasks.folders == (Path("out"),)
    assert tasks == TaskList(rows) != TaskList(rows[:1])
    with pytest.raises(IndexError):
        tasks[3]


def test_a_planned_photo_costs_little_more_than_its_name(tmp_path: Path) -> None:
    count = 2000
    for number in range(count):
        place = tmp_path / "in" / f"album {number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"scan {number:05d}.jpg").touch()

    def planned() -> TaskList:
        return plan_photos(
            [tmp_path / "in"], tmp_path / "out", suffixes=frozenset({".jpg"}), rename=lambda source: ".png"
        ).tasks

    planned()  # so that what is imported and cached is not counted
    tracemalloc.start()
    tasks = planned()
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tasks) == count
    assert held / count < 150  # 14 letters in, 14 letters out, and the folders' share
