"""Error responses: a status, a code for programs and a message for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException

from textmask.errors import LateralityError, TextMaskError

# options of the command line that messages of the library name, and fields of a request
_OPTIONS = re.compile(r"--(laterality|assume|view|index)\b")
PROBLEM_TYPE = "application/problem+json"
# meaning of each documented status; the codes are more specific
STATUSES = {
    400: "The request is malformed (multipart or JSON), or its Host header is not accepted.",
    401: "The bearer token is missing or wrong.",
    403: "The request comes from a page of another origin, or names a path outside the jobs folder.",
    404: "No such image or job, or it has expired.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or too many pixels.",
    415: "The file is not an image that can be read, or the result does not exist for its format.",
    422: "The request is well formed but cannot be fulfilled; the message says why.",
    429: "All workers are busy and the queue is full; try again after Retry-After seconds.",
    503: "The service is not ready or stopping, or the audit log cannot be written.",
}


class Problem(HTTPException):
    """An error response; becomes problem JSON (RFC 9457) with `code` next to the standard members."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.message = code, message


def problem_body(status: int, code: str, message: str) -> dict[str, str | int]:
    """The JSON of an error response; with the type about:blank the title is the phrase of the status."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "code": code,
    }


def problem_of(error: TextMaskError) -> Problem:
    """Convert an error that the client can fix to a Problem, which names fields in place of options."""
    code = "laterality" if isinstance(error, LateralityError) else "cannot_be_done"
    return Problem(422, code, _OPTIONS.sub(r"\1", str(error)))
