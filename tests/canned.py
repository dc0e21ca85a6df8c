"""
Well-formed answers, streams and errors of each wire format, as the fake provider sends them.

Plain answers are dicts; streams are lists of bytes, one whole event each, blank line included. The text is `TEXT`,
the figures are those of `INPUT_TOKENS` and `OUTPUT_TOKENS`, unless an argument says otherwise.
Error bodies are in `tests.canned_errors`. Shapes: the API references of OpenAI
(platform.openai.com/docs/api-reference), Anthropic (platform.claude.com/docs/en/api) and Google (ai.google.dev/api).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]

TEXT = "Hello from upstream."
WORDS = ("Hello ", "from ", "upstream.")
INPUT_TOKENS, OUTPUT_TOKENS = 11, 5
CALL_ID, TOOL_NAME, TOOL_ARGUMENTS = "call_1", "get_weather", {"city": "Oslo"}

CHAT_REQUEST: Json = {"model": "gpt-test", "messages": [{"role": "user", "content": "Hi"}]}
RESPONSES_REQUEST: Json = {"model": "gpt-test", "input": "Hi"}
MESSAGES_REQUEST: Json = {"model": "claude-test", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
GEMINI_REQUEST: Json = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
EMBEDDINGS_REQUEST: Json = {"model": "embed-test", "input": ["Hi"]}


def data_event(obj: Any, *, newline: str = "\n") -> bytes:
    """One SSE event that only has data."""
    return f"data: {json.dumps(obj)}{newline}{newline}".encode()


def named_event(obj: Json) -> bytes:
    """One SSE event whose `event:` line is the object's `type`."""
    return f"event: {obj['type']}\ndata: {json.dumps(obj)}\n\n".encode()


# -- OpenAI chat completions --------------------------------------------------------------------------


def chat_usage(input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS, cached: int = 0) -> Json:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def chat(text: str | None = TEXT, *, model: str = "gpt-test", calls: Sequence[Json] = (), **more: Any) -> Json:
    """A chat completion. `calls` are entries of `tool_calls`, see `chat_call`."""
    message: Json = {"role": "assistant", "content": None if calls else text, "refusal": None}
    if calls:
        message["tool_calls"] = list(calls)
    finish = "tool_calls" if calls else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": chat_usage(),
        **more,
    }


def chat_call(call_id: str = CALL_ID, name: str = TOOL_NAME, arguments: Json | None = None) -> Json:
    written = json.dumps(TOOL_ARGUMENTS if arguments is None else arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}


def chat_chunk(delta: Json, finish: str | None = None, *, model: str = "gpt-test", **more: Any) -> bytes:
    """One `chat.completion.chunk` event."""
    return data_event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            **more,
        }
    )


CHAT_ROLE = chat_chunk({"role": "assistant", "content": ""})
CHAT_FINISH = chat_chunk({}, "stop")
CHAT_USAGE = data_event(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-test",
        "choices": [],
        "usage": chat_usage(),
    }
)
DONE = b"data: [DONE]\n\n"


def chat_stream(words: Iterable[str] = WORDS, *, usage: bool = True, done: bool = True) -> list[bytes]:
    """Role, words, finish, then the usage chunk and `[DONE]` unless told otherwise."""
    events = [CHAT_ROLE, *(chat_chunk({"content": word}) for word in words), CHAT_FINISH]
    return events + [CHAT_USAGE] * usage + [DONE] * done


def chat_tool_stream(*, usage: bool = True) -> list[bytes]:
    """One tool call whose arguments come in two deltas."""
    written = json.dumps(TOOL_ARGUMENTS)
    first = {**chat_call(), "index": 0}
    first["function"] = {"name": TOOL_NAME, "arguments": ""}
    halves = [written[:5], written[5:]]
    deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": half}}]} for half in halves]
    events = [CHAT_ROLE, chat_chunk({"tool_calls": [first]}), *map(chat_chunk, deltas), chat_chunk({}, "tool_calls")]
    return [*events, *[CHAT_USAGE] * usage, DONE]


