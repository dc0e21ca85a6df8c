# ruff: noqa: F811 - fixtures are imported by name
"""The door: login, sessions, the guard over every address, changes from other sites, guesses, other host names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.auth import COOKIE, PUBLIC_ENDPOINTS, safe_next
from app.storage.schema import admin_sessions, login_attempts
from tests.admin.build import PASSWORD, Middleware, bearer
from tests.admin.fixtures import locked, middleware  # noqa: F401

WRONG = {"password": "not it"}
HERE = {"Origin": "http://localhost"}


def log_in(client: FlaskClient, password: str = PASSWORD, **form: str) -> TestResponse:
    return client.post("/middleware/login", data={"password": password, **form}, headers=HERE)


def csrf(client: FlaskClient) -> str:
    token: str = client.get("/middleware/api/session").get_json()["csrf_token"]
    return token


# -- the guard -----------------------------------------------------------------------------------------


def test_every_rule_of_the_administration_asks_for_a_login(locked: Middleware) -> None:
    client = locked.client()
    seen = 0
    for rule in locked.app.url_map.iter_rules():
        if not rule.rule.startswith(("/middleware", "/api/admin")) or rule.endpoint in PUBLIC_ENDPOINTS:
            continue
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            answer = client.open(path, method=method, headers=HERE, json={} if method in ("POST", "PUT") else None)
            if path.startswith(("/middleware/api/", "/api/admin/")):
                assert answer.status_code == 401, (method, path)
                assert answer.is_json
            else:
                assert answer.status_code == 302, (method, path)
                assert answer.headers["Location"].startswith("/middleware/login?next=/middleware")
            seen += 1
    assert seen > 40


@pytest.mark.parametrize(
    "path",
    [
        "/middleware/api/nothing",
        "/middleware/api/keys/",
        "/middleware/api/../api/keys",
        "/middleware/api/%2e%2e/api/keys",
        "/middleware/api/keys;x",
        "/api/admin/anything",
        "/api/admin",
        "/middleware/api",
    ],
)
def test_addresses_that_do_not_exist_ask_for_a_login_too(locked: Middleware, path: str) -> None:
    answer = locked.client().get(path)
    assert answer.status_code == 401
    assert answer.get_json()["code"] == "login_required"


@pytest.mark.parametrize(
    "path",
    [
        "//middleware/api/keys",
        "/MIDDLEWARE/api/keys",
        "/v1/../middleware/api/keys",
        "/gemini/middleware/api/keys",
        "/v1beta/%2e%2e/middleware/api/keys",
        "/middleware//api/keys",
        "/./middleware/api/keys",
    ],
)
def test_no_other_spelling_of_an_address_gets_past_the_guard(locked: Middleware, path: str) -> None:
    locked.add_key()
    answer = locked.client().get(path)
    assert answer.status_code in (302, 308, 400, 401, 403, 404)
    assert b"key_value" not in answer.data


def test_a_client_key_opens_no_admin_call(locked: Middleware) -> None:
    _, token = locked.services.clients.create("somebody")
    answer = locked.client().get("/middleware/api/keys", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_unknown_addresses_and_methods_are_json_errors_below_the_api(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    missing = client.get("/middleware/api/nothing")
    assert (missing.status_code, missing.get_json()["code"]) == (404, "not_found")
    wrong_method = client.patch("/middleware/api/settings", json={})
    assert (wrong_method.status_code, wrong_method.get_json()["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong_method.headers["Allow"]


def test_an_unknown_page_is_a_page(locked: Middleware) -> None:
    client = locked.client()
    log_in(client)
    answer = client.get("/middleware/nothing")
    assert answer.status_code == 404
    assert answer.mimetype == "text/html"


def test_head_and_options_are_answered(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    assert client.head("/middleware/api/keys").status_code == 200
    assert client.options("/middleware/api/keys").status_code == 200


# -- without a password --------------------------------------------------------------------------------


def test_without_a_password_everything_is_open_and_login_leads_to_the_dashboard(
    middleware: Middleware,
) -> None:
    client = middleware.client()
    assert client.get("/middleware/").status_code == 200
    assert client.get("/middleware/api/keys").status_code == 200
    answer = client.get("/middleware/login")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/middleware/")


def test_a_missing_password_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Middleware(tmp_path):
        assert "MIDDLEWARE_PASSWORD is not set" in capsys.readouterr().err


def test_without_a_password_a_login_by_script_still_works(middleware: Middleware) -> None:
    answer = middleware.client().post("/middleware/api/login", json={"password": "whatever"})
    assert answer.status_code == 200
    token = answer.get_json()["token"]
    assert middleware.client().get("/middleware/api/keys", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ],
)
def test_without_a_password_changes_from_other_sites_are_still_refused(
    middleware: Middleware, headers: dict[str, str]
) -> None:
    answer = middleware.client().post("/middleware/api/keys", json={"key": "sk-0123456789"}, headers=headers)
    assert (answer.status_code, answer.get_json()["code"]) == (403, "cross_origin")
    assert middleware.real_keys() == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_without_a_password_changes_must_be_declared_as_json(middleware: Middleware, content_type: str) -> None:
    answer = middleware.client().post(
        "/middleware/api/keys", data=b'{"key": "sk-0123456789"}', content_type=content_type or None
    )
    assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type")


# -- login and sessions --------------------------------------------------------------------------------


def test_the_right_password_opens_a_session_and_leads_to_next(locked: Middleware) -> None:
    client = locked.client()
    answer = log_in(client, next="/middleware/?tab=keys")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/middleware/?tab=keys")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/middleware" in cookie
    assert "Secure" not in cookie
    assert client.get("/middleware/").status_code == 200
    assert client.get("/middleware/api/session").get_json()["kind"] == "cookie"


def test_the_cookie_is_secure_over_https(locked: Middleware) -> None:
    answer = locked.client().post(
        "/middleware/login",
        data={"password": PASSWORD},
        base_url="https://localhost",
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert "Secure" in answer.headers["Set-Cookie"]


def test_a_wrong_password_shows_the_form_again_with_an_error(locked: Middleware) -> None:
    answer = log_in(locked.client(), "wrong")
    assert answer.status_code == 401
    assert "Invalid Credentials. Please try again." in answer.text
    assert "Set-Cookie" not in answer.headers


def test_a_page_redirects_to_login_with_next(locked: Middleware) -> None:
    answer = locked.client().get("/middleware/?a=1&b=/x")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/middleware/login?next=/middleware/%3Fa%3D1%26b%3D/x"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/middleware/",
        "/\\evil.example",
        "/middleware/\\..\\..\\evil",
        "javascript:alert(1)",
        "/middleware/../v1",
        "/middleware/%2e%2e/v1",
        "/middleware//evil.example",
        "/middlewarex",
        "/middleware/\r\nSet-Cookie: a=b",
        "/middleware/api/keys",
        "http://[",
        "",
    ],
)
def test_next_leads_nowhere_else(locked: Middleware, target: str) -> None:
    assert safe_next(target) == "/middleware/"
    assert log_in(locked.client(), next=target).headers["Location"] == "/middleware/"


def test_each_login_gives_a_new_session_and_ends_the_one_it_came_with(locked: Middleware) -> None:
    client = locked.client()
    client.set_cookie(COOKIE, "chosen-by-an-attacker", path="/middleware")
    log_in(client)
    first = client.get_cookie(COOKIE, path="/middleware")
    log_in(client)
    second = client.get_cookie(COOKIE, path="/middleware")
    assert first is not None
    assert second is not None
    assert len({"chosen-by-an-attacker", first.value, second.value}) == 3
    stale = locked.client()
    stale.set_cookie(COOKIE, first.value, path="/middleware")
    assert stale.get("/middleware/api/session").status_code == 401


def test_logout_ends_the_session_also_for_a_stolen_cookie(locked: Middleware) -> None:
    client = locked.client()
    log_in(client)
    cookie = client.get_cookie(COOKIE, path="/middleware")
    assert cookie is not None
    page = client.get("/middleware/logout")
    assert page.status_code == 200
    assert client.get("/middleware/api/session").status_code == 200
    answer = client.post("/middleware/logout", data={"csrf_token": csrf(client)}, headers=HERE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/middleware/login")
    thief = locked.client()
    thief.set_cookie(COOKIE, cookie.value, path="/middleware")
    assert thief.get("/middleware/").status_code == 302


def test_logout_needs_the_token_of_the_session(locked: Middleware) -> None:
    client = locked.client()
    log_in(client)
    assert client.post("/middleware/logout", headers=HERE).status_code == 403
    assert client.get("/middleware/").status_code == 200


def test_a_session_ends_after_twelve_idle_hours_and_after_seven_days_at_all(locked: Middleware) -> None:
    client = locked.client()
    log_in(client)
    for _ in range(13):
        locked.time.advance(11 * 3600)
        assert client.get("/middleware/api/session").status_code == 200
    for _ in range(3):
        locked.time.advance(11 * 3600)
        last = client.get("/middleware/api/session").status_code
    assert last == 401
    log_in(client)
    locked.time.advance(12 * 3600 + 1)
    assert client.get("/middleware/api/session").status_code == 401


def test_a_bearer_token_lasts_a_day(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    locked.time.advance(24 * 3600 - 10)
    assert client.get("/middleware/api/keys").status_code == 200
    locked.time.advance(11)
    assert client.get("/middleware/api/keys").status_code == 401


def test_a_bearer_token_can_be_given_back(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    assert client.post("/middleware/api/logout").status_code == 200
    assert client.get("/middleware/api/keys").status_code == 401


def test_a_new_password_or_a_new_secret_key_ends_all_sessions(tmp_path: Path) -> None:
    with Middleware(tmp_path, password=PASSWORD) as first:
        token = first.token()
    with Middleware(tmp_path, password=PASSWORD) as same:
        assert same.client().get("/middleware/api/keys", headers=bearer(token)).status_code == 200
    with Middleware(tmp_path, password="another password") as changed:
        assert changed.client().get("/middleware/api/keys", headers=bearer(token)).status_code == 401
    with Middleware(tmp_path, password=PASSWORD, secret_key="another secret of this server...") as rekeyed:
        assert rekeyed.client().get("/middleware/api/keys", headers=bearer(token)).status_code == 401


def test_the_database_holds_no_token(locked: Middleware) -> None:
    token = locked.token()
    with locked.services.database.read() as connection:
        rows = connection.execute(sa.select(admin_sessions)).mappings().all()
    assert len(rows) == 1
    assert token not in str(rows)
    assert PASSWORD not in str(rows)


def test_a_bearer_token_is_no_cookie_and_a_cookie_no_bearer_token(locked: Middleware) -> None:
    client = locked.client()
    client.set_cookie(COOKIE, locked.token(), path="/middleware")
    assert client.get("/middleware/api/session").status_code == 401
    browser = locked.client()
    log_in(browser)
    cookie = browser.get_cookie(COOKIE, path="/middleware")
    assert cookie is not None
    assert locked.client().get("/middleware/api/keys", headers=bearer(cookie.value)).status_code == 401


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer  x", "Basic YWRtaW46YWRtaW4=", "Bearer " + "x" * 100_000, "Bearer %'\"--"],
)
def test_broken_tokens_are_refused_in_one_shape(locked: Middleware, value: str) -> None:
    answer = locked.client().get("/middleware/api/keys", headers={"Authorization": value})
    assert answer.status_code == 401
    assert set(answer.get_json()) == {"success", "error", "code"}
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "Password required"),
        ({"password": ""}, 400, "Password required"),
        ({"password": None}, 400, "Password required"),
        ({"password": 7}, 400, "`password` must be a string."),
        ({"password": ["a"]}, 400, "`password` must be a string."),
        (WRONG, 401, "Invalid password"),
        ({"password": "x" * 100_000}, 401, "Invalid password"),
        ({"password": PASSWORD, "is_admin": True}, 400, "Unknown field"),
    ],
)
def test_login_by_script_says_what_is_wrong(
    locked: Middleware, body: dict[str, object], status: int, error: str
) -> None:
    answer = locked.client().post("/middleware/api/login", json=body)
    assert answer.status_code == status
    assert answer.get_json()["success"] is False
    assert error in answer.get_json()["error"]


# -- changes from other sites ----------------------------------------------------------------------------


def test_a_cookie_alone_changes_nothing(locked: Middleware) -> None:
    client = locked.client()
    log_in(client)
    new = {"key": "sk-0123456789"}
    assert client.post("/middleware/api/keys", json=new, headers=HERE).get_json()["code"] == "csrf_token"
    assert client.post("/middleware/api/keys", json=new, headers={**HERE, "X-CSRF-Token": "x"}).status_code == 403
    assert client.post("/middleware/api/keys", data=new, headers=HERE).status_code == 403
    token = csrf(client)
    crossing = {"Origin": "https://evil.example", "X-CSRF-Token": token}
    assert client.post("/middleware/api/keys", json=new, headers=crossing).get_json()["code"] == "cross_origin"
    assert locked.real_keys() == []
    assert client.post("/middleware/api/keys", json=new, headers={**HERE, "X-CSRF-Token": token}).status_code == 201


def test_the_token_of_one_session_does_not_fit_another(locked: Middleware) -> None:
    one, other = locked.client(), locked.client()
    log_in(one)
    log_in(other)
    answer = other.post("/middleware/api/settings/reset", headers={**HERE, "X-CSRF-Token": csrf(one)})
    assert answer.status_code == 403


def test_a_bearer_token_needs_no_csrf_token(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    assert client.post("/middleware/api/keys", json={"key": "sk-0123456789"}).status_code == 201


def test_another_site_cannot_log_somebody_in(locked: Middleware) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = locked.client().post("/middleware/login", data={"password": PASSWORD}, headers=headers)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


def test_no_get_changes_state(locked: Middleware) -> None:
    key_id = locked.add_key()
    client = locked.client()
    log_in(client)
    for path in ("logout", "api/logout", "api/settings/reset", f"api/keys/{key_id}/wake", "api/keys/import"):
        client.get(f"/middleware/{path}")
    assert client.get("/middleware/api/session").status_code == 200
    assert len(locked.real_keys()) == 1


# -- guesses -----------------------------------------------------------------------------------------------


def test_the_sixth_guess_waits_and_the_wait_grows(locked: Middleware) -> None:
    client = locked.client()
    for _ in range(5):
        assert client.post("/middleware/api/login", json=WRONG).status_code == 401
    waits = []
    for _ in range(11):
        answer = client.post("/middleware/api/login", json={"password": PASSWORD})
        assert answer.status_code == 429
        assert answer.get_json()["code"] == "too_many_attempts"
        waits.append(int(answer.headers["Retry-After"]))
        locked.time.advance(waits[-1])
        assert client.post("/middleware/api/login", json=WRONG).status_code == 401
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_thousand_guesses_lock_the_administrator_out_for_five_minutes_at_most(locked: Middleware) -> None:
    client = locked.client()
    statuses = [client.post("/middleware/api/login", json=WRONG).status_code for _ in range(200)]
    assert statuses.count(401) == 5
    locked.time.advance(300)
    assert client.post("/middleware/api/login", json={"password": PASSWORD}).status_code == 200
    assert client.post("/middleware/api/login", json={"password": PASSWORD}).status_code == 200


def test_an_open_session_is_not_disturbed_by_guesses(locked: Middleware) -> None:
    client = locked.client(bearer=True)
    for _ in range(10):
        locked.client().post("/middleware/api/login", json=WRONG)
    assert client.get("/middleware/api/keys").status_code == 200


def test_a_made_up_forwarded_address_does_not_help(locked: Middleware) -> None:
    client = locked.client()
    statuses = [
        client.post(
            "/middleware/api/login",
            json=WRONG,
            headers={"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"},
        ).status_code
        for number in range(10)
    ]
    assert statuses == [401] * 5 + [429] * 5


def test_guesses_from_many_addresses_are_let_in_one_per_second(locked: Middleware) -> None:
    client = locked.client()

    def guess(number: int, password: str = "wrong") -> int:
        peer = {"REMOTE_ADDR": f"198.51.{number // 200}.{number % 200}"}
        return client.post("/middleware/api/login", json={"password": password}, environ_base=peer).status_code

    statuses = [guess(number) for number in range(150)]
    assert statuses.count(401) == 61
    locked.time.advance(1)
    assert guess(1000, PASSWORD) == 200


def test_a_whole_ipv6_network_counts_as_one(locked: Middleware) -> None:
    client = locked.client()
    statuses = [
        client.post(
            "/middleware/api/login", json=WRONG, environ_base={"REMOTE_ADDR": f"2001:db8:1:2::{number:x}"}
        ).status_code
        for number in range(1, 8)
    ]
    assert statuses == [401] * 5 + [429] * 2


def test_a_success_forgives(locked: Middleware) -> None:
    client = locked.client()
    for _ in range(3):
        for _ in range(4):
            assert client.post("/middleware/api/login", json=WRONG).status_code == 401
        assert client.post("/middleware/api/login", json={"password": PASSWORD}).status_code == 200


def test_attempts_are_forgotten_after_an_hour(locked: Middleware) -> None:
    client = locked.client()
    for _ in range(5):
        client.post("/middleware/api/login", json=WRONG)
    locked.time.advance(3601)
    client.post("/middleware/api/login", json=WRONG, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    with locked.services.database.read() as connection:
        peers = connection.execute(sa.select(login_attempts.c.peer)).scalars().all()
    assert sorted(peers) == ["*", "192.0.2.1"]


def test_the_login_page_says_how_long_to_wait(locked: Middleware) -> None:
    client = locked.client()
    for _ in range(5):
        log_in(client, "wrong")
    answer = log_in(client)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert "Try again in 1 second." in answer.text


# -- other host names, frames, caches ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.1.5", "a@b:c"])
@pytest.mark.parametrize("path", ["/middleware/", "/middleware/login", "/middleware/api/keys", "/api/admin/x"])
def test_on_loopback_other_host_names_are_misdirected(middleware: Middleware, host: str, path: str) -> None:
    answer = middleware.client().get(path, headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert b"key_value" not in answer.data


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "LOCALHOST"])
def test_on_loopback_the_names_of_this_machine_lead_here(middleware: Middleware, host: str) -> None:
    assert middleware.client().get("/middleware/api/keys", headers={"Host": host}).status_code == 200


def test_bound_elsewhere_any_host_name_leads_here(tmp_path: Path) -> None:
    with Middleware(tmp_path, password=PASSWORD, host="0.0.0.0") as served:
        answer = served.client().get(
            "/middleware/api/keys", headers={"Host": "gateway.example", **bearer(served.token())}
        )
        assert answer.status_code == 200


def test_a_forwarded_host_is_not_believed(middleware: Middleware) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/evil"}
    answer = middleware.client().get("/middleware/", headers=headers)
    assert "evil" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/middleware/", "/middleware/login", "/middleware/api/keys", "/middleware/nothing"]
)
def test_pages_and_calls_stay_out_of_frames_and_caches(locked: Middleware, path: str) -> None:
    for client in (locked.client(), locked.client(bearer=True)):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_the_style_sheet_needs_no_login_and_may_be_cached(locked: Middleware) -> None:
    answer = locked.client().get("/middleware/static/css/app.css")
    assert answer.status_code == 200
    assert answer.mimetype == "text/css"
    assert "no-store" not in answer.headers.get("Cache-Control", "")
    answer.close()
