"""
Makes the document with flasgger: the application gives addresses and methods, the files beside this module the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flask import Flask
from werkzeug.routing import Rule

from app.admin.openapi import conventions
from app.formats import FORMATS
from app.providers import KINDS
from app.request_log import FAILED, FAILURES
from app.settings import SETTINGS, Setting
from app.version import VERSION

Json = dict[str, Any]

FOLDER: Final = Path(__file__).parent
#: The files, in the order in which the document shows them. An area of the application is called like its blueprint.
AREAS: Final = (
    "auth",
    "keys",
    "providers",
    "routing",
    "models",
    "aliases",
    "prices",
    "clients",
    "settings",
    "stats",
    "requests",
    "logs",
    "playground",
    "health",
)
#: The files of the dialects: their addresses are the proxy's, which has one route for all.
DIALECTS: Final = ("openai", "anthropic", "gemini")

_TYPES: Final[Mapping[str, str]] = {"choice": "string", "text": "string"}


def content_of(application: Flask) -> Json:
    """The OpenAPI document. Views that no file describes are left out."""
    # Imported here: it brings jsonschema, which only who reads the document should pay for.
    from flasgger import NO_SANITIZER, Swagger, swag_from

    areas = {name: read(name) for name in (*AREAS, *DIALECTS)}
    operations = _operations(application, areas)
    for endpoint, operation in operations.items():
        swag_from(operation)(application.view_functions[endpoint])
    swagger = Swagger(
        config={
            "openapi": "3.0.3",
            "headers": [],
            "specs": [{"endpoint": "apispec", "rule_filter": lambda rule: rule.endpoint in operations}],
        },
        template=_template(areas),
        sanitizer=NO_SANITIZER,
    )
    # Without `init_app` flasgger adds no route, no view of its own and no hook to the application.
    swagger.app = application
    with application.app_context():
        made: Json = swagger.get_apispecs("apispec")
    _say_it_for_readers(made, {operation["operationId"]: operation for operation in operations.values()})
    return made


def is_described(rule: Rule) -> bool:
    """Whether the document has to know this route."""
    return conventions.is_admin(rule.rule) or rule.endpoint.startswith("health.")


def read(name: str) -> Json:
    """What the file of this name says."""
    import yaml

    # The parser in C: the one that flasgger uses by itself takes ten times as long.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    read: Json = yaml.load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"), loader)  # noqa: S506
    return read


def _operations(application: Flask, areas: Mapping[str, Json]) -> dict[str, Json]:
    """Endpoint -> its operation, for every route that a file describes."""
    found = {}
    for rule in application.url_map.iter_rules():
        blueprint, _, view = rule.endpoint.rpartition(".")
        area = areas.get(blueprint.rpartition(".")[2], {})
        written = area.get("operations", {}).get(view)
        if written is None or not is_described(rule):
            continue
        method = min((rule.methods or set()) - {"HEAD", "OPTIONS"}).lower()
        if conventions.is_admin(rule.rule):
            found[rule.endpoint] = conventions.admin_operation(written, area["tag"], view, method)
        else:
            found[rule.endpoint] = conventions.open_operation(written, area["tag"], view)
    return found


def _template(areas: Mapping[str, Json]) -> Json:
    """The document without the application's own routes."""
    frame = read("frame")
    components = frame["components"]
    for area in areas.values():
        components["schemas"].update(area.get("schemas", {}))
    components["schemas"].update(_made_of_tables())
    components["responses"].update(conventions.proxy_error_responses())
    tags: dict[str, str] = {}
    for area in areas.values():
        tags[area["tag"]] = tags.get(area["tag"]) or area.get("description", "")
    paths: Json = {}
    for name in DIALECTS:
        paths.update(conventions.proxy_paths(areas[name]))
    return {
        "info": {**frame["info"], "version": VERSION},
        "servers": frame["servers"],
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "components": components,
        "paths": paths,
    }


def _say_it_for_readers(made: Json, written: Mapping[str, Json]) -> None:
    """flasgger takes a view's docstring, written for who reads the code, as its summary."""
    for item in made["paths"].values():
        for operation in item.values():
            if operation["operationId"] in written:
                operation.pop("description", None)
                texts = written[operation["operationId"]]
                operation.update({name: texts[name] for name in ("summary", "description") if name in texts})


# -- schemas made of the program's own tables --------------------------------------------------------


def _made_of_tables() -> Json:
    settings = {row.name: _setting(row) for row in SETTINGS}
    defaults = {row.name: row.default for row in SETTINGS}
    return {
        "ProviderKind": {"type": "string", "enum": [kind.name for kind in KINDS], "example": "openai"},
        "WireFormat": {"type": "string", "enum": [each.name for each in FORMATS], "example": "openai_chat"},
        "Verdict": {"type": "string", "enum": [FAILED, *FAILURES], "example": FAILED},
        "Settings": {
            "type": "object",
            "required": list(settings),
            "properties": settings,
            "example": defaults,
        },
        "SettingsSaved": {
            "type": "object",
            "required": ["success", "message", "settings"],
            "properties": {
                "success": {"type": "boolean", "enum": [True]},
                "message": {"type": "string"},
                "settings": {"$ref": "#/components/schemas/Settings"},
            },
            "example": {"success": True, "message": "Settings updated successfully", "settings": defaults},
        },
        "SettingsChange": {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": settings,
            "example": {"max_retries": 5},
        },
    }


def _setting(row: Setting) -> Json:
    schema: Json = {
        "type": _TYPES.get(row.kind, row.kind),
        "description": f"{row.help} Unit: {row.unit}." if row.unit else row.help,
        "default": row.default,
    }
    limits = {"minimum": row.minimum, "maximum": row.maximum, "enum": list(row.choices) or None}
    return schema | {name: limit for name, limit in limits.items() if limit is not None}
