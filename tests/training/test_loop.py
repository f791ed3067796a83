"""The training loop: exact resuming, interruption, rollbacks, atomic files, several processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import Descent, logged, make_faces, tiny_config
from samples import pixels_of
from torch import Tensor

from gfprestore.data.face_dataset import FaceDataset, Sample
from gfprestore.errors import (
    DeviceError,
    ExitCode,
    FolderError,
    TrainingDivergedError,
    TrainingInterruptedError,
    UsageError,
    WeightsDamagedError,
    WeightsMismatchError,
)
from gfprestore.files import is_leftover
from gfprestore.training.config import TrainConfig
from gfprestore.training.loader import _end_workers, workers_for
from gfprestore.training.loop import Progress, TrainReport, fit
from gfprestore.training.recipe import Batch
from gfprestore.training.train import open_data, train
from gfprestore.training.training_state import Checkpoint, read_checkpoint, write_checkpoint, write_whole

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"weights": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("loop") / "faces")


def config_of(data: Path, output: Path, **options: Any) -> TrainConfig:
    return tiny_config(data, output, losses={"reconstruction": 1.0}, **options)


def fitted(recipe: Descent, config: TrainConfig, messages: list[str] | None = None, **options: Any) -> TrainReport:
    with logged([] if messages is None else messages):
        return fit(recipe, open_data(config), config, CPU, **options)


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def without_times(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: line[name] for name in line if name not in ("images_per_second", "data_wait")} for line in log]


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {key: leaf for name, inner in items for key, leaf in flattened(inner, f"{prefix}/{name}").items()}


def assert_same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    first, second = flattened(ours), flattened(theirs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        assert same, name


def interrupt_at(step: int, number: signal.Signals) -> Any:
    def progress(now: Progress) -> None:
        if now.step == step:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize("stage", ["restoration", "prior"])
def test_a_resumed_training_ends_with_the_same_bits_as_one_that_was_never_stopped(
    stage: str, data: Path, tmp_path: Path
) -> None:
    whole = replace(tiny_config(data, tmp_path / "whole", steps=5, r1_every=2, path_every=2), stage=stage)  # type: ignore[arg-type]
    stopped = replace(whole, output=tmp_path / "stopped", workers=1)
    train(whole)
    train(replace(stopped, preset=replace(stopped.preset, steps=3)))
    report = train(stopped)
    assert (report.step, report.steps_now) == (5, 2)
    first, second = (torch.load(config.output / "checkpoint.pt", weights_only=True) for config in (whole, stopped))
    assert_same_bits(first, second)
    assert without_times(log_of(whole.output)) == without_times(log_of(stopped.output))
    assert [line["step"] for line in log_of(stopped.output)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_writes_the_checkpoint_and_loses_nothing(
    number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    whole, stopped = (config_of(data, tmp_path / name, steps=6) for name in ("whole", "stopped"))
    fitted(Descent(), whole)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingInterruptedError, match=r"Interrupted at step 4 of 6\..*again to resume") as stop:
        fitted(Descent(), stopped, progress=interrupt_at(4, number))
    assert stop.value.exit_code == ExitCode.INTERRUPTED == 130
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert read_checkpoint(stopped.output / "checkpoint.pt", SIZES).step == 4
    assert fitted(Descent(), stopped).steps_now == 2
    first, second = (torch.load(config.output / "checkpoint.pt", weights_only=True) for config in (whole, stopped))
    assert_same_bits(first, second)


class Exploding(Descent):
    """A recipe whose reconstruction loss is a hundred times too large at one step."""

    def __init__(self, explosion_step: int) -> None:
        super().__init__()
        self.explosion_step = explosion_step

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        loss = super().step(batches, step, learning_rate_scale)["distance"] * 0 + 0.2
        if step == self.explosion_step:
            self.explosion_step, loss = 0, loss * 100
        return {"reconstruction": loss}


@pytest.mark.parametrize(("explosion_step", "rollbacks"), [(28, 1), (3, 0)])
def test_an_exploding_loss_causes_a_rollback_once_its_running_mean_is_known(
    explosion_step: int, rollbacks: int, data: Path, tmp_path: Path
) -> None:
    messages: list[str] = []
    config = config_of(data, tmp_path, steps=30, save_every=5)
    report = fitted(Exploding(explosion_step), config, messages)
    assert report.rollbacks == rollbacks
    expected = (
        "The training diverged at step 28: reconstruction is 20, more than 10 times its running mean. "
        "Rolled back to step 25"
    )
    assert any(line.startswith(expected) for line in messages) == bool(rollbacks)
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 31))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_of_processes_stops_a_training_as_well(
    number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    config = replace(config_of(data, tmp_path / "stopped", steps=6), workers=1)
    killed: list[int] = []

    def interrupt_all(progress: Progress) -> None:
        if progress.step == 3:
            for child in multiprocessing.active_children():
                killed.append(child.pid or 0)
                os.kill(child.pid or 0, number)
            time.sleep(0.2)  # a worker that died would be noticed with the next batch
            os.kill(os.getpid(), number)

    with pytest.raises(TrainingInterruptedError, match="Interrupted at step 3 of 6"):
        fitted(Descent(), config, progress=interrupt_all)
    assert killed, "there was a worker"
    assert read_checkpoint(config.output / "checkpoint.pt", SIZES).step == 3


def test_a_nan_loss_rolls_back_to_the_last_checkpoint_at_half_the_learning_rate(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    recipe = Descent(nan_steps=[5, 6])
    config = config_of(data, tmp_path, steps=8, save_every=4)
    report = fitted(recipe, config, messages)
    assert report.rollbacks == 2
    assert recipe.learning_rates == [(step, 0.1) for step in (1, 2, 3, 4, 5)] + [(5, 0.05), (6, 0.05)] + [
        (step, 0.025) for step in (5, 6, 7, 8)
    ]
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["rate"] for line in log_of(tmp_path)] == [0.1] * 4 + [0.025] * 4
    assert messages[-2:] == [
        f"The training diverged at step {step}: NaN or infinite values in distance. Rolled back to step 4; "
        f"the learning rates are now {scale} times those of the preset."
        for step, scale in ((5, 0.5), (6, 0.25))
    ]
    assert read_checkpoint(tmp_path / "checkpoint.pt", SIZES).learning_rate_scale == 0.25


def test_nan_weights_are_never_written(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    recipe = Descent(nan_weights_after=4)
    fitted(recipe, config_of(data, tmp_path, steps=6, save_every=2), messages)
    assert "NaN or infinite values in the weights" in messages[-1] and "Rolled back to step 2" in messages[-1]
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt", SIZES)
    assert checkpoint.step == 6
    assert checkpoint.recipe["weight"].isfinite().all()
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_training_that_always_diverges_stops_and_keeps_its_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="diverged at step 3: .*5 rollbacks to step 2 with lower"):
        fitted(Descent(nan_steps=[3] * 20), config_of(data, tmp_path, steps=6, save_every=2))
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt", SIZES)
    assert (checkpoint.step, checkpoint.position) == (2, 4)


def test_a_full_disk_is_a_clear_error_and_no_checkpoint_is_lost(data: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limit on a file's size")
    config = config_of(data, tmp_path, steps=6, save_every=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: Progress) -> None:
        if now.step == 3:  # from here on no file may grow beyond some bytes: writing fails in the middle
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(FolderError, match="The previous file is kept") as full:
            fitted(Descent(), config, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full.value.exit_code == ExitCode.FOLDER
    assert read_checkpoint(tmp_path / "checkpoint.pt", SIZES).step == 2
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    assert fitted(Descent(), config).steps_now == 4


KILLED_SAVE = """
    import os, sys
    from pathlib import Path
    from gfprestore.training.training_state import write_whole

    def write(stream):
        stream.write(b"half a checkpoint")
        stream.flush()
        os._exit(9)

    write_whole(Path(sys.argv[1]), write)
