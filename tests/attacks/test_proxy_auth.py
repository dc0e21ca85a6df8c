"""
Who may use the proxy, and as whom: S1 to S7 and S20 of the security plan. The keys of clients are made by the
administration; whatever else comes as a key is refused in the caller's dialect, in one shape, and never looked up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.admin.guard import AREAS, JSON_AREAS
from app.auth import PUBLIC_ENDPOINTS
from app.clock import Clock
from app.storage.schema import clients
from tests import canned
from tests.attacks.dialects import CHAT, DIALECTS, MESSAGES, Dialect, Target, target
from tests.attacks.server import PASSWORD
from tests.fake_provider import json_reply, stream, wait_for
from tests.gateway import WAIT_S, Answer

Headers = dict[str, str]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A password is set, and client keys are required."""
    folder: Path = tmp_path_factory.mktemp("auth")
    environ = {"MIDDLEWARE_PASSWORD": PASSWORD, "CLIENT_AUTH": "required"}
    with target(folder, environ=environ) as running:
        yield running


def new_client(attacked: Target, **fields: Any) -> tuple[int, str]:
    client_id, key = attacked.gateway.services.clients.create("somebody", **fields)
    return client_id, key


def ask(attacked: Target, dialect: Dialect, headers: Headers, path: str | None = None) -> Answer:
    return attacked.gateway.request("POST", path or dialect.path, json_body=dialect.body, headers=headers)


