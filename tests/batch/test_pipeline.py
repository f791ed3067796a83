"""The batch scheduler: batches over photos, bounded memory, faults that stay with their photo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from doubles import Finder, Painter, logged, opened
from numpy.typing import NDArray
from PIL import Image
from samples import pixels_of, size_of

from gfprestore.batch import pipeline
from gfprestore.batch.pipeline import PhotoRun
from gfprestore.batch.results import OutputOptions, PhotoResult
from gfprestore.batch.task_list import PhotoTask
from gfprestore.errors import FolderError
from gfprestore.faces.detection import DetectedFace
from gfprestore.restoration.options import RunOptions


@pytest.fixture
def tasks(tmp_path: Path) -> list[PhotoTask]:
    """Eight small photos in different grays and their places in `out`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    made = []
    for index in range(8):
        source = tmp_path / "in" / f"{index}.png"
        Image.fromarray(np.full((80, 100, 3), 20 * index + 10, np.uint8)).save(source)
        made.append(PhotoTask(source, tmp_path / "out" / source.name, PurePath(source.name), tmp_path / "out"))
    return made


def by_name(results: Sequence[PhotoResult]) -> dict[str, PhotoResult]:
    return {result.source.name: result for result in results}


def journal(tasks: Sequence[PhotoTask]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks[0].folder / ".gfprestore.jsonl").read_text().splitlines()]


def test_faces_of_different_photos_are_restored_in_common_batches(tasks: list[PhotoTask]) -> None:
    painter = Painter()
    run = PhotoRun(opened(painter, Finder([(50, 30)]), RunOptions(batch_size=4)))
    results = list(run.results(tasks))
    assert [count for count, _ in painter.seen] == [4, 4]
    assert [result.status for result in results] == ["restored"] * 8
    for index, task in enumerate(tasks):
        pixels = pixels_of(task.output).astype(int)
        assert np.abs(pixels - (20 * index + 10)).max() <= 1


def test_a_photo_that_breaks_the_network_fails_alone_though_it_shared_a_batch(tasks: list[PhotoTask]) -> None:
    class Choosy(Painter):
        def restore(self, crops: torch.Tensor, seeds: Sequence[int] | None = None) -> torch.Tensor:
            if ((crops + 1) * 127.5).mean(dim=(1, 2, 3)).round().eq(50).any():
                raise ValueError("fifty is too much")
            return super().restore(crops, seeds)

    run = PhotoRun(opened(Choosy(), Finder([(50, 30)]), RunOptions(batch_size=8)))
    results = by_name(list(run.results(tasks)))
    assert results["2.png"].status == "failed"
    assert "fifty is too much" in (results["2.png"].error or "")
    assert str(tasks[2].source) in (results["2.png"].error or "")
    assert not tasks[2].output.exists()
    assert sum(result.status == "restored" for result in results.values()) == 7


def test_a_face_that_is_not_finite_makes_the_photo_failed_but_it_is_written_without_the_face(
    tasks: list[PhotoTask],
) -> None:
    run = PhotoRun(opened(Painter(color=(1.0, -1.0, -1.0), broken=[0]), Finder([(50, 30)]), RunOptions(batch_size=1)))
    results = by_name(list(run.results(tasks[:2])))
    assert results["0.png"].status == "failed"
    assert results["0.png"].output == tasks[0].output
    assert (results["0.png"].faces, results["0.png"].restored_faces) == (1, 0)
    assert "1 of 1 faces" in (results["0.png"].error or "")
    assert (pixels_of(tasks[0].output) == 10).all()
    assert results["1.png"].status == "restored"
    done = [line["status"] for line in journal(tasks) if line.get("relative") == "0.png"]
    assert done[-1] == "failed"


def test_a_photo_that_vanishes_fails_and_the_next_run_does_the_rest(tasks: list[PhotoTask]) -> None:
    hidden = tasks[3].source.rename(tasks[3].source.with_suffix(".away"))
    first = by_name(list(PhotoRun(opened(Painter(), Finder([]))).results(tasks)))
    assert first["3.png"].status == "failed"
    hidden.rename(tasks[3].source)
    second = by_name(list(PhotoRun(opened(Painter(), Finder([]))).results(tasks)))
    assert {name for name, result in second.items() if result.status == "restored"} == {"3.png"}
    assert sum(result.status == "skipped" for result in second.values()) == 7


