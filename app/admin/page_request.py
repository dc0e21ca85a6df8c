"""Requests whose forms have no more fields than a page of ours sends: each costs far more memory than its bytes."""

from __future__ import annotations

import io
from typing import IO, Final

from flask import Request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

#: As many as a person ticks boxes of, and many more. Multipart forms have a limit of Flask's.
MAX_FIELDS: Final = 20_000

_Parsed = tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]


class BoundedForms(FormDataParser):
    """Raises RequestEntityTooLarge for a form of too many fields."""

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> _Parsed:
        if mimetype == "application/x-www-form-urlencoded":
            data = stream.read()
            if data.count(b"&") >= MAX_FIELDS:
                raise RequestEntityTooLarge(f"A form has at most {MAX_FIELDS} fields.")
            stream = io.BytesIO(data)
        return super().parse(stream, mimetype, content_length, options)


class PageRequest(Request):
    form_data_parser_class = BoundedForms
