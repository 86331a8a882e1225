"""Raw files against a loopback server that misbehaves: only pinned bytes are used, every refusal is a sentence."""

import hashlib
import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm_jax.datasets import raw

BODY = bytes(range(256)) * 600
HTML = b"<html>please log in to the airport network</html>"


class Server(http.server.ThreadingHTTPServer):
    """Answers with `script`, one entry a request (the last one again and again), and counts the requests."""

    script: tuple[str, ...] = ("good",)
    requests = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is expected here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/thing.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        deed = self.server.script[min(self.server.requests, len(self.server.script) - 1)]
        self.server.requests += 1
        if deed in ("404", "503"):
            self.send_error(int(deed))
        elif deed == "hang up":
            self.connection.close()
        else:
            body = {"wrong": BODY[::-1], "html": HTML, "long": BODY * 20}.get(deed, BODY)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if deed == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(raw.MIRROR, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(raw, "BACKOFF", (0.0, 0.0))
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def pinned(url: str) -> raw.File:
    return raw.File("set/thing.bin", url, hashlib.sha256(BODY).hexdigest(), len(BODY))


def test_verified_bytes_are_downloaded_once_and_then_used_offline(server: Server, tmp_path: Path) -> None:
    (path,) = raw.fetch([pinned(server.url)], tmp_path)
    assert path == tmp_path / "set" / "thing.bin" and path.read_bytes() == BODY
    assert raw.fetch([pinned("http://127.0.0.1:1/gone")], tmp_path) == [path]
    assert server.requests == 1
    assert [one.name for one in path.parent.iterdir()] == ["thing.bin"]


@pytest.mark.parametrize("first", ["cut", "503", "hang up"])
def test_a_passing_failure_is_tried_again(
    server: Server, tmp_path: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = (first, first, "good")
    (path,) = raw.fetch([pinned(server.url)], tmp_path)
    assert path.read_bytes() == BODY and server.requests == 3
    assert caplog.text.count("trying again in 0 s") == 2


@pytest.mark.parametrize(("deed", "received"), [("wrong", BODY[::-1]), ("html", HTML), ("long", BODY + BODY[:1])])
def test_wrong_bytes_are_removed_and_named(server: Server, tmp_path: Path, deed: str, received: bytes) -> None:
    server.script = (deed,)
    found, expected = hashlib.sha256(received).hexdigest(), hashlib.sha256(BODY).hexdigest()
    with pytest.raises(ValueError, match=f"gave {len(received)} bytes of sha256 {found}, expected {expected}"):
        raw.fetch([pinned(server.url)], tmp_path)
    assert server.requests == 1
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize(("deed", "reason", "requests"), [("404", "Not Found", 1), ("cut", "cut after 76800 of", 3)])
def test_what_cannot_be_had_is_told_how_to_get(
    server: Server, tmp_path: Path, deed: str, reason: str, requests: int
) -> None:
    server.script = (deed,)
    file = pinned(server.url)
    other = file._replace(path="set/other.bin", url=server.url + "?other")
    with pytest.raises(ValueError, match=reason) as refusal:
        raw.fetch([file, other], tmp_path)
    assert server.requests == requests
    for one in (file, other):
        assert f"{one.url} (sha256 {one.sha256}) as {tmp_path / one.path}" in str(refusal.value)
    assert "or set DDPM_JAX_MIRROR to a directory that holds set/thing.bin, set/other.bin" in str(refusal.value)
    assert list((tmp_path / "set").iterdir()) == []


def test_without_a_network_it_is_told_how_to_get(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:1/thing.bin: .*Connection refused"):
        raw.fetch([pinned("http://127.0.0.1:1/thing.bin")], tmp_path)


def test_the_mirror_comes_first_and_is_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = tmp_path / "mirror" / "set" / "thing.bin"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(BODY)
    monkeypatch.setenv(raw.MIRROR, str(tmp_path / "mirror"))
    assert raw.fetch([pinned(server.url)], tmp_path / "raw") == [mirrored]
    assert raw.at_hand([pinned(server.url)], tmp_path / "raw")
    mirrored.write_bytes(HTML)
    with pytest.raises(ValueError, match=rf"{mirrored} has sha256 \w+, expected \w+; remove or replace it"):
        raw.fetch([pinned(server.url)], tmp_path / "raw")
    assert mirrored.read_bytes() == HTML and server.requests == 0


def test_a_damaged_copy_is_removed_named_and_downloaded_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set" / "thing.bin"
    path.parent.mkdir()
    path.write_bytes(HTML)
    with caplog.at_level(logging.WARNING):
        assert raw.fetch([pinned(server.url)], tmp_path) == [path]
    assert f"removed {path}: sha256 {hashlib.sha256(HTML).hexdigest()}, expected" in caplog.text
    assert path.read_bytes() == BODY
    path.write_bytes(HTML)
    with pytest.raises(ValueError, match="cannot download"):
        raw.fetch([pinned("http://127.0.0.1:1/gone")], tmp_path)
    assert not path.exists()
