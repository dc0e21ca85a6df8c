"""The page of keys: the list with its filters, what is done from there, and the forms that add and change a key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import keys as actions
from app.admin.key_list import SIZES, STATUSES, KeyQuery, listed, matching_ids
from app.admin.overview import demonstration_answers
from app.admin.pages import editing, forms
from app.admin.pages.forms import Form
from app.admin.pages.frame import done, fragment, is_htmx, show
from app.admin.pages.words import plural
from app.admin.reasons import in_words
from app.errors import BadRequest, Conflict, MiddlewareError
from app.key_tests import MAX_TESTS
from app.keys.fields import DEFAULT_PROVIDER
from app.keys.manager import DELETE

bp = Blueprint("keys", __name__, url_prefix="/middleware/keys")

HOME: Final = "/middleware/keys"
#: The list or a key. Of a whole address, as htmx sends it, only the path is used.
_HERE: Final = re.compile(
    r"(?:https?://[\w.:\[\]-]+)?(?P<address>/middleware/keys(?:/\d{1,18})?(?:\?[!-\[\]-~]*)?)", re.ASCII
)
_READERS: Final[dict[str, forms.Reader]] = {
    "key": forms.text,
    "name": forms.text,
    "note": forms.text,
    "priority": forms.whole_number,
    "provider": forms.text,
    "group": forms.text,
    "models": forms.lines,
}
_NEW: Final = {"key": "", "name": "", "note": "", "priority": "1", "group": "", "models": ""}


# -- the list ----------------------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """The list, as the address asks for it. htmx takes its part `#key-list` out of it."""
    response = show("keys/index.html", page="keys", **_listed(KeyQuery.of(request.args)))
    if request.headers.get("HX-Trigger") == "key-filters":
        response.headers["HX-Push-Url"] = KeyQuery.of(request.args).here()
    return response


def _listed(query: KeyQuery) -> dict[str, Any]:
    return {
        "list": listed(http.services(), query),
        "statuses": STATUSES,
        "sizes": SIZES,
        "in_words": in_words,
        "demonstration": demonstration_answers(http.services()),
    }


def back() -> str:
    """The list or the key that the reader came from."""
    given = request.form.get("next") or request.args.get("next") or request.headers.get("HX-Current-URL", "")
    found = _HERE.fullmatch(given)
    return found["address"] if found else HOME


def _end(message: str, level: str = "good") -> AnyResponse:
    """The end of a change that was made in the list or on the page of a key."""
    to = back()
    if is_htmx() and request.headers.get("HX-Target") == "key-list":
        part = fragment("keys/_list.html", **_listed(KeyQuery.of_address(urlsplit(to).query)))
        return done(message, to, level=level, fragment=part)
    return done(message, to, level=level)


# -- one key -----------------------------------------------------------------------------------------


@bp.post("/<int:key_id>/wake")
def wake(key_id: int) -> AnyResponse:
    """End its rests."""
    return _change(key_id, http.services().keys.wake, "is awake.")


@bp.post("/<int:key_id>/enable")
def enable(key_id: int) -> AnyResponse:
    """Make it Healthy."""
    return _change(key_id, lambda one: actions.update(http.services(), one, {"status": "Healthy"}), "is enabled.")


@bp.post("/<int:key_id>/disable")
def disable(key_id: int) -> AnyResponse:
    """Take it out of play until somebody enables it."""
    return _change(key_id, lambda one: actions.update(http.services(), one, {"status": "Disabled"}), "is disabled.")


def _change(key_id: int, change: Callable[[int], object], what: str) -> AnyResponse:
    name = http.services().keys.get(key_id)["name"]
    try:
        change(key_id)
    except Conflict as error:
        return _end(f"{name}: {error}", "warn")
    return _end(f"{name} {what}")


@bp.post("/<int:key_id>/test")
def test(key_id: int) -> AnyResponse:
    """Call the provider with it, and show what came back."""
    model = request.form.get("model", "").strip()
    shown = http.services().keys.get(key_id)
    found, problem = None, ""
    try:
        found = http.services().key_tests.test(key_id, model or None)
        shown = http.services().keys.get(key_id)
    except (Conflict, BadRequest) as error:
        problem = str(error)
    return show(
        "keys/tested.html",
        page="keys",
        key=shown,
        test=found,
        model=model,
        problem=problem,
        back=back(),
        in_words=in_words,
    )


# -- many keys ---------------------------------------------------------------------------------------

_BULK: Final = {
    "enable": ("Healthy", "enabled"),
    "disable": ("Disabled", "disabled"),
    "rest": ("Resting", "put to rest"),
}


@bp.post("/bulk")
def bulk() -> AnyResponse:
    """
    `action` on the keys `ids`, or on `all` that the list at `next` finds: enable, disable, rest (for an hour), wake,
    test or delete.
    """
    everything = request.form.get("all") == "true"
    ids = matching_ids(http.services(), KeyQuery.of_address(urlsplit(back()).query)) if everything else _ids()
    action = request.form.get("action", "")
    if not ids:
        return _end("No key is chosen. Tick the boxes of some first.", "warn")
    if action == DELETE:
        return _confirm_deletion(ids)
    if action == "test":
        return _test_many(ids)
    if action == "wake":
        return _wake_many(ids)
    if action not in _BULK:
        raise BadRequest("There is no such action.", param="action")
    status, words = _BULK[action]
    count = http.services().keys.bulk(ids, status)
    return _end(f"{plural(count, 'key')} {words}{' for an hour' if action == 'rest' else ''}.")


def _wake_many(ids: list[int]) -> AnyResponse:
    wanted = set(ids)
    resting = [
        item["id"]
        for item in http.services().keys.list_keys()
        if item["id"] in wanted
        and item["status"] != "Disabled"
        and (item["status"] == "Resting" or item["model_rests"])
    ]
    if not resting:
        return _end("None of these keys rests.", "info")
    return _end(f"{plural(http.services().keys.bulk(resting, 'Healthy'), 'key')} woken.")


def _test_many(ids: list[int]) -> AnyResponse:
    tests = http.services().key_tests.test_many(ids[:MAX_TESTS])
    known = {item["id"]: item for item in http.services().keys.list_keys()}
    rows = [(known.get(test.key_id), test) for test in tests]
    return show(
        "keys/tests.html",
        page="keys",
        rows=sorted(rows, key=lambda row: row[1].ok),
        good=sum(test.ok for test in tests),
        left_out=len(ids) - len(tests),
        back=back(),
        in_words=in_words,
    )


@bp.get("/delete")
def ask_to_delete() -> AnyResponse:
    """Shows what would be deleted: the keys `ids`."""
    return _confirm_deletion([int(text) for text in request.args.getlist("ids") if _is_id(text)])


@bp.post("/delete")
def delete() -> AnyResponse:
    """Delete the keys `ids` with their statistics."""
    ids = _ids()
    count = http.services().keys.bulk(ids, DELETE) if ids else 0
    to = back()
    if urlsplit(to).path != HOME:  # the page of a key that is gone
        to = HOME
    return done(f"{plural(count, 'key')} deleted.", to)


def _confirm_deletion(ids: list[int]) -> Response:
    wanted = set(ids)
    keys = [item for item in http.services().keys.list_keys() if item["id"] in wanted]
    return show("keys/delete.html", page="keys", keys=keys, back=back())


def _ids() -> list[int]:
    return list(dict.fromkeys(int(text) for text in request.form.getlist("ids") if _is_id(text)))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


# -- adding and changing -----------------------------------------------------------------------------


@bp.get("/add")
def new() -> Response:
    """The form for one key."""
    provider = request.args.get("provider", "")
    known = http.services().providers.snapshot.by_name
    return _form(Form(typed={**_NEW, "provider": provider if provider in known else usual_provider()}))


@bp.post("/add")
def add() -> AnyResponse:
    """Add a key."""
    form = _read()
    if not form.typed["key"].strip():
        form.faults["key"] = "Paste the key here."
    if not form.faults:
        try:
            key_id = actions.add(http.services(), form.values)
        except MiddlewareError as error:
            forms.blame(form, error)
        else:
            name = http.services().keys.get(key_id)["name"]
            return done(f"{name} is added.", f"{HOME}/{key_id}" if request.form.get("then") == "open" else back())
    return _form(form, status=422)


@bp.get("/<int:key_id>/edit")
def edit(key_id: int) -> Response:
    """The form with what is there."""
    item = http.services().keys.get(key_id)
    typed = {name: str(item[name]) for name in ("name", "note", "priority", "provider", "group")}
    return _form(Form(typed={**typed, "key": "", "models": "\n".join(item["models"])}), item, _was(item))


@bp.post("/<int:key_id>/edit")
def update(key_id: int) -> AnyResponse:
    """Save what was changed; an empty value stays as it is."""
    item = http.services().keys.get(key_id)
    form = _read()
    if not form.typed["key"].strip():
        form.values.pop("key", None)
    status, was = editing.save(
        form, forms.was(), lambda changes, expected: actions.update(http.services(), key_id, changes, expected)
    )
    if status == 200:
        return _end(f"{form.values['name'] or item['name']} is saved.")
    return _form(form, item, was, status)


def _was(item: actions.Item) -> dict[str, Any]:
    """What the form shows; of the value that is its mask."""
    return {name: item[name] for name in _READERS if name != "key"} | {"key": item["key_value"]}


def _form(
    form: Form, item: actions.Item | None = None, was: dict[str, Any] | None = None, status: int = 200
) -> Response:
    return show(
        "keys/form.html",
        page="keys",
        status=status,
        form=form,
        key=item,
        was=was or {},
        problem=form.faults.get("", ""),
        providers=provider_choices(form.typed["provider"]),
        back=back(),
    )


def _read() -> Form:
    return forms.read({name: (reader, actions.FIELDS[name]) for name, reader in _READERS.items()})


def provider_choices(chosen: str = "") -> list[tuple[str, str]]:
    """The providers that a key may be for: value and words."""
    entries = http.services().providers.snapshot.ordered
    found = [(entry.name, entry.name if entry.enabled else f"{entry.name} (off)") for entry in entries]
    return found if not chosen or chosen in dict(found) else [*found, (chosen, f"{chosen} (not there)")]


def usual_provider() -> str:
    """The provider that a new key is probably for."""
    names = [entry.name for entry in http.services().providers.snapshot.ordered if entry.enabled]
    return DEFAULT_PROVIDER if DEFAULT_PROVIDER in names or not names else names[0]