def test_an_output_folder_that_goes_away_ends_the_run_with_its_name(
    tasks: list[PhotoTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PhotoRun(opened(Painter(), Finder([])), OutputOptions(workers=1))
    results = run.results(tasks)
    next(results)
    (tmp_path / "out").rename(tmp_path / "unplugged")
    with pytest.raises(FolderError, match="out"):
        list(results)


def test_a_full_disk_is_told_and_leaves_no_partial_file(
    tasks: list[PhotoTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run = PhotoRun(opened(Painter(), Finder([])))
    real = os.fsync
    outputs = {task.output.name for task in tasks}

    def fsync(descriptor: int) -> None:
        target = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".gfprestore.jsonl" in target or Path(target).is_dir():
            real(descriptor)
        else:
            full(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell the files apart")
    monkeypatch.setattr(os, "fsync", fsync)
    results = list(run.results(tasks[:2]))
    assert [result.status for result in results] == ["failed", "failed"]
    assert all("full" in (result.error or "").lower() or "space" in (result.error or "").lower() for result in results)
    assert not outputs & {entry.name for entry in tasks[0].folder.iterdir()}
    assert {entry.name for entry in tasks[0].folder.iterdir()} == {".gfprestore.jsonl"}


def test_what_is_decoded_ahead_and_waits_for_the_encoder_is_bounded_by_bytes(
    tasks: list[PhotoTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = [], []
    real_read, real_write = pipeline.read_photo, pipeline.write_photo

    def reading(*args: Any, **options: Any) -> Any:
        read.append(1)
        return real_read(*args, **options)

    def writing(*args: Any, **options: Any) -> Any:
        written.append(1)
        return real_write(*args, **options)

    monkeypatch.setattr(pipeline, "read_photo", reading)
    monkeypatch.setattr(pipeline, "write_photo", writing)
    run = PhotoRun(opened(Painter(), Finder([])))
    run.waiting_bytes = 2 * 80 * 100 * 3
    ahead = []
    for _ in run.results(tasks):
        ahead.append(len(read) - len(written))
    assert len(written) == 8
    assert max(ahead) <= 5


def test_a_photo_without_faces_does_not_wait_for_a_batch(tasks: list[PhotoTask]) -> None:
    class Sometimes(Finder):
        def detect(self, pixels: NDArray[Any]) -> list[Any]:
            return self.faces if pixels.mean() > 140 else []

    painter = Painter()
    run = PhotoRun(opened(painter, Sometimes([(50, 30)]), RunOptions(batch_size=100)))
    results = list(run.results(tasks))
    assert [result.faces for result in results] == [0] * 7 + [1]
    assert all(task.output.exists() for task in tasks)


def test_a_preview_that_cannot_be_written_is_told_and_the_photo_is_there(tasks: list[PhotoTask]) -> None:
    (tasks[0].folder / "_compare").write_text("in the way")
    run = PhotoRun(opened(Painter(), Finder([])), OutputOptions(compare=True))
    results = list(run.results(tasks[:1]))
    assert results[0].status == "failed"
    assert "_compare" in (results[0].error or "")
    assert results[0].output == tasks[0].output
    assert pixels_of(tasks[0].output).shape == (160, 200, 3)


def test_lines_of_the_journal_that_cannot_be_read_are_told_with_their_number(tasks: list[PhotoTask]) -> None:
    list(PhotoRun(opened(Painter(), Finder([]))).results(tasks[:1]))
    with (tasks[0].folder / ".gfprestore.jsonl").open("ab") as file:
        file.write(b"scratched\n{torn")
    restoration = opened(Painter(), Finder([]))
    told: list[str] = []
    with logged(told):
        results = list(PhotoRun(restoration).results(tasks[:1]))
    assert [result.status for result in results] == ["skipped"]
    assert len(told) == 1
    assert ".gfprestore.jsonl: 2 lines" in told[0]


class TurnedFinder(Finder):
    """Finds the faces of photos that are turned to the left by quarter turns, until they are upright."""

    def __init__(self, turns: Sequence[int]) -> None:
        super().__init__([(50, 40)] * len(turns))
        self.turns = turns
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        self.shapes.append(pixels.shape)
        top_is_red = int(pixels[0, 0, 0]) > int(pixels[-1, -1, 0]) and int(pixels[0, -1, 0]) > int(pixels[-1, 0, 0])
        faces = []
        for face, turns in zip(self.faces, self.turns, strict=True):
            points = face.landmarks
            for _ in range(0 if top_is_red else turns):
                points = np.stack([points[:, 1], 99 - points[:, 0]], axis=1)
            faces.append(replace(face, landmarks=points))
        return faces


def banner(size: tuple[int, int] = (120, 100)) -> NDArray[np.uint8]:
    """A photo (H, W, 3) with a red upper third."""
    pixels = np.full((*size, 3), 60, np.uint8)
    pixels[: size[0] // 3] = (220, 70, 70)
    return pixels


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_written_upright_when_asked(tasks: list[PhotoTask], turns: int) -> None:
    upright = banner()
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 200.0, 2  # pixels per inch across and down
    turned = Image.fromarray(np.rot90(upright, turns))
    turned.putalpha(
        Image.fromarray(
            np.rot90(np.arange(120 * 100, dtype=np.uint16).reshape(120, 100) // 48 + 2, turns).astype(np.uint8)
        )
    )
    turned.save(tasks[0].source, exif=exif)
    options = RunOptions(upscale=1)
    (plain,) = PhotoRun(opened(Painter(), TurnedFinder([turns, turns]), options)).results(tasks[:1])
    assert any("--auto-rotate" in warning for warning in plain.warnings)
    assert "rotated" not in plain.as_json()
    assert size_of(tasks[0].output) == turned.size

    run = PhotoRun(opened(Painter(), TurnedFinder([turns, turns]), options), OutputOptions(auto_rotate=True))
    (result,) = run.results(tasks[:1])
    assert result.status == "restored"
    assert result.as_json()["rotated"] == 90 * turns
    assert not any("--auto-rotate" in warning for warning in result.warnings)
    with Image.open(tasks[0].output) as written:
        assert (result.width, result.height) == written.size == (100, 120)
        pixels, tags = np.asarray(written), written.getexif()
    assert np.abs(pixels[:5, 60:, :3].astype(int) - (220, 70, 70)).max() <= 1  # away from the face
    assert np.abs(pixels[-5:, :, :3].astype(int) - 60).max() <= 1
    assert np.array_equal(pixels[..., 3], np.arange(120 * 100).reshape(120, 100) // 48 + 2)
    resolution = (300, 200) if turns == 2 else (200, 300)
    assert (tags[0x011A], tags[0x011B]) == resolution


def test_a_photo_whose_faces_disagree_stays_as_it_is(tasks: list[PhotoTask]) -> None:
    Image.fromarray(np.rot90(banner())).save(tasks[0].source)
    for turns in ([1, 0], [1, 3], []):
        run = PhotoRun(
            opened(Painter(), TurnedFinder(turns), RunOptions(upscale=1)),
            OutputOptions(auto_rotate=True, overwrite=True),
        )
        (result,) = run.results(tasks[:1])
        assert result.rotated == 0
        assert size_of(tasks[0].output) == (120, 100)
        assert result.warnings == ()


def test_the_sidecar_of_a_photo_that_is_written_upright_turns_with_it_in_later_runs_too(tasks: list[PhotoTask]) -> None:
    def sidecar(rating: int, rectangle: str) -> str:
        return (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:R="http://ns.microsoft.com/photo/1.2/t/Region#" '
            f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{rating}" R:Rectangle="{rectangle}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )

    Image.fromarray(np.rot90(banner())).save(tasks[0].source)
    beside, output = tasks[0].source.with_name("0.png.xmp"), tasks[0].output.with_name("0.png.xmp")
    for rating in (1, 2):
        beside.write_text(sidecar(rating, "0.1, 0.2, 0.3, 0.4"))
        finder = TurnedFinder([1, 1])
        run = PhotoRun(opened(Painter(), finder, RunOptions(upscale=1)), OutputOptions(auto_rotate=True))
        (result,) = run.results([replace(tasks[0], sidecars=(beside,))])
        assert result.status == ("restored" if rating == 1 else "skipped")
        # a quarter turn to the right: left is what was left of the lower edge, 1 - 0.2 - 0.4
        assert output.read_text() == sidecar(rating, "0.4, 0.1, 0.4, 0.3")


SIDECAR = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
    'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#">'
    '<mwg-rs:Regions rdf:parseType="Resource">'
    '<mwg-rs:AppliedToDimensions stDim:w="120" stDim:h="100" stDim:unit="pixel"/>'
    '<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Name="Ada">'
    '<mwg-rs:Area stArea:x="0.25" stArea:y="0.1" stArea:w="0.2" stArea:h="0.15" stArea:unit="normalized"/>'
    "</rdf:Description></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_the_sidecar_of_turned_pages_stays_right_when_they_are_skipped_later(tasks: list[PhotoTask]) -> None:
    folder = tasks[0].source.parent
    task = replace(
        tasks[0],
        source=folder / "a.tif",
        output=tasks[0].folder / "a.tif",
        relative=PurePath("a.tif"),
        sidecars=(folder / "a.tif.xmp",),
    )
    page = Image.fromarray(np.rot90(banner()))
    page.save(task.source, save_all=True, append_images=[page.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    task.sidecars[0].write_text(SIDECAR)
    written = []
    for status in ("restored", "skipped"):
        run = PhotoRun(
            opened(Painter(), TurnedFinder([1]), RunOptions(upscale=1)), OutputOptions(auto_rotate=True, workers=1)
        )
        (result,) = run.results([task])
        assert (result.status, result.error) == (status, None)
        written.append(task.output.with_name("a.tif.xmp").read_text())
    assert written[0] == written[1]
    assert 'stArea:x="0.9"' in written[0] and 'stArea:y="0.25"' in written[0]
    assert 'stDim:w="100"' in written[0] and 'stDim:h="120"' in written[0]
