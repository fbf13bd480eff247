"""A DICOMweb client: search (QIDO-RS), retrieve (WADO-RS), store (STOW-RS). The only file that uses dicomweb-client.

The server is not trusted: bytes, results and time are limited, redirects are not followed, UIDs are checked before
they become part of a URL, and error messages never contain what the server sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from textmask.errors import ConfigError, PacsError, TextMaskError
from textmask.io.dicom.facts import is_uid
from textmask.pacs.session import LimitedSession, checked_address, credentials

try:
    from dicomweb_client import DICOMwebClient
except ModuleNotFoundError as error:
    raise ConfigError(
        f"a PACS needs dicomweb-client: pip install 'textmask[dicom]' ({error})."
    ) from error

TIMEOUT_S = 20.0  # until a connection, and between two pieces of a response
MAX_INSTANCE_BYTES = 512 << 20
MAX_JSON_BYTES = 32 << 20
MAX_RESULTS = 20_000  # of one query, over all its pages
PAGE = 500
# tags as DICOM JSON writes them
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
SOP_CLASS, MODALITY, PATIENT, ACCESSION, NUMBER = (
    "00080016",
    "00080060",
    "00100020",
    "00080050",
    "00200013",
)
DICOM_PART = 'multipart/related; type="application/dicom"; transfer-syntax=*'
Found = Mapping[str, Any]  # a data set as DICOM JSON


@dataclass(frozen=True)
class Series:
    """A series on the server."""

    study: str
    uid: str
    modality: str


@dataclass(frozen=True)
class Instance:
    """An instance on the server; `number` is its InstanceNumber, which orders the slices of a series."""

    study: str
    series: str
    uid: str
    number: int = 0
    modality: str = ""


class Pacs:
    """A DICOMweb server.

    Args:
        url: root of the service, https; plain http only on the loopback interface of this machine.
        token: bearer token.
        user: user name for basic authentication.
        password: password of `user`.
        timeout_s: seconds until a connection, and between two pieces of a response.

    Raises:
        ConfigError: the URL is not accepted, or both kinds of credentials are given.
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
        loopback = checked_address(url)
        if token is not None and user is not None:
            raise ConfigError("got a token and a user; expected only one of them.")

        # their log messages contain UIDs
        for name in ("dicomweb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

        self._session = LimitedSession(timeout_s)
        self._session.auth = credentials(token, user, password)
        if loopback:
            self._session.trust_env = False  # no proxy
        self._url = url.rstrip("/")
        self._client = DICOMwebClient(self._url, session=self._session, timeout=timeout_s)
        self._client.set_http_retry_params(retry=False)  # the caller waits and logs the reason

    def ping(self) -> None:
        """Send a minimal query.

        Raises:
            PacsDownError: the server does not answer.
            PacsError: the response is not DICOMweb.
        """
        with self._limits(MAX_JSON_BYTES):
            self._client.search_for_studies(limit=1)

    def responds(self) -> bool:
        """Whether the server answers a minimal query; it may have failed for one object only."""
        try:
            self.ping()
        except (PacsError, ConfigError):
            return False
        return True

    def series(
        self, modality: str, study: str | None = None, since: str | None = None
    ) -> list[Series]:
        """Find the series of a modality.

        Args:
            modality: such as CT.
            study: search only this study.
            since: search only studies since this date (YYYYMMDD).

        Raises:
            PacsError: there are too many, or the response is not DICOMweb.
        """
        filters = {"Modality": modality}
        if since:
            filters["StudyDate"] = f"{since}-"
        rows = self._search(
            self._client.search_for_series, SERIES, study_instance_uid=study, search_filters=filters
        )

        # servers may ignore a filter
        found = []
        for row in rows:
            uid, own = _single_value(row, SERIES), _single_value(row, STUDY) or study or ""
            if _single_value(row, MODALITY) == modality and is_uid(own) and study in (None, own):
                found.append(Series(own, uid, modality))
        return found

    def studies(self, accession: str) -> list[str]:
        """Find the UIDs of the studies with an accession number.

        Raises:
            PacsError: there are too many, they belong to several patients, or the response is not DICOMweb.
        """
        fields = ["StudyInstanceUID", "PatientID", "AccessionNumber"]
        filters = {"AccessionNumber": accession}
        rows = self._search(
            self._client.search_for_studies, STUDY, search_filters=filters, fields=fields
        )

        # servers match more loosely
        rows = [row for row in rows if _single_value(row, ACCESSION) == accession]
        if len({_single_value(row, PATIENT) for row in rows}) > 1:
            raise PacsError(
                "the accession number belongs to studies of several patients. Give the StudyInstanceUID instead."
            )
        return [_single_value(row, STUDY) for row in rows]

    def instances(self, series: Series) -> list[Instance]:
        """Find the instances of a series, sorted by instance number.

        Raises:
            PacsError: there are too many, or the response is not DICOMweb.
        """
        rows = self._search(
            self._client.search_for_instances,
            INSTANCE,
            study_instance_uid=series.study,
            series_instance_uid=series.uid,
            fields=["InstanceNumber"],
        )

        found = []
        for row in rows:
            uid, number = _single_value(row, INSTANCE), _integer(row, NUMBER)
            found.append(Instance(series.study, series.uid, uid, number, series.modality))
        return sorted(found, key=lambda one: (one.number, one.uid))

    def instance(self, uid: str) -> Instance | None:
        """Find an instance by its UID in any study; None if there is none.

        Raises:
            PacsError: the response is not DICOMweb.
        """
        rows = self._search(
            self._client.search_for_instances,
            INSTANCE,
            True,
            search_filters={"SOPInstanceUID": uid},
            fields=["Modality"],
        )

        for row in rows:
            study, series = _single_value(row, STUDY), _single_value(row, SERIES)
            if _single_value(row, INSTANCE) == uid and is_uid(study) and is_uid(series):
                return Instance(study, series, uid, 0, _single_value(row, MODALITY))
        return None

    def holds(self, study: str, uid: str) -> bool:
        """Whether a study contains an instance with this UID.

        Raises:
            PacsError: the response is not DICOMweb.
        """
        search = self._client.search_for_instances
        rows = self._search(
            search, INSTANCE, True, study_instance_uid=study, search_filters={"SOPInstanceUID": uid}
        )
        return any(_single_value(row, INSTANCE) == uid for row in rows)

    def fetch(self, instance: Instance) -> bytes:
        """Retrieve the stored file of an instance without parsing it.

        Raises:
            PacsError: the instance is gone or too large, or the response has an unexpected form.
        """
        address = f"{self._url}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
        with self._limits(MAX_INSTANCE_BYTES):
            response = self._session.get(address, headers={"Accept": DICOM_PART})
        return _only_part(response.content, response.headers.get("Content-Type", ""))

    def metadata(self, instance: Instance) -> Found:
        """Retrieve the header of an instance as DICOM JSON, unchecked.

        Raises:
            PacsError: the instance is gone, or the response is not a JSON object.
        """
        with self._limits(MAX_JSON_BYTES):
            found = self._client.retrieve_instance_metadata(
                instance.study, instance.series, instance.uid
            )
        if not isinstance(found, Mapping):
            raise PacsError("the PACS returned metadata that is not a JSON object.")
        return found

    def store(self, study: str, datasets: Sequence[Any]) -> None:
        """Store results. Storing an instance that is already there is not an error.

        Raises:
            PacsError: the server refused an instance.
        """
        with self._limits(MAX_JSON_BYTES):
            response = self._client.store_instances(datasets, study_instance_uid=study)
            refused = len(response.get("FailedSOPSequence") or ())
        if refused:
            raise PacsError(f"the PACS refused to store {refused} of {len(datasets)} results.")

    def _search(
        self, query: Callable[..., Any], key: str, once: bool = False, **how: Any
    ) -> list[Found]:
        """Read the pages of a query (or only the first) until one has nothing new; rows without a UID are dropped."""
        rows: dict[str, Found] = {}
        offset = 0
        while True:
            with self._limits(MAX_JSON_BYTES):
                page = query(limit=PAGE, offset=offset, **how)
            if not isinstance(page, list):
                raise PacsError("the PACS returned a query response that is not a list.")

            before = len(rows)
            for row in page:
                if isinstance(row, Mapping) and is_uid(uid := _single_value(row, key)):
                    rows.setdefault(uid, row)
            offset += len(page)
            if len(rows) > MAX_RESULTS:
                raise PacsError(
                    f"the PACS found more than {MAX_RESULTS:,} results, which is the limit. Narrow the search, for "
                    "example with a later --since."
                )
            # a short page does not mean the end: servers may have smaller pages than requested
            if once or len(rows) == before:
                return list(rows.values())

    @contextmanager
    def _limits(self, most_bytes: int) -> Iterator[None]:
        self._session.most_bytes = most_bytes
        try:
            yield
        except TextMaskError:
            raise
        # the client raises any exception on a malformed response, and its messages may quote the response
        except Exception as error:
            raise PacsError(
                f"the PACS returned a response that is not DICOMweb ({type(error).__name__})."
            ) from None


def _single_value(row: Found, tag: str) -> str:
    """The first value of an attribute in DICOM JSON; "" if there is none."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    value = values[0] if isinstance(values, list) and values else ""
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _integer(row: Found, tag: str) -> int:
    text = _single_value(row, tag)
    digits = text.lstrip("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(text) < 12 else 0


def _only_part(body: bytes, content_type: str) -> bytes:
    """The only part of a multipart response."""
    kind, *settings = [piece.strip() for piece in content_type.split(";")]
    if kind.lower() == "application/dicom":
        return body

    boundary = ""
    for setting in settings:
        name, _, value = setting.partition("=")
        if name.strip().lower() == "boundary":
            boundary = value.strip('"')
    if kind.lower() != "multipart/related" or not boundary:
        raise PacsError(
            "the PACS returned an instance in an unexpected form, expected multipart/related."
        )

    # headers of the part, an empty line, the file, and the closing mark
    mark = b"--" + boundary.encode()
    start = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    head = body.find(b"\r\n\r\n", start)
    end = body.find(b"\r\n" + mark, head + 2)
    if not body.startswith(mark, start) or head < 0 or end < 0:
        raise PacsError("the PACS returned an instance with an incomplete multipart body.")
    if not body.startswith(mark + b"--", end + 2):
        raise PacsError("the PACS returned more than the requested instance.")
    return body[head + 4 : end]
