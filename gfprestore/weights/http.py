"""What urllib lacks for large downloads: a separate patience for connections and for data, and choosy redirects.

Only http and https are spoken: no file, ftp or data addresses. Proxies come from the environment (`https_proxy`,
`no_proxy`), trusted certificates from the system or `SSL_CERT_FILE`. Imports nothing of ours.
"""

from __future__ import annotations

import ssl
import urllib.request
from functools import partial
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection
from typing import IO, Any
from urllib.parse import urlsplit

MOST_REDIRECTS = 5


class RedirectRefusedError(Exception):
    """A redirect leads where no download should go."""


def web_opener(read_seconds: float) -> urllib.request.OpenerDirector:
    """An opener for http and https.

    Args:
        read_seconds: How long it waits for the next byte. How long for a connection, `open(..., timeout=)` says.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _HTTPHandler(read_seconds),
        _HTTPSHandler(read_seconds),
        urllib.request.HTTPDefaultErrorHandler(),
        _RedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def connection_reason(url: str, error: object) -> str:
    """Why there was no answer from `url`, in words; names the proxy where one is in between."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        place = f"{parts.hostname} through the proxy {urlsplit(proxy).hostname or proxy}"
    else:
        place = f"{parts.hostname}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {place} is not trusted ({error.verify_message}); behind an inspecting proxy, "
            "name its certificate in SSL_CERT_FILE"
        )
    if isinstance(error, TimeoutError):
        return f"{place} did not answer in time"
    return f"no connection to {place} ({getattr(error, 'strerror', None) or error})"


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http and https only, and never from https back to http."""

    max_redirections = MOST_REDIRECTS
    max_repeats = 2

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python 3.10 does not know 308

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https"):
            fp.close()
            raise RedirectRefusedError(f"redirected to an address that is not on the web ({newurl})")
        if urlsplit(req.full_url).scheme == "https" and scheme == "http":
            fp.close()
            raise RedirectRefusedError(f"redirected from https to an address without protection ({newurl})")
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


class _PatientConnection(HTTPConnection):
    """Waits longer for data than it waited for the connection."""

    def __init__(self, *arguments: Any, read_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._read_seconds = read_seconds

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_seconds)


class _PatientSecureConnection(HTTPSConnection):
    """The same over TLS."""

    def __init__(self, *arguments: Any, read_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._read_seconds = read_seconds

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_seconds)


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self._connection = partial(_PatientConnection, read_seconds=read_seconds)

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(self._connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, read_seconds: float) -> None:
        context = ssl.create_default_context()
        super().__init__(context=context)
        self._connection = partial(_PatientSecureConnection, read_seconds=read_seconds, context=context)

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(self._connection, req)
