"""Gemini: what a request must be, what its answers and streams say in either framing, how errors look to its SDK."""

from __future__ import annotations

import base64
import json

import orjson
import pytest
from google.genai.types import GenerateContentResponse
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.errors import BadRequest
from app.formats import json_array, sse
from app.formats.base import Call, Edits, Framing, Mark, Match, Operation, StreamWatcher, Usage
from app.formats.gemini import Gemini, with_model
from app.formats.gemini_state import PLACEHOLDER

FORMAT = Gemini()
BODY = b'{"contents": [{"parts": [{"text": "hi"}]}]}'
GENERATE = "/v1beta/models/gemini-x:generateContent"
STREAM = "/v1beta/models/gemini-x:streamGenerateContent"


def match(path: str, method: str = "POST") -> Match:
    for endpoint in FORMAT.endpoints:
        found = endpoint.pattern.fullmatch(path)
        if found and method in endpoint.methods:
            return Match(FORMAT, endpoint, path, found.groupdict().get("model"))
    raise AssertionError(f"{method} {path} is nobody's")


def read(
    body: object = BODY,
    path: str = GENERATE,
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read(match(path, method), headers or {}, query, raw)


def contents(*parts: object) -> dict[str, object]:
    return {"contents": [{"role": "model", "parts": list(parts)}]}


def chunk(*parts: object, **more: object) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if "finishReason" in more:
        candidate["finishReason"] = more.pop("finishReason")
    return {"candidates": [candidate], "modelVersion": "gemini-x-001", **more}


def framed(chunks: list[dict[str, object]], framing: Framing) -> list[bytes]:
    """The chunks as an upstream sends them, cut into events."""
    if framing is Framing.SSE:
        return [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in chunks]
    return json_array.Splitter().feed(b"[" + b"\r\n,\r\n".join(json.dumps(one).encode() for one in chunks) + b"\n]\n")


def watch(events: list[bytes], framing: Framing = Framing.SSE) -> tuple[list[Mark], StreamWatcher]:
    call = read(path=STREAM, query="alt=sse" if framing is Framing.SSE else "")
    watcher = FORMAT.watcher(call)
    return [watcher.watch(event) for event in events], watcher


both = pytest.mark.parametrize("framing", list(Framing))


# -- URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
@pytest.mark.parametrize(
    ("verb", "operation"),
    [
        ("generateContent", Operation.GENERATE),
        ("streamGenerateContent", Operation.GENERATE),
        ("countTokens", Operation.COUNT),
        ("embedContent", Operation.EMBED),
        ("batchEmbedContents", Operation.EMBED),
        ("batchGenerateContent", Operation.OTHER),
        ("predict", Operation.OTHER),
        ("predictLongRunning", Operation.OTHER),
        ("generateAnswer", Operation.OTHER),
    ],
)
def test_the_verbs_of_a_model_are_recognised(version, verb, operation):
    found = match(f"/{version}/models/gemini-x:{verb}")

    assert (found.endpoint.operation, found.model) == (operation, "gemini-x")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("models/a/b:c@1:free", "a/b:c@1:free"),
        ("models/models/gemini-x", "gemini-x"),
        ("models/x:generateContent", "x:generateContent"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
    ],
)
def test_the_last_colon_separates_the_verb_from_the_model(name, model):
    assert match(f"/v1beta/{name}:generateContent").model == model
    assert read(path=f"/v1beta/{name}:generateContent").model == model


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("GET", "/v1/models", Operation.MODELS),
        ("HEAD", "/v1beta/models/gemini-x", Operation.MODELS),
        ("POST", "/v1beta/cachedContents", Operation.OTHER),
        ("PATCH", "/v1beta/cachedContents/x", Operation.OTHER),
        ("POST", "/upload/v1beta/files", Operation.OTHER),
        ("GET", "/download/v1beta/files/x:download", Operation.OTHER),
        ("GET", "/v1beta/models/veo-3/operations/op1", Operation.OTHER),
        ("GET", "/v1beta/operations/op1", Operation.OTHER),
        ("POST", "/v1beta/batches/b1:cancel", Operation.OTHER),
        ("POST", "/v1beta/fileSearchStores/s1:importFile", Operation.OTHER),
        ("POST", "/upload/v1beta/fileSearchStores/s1:uploadToFileSearchStore", Operation.OTHER),
        ("GET", "/v1beta/tunedModels/t1", Operation.OTHER),
        ("POST", "/v1beta/interactions", Operation.GENERATE),
        ("GET", "/v1/interactions/i1", Operation.OTHER),
        ("POST", "/v1/interactions/i1/cancel", Operation.OTHER),
        ("POST", "/v1beta/files:register", Operation.OTHER),
    ],
)
def test_the_other_urls_of_the_api_are_recognised(method, path, operation):
    assert match(path, method).endpoint.operation is operation


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/models/:generateContent",
        "/v1beta/models/x:execute",
        "/v2/models/x:predict",
        "/v1beta/models/../x:predict",
    ],
)
def test_paths_of_no_known_shape_are_nobodys(path):
    with pytest.raises(AssertionError):
        match(path)


