"""
The demonstration in Google's Gemini wire format: generateContent in three forms, countTokens, embeddings, models.

Source: https://ai.google.dev/api
"""

from __future__ import annotations

import json
from typing import Any

from app.demo.dialect import Ask, Dialect, Events, data_event, known_model, objects, optional_count, optional_objects
from app.demo.keys import DEMO_MODELS, RETRY_AFTER_S
from app.demo.mind import Json, Prompt, Refusal, Reply, Tool, count_tokens, texts, vector

#: kind -> code, `status`
_ERRORS = {
    "bad_request": (400, "INVALID_ARGUMENT"),
    "bad_key": (400, "INVALID_ARGUMENT"),
    "not_found": (404, "NOT_FOUND"),
    "no_model": (404, "NOT_FOUND"),
    "bad_method": (404, "NOT_FOUND"),
    "too_large": (413, "INVALID_ARGUMENT"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "broken": (500, "INTERNAL"),
}
_TYPE = "type.googleapis.com/google.rpc."
_DETAILS: dict[str, list[Json]] = {
    "bad_key": [{"@type": _TYPE + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}],
    "rate_limited": [
        {
            "@type": _TYPE + "QuotaFailure",
            "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-Demonstration"}],
        },
        {"@type": _TYPE + "RetryInfo", "retryDelay": f"{RETRY_AFTER_S}s"},
    ],
}
_CHOICES = {"AUTO": "auto", "NONE": "none", "ANY": "required", "VALIDATED": "auto"}
_EMBEDDING_SIZE = 64
_MODEL_METHODS = ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"]


def _get(obj: Json, name: str, other: str) -> Any:
    """The API takes both camelCase and snake_case, even in one body."""
    return obj.get(name, obj.get(other))


