"""Memory of a run in the number of photos: a folder of small photos, nearly all done by a synthetic journal.

Prints, for each number of photos, the peak memory above the start of the run, and the seconds that the plan and the
comparison with the journal took. The start is a process that has imported everything and opened its networks (without
faces, Lanczos background), so that the figure is what planned photos, journal and results cost.

    python tests/benchmarks/bench_memory.py 1000 10000 100000 300000
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PHOTOS_A_FOLDER = 500
MEASURE = """
import contextlib, os, resource, sys, time
from pathlib import Path
import gfprestore.commands.run as command
from gfprestore.batch.folders import plan_photos
from gfprestore.batch.results import OutputOptions
from gfprestore.console import Reporter
from gfprestore.photo.photo import PHOTO_SUFFIXES
from gfprestore.photo.writing import output_suffix
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.planned import PlannedRestoration
import gfprestore.batch.pipeline

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB on Linux

restoration = PlannedRestoration(RunOptions(restorer="none", background="lanczos", upscale=1, device="cpu"))
restoration.opened()
start, clock = peak(), time.monotonic()
plan = plan_photos([Path(sys.argv[1])], Path(sys.argv[2]), suffixes=PHOTO_SUFFIXES,
                   rename=lambda source: output_suffix(source, "keep"))
planned, seconds = peak(), time.monotonic() - clock
with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
    failed = command.run_photos(plan, restoration, OutputOptions(), Reporter())
print(len(plan.tasks), failed, round(planned - start, 1), round(peak() - start, 1), round(seconds, 1),
      round(time.monotonic() - clock, 1))
"""


def make_photos(folder: Path, count: int) -> bytes:
    """Write `count` equal small PNG files, 500 a folder, and return their content."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (120, 90, 60)).save(stream, "PNG")
    for number in range(count):
        place = folder / f"album {number // PHOTOS_A_FOLDER:04d}"
        if number % PHOTOS_A_FOLDER == 0:
            place.mkdir(parents=True)
        (place / f"scan {number:06d}.png").write_bytes(stream.getvalue())
    return stream.getvalue()


def finish_first(photos: Path, output: Path, done: int, settings: dict[str, object], fingerprint: str) -> None:
    """Write the results of the first photos and the journal of the run that seems to have made them."""
    output.mkdir()
    content = next(photos.rglob("*.png")).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    with (output / ".gfprestore.jsonl").open("w", encoding="ascii") as journal:
        journal.write(json.dumps({"settings": settings, "fingerprint": fingerprint}) + "\n")
        for number in range(done):
            relative = f"album {number // PHOTOS_A_FOLDER:04d}/scan {number:06d}.png"
            (output / relative).parent.mkdir(exist_ok=True)
            (output / relative).write_bytes(content)
            written, source = (output / relative).stat(), (photos / relative).stat()
            begun = {"relative": relative, "status": "started", "output": relative, "source": str(photos / relative),
                     "fingerprint": fingerprint}  # fmt: skip
            entry = {
                **begun, "status": "restored", "output_size": written.st_size,
                "output_modified_ns": written.st_mtime_ns, "output_sha256": sha256, "source_sha256": sha256,
                "source_size": source.st_size, "source_modified_ns": source.st_mtime_ns, "faces": 0,
                "restored_faces": 0, "seconds": 0.1, "error": None, "started": None,
                "finished": "2026-01-01T00:00:00.000+00:00",
            }  # fmt: skip
            moved = {"file": relative, "sha256": sha256, "size": written.st_size}
            journal.write("".join(json.dumps(line) + "\n" for line in (begun, moved, entry)))


def run_settings_here() -> tuple[dict[str, object], str]:
    """Settings and fingerprint of the run that is measured."""
    from gfprestore.batch.journal import settings_fingerprint
    from gfprestore.batch.results import OutputOptions
    from gfprestore.batch.settings import run_settings
    from gfprestore.restoration.options import RunOptions
    from gfprestore.restoration.planned import PlannedRestoration

    options = RunOptions(restorer="none", background="lanczos", upscale=1, device="cpu")
    settings = run_settings(PlannedRestoration(options), OutputOptions())
    return settings, settings_fingerprint(settings)


def main() -> None:
    """Measure each number of photos in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--left", type=int, default=30, help="One photo in this many is not done.")
    arguments = parser.parse_args()
    settings, fingerprint = run_settings_here()
    print(f"{'photos':>8} {'done':>8} {'plan MB':>8} {'run MB':>8} {'plan s':>7} {'all s':>7}")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            photos, output = Path(folder, "in"), Path(folder, "out")
            make_photos(photos, count)
            done = count - count // arguments.left
            finish_first(photos, output, done, settings, fingerprint)
            result = subprocess.run(
                [sys.executable, "-c", MEASURE, str(photos), str(output)], capture_output=True, text=True, check=True
            )
            total, failed, planned, peak, plan_seconds, seconds = result.stdout.split()
            assert (total, failed) == (str(count), "0"), result.stderr
            print(f"{count:>8} {done:>8} {planned:>8} {peak:>8} {plan_seconds:>7} {seconds:>7}", flush=True)


if __name__ == "__main__":
    main()