def admin(attacked: Target, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
    if token is None:
        answer = attacked.gateway.post("/middleware/api/login", {"password": PASSWORD})
        assert answer.status == 200, answer.body
        token = answer.json["token"]
    headers = {"Authorization": f"Bearer {token}"}
    return attacked.gateway.request(method, path, json_body=body, headers=headers)


# -- S1, S2: what is no key ----------------------------------------------------------------------------

NO_KEYS: dict[str, Headers] = {
    "none": {},
    "empty": {"Authorization": ""},
    "Bearer only": {"Authorization": "Bearer"},
    "Bearer and a blank": {"Authorization": "Bearer "},
    "two blanks": {"Authorization": "Bearer  x"},
    "Bearer Bearer": {"Authorization": "Bearer Bearer"},
    "Basic": {"Authorization": "Basic YWRtaW46YWRtaW4="},
    "unknown": {"Authorization": "Bearer mw-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"},
    "long": {"Authorization": "Bearer " + "x" * 16_000},  # the server itself refuses longer headers: 431
    "latin-1": {"Authorization": "Bearer mw-\xfc\xdf\xff"},
    "percent": {"Authorization": "Bearer %"},
    "quote": {"Authorization": "Bearer '"},
    "sql in Authorization": {"Authorization": "Bearer ' OR '1'='1' --"},
    "sql union": {"Authorization": "Bearer x' UNION SELECT key_hash FROM clients --"},
    "sql in x-api-key": {"x-api-key": '"; DROP TABLE clients; --'},
    "sql in x-goog-api-key": {"x-goog-api-key": "1 OR 1=1"},
    "glob": {"x-api-key": "mw-*"},
    "like": {"x-api-key": "mw-%"},
    "api-key empty": {"api-key": ""},
    "a cookie": {"Cookie": "Authorization=Bearer x; api_key=x"},
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("headers", NO_KEYS.values(), ids=list(NO_KEYS))
def test_s1_what_is_no_client_key_is_refused_in_one_shape(closed: Target, dialect: Dialect, headers: Headers) -> None:
    new_client(closed)
    with closed.untouched():
        answer = ask(closed, dialect, headers)
        assert answer.status == 401
        error = dialect.check_error(401, answer.headers["content-type"], answer.body)
    assert "SELECT" not in str(error)
    assert "sql" not in answer.body.decode().lower()
    assert not any(value[-20:] in answer.body.decode() for value in headers.values() if len(value) > 10)


@pytest.mark.parametrize(
    "query", ["key=", "key=x", "key=%00", "key=%0d%0aX:y", "key=%F0%9F%94%91", "key=%ff", "key=%25"]
)
def test_s1_neither_is_a_strange_key_in_the_query(closed: Target, query: str) -> None:
    dialect = DIALECTS[3]
    with closed.untouched():
        answer = ask(closed, dialect, {}, f"{dialect.path}?{query}")
        assert answer.status == 401
        dialect.check_error(401, answer.headers["content-type"], answer.body)


def test_s2_sql_in_a_models_name_is_a_name(closed: Target) -> None:
    _, key = new_client(closed)
    for model in ("' OR 1=1 --", "x'; DROP TABLE keys; --", "%", "_", "*", "[a-z]*", "a\\' --"):
        answer = closed.gateway.post(CHAT.path, {**CHAT.body, "model": model}, x_api_key=key)
        assert answer.status == 200
        assert closed.upstream.received[-1].json["model"] == model
    closed.gateway.settle()
    with closed.gateway.services.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(clients)).scalar_one() > 0


# -- S3, S4: more than one identity ----------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s3_two_different_keys_are_a_conflict_even_when_both_are_valid(closed: Target, dialect: Dialect) -> None:
    (_, mine), (_, other) = new_client(closed), new_client(closed)
    pairs: list[tuple[Headers, str]] = [
        ({"Authorization": f"Bearer {mine}", "x-api-key": other}, ""),
        ({"x-goog-api-key": mine, "x-api-key": "anything"}, ""),
        ({"Authorization": f"Bearer {mine}"}, f"?key={other}"),
        ({"Authorization": f"Bearer {mine}", "api-key": other}, ""),
        ({}, f"?key={mine}&key={other}"),
    ]
    for headers, query in pairs:
        with closed.untouched():
            answer = ask(closed, dialect, headers, dialect.path + query)
            assert answer.status == 401
            dialect.check_error(401, answer.headers["content-type"], answer.body)
    same = {"Authorization": f"Bearer {mine}", "x-api-key": mine, "x-goog-api-key": mine}
    assert ask(closed, dialect, same).status == 200


def test_s4_keys_that_begin_alike_are_strangers(closed: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    tails = iter(["0123456789abcdefghijklmnop-one", "0123456789abcdefghijklmnop-two"])
    monkeypatch.setattr("app.clients.secrets.token_urlsafe", lambda _size: next(tails))
    (first_id, first), (second_id, second) = new_client(closed), new_client(closed, models=["allowed-*"])
    assert first[:20] == second[:20]
    assert ask(closed, CHAT, {"x-api-key": first}).status == 200
    assert ask(closed, CHAT, {"x-api-key": second}).status == 403
    for nobody in (first[:-1], first + "x", first[:20], first.upper()):
        assert ask(closed, CHAT, {"x-api-key": nobody}).status == 401
    seen = [row["client_id"] for row in closed.gateway.records()[-6:]]
    assert seen == [first_id, second_id, None, None, None, None]


# -- S5: one door does not open the other -----------------------------------------------------------------

PREFIXES = (
    "/gemini",
    "/openai",
    "/v1",
    "/v1beta",
    "/v1beta/openai",
    "/v1/..",
    "/v1/%2e%2e",
    "/v1/models/..%2f..",
    "/.",
    "/",
)


def admin_rules(attacked: Target) -> list[tuple[str, str]]:
    """(method, path) of everything that the administration answers to and that is not open to everybody."""
    found = []
    for rule in attacked.gateway.app.url_map.iter_rules():
        inside = any(rule.rule == area or rule.rule.startswith(area + "/") for area in AREAS)
        if inside and rule.endpoint not in PUBLIC_ENDPOINTS:
            path = rule.rule.replace("<path:filename>", "x")
            while "<" in path:
                path = path[: path.index("<")] + "1" + path[path.index(">") + 1 :]
            found += [(method, path) for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})]
    assert len(found) > 30
    return found


def spellings(path: str) -> list[str]:
    """The same address as attackers write it."""
    encoded = path.replace("middleware", "m%69ddleware").replace("admin", "%61dmin")
    return [
        *(prefix + path for prefix in PREFIXES),
        path + "/",
        path + ";x=1",
        path + "%00",
        path + "%20",
        path + "?key=x",
        path.upper(),
        path.replace("/api", "//api"),
        path.replace("/api", "/./api"),
        path.replace("/", "%2f", 2).replace("%2f", "/", 1),
        "/" + path[1:].replace("/", "\\", 1),
        encoded,
        encoded.replace("%", "%25"),
        "/middleware/static/.." + path.removeprefix("/middleware"),
        "/middleware/login/.." + path.removeprefix("/middleware"),
    ]


