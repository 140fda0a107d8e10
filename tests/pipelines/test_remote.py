"""Downloads: what is fetched, what is refused, and that nothing hangs or is left behind."""

import gzip
import http.server
import ipaddress
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.pipelines import AudioClassificationPipeline, remote


class Handler(http.server.BaseHTTPRequestHandler):
    wav = b""
    asked: list[str]  # set by the fixture

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        routes = {"/redirect": self.redirect, "/endless": self.endless, "/slow": self.slow, "/broken": self.broken}
        routes.get("/" + self.path.split("/")[1], self.plain)()

    def plain(self) -> None:
        body, headers = self.wav, {}
        if self.path == "/empty":
            body = b""
        elif self.path == "/page.wav":
            body = b"<html>not audio</html>"
        elif self.path == "/zipped.wav":
            body, headers = gzip.compress(self.wav), {"Content-Encoding": "gzip"}
        self.answer(404 if self.path == "/gone.wav" else 200, {"Content-Length": str(len(body)), **headers}, body)

    def redirect(self) -> None:
        self.answer(302, {"Location": self.path.removeprefix("/redirect/")})

    def endless(self) -> None:
        self.answer(200, {})
        block = b"\0" * 65536
        while True:
            self.wfile.write(block)

    def slow(self) -> None:
        self.answer(200, {})
        for _ in range(100):
            self.wfile.write(b"\0")
            time.sleep(0.05)

    def broken(self) -> None:
        self.answer(200, {"Content-Length": "1000000"}, self.wav[:100])

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """A client that hangs up, as ours does on an endless body, is no news."""


@pytest.fixture
def server(wav: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Base URL of a server on this machine, on a host name that the client takes for a public one."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.wav, Handler.asked = wav.read_bytes(), []
    with Server(("127.0.0.1", 0), Handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{instance.server_port}"
        instance.shutdown()
        thread.join()


@pytest.fixture
def public(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same server under a name that looks like a host on the internet."""
    resolve = remote._addresses
    example = [ipaddress.ip_address("93.184.215.14")]
    monkeypatch.setattr(remote, "_addresses", lambda host: example if host == "localhost" else resolve(host))
    return server.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("path", ["/clip.wav", "/clip", "/clip.raw?x=1#y", "/zipped.wav"])
def test_a_url_is_as_good_as_the_file(
    path: str,
    server: str,
    momamba: AudioClassificationPipeline,
    noise: np.ndarray,
    same_labels: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = momamba(noise)
    same_labels(momamba(server + path), expected)
    same_labels(momamba([server + path, noise]), [expected, expected])
    windows = momamba(server + path, chunk_length_s=1.0, return_timestamps=True)
    assert [entry["timestamp"] for entry in windows["timeline"]] == [(0, 1), (1, 2), (2, 3)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone.wav", "404"),
        ("/empty", "empty"),
        ("/page.wav", "cannot be decoded"),
        ("/broken", "could not be downloaded"),
        ("/redirect/" * 6 + "clip.wav", "more than 5 redirects"),
        ("/redirect/file:///etc/hostname", "only http and https"),
        ("/redirect/ftp://127.0.0.1/x", "only http and https"),
    ],
)
def test_failed_downloads_name_the_url(
    path: str,
    reason: str,
    server: str,
    momamba: AudioClassificationPipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(AudioError, match=reason) as raised:
        momamba(server + path)
    assert server + path in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "FILE:///etc/hostname", "ftp://example.org/a.wav", "s3://bucket/a.wav", "hf://x/a.wav"],
)
def test_other_schemes_are_refused(url: str, momamba: AudioClassificationPipeline) -> None:
    with pytest.raises(AudioError, match="only http and https"):
        momamba(url)


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.wav", "http://[::1", "http://a b/", "http://\0/", "https://é\udc80/"]
)
def test_malformed_addresses_are_refused(url: str, momamba: AudioClassificationPipeline) -> None:
    with pytest.raises(AudioError):
        momamba(url)


def test_nobody_answers(momamba: AudioClassificationPipeline, server: str) -> None:
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.wav"
        with pytest.raises(AudioError, match="could not be downloaded"):
            momamba(url)


def test_an_endless_body_ends(
    momamba: AudioClassificationPipeline, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_DOWNLOAD_BYTES", 2 * 1024**2)
    with pytest.raises(AudioError, match="larger than 2 MiB"):
        momamba(server + "/endless")


def test_a_body_that_drips_ends(momamba: AudioClassificationPipeline, server: str) -> None:
    start = time.monotonic()
    with pytest.raises(AudioError, match="timeout"):
        momamba(server + "/slow", timeout=0.5)
    assert time.monotonic() - start < 30


def test_a_public_server_cannot_send_us_to_a_private_address(
    momamba: AudioClassificationPipeline, server: str, public: str
) -> None:
    with pytest.raises(AudioError, match="private network"):
        momamba(f"{public}/redirect/{server}/secret.wav")
    assert all("redirect" in path for path in Handler.asked)
    for address in ("http://169.254.169.254/latest", "http://[::1]/x", "http://10.0.0.1/x", "http://0x7f000001/x"):
        with pytest.raises(AudioError, match="private network"):
            momamba(f"{public}/redirect/{address}")


def test_redirects_that_stay_public_or_stay_private_are_followed(
    momamba: AudioClassificationPipeline, server: str, public: str, noise: np.ndarray, same_labels: Callable[..., None]
) -> None:
    for base in (server, public):
        same_labels(momamba(f"{base}/redirect/{base}/clip.wav"), momamba(noise))
        same_labels(momamba(f"{base}/redirect//clip.wav"), momamba(noise))


def test_a_path_in_a_dict_is_never_fetched(momamba: AudioClassificationPipeline, server: str) -> None:
    with pytest.raises(AudioError, match="only local files"):
        momamba({"path": f"{server}/clip.wav", "bytes": None})
    assert Handler.asked == []


def test_a_local_file_may_look_like_a_url(
    momamba: AudioClassificationPipeline, wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http_clip.wav").write_bytes(wav.read_bytes())
    assert momamba("http_clip.wav") == momamba(wav)
