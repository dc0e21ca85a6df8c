"""
A chat as a program: for the shell, for Python and for JavaScript with the official SDKs. Pure.

Every text of the chat is quoted for its language, so that what people copy means what they typed, whatever they typed.
The client key is read from the environment variable `KEY_VARIABLE`, and may be absent while the proxy is open.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from app.admin.chats import Chat, call_of, gemini_contents, given

KEY_VARIABLE: Final = "MIDDLEWARE_KEY"
#: SDKs refuse to start without a key, also where the server needs none.
NO_KEY: Final = "unused"
#: What a stream's text is in, for a Python and a JavaScript loop body.
Loop = tuple[str, str, str]

_STEP = "    "


def snippets(chat: Chat, address: str) -> dict[str, str]:
    """{`curl`, `python`, `javascript`}. `address` is this server's, without a slash at the end."""
    return {"curl": curl(chat, address), "python": python(chat, address), "javascript": javascript(chat, address)}


# -- the shell ---------------------------------------------------------------------------------------


def curl(chat: Chat, address: str) -> str:
    """For a POSIX shell: within single quotes nothing but a single quote has a meaning."""
    call = call_of(chat)
    body = json.dumps(call.body, indent=2, ensure_ascii=False)
    unbuffered = "-N " if chat.stream else ""
    return (
        f"curl {unbuffered}{shlex.quote(address + call.path)} \\\n"
        f'  -H "{call.key_header}: {call.key_prefix}${{{KEY_VARIABLE}:-{NO_KEY}}}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n"
        f"  --data-raw {shlex.quote(body)}\n"
    )


# -- Python ------------------------------------------------------------------------------------------


def python(chat: Chat, address: str) -> str:
    """With the official SDK of the dialect."""
    return _PYTHON[chat.dialect](chat, address)


def _python_openai(chat: Chat, address: str) -> str:
    what, (condition, text), whole = _OPENAI_PYTHON[chat.dialect]
    made = _python_client("from openai import OpenAI", "OpenAI", f"base_url={address + '/v1'!r}")
    call = f"client.{what}.create({_keywords(call_of(chat).body)})"
    return made + _python_end(chat, call, condition, text, whole)


def _python_anthropic(chat: Chat, address: str) -> str:
    made = _python_client("from anthropic import Anthropic", "Anthropic", f"base_url={address!r}")
    arguments = dict(call_of(chat).body)
    if "temperature" in arguments:
        # Not every release of this SDK has a parameter for it.
        arguments["extra_body"] = {"temperature": arguments.pop("temperature")}
    call = f"client.messages.create({_keywords(arguments)})"
    condition = 'event.type == "content_block_delta" and event.delta.type == "text_delta"'
    whole = '"".join(block.text for block in answer.content if block.type == "text")'
    return made + _python_end(chat, call, condition, "event.delta.text", whole)


def _python_gemini(chat: Chat, address: str) -> str:
    options = f"http_options={{'base_url': {address!r}}}".replace("'base_url'", '"base_url"')
    made = _python_client("from google import genai", "genai.Client", options)
    config = given(system_instruction=chat.system, max_output_tokens=chat.max_tokens, temperature=chat.temperature)
    arguments = {"model": chat.model, "contents": gemini_contents(chat), **({"config": config} if config else {})}
    verb = "generate_content_stream" if chat.stream else "generate_content"
    call = f"client.models.{verb}({_keywords(arguments)})"
    return made + _python_end(chat, call, "event.text", "event.text", "answer.text")


def _python_client(imported: str, made: str, options: str) -> str:
    key = f'os.environ.get("{KEY_VARIABLE}", "{NO_KEY}")'
    return f"import os\n\n{imported}\n\nclient = {made}({options}, api_key={key})\n\n"


def _python_end(chat: Chat, call: str, condition: str, text: str, whole: str) -> str:
    if not chat.stream:
        return f"answer = {call}\nprint({whole})\n"
    return f'for event in {call}:\n    if {condition}:\n        print({text}, end="", flush=True)\nprint()\n'


def _keywords(arguments: Mapping[str, Any]) -> str:
    lines = [f"{_STEP}{name}={_literal(value, repr, _STEP)},\n" for name, value in arguments.items()]
    return "\n" + "".join(lines)


