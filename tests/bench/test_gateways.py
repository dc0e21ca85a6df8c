"""The gateways: their configuration, and what the benchmark asks of the product, held against the product itself."""

import json
import ssl
import subprocess
from types import SimpleNamespace

import pytest

from bench import gateways, product
from bench.certificates import make_certificate
from bench.figures import Books
from bench.load import body
from bench.machine import find
from bench.programs import ProgramFailed
from tests import canned
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def site(tmp_path, certificate):
    return gateways.Site(tmp_path, tmp_path / "logs", SimpleNamespace(port=9), 10, certificate)


@pytest.mark.parametrize("name", ["nginx", "nginx-tls"])
def test_every_word_of_a_template_is_replaced(name, site):
    recipe = gateways.GATEWAYS[name].recipe(site, name, 1234)
    text = (site.folder / name / "nginx.conf").read_text()
    assert "@" not in text
    assert "listen 127.0.0.1:1234 " in text
    assert str(site.folder / name / "nginx.conf") in recipe.command
    scheme, port = ("https", 10) if name == "nginx-tls" else ("http", 9)
    assert f"proxy_pass {scheme}://provider;" in text
    assert f"server 127.0.0.1:{port};" in text


@pytest.mark.skipif(find("nginx") is None, reason="no nginx")
@pytest.mark.parametrize("template", ["nginx.conf", "tls_mock.conf"])
def test_nginx_accepts_its_configuration(template, site):
    recipe = gateways.nginx_recipe(template, site, "nginx", 1234, 9)
    checked = subprocess.run([*recipe.command, "-t"], capture_output=True, text=True, timeout=20, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_other_gateways_are_led_to_the_mock(site):
    portkey, litellm = gateways.GATEWAYS["portkey"], gateways.GATEWAYS["litellm"]
    assert "--port=1234" in portkey.recipe(site, "portkey", 1234).command
    assert portkey.headers(site)["x-portkey-custom-host"] == "http://127.0.0.1:9/v1"
    recipe = litellm.recipe(site, "litellm", 1234)
    assert recipe.command[-4:] == ["--port", "1234", "--num_workers", "1"]
    assert 'api_base: "http://127.0.0.1:9/v1"' in (site.folder / "litellm" / "litellm.yaml").read_text()
    assert litellm.headers(site)["Authorization"] == f"Bearer {recipe.environ['LITELLM_MASTER_KEY']}"


def test_two_of_one_name_never_share_a_folder(site):
    site.folder_for("product")
    with pytest.raises(FileExistsError):
        site.folder_for("product")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_certificate_is_good_for_both_names_of_this_machine(name, certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.certificate, certificate.key)
    client = ssl.create_default_context(cafile=str(certificate.certificate))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=name)
    called = server.wrap_bio(to_server, to_client, server_side=True)
    open_sides = [caller, called]
    for _ in range(10):
        for side in list(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not open_sides


@pytest.fixture
def running(tmp_path):
    """The product in this process, as the benchmark's admin sees it."""
    with FakeProvider() as provider:
        provider.default(json_reply(canned.chat()))
        environ = {"MIDDLEWARE_PASSWORD": product.PASSWORD, "OPENAI_API_KEYS": "sk-bench-upstream-0001"}
        with Gateway(tmp_path, openai=provider.origin, environ=environ) as gateway:
            yield gateway


def admin_of(gateway):
    return product.Admin(SimpleNamespace(name="product", port=gateway.port, last_words=lambda: ""))


def ask(gateway, key):
    answer = gateway.post("/v1/chat/completions", json.loads(body("mock-n1-d0")), Authorization=f"Bearer {key}")
    return answer.status


def test_calls_with_the_client_key_are_found_in_the_books(running):
    admin = admin_of(running)
    admin.wait_until_ready()
    key = admin.make_client_key()
    assert ask(running, key) == 200
    before = admin.settled_books()
    assert before == Books(1, 1, 0), "the call before is written and belongs to no run"

    assert [ask(running, key) for _ in range(3)] == [200] * 3

    assert admin.books_since(before, 3, 0, timeout_s=5.0) == Books(3, 3, 0)


def test_calls_that_failed_are_found_with_what_was_recorded_of_them(running):
    admin = admin_of(running)
    before = admin.books()
    assert running.post("/v1/chat/completions", [], Authorization="Bearer anything").status == 400
    assert ask(running, "anything") == 200
    admin.books_since(before, 2, 0, timeout_s=5.0)
    (failure,) = admin.failures_since(before)
    assert failure.startswith("recorded as 400 ")


def test_books_that_never_settle_are_a_failure(running, monkeypatch):
    admin = admin_of(running)
    monkeypatch.setattr(product, "_READY_S", 0.2)
    monkeypatch.setattr(admin, "books", lambda: Books(1, 2, 0))
    with pytest.raises(ProgramFailed, match="does not write what it has counted"):
        admin.settled_books()


def test_calls_that_are_not_in_the_books_are_not_waited_for_without_end(running):
    admin = admin_of(running)
    assert admin.books_since(admin.books(), 1, 0, timeout_s=0.3) == Books(0, 0, 0)


def test_without_the_right_client_key_no_call_is_let_in(running):
    admin_of(running).make_client_key()
    assert ask(running, "sk-another") == 401


def test_an_admin_call_that_is_refused_is_a_failure(running, monkeypatch):
    monkeypatch.setattr(product, "PASSWORD", "a wrong one")
    with pytest.raises(ProgramFailed, match="/middleware/api/login answered 401"):
        admin_of(running)
