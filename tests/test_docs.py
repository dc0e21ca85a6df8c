"""The documents say what is so: every variable, setting, error code and link in them exists, and none is missing."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from app import errors
from app.admin import openapi
from app.admin.openapi import describe
from app.config import BASE_URL_VARIABLES, KEY_VARIABLES, Config
from app.settings import SETTINGS
from tests.admin.build import Middleware

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "bench/README.md", *(ROOT / "docs").rglob("*.md")]
)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def variables():
    """Names that the configuration reads: string constants of its module that look like variables."""
    module = ast.parse(read("app/config.py"))
    constants = {
        node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    spelled = {
        name
        for name in constants
        if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|HOST|PORT|THREADS|DRIVER|COMPILED", name)
    }
    return spelled | set(BASE_URL_VARIABLES.values())


def error_classes(base=errors.MiddlewareError):
    yield base
    for found in base.__subclasses__():
        if found.__module__ == errors.__name__:
            yield from error_classes(found)


def documented_errors():
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", proxy_part(read("docs/errors.md")), re.MULTILINE)
    return {(int(status), code) for status, code in rows}


def described_views(area):
    return describe.read(area).get("operations", {})


def proxy_part(text):
    return text.partition("## Errors of the admin API")[0]


def codes_given_where_raised():
    """Codes that a module gives to an error instead of its class's own: every `code="..."` of a call."""
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                yield node.value.value


def test_every_variable_is_in_the_reference_and_in_the_example():
    known = variables()
    assert {"MIDDLEWARE_PASSWORD", "DB_PATH"} | set(KEY_VARIABLES["openai"]) <= known
    for name in ("docs/configuration.md", ".env.example"):
        text = read(name)
        missing = {variable for variable in known if not re.search(rf"\b{variable}\b", text)} - {"NODE_ENV"}
        assert not missing, f"{name} does not name {missing}"


def test_the_values_shown_in_the_example_are_accepted_and_are_the_defaults():
    lines = re.findall(r"^#([A-Z_]+)=(.+)$", read(".env.example"), re.MULTILINE)
    whole = {name: value for name, value in lines if not name.startswith(("DATABASE_", "DATABRICKS_", "AZURE_"))}

    shown, default = Config.from_env(whole), Config.from_env({})

    kept = ("host", "port", "client_auth", "database_url", "environment", "log_level", "workers", "threads", "driver")
    for name in kept:
        assert getattr(shown, name) == getattr(default, name), name
    assert (shown.graceful_timeout_s, shown.run_dir) == (default.graceful_timeout_s, default.run_dir)
    defaults = {row.name: row.default for row in SETTINGS}
    assert all(str(defaults[name]) == value for name, value in shown.setting_overrides.items())


def test_every_live_setting_is_documented_with_its_default():
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `?([^`|]*?)`? \|", read("docs/configuration.md"), re.MULTILINE))
    expected = {row.name: str(row.default).lower() if row.kind == "boolean" else str(row.default) for row in SETTINGS}
    assert rows == expected


def test_every_error_code_is_documented_with_its_status():
    raised = {(error.status, error.code) for error in error_classes() if "code" in vars(error)}
    documented = documented_errors()
    assert raised <= documented, "not documented"
    elsewhere = set(codes_given_where_raised())
    assert {code for _, code in documented - raised} <= elsewhere, "documented, but no such error"


def test_every_code_given_where_an_error_is_raised_is_documented():
    shown = set(re.findall(r"`([a-z_]+)`", read("docs/errors.md")))
    assert set(codes_given_where_raised()) <= shown


def test_every_admin_call_is_in_the_openapi_document_and_every_call_there_exists(tmp_path):
    with Middleware(tmp_path) as running:
        application = running.app
        written = {name: described_views(name) for name in describe.AREAS}
        described = openapi.document(application).content["paths"]
    rules = [rule for rule in application.url_map.iter_rules() if describe.is_described(rule)]
    for rule in rules:
        path = re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            area = rule.endpoint.split(".")[-2]
            assert method.lower() in described.get(path, {}), (
                f"{method} {path} ({rule.endpoint}) is not described: see `operations` in app/admin/openapi/{area}.yml"
            )
    exist = {tuple(rule.endpoint.split(".")[-2:]) for rule in rules}
    missing = {(area, view) for area, views in written.items() for view in views} - exist
    assert not missing, "described in app/admin/openapi, but there is no such view"
    assert set(describe.AREAS) | set(describe.DIALECTS) | {"frame"} == {
        path.stem for path in (ROOT / "app/admin/openapi").glob("*.yml")
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), target


def test_the_python_examples_compile():
    blocks = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readme_begins_with_the_two_commands():
    begin = read("README.md").splitlines()[:6]
    assert [line.split("#")[0].strip() for line in begin if line.startswith("make")] == ["make run", "make test"]


def test_make_lists_its_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([\w-]+)", shown, re.MULTILINE)) == set(
        [
            "run",
            "test",
            "compile",
            "check",
            "screenshots",
            "soak",
            "lint",
            "types",
            "format",
            "migrate",
            "bench",
            "bench-all",
            "bench-pages",
            "clean",
            "help",
        ]
    )
