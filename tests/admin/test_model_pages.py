"""The pages of models, aliases, prices and routes without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import canned
from tests.admin.build import Middleware
from tests.admin.tab import Page, Tab
from tests.admin.test_api import record
from tests.fake_provider import FakeProvider, closed_port, json_reply

PAGE = "/middleware/models"
ATTACK = "<img src=x onerror=alert(1)>"
PRICE = {"input_per_million": 2.5, "output_per_million": 10.0, "cached_per_million": None}


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def tab(middleware: Middleware) -> Tab:
    return Tab(middleware.client())


@pytest.fixture
def local(middleware: Middleware, upstream: FakeProvider) -> FakeProvider:
    """`local` is the upstream, `dead` a closed port; each has a key."""
    for name, origin in (("local", upstream.origin), ("dead", closed_port())):
        middleware.services.providers.create({"name": name, "kind": "openai-compatible", "base_url": origin})
        middleware.add_key(f"sk-0123456789-{name}", provider=name, name=f"key of {name}")
    return upstream


# -- what is offered ---------------------------------------------------------------------------------------


def test_one_dead_provider_hides_no_other(tab: Tab, local: FakeProvider) -> None:
    local.default(json_reply(canned.openai_models("one", "two", ATTACK)))
    assert "Nobody has asked yet." in tab.go(PAGE).text
    page = tab.submit("/models/refresh")
    assert "No list came from dead." in page.text
    assert "No answer came from this address." in page.text
    assert "3 models" in page.text
    assert "There is no key for this provider yet." in page.text
    assert ATTACK in page.text
    assert ATTACK not in tab.answer.text


def test_one_provider_is_asked_alone(tab: Tab, local: FakeProvider) -> None:
    local.default(json_reply(canned.openai_models("one")))
    tab.go(PAGE)
    assert "local: It offers 1 models." in tab.submit("/offered/local").text
    part = tab.client.post(f"{PAGE}/offered/local", headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert 'id="offer-local"' in part.text
    assert tab.client.post(f"{PAGE}/offered/nothing").status_code == 404


def test_hundreds_of_models_are_searched_and_paged(tab: Tab, local: FakeProvider, middleware: Middleware) -> None:
    local.default(json_reply(canned.openai_models(*[f"model-{number:03d}" for number in range(250)])))
    middleware.services.providers.set_aliases({"quick": "local/model-123"})
    tab.go(PAGE)
    tab.submit("/offered/local")
    assert "Show all 250" in tab.page.text
    assert "model-009" in tab.page.text
    assert "model-010" not in tab.page.text
    page = tab.go(f"{PAGE}?provider=local&page=3")
    assert "model-249" in page.text
    assert "model-199" not in page.text
    assert "model-249" in tab.go(f"{PAGE}?provider=local&page=99").text
    assert "model-000" in tab.go(f"{PAGE}?provider=local&page=-1").text
    page = tab.submit("/models", q="MODEL-24")
    assert "10 models of 250" in " ".join(page.text.split())
    assert "model-123" in tab.go(f"{PAGE}?q=quick").text
    assert "No model of local has" in tab.go(f"{PAGE}?q={ATTACK}").text
    assert ATTACK not in tab.answer.text


def test_a_list_is_asked_for_by_itself_only_where_none_is_known(tab: Tab, local: FakeProvider) -> None:
    local.default(json_reply(canned.openai_models("one")))

    def loading(page: Page) -> set[str]:
        return {found["hx-post"] for _, found in page.elements if found.get("hx-trigger") == "load"}

    assert loading(tab.go(PAGE)) == {f"{PAGE}/offered/local", f"{PAGE}/offered/dead"}
    tab.submit("/models/refresh")
    assert loading(tab.page) == set()


def test_models_show_their_aliases_and_prices(tab: Tab, local: FakeProvider, middleware: Middleware) -> None:
    local.default(json_reply(canned.openai_models("gpt-5", "other")))
    middleware.services.providers.set_aliases({"big": "gpt-5", "elsewhere": "openai/gpt-5"})
    middleware.services.prices.replace({"gpt-*": PRICE})
    tab.go(PAGE)
    page = tab.submit("/offered/local")
    assert "big" in page.text
    assert "elsewhere" not in page.text
    assert "$2.50" in page.text
    assert "/middleware/models/route?model=local%2Fgpt-5" in page.links


# -- aliases -----------------------------------------------------------------------------------------------


def aliases(middleware: Middleware) -> dict[str, str]:
    return middleware.services.providers.aliases()


def test_aliases_are_added_edited_and_deleted_one_by_one(tab: Tab, middleware: Middleware) -> None:
    tab.go(f"{PAGE}/aliases")
    tab.submit("/aliases", alias="fast", target="gpt-5-mini")
    tab.submit("/aliases", alias=ATTACK, target="gpt-5")
    assert aliases(middleware) == {"fast": "gpt-5-mini", ATTACK: "gpt-5"}
    assert ATTACK not in tab.answer.text
    tab.go(f"{PAGE}/aliases/edit?alias=fast")
    assert "quick now stands for gpt-5" in tab.submit("?alias=fast", alias="quick", target="gpt-5").text
    (link,) = [link for link in tab.page.links if link.startswith(f"{PAGE}/aliases/delete") and "onerror" in link]
    tab.go(link)
    assert ATTACK not in tab.answer.text
    tab.submit(link.rpartition("/")[2])
    assert aliases(middleware) == {"quick": "gpt-5"}


@pytest.mark.parametrize(
    ("alias", "target", "words"),
    [
        ("", "x", "characters long"),
        ("x", "", "characters long"),
        ("fast", "other", "There is this alias already; it stands for gpt-5-mini."),
        ("new", "fast", "points to an alias"),
        ("a\x00b", "x", "control characters"),
    ],
)
def test_a_wrong_alias_is_told_and_kept_in_the_form(
    tab: Tab, middleware: Middleware, alias: str, target: str, words: str
) -> None:
    middleware.services.providers.set_aliases({"fast": "gpt-5-mini"})
    tab.go(f"{PAGE}/aliases")
    page = tab.submit("/aliases", 422, alias=alias, target=target)
    assert words in page.text
    assert ("target", target) in page.forms[-1].fields or ("target", target) in page.forms[-2].fields
    assert aliases(middleware) == {"fast": "gpt-5-mini"}


def test_two_people_at_aliases_lose_nothing_silently(tab: Tab, middleware: Middleware) -> None:
    middleware.services.providers.set_aliases({"fast": "gpt-5-mini", "big": "gpt-5"})
    other = Tab(middleware.client())
    for one in (tab, other):
        one.go(f"{PAGE}/aliases/edit?alias=fast")
    other.submit("?alias=fast", target="gpt-4")
    other.go(f"{PAGE}/aliases")
    other.submit("/aliases", alias="new", target="gpt-5")
    page = tab.submit("?alias=fast", 409, target="gpt-6")
    assert "Somebody else has changed this meanwhile, to: gpt-4." in page.text
    assert aliases(middleware) == {"big": "gpt-5", "fast": "gpt-4", "new": "gpt-5"}
    tab.submit("?alias=fast")
    assert aliases(middleware)["fast"] == "gpt-6"
    assert aliases(middleware)["new"] == "gpt-5"


def test_an_alias_that_was_deleted_meanwhile_is_told(tab: Tab, middleware: Middleware) -> None:
    middleware.services.providers.set_aliases({"fast": "gpt-5-mini", "taken": "gpt-5"})
    tab.go(f"{PAGE}/aliases/edit?alias=fast")
    assert "There is this alias already" in tab.submit("?alias=fast", 409, alias="taken").text
    middleware.services.providers.change_aliases({"fast": None})
    assert "to: nothing" in tab.submit("?alias=fast", 409, alias="fast", target="x").text
    tab.submit("?alias=fast")
    assert aliases(middleware) == {"fast": "x", "taken": "gpt-5"}
    tab.go(f"{PAGE}/aliases/edit?alias=nothing", 404)


def test_an_alias_that_changed_is_not_deleted_unseen(tab: Tab, middleware: Middleware) -> None:
    middleware.services.providers.set_aliases({"fast": "gpt-5-mini"})
    tab.go(f"{PAGE}/aliases/delete?alias=fast")
    middleware.services.providers.change_aliases({"fast": "gpt-5"})
    assert "Somebody else has just changed it to gpt-5." in tab.submit("?alias=fast", 409).text
    tab.submit("?alias=fast")
    assert aliases(middleware) == {}


def test_many_aliases_are_searched_and_paged(tab: Tab, middleware: Middleware) -> None:
    middleware.services.providers.set_aliases({f"alias-{number:03d}": "gpt-5" for number in range(250)})
    page = tab.go(f"{PAGE}/aliases")
    assert "250 aliases" in page.text
    assert "alias-099" in page.text
    assert "alias-100" not in page.text
    assert "alias-249" in tab.go(f"{PAGE}/aliases?page=9").text
    assert "alias-123" in tab.go(f"{PAGE}/aliases?q=ALIAS-12").text
    assert "10 aliases of 250" in " ".join(tab.page.text.split())
    assert "No alias has" in tab.go(f"{PAGE}/aliases?q={ATTACK}").text
    assert ATTACK not in tab.answer.text


# -- prices ------------------------------------------------------------------------------------------------


def test_prices_are_added_edited_and_deleted_one_by_one(tab: Tab, middleware: Middleware) -> None:
    assert "No price yet" in tab.go(f"{PAGE}/prices").text
    tab.go(f"{PAGE}/prices/new")
    page = tab.submit(
        "/new", pattern="gpt-5*", input_per_million="1.25", output_per_million="10", cached_per_million=""
    )
    assert "$0.01125" in page.text
    tab.go(f"{PAGE}/prices/edit?pattern=gpt-5*")
    page = tab.submit("?pattern=gpt-5%2A", cached_per_million="0.125")
    assert middleware.services.prices.all() == {
        "gpt-5*": {"input_per_million": 1.25, "output_per_million": 10, "cached_per_million": 0.125}
    }
    tab.go(f"{PAGE}/prices/delete?pattern=gpt-5*")
    tab.submit("?pattern=gpt-5%2A")
    assert middleware.services.prices.all() == {}


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "free", "1e99", ""])
def test_a_wrong_price_is_told(tab: Tab, middleware: Middleware, wrong: str) -> None:
    tab.go(f"{PAGE}/prices/new")
    page = tab.submit("/new", 422, pattern="x", input_per_million=wrong, output_per_million="1")
    assert "Must be a number from 0" in page.text
    assert middleware.services.prices.all() == {}


def test_two_people_at_prices_lose_nothing_silently(tab: Tab, middleware: Middleware) -> None:
    middleware.services.prices.replace({"a": PRICE, "b": PRICE})
    other = Tab(middleware.client())
    for one in (tab, other):
        one.go(f"{PAGE}/prices/edit?pattern=a")
    other.submit("?pattern=a", input_per_million="3")
    page = tab.submit("?pattern=a", 409, input_per_million="4")
    assert "to: 3." in page.text
    assert middleware.services.prices.all()["a"]["input_per_million"] == 3
    tab.submit("?pattern=a")
    assert middleware.services.prices.all()["a"]["input_per_million"] == 4
    tab.go(f"{PAGE}/prices/edit?pattern=a")
    middleware.services.prices.change({"a": None})
    assert "has deleted this price" in tab.submit("?pattern=a", 409, input_per_million="5").text
    tab.submit("?pattern=a")
    assert middleware.services.prices.all()["a"]["input_per_million"] == 5
    tab.go(f"{PAGE}/prices/new")
    assert (
        "has a price already"
        in tab.submit("/new", 422, pattern="b", input_per_million="1", output_per_million="1").text
    )


def test_many_prices_are_searched_and_paged(tab: Tab, middleware: Middleware) -> None:
    middleware.services.prices.replace({f"model-{number:03d}": PRICE for number in range(250)})
    assert "model-100" not in tab.go(f"{PAGE}/prices").text
    assert "model-249" in tab.go(f"{PAGE}/prices?page=3").text
    assert "10 prices of 250" in " ".join(tab.go(f"{PAGE}/prices?q=model-12").text.split())


def test_models_that_were_used_without_a_price_are_named(tab: Tab, middleware: Middleware) -> None:
    record(middleware, 1, model=ATTACK)
    assert middleware.services.writer.flush(5.0)
    page = tab.go(f"{PAGE}/prices")
    assert "Used in the last 30 days, without a price" in page.text
    assert ATTACK in page.text
    assert ATTACK not in tab.answer.text
    (link,) = [link for link in page.links if "prices/new?" in link]
    assert ("pattern", ATTACK) in tab.go(link).forms[-1].fields


# -- routes ------------------------------------------------------------------------------------------------


def test_a_route_is_told_step_by_step(tab: Tab, middleware: Middleware) -> None:
    middleware.add_key("sk-0123456789-first", provider="openai", name=ATTACK)
    middleware.services.providers.set_aliases({"fast": "gpt-5-mini"})
    tab.go(f"{PAGE}/route")
    page = tab.submit("/route", model="fast")
    for words in (
        "It goes to openai",
        "No client key is needed",
        "Alias 'fast' stands for 'gpt-5-mini'.",
        "Sent with the key " + ATTACK,
        "sk-0...irst is next in turn (round robin)",
    ):
        assert words in page.text, words
    assert ATTACK not in tab.answer.text


def test_a_refusal_is_told_with_its_reason(tab: Tab, middleware: Middleware) -> None:
    middleware.add_key(provider="openai")
    client_id, _ = middleware.services.clients.create(ATTACK, models=["gpt-4*"])
    page = tab.go(f"{PAGE}/route?model=gpt-5&client={client_id}")
    assert "It is refused with 403" in page.text
    assert "may not use the model" in page.text
    assert ATTACK not in tab.answer.text
    assert "It is refused with 404" in tab.go(f"{PAGE}/route?path=/v1/nothing").text
    page = tab.go(f"{PAGE}/route?model={ATTACK}&call=gemini")
    assert ATTACK not in tab.answer.text


@pytest.mark.parametrize("query", ["path=nothing", "model=x&client=abc", "model=x&client=99", "model=" + "x" * 400])
def test_a_wrong_question_is_told(tab: Tab, query: str) -> None:
    tab.go(f"{PAGE}/route?{query}", 422)
