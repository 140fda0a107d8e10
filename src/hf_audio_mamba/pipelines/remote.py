"""Fetch audio over http(s) with bounds on time, size and where a redirect may lead."""

import ipaddress
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from hf_audio_mamba.errors import AudioError

MAX_DOWNLOAD_BYTES = 256 * 1024**2
MAX_REDIRECTS = 5
DEFAULT_TIMEOUT_S = 60.0
# One server that does not answer must not use up the whole time of a redirect chain.
_MAX_SILENCE_S = 10.0
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(source: str) -> bool:
    """Whether a string names something by scheme (`http://`, `file://`, `s3://`, ...) rather than a local path."""
    return _URL.match(source) is not None


@contextmanager
def downloaded(url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[Path]:
    """Download a URL into a temporary file that lives as long as the `with` block.

    A file rather than bytes: long recordings can then be read window by window.

    Args:
        url: An `http://` or `https://` address.
        timeout_s: Limit in seconds for the whole download, redirects included.

    Yields:
        Path of the downloaded file.

    Raises:
        AudioError: If the scheme is another one, the server cannot be reached or answers with an error, the body is
            empty or larger than `MAX_DOWNLOAD_BYTES`, the time is up, there are more than `MAX_REDIRECTS` redirects, or
            a public server redirects to an address of this machine or its private network.
    """
    # The client that huggingface_hub brings (its package name differs between versions), as transformers does.
    from huggingface_hub.utils import httpx

    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory(prefix="hf_audio_mamba_") as folder:
        # Without the URL's suffix: the content decides about the format.
        path = Path(folder) / "audio"
        try:
            with path.open("wb") as file, httpx.Client(timeout=min(timeout_s, _MAX_SILENCE_S)) as client:
                _fetch(client, url, file, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise AudioError(f"{url} could not be downloaded: {error or type(error).__name__}") from error
        except OSError as error:
            raise AudioError(f"{url} could not be stored in {folder}: {error.strerror or error}") from error
        yield path


def _fetch(client: Any, url: str, file: BinaryIO, deadline: float) -> None:
    """Follow redirects by hand, because each target is checked before it is asked."""
    origin_is_private = _is_private(_host(url))
    address = url
    for _ in range(MAX_REDIRECTS + 1):
        _check_time(url, deadline)
        with client.stream("GET", address, follow_redirects=False) as response:
            if not response.has_redirect_location:
                if response.is_error:
                    raise AudioError(f"{url} could not be downloaded: the server answers {response.status_code}")
                _copy_body(response, url, file, deadline)
                return
            address = urljoin(address, response.headers["location"])
        try:
            host = _host(address)
        except AudioError as error:
            raise AudioError(f"{url} redirects to {error}") from error
        if _is_private(host) and not origin_is_private:
            raise AudioError(
                f"{url} redirects to {address}, which is on this machine or its private network, and is not followed; "
                "if that is intended, pass that address itself"
            )
    raise AudioError(f"{url} could not be downloaded: more than {MAX_REDIRECTS} redirects")


def _copy_body(response: Any, url: str, file: BinaryIO, deadline: float) -> None:
    received = 0
    # Block by block as they arrive: waiting for blocks of one size would let a body that drips outlast the deadline.
    for block in response.iter_bytes():
        _check_time(url, deadline)
        received += len(block)
        if received > MAX_DOWNLOAD_BYTES:
            raise AudioError(
                f"{url} is larger than {MAX_DOWNLOAD_BYTES // 1024**2} MiB; download it yourself and pass its path"
            )
        file.write(block)
    if received == 0:
        raise AudioError(f"{url} could not be downloaded: the body is empty")


def _check_time(url: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise AudioError(f"{url} could not be downloaded in time; raise timeout")


def _host(url: str) -> str:
    """Return the host of an http(s) address; anything else is an error."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise AudioError(f"{url} is not a valid address: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise AudioError(f"{url}: only http and https are fetched; give a local file by its plain path")
    if not host:
        raise AudioError(f"{url} names no host")
    return host


def _is_private(host: str) -> bool:
    """Whether any address of a host is not on the public internet.

    A name that cannot be resolved here is left to the client: behind a proxy only the proxy may know it.
    """
    return any(not address.is_global for address in _addresses(host))


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
