"""What would happen to a request: the way that routing takes, whom the door lets in, and which key would be next."""

from __future__ import annotations

from typing import Any, Final

from app.admin import http
from app.admin.actions import clients
from app.context import Services
from app.errors import MiddlewareError, Unauthorized
from app.keys.preview import Preview
from app.keys.states import Outcome
from app.proxy.adapters import REFUSALS
from app.proxy.admission import check_model

Json = dict[str, Any]

#: Why no key of a provider entry can serve: (status, code, sentence).
_NO_KEY: Final = {
    Outcome.RESTING: (429, "all_keys_resting", "Every key that could serve this request rests."),
    Outcome.MODEL_GONE: (
        404,
        "model_not_found",
        "The provider has said of each key that it does not offer this model.",
    ),
    Outcome.NOT_SERVED: (503, "no_keys", "No key may serve this model; see the models allowed for each key."),
    Outcome.DISABLED: (503, "no_keys", "All keys are disabled."),
    Outcome.NO_KEYS: (503, "no_keys", "There is no key."),
}
#: In the order in which they are told where several entries have different reasons.
_ORDER: Final = tuple(_NO_KEY)


def explain(services: Services, model: str | None, path: str, client_id: int | None = None) -> Json:
    """
    `{"path", "model", "dialect", "steps", "candidates": [{"provider", "kind", "model", "base_url", "keys"}], "next",
    "client", "error"}`: `next` is the key that a request would be sent with now, None where `error` says why there is
    none.

    client_id -- who asks; without one the request counts as allowed in

    Raises NotFound for a client that does not exist.
    """
    client = None if client_id is None else services.clients.get(client_id)
    found: Json = {"client": None, "next": None, **services.routes.explain(model, path)}
    entries = services.providers.snapshot
    for candidate in found["candidates"]:
        entry = entries.by_name.get(candidate["provider"]) or entries.demo
        candidate["base_url"] = entry.base_url if entry is not None else ""
        candidate["keys"] = _keys(services.keys.preview(candidate["provider"], candidate["model"]))
    if client is not None:
        found["client"] = {"id": client["id"], "name": client["name"]}
        refused = _refusal(services, client, model or found.get("model"), found["candidates"])
        if refused is not None:
            return found | {"error": refused}
    if found["error"] is None:
        found["next"] = _next_key(services, found["candidates"])
        if found["next"] is None:
            found["error"] = _no_key(found["candidates"])
    return found


def _refusal(services: Services, client: Json, asked: str | None, candidates: list[Json]) -> Json | None:
    """The error that this client would get at the door, or for this model."""
    if not clients.door(services).required:
        return None
    try:
        why = clients.state_of(client, services.clock.wall())
        if why != clients.ACTIVE:
            raise Unauthorized(REFUSALS[why])
        if candidates:
            check_model(clients.caller(client), asked, candidates[0]["model"])
    except MiddlewareError as error:
        return {"status": error.status, "code": error.code, "message": str(error)}
    return None


def _keys(found: Preview) -> Json:
    return {
        "ready": found.counts.get(Outcome.PICKED, 0),
        "resting": found.counts.get(Outcome.RESTING, 0),
        "disabled": found.counts.get(Outcome.DISABLED, 0),
        "without_the_model": found.counts.get(Outcome.MODEL_GONE, 0),
        "not_allowed": found.counts.get(Outcome.NOT_SERVED, 0),
        "outcome": found.outcome.value,
        "paused": found.pause,
        "next_key_id": found.key_id,
        "wakes_at": http.iso(found.wake_at),
    }


def _next_key(services: Services, candidates: list[Json]) -> Json | None:
    for candidate in candidates:
        key_id = candidate["keys"]["next_key_id"]
        if key_id is not None:
            key = services.keys.get(key_id)
            names = {"key_id": key_id, "key_name": key["name"], "key_value": key["key_value"]}
            return {"provider": candidate["provider"], "model": candidate["model"], **names}
    return None


def _no_key(candidates: list[Json]) -> Json:
    outcomes = {candidate["keys"]["outcome"] for candidate in candidates}
    outcome = next(outcome for outcome in _ORDER if outcome.value in outcomes)
    status, code, message = _NO_KEY[outcome]
    wakes = [candidate["keys"]["wakes_at"] for candidate in candidates if candidate["keys"]["wakes_at"]]
    if outcome is Outcome.RESTING and wakes:
        message = f"{message[:-1]}; the first wakes up at {min(wakes)}."
    return {"status": status, "code": code, "message": message}
