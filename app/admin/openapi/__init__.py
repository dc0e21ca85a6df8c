"""
The OpenAPI document of everything that this server answers, made once for each application at its first use.

What flasgger reads of the application (addresses and methods) meets what the files beside this module say of each view
(`<blueprint>.yml`): see `describe`. What all operations have in common is not written there but added by `conventions`.

To describe a new admin call: its view's name below `operations` of the file that is called like its blueprint. For a
new blueprint: a new file, and its name in `describe.AREAS`.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Flask

from app.admin.openapi import describe

_KEPT = "openapi"
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class Document:
    """
    body  -- `content` as JSON
    etag  -- of the body, without quotation marks
    """

    content: dict[str, Any]
    body: bytes
    etag: str


def document(application: Flask) -> Document:
    """The document of this application, which must have all its routes."""
    found: Document | None = application.extensions.get(_KEPT)
    if found is not None:
        return found
    with _making:
        if _KEPT not in application.extensions:
            application.extensions[_KEPT] = _made(application)
    made: Document = application.extensions[_KEPT]
    return made


def _made(application: Flask) -> Document:
    content = describe.content_of(application)
    body = orjson.dumps(content)
    return Document(content, body, hashlib.sha256(body).hexdigest()[:32])
