"""The page of clients without JavaScript: the door, the key that is shown once, limits, and two people at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.admin.build import PASSWORD, Middleware
from tests.admin.tab import Tab
from tests.admin.test_api import record

PAGE = "/middleware/clients"
ATTACK = "<script>alert(1)</script>"
CLOSES = "This is the first client key: it closes the proxy."
OPENS = "It is the last client key: without it the proxy is open."
TOKEN = re.compile(r"mw-[A-Za-z0-9_-]{43}")


@pytest.fixture
def tab(middleware: Middleware) -> Tab:
    return Tab(middleware.client())


def make(tab: Tab, **fields: str) -> int:
    """Make a client by the form; returns its id. The tab shows its key."""
    tab.go(f"{PAGE}/new")
    tab.submit("/new", **{"name": "app", **fields})
    found = re.search(r"/clients/(\d+)/key", tab.answer.request.path)
    assert found is not None
    return int(found.group(1))


# -- the door ----------------------------------------------------------------------------------------------


def test_the_first_key_says_that_it_closes_the_proxy_and_the_last_that_it_opens_it(tab: Tab) -> None:
    assert "Every program on this machine may call without a key" in tab.go(PAGE).text
    assert CLOSES in tab.go(f"{PAGE}/new").text
    first, second = make(tab), make(tab)
    assert "Every call needs a client key, because there is one." in tab.go(PAGE).text
    assert CLOSES not in tab.go(f"{PAGE}/new").text
    assert OPENS not in tab.go(f"{PAGE}/{first}/delete").text
    tab.submit("/delete")
    assert OPENS in tab.go(f"{PAGE}/{second}/delete").text
    assert "The proxy is open again to programs on this machine." in tab.submit("/delete").text


@pytest.mark.parametrize(
    ("mode", "host", "words"),
    [
        ("open", "127.0.0.1", "client keys are not looked at"),
        ("required", "127.0.0.1", "Nobody can call yet."),
        ("auto", "0.0.0.0", "and this server listens beyond this machine"),
    ],
)
def test_the_door_is_explained(tmp_path: Path, mode: str, host: str, words: str) -> None:
    with Middleware(tmp_path, password=PASSWORD, host=host, environ={"CLIENT_AUTH": mode}) as running:
        for row in running.services.clients.list():  # made at the first start where one is needed
            running.services.clients.delete(row["id"])
        tab = Tab(running.client())
        tab.client.post("/middleware/login", data={"password": PASSWORD})
        assert words in tab.go(PAGE).text
        assert CLOSES not in tab.go(f"{PAGE}/new").text
        client_id = make(tab)
        assert OPENS not in tab.go(f"{PAGE}/{client_id}/delete").text


# -- making ------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_with_programs_that_use_it(tab: Tab, middleware: Middleware) -> None:
    middleware.add_key(provider="openai")
    client_id = make(tab, models="gpt-5*\r\nclaude-4", expires_at="2027-01-31")
    shown = tab.answer.text
    token = TOKEN.findall(shown)[0]
    assert middleware.services.clients.authenticate(token) is not None
    assert "http://localhost/v1" in shown
    assert "curl http://localhost/v1/chat/completions" in shown
    assert "from openai import OpenAI" in tab.page.text
    row = middleware.services.clients.get(client_id)
    assert (row["models"], row["expires_at"]) == (["claude-4", "gpt-5*"], 1801440000.0)

    again = tab.go(f"{PAGE}/{client_id}/key")
    assert "It was shown once" in again.text
    assert not TOKEN.search(tab.answer.text)
    assert len(middleware.services.clients.list()) == 1


def test_a_key_is_shown_to_nobody_else_and_not_for_long(tab: Tab, middleware: Middleware) -> None:
    middleware.services.clients.create("other")
    tab.go(f"{PAGE}/new")
    answer = tab.client.post(f"{PAGE}/new", data={"name": "app"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{PAGE}/2/key")
    (cookie,) = [text for text in answer.headers.getlist("Set-Cookie") if "middleware_client_key" in text]
    assert not TOKEN.search(cookie)
    assert {"HttpOnly", "SameSite=Strict", "Path=/middleware"} <= set(cookie.split("; "))
    assert not TOKEN.search(Tab(middleware.client()).client.get(f"{PAGE}/2/key").text)
    middleware.time.advance(121)
    assert not TOKEN.search(tab.client.get(f"{PAGE}/2/key").text)


def test_a_key_belongs_to_its_own_page(tab: Tab, middleware: Middleware) -> None:
    middleware.services.clients.create("other")
    tab.client.post(f"{PAGE}/new", data={"name": "app"})
    assert not TOKEN.search(tab.client.get(f"{PAGE}/1/key").text)


@pytest.mark.parametrize("cookie", ["", "x", "v1:AAAA", "é", "a b c"])
def test_a_cookie_that_is_not_ours_shows_nothing(tab: Tab, middleware: Middleware, cookie: str) -> None:
    middleware.services.clients.create("app")
    tab.client.set_cookie("middleware_client_key", cookie, path="/middleware")
    assert "It was shown once" in tab.go(f"{PAGE}/1/key").text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "Give it a name"),
        ({"name": "x" * 201}, "characters long"),
        ({"expires_at": "tomorrow"}, "Write a day"),
        ({"expires_at": "2020-01-01"}, "This day is over"),
        ({"expires_at": "9999-12-31"}, "Write a day"),
        ({"models": "\r\n".join(f"m{number}" for number in range(300))}, "at most 200"),
    ],
)
def test_a_wrong_form_is_shown_again(tab: Tab, middleware: Middleware, fields: dict[str, str], words: str) -> None:
    tab.go(f"{PAGE}/new")
    assert words in tab.submit("/new", 422, **{"name": "app", **fields}).text
    assert middleware.services.clients.list() == []


# -- changing ----------------------------------------------------------------------------------------------


def test_a_client_is_limited_switched_off_and_on(tab: Tab, middleware: Middleware) -> None:
    client_id = make(tab)
    tab.go(f"{PAGE}/{client_id}/edit")
    tab.submit("/edit", models="gpt-5*", expires_at="2027-01-31", scopes="tools")
    row = middleware.services.clients.get(client_id)
    assert (row["models"], row["scopes"], row["expires_at"]) == (["gpt-5*"], ["tools"], 1801440000.0)
    assert "refused from now on" in tab.submit("/deactivate").text
    assert "Switched off" in tab.page.text
    assert middleware.services.clients.get(client_id)["active"] is False
    assert "may call again" in tab.submit("/activate").text
    tab.go(f"{PAGE}/{client_id}/edit")
    tab.submit("/edit", expires_at="", active=None)
    row = middleware.services.clients.get(client_id)
    assert (row["expires_at"], row["active"]) == (None, False)


def test_an_exact_expiry_stays_exact_when_something_else_is_changed(tab: Tab, middleware: Middleware) -> None:
    at = middleware.time.now + 1000.5
    client_id, _ = middleware.services.clients.create("app", expires_at=at)
    middleware.time.advance(5000)
    tab.go(f"{PAGE}/{client_id}/edit")
    tab.submit("/edit", name="other")
    row = middleware.services.clients.get(client_id)
    assert (row["name"], row["expires_at"]) == ("other", at)
    assert "Expired" in tab.go(PAGE).text


def test_the_later_of_two_people_is_told_and_loses_nothing(tab: Tab, middleware: Middleware) -> None:
    client_id, _ = middleware.services.clients.create("app", models=["gpt-5"])
    other = Tab(middleware.client())
    for one in (tab, other):
        one.go(f"{PAGE}/{client_id}/edit")
    other.submit("/edit", models="gpt-4", expires_at="2027-01-31")
    page = tab.submit("/edit", 409, models="o3", name="mine")
    assert "Somebody else has changed this meanwhile, to: gpt-4." in page.text
    row = middleware.services.clients.get(client_id)
    assert (row["name"], row["models"]) == ("app", ["gpt-4"])
    tab.submit("/edit")
    row = middleware.services.clients.get(client_id)
    assert (row["name"], row["models"], row["expires_at"]) == ("mine", ["o3"], 1801440000.0)


def test_what_is_gone_is_told(tab: Tab, middleware: Middleware) -> None:
    client_id, _ = middleware.services.clients.create("app")
    tab.go(f"{PAGE}/{client_id}/edit")
    middleware.services.clients.delete(client_id)
    tab.submit("/edit", 404, name="x")
    for path in (f"/{client_id}", f"/{client_id}/edit", f"/{client_id}/key", f"/{client_id}/delete", "/x", "/-1"):
        tab.go(PAGE + path, 404)


# -- what it used ------------------------------------------------------------------------------------------


def test_usage_is_shown_by_client_and_without_one(tab: Tab, middleware: Middleware) -> None:
    client_id, _ = middleware.services.clients.create("app")
    price = {"input_per_million": 1000.0, "output_per_million": 2000.0, "cached_per_million": None}
    middleware.services.prices.replace({"gpt-*": price})
    record(middleware, 1, client_id=client_id)
    record(middleware, 2, client_id=client_id, status=502, outcome="upstream_error")
    record(middleware, 3)
    assert middleware.services.writer.flush(5.0)
    page = tab.go(PAGE)
    assert "Without a client key" in page.text
    page = tab.go(f"{PAGE}/{client_id}")
    for words in ("50.0 %", "1 failed", "$0.0", "gpt-5", "Requests per day (UTC)"):
        assert words in page.text, words
    assert f"/middleware/requests?client_id={client_id}" in page.links


def test_many_clients_are_searched_and_paged(tab: Tab, middleware: Middleware) -> None:
    for number in range(120):
        middleware.services.clients.create(f"client-{number:03d}")
    page = tab.go(PAGE)
    assert "client-119" in page.text
    assert "client-019" not in page.text
    assert any(found.get("hx-get") == f"{PAGE}/list?page=1" for _, found in page.elements)
    assert "client-019" in tab.go(f"{PAGE}?page=2").text
    assert "10 clients of 120" in " ".join(tab.go(f"{PAGE}?q=client-11").text.split())
    assert "No client has" in tab.go(f"{PAGE}?q={ATTACK}").text
    assert ATTACK not in tab.answer.text


def test_names_of_clients_stay_text(tab: Tab, middleware: Middleware) -> None:
    client_id, _ = middleware.services.clients.create(ATTACK, models=[ATTACK], scopes=[ATTACK])
    record(middleware, 1, client_id=client_id, model=ATTACK)
    assert middleware.services.writer.flush(5.0)
    for path in ("", "/list", f"/{client_id}", f"/{client_id}/edit", f"/{client_id}/delete", f"/{client_id}/key"):
        assert ATTACK in tab.go(PAGE + path).text or path.endswith("/key")
        assert ATTACK not in tab.answer.text, path


@pytest.mark.parametrize("path", ["/new", "/1/edit", "/1/delete", "/1/activate", "/1/deactivate"])
def test_a_change_from_elsewhere_is_refused(locked: Middleware, path: str) -> None:
    locked.services.clients.create("app")
    client = locked.client()
    client.post("/middleware/login", data={"password": PASSWORD})
    assert client.post(PAGE + path, data={"name": "x"}).status_code == 403
    assert [row["name"] for row in locked.services.clients.list()] == ["app"]