def test_s5_no_client_key_opens_the_administration_under_any_address(closed: Target) -> None:
    _, key = new_client(closed)
    for method, path in admin_rules(closed):
        with closed.untouched():
            answer = closed.gateway.request(
                method, path, json_body={} if method != "GET" else None, headers={"Authorization": f"Bearer {key}"}
            )
            is_call = any(path == area or path.startswith(area + "/") for area in JSON_AREAS)
            assert answer.status in ((401,) if is_call else (302, 308)), (method, path, answer.status)


def test_s5_the_administration_is_reached_by_no_spelling_of_a_proxy_path(closed: Target) -> None:
    """Neither without anything nor with a client key, nor does the spelling reach an upstream."""
    _, key = new_client(closed)
    paths = {path for method, path in admin_rules(closed) if method == "GET"}
    for spelling in sorted({spelling for path in paths for spelling in spellings(path)}):
        for headers in ({}, {"Authorization": f"Bearer {key}"}):
            with closed.untouched(), closed.gateway.raw() as client:
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                client.send(f"GET {spelling} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n".encode())
                status, _ = client.head()
                # A page asks to log in by a redirect; everything else is refused.
                assert status in (302, 308, 400, 401, 403, 404, 405), (spelling, status)


def test_s5_no_route_outside_the_administration_leads_into_it(closed: Target) -> None:
    """Whatever is added later: a view of the administration is only found below the guarded areas."""
    open_to_all = set()
    for rule in closed.gateway.app.url_map.iter_rules():
        guarded = any(rule.rule == area or rule.rule.startswith(area + "/") for area in AREAS)
        if not guarded:
            open_to_all.add(rule.endpoint)
    assert open_to_all == {
        "pages.root.index",
        "health.livez",
        "health.readyz",
        "health.healthz",
        "health.health",
        "health.v1_health",
        "health.metrics",
        "proxy.relay",
    }


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s5_an_admin_session_is_no_client_key(closed: Target, dialect: Dialect) -> None:
    gateway = closed.gateway
    bearer = gateway.post("/middleware/api/login", {"password": PASSWORD}).json["token"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    page = gateway.request("POST", "/middleware/login", body=f"password={PASSWORD}".encode(), headers=form)
    cookie = page.headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("middleware_session=")
    tries: list[Headers] = [
        {"Authorization": f"Bearer {bearer}"},
        {"x-api-key": bearer},
        {"Cookie": cookie},
        {"Authorization": f"Bearer {cookie.partition('=')[2]}"},
        {"Authorization": f"Bearer {PASSWORD}"},
    ]
    for headers in tries:
        with closed.untouched():
            answer = ask(closed, dialect, headers)
            assert answer.status == 401
            dialect.check_error(401, answer.headers["content-type"], answer.body)


def test_s5_health_tells_nothing_secret_and_takes_no_key(closed: Target) -> None:
    for path in ("/", "/livez", "/readyz", "/healthz", "/health", "/v1/health", "/metrics"):
        answer = closed.gateway.get(path)
        assert answer.status in (200, 503)
        assert b"sk-test" not in answer.body
        assert b"AIza" not in answer.body


# -- S6: keys that end, and limits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"active": False}, {"expires_at": 1.0}, None], ids=["disabled", "expired", "deleted"]
)
def test_s6_a_key_that_ends_in_the_middle_of_a_stream_serves_no_further_request(
    closed: Target, change: dict[str, Any] | None
) -> None:
    client_id, key = new_client(closed)
    go = threading.Event()
    events = canned.chat_stream()
    closed.upstream.answers(stream([*events[:2], wait_for(go), *events[2:]]))
    with closed.gateway.raw() as client:
        client.post(CHAT.path, {**CHAT.body, "stream": True}, Authorization=f"Bearer {key}")
        assert client.head()[0] == 200
        client.until(b"Hello ")
        path = f"/middleware/api/clients/{client_id}"
        answer = admin(closed, "DELETE", path) if change is None else admin(closed, "PATCH", path, change)
        assert answer.status == 200, answer.body
        refused = ask(closed, CHAT, {"Authorization": f"Bearer {key}"})
        assert refused.status == 401
        CHAT.check_error(401, refused.headers["content-type"], refused.body)
        go.set()
        assert b"[DONE]" in client.until(b"\r\n0\r\n\r\n")