def test_a_model_is_replaced_in_the_path_and_nowhere_else():
    assert with_model("/v1beta/models/a/b:c:countTokens", "new") == "/v1beta/models/new:countTokens"
    assert with_model("/v1/models/old:generateContent", "models/new") == "/v1/models/new:generateContent"
    assert with_model("/v1beta/tunedModels/t:generateContent", "new") == "/v1beta/models/new:generateContent"
    assert with_model("/v1beta/models/old:generateContent", "tunedModels/t") == "/v1beta/tunedModels/t:generateContent"
    assert with_model("/v1beta/files/x:download", "new") == "/v1beta/files/x:download"


# -- requests -----------------------------------------------------------------------------------------


def test_a_request_keeps_its_bytes_and_takes_its_model_from_the_path():
    call = read()

    assert call.body is BODY
    assert (call.model, call.stream, call.hints) == ("gemini-x", False, ())
    assert FORMAT.edit(call, Edits(model="other", stream=True)) is BODY


@pytest.mark.parametrize(
    ("query", "framing"),
    [
        ("alt=sse", Framing.SSE),
        ("key=k&alt=sse", Framing.SSE),
        ("$alt=sse", Framing.SSE),
        ("%24alt=sse", Framing.SSE),
        ("", Framing.JSON_ARRAY),
        ("alt=json", Framing.JSON_ARRAY),
        ("alt=ssex", Framing.JSON_ARRAY),
    ],
)
def test_the_query_decides_how_a_stream_is_framed(query, framing):
    call = read(path=STREAM, query=query)

    assert call.stream
    assert call.match.endpoint.framing is framing
    assert match(STREAM).endpoint.framing is Framing.SSE


@pytest.mark.parametrize("body", [{}, {"contents": []}, {"contents": "hi"}, {"contents": None}])
@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent", "countTokens"])
def test_missing_contents_are_refused_by_name(body, verb):
    with pytest.raises(BadRequest, match="contents") as caught:
        read(body, f"/v1beta/models/x:{verb}")
    assert caught.value.param == "contents"


def test_a_single_content_object_is_enough():
    assert read({"contents": {"parts": {"text": "hi"}}}).model == "gemini-x"


@pytest.mark.parametrize("name", ["generateContentRequest", "generate_content_request"])
def test_counting_may_wrap_the_request(name):
    body = {name: {"model": "models/gemini-x", "contents": [{"parts": [{"text": "hi"}]}]}}

    call = read(body, "/v1beta/models/gemini-x:countTokens")

    assert orjson.loads(FORMAT.edit(call, Edits(model="new")))[name]["model"] == "models/new"
    assert FORMAT.edit(call, Edits(model="gemini-x")) is call.body


def test_an_openai_or_anthropic_body_is_told_where_it_belongs():
    with pytest.raises(BadRequest, match="OpenAI or Anthropic body"):
        read({"messages": [{"role": "user", "content": "hi"}]})


def test_embeddings_ask_for_their_content():
    assert read({"content": {"parts": []}}, "/v1beta/models/e:embedContent").model == "e"
    for verb, param in (("embedContent", "content"), ("batchEmbedContents", "requests")):
        with pytest.raises(BadRequest) as caught:
            read({}, f"/v1beta/models/e:{verb}")
        assert caught.value.param == param


