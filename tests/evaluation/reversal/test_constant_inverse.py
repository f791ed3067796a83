"""The constant inverse: means of known fields and residuals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from doubles import DotFinder, marked_face, smooth
from samples import save

from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.data.retouched_pairs import read_retouched_pairs
from gfprestore.evaluation.reversal.constant_inverse import learn


def test_the_residual_of_untouched_geometry_is_the_mean_difference(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "faces" / f"{number}.png", smooth(number, 256))
    folder = tmp_path / "set"
    retouch_folder(tmp_path / "faces", folder, RetouchOptions(1, "single-whiten-1", keep_alignment=True))
    (folder / "set.json").write_text("{}")  # as if aligned on the retouched face
    for number, offset in enumerate((2, 4, 9)):
        save(folder / "lq" / f"{number}.png", smooth(number, 256))
        save(folder / "gt" / f"{number}.png", smooth(number, 256) + np.uint8(offset))
    inverse = learn(folder, tmp_path, lambda _done, _total: None)
    assert inverse.count == 3 and not inverse.field.any()
    assert np.allclose(inverse.residual, 5)
    image = smooth(7, 256)
    assert (inverse.apply(image) == image + np.uint8(5)).all()


def test_the_field_is_the_mean_of_the_true_ones_and_cached(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "faces" / f"{number}.png", marked_face(number))
    folder = tmp_path / "set"
    retouch_folder(tmp_path / "faces", folder, RetouchOptions(1, "single-shrink-90"), DotFinder())
    told: list[int] = []
    inverse = learn(folder, tmp_path, lambda done, _total: told.append(done))
    expected = np.mean([pair.field(256) for pair in read_retouched_pairs(folder)], axis=0)
    assert np.abs(inverse.field - expected).max() < 1e-4 and np.abs(expected).max() > 1
    assert told == [1, 2, 3, 4]
    again = learn(folder, tmp_path, lambda done, _total: told.append(done))
    assert len(told) == 4 and (again.field == inverse.field).all() and (again.residual == inverse.residual).all()
    (cached,) = tmp_path.glob("constant-*.npz")
    cached.write_bytes(cached.read_bytes()[:200])
    assert (learn(folder, tmp_path, lambda _done, _total: None).field == inverse.field).all()
