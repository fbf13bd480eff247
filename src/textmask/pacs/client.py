"""A PACS by DICOMweb: search (QIDO-RS), retrieve (WADO-RS), store (STOW-RS). The only file that uses dicomweb-client.

What the server sends is somebody else's: bytes, results and time are limited, redirects are not followed, UIDs are
checked before they become part of an address, and no message holds what it sent.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from textmask.errors import ConfigError, PacsDownError, PacsError, TextMaskError
from textmask.io.dicom.facts import is_uid

try:
    import requests
    from dicomweb_client import DICOMwebClient
except ModuleNotFoundError as error:
    raise ConfigError(
        f"a PACS needs dicomweb-client: pip install 'textmask[dicom]' ({error})."
    ) from error

TIMEOUT_S = 20.0  # until a connection, and between two pieces of an answer
MAX_ANSWER_S = 300.0  # of a whole answer, however slowly it drips
MAX_INSTANCE_BYTES = 512 << 20
MAX_JSON_BYTES = 32 << 20
MAX_RESULTS = 20_000  # of one query, over all its pages
PAGE = 500
LATER = (429, 502, 503, 504)  # of a server that is starting, stopping or busy
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
SOP_CLASS, MODALITY, PATIENT, ACCESSION, NUMBER = (
    "00080016",
    "00080060",
    "00100020",
    "00080050",
    "00200013",
)
DICOM_PART = 'multipart/related; type="application/dicom"; transfer-syntax=*'
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """A series on the server."""

    study: str
    uid: str
    modality: str


@dataclass(frozen=True)
class Instance:
    """An instance on the server; `number` orders the slices of a series."""

    study: str
    series: str
    uid: str
    number: int = 0
    modality: str = ""


class _Session(requests.Session):
    """Reads answers whole within limits, and turns what goes wrong into our errors."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.timeout_s = timeout_s
        self.most_bytes = MAX_JSON_BYTES
        self.headers["Accept-Encoding"] = "identity"  # nothing that expands

    def request(self, method: str, url: str, **how: Any) -> Any:
        """One request; no redirects, a whole body."""
        how |= {"allow_redirects": False, "stream": True, "timeout": self.timeout_s}
        until = time.monotonic() + MAX_ANSWER_S
        try:
            response = super().request(method, url, **how)
            with response:
                _check_status(response)
                response._content = self._body(response, until)
        except requests.exceptions.SSLError as error:
            raise ConfigError(
                "the PACS has no certificate that this machine trusts. Add that of your hospital to a bundle and name "
                "it in REQUESTS_CA_BUNDLE; verification cannot be switched off."
            ) from error
        except requests.exceptions.InvalidURL as error:
            raise ConfigError("the address of the PACS is malformed.") from error
        except requests.exceptions.RequestException as error:
            raise PacsDownError(f"the PACS does not answer ({type(error).__name__}).") from error
        response._content_consumed = True
        return response

    def _body(self, response: Any, until: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise PacsError("the PACS compresses its answer though it was asked not to.")
        body = bytearray()
        for piece in response.iter_content(1 << 16):
            body += piece
            if len(body) > self.most_bytes:
                raise PacsError(
                    f"the PACS sends more than {self.most_bytes:,} bytes, which are not taken."
                )
            if time.monotonic() > until:
                raise PacsDownError(
                    f"the PACS takes more than {MAX_ANSWER_S:.0f} s for one answer."
                )
        return bytes(body)


def _check_status(response: Any) -> None:
    status = response.status_code
    if status in (401, 403):
        raise ConfigError(
            f"the PACS refuses the credentials ({status}). Check the variables that name them."
        )
    if status in LATER:
        raise PacsDownError(f"the PACS is not ready ({status}).")
    if status >= 300:
        raise PacsError(f"the PACS answers {status}.")


class Pacs:
    """A DICOMweb server.

    Args:
        url: its root, https; plain http only on the loopback of this machine.
        token: bearer token.
        user: with `password`, basic authentication.
        password: of `user`.
        timeout_s: until a connection, and between two pieces of an answer.

    Raises:
        ConfigError: another kind of address, a password in it, or both kinds of credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        loopback = _checked_address(url)
        if token is not None and user is not None:
            raise ConfigError("got a token and a user, expected one kind of credentials.")
        # both name UIDs in their messages
        for name in ("dicomweb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._session = _Session(timeout_s)
        self._session.auth = _credentials(token, user, password)
        if loopback:
            self._session.trust_env = False  # no proxy in between
        self._url = url.rstrip("/")
        self._client = DICOMwebClient(self._url, session=self._session, timeout=timeout_s)
        self._client.set_http_retry_params(retry=False)  # whoever calls waits, and knows why

    def ping(self) -> None:
        """Ask for next to nothing.

        Raises:
            PacsDownError: it does not answer.
            PacsError: it answers something else.
        """
        with self._limits(MAX_JSON_BYTES):
            self._client.search_for_studies(limit=1)

    def series(
        self, modality: str, study: str | None = None, since: str | None = None
    ) -> list[Series]:
        """The series of a modality, in one study or in all since a date (YYYYMMDD).

        Raises:
            PacsError: too many, or no DICOMweb.
        """
        filters = {"Modality": modality} | ({"StudyDate": f"{since}-"} if since else {})
        rows = self._search(
            self._client.search_for_series, SERIES, study_instance_uid=study, search_filters=filters
        )
        found = [
            Series(
                _single_value(row, STUDY) or study or "",
                _single_value(row, SERIES),
                _single_value(row, MODALITY),
            )
            for row in rows
        ]
        return [
            one
            for one in found
            if one.modality == modality and is_uid(one.study) and study in (None, one.study)
        ]

    def studies(self, accession: str) -> list[str]:
        """The studies of one patient that have an accession number.

        Raises:
            PacsError: too many, no DICOMweb, or studies of several patients.
        """
        fields = ["StudyInstanceUID", "PatientID", "AccessionNumber"]
        filters = {"AccessionNumber": accession}
        rows = self._search(
            self._client.search_for_studies, STUDY, search_filters=filters, fields=fields
        )
        rows = [
            row for row in rows if _single_value(row, ACCESSION) == accession
        ]  # servers match more loosely
        if len({_single_value(row, PATIENT) for row in rows}) > 1:
            raise PacsError(
                "the accession number belongs to studies of several patients; name the StudyInstanceUID."
            )
        return [_single_value(row, STUDY) for row in rows]

    def instances(self, series: Series) -> list[Instance]:
        """The instances of a series, by instance number.

        Raises:
            PacsError: too many, or no DICOMweb.
        """
        rows = self._search(
            self._client.search_for_instances,
            INSTANCE,
            study_instance_uid=series.study,
            series_instance_uid=series.uid,
            fields=["InstanceNumber"],
        )
        found = [
            Instance(
                series.study,
                series.uid,
                _single_value(row, INSTANCE),
                _integer(row, NUMBER),
                series.modality,
            )
            for row in rows
        ]
        return sorted(found, key=lambda one: (one.number, one.uid))

    def instance(self, uid: str) -> Instance | None:
        """The instance of that UID, wherever it is.

        Raises:
            PacsError: no DICOMweb.
        """
        rows = self._search(
            self._client.search_for_instances,
            INSTANCE,
            True,
            search_filters={"SOPInstanceUID": uid},
            fields=["Modality"],
        )
        for row in rows:
            found = Instance(
                _single_value(row, STUDY),
                _single_value(row, SERIES),
                _single_value(row, INSTANCE),
                0,
                _single_value(row, MODALITY),
            )
            if found.uid == uid and is_uid(found.study) and is_uid(found.series):
                return found
        return None

    def holds(self, study: str, uid: str) -> bool:
        """Whether an instance of that UID is in a study.

        Raises:
            PacsError: no DICOMweb.
        """
        search = self._client.search_for_instances
        rows = self._search(
            search, INSTANCE, True, study_instance_uid=study, search_filters={"SOPInstanceUID": uid}
        )
        return any(_single_value(row, INSTANCE) == uid for row in rows)

    def fetch(self, instance: Instance) -> bytes:
        """The file of an instance as it is stored, not parsed.

        Raises:
            PacsError: it is gone, too large, or comes in an unexpected form.
        """
        address = f"{self._url}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
        with self._limits(MAX_INSTANCE_BYTES):
            response = self._session.get(address, headers={"Accept": DICOM_PART})
        return _only_part(response.content, response.headers.get("Content-Type", ""))

    def metadata(self, instance: Instance) -> Found:
        """The header of an instance as DICOM JSON, not checked.

        Raises:
            PacsError: it is gone, or no JSON.
        """
        with self._limits(MAX_JSON_BYTES):
            found = self._client.retrieve_instance_metadata(
                instance.study, instance.series, instance.uid
            )
        if not isinstance(found, Mapping):
            raise PacsError("the PACS answers metadata that are no JSON object.")
        return found

    def store(self, study: str, datasets: Sequence[Any]) -> None:
        """Store results. One that is there already is no error.

        Raises:
            PacsError: the server refuses one of them.
        """
        with self._limits(MAX_JSON_BYTES):
            answer = self._client.store_instances(datasets, study_instance_uid=study)
            refused = len(answer.get("FailedSOPSequence") or ())
        if refused:
            raise PacsError(f"the PACS refuses to store {refused} of {len(datasets)} results.")

    def _search(
        self, query: Callable[..., Any], key: str, once: bool = False, **how: Any
    ) -> list[Found]:
        """All pages of a query (or the first), until one brings nothing new; rows without a UID are left out."""
        rows: dict[str, Found] = {}
        offset = 0
        while True:
            with self._limits(MAX_JSON_BYTES):
                page = query(limit=PAGE, offset=offset, **how)
            if not isinstance(page, list):
                raise PacsError("the PACS answers a query with what is no list.")
            before = len(rows)
            for row in page:
                if isinstance(row, Mapping) and is_uid(uid := _single_value(row, key)):
                    rows.setdefault(uid, row)
            offset += len(page)
            if len(rows) > MAX_RESULTS:
                raise PacsError(
                    f"the PACS finds more than {MAX_RESULTS:,}; ask for less, such as a later --since."
                )
            if once or len(rows) == before:  # a server may give shorter pages than it was asked for
                return list(rows.values())

    @contextmanager
    def _limits(self, most_bytes: int) -> Iterator[None]:
        self._session.most_bytes = most_bytes
        try:
            yield
        except TextMaskError:
            raise
        # whatever the client raises on an answer that it does not understand; its messages may quote the answer
        except Exception as error:
            raise PacsError(
                f"the PACS answers what is not DICOMweb ({type(error).__name__})."
            ) from None


def _checked_address(url: str) -> bool:
    """Whether it is on the loopback."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"the address of the PACS is malformed ({error}).") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(
            f"expected the root of a DICOMweb service such as https://host/dicom-web, got {url!r}."
        )
    if parts.username or parts.password:
        raise ConfigError(
            "the address of the PACS holds credentials; name the variables with --user-env, --password-env."
        )
    loopback = _is_loopback(host)
    if parts.scheme == "http" and not loopback:
        raise ConfigError(
            "the address of the PACS begins with http; expected https, except on the loopback (127.0.0.1)."
        )
    return loopback


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(token: str | None, user: str | None, password: str | None) -> Callable[[Any], Any]:
    """What signs a request. Never None: then requests would look into ~/.netrc."""
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


