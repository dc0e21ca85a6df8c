"""
Where an upstream key must never be found: S29, S30 and S32. The upstream knows the key, because it was given it, and
says it back in every way that an error can; then everything is searched that a reader of answers, logs, files or
processes could see.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from app.redaction import Redactor
from tests import canned
from tests.attacks.dialects import CHAT, DIALECTS, GEMINI, MESSAGES, Dialect
from tests.attacks.server import PASSWORD, Server
from tests.fake_provider import Behavior, FakeProvider, json_reply, reply, stream

#: Shaped like no known kind of key, and with characters that URLs and JSON may escape.
SECRET = "Plain/Secret=Value+0123456789-abcdefgh"
JSON = {"Content-Type": "application/json"}
#: As it may be written by whoever says it.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a sentence": "Incorrect API key provided: {}. You can find your API key at https://example.com.".format,
    "in a URL": lambda key: f"https://example.com/v1/x?key={quote(key, safe='')}&alt=sse",
    "URL-encoded": lambda key: quote(key, safe=""),
    "URL-encoded in part": quote,
    "wholly URL-encoded": lambda key: "".join(f"%{ord(character):02X}" for character in key),
    "URL-encoded in lower case": lambda key: re.sub("%..", lambda found: found[0].lower(), quote(key, safe="")),
    "as a header": "Authorization: Bearer {}".format,
    "twice": lambda key: f"{key} {key}",
}


def with_escapes(text: str) -> str:
    """A JSON string as careful writers make it: slashes, signs and letters escaped that need no escape."""
    return "".join(f"\\u{ord(character):04x}" if character in "/=+S" else character for character in text)


@dataclass
class Site:
    server: Server
    upstream: FakeProvider
    admin: dict[str, str]
    key_ids: dict[str, int]

    def ask(self, dialect: Dialect, *, streamed: bool = False) -> tuple[int, str]:
        """The status, and everything that the caller sees of the answer."""
        body = dict(dialect.body)
        path = dialect.path
        if streamed and dialect is GEMINI:
            path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
        elif streamed:
            body["stream"] = True
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
        head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode()
        # Raw, because an answer that ends in an error is cut, and what came before counts.
        status, headers, rest = self.server.raw(head + data)
        return status, f"{headers}\n{rest.decode()}"

    def keys(self) -> list[dict[str, Any]]:
        """The keys, without what is only counted."""
        rows = self.server.request("GET", "/middleware/api/keys", headers=self.admin).json()
        counted = ("last_used", "total_usage", "usage_today", "kpi")
        return [{name: value for name, value in row.items() if name not in counted} for row in rows]

    def wake(self, provider: str) -> None:
        """The provider's key is healthy again, whatever the last answer did to it."""
        path = f"/middleware/api/keys/{self.key_ids[provider]}"
        for call, body in (("PUT", b'{"status": "Healthy"}'), ("POST", b"")):
            target = path if call == "PUT" else f"{path}/wake"
            assert self.server.request(call, target, body=body, headers={**JSON, **self.admin}).status == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("secrets")
    with FakeProvider() as upstream:
        origins = {f"{name}_BASE_URL": upstream.origin for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
        with Server(
            folder,
            **origins,
            MIDDLEWARE_PASSWORD=PASSWORD,
            LOG_LEVEL="debug",
            ENABLE_CIRCUIT_BREAKER="false",
            POOL_BRAKE_THRESHOLD="0",
            LOG_REQUEST_BODY="true",
            LOG_RESPONSE_BODY="true",
        ) as server:
            admin, key_ids = server.login(), {}
            for provider in ("openai", "anthropic", "gemini"):
                # One secret for each: a value exists once.
                key = {"key": SECRET + provider, "provider": provider}
                answer = server.request(
                    "POST", "/middleware/api/keys", body=json.dumps(key).encode(), headers={**JSON, **admin}
                )
                assert answer.status == 201
                key_ids[provider] = answer.json()["id"]
            yield Site(server, upstream, admin, key_ids)


def decoded(seen: str) -> str:
    """What a curious reader makes of an answer: escapes of JSON, URLs and HTML undone."""
    letters = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), seen).replace("\\/", "/")
    return "\n".join((seen, letters, unquote(seen), unquote(letters), html.unescape(seen)))


