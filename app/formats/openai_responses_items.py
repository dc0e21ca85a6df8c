"""
The output items of a Responses answer: whether they hold anything, and the events that stream them.

Refuses nothing: an item of an unknown type holds something, and streams whole. Truth: the API reference at
platform.openai.com, sections "Responses" and "Streaming events".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from app.formats import openai, sse
from app.formats.base import Json

#: Events of a message's frame: without a text in them they may be held back.
FRAME = frozenset(
    {
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.refusal.delta",
        "response.refusal.done",
    }
)
# Type of a call item -> the member that streams, and the name of its events.
_CALLS: dict[Any, tuple[str, str]] = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}
# Type of a content part -> the member that streams, and the name of its events.
_PARTS: dict[Any, tuple[str, str]] = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
}


def type_of(item: Any) -> str:
    """Return the type of an item or a part, "" where it has none."""
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else ""


def holds_output(response: Json) -> bool:
    """Return whether a response holds anything but messages without content."""
    output = response.get("output")
    return any(_item_says(item) for item in output) if isinstance(output, list) else output is not None


def _item_says(item: Any) -> bool:
    if type_of(item) != "message":
        return True
    content = item.get("content")
    return any(_part_says(part) for part in content) if isinstance(content, list) else bool(content)


def _part_says(part: Any) -> bool:
    member, _ = _PARTS.get(type_of(part), ("", ""))
    return not member or bool(part.get(member))


def frames_output(event: bytes) -> bool:
    """Return whether an event of a message's frame holds a text, or frames something else than a message."""
    data = openai.loads(sse.data_of(event))
    if not isinstance(data, dict):
        return True
    if "item" in data:
        return _item_says(data["item"])
    if "part" in data:
        return _part_says(data["part"])
    return any(data.get(member) for member in ("delta", "text", "refusal"))


def item_events(index: int, item: Any) -> Iterator[Json]:
    """Yield all events of one output item, each delta whole, without their numbers."""
    kind = type_of(item)
    place = {"item_id": item.get("id") if isinstance(item, dict) else None, "output_index": index}
    added = item
    body: Iterable[Json] = ()
    if kind == "message":
        added = {**item, "status": "in_progress", "content": []}
        body = _part_events(place, item.get("content"))
    elif kind == "reasoning":
        added = {**item, "summary": []}
        added.pop("encrypted_content", None)
        added.pop("content", None)
        body = _reasoning_events(place, item)
    elif kind in _CALLS:
        field, event = _CALLS[kind]
        added = {**item, "status": "in_progress", field: ""}
        text = item.get(field) or ""
        body = (
            {"type": f"{event}.delta", **place, "delta": text},
            {"type": f"{event}.done", **place, field: text},
        )
    yield {"type": "response.output_item.added", "output_index": index, "item": added}
    yield from body
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part_events(place: Json, parts: object) -> Iterator[Json]:
    for index, part in enumerate(parts if isinstance(parts, list) else []):
        at = {**place, "content_index": index}
        field, event = _PARTS.get(type_of(part), ("", ""))
        empty = {**part, field: ""} if field else part
        if field == "text" and "annotations" in part:
            empty["annotations"] = []
        yield {"type": "response.content_part.added", **at, "part": empty}
        if field:
            logprobs = {"logprobs": part.get("logprobs") or []} if event == "response.output_text" else {}
            yield {"type": f"{event}.delta", **at, "delta": part.get(field) or "", **logprobs}
            yield {"type": f"{event}.done", **at, field: part.get(field) or "", **logprobs}
        yield {"type": "response.content_part.done", **at, "part": part}


def _reasoning_events(place: Json, item: Json) -> Iterator[Json]:
    event = "response.reasoning_summary"
    summary = item.get("summary")
    for index, part in enumerate(summary if isinstance(summary, list) else []):
        at = {**place, "summary_index": index}
        text = part.get("text") if isinstance(part, dict) else ""
        yield {"type": f"{event}_part.added", **at, "part": {"type": "summary_text", "text": ""}}
        yield {"type": f"{event}_text.delta", **at, "delta": text}
        yield {"type": f"{event}_text.done", **at, "text": text}
        yield {"type": f"{event}_part.done", **at, "part": part}
    yield from _part_events(place, item.get("content"))