def _single_value(row: Found, tag: str) -> str:
    """The one value of an attribute in DICOM JSON, "" where there is none."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    value = values[0] if isinstance(values, list) and values else ""
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _integer(row: Found, tag: str) -> int:
    text = _single_value(row, tag)
    return (
        int(text)
        if text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 12
        else 0
    )


def _only_part(body: bytes, content_type: str) -> bytes:
    """The one part of a multipart answer."""
    kind, *settings = [piece.strip() for piece in content_type.split(";")]
    if kind.lower() == "application/dicom":
        return body
    named = dict(piece.split("=", 1) for piece in settings if "=" in piece)
    boundary = next(
        (value.strip('"') for name, value in named.items() if name.strip().lower() == "boundary"),
        "",
    )
    if kind.lower() != "multipart/related" or not boundary:
        raise PacsError("the PACS sends an instance in another form than multipart/related.")
    mark = b"--" + boundary.encode()
    start = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    head = body.find(b"\r\n\r\n", start)
    end = body.find(b"\r\n" + mark, head + 2)
    if not body.startswith(mark, start) or head < 0 or end < 0:
        raise PacsError("the PACS sends an instance whose parts do not end.")
    if not body.startswith(mark + b"--", end + 2):
        raise PacsError("the PACS sends more than the one instance it was asked for.")
    return body[head + 4 : end]
