"""How the dashboard is served: on this machine alone, to its own pages alone, and in a sentence where it cannot be."""

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from ddpm_jax import runtime
from ddpm_jax.dashboard import serve

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "--no-browser"]
LOOPBACK = {"127.0.0.1", "::1"}


def run(*arguments, **environment):
    return subprocess.run(
        [*SCRIPT, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """The process of scripts/dashboard.py and the port that it serves."""
    port, folder = serve.free_port("127.0.0.1", 18501), tmp_path_factory.mktemp("served")
    places = [f"--workdir={folder / 'w'}", f"--data={folder / 'd'}", f"--port={port}"]
    with subprocess.Popen([*SCRIPT, *places], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        tree = psutil.Process(process.pid)
        try:
            wait_for(lambda: answers(port))
            yield tree, port
        finally:
            family = tree.children(recursive=True)
            process.terminate()
            process.wait(30)
            assert psutil.wait_procs(family, timeout=30)[1] == []  # what is served ends with it


def wait_for(happens, seconds=60.0):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "that took too long"
        time.sleep(0.1)


def answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).read() == b"ok"
    except OSError:
        return False


def listening(process):
    """The addresses at which a process or any of its descendants listens."""
    family = [process, *process.children(recursive=True)]
    return {c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def handshake(port, origin, host="127.0.0.1"):
    """The status line of a websocket's handshake with the page's server, known to the browser as `host`."""
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Origin: {origin}",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(4096).decode(errors="replace").partition("\r\n")[0]


def upload(port, cookie="", token=""):
    """The status of an upload to the page's server."""
    url = f"http://127.0.0.1:{port}/_stcore/upload_file/session/file"
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nhello\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Cookie": cookie, "X-Xsrftoken": token}
    request = urllib.request.Request(url, body, headers, method="PUT")
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_listens_on_loopback_alone(dashboard):
    tree, port = dashboard
    found = listening(tree)
    assert port in {address.port for address in found}
    assert {address.ip for address in found} <= LOOPBACK


def test_it_asks_a_newcomer_nothing(tmp_path):
    port = serve.free_port("127.0.0.1", 18601)
    command = serve.command(address="127.0.0.1", port=port, browser=True)
    nobody = {**serve.environment(str(tmp_path), str(tmp_path)), "HOME": str(tmp_path), "BROWSER": "true"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=nobody) as process:
        try:
            wait_for(lambda: answers(port) or process.poll() is not None)
        finally:
            process.terminate()
        assert process.stdout and "email" not in process.stdout.read().lower()


def test_tensorboard_listens_on_loopback_alone_and_ends_with_who_started_it(tmp_path):
    command = [sys.executable, "-m", "ddpm_jax.dashboard.tensorboard", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        address = child.stdout.readline().decode().strip()
        assert address.startswith("http://127.0.0.1:")
        tree = psutil.Process(child.pid)
        assert {found.ip for found in listening(tree)} <= LOOPBACK and listening(tree)
        family = [tree, *tree.children(recursive=True)]
        child.stdin.close()
        assert psutil.wait_procs(family, timeout=20)[1] == []


def test_a_websocket_of_another_origin_is_refused(dashboard):
    _, port = dashboard
    assert " 101 " in handshake(port, f"http://127.0.0.1:{port}")
    for origin in ("http://evil.example", f"http://127.0.0.1.evil.example:{port}", "null"):
        assert " 403 " in handshake(port, origin)


def test_a_websocket_under_a_strangers_name_for_this_machine_is_refused(dashboard):
    _, port = dashboard
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"):
        assert " 403 " in handshake(port, f"http://{host}:{port}", host)
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert " 101 " in handshake(port, f"http://{host}:{port}", host)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("127.8.0.1", ["localhost", "127.0.0.1", "::1", "127.8.0.1"]),
        ("localhost", ["localhost", "127.0.0.1", "::1"]),
        ("10.0.0.7", ["10.0.0.7"]),
        ("2001:db8:0::1", ["2001:db8::1"]),
        ("lab.example", ["lab.example"]),
        ("0.0.0.0", []),
        ("::", []),
    ],
)
def test_pages_are_opened_under_the_names_of_the_address(address, names):
    options = serve.command(address=address, port=1, browser=False)
    assert [word for word in options if "allowedHosts" in word] == [f"--server.allowedHosts={name}" for name in names]


def test_an_upload_without_its_token_is_refused(dashboard):
    _, port = dashboard
    assert upload(port) == 403
    assert upload(port, cookie="_streamlit_xsrf=forged", token="other") == 403


@pytest.mark.parametrize("path", ["/..%2f..%2f{}", "/../../{}", "/static/..%2f..%2f{}", "//{}", "/app/static/../{}"])
def test_no_address_leads_out_of_what_is_served(dashboard, tmp_path, path):
    _, port = dashboard
    (tmp_path / "secret").write_text("secret")
    up = "../" * 12 + str(tmp_path / "secret")
    for file in (up, up.replace("/", "%2f"), "app/static/" + up):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path.format(file))
        assert b"secret" not in connection.getresponse().read()
        connection.close()


def test_what_may_be_sent_is_small_and_errors_are_not_shown():
    command = serve.command(address="127.0.0.1", port=1, browser=False)
    wanted = ("client.showErrorDetails=none", "server.enableXsrfProtection=true", "server.enableCORS=true")
    for option in (*wanted, "server.maxUploadSize=8", "server.address=127.0.0.1", "browser.gatherUsageStats=false"):
        assert f"--{option}" in command
    assert "static" not in " ".join(command).lower()


@pytest.mark.parametrize("address", ["0.0.0.0", "localhost"])
def test_listening_to_all_is_warned_of(address):
    port = serve.free_port("127.0.0.1", 18601)
    with subprocess.Popen(
        [*SCRIPT, f"--address={address}", f"--port={port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert f"http://{address}:{port}" in process.stdout.readline()
        wait_for(lambda: answers(port))
        process.terminate()
        _, errors = process.communicate(timeout=30)
    warning = f"warning: whoever reaches {address} can train and delete runs here"
    assert (warning in errors) == (address == "0.0.0.0")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999999999"])
def test_a_port_out_of_range_is_one_sentence(port):
    result = run(f"--port={port}")
    assert result.returncode == 65
    assert result.stderr.strip().splitlines() == [f"--port is {port}; it must be from 1 to 65535"]


def test_a_port_that_is_no_number_is_one_sentence():
    result = run("--port=http")
    assert result.returncode == 65 and "Traceback" not in result.stderr and "http" in result.stderr


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(runtime.BadInput, match=f"port {port} cannot be had at 127.0.0.1; give another, or leave"):
            serve.free_port("127.0.0.1", port, 1)
        assert serve.free_port("127.0.0.1", port, 50) > port
        result = run(f"--port={port}")
    assert result.returncode == 65 and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("address", ["no.such.host.invalid", "192.0.2.1", "a b; id"])
def test_an_address_of_another_machine_is_one_sentence(address):
    with pytest.raises(runtime.BadInput, match=r"--address is '.*', which is none of this machine's; try 127.0.0.1"):
        serve.free_port(address)


def test_without_streamlit_it_says_how_to_get_it(tmp_path):
    (tmp_path / "streamlit.py").write_text("raise ImportError('there is none')")
    result = run(PYTHONPATH=str(tmp_path))
    assert result.returncode == 65
    (line,) = result.stderr.strip().splitlines()
    assert line == 'the dashboard needs Streamlit: pip install "ddpm_jax[dashboard]"'


def test_only_this_machines_own_addresses_are_loopback():
    own, others = ("127.0.0.1", "localhost", "::1", "127.8.0.1"), ("0.0.0.0", "::", "10.0.0.1", "127.evil.example", "")
    assert all(map(serve.is_loopback, own)) and not any(map(serve.is_loopback, others))
