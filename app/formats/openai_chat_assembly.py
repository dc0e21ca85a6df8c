"""
Chat completions: a plain answer and a stream turned into each other. Legacy completions too (`chat=False`).

Refuses nothing but what does not add up to an answer. Truth: the API reference at platform.openai.com, sections "Chat"
and "Streaming"; servers that number no tool calls are understood as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.formats import openai, sse
from app.formats.base import Json

_MERGED_LEVELS = 8
_NEVER_GROWING = frozenset({"role", "id", "type", "name"})


def chunks_of(answer: Json, *, chat: bool, usage: bool) -> Iterator[Json]:
    """
    Yield the chunks, without the terminator, that say what this plain answer says.

    usage -- the last chunk tells the usage, the others say `"usage": null`
    """
    base = {name: value for name, value in answer.items() if name not in ("choices", "usage", "object")}
    base["object"] = "chat.completion.chunk" if chat else "text_completion"
    unsaid: Json = {"usage": None} if usage else {}
    for choice in objects(answer.get("choices")):
        for part in _deltas(choice) if chat else [choice]:
            yield {**base, "choices": [part], **unsaid}
    if usage:
        yield {**base, "choices": [], "usage": answer.get("usage")}


def answer_from_stream(events: list[bytes], *, chat: bool) -> Json | None:
    """Return the plain answer that the events add up to; None where they hold an error, or no end."""
    answer: Json = {}
    choices: dict[int, Json] = {}
    for chunk in _chunks(events):
        if chunk.get("error"):
            return None
        if isinstance(chunk.get("usage"), dict):
            answer["usage"] = chunk["usage"]
        for name, value in chunk.items():
            if name not in ("choices", "usage"):
                answer.setdefault(name, value)
        for choice in objects(chunk.get("choices")):
            _add_choice(choices.setdefault(index_of(choice), {}), choice)
    if not choices or not all(choice.get("finish_reason") for choice in choices.values()):
        return None
    answer["object"] = "chat.completion" if chat else "text_completion"
    answer["choices"] = [_finished(index, choices[index], chat=chat) for index in sorted(choices)]
    return answer


def objects(value: object) -> list[Json]:
    """Return the objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def index_of(choice: Json) -> int:
    """Return the number of a choice, 0 where it has none."""
    index = choice.get("index")
    return index if type(index) is int else 0


def _chunks(events: list[bytes]) -> Iterator[Json]:
    for event in events:
        chunk = openai.loads(sse.data_of(event))
        if isinstance(chunk, dict):
            yield chunk


def _deltas(choice: Json) -> list[Json]:
    """The chunks' choices that say what one plain choice says."""
    found = choice.get("message")
    message: Json = found if isinstance(found, dict) else {}
    index = index_of(choice)
    opening = {
        "role": message.get("role") or "assistant",
        "content": "" if message.get("content") is not None else None,
    }
    delta = {name: value for name, value in message.items() if name != "role" and value not in (None, "", [])}
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(objects(delta["tool_calls"]))]
    parts = [{"index": index, "delta": opening, "finish_reason": None}]
    if delta:
        parts.append({"index": index, "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": None})
    parts.append({"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"})
    return parts


def _add_choice(choice: Json, part: Json) -> None:
    """Add one chunk's part of a choice to what is known of it."""
    for name, value in part.items():
        if value is None or name == "index":
            continue
        if name == "delta" and isinstance(value, dict):
            _merge(choice.setdefault("message", {}), value)
        elif name in ("text", "logprobs"):
            _merge(choice, {name: value})
        else:
            choice[name] = value


def _merge(known: Json, delta: Json, levels: int = _MERGED_LEVELS) -> None:
    """Add a delta: texts and lists grow, objects are merged, tool calls keep apart by their index."""
    for name, value in delta.items():
        before = known.get(name)
        if name == "tool_calls":
            _merge_calls(known.setdefault("tool_calls", []), objects(value))
        elif name not in _NEVER_GROWING and (_are(str, before, value) or _are(list, before, value)):
            known[name] = before + value
        elif isinstance(value, dict) and isinstance(before, dict) and levels:
            _merge(before, value, levels - 1)
        elif isinstance(value, dict):
            known[name] = dict(value)
        elif value is not None and not (value == "" and before):
            known[name] = value


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _merge_calls(calls: list[Json], deltas: list[Json]) -> None:
    for delta in deltas:
        index = delta.get("index")
        call = next((call for call in calls if call["index"] == index), None) if index is not None else None
        if call is None and index is None and calls and not delta.get("id"):
            call = calls[-1]  # a server that numbers nothing goes on with the call that it began last
        if call is None:
            call = {"index": len(calls) if index is None else index}
            calls.append(call)
        _merge(call, {name: value for name, value in delta.items() if name != "index"})


def _finished(index: int, choice: Json, *, chat: bool) -> Json:
    if not chat:
        return {"index": index, "text": "", "logprobs": None, **choice}
    message = {"role": "assistant", "content": None, **choice.get("message", {})}
    calls = message.get("tool_calls")
    if calls:
        ordered = sorted(calls, key=lambda call: call["index"] if isinstance(call["index"], int) else 0)
        message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in ordered]
        message["content"] = message["content"] or None
    return {"index": index, "logprobs": None, **choice, "message": message}