class Gemini(Dialect):
    key_headers = ("x-goog-api-key",)
    key_hint = "Send the key as `x-goog-api-key: <key>`."

    def prompt(self, ask: Ask) -> Prompt:
        wrapped = _get(ask.body, "generateContentRequest", "generate_content_request")
        body = wrapped if isinstance(wrapped, dict) else ask.body
        given = body.get("contents")
        contents = objects([given] if isinstance(given, dict) else given, "contents")
        parts = [objects(content.get("parts"), "contents.parts") for content in contents]
        if not all(content.get("role", "user") in ("user", "model", "function") for content in contents):
            raise Refusal("bad_request", "Please use a valid role: user, model.", "contents")
        users = [said for content, said in zip(contents, parts, strict=True) if content.get("role", "user") == "user"]
        said_texts = [self._said(said) for said in users]
        config = _get(body, "generationConfig", "generation_config") or {}
        limit = _get(config, "maxOutputTokens", "max_output_tokens") if isinstance(config, dict) else None
        system = _get(body, "systemInstruction", "system_instruction")
        return Prompt(
            model=known_model(ask.model),
            text=next((text for text in reversed(said_texts) if text), ""),
            input_tokens=count_tokens(texts([system, parts])),
            stream=ask.verb == "streamGenerateContent",
            include_usage=True,
            tools=self._tools(body),
            tool_choice=self._tool_choice(body),
            tool_result=self._tool_result(parts[-1]),
            max_tokens=optional_count(limit, "generationConfig.maxOutputTokens"),
        )

    @staticmethod
    def _said(parts: list[Json]) -> str:
        return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))

    @staticmethod
    def _tool_result(parts: list[Json]) -> str | None:
        found = [_get(part, "functionResponse", "function_response") for part in parts]
        results = [json.dumps(item.get("response")) for item in found if isinstance(item, dict)]
        return "\n".join(results) if results else None

    @staticmethod
    def _tools(body: Json) -> tuple[Tool, ...]:
        found = []
        for tool in optional_objects(body.get("tools"), "tools"):
            declared = _get(tool, "functionDeclarations", "function_declarations")
            for function in optional_objects(declared, "tools.functionDeclarations"):
                if not isinstance(function.get("name"), str):
                    raise Refusal("bad_request", "Each function declaration needs a `name`.", "tools")
                schema = _get(function, "parametersJsonSchema", "parameters_json_schema") or function.get("parameters")
                found.append(Tool(function["name"], schema if isinstance(schema, dict) else {}))
        return tuple(found)

    @staticmethod
    def _tool_choice(body: Json) -> str:
        config = _get(body, "toolConfig", "tool_config")
        calling = _get(config, "functionCallingConfig", "function_calling_config") if isinstance(config, dict) else None
        if not isinstance(calling, dict):
            return "auto"
        allowed = _get(calling, "allowedFunctionNames", "allowed_function_names")
        if isinstance(allowed, list) and allowed and isinstance(allowed[0], str):
            return allowed[0]
        return _CHOICES.get(str(calling.get("mode")).upper(), "auto")

    def answer(self, prompt: Prompt, reply: Reply) -> Json:
        part: Json = {"text": reply.text}
        if reply.call:
            part = {"functionCall": {"name": reply.call.name, "args": reply.call.arguments}}
        return self._element(prompt, reply, part, self._finish(reply), reply.output_tokens)

    def elements(self, prompt: Prompt, reply: Reply) -> list[Json]:
        """The answers of a stream, in order: one for each word; a tool call comes whole."""
        if reply.call or not reply.words:
            return [self.answer(prompt, reply)]
        found, tokens = [], 0
        for number, word in enumerate(reply.words):
            tokens += count_tokens(word)
            finish = self._finish(reply) if number == len(reply.words) - 1 else None
            found.append(self._element(prompt, reply, {"text": word}, finish, tokens))
        return found

    def events(self, prompt: Prompt, reply: Reply) -> Events:
        for element in self.elements(prompt, reply):
            yield None
            yield data_event(element, newline="\r\n")

    def array(self, prompt: Prompt, reply: Reply) -> Events:
        """The stream without `alt=sse`: one JSON array."""
        for number, element in enumerate(self.elements(prompt, reply)):
            yield None
            yield (b",\r\n" if number else b"[") + json.dumps(element).encode()
        yield b"]"

    @staticmethod
    def _finish(reply: Reply) -> str:
        return "MAX_TOKENS" if reply.truncated else "STOP"

    @staticmethod
    def _element(prompt: Prompt, reply: Reply, part: Json, finish: str | None, output_tokens: int) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        usage = {
            "promptTokenCount": reply.input_tokens,
            "candidatesTokenCount": output_tokens,
            "totalTokenCount": reply.input_tokens + output_tokens,
        }
        about = {"usageMetadata": usage, "modelVersion": prompt.model, "responseId": reply.id}
        return {"candidates": [candidate], **about}

    def error(self, refusal: Refusal) -> tuple[int, Json]:
        code, status = _ERRORS[refusal.kind]
        error: Json = {"code": code, "message": refusal.message, "status": status}
        if refusal.kind in _DETAILS:
            error["details"] = _DETAILS[refusal.kind]
        return code, {"error": error}

    def models(self) -> Json:
        return {"models": [self.model(name) for name in DEMO_MODELS]}

    def model(self, name: str) -> Json:
        about = {"name": f"models/{name}", "version": "1", "displayName": name, "description": DEMO_MODELS[name]}
        limits = {"inputTokenLimit": 1_000_000, "outputTokenLimit": 65_536}
        return {**about, **limits, "supportedGenerationMethods": _MODEL_METHODS}


def embed(ask: Ask) -> Json:
    """Answer embedContent and batchEmbedContents. Raises Refusal."""
    known_model(ask.model)
    if ask.verb == "embedContent":
        return {"embedding": _embedding(ask.body)}
    return {"embeddings": [_embedding(request) for request in objects(ask.body.get("requests"), "requests")]}


def _embedding(request: Json) -> Json:
    content = request.get("content")
    parts = objects(content.get("parts") if isinstance(content, dict) else None, "content.parts")
    asked = _get(request, "outputDimensionality", "output_dimensionality")
    size = optional_count(asked, "outputDimensionality") or _EMBEDDING_SIZE
    if size > 4096:
        raise Refusal("bad_request", "`outputDimensionality` must be at most 4096.", "outputDimensionality")
    return {"values": vector(texts(parts), size)}
