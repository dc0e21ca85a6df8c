"""
One upstream answer as it comes in: its status, its encoding, the reader for its body. Whatever happens to it comes out
as Progress: bytes for the caller, an ending, or the failure of the attempt. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from app.formats.base import Call
from app.keys.base import Failure, Phase
from app.proxy.decoding import Decoder, DecodingFailed, Identity, decoder
from app.proxy.events import Headers, UpstreamHead
from app.proxy.headers import for_client, lowered
from app.proxy.passing import Flow
from app.proxy.readers import Ending, Progress, RawReader, Reader, StreamReader, choose

#: How much of an upstream's error body is read.
MAX_ERROR_BYTES = 64 * 1024
#: Output of one compressed answer may grow to this.
MAX_DECODED_BYTES = 1 << 30
#: And to so many times its size: JSON and event streams shrink 5 to 40 times, a bomb 1000 times.
MAX_DECODED_RATIO = 200


class Incoming:
    """
    headers  -- the answer's, lower-case names
    refused  -- the status is not 2xx: its body is an error and goes nowhere but to the verdict
    reader   -- what becomes of a 2xx body
    """

    def __init__(self, head: UpstreamHead, *, head_only: bool) -> None:
        self.status = head.status
        self.headers = lowered(head.headers)
        self.refused = not 200 <= head.status < 300
        self.reader: Reader = RawReader()
        self._head_only = head_only
        self._clean: Callable[[bytes], bytes] = bytes
        self._decoder: Decoder | None = None
        self._error = bytearray()

    def begin(
        self, call: Call, max_buffered: int, rename: str | None, strip_usage: bool, clean: Callable[[bytes], bytes]
    ) -> Progress:
        """What the head alone decides."""
        self._clean = clean
        encoding = self.headers.get("content-encoding", "")
        if self.refused:
            self._decoder = _tolerant(encoding)
            return self._error_complete() if self.status < 400 or self._head_only else Progress()
        if self._head_only:
            return Progress(ending=Ending.COMPLETE)
        try:
            self._decoder = decoder(encoding, MAX_DECODED_BYTES, MAX_DECODED_RATIO)
        except DecodingFailed:
            return Progress(failure=Failure(Phase.BODY, self.status, {}, b"", "content_encoding"))
        self.reader = choose(
            call,
            self.headers.get("content-type", ""),
            max_buffered=max_buffered,
            rename=rename,
            strip_usage=strip_usage,
            clean=clean,
        )
        return Progress()

    def feed(self, data: bytes) -> Progress:
        if self.refused:
            self._error += data
            return self._error_complete() if len(self._error) >= MAX_ERROR_BYTES else Progress()
        try:
            decoded = self._decoder.feed(data) if self._decoder is not None else data
        except DecodingFailed:
            return self.broken("content_encoding")
        return self.reader.feed(decoded) if decoded else Progress()

    def resume(self, flow: Flow, clean: Callable[[bytes], bytes]) -> None:
        """Go on with a stream of events that was passed on elsewhere so far."""
        self._clean, self._decoder = clean, Identity()
        reader = StreamReader(flow.call, rename=flow.rename, strip_usage=flow.strip_usage, clean=clean)
        reader.resume(flow.watcher)
        self.reader = reader

    def end(self) -> Progress:
        """The body ended cleanly."""
        if self.refused:
            return self._error_complete()
        try:
            if self._decoder is not None:
                self._decoder.end()
        except DecodingFailed:
            return self.broken("content_encoding")
        return self.reader.end()

    def broken(self, error: str) -> Progress:
        """The connection failed in the middle. A stream whose finish was seen is complete all the same."""
        if self.refused:
            return self._error_complete()
        if isinstance(self.reader, StreamReader):
            return self.reader.end()
        if self.reader.committed:
            return Progress(ending=Ending.CUT)
        return Progress(failure=Failure(Phase.BODY, self.status, {}, b"", error))

    def silent(self) -> Progress:
        """Nothing came for too long."""
        if self.reader.committed:
            return Progress(ending=Ending.CUT)
        return Progress(failure=Failure(Phase.BODY, 0, {}, b"", "idle_timeout"))

    def settle(self) -> None:
        """The answer will not go on: keep what is known of its usage."""
        if isinstance(self.reader, StreamReader):
            self.reader.settle()

    def answer_headers(self) -> Headers:
        """The headers that the caller gets. One that holds a secret stays here."""
        headers = for_client(self.headers)
        values = "\n".join(value for _, value in headers).encode("latin-1", "replace")
        if self._clean(values) != values:
            headers = [(name, value) for name, value in headers if self._is_clean(value)]
        if self.reader.content_type is not None:
            headers = [(name, value) for name, value in headers if name.lower() != "content-type"]
            headers.append(("Content-Type", self.reader.content_type))
        if self.reader.streams and not self._head_only:
            headers += [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
        return headers

    def _is_clean(self, value: str) -> bool:
        data = value.encode("latin-1", "replace")
        return self._clean(data) == data

    def named_length(self) -> int | None:
        """The body's length where the upstream named one and the bytes pass as they are."""
        length = self.headers.get("content-length", "")
        changed = "content-encoding" in self.headers or isinstance(self.reader, StreamReader)
        return int(length) if _is_number(length) and not changed and self.reader.content_type is None else None

    def _error_complete(self) -> Progress:
        try:
            body = self._decoder.feed(bytes(self._error[:MAX_ERROR_BYTES])) if self._decoder is not None else b""
        except DecodingFailed:
            body = b""
        return Progress(failure=Failure(Phase.HEAD, self.status, self.headers, body))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _tolerant(encoding: str) -> Decoder | None:
    """The decoder of an error body; None when there is none, and the status must say it all."""
    try:
        return decoder(encoding, MAX_ERROR_BYTES)
    except DecodingFailed:
        return None
