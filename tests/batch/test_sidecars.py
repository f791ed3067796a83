"""XMP sidecars go with their photos and are true for the results; sidecars of other formats are told once a run."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import piexif
import pytest
from doubles import call, records
from PIL import Image

PLAIN = ("--restorer", "none", "--background", "lanczos")
TIME = 946_684_800  # the first second of the year 2000, UTC
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
REGION = (
    '<r:Regions rdf:parseType="Resource"><r:AppliedToDimensions d:w="120" d:h="80" d:unit="pixel"/><r:RegionList>'
    '<rdf:Bag><rdf:li rdf:parseType="Resource"><r:Area a:x="0.8333" a:y="0.25" a:w="0.1667" a:h="0.25"/></rdf:li>'
    "</rdf:Bag></r:RegionList></r:Regions>"
)


def sidecar(orientation: int = 6, rating: int = 5) -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="{RDF}">\n  <rdf:Description rdf:about="" '
        'xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:r="http://www.metadataworkinggroup.com/schemas/regions/" '
        'xmlns:a="http://ns.adobe.com/xmp/sType/Area#" xmlns:d="http://ns.adobe.com/xap/1.0/sType/Dimensions#" '
        f't:Orientation="{orientation}" xmp:Rating="{rating}">{REGION}</rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n'
    ).encode()


def turned(content: bytes) -> bytes:
    """What a sidecar for orientation 6 says of the result, which is 160 x 240."""
    pairs = (
        (b't:Orientation="6"', b't:Orientation="1"'),
        (b'd:w="120" d:h="80"', b'd:w="160" d:h="240"'),
        (b'a:x="0.8333" a:y="0.25" a:w="0.1667" a:h="0.25"', b'a:x="0.75" a:y="0.8333" a:w="0.25" a:h="0.1667"'),
    )
    for old, new in pairs:
        assert content.count(old) == 1
        content = content.replace(old, new)
    return content


def photo(path: Path, orientation: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=piexif.dump({"0th": {274: orientation}}))
    return path


def run(source: Path, out: Path, *options: str) -> int:
    return call("run", source, "-o", out, *PLAIN, *options)


@pytest.mark.parametrize("name", ["a.jpg.xmp", "a.xmp", "a.JPG.XMP", "A.xmp"])
@pytest.mark.parametrize("named", [True, False])
def test_a_sidecar_goes_with_its_photo_and_is_true_for_the_result(name: str, named: bool, tmp_path: Path) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / name).write_bytes(sidecar())
    os.utime(tmp_path / "in" / name, (TIME, TIME))
    assert run(source if named else source.parent, tmp_path / "out") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    suffix = name[-4:]
    expected = f"a.jpg{suffix}" if name.lower().count(".") == 2 else f"a{suffix}"
    assert written == {".gfprestore.jsonl", "a.jpg", expected}
    assert (tmp_path / "out" / expected).read_bytes() == turned(sidecar())
    assert (tmp_path / "out" / expected).stat().st_mtime == TIME
    assert (tmp_path / "in" / name).read_bytes() == sidecar()


def test_a_sidecar_is_named_after_the_result_where_its_format_changes(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "in" / "sub" / name)
    (tmp_path / "in" / "sub" / "a.jpg.xmp").write_bytes(sidecar())
    (tmp_path / "in" / "sub" / "b.xmp").write_bytes(sidecar())
    assert run(tmp_path / "in", tmp_path / "out", "--format", "png") == 0
    found = {path.name for path in (tmp_path / "out" / "sub").iterdir()}
    assert found == {"a.png", "a.png.xmp", "b.png", "b.xmp"}


def test_the_right_photo_gets_the_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "c.jpg"):
        photo(tmp_path / "in" / name, 1)
    (tmp_path / "in" / "b.CR2").write_bytes(b"II*\0\x10\0\0\0CR\x02\0")
    for name in ("a.xmp", "a.png.xmp", "b.xmp", "lonely.xmp"):
        (tmp_path / "in" / name).write_bytes(sidecar())
    assert run(tmp_path / "in", tmp_path / "out", "--json") == 0
    _, summary = records(capsys)
    assert {path.name for path in (tmp_path / "out").glob("*.xmp")} == {"a.xmp", "a.png.xmp"}, "b.xmp is that of b.CR2"
    assert {"reason": "not an image", "kind": ".xmp", "count": 2} in summary["left_out"]


def test_sidecars_follow_their_sources_after_the_photo_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    out, beside = tmp_path / "out", tmp_path / "in" / "a.jpg.xmp"
    assert run(source.parent, out) == 0
    for rating in (3, 4):
        beside.write_bytes(sidecar(rating=rating))
        capsys.readouterr()
        assert run(source.parent, out, "--json") == 0
        results, _ = records(capsys)
        assert results["a.jpg"]["skipped_because"] == "done"
        assert (out / "a.jpg.xmp").read_bytes() == turned(sidecar(rating=rating))
    assert run(source.parent, out, "--upscale", "3") == 0
    assert b'd:w="240" d:h="360"' in (out / "a.jpg.xmp").read_bytes()


@pytest.mark.parametrize("options", [(), ("--upscale", "3")])
def test_a_sidecar_that_the_user_changed_beside_the_result_is_kept(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = photo(tmp_path / "in" / "a.jpg"), tmp_path / "out"
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(sidecar())
    assert run(source.parent, out) == 0
    (out / "a.jpg.xmp").write_bytes(turned(sidecar(rating=1)))
    assert run(source.parent, out, *options) == 0
    assert (out / "a.jpg.xmp").read_bytes() == turned(sidecar(rating=1))
    assert f"{out / 'a.jpg.xmp'} was changed by you" in capsys.readouterr().err.replace("\n", " ")
    assert run(source.parent, out, "--overwrite") == 0
    assert (out / "a.jpg.xmp").read_bytes() == turned(sidecar())


def test_a_file_that_no_run_wrote_in_the_place_of_a_sidecar_is_kept(tmp_path: Path) -> None:
    source, out = photo(tmp_path / "in" / "a.jpg"), tmp_path / "out"
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(sidecar())
    out.mkdir()
    (out / "a.jpg.xmp").write_text("mine")
    assert run(source.parent, out) == 0
    assert (out / "a.jpg.xmp").read_text() == "mine"
    assert (out / "a.jpg").exists()


def test_other_sidecars_are_told_once_a_run_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    for name in ("a.jpg", "b.jpg"):
        photo(folder / name)
    for name in ("a.jpg.json", "b.jpg.supplemental-metadata.json", "a.aae", "b.jpg.pp3", "settings.json", "cAd.aae"):
        (folder / name).write_text("{}")
    assert run(folder, tmp_path / "out", "--json") == 0
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if "sidecar" in line and line.startswith("warning")]
    assert len(lines) == 1 and "4 sidecars are not copied to the results (.aae, .json, .pp3)" in lines[0]
    left_out = json.loads(told.out.splitlines()[-1])["summary"]["left_out"]
    sidecars = {
        entry["kind"]: entry["count"] for entry in left_out if entry["reason"] == "a sidecar that is not copied"
    }
    assert sidecars == {".json": 2, ".aae": 1, ".pp3": 1}
    assert run(folder / "a.jpg", tmp_path / "other") == 0
    assert "2 sidecars are not copied to the results (.aae, .json)" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("pattern", ["*.xmp", "a.jpg.*"])
@pytest.mark.parametrize("named", [True, False])
def test_excluded_sidecars_stay_behind(pattern: str, named: bool, tmp_path: Path) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(sidecar())
    assert run(source if named else source.parent, tmp_path / "out", "--exclude", pattern) == 0
    assert not list((tmp_path / "out").glob("*.xmp"))


@pytest.mark.parametrize("content", [b"", b"no XML", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///x">]><x>&e;</x>'])
def test_a_sidecar_that_is_no_xmp_is_copied_unchanged_and_told(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(content)
    assert run(source.parent, tmp_path / "out") == 0
    assert (tmp_path / "out" / "a.jpg.xmp").read_bytes() == content
    assert "it was copied unchanged" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions, pipes and links")
def test_sidecars_have_the_permissions_of_their_sources_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(sidecar())
    (tmp_path / "in" / "a.jpg.xmp").chmod(0o600)
    os.mkfifo(tmp_path / "in" / "b.jpg.xmp")
    (tmp_path / "in" / "c.jpg.xmp").symlink_to("nowhere")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.xmp")} == {"a.jpg.xmp"}
    assert stat.S_IMODE((tmp_path / "out" / "a.jpg.xmp").stat().st_mode) == 0o600


def test_a_dry_run_counts_sidecars_and_writes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.jpg.xmp").write_bytes(sidecar())
    assert run(source.parent, tmp_path / "out", "--dry-run") == 0
    assert "XMP sidecars that go with their photos: 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