"""


def test_the_leftover_of_a_killed_save_is_removed_by_the_next_training(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, steps=4)
    fitted(Descent(), replace(config, preset=replace(config.preset, steps=2)))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(KILLED_SAVE), str(tmp_path / "checkpoint.pt")]
    assert subprocess.run(command, timeout=120).returncode == 9
    (leftover,) = [path for path in tmp_path.iterdir() if is_leftover(path.name)]
    assert leftover.read_bytes() == b"half a checkpoint"
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert fitted(Descent(), config).steps_now == 2
    assert not [path for path in tmp_path.rglob("*") if is_leftover(path.name)]


def test_no_space_left_is_reported_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderError, match=r"the disk is full\. The previous file is kept"):
        write_whole(path, lambda stream: stream.write(b"new"))
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_of_other_sizes_names_what_differs(data: Path, tmp_path: Path) -> None:
    train(tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, steps=1))
    wider = tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, steps=2, narrow=1 / 16)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(
        WeightsMismatchError, match=r"channels \[16, 16, 16, 16\] instead of \[32, 32, 32, 32\]"
    ) as error:
        train(wider)
    assert error.value.exit_code == ExitCode.WEIGHTS
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "text", "code"])
def test_a_damaged_checkpoint_is_an_error_and_its_code_is_never_run(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(Checkpoint(1, 2, 1.0, SIZES, {"weight": torch.zeros(1000)}), path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage == "text":
        path.write_text("no checkpoint")
    else:
        torch.save({"step": 1, "recipe": Path(tmp_path)}, path)
    with pytest.raises(WeightsDamagedError, match=r"damaged or is not a training checkpoint.*--output"):
        read_checkpoint(path, SIZES)


def test_a_finished_training_returns_immediately(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, steps=3)
    fitted(Descent(), config)
    recipe = Descent()
    report = fitted(recipe, config)
    assert (report.step, report.steps_now, report.losses) == (3, 0, {})
    assert recipe.learning_rates == []
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3]


def test_the_log_has_every_loss_by_name_and_the_pace(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, steps=4, log_every=2)
    train(config)
    log = log_of(tmp_path)
    assert [line["step"] for line in log] == [2, 4]
    losses = {"reconstruction", "pyramid", "adversarial", "components", "component-style"}
    others = {"discriminator", "component-discriminator", "r1", "rate", "images_per_second", "data_wait", "step"}
    assert set(log[0]) == losses | others
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert all(line["images_per_second"] > 0 and 0 <= line["data_wait"] < 1 for line in log)


def test_an_incomplete_line_of_the_log_is_removed_on_resuming(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, steps=2)
    fitted(Descent(), config)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 3, "dist')
    fitted(Descent(), replace(config, preset=replace(config.preset, steps=3)))
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3]


def test_the_sample_image_shows_the_same_faces_in_columns(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, losses={"reconstruction": 1.0}, steps=2, sample_every=1)
    train(config)
    first, second = (pixels_of(tmp_path / "samples" / f"000000{step}.png").astype(int) for step in (1, 2))
    assert first.shape == (4 * 32, 4 * 32, 3)
    dataset = open_data(config)
    for row in range(4):
        sample = dataset[row]
        for column, expected in ((0, sample.lq), (3, sample.gt)):
            cell = first[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            levels = (expected.permute(1, 2, 0).numpy() + 1) * 127.5
            np.testing.assert_allclose(cell, levels, atol=0.51)
    assert (first[:, :32] == second[:, :32]).all() and (first[:, 96:] == second[:, 96:]).all()
    assert (first[:, 64:96] != second[:, 64:96]).any(), "the restored faces change"


def test_a_damaged_image_is_skipped_and_reported_once(data: Path, tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", count=3)
    (faces / "01.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    messages: list[str] = []
    fitted(Descent(), config_of(faces, tmp_path / "out", steps=6, workers=1), messages)
    assert len([line for line in messages if "01.png" in line]) == 1


def test_an_empty_folder_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(FolderError, match="no images"):
        train(config_of(tmp_path / "faces", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_images_that_are_all_too_small_are_an_error_in_a_worker_too(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", count=2, size=16)
    with pytest.raises(FolderError, match=r"^None of the 2 images .*16 pixels a side") as held:
        fitted(Descent(), config_of(faces, tmp_path / "out", workers=1))
    assert not multiprocessing.active_children(), f"no worker outlives {held.type}, which still holds the loader"


def test_a_worker_that_hangs_and_ignores_signals_ends_with_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # PyTorch's patience, 5 s

    class Stuck(FaceDataset):
        def __getitem__(self, position: int) -> Sample:
            if position >= 8:
                time.sleep(3600)  # a network folder that went away, while images are loaded ahead
            return super().__getitem__(position)

    config = config_of(data, tmp_path, steps=3, workers=1)
    stuck = open_data(config)
    stuck.__class__ = Stuck
    report = fit(Descent(), stuck, config, CPU)
    assert report.step == 3
    assert not multiprocessing.active_children()


def test_an_output_that_is_a_file_is_an_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(FolderError, match="cannot be created"):
        fitted(Descent(), config_of(data, tmp_path / "out"))


def test_too_little_memory_suggests_a_smaller_batch(data: Path, tmp_path: Path) -> None:
    class TooLarge(Descent):
        def step(self, batches: Any, step: int, learning_rate_scale: float) -> dict[str, Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceError, match="too little memory for 2 images at once.*--accumulate 2") as error:
        fitted(TooLarge(), config_of(data, tmp_path))
    assert error.value.exit_code == ExitCode.DEVICE


def test_a_batch_that_cannot_be_divided_is_a_usage_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not divide a batch of 2"):
        config_of(data, tmp_path, accumulate=4)


@pytest.mark.parametrize(
    ("loading", "learning", "cores", "is_cpu", "expected"),
    [
        (0.01, 1.0, 2, True, 0),  # a hundredth of the step: no process is worth it
        (0.20, 1.0, 2, True, 1),
        (0.20, 1.0, 16, False, 1),
        (2.00, 0.5, 16, False, 5),  # four keep up, a quarter to spare
        (9.00, 0.5, 8, False, 7),  # one core is left
        (9.00, 0.5, 1, False, 1),
    ],
)
def test_the_number_of_workers_keeps_up_with_the_training(
    loading: float, learning: float, cores: int, is_cpu: bool, expected: int
) -> None:
    assert workers_for(loading, learning, cores, is_cpu=is_cpu) == expected


def test_the_number_of_workers_is_measured_and_reported(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    report = fitted(Descent(), config_of(data, tmp_path, steps=4, workers=None), messages)
    (line,) = [line for line in messages if "Loading the 2 images of a step takes" in line]
    assert line.endswith(f"{report.workers} worker process(es).") or report.workers == 0


def test_measured_or_given_workers_see_the_same_images(data: Path, tmp_path: Path) -> None:
    weights = []
    for name, workers in (("none", 0), ("two", 2), ("measured", None)):
        recipe = Descent()
        fitted(recipe, config_of(data, tmp_path / name, steps=5, workers=workers))
        weights.append(recipe.weight)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_a_worker_that_aborts_on_exit_does_not_keep_the_others_alive() -> None:
    class Aborted:
        def __init__(self) -> None:
            self._workers = [multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))]
            self._workers[0].start()

        def _shutdown_workers(self) -> None:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Aborted.")

    iterator = Aborted()
    _end_workers(iterator)  # type: ignore[arg-type]
    assert not iterator._workers[0].is_alive()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores here")
def test_more_workers_than_cores_are_reported_in_one_line_and_still_load(data: Path, tmp_path: Path) -> None:
    cores, messages = os.sched_getaffinity(0), []
    os.sched_setaffinity(0, {min(cores)})
    try:
        report = fitted(Descent(), config_of(data, tmp_path, steps=3, workers=2), messages)
    finally:
        os.sched_setaffinity(0, cores)
    assert "--workers 2 is more than the 1 core(s) that this process may use." in messages
    assert (report.step, report.workers) == (3, 2)


TWO_PROCESSES = """
    import logging, os, sys, time
    from pathlib import Path
    import torch
    sys.path[:0] = {paths!r}
    from doubles import tiny_config
    from gfprestore.training import train as module

    config = tiny_config(Path({data!r}), Path({output!r}), batch_size=8, steps=3, r1_every=2)
    fit = module.fit

    def fit_late(*arguments, **settings):
        end = time.monotonic() + {lateness}
        while time.monotonic() < end and not (config.output / "checkpoint.pt").exists():
            time.sleep(0.05)
        return fit(*arguments, **settings)

    if os.environ["RANK"] == "1":
        module.fit = fit_late
    torch.set_num_threads(1)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO)
    module.train(config)