# -- OpenAI Responses ---------------------------------------------------------------------------------


def response(text: str = TEXT, *, status: str = "completed", output: Sequence[Json] | None = None, **more: Any) -> Json:
    """A Responses object. `output` replaces the one message item."""
    item = response_message(text)
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "model": "gpt-test",
        "output": [item] if output is None else list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": INPUT_TOKENS,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": OUTPUT_TOKENS,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
        **more,
    }


def response_message(text: str = TEXT, status: str = "completed") -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}


def response_call(name: str = TOOL_NAME, arguments: Json | None = None) -> Json:
    written = json.dumps(TOOL_ARGUMENTS if arguments is None else arguments)
    call = {"id": "fc_1", "type": "function_call", "status": "completed"}
    return {**call, "call_id": CALL_ID, "name": name, "arguments": written}


def _numbered(events: Iterable[Json]) -> list[bytes]:
    return [named_event({**event, "sequence_number": number}) for number, event in enumerate(events)]


def response_prologue() -> list[Json]:
    begun = response("", status="in_progress", output=[], usage=None)
    return [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]


def response_stream(words: Sequence[str] = WORDS) -> list[bytes]:
    """Everything from `response.created` to `response.completed`."""
    text, at = "".join(words), {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    opened = {**response_message("", "in_progress"), "content": []}
    return _numbered(
        [
            *response_prologue(),
            {"type": "response.output_item.added", "output_index": 0, "item": opened},
            {"type": "response.content_part.added", **at, "part": part},
            *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in words),
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": {**part, "text": text}},
            {"type": "response.output_item.done", "output_index": 0, "item": response_message(text)},
            {"type": "response.completed", "response": response(text)},
        ]
    )


def response_tool_stream() -> list[bytes]:
    """One function call."""
    item, at = response_call(), {"item_id": "fc_1", "output_index": 0}
    opened = {**item, "arguments": "", "status": "in_progress"}
    return _numbered(
        [
            *response_prologue(),
            {"type": "response.output_item.added", "output_index": 0, "item": opened},
            {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]},
            {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"], "name": TOOL_NAME},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response(output=[item])},
        ]
    )


def response_failed_stream(code: str = "server_error", *, after_text: bool = False) -> list[bytes]:
    """A stream that ends in `response.failed`, before or after the first text."""
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    delta = {"type": "response.output_text.delta", **at, "delta": WORDS[0], "logprobs": []}
    error = {"code": code, "message": "It failed."}
    failed = {"type": "response.failed", "response": response("", status="failed", output=[], error=error, usage=None)}
    return _numbered([*response_prologue(), *[delta] * after_text, failed])


# -- Anthropic Messages -------------------------------------------------------------------------------


