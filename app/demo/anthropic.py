"""
The demonstration in Anthropic's wire format: Messages, count_tokens, models.

Source: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from datetime import UTC, datetime

from app.demo.dialect import (
    Ask,
    Dialect,
    Events,
    boolean,
    known_model,
    named_event,
    objects,
    optional_count,
    optional_objects,
    part_texts,
    schema_of,
)
from app.demo.keys import DEMO_MODELS, MODELS_CREATED
from app.demo.mind import Json, Prompt, Refusal, Reply, Tool, count_tokens, texts

#: kind -> status, `error.type`
_ERRORS = {
    "bad_request": (400, "invalid_request_error"),
    "bad_key": (401, "authentication_error"),
    "not_found": (404, "not_found_error"),
    "no_model": (404, "not_found_error"),
    "bad_method": (405, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "rate_limited": (429, "rate_limit_error"),
    "broken": (500, "api_error"),
}
_ROLES = ("user", "assistant", "system")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Messages(Dialect):
    key_headers = ("x-api-key", "authorization")
    key_hint = "Send the key as `x-api-key: <key>` or `Authorization: Bearer <key>`."
    required_headers = ("anthropic-version",)

    def prompt(self, ask: Ask) -> Prompt:
        body = ask.body
        messages = objects(body.get("messages"), "messages")
        if not all(message.get("role") in _ROLES for message in messages):
            raise Refusal("bad_request", f"messages: `role` must be one of {', '.join(_ROLES)}.", "messages")
        limit = optional_count(body.get("max_tokens"), "max_tokens")
        if limit is None and ask.verb != "count_tokens":
            raise Refusal("bad_request", "max_tokens: Field required", "max_tokens")
        said = [self._said(message) for message in messages if message["role"] == "user"]
        last = messages[-1]
        return Prompt(
            model=known_model(body.get("model")),
            text=next((text for text in reversed(said) if text), ""),
            input_tokens=count_tokens(texts([body.get("system"), *(message.get("content") for message in messages)])),
            stream=boolean(body.get("stream"), "stream"),
            tools=self._tools(body),
            tool_choice=self._tool_choice(body),
            tool_result=self._tool_result(last),
            max_tokens=limit,
        )

    @staticmethod
    def _said(message: Json) -> str:
        content = message.get("content")
        if isinstance(content, list):
            content = [block for block in content if not isinstance(block, dict) or block.get("type") == "text"]
        return part_texts(content, "messages")

    @staticmethod
    def _tool_result(message: Json) -> str | None:
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        results = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
        return "\n".join(part_texts(block.get("content"), "messages") for block in results) if results else None

    @staticmethod
    def _tools(body: Json) -> tuple[Tool, ...]:
        found = []
        for tool in optional_objects(body.get("tools"), "tools"):
            if not isinstance(tool.get("name"), str):
                raise Refusal("bad_request", "tools: each tool needs a `name`.", "tools")
            if "input_schema" in tool:  # without one it is a tool that Anthropic runs itself
                found.append(Tool(tool["name"], schema_of(tool["input_schema"])))
        return tuple(found)

    @staticmethod
    def _tool_choice(body: Json) -> str:
        choice = body.get("tool_choice")
        if not isinstance(choice, dict):
            return "auto"
        name = choice.get("name")
        return name if isinstance(name, str) else _CHOICES.get(str(choice.get("type")), "auto")

    def answer(self, prompt: Prompt, reply: Reply) -> Json:
        block = self._block(reply)
        return self._message(prompt, reply, [block], self._stop_reason(reply), reply.output_tokens)

    def events(self, prompt: Prompt, reply: Reply) -> Events:
        yield named_event({"type": "message_start", "message": self._message(prompt, reply, [], None, 0)})
        empty: Json = {"input": {}} if reply.call else {"text": ""}
        opened = {**self._block(reply), **empty}
        yield named_event({"type": "content_block_start", "index": 0, "content_block": opened})
        yield named_event({"type": "ping"})
        if reply.call:
            yield None
            yield self._delta({"type": "input_json_delta", "partial_json": reply.call.written})
        for word in reply.words:
            yield None
            yield self._delta({"type": "text_delta", "text": word})
        yield named_event({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": self._stop_reason(reply), "stop_sequence": None}
        usage = {"output_tokens": reply.output_tokens}
        yield named_event({"type": "message_delta", "delta": delta, "usage": usage})
        yield named_event({"type": "message_stop"})

    @staticmethod
    def _delta(delta: Json) -> bytes:
        return named_event({"type": "content_block_delta", "index": 0, "delta": delta})

    @staticmethod
    def _block(reply: Reply) -> Json:
        if reply.call is None:
            return {"type": "text", "text": reply.text}
        call_id = f"toolu_{reply.id[:24]}"
        return {"type": "tool_use", "id": call_id, "name": reply.call.name, "input": reply.call.arguments}

    @staticmethod
    def _stop_reason(reply: Reply) -> str:
        return "tool_use" if reply.call else "max_tokens" if reply.truncated else "end_turn"

    @staticmethod
    def _message(prompt: Prompt, reply: Reply, content: list[Json], stop: str | None, output_tokens: int) -> Json:
        usage = {
            "input_tokens": reply.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        }
        about = {"id": f"msg_{reply.id}", "type": "message", "role": "assistant", "model": prompt.model}
        return {**about, "content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}

    def error(self, refusal: Refusal) -> tuple[int, Json]:
        status, kind = _ERRORS[refusal.kind]
        return status, {"type": "error", "error": {"type": kind, "message": refusal.message}, "request_id": None}

    def models(self) -> Json:
        data = [self.model(name) for name in DEMO_MODELS]
        return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}

    def model(self, name: str) -> Json:
        created = datetime.fromtimestamp(MODELS_CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