"""


def trained_by_two(data: Path, output: Path, lateness: float = 0.0) -> subprocess.CompletedProcess[str]:
    """Train with two processes; the second one is late by so many seconds, or until the first checkpoint exists."""
    tests = Path(__file__).resolve().parents[1]
    output.parent.mkdir(parents=True, exist_ok=True)
    script = output.parent / "train.py"
    paths = [str(tests)]
    text = TWO_PROCESSES.format(paths=paths, data=str(data), output=str(output), lateness=lateness)
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_train_the_same_network_as_one(data: Path, tmp_path: Path) -> None:
    """The processes share the same images; discriminators and penalties are included."""
    train(tiny_config(data, tmp_path / "1", batch_size=8, steps=3, r1_every=2))
    done = trained_by_two(data, tmp_path / "2")
    assert done.stdout.count("images in") == 1, "only the main process writes messages"
    one, two = (
        flattened(torch.load(tmp_path / processes / "checkpoint.pt", weights_only=True)["recipe"])
        for processes in ("1", "2")
    )
    moments = 0
    for name, value in one.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1:
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")
            moments += "exp_avg_sq" in name
    assert moments > 50, "the squares of the gradients were compared"
    for ours, theirs in zip(log_of(tmp_path / "1"), log_of(tmp_path / "2"), strict=True):
        for name in ("reconstruction", "pyramid", "adversarial", "components", "component-style", "discriminator"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_a_late_process_does_not_take_the_first_checkpoint_for_an_earlier_trainings(data: Path, tmp_path: Path) -> None:
    done = trained_by_two(data, tmp_path / "out", lateness=5.0)
    assert "Resuming" not in done.stdout
    assert log_of(tmp_path / "out")[-1]["step"] == 3


def test_the_stream_is_the_datasets_own(data: Path, tmp_path: Path) -> None:
    """The images of a step do not depend on the number of parts: 8 images at once, or in four parts."""
    seen: dict[int, list[Tensor]] = {}

    class Watching(Descent):
        def step(self, batches: Any, step: int, learning_rate_scale: float) -> dict[str, Tensor]:
            seen.setdefault(len(batches), []).append(torch.cat([batch.sample.gt for batch in batches]))
            return super().step(batches, step, learning_rate_scale)

    for parts in (1, 4):
        config = config_of(data, tmp_path / str(parts), steps=2, batch_size=8, accumulate=parts)
        fitted(Watching(), config)
    dataset: FaceDataset = open_data(config)
    expected = torch.stack([dataset[position].gt for position in range(16)])
    for parts in (1, 4):
        assert torch.equal(torch.cat(seen[parts]), expected)


def test_tensorboard_shows_what_the_log_holds_also_after_a_stop(data: Path, tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError)
    config = config_of(data, tmp_path, steps=6)
    with pytest.raises(TrainingInterruptedError):
        fitted(Descent(), config, progress=interrupt_at(3, signal.SIGTERM))
    fitted(Descent(), config)
    shown = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    curve = {event.step: event.value for event in shown.Scalars("distance")}
    log = {int(line["step"]): line["distance"] for line in log_of(tmp_path)}
    assert curve.keys() == log.keys() == set(range(1, 7))
    assert all(curve[step] == pytest.approx(value, rel=1e-5) for step, value in log.items())
