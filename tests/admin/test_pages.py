"""The pages: what they say in each state, and that text from outside stays text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from tests.admin.build import Middleware

KEY = {"key": "sk-0123456789abcdef", "provider": "openai"}


class Page(HTMLParser):
    """Collects what the content policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.elsewhere: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "style" or (tag == "script" and not dict(attrs).get("src")):
            self.inline.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")
            if name in ("href", "src", "action") and value and not value.startswith(("/", "#")):
                self.elsewhere.append(value)


def test_the_root_says_what_this_is_and_nothing_about_the_inside(locked: Middleware) -> None:
    client = locked.client()
    answer = client.get("/")
    assert answer.status_code == 200
    assert "AI API Middleware" in answer.text
    assert "password" not in answer.text.lower()
    head = client.head("/")
    assert (head.status_code, head.data) == (200, b"")


def test_an_empty_middleware_shows_its_demonstration_and_how_to_add_a_key(middleware: Middleware) -> None:
    text = middleware.client().get("/middleware/").text
    assert "No key yet: only the demonstration answers." in text
    assert "It is no AI model" in text
    assert "/middleware/welcome" in text
    assert "No password is set" in text


def test_a_disabled_key_ends_the_demonstration_too(middleware: Middleware) -> None:
    key_id = middleware.add_key()
    client = middleware.client()
    assert client.put(f"/middleware/api/keys/{key_id}", json={"status": "Disabled"}).status_code == 200
    assert "demonstration is answering" not in client.get("/middleware/").text
    assert [row["id"] for row in client.get("/middleware/api/keys").get_json()] == [key_id]


def test_a_real_key_ends_the_demonstration(middleware: Middleware) -> None:
    client = middleware.client()
    assert client.post("/middleware/api/keys", json=KEY).status_code == 201
    text = client.get("/middleware/").text
    assert "Serving: 1 key is healthy." in text
    assert "demonstration" not in text.lower()
    assert "There is no key yet" not in text


@pytest.mark.parametrize(
    ("status", "words"),
    [("Disabled", "All keys are disabled"), ("Resting", "All keys rest")],
)
def test_the_worst_news_comes_first(middleware: Middleware, status: str, words: str) -> None:
    client = middleware.client()
    key_id = client.post("/middleware/api/keys", json=KEY).get_json()["id"]
    client.post("/middleware/api/keys/bulk-action", json={"key_ids": [key_id], "status": status})
    assert words in client.get("/middleware/").text


def test_the_overview_is_also_found_without_its_slash(middleware: Middleware) -> None:
    answer = middleware.client().get("/middleware")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/middleware/")


@pytest.mark.parametrize(
    "path", ["/", "/middleware/", "/middleware/login", "/middleware/logout", "/middleware/nothing"]
)
def test_pages_keep_to_their_content_policy(locked: Middleware, path: str) -> None:
    client = locked.client()
    client.post("/middleware/login", data={"password": "correct horse battery staple"})
    page = Page(client.get(path).text)
    assert page.inline == []
    assert page.elsewhere == []


def test_text_from_outside_stays_text(locked: Middleware) -> None:
    attack = '/middleware/<script>alert(1)</script>?"><img src=x onerror=alert(1)>'
    client = locked.client()
    for text in (
        client.get("/middleware/login", query_string={"next": attack}).text,
        client.get("/middleware/", headers={"Host": "localhost:5000"}).text,
        client.post("/middleware/login", data={"password": "x", "next": attack}).text,
    ):
        assert "<script>alert" not in text
        assert "<img" not in text


def test_an_address_that_is_not_there_shows_the_navigation_to_those_who_are_logged_in(locked: Middleware) -> None:
    answer = locked.client(bearer=True).get("/middleware/nowhere")
    assert answer.status_code == 404
    assert "There is no page at this address." in answer.text
    assert "/middleware/keys" in answer.text
    assert locked.client().get("/middleware/nowhere").status_code == 302
