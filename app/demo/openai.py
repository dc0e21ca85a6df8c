"""
The demonstration in OpenAI's wire formats: chat completions, Responses, embeddings, models.

Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from app.demo.dialect import (
    Ask,
    Dialect,
    Events,
    boolean,
    data_event,
    known_model,
    named_event,
    objects,
    optional_count,
    optional_objects,
    part_texts,
    schema_of,
)
from app.demo.keys import DEMO_MODELS, MODELS_CREATED
from app.demo.mind import Json, Prompt, Refusal, Reply, Tool, count_tokens, texts, vector

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_EMBEDDING_SIZE = 64

#: kind -> status, `type`, `code`
_ERRORS: dict[str, tuple[int, str, str | None]] = {
    "bad_request": (400, "invalid_request_error", None),
    "bad_key": (401, "invalid_request_error", "invalid_api_key"),
    "not_found": (404, "invalid_request_error", None),
    "no_model": (404, "invalid_request_error", "model_not_found"),
    "bad_method": (405, "invalid_request_error", "method_not_supported"),
    "too_large": (413, "invalid_request_error", None),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "broken": (500, "server_error", None),
}


class OpenAi(Dialect):
    """What chat completions and Responses share."""

    key_headers = ("authorization",)
    key_hint = "Send the key as `Authorization: Bearer <key>`."

    def error(self, refusal: Refusal) -> tuple[int, Json]:
        status, kind, code = _ERRORS[refusal.kind]
        return status, {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": code}}

    def models(self) -> Json:
        return {"object": "list", "data": [self.model(name) for name in DEMO_MODELS]}

    def model(self, name: str) -> Json:
        return {"id": name, "object": "model", "created": MODELS_CREATED, "owned_by": "demonstration"}


def _tool_choice(value: Any) -> str:
    if isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        return name if isinstance(name, str) else "auto"
    return value if isinstance(value, str) else "auto"


# -- chat completions ---------------------------------------------------------------------------------


class Chat(OpenAi):
    def prompt(self, ask: Ask) -> Prompt:
        body = ask.body
        messages = objects(body.get("messages"), "messages")
        for message in messages:
            if message.get("role") not in _ROLES:
                raise Refusal("bad_request", f"`role` must be one of {', '.join(sorted(_ROLES))}.", "messages")
        if body.get("n") not in (None, 1):
            raise Refusal("bad_request", "The demonstration gives one choice: `n` must be 1.", "n")
        options = body.get("stream_options")
        users = [message for message in messages if message["role"] == "user"]
        last = messages[-1]
        limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        return Prompt(
            model=known_model(body.get("model")),
            text=part_texts(users[-1].get("content"), "messages") if users else "",
            input_tokens=count_tokens(texts([message.get("content") for message in messages])),
            stream=boolean(body.get("stream"), "stream"),
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            tools=self._tools(body),
            tool_choice=_tool_choice(body.get("tool_choice")),
            tool_result=part_texts(last.get("content"), "messages") if last["role"] == "tool" else None,
            max_tokens=optional_count(body.get(limit), limit),
        )

    def _tools(self, body: Json) -> tuple[Tool, ...]:
        found = []
        for tool in optional_objects(body.get("tools"), "tools"):
            function = tool.get("function")
            if tool.get("type") != "function":
                continue
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise Refusal("bad_request", "Each function of `tools` needs a `function` with a `name`.", "tools")
            found.append(Tool(function["name"], schema_of(function.get("parameters"))))
        return tuple(found)

    def answer(self, prompt: Prompt, reply: Reply) -> Json:
        message: Json = {"role": "assistant", "content": None if reply.call else reply.text, "refusal": None}
        if reply.call:
            message["tool_calls"] = [self._call(reply)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish(reply)}
        return {**self._about(prompt, reply, "chat.completion"), "choices": [choice], "usage": self._usage(reply)}

    def events(self, prompt: Prompt, reply: Reply) -> Events:
        yield self._chunk(prompt, reply, {"role": "assistant", "content": ""})
        if reply.call:
            opened = {**self._call(reply), "index": 0}
            opened["function"] = {"name": reply.call.name, "arguments": ""}
            yield self._chunk(prompt, reply, {"tool_calls": [opened]})
            yield None
            arguments = {"index": 0, "function": {"arguments": reply.call.written}}
            yield self._chunk(prompt, reply, {"tool_calls": [arguments]})
        for word in reply.words:
            yield None
            yield self._chunk(prompt, reply, {"content": word})
        yield self._chunk(prompt, reply, {}, self._finish(reply))
        if prompt.include_usage:
            about = self._about(prompt, reply, "chat.completion.chunk")
            yield data_event({**about, "choices": [], "usage": self._usage(reply)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, prompt: Prompt, reply: Reply, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data_event({**self._about(prompt, reply, "chat.completion.chunk"), "choices": [choice]})

    @staticmethod
    def _about(prompt: Prompt, reply: Reply, kind: str) -> Json:
        return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": reply.created, "model": prompt.model}

    @staticmethod
    def _call(reply: Reply) -> Json:
        assert reply.call is not None
        function = {"name": reply.call.name, "arguments": reply.call.written}
        return {"id": f"call_{reply.id[:24]}", "type": "function", "function": function}

    @staticmethod
    def _finish(reply: Reply) -> str:
        return "tool_calls" if reply.call else "length" if reply.truncated else "stop"

    @staticmethod
    def _usage(reply: Reply) -> Json:
        return {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.total_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


# -- Responses ----------------------------------------------------------------------------------------


class Responses(OpenAi):
    def prompt(self, ask: Ask) -> Prompt:
        body = ask.body
        for name in ("previous_response_id", "conversation"):
            if body.get(name) is not None:
                raise Refusal("bad_request", f"The demonstration keeps no answers: `{name}` can't be used.", name)
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given, "input")
        users = [item for item in items if item.get("role") == "user"]
        last = items[-1]
        result = last.get("output") if last.get("type") == "function_call_output" else None
        instructions = body.get("instructions") or ""
        return Prompt(
            model=known_model(body.get("model")),
            text=part_texts(users[-1].get("content"), "input") if users else "",
            input_tokens=count_tokens(texts([instructions, *(i.get("content", i.get("output")) for i in items)])),
            stream=boolean(body.get("stream"), "stream"),
            tools=self._tools(body),
            tool_choice=_tool_choice(body.get("tool_choice")),
            tool_result=part_texts(result, "input") if result is not None else None,
            max_tokens=optional_count(body.get("max_output_tokens"), "max_output_tokens"),
        )

    def _tools(self, body: Json) -> tuple[Tool, ...]:
        functions = [tool for tool in optional_objects(body.get("tools"), "tools") if tool.get("type") == "function"]
        if not all(isinstance(tool.get("name"), str) for tool in functions):
            raise Refusal("bad_request", "Each function of `tools` needs a `name`.", "tools")
        return tuple(Tool(tool["name"], schema_of(tool.get("parameters"))) for tool in functions)

    def answer(self, prompt: Prompt, reply: Reply) -> Json:
        status = "incomplete" if reply.truncated else "completed"
        return self._response(prompt, reply, status, [self._item(reply, "completed")])

    def events(self, prompt: Prompt, reply: Reply) -> Events:
        number = 0
        for event in self._bare_events(prompt, reply):
            if event is None:
                yield None
                continue
            yield named_event({**event, "sequence_number": number})
            number += 1

    def _bare_events(self, prompt: Prompt, reply: Reply) -> Any:
        begun = self._response(prompt, reply, "in_progress", [])
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        item = self._item(reply, "completed")
        at = {"item_id": item["id"], "output_index": 0}
        empty: Json = {"arguments": ""} if reply.call else {"content": []}
        opened = {**self._item(reply, "in_progress"), **empty}
        yield {"type": "response.output_item.added", "output_index": 0, "item": opened}
        if reply.call:
            yield None
            yield {"type": "response.function_call_arguments.delta", **at, "delta": reply.call.written}
            done = {"name": reply.call.name, "arguments": reply.call.written}
            yield {"type": "response.function_call_arguments.done", **at, **done}
        else:
            yield from self._text_events(reply, {**at, "content_index": 0}, item["content"][0])
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        answer = self.answer(prompt, reply)
        yield {"type": f"response.{answer['status']}", "response": answer}

    @staticmethod
    def _text_events(reply: Reply, at: Json, part: Json) -> Any:
        yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
        for word in reply.words:
            yield None
            yield {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
        yield {"type": "response.output_text.done", **at, "text": reply.text, "logprobs": []}
        yield {"type": "response.content_part.done", **at, "part": part}

    @staticmethod
    def _item(reply: Reply, status: str) -> Json:
        if reply.call:
            about = {"id": f"fc_{reply.id}", "type": "function_call", "status": status}
            call = {"call_id": f"call_{reply.id[:24]}", "name": reply.call.name, "arguments": reply.call.written}
            return {**about, **call}
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        about = {"id": f"msg_{reply.id}", "type": "message", "role": "assistant", "status": status}
        return {**about, "content": [part]}

    @staticmethod
    def _response(prompt: Prompt, reply: Reply, status: str, output: list[Json]) -> Json:
        usage = {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.total_tokens,
        }
        return {
            "id": f"resp_{reply.id}",
            "object": "response",
            "created_at": reply.created,
            "status": status,
            "model": prompt.model,
            "output": output,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "store": False,
            "tool_choice": prompt.tool_choice if prompt.tool_choice in ("auto", "none", "required") else "auto",
            "tools": [],
            "usage": None if status == "in_progress" else usage,
        }


# -- embeddings ---------------------------------------------------------------------------------------


def embeddings(body: Json) -> Json:
    """Answer a call of /v1/embeddings. Raises Refusal."""
    model = known_model(body.get("model"))
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs or not all(isinstance(text, str) for text in inputs):
        raise Refusal("bad_request", "`input` must be a string or a list of strings that is not empty.", "input")
    size = optional_count(body.get("dimensions"), "dimensions") or _EMBEDDING_SIZE
    if size > 4096:
        raise Refusal("bad_request", "`dimensions` must be at most 4096.", "dimensions")
    vectors: list[Any] = [vector(text, size) for text in inputs]
    if body.get("encoding_format") == "base64":  # little-endian 32-bit floats
        vectors = [base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode() for numbers in vectors]
    tokens = sum(map(count_tokens, inputs))
    data = [{"object": "embedding", "index": index, "embedding": found} for index, found in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
