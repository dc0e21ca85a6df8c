"""How the product is started, and how its metrics are read."""

from bench import product
from bench.product import sum_of

EXPOSITION = """# HELP middleware_requests_total Requests.
# TYPE middleware_requests_total counter
middleware_requests_total{dialect="openai_chat",outcome="success",status="200"} 41.0
middleware_requests_total{dialect="openai_chat",outcome="client_gone",status="499"} 1.0
middleware_requests_total_other 7.0
middleware_writer_dropped_total 1.5e+03
"""


def test_a_metric_is_summed_over_its_labels():
    assert sum_of("middleware_requests_total", EXPOSITION) == 42
    assert sum_of("middleware_writer_dropped_total", EXPOSITION) == 1500
    assert sum_of("middleware_nothing_total", EXPOSITION) == 0


def test_the_product_starts_with_its_own_database_many_keys_and_a_pool_like_that_of_nginx(tmp_path, monkeypatch):
    monkeypatch.setenv("ENABLE_REQUEST_LOGGING", "false")

    recipe = product.recipe("product", 1234, tmp_path, "http://127.0.0.1:9")

    assert len(set(recipe.environ["OPENAI_API_KEYS"].split(","))) == 50
    assert recipe.environ["DB_PATH"].startswith(str(tmp_path))
    assert set(recipe.environ) - {"PATH", "LANG", "LC_ALL", "HOME"} == {
        "PORT",
        "DB_PATH",
        "DRIVER",
        "WEB_CONCURRENCY",
        "MIDDLEWARE_PASSWORD",
        "OPENAI_BASE_URL",
        "OPENAI_API_KEYS",
        "POOL_MAXSIZE",
    }


def test_an_authority_is_told_to_the_product_in_the_variable_that_openssl_reads(tmp_path):
    recipe = product.recipe("p", 1, tmp_path, "https://127.0.0.1:9", workers=2, certificate=tmp_path / "c.pem")
    assert recipe.environ["SSL_CERT_FILE"] == str(tmp_path / "c.pem")
    assert recipe.environ["WEB_CONCURRENCY"] == "2"