def test_s6_parallel_requests_do_not_pass_a_limit_that_single_ones_meet(tmp_path: Path) -> None:
    settings = {"enable_rate_limiting": True, "rate_limiting_strategy": "fixed_window", "requests_per_minute": 5}
    with target(tmp_path, settings=settings, clock=Clock(wall=lambda: 1_795_000_000.0)) as attacked:
        statuses: list[int] = []
        barrier = threading.Barrier(20)

        def one() -> None:
            barrier.wait(WAIT_S)
            statuses.append(attacked.gateway.post(MESSAGES.path, MESSAGES.body).status)

        threads = [threading.Thread(target=one) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * WAIT_S)
        assert sorted(statuses) == [200] * 5 + [429] * 15
        assert len(attacked.upstream.received) == 5
        answer = attacked.gateway.post(MESSAGES.path, MESSAGES.body)
        MESSAGES.check_error(429, answer.headers["content-type"], answer.body)
        assert 1 <= int(answer.headers["retry-after"]) <= 60


# -- S7: rights that one gives oneself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"is_admin": True},
        {"role": "admin"},
        {"owner_id": 1},
        {"quota": 10**9},
        {"key_hash": "0" * 64},
        {"id": 1},
        {"key_prefix": "mw-"},
        {"created_at": 0},
        {"name": "x", "__proto__": {"is_admin": True}},
        {"active": "yes"},
        {"models": "*"},
        {"scopes": {"admin": True}},
        {"expires_at": "never"},
        {"expires_at": 1e999},
    ],
    ids=str,
)
def test_s7_nobody_writes_what_a_client_key_may_not_have(closed: Target, change: dict[str, Any]) -> None:
    client_id, key = new_client(closed, models=["gpt-*"])
    path = f"/middleware/api/clients/{client_id}"
    before = admin(closed, "GET", path).json
    assert admin(closed, "PATCH", path, change, token=key).status == 401
    answer = admin(closed, "PATCH", path, change)
    assert answer.status == 400
    assert answer.json["success"] is False
    assert admin(closed, "GET", path).json == before
    assert admin(closed, "POST", "/middleware/api/clients", {"name": "y", **change}).status == 400


# -- S20: what a caller sends beside its request ------------------------------------------------------------------

HOSTILE_HEADERS = {
    "Cookie": "session=secret",
    "X-Api-Key": "{key}",
    "X-Goog-Api-Key": "{key}",
    "Api-Key": "{key}",
    "X-Codex-Installation-Id": "device",
    "X-Stainless-Os": "Linux",
    "X-Claude-Code-Session-Id": "session",
    "X-Gemini-Api-Privileged-User-Id": "user",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Host": "evil.example",
    "X-Real-Ip": "10.0.0.1",
    "Forwarded": "for=10.0.0.1",
    "Via": "1.1 evil",
    "Cf-Connecting-Ip": "10.0.0.1",
    "Traceparent": "00-0-0-0",
    "Openai-Organization": "org-x",
    "Openai-Project": "proj-x",
    "X-Goog-User-Project": "x",
    "Proxy-Authorization": "Basic x",
    "Te": "trailers",
    "Upgrade-Insecure-Requests": "1",
    "Referer": "http://evil.example/",
    "Origin": "http://evil.example",
    "X-Http-Method-Override": "DELETE",
    "X-Original-Url": "/middleware/api/keys",
    "X-Rewrite-Url": "/middleware/api/keys",
    "Authorization": "Bearer {key}",
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s20_the_upstream_sees_its_own_key_and_none_of_the_callers_headers(closed: Target, dialect: Dialect) -> None:
    _, key = new_client(closed)
    headers = {name: value.format(key=key) for name, value in HOSTILE_HEADERS.items()}
    closed.upstream.answers(json_reply(dialect.answer, headers={"Set-Cookie": "a=b", "openai-organization": "org-1"}))
    answer = ask(closed, dialect, headers, f"{dialect.path}?key={key}")
    assert answer.status == 200
    assert "set-cookie" not in answer.headers
    assert "openai-organization" not in answer.headers
    seen = closed.upstream.received[-1]
    assert key not in str(seen.header_list) + seen.target
    assert "evil" not in str(seen.header_list) + seen.target
    allowed = {"host", "user-agent", "accept-encoding", "content-type", "content-length", "anthropic-version", "accept"}
    own = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}[dialect.provider]
    assert set(seen.headers) <= allowed | {own}
    assert seen.headers[own].removeprefix("Bearer ").startswith(("sk-", "AIza"))