def test_a_new_model_is_written_wherever_an_embedding_repeats_it():
    call = read(
        b'{"requests": [{"model":"models/e","content":{}},{"content":{}}] ,"x": 1.0}',
        "/v1beta/models/e:batchEmbedContents",
    )

    edited = FORMAT.edit(call, Edits(model="new"))

    assert edited == b'{"requests": [{"model":"models/new","content":{}},{"content":{}}] ,"x": 1.0}'
    single = read(b'{"model": "models/e", "content": {"a": 1.0}}', "/v1beta/models/e:embedContent")
    assert FORMAT.edit(single, Edits(model="new")) == b'{"model": "models/new", "content": {"a": 1.0}}'


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"contents": [{}], "tools": [], "tools": []}'])
def test_a_body_that_is_no_single_object_is_refused(body):
    with pytest.raises(BadRequest):
        read(body)


def test_an_upload_is_not_parsed():
    call = read(b"\x89PNG", "/upload/v1beta/files")

    assert (call.json, call.stream, call.hints) == (None, False, ())


# -- sessions -----------------------------------------------------------------------------------------


def keys(call: Call, *, bound: bool = True) -> list[str]:
    return [hint.key for hint in call.hints if hint.bound is bound]


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_a_cache_is_bound_to_its_key(name):
    assert keys(read({**contents({"text": "hi"}), name: "cachedContents/c"})) == ["res:cachedContents/c"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://generativelanguage.googleapis.com/v1beta/files/f-1", ["res:files/f-1"]),
        ("http://127.0.0.1:5000/v1beta/files/f-1", ["res:files/f-1"]),
        ("files/f-1", ["res:files/f-1"]),
        ("https://example.com/files/f-1", []),
        ("https://www.youtube.com/watch?v=/v1beta/files/f-1", []),
        ("gs://bucket/files/f-1", []),
    ],
)
@pytest.mark.parametrize("names", [("fileData", "fileUri"), ("file_data", "file_uri")])
def test_a_file_of_the_files_api_is_bound_to_its_key(uri, expected, names):
    outer, inner = names

    assert keys(read(contents({outer: {inner: uri}}))) == expected
    nested = {"functionResponse": {"name": "f", "response": {}, "parts": [{outer: {inner: uri}}]}}
    assert keys(read(contents(nested))) == expected


def test_a_later_request_finds_the_key_that_made_its_signature():
    signature = base64.b64encode(bytes(range(240, 256)) * 3 + b"x").decode()
    assert {"+", "/", "="} <= set(signature)
    answer = chunk({"functionCall": {"name": "f"}, "thoughtSignature": signature}, finishReason="STOP")

    made = FORMAT.resource_ids(read(), answer)
    _, watcher = watch(framed([chunk({"text": "a"}), answer], Framing.SSE))
    url_form = base64.urlsafe_b64encode(base64.b64decode(signature)).decode()

    assert len(made) == 1
    assert watcher.state.resource_ids == made
    for again in (signature, url_form, url_form.rstrip("=")):
        assert keys(read(contents({"functionCall": {"name": "f"}, "thoughtSignature": again}))) == made
        assert keys(read(contents({"functionCall": {"name": "f"}, "thought_signature": again}))) == made


def test_only_the_first_signature_of_a_request_counts():
    one, two = (keys(read(contents({"text": "", "thoughtSignature": value}))) for value in ("AAAA", "BBBB"))
    both_parts = [{"text": "", "thoughtSignature": value} for value in ("AAAA", "BBBB")]

    assert one != two
    assert keys(read(contents(*both_parts))) == one


@pytest.mark.parametrize("value", [PLACEHOLDER, base64.b64encode(PLACEHOLDER.encode()).decode()])
def test_the_placeholder_is_no_signature(value):
    call = read(contents({"functionCall": {}, "thoughtSignature": value}))

    assert call.hints == ()
    assert FORMAT.strip_bound_state(call) is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1beta/files/f1", "files/f1"),
        ("/download/v1beta/files/f1:download", "files/f1"),
        ("/v1beta/cachedContents/c1", "cachedContents/c1"),
        ("/v1beta/models/veo-3/operations/o1", "models/veo-3/operations/o1"),
        ("/v1beta/batches/b1:cancel", "batches/b1"),
        ("/v1beta/fileSearchStores/s1/documents/d1", "fileSearchStores/s1"),
        ("/v1beta/interactions/i1", "interactions/i1"),
    ],
)
def test_the_path_of_a_resource_is_a_bound_hint(path, key):
    assert keys(read(b"", path, method="GET")) == [f"res:{key}"]


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ({"file": {"name": "files/f1", "uri": "https://x"}}, "files/f1"),
        ({"name": "cachedContents/c1"}, "cachedContents/c1"),
        ({"name": "batches/b1", "metadata": {}}, "batches/b1"),
        ({"name": "models/veo-3/operations/o1"}, "models/veo-3/operations/o1"),
    ],
)
def test_what_an_answer_creates_is_found_again_by_a_later_request(answer, key):
    call = read(b"{}", "/v1beta/cachedContents")

    assert FORMAT.resource_ids(call, answer) == [f"res:{key}"]


def test_a_model_in_an_answer_is_no_resource():
    assert FORMAT.resource_ids(read(b"", "/v1beta/models/m", method="GET"), {"name": "models/m"}) == []


def test_a_body_that_is_only_relayed_still_names_its_files():
    body = b'{"contents":[{"parts":[{"fileData":{"fileUri":"https://g.example/v1beta/files/f1"}}]}],"x":"files/f1"}'

    assert keys(read(body, "/v1beta/cachedContents")) == ["res:files/f1"]


def test_the_session_header_ties_requests_together_after_what_is_bound():
    call = read({**contents({"text": "a"}), "cachedContent": "cachedContents/c"}, headers={"x-session-id": "s"})

    assert [hint.bound for hint in call.hints] == [True, False]
    assert keys(call, bound=False) == keys(read(headers={"x-session-id": "s"}), bound=False)


# -- strip --------------------------------------------------------------------------------------------


def test_every_signature_becomes_the_placeholder_and_other_members_keep_their_bytes():
    call = read(
        b'{"generationConfig": {"temperature": 1.0}, "contents": [{"role":"model","parts":['
        b'{"functionCall":{"name":"f","args":{"thoughtSignature":"mine"}},"thoughtSignature":"AAAA"},'
        b'{"text":"","thought_signature":"BBBB"}]},{"role":"user","parts":[{"text":"hi"}]}] }'
    )

    assert FORMAT.strip_bound_state(call) == (
        b'{"generationConfig": {"temperature": 1.0}, "contents": [{"role":"model","parts":['
        b'{"functionCall":{"name":"f","args":{"thoughtSignature":"mine"}},'
        b'"thoughtSignature":"skip_thought_signature_validator"},'
        b'{"text":"","thought_signature":"skip_thought_signature_validator"}]},'
        b'{"role":"user","parts":[{"text":"hi"}]}] }'
    )
    assert call.json is not None
    assert call.json["contents"][0]["parts"][0]["thoughtSignature"] == "AAAA"


def test_a_wrapped_request_is_stripped_too():
    call = read(
        {"generateContentRequest": contents({"text": "", "thoughtSignature": "AAAA"})}, "/v1/models/x:countTokens"
    )

    stripped = FORMAT.strip_bound_state(call)

    assert stripped is not None
    assert PLACEHOLDER.encode() in stripped
    assert b"AAAA" not in stripped


def test_deep_nesting_survives_an_edit():
    deep = b"[" * 900 + b"]" * 900
    part = b'{"text":"","thoughtSignature":"AAAA","x":' + deep + b"}"

    stripped = FORMAT.strip_bound_state(read(b'{"contents": [{"parts":[' + part + b"]}]}"))
    call = read(b'{"requests": [{"model":"models/e","x":' + deep + b"}]}", "/v1beta/models/e:batchEmbedContents")

    assert stripped == b'{"contents": [{"parts":[' + part.replace(b"AAAA", PLACEHOLDER.encode()) + b"]}]}"
    assert FORMAT.edit(call, Edits(model="new")) == call.body.replace(b"models/e", b"models/new")


def test_files_and_caches_cannot_be_stripped():
    assert FORMAT.strip_bound_state(read({**contents({"text": "a"}), "cachedContent": "cachedContents/c"})) is None


# -- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"candidates":[{"finishReason":"SAFETY"}]}', ""),
        (b'{"candidates":[{"finishReason":"STOP"}]}', "empty_answer"),
        (b'{"promptFeedback":{"blockReason":"SAFETY"}}', ""),
        (b'{"candidates":[]}', "no_candidates"),
        (b'{"usageMetadata":{}}', "no_candidates"),
        (b'{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED"}}', "error_in_answer"),
        (b'[{"candidates":[{}]}]', "not_an_object"),
        (b"", "empty_body"),
        (b"<!doctype html>", "html"),
        (b'{"candidates":', "invalid_json"),
    ],
)
def test_only_candidates_or_a_blocked_prompt_are_an_answer(body, reason):
    assert FORMAT.check_answer(read(), body)[1] == reason


def test_an_array_of_one_is_an_answer_where_a_stream_was_asked_for():
    call = read(path=STREAM)

    assert FORMAT.check_answer(call, b'[{"candidates":[{"index":0}]}]') == ({"candidates": [{"index": 0}]}, "")
    assert FORMAT.check_answer(call, b'[{"error":{"code":400}}]')[1] == "error_in_answer"


def test_counts_and_embeddings_are_answers_of_their_own():
    count, embed = read(path="/v1/models/x:countTokens"), read({"content": {"a": 1}}, "/v1/models/x:embedContent")

    assert FORMAT.check_answer(count, b'{"totalTokens":0}') == ({"totalTokens": 0}, "")
    assert FORMAT.check_answer(count, b"{}")[1] == "no_total_tokens"
    assert FORMAT.check_answer(embed, b'{"embedding":{"values":[1]}}')[1] == ""
    assert FORMAT.check_answer(embed, b'{"embeddings":[{"values":[1]}]}')[1] == ""
    assert FORMAT.check_answer(embed, b'{"embeddings":[]}')[1] == "no_embedding"
    assert FORMAT.check_answer(read(b"", "/v1beta/files"), b"x") == (None, "")


def test_input_includes_tool_prompts_and_output_includes_thoughts():
    usage = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 3,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 7,
        "totalTokenCount": 40,
    }

    assert FORMAT.usage({"usageMetadata": usage}) == Usage(13, 27, 4, None, 7)
    assert FORMAT.usage({"usageMetadata": {"promptTokenCount": 5}}) == Usage(input_tokens=5)
    assert FORMAT.usage({"usageMetadata": {"promptTokenCount": -1, "candidatesTokenCount": 2**70}}) == Usage()
    assert FORMAT.usage({}) == Usage()


def test_model_versions_are_left_as_they_are():
    body = b'{"modelVersion":"gemini-x-001"}'

    assert FORMAT.rename_model(body, "alias") is body


# -- streams ------------------------------------------------------------------------------------------


@both
def test_a_stream_is_output_until_it_says_why_it_ended(framing):
    chunks = [
        {"usageMetadata": {"promptTokenCount": 5}},
        chunk(),
        chunk({"text": ""}),
        chunk({"text": "Hi"}, usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 1}),
        chunk({"text": ' "finishReason": "STOP" '}),
        chunk(
            {"text": "!"},
            finishReason="STOP",
            usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2},
        ),
    ]

    marks, watcher = watch(framed(chunks, framing), framing)

    assert marks == [Mark.PROLOGUE] * 3 + [Mark.OUTPUT] * 2 + [Mark.FINISH]
    assert watcher.state.finished
    assert not watcher.state.terminated
    assert watcher.settle() == Usage(5, 5, None, None, 2)


@both
def test_a_cut_stream_is_not_finished(framing):
    marks, watcher = watch(framed([chunk({"text": "Hi"}), chunk({"text": "!"})], framing), framing)

    assert marks == [Mark.OUTPUT, Mark.OUTPUT]
    assert not watcher.state.finished
    assert not watcher.state.terminated


@both
def test_a_blocked_prompt_is_a_finished_answer(framing):
    marks, watcher = watch(framed([{"promptFeedback": {"blockReason": "SAFETY"}}], framing), framing)

    assert marks[0] is Mark.FINISH
    assert watcher.state.finished


@both
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}, 503),
        ({"message": "no code", "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"message": "nothing"}, 0),
        ("text", 0),
    ],
)
def test_an_error_inside_a_stream_is_found_before_and_after_output(framing, begun, error, status):
    chunks = [chunk({"text": "Hi"})] if begun else []

    marks, watcher = watch(framed([*chunks, {"error": error}], framing), framing)

    assert marks[len(chunks)] is Mark.ERROR
    assert orjson.loads(watcher.state.error or b"") == {"error": error}
    assert watcher.state.error_status == status


def test_an_error_in_an_array_of_one_is_unwrapped():
    marks, watcher = watch([b'data: [{"error": {"code": 429, "message": "x"}}]\r\n\r\n'])

    assert marks == [Mark.ERROR]
    assert watcher.state.error == b'{"error": {"code": 429, "message": "x"}}'
    assert watcher.state.error_status == 429


@pytest.mark.parametrize(
    "part",
    [
        {"functionCall": {"name": "f", "args": {"error": 1, "finishReason": "STOP"}}},
        {"text": "x", "thought": True},
        {"text": "", "thoughtSignature": "AAAA"},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
    ],
)
def test_every_kind_of_part_is_output(part):
    marks, watcher = watch(framed([chunk(part), chunk(part)], Framing.SSE))

    assert marks == [Mark.OUTPUT, Mark.OUTPUT]
    assert not watcher.state.finished
    assert watcher.state.error is None


def test_an_unspecified_finish_reason_says_nothing():
    marks, _ = watch(framed([chunk({"text": "a"}, finishReason="FINISH_REASON_UNSPECIFIED")], Framing.SSE))

    assert marks == [Mark.OUTPUT]


def test_several_candidates_are_finished_when_all_are():
    def one(index: int, **more: object) -> dict[str, object]:
        return {"candidates": [{"content": {"parts": [{"text": "a"}]}, "index": index, **more}]}

    call = read({**json.loads(BODY), "generationConfig": {"candidateCount": 2}}, STREAM, query="alt=sse")
    watcher = FORMAT.watcher(call)
    first, last = [one(0), one(1), one(0, finishReason="STOP")], one(1, finishReason="STOP")

    for event in framed(first, Framing.SSE):
        watcher.watch(event)
    assert not watcher.state.finished
    assert watcher.watch(framed([last], Framing.SSE)[0]) is Mark.FINISH
    assert watcher.state.finished


def test_heartbeats_are_ignored_and_unreadable_events_are_output():
    assert watch([b"\r\n", b": x\n\n", b"data: {broken\n\n"])[0] == [Mark.IGNORED, Mark.IGNORED, Mark.OUTPUT]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.sampled_from(Framing))
def test_no_text_can_finish_or_fail_a_stream(texts, framing):
    chunks = [chunk({"text": f'{text}"error": "finishReason": "STOP"'}) for text in texts]

    marks, watcher = watch(framed(chunks, framing), framing)

    assert set(marks) == {Mark.OUTPUT}
    assert not watcher.state.finished
    assert watcher.state.error is None


@pytest.mark.parametrize("query", ["", "alt=sse"])
def test_there_is_no_terminator(query):
    assert FORMAT.terminator(read(path=STREAM, query=query)) == b""


# -- plain and stream ---------------------------------------------------------------------------------


@both
def test_an_answer_becomes_a_stream_and_the_stream_the_same_answer(framing):
    answer = chunk(
        {"text": "Hé\u2028llo"}, {"functionCall": {"name": "f"}}, finishReason="STOP", usageMetadata={"x": 1}
    )
    call = read(path=STREAM, query="alt=sse" if framing is Framing.SSE else "")

    stream = FORMAT.stream_from_answer(call, answer)

    splitter = sse.Splitter() if framing is Framing.SSE else json_array.Splitter()
    events = splitter.feed(stream)
    assert b"".join(events) + splitter.rest() == stream
    assert FORMAT.answer_from_stream(call, events) == answer


