"""Provider entries and aliases: kept, checked, masked, and seen by requests at once."""

import pytest

from app.config import Config
from app.errors import BadRequest, Conflict, NotFound
from app.provider_store import ProviderStore
from app.storage.database import Database
from app.vault import Vault


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/keys.db")
    database.migrate(VAULT)
    yield database
    database.close()


VAULT = Vault("a passphrase that only tests use")


def make(database, **environ):
    store = ProviderStore(database, VAULT, Config.from_env(environ), lambda: "http://127.0.0.1:1")
    store.prepare()
    return store


LOCAL = {"name": "local", "kind": "openai-compatible", "base_url": "http://127.0.0.1:11434/v1/"}


def test_three_entries_exist_from_the_start(database):
    store = make(database)
    assert {entry.name for entry in store.snapshot.ordered} == {"gemini", "openai", "anthropic"}
    assert store.snapshot.demo.demonstration


def test_an_entry_that_was_deleted_stays_deleted(database):
    make(database).delete("anthropic")
    assert "anthropic" not in make(database).snapshot.by_name


def test_an_origin_from_the_environment_counts_until_the_entry_names_its_own(database):
    store = make(database, OPENAI_BASE_URL="http://127.0.0.1:9999/v1")
    assert store.snapshot.by_name["openai"].base_url == "http://127.0.0.1:9999"
    store.update("openai", {"base_url": "https://other.example"})
    assert store.snapshot.by_name["openai"].base_url == "https://other.example"


def test_an_entry_is_made_changed_and_removed(database):
    store = make(database)
    made = store.create({**LOCAL, "models": ["llama-*"], "priority": 5, "headers": {"X-Extra": "a-secret-value-123"}})
    assert made["base_url"] == "http://127.0.0.1:11434"
    assert made["headers"] == {"X-Extra": "a-se...-123"}
    entry = store.snapshot.by_name["local"]
    assert (entry.models, entry.priority, entry.headers) == (("llama-*",), 5, {"X-Extra": "a-secret-value-123"})
    assert store.snapshot.ordered[0] is entry

    store.update("local", {"enabled": False, "headers": made["headers"]})
    entry = store.snapshot.by_name["local"]
    assert (entry.enabled, entry.headers) == (False, {"X-Extra": "a-secret-value-123"})

    store.delete("local")
    assert "local" not in store.snapshot.by_name
    with pytest.raises(NotFound):
        store.get("local")


def test_header_values_are_not_in_the_database_in_clear(database, tmp_path):
    make(database).create({**LOCAL, "headers": {"X-Extra": "a-secret-value-123"}})
    database.close()
    assert all(b"a-secret-value-123" not in path.read_bytes() for path in tmp_path.glob("keys.db*"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Up"}, "name"),
        ({"name": "v1"}, "name"),
        ({"name": "demo"}, "name"),
        ({"kind": "other"}, "kind"),
        ({"base_url": "ftp://x.test"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "http://user:pass@x.test"}, "base_url"),
        ({"base_url": "http://169.254.169.254"}, "base_url"),
        ({"base_url": "http://metadata.google.internal/x"}, "base_url"),
        ({"base_url": "http://0.0.0.0:80"}, "base_url"),
        ({"base_url": "http://[::]:80"}, "base_url"),
        ({"base_url": "http://[::ffff:127.0.0.1]"}, "base_url"),
        ({"base_url": "http://2130706433"}, "base_url"),
        ({"base_url": "http://0x7f.1"}, "base_url"),
        ({"base_url": "http://127.1"}, "base_url"),
        ({"formats": ["klingon"]}, "formats"),
        ({"formats": "openai_chat"}, "formats"),
        ({"models": [1]}, "models"),
        ({"headers": {"Host": "x"}}, "headers"),
        ({"headers": {"A": "b\r\nc"}}, "headers"),
        ({"query": {"a": 1}}, "query"),
        ({"priority": True}, "priority"),
        ({"priority": -1}, "priority"),
        ({"enabled": "yes"}, "enabled"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_can_not_be_right_is_refused_and_named(database, changes, field):
    with pytest.raises(BadRequest) as refused:
        make(database).create({**LOCAL, **changes})
    assert refused.value.param == field


def test_a_name_is_given_once_and_never_changed(database):
    store = make(database)
    with pytest.raises(Conflict):
        store.create({**LOCAL, "name": "openai"})
    with pytest.raises(BadRequest):
        store.update("openai", {"name": "other"})


def test_an_entry_with_keys_is_not_deleted(database):
    store = make(database)
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO keys (key_value, key_hmac, provider) VALUES ('sealed', 'hmac', 'openai')"
        )
    with pytest.raises(Conflict, match="1 keys belong"):
        store.delete("openai")


def test_entries_of_the_environment_are_applied_at_each_start(database):
    environ = {"DATABRICKS_API_BASE": "https://w.example", "DATABRICKS_API_KEY": "dapi-0123456789abcdef"}
    store = make(database, **environ)
    entry = store.snapshot.by_name["databricks"]
    assert entry.base_url.startswith("https://w.example/serving-endpoints/")
    store = make(database, **{**environ, "DATABRICKS_API_BASE": "https://new.example"})
    assert store.snapshot.by_name["databricks"].base_url.startswith("https://new.example/")


def test_aliases_are_replaced_as_a_whole_and_checked(database):
    store = make(database)
    assert store.set_aliases({"fast": "gpt-5-mini"}) == {"fast": "gpt-5-mini"}
    assert store.snapshot.aliases == {"fast": "gpt-5-mini"}
    assert store.set_aliases({"smart": "anthropic/claude"}) == {"smart": "anthropic/claude"}
    for wrong in ({"a": ""}, {"a": 1}, {"": "b"}, {"a": "b", "b": "c"}, {"a": "a"}, {"a": "x\n"}):
        with pytest.raises(BadRequest):
            store.set_aliases(wrong)
    assert store.aliases() == {"smart": "anthropic/claude"}


def test_a_stored_kind_that_is_unknown_is_left_out_of_the_snapshot(database):
    store = make(database)
    with database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO providers (name, kind) VALUES ('odd', 'from-the-future')")
    store.refresh()
    assert "odd" not in store.snapshot.by_name
    assert store.get("odd")["effective"] is None


@pytest.mark.parametrize("name", ["chat", "messages", "files", "livez"])
def test_a_name_that_is_the_beginning_of_a_path_is_reserved(database, name):
    with pytest.raises(BadRequest, match="reserved"):
        make(database).create({**LOCAL, "name": name})


# -- two people at once -----------------------------------------------------------------------------------------


def test_a_change_over_somebody_elses_is_told_and_does_nothing(database):
    store = make(database)
    seen = store.create(LOCAL)
    store.update("local", {"priority": 7})
    with pytest.raises(Conflict) as told:
        store.update("local", {"priority": 9}, {"priority": seen["priority"]})
    assert told.value.param == "priority"
    assert store.get("local")["priority"] == 7


def test_changes_of_different_fields_do_not_disturb_each_other(database):
    store = make(database)
    seen = store.create({**LOCAL, "headers": {"x-a": "a-secret-value-123"}})
    store.update("local", {"priority": 7}, {"priority": seen["priority"]})
    store.update("local", {"enabled": False}, {"enabled": seen["enabled"], "headers": seen["headers"]})
    entry = store.get("local")
    assert (entry["priority"], entry["enabled"], entry["headers"]) == (7, False, seen["headers"])


def test_single_aliases_are_added_renamed_and_removed_beside_others(database):
    store = make(database)
    store.set_aliases({"fast": "gpt-5-mini", "big": "gpt-5"})
    assert store.change_aliases({"new": "openai/gpt-5"}) == {
        "big": "gpt-5",
        "fast": "gpt-5-mini",
        "new": "openai/gpt-5",
    }
    store.change_aliases({"fast": None, "quick": "gpt-5-mini"}, {"fast": "gpt-5-mini", "quick": None})
    assert store.aliases() == {"big": "gpt-5", "new": "openai/gpt-5", "quick": "gpt-5-mini"}


def test_an_alias_that_somebody_else_changed_is_left_alone(database):
    store = make(database)
    store.set_aliases({"fast": "gpt-5-mini"})
    for changes, expected in (
        ({"fast": None}, {"fast": "gpt-4"}),
        ({"fast": "gpt-5"}, {"fast": None}),
        ({"gone": "gpt-5"}, {"gone": "gpt-4"}),
    ):
        with pytest.raises(Conflict) as told:
            store.change_aliases(changes, expected)
        assert told.value.param == next(iter(changes))
    assert store.aliases() == {"fast": "gpt-5-mini"}


def test_a_single_alias_cannot_make_a_chain(database):
    store = make(database)
    store.set_aliases({"fast": "gpt-5-mini"})
    for changes in ({"quick": "fast"}, {"gpt-5-mini": "gpt-4"}, {"": "x"}, {"a\nb": "x"}):
        with pytest.raises(BadRequest):
            store.change_aliases(changes)
    assert store.aliases() == {"fast": "gpt-5-mini"}


def test_there_is_an_end_to_aliases(database):
    store = make(database)
    store.set_aliases({f"alias-{number}": "gpt-5" for number in range(1000)})
    with pytest.raises(BadRequest):
        store.change_aliases({"one-more": "gpt-5"})
