"""
What a failed attempt means for the key that was used: the tables of `verdict_tables` applied to one failure.

Order: failures below HTTP and broken bodies are the provider's; then the structured code in the body; then the
status alone. A key is disabled only on a structured code, or on a sentence that its table quotes because the
provider has no code for it. What is not understood never raises and never disables. Pure: the wall clock comes in
as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.keys.base import Action, Failure, Phase, Scope, Verdict
from app.keys.error_bodies import ErrorReport, read_error
from app.keys.resets import clamp_s, explicit_wait_s, first_number, named_rest_s, quota_s
from app.keys.verdict_tables import BY_STATUS, FAMILIES, IMPLIED_STATUS, WRAPPING_FAMILIES, Row, Wait

_WITHOUT_MODEL = {Scope.KEY_MODEL: Scope.KEY, Scope.GROUP_MODEL: Scope.GROUP}


def judge(family: str, failure: Failure, model: str | None, wall_now: float) -> Verdict:
    """
    Return the verdict on one failed attempt. Never raises, whatever the body holds.

    family    -- a key of `verdict_tables.FAMILIES`; an unknown one is judged as `generic`
    model     -- the upstream model that was asked for, None where the call names none
    wall_now  -- Unix seconds, for instants and for quotas that end with a day or a month
    """
    report = read_error(failure.body, unwrap=family not in WRAPPING_FAMILIES)
    if failure.phase in (Phase.CONNECT, Phase.SEND):
        return Verdict(Action.PROVIDER, reason=failure.error or failure.phase.value, message=failure.error)
    if failure.phase is Phase.BODY and not (report.failed_response and report.codes):
        reason = failure.error or "invalid_body"
        return Verdict(Action.PROVIDER, reason=reason, message=report.sentence or reason)
    is_answer = failure.phase is Phase.HEAD
    status = failure.status if is_answer else _implied_status(failure, report)
    rows = FAMILIES.get(family, FAMILIES["generic"]) if status >= 400 or not is_answer else ()
    has_retry_after = "retry-after" in failure.headers
    row = next(row for row in (*rows, *BY_STATUS) if row.matches(status, report, has_retry_after))
    return _verdict(row, failure.headers, report, model, wall_now)


def explain_message(failure: Failure) -> str:
    """
    The provider's own sentence: one line, at most 500 characters, no control characters. For a failure without an
    answer its short code; empty for markup and empty bodies. It may hold a secret: redact it before it is shown.
    """
    if failure.phase in (Phase.CONNECT, Phase.SEND):
        return failure.error
    return read_error(failure.body).sentence or failure.error


def _implied_status(failure: Failure, report: ErrorReport) -> int:
    """The status that an error inside a 200 would have had; 0 when nothing tells."""
    if report.number is not None:
        return report.number
    for code, status in IMPLIED_STATUS.items():
        if code in report.codes:
            return status
    if report.codes and (report.failed_response or report.bare_event):
        return 400  # the Responses API: whatever is not named above is about the request
    return failure.status if failure.status >= 400 else 0


def _verdict(row: Row, headers: Mapping[str, str], report: ErrorReport, model: str | None, wall_now: float) -> Verdict:
    verdict = Verdict(
        action=row.action,
        scope=row.scope,
        reason=row.reason,
        message=report.sentence,
        rest_s=_rest_s(row, headers, report, wall_now),
        ladder=row.ladder,
        alert=row.alert,
        max_tries=row.max_tries,
    )
    named = report.model if row.scope in _WITHOUT_MODEL or row.action is Action.PROVIDER else None
    if named is None and model is None and row.scope in _WITHOUT_MODEL:
        return _without_model(verdict)
    return replace(verdict, model=named if named != model else None)


def _without_model(verdict: Verdict) -> Verdict:
    """The same decision for a call that names no model: a rest covers all of them, a missing thing is the answer."""
    if verdict.action is Action.MODEL_GONE:
        return replace(verdict, action=Action.CLIENT, scope=Scope.NONE, ladder=None, alert=False)
    return replace(verdict, scope=_WITHOUT_MODEL[verdict.scope])


def _rest_s(row: Row, headers: Mapping[str, str], report: ErrorReport, wall_now: float) -> float | None:
    if row.action in (Action.PROVIDER, Action.EGRESS):
        return clamp_s(explicit_wait_s(headers, report, wall_now))
    if row.action is not Action.KEY_REST:
        return None
    read_wait = named_rest_s if row.wait is Wait.NAMED else explicit_wait_s
    otherwise_s = quota_s(row.otherwise, wall_now) if row.otherwise else None
    return clamp_s(first_number(read_wait(headers, report, wall_now), otherwise_s))