@both
def test_the_chunks_of_a_stream_add_up_to_one_answer(framing):
    chunks = [
        chunk({"text": "th", "thought": True}, usageMetadata={"promptTokenCount": 1}),
        chunk({"text": "ought", "thought": True}),
        chunk({"text": "Hel"}),
        chunk({"text": "lo"}),
        chunk({"text": "", "thoughtSignature": "AAAA"}),
        chunk({"text": "more"}),
        chunk({"functionCall": {"name": "f"}, "thoughtSignature": "BBBB"}, {"functionCall": {"name": "g"}}),
        chunk({"text": ""}, finishReason="STOP", usageMetadata={"promptTokenCount": 2}, responseId="r"),
    ]

    answer = FORMAT.answer_from_stream(read(), framed(chunks, framing))

    assert answer == {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "thought", "thought": True},
                        {"text": "Hello", "thoughtSignature": "AAAA"},
                        {"text": "more"},
                        {"functionCall": {"name": "f"}, "thoughtSignature": "BBBB"},
                        {"functionCall": {"name": "g"}},
                    ],
                    "role": "model",
                },
                "index": 0,
                "finishReason": "STOP",
            }
        ],
        "modelVersion": "gemini-x-001",
        "usageMetadata": {"promptTokenCount": 2},
        "responseId": "r",
    }
    response = GenerateContentResponse.model_validate(answer)
    assert response.candidates is not None
    assert response.candidates[0].finish_reason == "STOP"


@pytest.mark.parametrize(
    "chunks", [[], [chunk({"text": "a"})], [chunk({"text": "a"}, finishReason="STOP"), {"error": {"code": 500}}]]
)
def test_chunks_without_an_end_or_with_an_error_are_no_answer(chunks):
    assert FORMAT.answer_from_stream(read(), framed(chunks, Framing.SSE)) is None


def test_a_blocked_prompt_is_an_answer_without_candidates():
    blocked: dict[str, object] = {"promptFeedback": {"blockReason": "SAFETY"}}

    assert FORMAT.answer_from_stream(read(), framed([blocked], Framing.SSE)) == blocked


# -- interactions -------------------------------------------------------------------------------------


def interaction_events(*events: dict[str, object]) -> list[bytes]:
    return [sse.encode(json.dumps(event).encode(), str(event["event_type"])) for event in events]


INTERACTION = {"model": "gemini-x", "input": "hi", "stream": True, "previous_interaction_id": "i0"}
COMPLETED: dict[str, object] = {
    "event_type": "interaction.completed",
    "interaction": {"id": "i1", "status": "completed", "usage": {"total_input_tokens": 5, "total_output_tokens": 7}},
}


def test_an_interaction_says_its_model_stream_and_predecessor_in_the_body():
    call = read(INTERACTION, "/v1beta/interactions")

    assert (call.model, call.stream, keys(call)) == ("gemini-x", True, ["res:interactions/i0"])
    assert orjson.loads(FORMAT.edit(call, Edits(model="new", stream=False))) == {
        **INTERACTION,
        "model": "new",
        "stream": False,
    }
    assert FORMAT.edit(call, Edits()) is call.body
    assert read({"agent": "deep", "input": "hi"}, "/v1/interactions").model is None


@pytest.mark.parametrize(
    ("body", "param"), [({"input": "a"}, "model"), ({"model": "m"}, "input"), ({**INTERACTION, "stream": 1}, "stream")]
)
def test_what_is_no_interaction_is_refused(body, param):
    with pytest.raises(BadRequest) as caught:
        read(body, "/v1beta/interactions")
    assert caught.value.param == param


def test_the_stream_of_an_interaction_is_watched_to_its_completion():
    watcher = FORMAT.watcher(read(INTERACTION, "/v1beta/interactions"))
    created: dict[str, object] = {
        "event_type": "interaction.created",
        "interaction": {"id": "i1", "status": "in_progress"},
    }
    events = interaction_events(created, {"event_type": "step.delta", "index": 0, "delta": {"text": "a"}}, COMPLETED)

    marks = [watcher.watch(event) for event in [*events, b"data: [DONE]\n\n"]]

    assert marks == [Mark.PROLOGUE, Mark.OUTPUT, Mark.FINISH, Mark.TERMINATOR]
    assert watcher.state.finished
    assert watcher.settle() == Usage(5, 7)
    assert watcher.state.resource_ids == ["res:interactions/i1"]


