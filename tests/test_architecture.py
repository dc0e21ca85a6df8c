"""The house stands: who may import whom, who may know which library, and how large a piece may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "app").rglob("*.py"))
#: A program of its own that sees the product from outside.
BENCHMARK = sorted((ROOT / "bench").glob("*.py"))

#: Layers, lowest first. A module may import modules of its own layer and of those below it.
#: The longest matching name decides; a module without a place fails.
LAYERS = [
    {"app.errors", "app.clock", "app.histograms", "app.version", "app.records"},
    {"app.config", "app.settings", "app.formats", "app.keys.base", "app.redaction"},
    {"app.providers"},
    {"app.keys", "app.provider_checks", "app.counting"},
    {
        "app.proxy.admission",
        "app.proxy.attempts",
        "app.proxy.body",
        "app.proxy.book",
        "app.proxy.collation",
        "app.proxy.cors",
        "app.proxy.deadlines",
        "app.proxy.decoding",
        "app.proxy.events",
        "app.proxy.exchange",
        "app.proxy.gateway",
        "app.proxy.headers",
        "app.proxy.http1",
        "app.proxy.incoming",
        "app.proxy.model_lists",
        "app.proxy.outlet",
        "app.proxy.readers",
        "app.proxy.routing",
        "app.proxy",
        "app.provider_requests",
    },
    {"app.storage", "app.vault", "app.shared"},
    {
        "app.settings_store",
        "app.keys.manager",
        "app.keys.live",
        "app.keys.store",
        "app.keys.writes",
        "app.keys.sessions",
        "app.keys.ledger",
        "app.keys.fields",
        "app.clients",
        "app.provider_store",
        "app.price_store",
        "app.auth_store",
        "app.limits",
        "app.telemetry",
        "app.live_log",
        "app.live_feed",
        "app.shapes",
        "app.rollups",
        "app.totals",
        "app.usage",
        "app.booking",
        "app.request_log",
        "app.usage_queries",
        "app.rollup_queries",
        "app.retention",
        "app.health",
    },
    {"app.demo"},
    {
        "app.proxy.upstream",
        "app.proxy.link",
        "app.proxy.relay",
        "app.proxy.adapters",
        "app.lifecycle",
        "app.edge",
        "app.provider_calls",
        "app.model_offers",
        "app.key_tests",
    },
    {"app.context", "app.demonstration"},
    {"app.auth", "app.admin", "app.proxy.routes"},
    {"app.assembly"},
    {"app"},
    {"app.server"},
]

#: Pure: no I/O, no clock, no framework.
PURE = (
    "app.errors",
    "app.settings",
    "app.formats",
    "app.providers",
    "app.provider_checks",
    "app.records",
    "app.histograms",
    "app.counting",
    "app.keys.base",
    "app.keys.rotation",
    "app.keys.ring",
    "app.keys.preview",
    "app.keys.unwell",
    "app.keys.states",
    "app.keys.verdicts",
    "app.keys.verdict_effects",
    "app.keys.verdict_tables",
    "app.keys.error_bodies",
    "app.keys.resets",
    "app.admin.openapi.conventions",
    *(name for name in LAYERS[4] if name not in ("app.proxy",)),
)
IMPURE_LIBRARIES = {
    "flask",
    "werkzeug",
    "sqlalchemy",
    "urllib3",
    "requests",
    "gunicorn",
    "socket",
    "select",
    "threading",
    "subprocess",
    "sqlite3",
    "os",
    "time",
    "logging",
}

#: Library -> the modules (or packages) that alone may know it.
WALLS = {
    "flask": ("app", "app.auth", "app.admin", "app.proxy.routes"),
    "werkzeug": ("app", "app.auth", "app.admin", "app.proxy.routes"),
    "sqlalchemy": (
        "app.storage",
        "app.settings_store",
        "app.keys.store",
        "app.keys.writes",
        "app.keys.sessions",
        "app.keys.manager",
        "app.keys.live",
        "app.clients",
        "app.provider_store",
        "app.price_store",
        "app.auth_store",
        "app.live_log",
        "app.live_feed",
        "app.totals",
        "app.usage",
        "app.request_log",
        "app.usage_queries",
        "app.rollup_queries",
        "app.retention",
    ),
    "alembic": ("app.storage",),
    "pysqlite3": ("app.storage",),
    "urllib3": ("app.proxy.upstream",),
    "requests": ("app.provider_calls",),
    "httptools": ("app.proxy.http1", "app.server.requests"),
    "gunicorn": ("app.server",),
    "prometheus_client": ("app.telemetry.metrics", "app.telemetry.series"),
    "cryptography": ("app.vault",),
    "flasgger": ("app.admin.openapi",),
    "yaml": ("app.admin.openapi",),
}

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Absolute names of what a module imports, also inside functions, but not what only type checkers see."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")}
    return found


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer_of(name: str) -> int | None:
    """The place of a module: that of the longest name in LAYERS that is it or contains it."""
    candidates = [
        (len(entry), number)
        for number, layer in enumerate(LAYERS)
        for entry in layer
        if name == entry or (entry != "app" and name.startswith(entry + "."))
    ]
    return max(candidates)[1] if candidates else None


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or (place != "app" and name.startswith(place + ".")) for place in places)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_a_place_and_imports_nothing_above_it(path):
    name = name_of(path)
    own = layer_of(name)
    assert own is not None, f"{name} has no place in LAYERS: decide where it belongs"
    above = sorted(
        imported
        for imported in imports_of(path)
        if imported.startswith("app.") and is_module(imported) and (layer_of(imported) or 0) > own
    )
    assert not above, f"{name} imports what lies above it: {above}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_library_is_known_only_where_it_may_be(path):
    name = name_of(path)
    for imported in imports_of(path):
        library = imported.split(".")[0]
        places = WALLS.get(library)
        assert places is None or within(name, places), f"{name} must not know {library}"


@pytest.mark.parametrize("path", [path for path in MODULES if within(name_of(path), PURE)], ids=name_of)
def test_a_pure_module_does_no_io_and_reads_no_clock(path):
    libraries = {imported.split(".")[0] for imported in imports_of(path)}
    assert not libraries & IMPURE_LIBRARIES


@pytest.mark.parametrize("path", BENCHMARK, ids=name_of)
def test_the_benchmark_knows_nothing_of_the_inside(path):
    assert not {imported for imported in imports_of(path) if imported.split(".")[0] in ("app", "main", "tests")}


@pytest.mark.parametrize("path", [*MODULES, *BENCHMARK], ids=name_of)
def test_a_module_says_what_it_is_and_stays_small(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    if ".versions." in name_of(path):
        return  # a migration is a frozen list of tables
    assert text.count("\n") < MAX_MODULE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"


def test_nothing_catches_everything_below_the_top():
    """A broad `except` hides defects; where one is right, it says why on its own line."""
    for path in [*MODULES, *BENCHMARK]:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if "except Exception" in line or "except BaseException" in line:
                explained = "#" in line or any(part.strip() == "raise" for part in lines[number : number + 4])
                assert explained, f"{name_of(path)}:{number + 1}"
