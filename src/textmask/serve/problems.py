"""What the service answers when it refuses: a status, a code for programs and a message for people."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException

from textmask.errors import LateralityError, TextMaskError

PROBLEM_TYPE = "application/problem+json"
# what each documented status means; the codes say more
STATUSES = {
    400: "The request cannot be read: malformed multipart or JSON, or a Host that this service does not answer to.",
    401: "The bearer token is missing or wrong.",
    403: "Sent by a page of another origin, or a place outside the jobs folder.",
    404: "No such image or job, or it has expired.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or too many pixels.",
    415: "Not a picture that can be read, or a result that this format cannot have.",
    422: "The request is well formed but cannot be done; the message says why.",
    429: "All workers are busy and the queue is full; try again after Retry-After seconds.",
    503: "Not ready, stopping, or the audit log cannot be written.",
}


class Problem(HTTPException):
    """A refusal; becomes problem JSON (RFC 9457) with `code` and `message` beside the standard members."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.message = code, message


def problem_body(status: int, code: str, message: str) -> dict[str, str | int]:
    """The JSON of a refusal."""
    return {
        "type": "about:blank",
        "title": code,
        "status": status,
        "code": code,
        "message": message,
    }


def problem_of(error: TextMaskError) -> Problem:
    """A user's mistake as the service says it."""
    code = "laterality" if isinstance(error, LateralityError) else "cannot_be_done"
    return Problem(422, code, str(error))
