"""
The administration under attack, over real HTTP: S8 to S14, S31 and the list of bad input. What `tests/test_auth.py`
proves of one function is not repeated here; this is about what an attacker's browser or script meets.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from app.admin import guard
from app.admin.guard import JSON_AREAS
from app.auth import PUBLIC_ENDPOINTS
from app.clock import Clock
from app.storage.schema import keys, metadata, requests
from tests.attacks.dialects import CHAT, Target, target
from tests.attacks.server import PASSWORD
from tests.gateway import Answer

Headers = dict[str, str]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


class WallClock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def wall(self) -> float:
        return self.now


@dataclass
class Locked:
    """The middleware with a password, and a way in."""

    attacked: Target
    time: WallClock

    def bearer(self) -> Headers:
        answer = self.attacked.gateway.post("/middleware/api/login", {"password": PASSWORD})
        assert answer.status == 200, answer.body
        return {"Authorization": f"Bearer {answer.json['token']}"}

    def browser(self) -> Headers:
        """The cookie of a browser that has logged in."""
        answer = self.call("POST", "/middleware/login", f"password={PASSWORD}".encode(), FORM)
        assert answer.status == 303, answer.body
        return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

    def call(self, method: str, path: str, body: bytes | None = None, headers: Headers | None = None) -> Answer:
        """Redirects are answers, not followed."""
        pool = self.attacked.gateway._pool
        answer = pool.request(
            method, self.attacked.gateway.origin + path, body=body, headers=headers, redirect=False, timeout=20.0
        )
        return Answer(answer.status, dict(answer.headers), answer.data)

    def guess(self, headers: Headers | None = None) -> int:
        return self.call(
            "POST", "/middleware/api/login", b'{"password": "a guess"}', {**JSON, **(headers or {})}
        ).status

    def fingerprint(self) -> dict[str, Any]:
        """Everything that the administration can change. Sessions and attempts are apart."""
        self.attacked.gateway.settle()
        left_out = {"admin_sessions", "login_attempts", "requests", "events", "daily_stats", "model_stats"}
        with self.attacked.gateway.services.database.read() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(sa.select(table))]
                for table in metadata.sorted_tables
                if table.name not in left_out
            }


def locked_in(folder: Path) -> Iterator[Locked]:
    clock = WallClock()
    with target(folder, environ={"MIDDLEWARE_PASSWORD": PASSWORD}, clock=Clock(wall=clock.wall)) as attacked:
        yield Locked(attacked, clock)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    yield from locked_in(tmp_path_factory.mktemp("admin"))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Locked]:
    yield from locked_in(tmp_path)


# -- S8 to S10: the password and sessions --------------------------------------------------------------


def test_s8_a_made_up_address_per_guess_does_not_help(fresh: Locked) -> None:
    statuses = []
    for number in range(60):
        spoofed = f"10.{number}.0.1"
        statuses.append(fresh.guess({"X-Forwarded-For": spoofed, "X-Real-IP": spoofed, "Forwarded": f"for={spoofed}"}))
    assert statuses.count(401) <= 6
    assert set(statuses) == {401, 429}


def test_s8_guesses_do_not_lock_the_administrator_out_for_ever(fresh: Locked) -> None:
    open_before = fresh.bearer()
    assert {fresh.guess() for _ in range(1000)} == {401, 429}
    # Sessions that are open stay open, and the wait has an end that the attacker cannot push out.
    assert fresh.call("GET", "/middleware/api/keys", headers=open_before).status == 200
    fresh.time.now += 301
    assert fresh.bearer()


def test_s9_a_wrong_password_takes_as_long_however_much_of_it_is_right(locked: Locked) -> None:
    auth = locked.attacked.gateway.services.auth
    almost, wholly, longer = PASSWORD[:-1] + "x", "x" * len(PASSWORD), PASSWORD + "x" * 40
    taken: dict[str, list[float]] = {almost: [], wholly: [], longer: []}
    for _ in range(2000):
        for given, times in taken.items():
            started = time.perf_counter_ns()
            assert not auth.password_is(given)
            times.append(float(time.perf_counter_ns() - started))
    medians = [statistics.median(times) for times in taken.values()]
    assert max(medians) < 1.5 * min(medians)


def test_s9_a_client_key_takes_as_long_however_much_of_it_is_right(locked: Locked) -> None:
    clients = locked.attacked.gateway.services.clients
    client_id, key = clients.create("timed")
    try:
        guesses = {"prefix": key[:-1] + "-", "nothing": "mw-" + "x" * (len(key) - 3)}
        taken: dict[str, list[float]] = {name: [] for name in guesses}
        for _ in range(2000):
            for name, guess in guesses.items():
                started = time.perf_counter_ns()
                assert clients.authenticate(guess) is None
                taken[name].append(float(time.perf_counter_ns() - started))
        medians = [statistics.median(times) for times in taken.values()]
        assert max(medians) < 1.5 * min(medians)
    finally:
        clients.delete(client_id)


def test_s10_a_session_that_the_attacker_chose_is_never_taken_over(locked: Locked) -> None:
    chosen = {"Cookie": "middleware_session=chosen-by-the-attacker"}
    answer = locked.call("POST", "/middleware/login", f"password={PASSWORD}".encode(), {**FORM, **chosen})
    assert answer.status == 303
    assert "chosen-by-the-attacker" not in answer.headers["set-cookie"]
    assert locked.call("GET", "/middleware/api/session", headers=chosen).status == 401


def test_s10_a_stolen_session_ends_with_the_logout(locked: Locked) -> None:
    stolen = locked.browser()
    token = locked.call("GET", "/middleware/api/session", headers=stolen).json["csrf_token"]
    assert locked.call("POST", "/middleware/logout", f"csrf_token={token}".encode(), {**FORM, **stolen}).status == 303
    assert locked.call("GET", "/middleware/api/session", headers=stolen).status == 401
    assert locked.call("GET", "/middleware/", headers=stolen).status == 302
    bearer = locked.bearer()
    assert locked.call("POST", "/middleware/api/logout", headers=bearer).status == 200
    assert locked.call("GET", "/middleware/api/keys", headers=bearer).status == 401


# -- S11, S12: other sites -------------------------------------------------------------------------------

#: Answers that never end.
ENDLESS = ("/middleware/logs/stream",)


def a_path(rule: str) -> str:
    """An address that fits the rule."""
    return re.sub(r"<[^>]*>", "1", rule.replace("<any(csv, json):kind>", "csv"))


NEW_KEY = b'{"key": "sk-planted-0123456789", "provider": "openai"}'
CROSS_SITE: dict[str, tuple[bytes, Headers]] = {
    "a form": (b"key=sk-planted-0123456789", {**FORM, "Origin": "http://evil.example"}),
    "a form with fetch metadata": (b"key=x", {**FORM, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
    "JSON as text": (NEW_KEY, {"Content-Type": "text/plain", "Origin": "http://evil.example"}),
    "JSON as text without an origin": (NEW_KEY, {"Content-Type": "text/plain"}),
    "a multipart form": (NEW_KEY, {"Content-Type": "multipart/form-data; boundary=x", "Origin": "null"}),
    "fetch with no-cors": (NEW_KEY, {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}),
    "a sibling site": (NEW_KEY, {**JSON, "Sec-Fetch-Site": "same-site"}),
    "a beacon": (NEW_KEY, {"Content-Type": "application/json", "Origin": "http://evil.example"}),
    "the token is missing": (NEW_KEY, {**JSON, "Sec-Fetch-Site": "same-origin"}),
    "the token is wrong": (NEW_KEY, {**JSON, "X-CSRF-Token": "0" * 64}),
    "the token is strange": (NEW_KEY, {**JSON, "X-CSRF-Token": "\xff\xfe"}),
    "a forged host beside the origin": (NEW_KEY, {**JSON, "Origin": "http://evil.example", "X-Forwarded-Host": "evil"}),
}


@pytest.mark.parametrize(("body", "headers"), CROSS_SITE.values(), ids=list(CROSS_SITE))
def test_s11_a_page_of_another_site_changes_nothing_with_the_administrators_cookie(
    locked: Locked, body: bytes, headers: Headers
) -> None:
    cookie = locked.browser()
    before = locked.fingerprint()
    answer = locked.call("POST", "/middleware/api/keys", body, {**cookie, **headers})
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/json"
    assert "access-control-allow-origin" not in answer.headers
    assert locked.fingerprint() == before


def test_s11_every_change_of_the_administration_asks_for_the_token(locked: Locked) -> None:
    cookie = locked.browser()
    before = locked.fingerprint()
    seen = 0
    for rule in locked.attacked.gateway.app.url_map.iter_rules():
        if rule.rule.startswith(JSON_AREAS) and rule.endpoint != "auth.api_login":
            path = re.sub(r"<[^>]*>", "1", rule.rule)
            for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}:
                answer = locked.call(method, path, b"{}", {**JSON, **cookie})
                assert (answer.status, answer.json["code"]) == (403, "csrf_token"), (method, path)
                seen += 1
    assert seen > 15
    assert locked.fingerprint() == before


REFUSED_FORMS: dict[str, tuple[str, Headers]] = {
    "no token": ("", {}),
    "a wrong token": (f"csrf_token={'0' * 64}", {}),
    "a wrong token in the header": ("", {"X-CSRF-Token": "0" * 64, "HX-Request": "true"}),
    "another origin": ("csrf_token={token}", {"Origin": "http://evil.example"}),
    "another port": ("csrf_token={token}", {"Origin": "http://127.0.0.1:1"}),
    "an origin without a name": ("csrf_token={token}", {"Origin": "null"}),
    "another site": ("csrf_token={token}", {"Sec-Fetch-Site": "cross-site"}),
    "a sibling site": ("csrf_token={token}", {"Sec-Fetch-Site": "same-site"}),
    "text of another origin": ("csrf_token={token}", {"Content-Type": "text/plain"}),
}


@pytest.mark.parametrize(("fields", "headers"), REFUSED_FORMS.values(), ids=list(REFUSED_FORMS))
def test_s11_no_page_takes_a_form_that_another_site_could_have_sent(
    locked: Locked, fields: str, headers: Headers
) -> None:
    cookie = locked.browser()
    token = locked.call("GET", "/middleware/api/session", headers=cookie).json["csrf_token"]
    body = f"{fields.format(token=token)}&theme=dark&ids=1&action=delete&name=x&was={{}}".encode()
    before = locked.fingerprint()
    seen = 0
    for rule in locked.attacked.gateway.app.url_map.iter_rules():
        if not guard.within(rule.rule, guard.AREAS) or rule.endpoint in PUBLIC_ENDPOINTS:
            continue
        for method in sorted((rule.methods or set()) - guard.SAFE_METHODS):
            answer = locked.call(method, a_path(rule.rule), body, {**FORM, **cookie, **headers})
            assert answer.status == 403, (method, rule.rule)
            assert "middleware_theme" not in answer.headers.get("set-cookie", "")
            seen += 1
    assert seen > 60
    assert locked.fingerprint() == before
    assert locked.call("GET", "/middleware/api/session", headers=cookie).status == 200


def test_s11_a_login_from_another_site_is_refused(locked: Locked) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = locked.call("POST", "/middleware/login", f"password={PASSWORD}".encode(), {**FORM, **headers})
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


def test_s11_no_get_changes_anything(locked: Locked) -> None:
    bearer = locked.bearer()
    before = locked.fingerprint()
    for rule in locked.attacked.gateway.app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and rule.endpoint != "proxy.relay":
            path = a_path(rule.rule)
            for query in ("", "?_method=DELETE&status=Disabled&delete=1&action=delete"):
                for override in ({}, {"X-HTTP-Method-Override": "DELETE"}):
                    locked.call("HEAD" if path in ENDLESS else "GET", path + query, headers={**bearer, **override})
    assert locked.fingerprint() == before


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "169.254.169.254", "0.0.0.0", "evil\xff", ""],
)
@pytest.mark.parametrize("path", ["/middleware/", "/middleware/api/keys", "/middleware/login", "/middleware/static/x"])
def test_s12_a_name_that_an_attacker_pointed_here_leads_nowhere(locked: Locked, host: str, path: str) -> None:
    bearer = locked.bearer()["Authorization"]
    with locked.attacked.gateway.raw() as client:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: {bearer}", "Connection: close", "", ""]
        client.send("\r\n".join(lines).encode("latin-1"))
        status, _ = client.head()
    assert status in (400, 421)


# -- S13: what others write is text ------------------------------------------------------------------------

EVIL_TEXTS = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "javascript:alert(1)",
    '"><svg onload=alert(1)>',
    "![x](http://evil.example/beacon)",
    "=cmd|'/c calc'!A0",
    "+1+1",
    "@SUM(1)",
    "{{ 7 * 7 }}{% include 'x' %}",
    "\u202egnp.exe",
)


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("evil", EVIL_TEXTS)
def test_s13_hostile_text_comes_back_as_inert_text(locked: Locked, evil: str) -> None:
    bearer = locked.bearer()
    gateway = locked.attacked.gateway
    value = f"sk-named-{abs(hash(evil)):020d}"
    body = {"key": value, "provider": "openai", "name": evil, "note": evil, "group": evil}
    assert gateway.request("POST", "/middleware/api/keys", json_body=body, headers=bearer).status == 201
    gateway.request(
        "POST",
        CHAT.path,
        json_body={**CHAT.body, "model": evil},
        headers={"User-Agent": evil.encode("ascii", "replace").decode()},
    )
    gateway.settle()
    for path in ("keys", "keys/export", "requests", "logs", "clients", "providers", "global-stats", "usage"):
        answer = gateway.get(f"/middleware/api/{path}", **bearer)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    row = next(row for row in gateway.get("/middleware/api/keys", **bearer).json if row["note"] == evil)
    assert row["name"] == evil
    provider = {"name": "evil", "kind": "openai-compatible", "base_url": "http://127.0.0.1:9", "models": ["a"]}
    gateway.request("POST", "/middleware/api/providers", json_body=provider, headers=bearer)
    client_id, _ = gateway.services.clients.create(evil, models=[evil])
    gateway.request("PUT", "/middleware/api/aliases", json_body={evil: "model", "other": evil + "x"}, headers=bearer)
    browser = locked.browser()
    ids = {"<int:key_id>": str(row["id"]), "<identity>": str(gateway.services.usage_queries.log.newest_id())}
    seen = 0
    for rule in gateway.app.url_map.iter_rules():
        path = functools.reduce(lambda text, pair: text.replace(*pair), ids.items(), rule.rule)
        page = "GET" in (rule.methods or ()) and guard.within(path, ("/middleware",)) and "static" not in path
        if not page or guard.within(path, JSON_AREAS) or path in ENDLESS:
            continue
        query = f"?{'&'.join(f'{name}={quote(evil)}' for name in ('q', 'search', 'model', 'alias', 'name', 'next'))}"
        for asked in (path, path + query):
            answer = locked.call("GET", a_path(asked), headers=browser)
            if answer.headers.get("content-type", "").startswith("text/html"):
                refuse_life(answer.body.decode())
                seen += answer.status == 200
    assert seen > 40
    gateway.services.clients.delete(client_id)  # while there is one, callers need a key


def refuse_life(page: str) -> None:
    """Nothing in this page runs but files of ours, and htmx asks nobody but this server."""
    for tag, attributes in Elements(page).found:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert tag != "svg" or attributes.get("class") in ("icon", "trail-bar")
        assert tag != "script" or (attributes.get("src") or "").startswith("/middleware/static/")
        for name, value in attributes.items():
            assert not name.startswith(("on", "hx-on")), name
            if name in ("href", "src", "action", "formaction", "hx-get", "hx-post", "xlink:href"):
                assert (value or "").startswith(("/", "#", "?", "https://")) or not value, (name, value)


@pytest.mark.parametrize("evil", EVIL_TEXTS[:4])
def test_s13_an_address_that_is_shown_again_is_escaped(locked: Locked, evil: str) -> None:
    for path in (f"/middleware/login?next={quote(evil)}", f"/middleware/{quote(evil, safe='')}"):
        answer = locked.call("GET", path, headers=locked.browser())
        assert (
            "script-src" in answer.headers["content-security-policy"]
            or "default-src 'self'" in (answer.headers["content-security-policy"])
        )
        refuse_life(answer.body.decode())
        assert not set('<>"') & set(evil) or evil not in answer.body.decode()


@pytest.mark.parametrize("path", ["/", "/middleware/", "/middleware/login", "/middleware/api/keys", "/middleware/x"])
def test_s14_no_frame_and_no_cache_shows_a_page_again(locked: Locked, path: str) -> None:
    for headers in ({}, locked.browser()):
        answer = locked.call("GET", path, headers=headers)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "*" not in policy


# -- S2: searching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "search", ["%", "_", "%%%%%%%%%%%%%%%%%%%%", "\\", "' OR 1=1 --", "%27", "[a-z]", "x'); DROP TABLE requests; --"]
)
def test_s2_a_search_in_the_log_of_requests_finds_its_own_text_only(locked: Locked, search: str) -> None:
    gateway, bearer = locked.attacked.gateway, locked.bearer()
    locked.attacked.works()
    gateway.settle()
    answer = gateway.get(f"/middleware/api/requests?search={quote(search)}", **bearer)
    assert answer.status == 200
    assert [row for row in answer.json["requests"] if search not in row["path"] + row["request_id"]] == []
    with gateway.services.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(requests)).scalar_one() > 0


@pytest.mark.parametrize("path", ["keys", "requests", "usage", "logs", "settings", "keys/export", "route"])
@pytest.mark.parametrize(
    "query", ["sort=id;DROP TABLE keys", "order=(SELECT 1)", "limit=1 UNION SELECT 1", "before=1 OR 1=1", "days='"]
)
def test_s2_sql_in_a_parameter_is_refused_or_ignored(locked: Locked, path: str, query: str) -> None:
    before = locked.fingerprint()
    answer = locked.attacked.gateway.get(f"/middleware/api/{path}?{quote(query, safe='=')}", **locked.bearer())
    assert answer.status in (200, 400)
    assert answer.headers["content-type"] == "application/json"
    assert locked.fingerprint() == before


# -- S31: what a key looks like afterwards ------------------------------------------------------------------------


def test_s31_no_list_and_no_page_shows_a_whole_secret_and_a_mask_overwrites_nothing(fresh: Locked) -> None:
    gateway, bearer = fresh.attacked.gateway, fresh.bearer()
    secret, header = "sk-secret-0123456789abcdefghij", "header-secret-0123456789abcdef"
    created = gateway.request(
        "POST", "/middleware/api/keys", json_body={"key": secret, "provider": "openai"}, headers=bearer
    )
    key_id = created.json["id"]
    entry = {"name": "own", "kind": "openai-compatible", "base_url": "http://127.0.0.1:9", "headers": {"X-Own": header}}
    assert gateway.request("POST", "/middleware/api/providers", json_body=entry, headers=bearer).status == 201
    _, client_key = gateway.services.clients.create("somebody")
    for rule in gateway.app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and rule.endpoint != "proxy.relay":
            path = rule.rule.replace("<key_id>", str(key_id)).replace("<name>", "own")
            for who in (bearer, fresh.browser()):
                if path in ENDLESS:
                    continue
                seen = fresh.call("GET", a_path(path), headers=who).body.decode("utf-8", "replace")
                assert not any(text in seen for text in (secret, header, client_key, PASSWORD)), path
    # What was read is sent back: nothing of it replaces a secret.
    shown = gateway.get(f"/middleware/api/keys/{key_id}", **bearer).json
    changed = {"key": shown["key_value"], "name": "renamed"}
    assert gateway.request("PUT", f"/middleware/api/keys/{key_id}", json_body=changed, headers=bearer).status == 200
    shown = gateway.get("/middleware/api/providers/own", **bearer).json
    assert gateway.request("PUT", "/middleware/api/providers/own", json_body=shown, headers=bearer).status == 200
    assert gateway.services.providers.snapshot.by_name["own"].headers == {"X-Own": header}
    assert secret in gateway.services.keys.secrets()
    with gateway.services.database.read() as connection:
        assert secret not in str(connection.execute(sa.select(keys)).all())


# -- bad input -------------------------------------------------------------------------------------------------------

BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "half": b'{"key": ',
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "NaN": b'{"priority": NaN}',
    "infinity": b'{"priority": 1e999999}',
    "digits": b'{"priority": ' + b"9" * 10_000 + b"}",
    "lone surrogate": b'{"name": "\\ud800"}',
    "raw surrogate": b'{"name": "\xed\xa0\x80"}',
    "bad utf-8": b'{"name": "\xff"}',
    "brackets": b"[" * 1024 + b"]" * 1024,
    "100,000 brackets": b"[" * 100_000,
    "nested field": b'{"name": ' + b"[" * 100 + b"]" * 100 + b"}",
    "unknown field": b'{"is_admin": true}',
    "control character": b'{"name": "a\\u0000b"}',
    "utf-16": '{"key": "x"}'.encode("utf-16"),
    "too large": b'{"note": "' + b"x" * (2 * 1024 * 1024) + b'"}',
}


def changing_calls(locked: Locked) -> list[tuple[str, str]]:
    """(method, path) of every call that takes a body, with ids that exist."""
    found = []
    for rule in locked.attacked.gateway.app.url_map.iter_rules():
        path = rule.rule.replace("<name>", "openai")
        path = re.sub(r"<[^>]*>", str(locked.attacked.gateway.services.keys.list_keys()[0]["id"]), path)
        if rule.rule.startswith(JSON_AREAS):
            found += [(method, path) for method in sorted((rule.methods or set()) & {"POST", "PUT", "PATCH"})]
    return found


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=list(BAD_BODIES))
def test_a_bad_body_is_a_json_error_at_every_call_and_changes_nothing(locked: Locked, body: bytes) -> None:
    bearer = locked.bearer()
    before = locked.fingerprint()
    #: For these an empty body means no options, and an empty list or object replaces or adds nothing.
    harmless = ("wake", "reset", "import", "logout", "aliases", "prices", "export", "reveal", "test", "refresh")
    optional = ("playground/key",)
    for method, path in changing_calls(locked):
        if path.endswith(harmless) and body in (b"", b"[]") or (path.endswith(optional) and not body):
            continue
        answer = locked.call(method, path, body, {**JSON, **bearer})
        assert 400 <= answer.status < 500, (method, path, answer.status, answer.body[:200])
        assert answer.headers["content-type"] == "application/json"
        assert {"success", "error", "code"} <= set(json.loads(answer.body))
        assert b"Traceback" not in answer.body
    assert locked.fingerprint() == before


WRONG = (None, True, -1, 10**30, 1.5, "", "x" * 20_000, [], [[]], {}, {"a": {}}, "\u0000", "\ud7ff\uffff", "../../x")


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
def test_a_value_of_a_wrong_type_never_breaks_a_call(locked: Locked, value: Any) -> None:
    bearer = locked.bearer()
    for method, path in changing_calls(locked):
        if path.endswith(("logout", "login")):
            continue
        # A call names the fields that it knows when it meets one that it does not know.
        told = locked.call(method, path, b'{"unknown field": 1}', {**JSON, **bearer}).json["error"]
        for field in re.findall(r"`(\w+)`", told.partition("Known fields:")[2]) or ["priority", "max_retries", "x"]:
            answer = locked.call(method, path, json.dumps({field: value}).encode(), {**JSON, **bearer})
            assert answer.status < 500, (method, path, field, value, answer.body[:200])
            assert answer.headers["content-type"] == "application/json"