def test_an_error_event_of_an_interaction_is_an_error():
    watcher = FORMAT.watcher(read(INTERACTION, "/v1beta/interactions"))
    failure = interaction_events({"event_type": "error", "error": {"code": "resource_exhausted", "message": "x"}})

    assert [watcher.watch(event) for event in [*failure, b"data: [DONE]\n\n"]] == [Mark.ERROR, Mark.IGNORED]
    assert watcher.state.error_status == 429


def test_a_plain_interaction_is_an_answer_with_its_own_usage():
    call = read({"model": "m", "input": "a"}, "/v1beta/interactions")
    answer = json.dumps(COMPLETED["interaction"]).encode()

    parsed, reason = FORMAT.check_answer(call, answer)

    assert reason == ""
    assert parsed is not None
    assert FORMAT.usage(parsed) == Usage(5, 7)
    assert FORMAT.resource_ids(call, parsed) == ["res:interactions/i1"]
    assert FORMAT.check_answer(call, b'{"error":{"message":"x"}}')[1] == "error_in_answer"
    assert FORMAT.check_answer(call, b"{}")[1] == "not_an_interaction"


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BadRequest("x"), 400, "INVALID_ARGUMENT"),
        (errors.Unauthorized("x"), 401, "UNAUTHENTICATED"),
        (errors.Forbidden("x"), 403, "PERMISSION_DENIED"),
        (errors.NotFound("x"), 404, "NOT_FOUND"),
        (errors.RequestTooLarge("x"), 413, "INVALID_ARGUMENT"),
        (errors.RateLimited("x"), 429, "RESOURCE_EXHAUSTED"),
        (errors.MiddlewareError("x"), 500, "INTERNAL"),
        (errors.UpstreamUnreachable("x"), 502, "UNAVAILABLE"),
        (errors.NoKeys("x"), 503, "UNAVAILABLE"),
        (errors.UpstreamRefused("x", status=529), 529, "UNAVAILABLE"),
        (errors.UpstreamTimeout("x"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_have_the_google_status_of_their_http_status(error, code, status):
    body = FORMAT.error_body(error, "req_1")

    assert body == {
        "error": {
            "code": code,
            "message": "x",
            "status": status,
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": error.code.upper(),
                    "domain": "ai-api-middleware",
                    "metadata": {"request_id": "req_1", "code": error.code},
                }
            ],
        }
    }
    assert FORMAT.is_error_body(orjson.dumps(body))
    assert FORMAT.is_error_body(orjson.dumps([body]))


@pytest.mark.parametrize(
    ("seconds", "delay"), [(7, "7s"), (7.25, "7.25s"), (0.0001, "0s"), (3600, "3600s"), (-1, "0s")]
)
def test_a_wait_is_told_as_retry_info(seconds, delay):
    body = FORMAT.error_body(errors.AllKeysResting("x", wake_at=1_800_000_000.0, retry_after_s=seconds), "r")

    info, retry = body["error"]["details"]
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    assert info["reason"] == "ALL_KEYS_RESTING"
    assert info["metadata"]["wake_at"] == "2027-01-15T08:00:00+00:00"


def test_an_error_inside_a_stream_keeps_its_framing():
    error = errors.UpstreamCut("cut")
    body = FORMAT.error_body(error, "r")
    array, events = read(path=STREAM), read(path=STREAM, query="alt=sse")

    assert FORMAT.error_event(events, error, "r") == b"data: " + orjson.dumps(body) + b"\n\n"
    assert FORMAT.error_event(None, error, "r") == b"data: " + orjson.dumps(body) + b"\n\n"
    assert orjson.loads(FORMAT.error_event(array, error, "r", begun=False)) == [body]
    begun = framed([chunk({"text": "a"})], Framing.JSON_ARRAY)[0] + FORMAT.error_event(array, error, "r")
    assert orjson.loads(begun) == [chunk({"text": "a"}), body]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error":{"message":"x","type":"y","code":null}}', b'{"error":"x"}', b'{"type":"error"}'],
)
def test_error_bodies_of_other_shapes_are_not_passed_on(body):
    assert not FORMAT.is_error_body(body)