def assert_hidden(seen: str) -> None:
    assert SECRET not in decoded(seen), seen[:2000]


def error(dialect: Dialect, text: str, status: int) -> dict[str, Any]:
    """An error body as the dialect's provider writes it, saying `text`."""
    if dialect.provider == "gemini":
        return {"error": {"code": status, "message": text, "status": "INVALID_ARGUMENT", "details": [{"x": text}]}}
    if dialect.provider == "anthropic":
        return {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return {"error": {"message": text, "type": "invalid_request_error", "param": text, "code": "unsupported"}}


def assert_served(site: Site, dialect: Dialect, behavior: Behavior, *, streamed: bool = False) -> tuple[int, str]:
    site.wake(dialect.provider)
    site.upstream.default(behavior)
    status, seen = site.ask(dialect, streamed=streamed)
    assert_hidden(seen)
    return status, seen


# -- S29 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=list(SPELLINGS))
def test_s29_an_error_that_says_the_key_reaches_nobody_so(
    site: Site, dialect: Dialect, spell: Callable[[str], str]
) -> None:
    for status in (400, 401, 403, 404, 429, 500):
        body = error(dialect, spell(SECRET + dialect.provider), status)
        got, _ = assert_served(site, dialect, json_reply(body, status))
        assert got >= 400


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s29_neither_does_one_that_escapes_it(site: Site, dialect: Dialect) -> None:
    body = json.dumps(error(dialect, "MARK", 400)).replace("MARK", with_escapes(SECRET + dialect.provider))
    assert SECRET not in body
    assert SECRET in str(json.loads(body))
    _, seen = assert_served(site, dialect, reply(400, JSON, body))
    assert SECRET not in str(json.loads(seen.partition("\n")[2]))
    body = json.dumps(error(dialect, SECRET + dialect.provider, 400)).replace("/", "\\/")
    assert_served(site, dialect, reply(400, JSON, body))


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/json", "application/problem+json"])
def test_s29_neither_does_a_page_or_a_text(site: Site, dialect: Dialect, content_type: str) -> None:
    page = f"<html><title>{SECRET}{dialect.provider}</title>{html.escape(SECRET + dialect.provider)}</html>"
    # Not 403: a page with it means that this network is blocked, and the provider rests.
    for status in (400, 404, 500, 502):
        assert_served(site, dialect, reply(status, {"Content-Type": content_type}, page))


ERROR_EVENTS = {
    "chat": ("data: %s\n\n", lambda text: error(CHAT, text, 500)),
    "responses": (
        "event: error\ndata: %s\n\n",
        lambda text: {"type": "error", "code": "server_error", "message": text, "param": None, "sequence_number": 9},
    ),
    "messages": ("event: error\ndata: %s\n\n", lambda text: error(MESSAGES, text, 500)),
    "gemini": ("data: %s\r\n\r\n", lambda text: error(GEMINI, text, 500)),
}
EVENTS = {
    "chat": canned.chat_stream(),
    "responses": canned.response_stream(),
    "messages": canned.message_stream(),
    "gemini": canned.gemini_stream(),
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("after", [0, -2], ids=["before any output", "after output"])
def test_s29_neither_does_an_error_inside_a_stream(site: Site, dialect: Dialect, after: int, escaped: bool) -> None:
    frame, make = ERROR_EVENTS[dialect.name]
    text = json.dumps(make(f"failed for MARK {dialect.name}"))
    secret = SECRET + dialect.provider
    event = frame % text.replace("MARK", with_escapes(secret) if escaped else secret)
    events = [*EVENTS[dialect.name][:after], event.encode()] if after else [event.encode()]
    status, seen = assert_served(site, dialect, stream(events), streamed=True)
    assert status == 200 if after else status >= 400
    assert "failed for" in seen or not after


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize(
    "name",
    ["request-id", "openai-version", "openai-model", "ETag", "Content-Disposition", "x-goog-upload-url", "X-Echo"]
    + ["Content-Language", "Last-Modified", "anthropic-version", "Location", "Retry-After"],
)
@pytest.mark.parametrize("status", [200, 400])
def test_s29_neither_does_a_header(site: Site, dialect: Dialect, name: str, status: int) -> None:
    secret = SECRET + dialect.provider
    body = dialect.answer if status == 200 else error(dialect, "no", 400)
    for value in (secret, f"https://example.com/x?key={quote(secret, safe='')}", f'attachment; filename="{secret}"'):
        got, _ = assert_served(site, dialect, json_reply(body, status, {name: value, "openai-processing-ms": "7"}))
        assert got == status


@pytest.mark.parametrize(
    "value", ["\xb2", "\xb9\xb2", "soon", "-1", "1e9", "9" * 400, "", "Fri, 99 Foo 2026 00:00:00 GMT"]
)
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_a_strange_wait_of_an_upstream_is_no_defect_of_ours(site: Site, dialect: Dialect, value: str) -> None:
    for status in (400, 429, 503):
        behavior = json_reply(error(dialect, "slow down", status), status, {"Retry-After": value})
        got, _ = assert_served(site, dialect, behavior)
        assert got in (status, 429, 503)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s29_an_answer_that_says_the_key_is_kept_nowhere(site: Site, dialect: Dialect) -> None:
    """The body of a good answer goes to the caller as it came; what is remembered of it does not hold the key."""
    site.wake(dialect.provider)
    ours = SECRET + dialect.provider
    text = json.dumps(dialect.answer).replace(canned.TEXT, f"your key is {ours}")
    site.upstream.default(reply(200, JSON, text))
    assert site.ask(dialect)[0] == 200
    logs = site.server.request("GET", "/middleware/api/logs?limit=1000", headers=site.admin).data.decode()
    assert_hidden(logs)


# -- S30: after all of that -----------------------------------------------------------------------------------------


def admin_answers(site: Site) -> Iterator[tuple[str, str]]:
    """(path, answer) of everything that can be read in the administration."""
    names = ("keys", "keys/export", "providers", "providers/openai", "clients", "settings", "settings?describe=true")
    names += ("logs?limit=1000", "requests?limit=500", "global-stats", "usage", "aliases", "prices", "session")
    names += ("route?model=gpt-test", "keys/1/stats")
    ids = [row["id"] for row in site.server.request("GET", "/middleware/api/keys", headers=site.admin).json()]
    listed = site.server.request("GET", "/middleware/api/requests?limit=500", headers=site.admin).json()
    single = [f"requests/{row['id']}" for row in listed["requests"][:200]]
    for name in (*names, *(f"keys/{key_id}" for key_id in ids), *single):
        yield name, site.server.request("GET", f"/middleware/api/{name}", headers=site.admin).data.decode()
    for path in ("/", "/middleware/", "/metrics", "/healthz", "/readyz", "/v1/health", "/livez"):
        yield path, site.server.request("GET", path, headers=site.admin).data.decode()


def test_s30_no_answer_of_the_administration_holds_the_key(site: Site) -> None:
    seen = dict(admin_answers(site))
    assert len(seen) > 20
    for path, answer in seen.items():
        assert SECRET not in decoded(answer), path
    assert "Plai" in seen["keys"]  # the mask is there, so the keys are


def test_s30_no_file_of_the_server_holds_the_key(site: Site) -> None:
    needles = [SECRET.encode(), quote(SECRET, safe="").encode(), SECRET[:20].encode(), SECRET[10:].encode()]
    searched = []
    for path in site.server.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            searched.append(path.name)
            assert not any(needle in data for needle in needles), path
            assert PASSWORD.encode() not in data, path
    assert {"keys.db", "keys.db-wal", "server.log"} <= set(searched)


def test_s30_files_are_their_owners_alone(site: Site) -> None:
    for name in ("keys.db", "keys.db-wal", "run/shared"):
        path = site.server.folder / name
        assert path.exists(), name
        assert path.stat().st_mode & 0o077 == 0, name


def test_s30_no_process_shows_the_key(site: Site) -> None:
    for pid in site.server.pids:
        for name in ("cmdline", "environ", "comm"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in command
        assert b"a secret that only tests use" not in command


def test_s30_the_log_has_no_defect_and_no_query(site: Site) -> None:
    site.server.request("GET", f"/v1/models?key={SECRET}")
    log = site.server.log
    assert_hidden(log)
    assert "Traceback" not in log
    assert '"exception"' not in log
    assert "?key=" not in log


# -- S32: what is brought back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"keys": []}',
        b'"../../etc/passwd"',
        b"[",
        b"PK\x03\x04 not json",
        b"\x1f\x8b\x08\x00 gzip",
        b"[" * 2000 + b"]" * 2000,
        b'[{"key_value": ' + b"[" * 50 + b"]" * 50 + b"}]",
        b"[" + b'{"key_value": "' + b"x" * (11 * 1024 * 1024) + b'"}]',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_s32_a_tampered_backup_is_refused_whole(site: Site, body: bytes) -> None:
    path = "/middleware/api/keys"
    before = site.keys()
    answer = site.server.request("POST", f"{path}/import", body=body, headers={**JSON, **site.admin})
    assert 400 <= answer.status < 500
    assert answer.json()["success"] is False
    assert site.keys() == before


HOSTILE_ROWS: list[Any] = [
    1,
    None,
    "text",
    [],
    {},
    {"key_value": None},
    {"key_value": 7},
    {"key_value": ["x"]},
    {"key_value": "short"},
    {"key_value": "a value\r\nX-Evil: y 0123456789"},
    {"key_value": "a-value-with-\u0000-0123456789"},
    {"key_value": "x" * 100_000},
    {"key_value": "Plai...efgh"},
    {"key_value": f"{SECRET}openai", "provider": "anthropic", "name": "stolen"},
    {"key_value": "sk-demo-0123456789", "provider": "demo"},
]


@pytest.mark.parametrize("row", HOSTILE_ROWS, ids=lambda row: str(row)[:30])
def test_s32_a_hostile_row_adds_nothing_and_changes_nothing(site: Site, row: Any) -> None:
    path = "/middleware/api/keys"
    before = site.keys()
    body = json.dumps([row]).encode()
    answer = site.server.request("POST", f"{path}/import", body=body, headers={**JSON, **site.admin})
    assert answer.status == 200 or 400 <= answer.status < 500
    assert site.keys() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 1),
        ("status", "Root"),
        ("priority", "high"),
        ("priority", 10**40),
        ("models", "../../x"),
        ("models", [None]),
        ("provider", "../../etc"),
        ("provider", {"name": "openai"}),
        ("name", {"a": 1}),
        ("disabled_until", "never"),
        ("disabled_until", 1e308),
        ("group", []),
        ("../../../tmp/x", "y"),
    ],
    ids=str,
)
def test_s32_a_good_key_with_a_hostile_field_breaks_nothing(site: Site, field: str, value: Any) -> None:
    path = "/middleware/api/keys"
    before = site.keys()
    planted = {"key_value": "sk-planted-0123456789", "provider": "openai", field: value}
    answer = site.server.request(
        "POST", f"{path}/import", body=json.dumps([planted]).encode(), headers={**JSON, **site.admin}
    )
    assert answer.status < 500
    after = site.keys()
    old = {row["id"]: row for row in before}
    added = [row for row in after if row["id"] not in old]
    assert [row for row in after if row["id"] in old] == before
    for row in added:
        assert row["status"] in ("Healthy", "Disabled", "Resting")
        site.server.request("DELETE", f"{path}/{row['id']}", headers=site.admin)


# -- the redactor itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        "".join(f"%{ord(character):02x}" for character in SECRET),
        "".join(f"\\u{ord(character):04x}" for character in SECRET),
        "".join(f"\\u{ord(character):04X}" for character in SECRET),
        SECRET.replace("/", "\\/"),
        SECRET.replace("=", "\\u003d").replace("+", "\\u002B"),
        with_escapes(SECRET),
    ],
)
def test_s29_the_redactor_finds_every_spelling_and_leaves_valid_json(spelling: str) -> None:
    text = f'{{"message": "before \\"{spelling}\\" after", "other": "\\u00e9 \\\\u0041 \\u0022 %20 \\/"}}'
    redacted = Redactor([SECRET]).text(text)
    assert_hidden(redacted)
    assert json.loads(redacted)["other"] == json.loads(text)["other"]


def test_a_text_with_escapes_but_no_secret_stays_as_it_is() -> None:
    text = '{"a": "\\u0041\\u0062 \\/ %41 \\\\u0041"}'
    assert Redactor([SECRET]).text(text) is text
