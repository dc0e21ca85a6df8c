"""
The demonstration's HTTP server: which path is which call, whose key it is, and how plain and streamed answers leave.

Standard library only, on a loopback socket of its own. It is strict on purpose, so that what reaches it is known to be
what a real provider would take: one credential, in a header of the dialect; a JSON object as body; no unknown model.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from app.demo.anthropic import Messages
from app.demo.dialect import Ask, Dialect, Events, known_model
from app.demo.gemini import Gemini, embed
from app.demo.keys import DEMO_KEYS, RATE_LIMIT_EVERY, RETRY_AFTER_S, SLOW_MODEL, Fate
from app.demo.mind import MARK, Json, Prompt, Refusal, compose, texts
from app.demo.openai import Chat, Responses, embeddings

log = logging.getLogger("app.demo")

WORD_DELAY_S = 0.02
SLOW_WORD_DELAY_S = 0.25
MAX_BODY_BYTES = 64 * 1024 * 1024
_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
_FATES = {key.value: key.fate for key in DEMO_KEYS}

CHAT, RESPONSES, MESSAGES, GEMINI = Chat(), Responses(), Messages(), Gemini()


class Route(NamedTuple):
    """One URL rule. `call` answers plainly and outside the conversation; without it the dialect converses."""

    method: str
    pattern: re.Pattern[str]
    dialect: Dialect
    call: Callable[[Ask], Json] | None = None


def _gemini_count(ask: Ask) -> Json:
    return {"totalTokens": GEMINI.prompt(ask).input_tokens}


def _message_count(ask: Ask) -> Json:
    return {"input_tokens": MESSAGES.prompt(ask._replace(verb="count_tokens")).input_tokens}


def _response_count(ask: Ask) -> Json:
    return {"object": "response.input_tokens", "input_tokens": RESPONSES.prompt(ask).input_tokens}


def _route(method: str, path: str, dialect: Dialect, call: Callable[[Ask], Json] | None = None) -> Route:
    return Route(method, re.compile(path), dialect, call)


# Google serves OpenAI's format below /v1beta/openai, and so does the demonstration.
_OPENAI = "(?:/v1|/v1beta/openai)"
_GEMINI = r"/(?:v1|v1beta)/models/(?P<model>[^:]+):(?P<verb>%s)"
ROUTES: tuple[Route, ...] = (
    _route("POST", f"{_OPENAI}/chat/completions", CHAT),
    _route("POST", f"{_OPENAI}/responses", RESPONSES),
    _route("POST", f"{_OPENAI}/responses/input_tokens", RESPONSES, _response_count),
    _route("POST", f"{_OPENAI}/embeddings", CHAT, lambda ask: embeddings(ask.body)),
    _route("POST", "/v1/messages", MESSAGES),
    _route("POST", "/v1/messages/count_tokens", MESSAGES, _message_count),
    _route("POST", _GEMINI % "generateContent|streamGenerateContent", GEMINI),
    _route("POST", _GEMINI % "countTokens", GEMINI, _gemini_count),
    _route("POST", _GEMINI % "embedContent|batchEmbedContents", GEMINI, embed),
)
_MODELS = re.compile(r"(?P<base>/v1|/v1beta|/v1beta/openai)/models(?:/(?P<model>[^:]+))?")


class _Handler(BaseHTTPRequestHandler):
    """One connection. Every answer says in a header that it is the demonstration's."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "demonstration"
    sys_version = ""
    timeout = 120
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_POST(self) -> None:
        self._serve()

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    # -- one request ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        dialect = self._dialect(path)
        try:
            body = self._read_body()
            if listed := _MODELS.fullmatch(path):
                self._check_key(dialect, counted=False)
                self._answer_models(dialect, listed["model"])
                return
            route, match = self._match(path)
            self._check_key(dialect, counted=True)
            found = match.groupdict()
            ask = Ask(self._json(body), found.get("model"), found.get("verb") or "")
            self._answer(route, ask, sse=parse_qs(url.query).get("alt") == ["sse"])
        except Refusal as refusal:
            self._refuse(dialect, refusal)

    def _dialect(self, path: str) -> Dialect:
        """The dialect whose errors and key headers hold for this path; the lists of models go by the headers."""
        for route in ROUTES:
            if route.pattern.fullmatch(path):
                return route.dialect
        if path.startswith("/v1beta/openai"):
            return CHAT
        if path.startswith("/v1beta/") or "x-goog-api-key" in self.headers:
            return GEMINI
        return MESSAGES if "anthropic-version" in self.headers else CHAT

    def _match(self, path: str) -> tuple[Route, re.Match[str]]:
        found = [(route, match) for route in ROUTES if (match := route.pattern.fullmatch(path))]
        if not found:
            raise Refusal("not_found", f"The demonstration does not serve {path!r}.")
        if found[0][0].method != self.command:
            raise Refusal("bad_method", f"{path} takes {found[0][0].method}, not {self.command}.")
        return found[0]

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            raise Refusal("bad_request", "The demonstration wants a body with Content-Length.")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refusal("too_large", f"A body may have at most {MAX_BODY_BYTES} bytes.")
        return self.rfile.read(int(length))

    def _json(self, body: bytes) -> Json:
        if self.headers.get_content_type() != "application/json":
            raise Refusal("bad_request", "The body must be sent as application/json.")
        try:
            parsed = json.loads(body, parse_constant=_refuse_constant)
            texts(parsed)
        except (ValueError, RecursionError) as error:
            raise Refusal("bad_request", f"The body is not valid JSON: {str(error)[:100]}.") from error
        if not isinstance(parsed, dict):
            raise Refusal("bad_request", "The body must be a JSON object.")
        return parsed

    # -- keys -----------------------------------------------------------------------------------------

    def _check_key(self, dialect: Dialect, *, counted: bool) -> None:
        sent = [name for name in _KEY_HEADERS if name in self.headers]
        strange = [name for name in sent if name not in dialect.key_headers]
        if not sent or strange:
            found = f"Got {', '.join(strange)}." if strange else "No key was sent."
            raise Refusal("bad_key", f"{found} {dialect.key_hint}")
        values = {_bare(name, self.headers[name]) for name in sent}
        value = values.pop()
        fate = None if values else _FATES.get(value)
        if fate in (None, Fate.REVOKED):
            raise Refusal("bad_key", "API key not valid. Please pass a valid API key of the demonstration.")
        for name in dialect.required_headers:
            if name not in self.headers:
                raise Refusal("bad_request", f"{name}: header is required", name)
        if fate is Fate.FAILING:
            raise Refusal("broken", "This key of the demonstration fails on purpose.")
        if fate is Fate.RATE_LIMITED and counted and self.server.count(value) % RATE_LIMIT_EVERY == 0:
            raise Refusal("rate_limited", f"This key is limited on purpose. Please retry in {RETRY_AFTER_S}s.")

    # -- answers --------------------------------------------------------------------------------------

    def _answer_models(self, dialect: Dialect, name: str | None) -> None:
        if self.command != "GET":
            raise Refusal("bad_method", f"Models are read with GET, not {self.command}.")
        self._send_json(200, dialect.model(known_model(name)) if name else dialect.models())

    def _answer(self, route: Route, ask: Ask, *, sse: bool) -> None:
        if route.call is not None:
            self._send_json(200, route.call(ask))
            return
        prompt = route.dialect.prompt(ask)
        reply = compose(prompt, uuid.uuid4().hex, int(time.time()))
        if not prompt.stream:
            self._send_json(200, route.dialect.answer(prompt, reply))
        elif isinstance(route.dialect, Gemini) and not sse:
            self._send_stream(prompt, route.dialect.array(prompt, reply), "application/json")
        else:
            self._send_stream(prompt, route.dialect.events(prompt, reply), "text/event-stream")

    def _refuse(self, dialect: Dialect, refusal: Refusal) -> None:
        status, body = dialect.error(refusal)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if refusal.kind == "rate_limited" else {}
        self._send_json(status, body, headers)

    def _head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "X-Demonstration": MARK, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_json(self, status: int, body: Json, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        length = {"Content-Length": str(len(data)), **(headers or {})}
        if self.close_connection:
            length["Connection"] = "close"
        self._head(status, "application/json", length)
        self.wfile.write(data)

    def _send_stream(self, prompt: Prompt, events: Events, content_type: str) -> None:
        pause_s = SLOW_WORD_DELAY_S if prompt.model == SLOW_MODEL else self.server.word_delay_s
        self._head(200, content_type, {"Transfer-Encoding": "chunked", "Cache-Control": "no-cache"})
        for event in events:
            if event is not None:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            elif self.server.stopping.wait(pause_s):
                self.close_connection = True  # without the final chunk: the answer is not complete
                return
        self.wfile.write(b"0\r\n\r\n")


def _bare(name: str, value: str) -> str:
    """The key in a header's value; empty when the scheme is not the one that the header needs."""
    if name != "authorization":
        return value
    scheme, _, key = value.partition(" ")
    return key if scheme.lower() == "bearer" else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, word_delay_s: float) -> None:
        self.word_delay_s = word_delay_s
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host's name that HTTPServer does: it can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def count(self, key: str) -> int:
        """Return how many requests this key has made, this one included."""
        with self._lock:
            self._requests[key] += 1
            return self._requests[key]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        log.exception("the demonstration failed to answer")

    def hang_up(self) -> None:
        """End every connection, idle ones and streams included."""
        self.stopping.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class DemoUpstream:
    """
    The demonstration on a loopback socket. `start()` and `stop()` may be called by any thread, once each.

    port          -- 0 takes a free one
    word_delay_s  -- pause between two words of a stream
    """

    def __init__(self, port: int = 0, word_delay_s: float = WORD_DELAY_S) -> None:
        self._port, self._word_delay_s = port, word_delay_s
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Listen, and return the origin, such as `http://127.0.0.1:40123`. Raises OSError when the port is taken."""
        self._server = _Server(self._port, self._word_delay_s)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="demo-upstream", daemon=True
        )
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop listening and end every connection. Harmless when it does not run."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(5)
        self._server = self._thread = None
