"""
What a provider said when it refused: one reading of all the shapes that error bodies come in.

Understood are an object, an array of one object (Gemini without SSE), a JSON text nested in `error.message`
(proxies that encode twice), `{"error": "text"}`, FastAPI's `{"detail": ...}`, `{"message": ...}`, vLLM's
`{"object": "error"}`, Azure's `innererror`, google.rpc `details`, and the error events of a stream. What is none of
these is reported as text, markup or empty, and never raises. Pure.

Sources: https://cloud.google.com/apis/design/errors , https://platform.openai.com/docs/guides/error-codes ,
https://platform.claude.com/docs/en/api/errors , https://openrouter.ai/docs/api-reference/errors ,
https://learn.microsoft.com/azure/ai-services/openai/ , https://docs.databricks.com/api/workspace/introduction
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

Json = Mapping[str, Any]

MAX_MESSAGE_CHARACTERS = 500
MAX_NESTED_BODIES = 3
MAX_CODE_CHARACTERS = 100

_CODE_KEYS = ("code", "type", "status", "error_code", "reason")
_METADATA_CODE_KEYS = ("error_type", "error_code", "code", "reason", "limit_source")
#: Words that say that there is an error, not which.
_WRAPPER_WORDS = frozenset({"error", "failed", "response.failed"})
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

_MODEL = r"(?P<model>[\w./:@-]{1,128})"
_MODEL_PHRASES = (
    re.compile(rf"\bfor (?:model )?[`'\"]?{_MODEL}[`'\"]? in organization\b"),
    re.compile(rf"\b[Mm]odel [`'\"]{_MODEL}[`'\"]"),
    re.compile(rf"\bmodels/{_MODEL} is not found\b"),
    re.compile(rf"\blimit: \d+, model: {_MODEL}"),
    re.compile(rf"^model: {_MODEL}"),
)


class Shape(Enum):
    """What kind of body it was."""

    ERROR = "error"  # JSON that says something about an error
    TEXT = "text"  # plain text, or JSON of an unknown shape
    MARKUP = "markup"  # HTML or XML: a front end answered, not the API
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Violation:
    """One exceeded quota, as google.rpc.QuotaFailure names it. Unsaid fields are empty."""

    quota: str = ""
    model: str = ""
    limit: str = ""


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """
    One error, read.

    codes    -- every structured code in it (code, type, status, reason ...), case-folded
    number   -- the HTTP status that the body itself names, None where it names none
    message  -- the provider's sentence, as it came
    details  -- google.rpc details
    metadata -- OpenRouter's `error.metadata`
    failed_response -- it is a failed response of OpenAI's Responses API, whole or inside an event
    bare_event      -- it is the `error` event of that API, whose code stands at its top level
    """

    shape: Shape
    codes: frozenset[str] = frozenset()
    number: int | None = None
    message: str = ""
    details: tuple[Json, ...] = ()
    metadata: Json = field(default_factory=dict)
    failed_response: bool = False
    bare_event: bool = False

    @property
    def sentence(self) -> str:
        """The message on one line, without control characters, at most 500 characters. Markup is never quoted."""
        line = " ".join(_UNPRINTABLE.sub(" ", self.message).split())
        if len(line) <= MAX_MESSAGE_CHARACTERS:
            return line
        # Cut between words: half a secret would escape the redaction of whole ones.
        head = line[: MAX_MESSAGE_CHARACTERS - 1]
        return (head.rpartition(" ")[0] or head) + "…"

    @property
    def is_coded(self) -> bool:
        """Whether a code names the error; a number, also one in quotes, only repeats the status."""
        return any(not code.isdecimal() for code in self.codes)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Every exceeded quota that the details name."""
        return tuple(_violations(self.details))

    @property
    def model(self) -> str | None:
        """The model that the error names, or None."""
        for violation in self.violations:
            if violation.model:
                return violation.model
        for phrase in _MODEL_PHRASES:
            if match := phrase.search(self.message):
                return match["model"].rstrip(".:") or None
        return None


def read_error(body: bytes, *, unwrap: bool = True) -> ErrorReport:
    """
    Return the report on an error body, or on the JSON of an error event. Never raises.

    unwrap -- look into JSON that is nested in the message; off where the inner error is about somebody else's key
    """
    return _read_text(body.decode("utf-8-sig", "replace"), MAX_NESTED_BODIES if unwrap else 0)


