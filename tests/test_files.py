"""Files are written whole or not at all; what a killed process leaves is recognized and removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from doubles import MILD, Descent, make_faces, tiny_config

from gfprestore.data.face_dataset import FaceDataset
from gfprestore.errors import FolderError
from gfprestore.files import append, is_leftover, remove_leftovers, sha256_of, whole_file, write_whole

# How each kind of file is saved into the current folder, as a child process that dies before the data are on the disk.
SAVES = {
    "report.json": "from gfprestore.files import write_whole; write_whole(Path('report.json'), b'{}')",
    "photo.png": (
        "import numpy as np; from gfprestore.data.images import write_png\n"
        "write_png(Path('photo.png'), np.zeros((8, 8, 3), np.uint8))"
    ),
    "checkpoint.pt": (
        "from gfprestore.training.training_state import Checkpoint, write_checkpoint\n"
        "write_checkpoint(Checkpoint(1, 1, 1.0, {}, {}), Path('checkpoint.pt'))"
    ),
    "restorer.safetensors": (
        "import torch; from gfprestore.training.training_state import write_weights\n"
        "write_weights({'a': torch.zeros(3)}, {}, Path('restorer.safetensors'))"
    ),
    "index.jsonl": "from gfprestore.data.prepared_index import write_index; write_index(Path('.'), [])",
}


def killed_while_saving(name: str, folder: Path) -> None:
    program = f"import os\nfrom pathlib import Path\nos.fsync = lambda descriptor: os._exit(9)\n{SAVES[name]}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("name", SAVES)
def test_a_killed_save_leaves_the_old_file_and_one_leftover_that_is_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    killed_while_saving(name, tmp_path)
    (left,) = [path for path in tmp_path.iterdir() if path.name != name]
    assert is_leftover(left.name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert remove_leftovers(tmp_path) == [left]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_training_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    import torch

    from gfprestore.training.loop import fit

    config = tiny_config(make_faces(tmp_path / "faces"), tmp_path / "out", steps=1)
    config.output.mkdir()
    killed_while_saving("checkpoint.pt", config.output)
    assert [is_leftover(path.name) for path in config.output.iterdir()] == [True]
    fit(Descent(), FaceDataset(config.data, 32, MILD, 0, boxes=False), config, torch.device("cpu"))
    assert not any(is_leftover(path.name) for path in config.output.rglob("*"))
    assert (config.output / "checkpoint.pt").is_file()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_told_with_the_file(tmp_path: Path) -> None:
    for write in (write_whole, append):
        with pytest.raises(FolderError, match=r"gone.x cannot be written: .*--output"):
            write(tmp_path / "gone" / "x", b"1")


def test_an_incomplete_last_line_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    append(path, b"three\n", b"\n")
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_the_hash_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
