"""
Static files, whole and from memory. Everybody may ask for them: a file that was read while its client reads would hold
a thread of the administration for as long as that client likes, and a copy for each client would fill the memory.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from flask import Response, current_app, request

#: More than there are files.
_MOST_FILES = 256


def static_file(filename: str) -> Response:
    """The view of the endpoint `static`. A part of a file (`Range`) is never asked for here, and not given."""
    request.environ.pop("HTTP_RANGE", None)
    response = current_app.send_static_file(filename)
    if response.status_code == 200 and request.method == "GET":
        path = Path(current_app.static_folder or "") / filename
        found = path.stat()
        file, response.direct_passthrough = response.response, False
        response.response = [_content(os.fspath(path), found.st_mtime_ns, found.st_size)]
        getattr(file, "close", lambda: None)()
        response.content_length = found.st_size
    response.headers.pop("Accept-Ranges", None)
    return response


@functools.lru_cache(maxsize=_MOST_FILES)
def _content(path: str, _modified_ns: int, _size: int) -> bytes:
    """The same object for all who ask."""
    return Path(path).read_bytes()