def message(text: str = TEXT, *, content: Sequence[Json] | None = None, **more: Any) -> Json:
    """A Messages answer. `content` replaces the one text block."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}] if content is None else list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": INPUT_TOKENS,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": OUTPUT_TOKENS,
        },
        **more,
    }


def message_call(name: str = TOOL_NAME, arguments: Json | None = None) -> Json:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments or TOOL_ARGUMENTS}


MESSAGE_START = named_event(
    {
        "type": "message_start",
        "message": message(content=[], stop_reason=None, usage={**message()["usage"], "output_tokens": 1}),
    }
)
MESSAGE_PING = named_event({"type": "ping"})
MESSAGE_STOP = named_event({"type": "message_stop"})


def message_delta(stop_reason: str = "end_turn") -> bytes:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return named_event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}})


def text_delta(text: str) -> bytes:
    return named_event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def message_stream(words: Iterable[str] = WORDS) -> list[bytes]:
    """message_start, ping, one text block, message_delta, message_stop."""
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    middle = [named_event(block), *map(text_delta, words), named_event({"type": "content_block_stop", "index": 0})]
    return [MESSAGE_START, MESSAGE_PING, *middle, message_delta(), MESSAGE_STOP]


def message_tool_stream() -> list[bytes]:
    """One tool call whose input comes in two deltas."""
    written = json.dumps(TOOL_ARGUMENTS)
    block = {"type": "content_block_start", "index": 0, "content_block": {**message_call(), "input": {}}}
    deltas = [{"type": "input_json_delta", "partial_json": half} for half in (written[:5], written[5:])]
    events = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    middle = [named_event(event) for event in (block, *events, {"type": "content_block_stop", "index": 0})]
    return [MESSAGE_START, *middle, message_delta("tool_use"), MESSAGE_STOP]


# -- Gemini -------------------------------------------------------------------------------------------


def gemini_usage(input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS, thoughts: int = 0) -> Json:
    total = input_tokens + output_tokens + thoughts
    figures = {"promptTokenCount": input_tokens, "candidatesTokenCount": output_tokens, "totalTokenCount": total}
    return {**figures, "thoughtsTokenCount": thoughts} if thoughts else figures


def gemini(text: str = TEXT, *, parts: Sequence[Json] | None = None, finish: str | None = "STOP", **more: Any) -> Json:
    """A generateContent answer, or one element of its stream with `finish=None`."""
    content = {"role": "model", "parts": [{"text": text}] if parts is None else list(parts)}
    candidate: Json = {"content": content, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    about = {"usageMetadata": gemini_usage(), "modelVersion": "gemini-test", "responseId": "gem_1"}
    return {"candidates": [candidate], **about, **more}


def gemini_call(name: str = TOOL_NAME, arguments: Json | None = None) -> Json:
    return {"functionCall": {"name": name, "args": arguments or TOOL_ARGUMENTS}}


def gemini_parts(words: Sequence[str] = WORDS) -> list[Json]:
    """The elements of a stream: one word each, the finish reason on the last."""
    last = len(words) - 1
    return [gemini(word, finish="STOP" if number == last else None) for number, word in enumerate(words)]


def gemini_stream(words: Sequence[str] = WORDS) -> list[bytes]:
    """`alt=sse`: no terminator, lines end in CRLF."""
    return [data_event(part, newline="\r\n") for part in gemini_parts(words)]


def gemini_array(words: Sequence[str] = WORDS) -> list[bytes]:
    """Without `alt=sse`: one JSON array, element by element."""
    elements = [json.dumps(part, indent=2).encode() for part in gemini_parts(words)]
    return [b"[" + elements[0], *(b",\r\n" + element for element in elements[1:]), b"]\n"]


# -- embeddings, counts, models -----------------------------------------------------------------------

VECTOR = [0.25, -0.5, 1.0]


def embeddings(count: int = 1) -> Json:
    data = [{"object": "embedding", "index": index, "embedding": VECTOR} for index in range(count)]
    usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
    return {"object": "list", "data": data, "model": "embed-test", "usage": usage}


GEMINI_EMBEDDING: Json = {"embedding": {"values": VECTOR}}
GEMINI_EMBEDDINGS: Json = {"embeddings": [{"values": VECTOR}]}
COUNT_TOKENS: Json = {"input_tokens": INPUT_TOKENS}
GEMINI_COUNT_TOKENS: Json = {"totalTokens": INPUT_TOKENS}


def openai_models(*names: str) -> Json:
    data = [
        {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "test"} for name in names or ("gpt-test",)
    ]
    return {"object": "list", "data": data}


def anthropic_models(*names: str) -> Json:
    when = "2026-01-01T00:00:00Z"
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": when} for name in names or ("claude-test",)
    ]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


def gemini_models(*names: str) -> Json:
    methods = ["generateContent", "countTokens"]
    about = {"version": "1", "inputTokenLimit": 1_000_000, "outputTokenLimit": 65_536}
    listed = names or ("gemini-test",)
    models = [{"name": f"models/{n}", "displayName": n, **about, "supportedGenerationMethods": methods} for n in listed]
    return {"models": models}
