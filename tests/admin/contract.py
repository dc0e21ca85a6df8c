"""What the OpenAPI document promises, held against answers."""

from __future__ import annotations

import json
from typing import Any

from openapi_schema_validator import OAS30Validator, oas30_format_checker
from werkzeug.test import TestResponse

Json = dict[str, Any]


class Contract:
    """
    Checks values against schemas of the document. Stricter than a client has to be: an object may have only the members
    that its schema names, unless the schema says what others may be.
    """

    def __init__(self, content: Json) -> None:
        self._content = content

    def resolve(self, part: Json) -> Json:
        """`part`, or what it refers to."""
        while "$ref" in part:
            found: Any = self._content
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part

    def examples(self, media: Json) -> list[Any]:
        """The examples of a body, or of the schema that it refers to."""
        if "examples" in media:
            return [each["value"] for each in media["examples"].values()]
        if "example" in media:
            return [media["example"]]
        schema = self.resolve(media["schema"])
        return [schema["example"]] if "example" in schema else []

    def faults(self, schema: Json, value: Any) -> list[str]:
        """What is wrong with `value`, in sentences."""
        validator = OAS30Validator(self._closed(schema), format_checker=oas30_format_checker)
        return [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for error in validator.iter_errors(value)
        ]

    def check(self, path: str, answer: TestResponse) -> list[str]:
        """What is wrong with an answer to a call of `path` as the document writes it."""
        operation = self._content["paths"][path][answer.request.method.lower()]
        described = operation["responses"].get(str(answer.status_code))
        if described is None:
            return [f"the status {answer.status_code} is not documented"]
        media = self.resolve(described)["content"].get(answer.mimetype)
        if media is None:
            return [f"the content type {answer.mimetype} is not documented"]
        return self.faults(media["schema"], json.loads(answer.data))

    def _closed(self, schema: Any) -> Any:
        """The schema with its references put in, and no members beyond those that are named."""
        if isinstance(schema, list):
            return [self._closed(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        whole = self.resolve(schema)
        closed = {name: part if name in ("example", "enum") else self._closed(part) for name, part in whole.items()}
        if isinstance(whole.get("properties"), dict) and whole.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        return closed
