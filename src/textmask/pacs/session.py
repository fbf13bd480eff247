"""HTTP session of the PACS client: limits on size and time, no redirects, and errors of this library."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from textmask.errors import ConfigError, PacsAccessError, PacsDownError, PacsError

try:
    import requests
except ModuleNotFoundError as error:
    raise ConfigError(
        f"a PACS needs dicomweb-client: pip install 'textmask[dicom]' ({error})."
    ) from error

MAX_RESPONSE_S = 300.0  # for a whole response, however slowly it arrives
LATER = (429, 502, 503, 504)  # status of a server that is starting, stopping or busy


class LimitedSession(requests.Session):
    """Reads each response completely, within limits on its size and time.

    Args:
        timeout_s: until a connection, and between two pieces of a response.

    Attributes:
        most_bytes: largest accepted body of a response.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.timeout_s = timeout_s
        self.most_bytes = 0
        self.headers["Accept-Encoding"] = "identity"  # compressed bodies could expand

    def request(self, method: str, url: str, **how: Any) -> Any:
        """Send one request and read the whole response; redirects are not followed."""
        how.update(allow_redirects=False, stream=True, timeout=self.timeout_s)
        until = time.monotonic() + MAX_RESPONSE_S
        try:
            response = super().request(method, url, **how)
            with response:
                _check_status(response.status_code)
                response._content = self._body(response, until)
        except requests.exceptions.SSLError as error:
            raise ConfigError(
                "the certificate of the PACS is not trusted on this machine. Add the certificate of your hospital to a "
                "bundle and set REQUESTS_CA_BUNDLE to it; verification cannot be switched off."
            ) from error
        except requests.exceptions.InvalidURL as error:
            raise ConfigError("the URL of the PACS is malformed.") from error
        except requests.exceptions.RequestException as error:
            raise PacsDownError(f"the PACS does not answer ({type(error).__name__}).") from error
        response._content_consumed = True
        return response

    def _body(self, response: Any, until: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise PacsError(
                "the PACS returned a compressed response, although the request excludes that."
            )

        body = bytearray()
        for piece in response.iter_content(1 << 16):
            body += piece
            if len(body) > self.most_bytes:
                raise PacsError(
                    f"the PACS returned more than {self.most_bytes:,} bytes, which is the limit."
                )
            if time.monotonic() > until:
                raise PacsDownError(
                    f"the PACS took more than {MAX_RESPONSE_S:.0f} s for one response."
                )
        return bytes(body)


def _check_status(status: int) -> None:
    if status in (401, 403):
        raise PacsAccessError(
            f"the PACS refused the credentials (status {status}). Check the environment variables that hold them."
        )
    if status in LATER:
        raise PacsDownError(f"the PACS is not ready (status {status}).")
    if status >= 300:
        raise PacsError(f"the PACS returned status {status}.")


def checked_address(url: str) -> bool:
    """Check the URL of a PACS; returns whether it is on the loopback interface.

    Raises:
        ConfigError: the URL is malformed, contains credentials, or is plain http outside the loopback interface.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"the URL of the PACS is malformed ({error}).") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(
            f"expected the root of a DICOMweb service such as https://host/dicom-web, got {url!r}."
        )
    if parts.username or parts.password:
        raise ConfigError(
            "the URL of the PACS contains credentials. Name environment variables with --user-env and --password-env "
            "instead."
        )

    loopback = _is_local(host)
    if parts.scheme == "http" and not loopback:
        raise ConfigError(
            "the URL of the PACS begins with http; expected https, except on the loopback interface (127.0.0.1)."
        )
    return loopback


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def credentials(token: str | None, user: str | None, password: str | None) -> Callable[[Any], Any]:
    """A function that signs a request. It is never None, because requests would then read ~/.netrc."""
    if user is not None:
        signer: Callable[[Any], Any] = requests.auth.HTTPBasicAuth(
            user.encode(), (password or "").encode()
        )
        return signer

    def sign(request: Any) -> Any:
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign
