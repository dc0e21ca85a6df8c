"""
Gemini's Interactions API inside the Gemini format: requests with the model in the body, streams of typed events.

Truth: the Interactions reference on ai.google.dev and the event types of the official SDK.
"""

from __future__ import annotations

import orjson
from typing_extensions import override

from app.errors import BadRequest
from app.formats import gemini_state, json_body, sse
from app.formats.base import EMPTY_ANSWER, Json, Mark, StreamWatcher, Usage
from app.formats.gemini_stream import error_status, total_of

_NATURAL_END = "completed"


def wanted(json: Json) -> tuple[str | None, bool]:
    """Return the model (None for an agent) and whether to stream. Raises BadRequest for what is not an interaction."""
    model, stream = json.get("model"), json.get("stream", False)
    if not (isinstance(model, str) and model) and not json.get("agent"):
        raise BadRequest("`model` is required: name the model, or an `agent`.", param="model")
    if json.get("input") is None:
        raise BadRequest("`input` is required: the text, contents or steps of this turn.", param="input")
    if not isinstance(stream, bool):
        raise BadRequest("`stream` must be true or false.", param="stream")
    return (model if isinstance(model, str) and model else None), stream


def usage_of(interaction: object) -> Usage:
    """Return the tokens of an interaction: input with tool prompts, output with thoughts."""
    usage = interaction.get("usage") if isinstance(interaction, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        input_tokens=total_of(usage, "total_input_tokens", "total_tool_use_tokens"),
        output_tokens=total_of(usage, "total_output_tokens", "total_thought_tokens"),
        cached_tokens=json_body.count(usage.get("total_cached_tokens")),
        reasoning_tokens=json_body.count(usage.get("total_thought_tokens")),
    )


def resource_keys(interaction: object) -> list[str]:
    """Return the hint key under which a later turn refers to this interaction."""
    identifier = interaction.get("id") if isinstance(interaction, dict) else None
    return [gemini_state.key_of(f"interactions/{identifier}")] if isinstance(identifier, str) and identifier else []


def reason_unusable(interaction: Json) -> str:
    """Why this plain answer is none, or "" where it is one."""
    if interaction.get("error"):
        return "error_in_answer"
    if "status" not in interaction and "id" not in interaction:
        return "not_an_interaction"
    return EMPTY_ANSWER if interaction.get("status") == _NATURAL_END and _is_empty(interaction) else ""


class InteractionWatcher(StreamWatcher):
    """Holds back the creation and status events; `interaction.completed` ends the answer, `[DONE]` may follow."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    @override
    def watch(self, event: bytes) -> Mark:
        if self._begun and b"step.delta" in event and b"interaction." not in event:
            return Mark.OUTPUT
        data = sse.data_of(event)
        if not data.strip():
            return Mark.IGNORED
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return self._done() if data.strip() == b"[DONE]" else self._output()
        return self._classify(value, data) if isinstance(value, dict) else self._output()

    @override
    def settle(self) -> Usage:
        return self.state.usage

    def _classify(self, value: Json, data: bytes) -> Mark:
        kind, interaction = value.get("event_type"), value.get("interaction")
        if kind == "error" or (kind is None and value.get("error")):
            self.state.error, self.state.error_status = data, error_status(value.get("error"))
            return Mark.ERROR
        if isinstance(interaction, dict):
            self.state.resource_ids += [key for key in resource_keys(interaction) if key not in self.state.resource_ids]
            if "usage" in interaction:
                self.state.usage = usage_of(interaction)
        if kind == "interaction.completed":
            self.state.finished = True
            about = interaction if isinstance(interaction, dict) else {}
            natural = about.get("status") == _NATURAL_END
            self.state.empty = natural and not self._begun and _is_empty(about)
            self._begun = self._begun or not self.state.empty
            return Mark.FINISH
        early = kind in ("interaction.created", "interaction.status_update")
        return Mark.PROLOGUE if early and not self._begun else self._output()

    def _done(self) -> Mark:
        """A sentinel behind an answer that was never completed must not make it look complete."""
        if not self.state.finished:
            return Mark.IGNORED
        self.state.terminated = True
        return Mark.TERMINATOR

    def _output(self) -> Mark:
        self._begun, self.state.empty = True, False
        return Mark.OUTPUT


def _is_empty(interaction: Json) -> bool:
    """Whether an interaction that has ended holds nothing, for no output tokens."""
    said = any(interaction.get(member) for member in ("steps", "outputs"))
    return not said and not usage_of(interaction).counts_output
