"""
What is said about bytes that never became a request: no dialect is known, so the body has a shape that every SDK reads.
Pure.
"""

from __future__ import annotations

from http import HTTPStatus

from app.formats import json_body


def refusal_body(status: int, message: str) -> bytes:
    """JSON with the members that OpenAI, Anthropic and Gemini clients look for."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    error = {"type": kind, "code": status, "message": message, "status": "INVALID_ARGUMENT"}
    return json_body.dumps({"type": "error", "error": error})


def refusal(status: int, message: str) -> bytes:
    """The same as a whole HTTP/1.1 answer that ends its connection."""
    body = refusal_body(status, message)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