def fold(codes: Iterable[str]) -> frozenset[str]:
    """Codes as `ErrorReport.codes` holds them."""
    return frozenset(code.strip().casefold() for code in codes)


def _read_text(text: str, nested: int) -> ErrorReport:
    text = text.strip()
    if not text:
        return ErrorReport(Shape.EMPTY)
    if text.startswith("<"):
        return ErrorReport(Shape.MARKUP)
    document = _first_object(_parse(text))
    if document is None:
        return ErrorReport(Shape.TEXT, message=text[: 4 * MAX_MESSAGE_CHARACTERS])
    report = _read_object(document)
    return _unwrapped(report, nested) if nested else report


def _unwrapped(report: ErrorReport, nested: int) -> ErrorReport:
    """The report on the error inside the message, where there is one that says more than its wrapper."""
    if not report.message.lstrip().startswith(("{", "[")):
        return report
    inner = _read_text(report.message, nested - 1)
    if inner.shape is not Shape.ERROR:
        return report
    return replace(
        inner,
        codes=inner.codes or report.codes,
        number=inner.number or report.number,
        failed_response=report.failed_response,
    )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _first_object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        value = _parse(value)
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    return value if isinstance(value, dict) else None


def _read_object(document: dict[str, Any]) -> ErrorReport:
    response = document.get("response")
    holder = response if isinstance(response, dict) and "error" in response else document
    error = holder.get("error")
    node: dict[str, Any] = error if isinstance(error, dict) else holder
    details = node.get("details", holder.get("details"))
    metadata = node.get("metadata")
    report = ErrorReport(
        shape=Shape.ERROR,
        codes=fold(_codes(document)) | fold(_codes(holder)) | fold(_codes(node)),
        number=_number(node) or _number(holder),
        message=_message(node) or _message(holder),
        details=tuple(item for item in details if isinstance(item, dict)) if isinstance(details, list) else (),
        metadata=metadata if isinstance(metadata, dict) else {},
        failed_response=holder.get("status") == "failed",
        bare_event=document.get("type") == "error" and node is document,
    )
    says_something = report.message or report.number or report.codes
    return report if says_something else replace(report, shape=Shape.TEXT)


def _codes(node: dict[str, Any]) -> Iterable[str]:
    candidates = [node.get(key) for key in _CODE_KEYS]
    details = node.get("details")
    if isinstance(details, dict):  # Anthropic
        candidates.append(details.get("error_code"))
    elif isinstance(details, list):  # google.rpc.ErrorInfo
        candidates.extend(item.get("reason") for item in details if isinstance(item, dict))
    inner = node.get("innererror")  # Azure
    if isinstance(inner, dict):
        candidates.append(inner.get("code"))
    metadata = node.get("metadata")  # OpenRouter
    if isinstance(metadata, dict):
        candidates.extend(metadata.get(key) for key in _METADATA_CODE_KEYS)
    named = (code for code in candidates if isinstance(code, str) and 0 < len(code) <= MAX_CODE_CHARACTERS)
    return [code for code in named if code not in _WRAPPER_WORDS]


def _number(node: dict[str, Any]) -> int | None:
    for key in ("code", "status", "statusCode", "status_code"):
        value = node.get(key)
        if isinstance(value, str) and re.fullmatch(r"[1-5][0-9]{2}", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return value
    return None


def _message(node: dict[str, Any]) -> str:
    for key in ("message", "error", "detail", "error_message", "msg"):
        value = node.get(key)
        if isinstance(value, list) and value:  # FastAPI lists what it found wrong
            value = value[0]
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg") or value.get("error")
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _violations(details: tuple[Json, ...]) -> Iterable[Violation]:
    for detail in details:
        listed = detail.get("violations")
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, dict):
                dimensions = item.get("quotaDimensions")
                model = dimensions.get("model") if isinstance(dimensions, dict) else None
                quota = f"{_text(item.get('quotaId'))} {_text(item.get('quotaMetric'))}"
                yield Violation(quota, _text(model), _text(item.get("quotaValue")))
        info = detail.get("metadata")
        if isinstance(info, dict) and "quota_limit" in info:  # the older form, inside ErrorInfo
            yield Violation(_text(info["quota_limit"]), limit=_text(info.get("quota_limit_value")))


def _text(value: object) -> str:
    """A JSON scalar as text; nothing for the rest. Whole numbers of any length stay unconverted beyond 64 bits."""
    if isinstance(value, str):
        return value[:MAX_MESSAGE_CHARACTERS]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return ""
