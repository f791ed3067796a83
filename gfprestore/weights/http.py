"""HTTP requests for downloads, using urllib3: separate timeouts, proxies from the environment, checked redirects.

Only http and https are supported. Proxies come from the environment (`https_proxy`, `no_proxy`), trusted certificates
from the system or `SSL_CERT_FILE`. Imports no other module of this package.
"""

from __future__ import annotations

import ssl
import string
import urllib.request
from base64 import b64encode
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProxyError, SSLError

MAX_REDIRECTS = 5


class RedirectRefusedError(Exception):
    """A redirect that a download must not follow."""


class WebClient:
    """HTTP client with one timeout for connecting (including TLS) and one for reading, both in seconds."""

    def __init__(self, connect_seconds: float, read_seconds: float) -> None:
        self._timeout = Timeout(connect=connect_seconds, read=read_seconds)
        self._tls = ssl.create_default_context()

    def get(self, url: str, headers: dict[str, str]) -> BaseHTTPResponse:
        """Send a GET request and follow redirects. The caller reads the body and checks its length.

        Raises:
            RedirectRefusedError: A redirect leads from https to http or to another protocol, or the limit is reached.
            HTTPError: The connection failed, or the response is invalid.
        """
        options: dict[str, Any] = {"timeout": self._timeout, "retries": False, "redirect": False}
        options |= {"preload_content": False, "decode_content": False, "enforce_content_length": False}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._manager(url).request("GET", url, headers=headers, **options)
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url = redirect_target(url, location)
        raise RedirectRefusedError(f"HTTP {response.status}: more than {MAX_REDIRECTS} redirects")

    def _manager(self, url: str) -> PoolManager:
        proxy = _proxy_of(url)
        if proxy is None:
            return PoolManager(ssl_context=self._tls)
        login, _, address = proxy.netloc.rpartition("@")
        headers = {"Proxy-Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if login else None
        proxy_url = f"{proxy.scheme}://{address}"  # without the password, which must not appear in messages
        return ProxyManager(proxy_url, proxy_headers=headers, proxy_ssl_context=self._tls, ssl_context=self._tls)


def redirect_target(url: str, location: str) -> str:
    """Return the absolute address of a redirect.

    Raises:
        RedirectRefusedError: The redirect leads from https to http, or to another protocol.
    """
    try:
        target = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise RedirectRefusedError(f"the redirect target is not a valid address ({location!r})") from error
    if scheme not in ("http", "https"):
        raise RedirectRefusedError(f"the redirect target is not an http or https address ({target})")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise RedirectRefusedError(f"the redirect from https to http is not secure ({target})")
    return target


def is_unreachable(error: HTTPError) -> bool:
    """Whether the connection could not be established, rather than failing later."""
    if isinstance(error, (ConnectTimeoutError, ProxyError, SSLError)):
        return True
    # These two also occur while connecting, but urllib3 reports them as errors of an open connection.
    return any(words in str(cause_of(error)) for words in ("handshake operation timed out", "Tunnel connection failed"))


def connection_reason(url: str, error: HTTPError) -> str:
    """Reason why `url` did not respond, for messages. Names the proxy if one is used."""
    place, proxy, cause = f"{urlsplit(url).hostname}", _proxy_of(url), cause_of(error)
    if proxy is not None:
        place += f" through the proxy {proxy.hostname}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {place} is not trusted ({cause.verify_message}); if a proxy inspects TLS, "
            "set SSL_CERT_FILE to its certificate"
        )
    if isinstance(cause, TimeoutError):
        return f"{place} did not respond in time"
    return f"could not connect to {place} ({getattr(cause, 'strerror', None) or cause})"


def cause_of(error: BaseException) -> BaseException:
    """Return the operating system's error that caused a urllib3 error, or the error itself if there is none."""
    cause, inner = error, error.__cause__ or error.__context__
    while inner is not None:
        cause = inner if isinstance(inner, OSError) else cause
        inner = inner.__cause__ or inner.__context__
    return cause


def _proxy_of(url: str) -> SplitResult | None:
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")