def _literal(value: Any, of: Callable[[Any], str], indent: str) -> str:
    """`value` over several lines: lists and objects look alike in Python and in JavaScript, the rest is `of`'s."""
    deeper = indent + _STEP
    if isinstance(value, dict):
        items = [f"{deeper}{of(name)}: {_literal(item, of, deeper)},\n" for name, item in value.items()]
        return "{\n" + "".join(items) + indent + "}"
    if isinstance(value, list):
        items = [f"{deeper}{_literal(item, of, deeper)},\n" for item in value]
        return "[\n" + "".join(items) + indent + "]"
    return of(value)


# -- JavaScript --------------------------------------------------------------------------------------


def javascript(chat: Chat, address: str) -> str:
    """With the official SDK of the dialect, as an ES module."""
    return _JAVASCRIPT[chat.dialect](chat, address)


def _javascript_openai(chat: Chat, address: str) -> str:
    what, condition, text, whole = _OPENAI_JAVASCRIPT[chat.dialect]
    options = f"baseURL: {_js(address + '/v1')}"
    made = _javascript_client('import OpenAI from "openai";', "OpenAI", options)
    call = f"await client.{what}.create({_literal(call_of(chat).body, _js, '')})"
    return made + _javascript_end(chat, call, condition, text, whole)


def _javascript_anthropic(chat: Chat, address: str) -> str:
    options = f"baseURL: {_js(address)}"
    made = _javascript_client('import Anthropic from "@anthropic-ai/sdk";', "Anthropic", options)
    call = f"await client.messages.create({_literal(call_of(chat).body, _js, '')})"
    condition = 'event.type === "content_block_delta" && event.delta.type === "text_delta"'
    whole = 'answer.content.map((block) => block.text ?? "").join("")'
    return made + _javascript_end(chat, call, condition, "event.delta.text", whole)


def _javascript_gemini(chat: Chat, address: str) -> str:
    options = f"httpOptions: {{ baseUrl: {_js(address)} }}"
    made = _javascript_client('import { GoogleGenAI } from "@google/genai";', "GoogleGenAI", options)
    config = given(systemInstruction=chat.system, maxOutputTokens=chat.max_tokens, temperature=chat.temperature)
    arguments = {"model": chat.model, "contents": gemini_contents(chat), **({"config": config} if config else {})}
    verb = "generateContentStream" if chat.stream else "generateContent"
    call = f"await client.models.{verb}({_literal(arguments, _js, '')})"
    return made + _javascript_end(chat, call, "event.text", "event.text", "answer.text")


def _javascript_client(imported: str, made: str, options: str) -> str:
    key = f'process.env.{KEY_VARIABLE} ?? "{NO_KEY}"'
    return f"{imported}\n\nconst client = new {made}({{ {options}, apiKey: {key} }});\n\n"


def _javascript_end(chat: Chat, call: str, condition: str, text: str, whole: str) -> str:
    if not chat.stream:
        return f"const answer = {call};\nconsole.log({whole});\n"
    return (
        f"const events = {call};\nfor await (const event of events) {{\n"
        f"  if ({condition}) process.stdout.write({text});\n}}\nconsole.log();\n"
    )


def _js(value: Any) -> str:
    """JSON is JavaScript since ECMAScript 2019."""
    return json.dumps(value, ensure_ascii=False)


# -- the dialects ------------------------------------------------------------------------------------

#: What is called, when an event has text and which, the text of a whole answer.
_OPENAI_PYTHON: Final[Mapping[str, tuple[str, tuple[str, str], str]]] = {
    "openai_chat": (
        "chat.completions",
        ("event.choices and event.choices[0].delta.content", "event.choices[0].delta.content"),
        "answer.choices[0].message.content",
    ),
    "openai_responses": (
        "responses",
        ('event.type == "response.output_text.delta"', "event.delta"),
        "answer.output_text",
    ),
}
_OPENAI_JAVASCRIPT: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "openai_chat": (
        "chat.completions",
        "event.choices[0]?.delta?.content",
        "event.choices[0].delta.content",
        "answer.choices[0].message.content",
    ),
    "openai_responses": (
        "responses",
        'event.type === "response.output_text.delta"',
        "event.delta",
        "answer.output_text",
    ),
}
_PYTHON: Final[Mapping[str, Callable[[Chat, str], str]]] = {
    "openai_chat": _python_openai,
    "openai_responses": _python_openai,
    "anthropic_messages": _python_anthropic,
    "gemini": _python_gemini,
}
_JAVASCRIPT: Final[Mapping[str, Callable[[Chat, str], str]]] = {
    "openai_chat": _javascript_openai,
    "openai_responses": _javascript_openai,
    "anthropic_messages": _javascript_anthropic,
    "gemini": _javascript_gemini,
}
