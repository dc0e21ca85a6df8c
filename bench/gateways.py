"""What is measured: the product in several settings, and the gateways beside which it is put. One table, `GATEWAYS`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import product
from bench.certificates import Certificate
from bench.machine import HERE, RUN, find
from bench.programs import Program, ProgramFailed, Recipe, call, plain_environment

PATH: Final = "/v1/chat/completions"
UPSTREAM_KEY: Final = "sk-bench-upstream-0001"
#: Made up: LiteLLM does not start without one.
LITELLM_KEY: Final = "sk-bench-litellm-master-key"
#: Calls on new connections that must go well in a row before a gateway counts as started.
_GOOD_CALLS: Final = 20
_GOOD_CALLS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """
    Where a run takes place.

    folder  -- temporary; each gateway gets a folder in it
    logs    -- what stays
    """

    folder: Path
    logs: Path
    mock: Program
    tls_port: int
    certificate: Certificate

    def folder_for(self, name: str) -> Path:
        """A new folder. Raises FileExistsError when something of that name runs already."""
        made = self.folder / name
        made.mkdir()
        return made


@dataclass(frozen=True, slots=True)
class Gateway:
    """
    One that runs.

    headers  -- with which a call of a client is let in
    admin    -- of the product; None for all others
    """

    name: str
    program: Program
    headers: Mapping[str, str]
    admin: product.Admin | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """
    recipe        -- how to start it: (site, name, port); None = it is the mock, which runs already
    headers       -- of a client's call; the product makes its own
    stream_share  -- which part of the streams of a case it gets, so that a slow one does not take minutes
    missing       -- why it can't be started here, empty when it can
    """

    recipe: Callable[[Site, str, int], Recipe] | None
    headers: Callable[[Site], Mapping[str, str]] = lambda _site: {"Authorization": "Bearer sk-bench-client-0001"}
    stream_share: float = 1.0
    missing: Callable[[], str] = lambda: ""
    is_product: bool = False


def anchors_folder() -> Path:
    """Where `install_anchors.sh` puts Portkey and LiteLLM."""
    return Path(os.environ.get("BENCH_ANCHORS", RUN / "anchors"))


# -- recipes ------------------------------------------------------------------------------------------


def from_template(name: str, target: Path, values: Mapping[str, object]) -> Path:
    """Write `conf/NAME` to `target` with every @WORD@ replaced; returns `target`."""
    text = (HERE / "conf" / name).read_text()
    for word, value in values.items():
        text = text.replace(f"@{word}@", str(value))
    target.write_text(text)
    return target


def nginx_recipe(template: str, site: Site, name: str, port: int, upstream_port: int, scheme: str = "http") -> Recipe:
    folder = site.folder_for(name)
    values = {
        "FOLDER": folder,
        "PORT": port,
        "UPSTREAM_PORT": upstream_port,
        "SCHEME": scheme,
        "CERTIFICATE": site.certificate.certificate,
        "KEY": site.certificate.key,
    }
    configuration = from_template(template, folder / "nginx.conf", values)
    command = [find("nginx") or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    return Recipe(name, command, port, folder, plain_environment(folder))


def _nginx(site: Site, name: str, port: int) -> Recipe:
    return nginx_recipe("nginx.conf", site, name, port, site.mock.port)


def _nginx_tls(site: Site, name: str, port: int) -> Recipe:
    return nginx_recipe("nginx.conf", site, name, port, site.tls_port, "https")


def _product(site: Site, name: str, port: int) -> Recipe:
    return product.recipe(name, port, site.folder_for(name), f"http://127.0.0.1:{site.mock.port}")


def _product_tls(site: Site, name: str, port: int) -> Recipe:
    upstream = f"https://127.0.0.1:{site.tls_port}"
    trusted = site.certificate.certificate
    return product.recipe(name, port, site.folder_for(name), upstream, certificate=trusted)


def _product_2(site: Site, name: str, port: int) -> Recipe:
    upstream = f"http://127.0.0.1:{site.mock.port}"
    return product.recipe(name, port, site.folder_for(name), upstream, workers=2)


def _portkey_program() -> Path:
    return anchors_folder() / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"


def _portkey(site: Site, name: str, port: int) -> Recipe:
    folder = site.folder_for(name)
    environ = {**plain_environment(folder), "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    command = [find("node") or "node", str(_portkey_program()), "--headless", f"--port={port}"]
    return Recipe(name, command, port, folder, environ)


def _portkey_headers(site: Site) -> dict[str, str]:
    """It has no configuration: each call says where it goes, with which key."""
    return {
        "Authorization": f"Bearer {UPSTREAM_KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{site.mock.port}/v1",
    }


def _portkey_missing() -> str:
    if find("node") is None:
        return "node is not installed"
    return "" if _portkey_program().exists() else "not installed"


def _litellm_program() -> Path:
    return anchors_folder() / "litellm/bin/litellm"


def _litellm(site: Site, name: str, port: int) -> Recipe:
    folder = site.folder_for(name)
    values = {"UPSTREAM_PORT": site.mock.port}
    configuration = from_template("litellm.yaml", folder / "litellm.yaml", values)
    base = plain_environment(folder)
    environ = {
        **base,
        # It looks for its own helpers there.
        "PATH": os.pathsep.join([str(_litellm_program().parent), base["PATH"]]),
        "LITELLM_MASTER_KEY": LITELLM_KEY,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        # Else it fetches its price list at the start.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    options = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return Recipe(name, [str(_litellm_program()), *options], port, folder, environ, start_s=120.0)


def _litellm_headers(_site: Site) -> dict[str, str]:
    return {"Authorization": f"Bearer {LITELLM_KEY}"}


def _litellm_missing() -> str:
    return "" if _litellm_program().exists() else "not installed"


PRODUCT: Final = "product"
DIRECT: Final = "direct"
GATEWAYS: Final[Mapping[str, Kind]] = {
    DIRECT: Kind(None),
    "nginx": Kind(_nginx),
    "nginx-tls": Kind(_nginx_tls),
    PRODUCT: Kind(_product, is_product=True),
    "product-tls": Kind(_product_tls, is_product=True),
    "product-2": Kind(_product_2, is_product=True),
    "portkey": Kind(_portkey, _portkey_headers, stream_share=0.5, missing=_portkey_missing),
    "litellm": Kind(_litellm, _litellm_headers, stream_share=0.1, missing=_litellm_missing),
}


# -- starting -----------------------------------------------------------------------------------------


@contextmanager
def running(name: str, site: Site, cpus: frozenset[int], port: int) -> Iterator[Gateway]:
    """A gateway that answers. Raises ProgramFailed when it does not come to that."""
    kind = GATEWAYS[name]
    if kind.recipe is None:
        yield Gateway(name, site.mock, kind.headers(site))
        return
    try:
        with Program(kind.recipe(site, name, port), cpus, site.logs / f"{name}.log") as program:
            gateway = _let_in(name, kind, program, site)
            _expect_answers(gateway)
            yield gateway
    finally:
        # Its database would be found by the next one of this name.
        shutil.rmtree(site.folder / name, ignore_errors=True)


def _let_in(name: str, kind: Kind, program: Program, site: Site) -> Gateway:
    if kind.is_product:
        admin = product.Admin(program)
        admin.wait_until_ready()
        return Gateway(name, program, {"Authorization": f"Bearer {admin.make_client_key()}"}, admin)
    return Gateway(name, program, kind.headers(site))


def _expect_answers(gateway: Gateway) -> None:
    """Also makes sure that every worker knows the client key."""
    body = json.dumps({"model": "mock-n1-d0", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"Content-Type": "application/json", **gateway.headers}
    until = time.monotonic() + _GOOD_CALLS_S
    good = 0
    while good < _GOOD_CALLS:
        status, answer = call(gateway.program.port, "POST", PATH, body=body, headers=headers)
        good = good + 1 if status == 200 and b"passes the call on" in answer else 0
        if time.monotonic() > until:
            shown = answer[:300].decode(errors="replace")
            raise ProgramFailed(f"{gateway.name} answers {status}: {shown}{gateway.program.last_words()}")
