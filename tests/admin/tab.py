"""A browser tab without JavaScript: reads pages, fills their forms, follows their redirects."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

_VOID = frozenset({"input", "img", "br", "hr", "link", "meta"})


@dataclass
class Form:
    """
    A form of a page.

    fields  -- what a browser would send: (name, value), in order
    """

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """The forms, the links and the visible text of a page, and whatever elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._form: Form | None = None
        self._select: str | None = None
        self._options: list[tuple[str, bool]] = []
        self._area: str | None = None
        self._area_text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "form":
            self._form = Form(found.get("action", ""), found.get("method", "get").lower())
            self.forms.append(self._form)
        elif tag == "a":
            self.links.append(found.get("href", ""))
        elif self._form is not None and "name" in found:
            self._field(tag, found)
        elif tag == "option" and self._select is not None:
            self._options.append((found.get("value", ""), "selected" in found))

    def _field(self, tag: str, found: dict[str, str]) -> None:
        assert self._form is not None
        if tag == "select":
            self._select, self._options = found["name"], []
        elif tag == "textarea":
            self._area, self._area_text = found["name"], ""
        elif tag == "input" and (found.get("type") not in ("checkbox", "radio") or "checked" in found):
            self._form.fields.append((found["name"], found.get("value", "")))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._area is not None:
            self._area_text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "select" and self._select is not None and self._form is not None:
            chosen = [value for value, selected in self._options if selected] or [self._options[0][0]]
            self._form.fields.append((self._select, chosen[0]))
            self._select = None
        elif tag == "textarea" and self._area is not None and self._form is not None:
            self._form.fields.append((self._area, self._area_text.removeprefix("\n")))
            self._area = None


class Tab:
    """
    `tab.go(path)`, then `tab.submit("/edit", name="new")`.

    answer  -- the last answer, after its redirects
    page    -- what it shows
    """

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.answer: TestResponse
        self.page: Page

    def go(self, path: str, status: int = 200) -> Page:
        return self._show(self.client.get(path, follow_redirects=True), status)

    def submit(self, action: str, status: int = 200, /, **changes: Any) -> Page:
        """
        Send the form whose action ends in `action`, with some fields changed; None leaves a field out, a list sends
        several of its name.
        """
        form = next(form for form in self.page.forms if form.action.endswith(action))
        fields = [(name, value) for name, value in form.fields if name not in changes]
        for name, value in changes.items():
            if value is not None:
                fields += [(name, one) for one in (value if isinstance(value, list) else [value])]
        if form.method == "get":
            return self._show(self.client.get(form.action, query_string=fields, follow_redirects=True), status)
        data: dict[str, list[str]] = {}
        for name, value in fields:
            data.setdefault(name, []).append(value)
        return self._show(self.client.post(form.action, data=data, follow_redirects=True), status)

    def _show(self, answer: TestResponse, status: int) -> Page:
        assert answer.status_code == status, (answer.status_code, answer.text[-3000:])
        self.answer = answer
        self.page = Page(answer.text)
        return self.page
