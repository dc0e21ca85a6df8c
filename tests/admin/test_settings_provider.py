"""The default provider is one that exists."""

from tests.gateway import Gateway


def test_a_default_provider_that_does_not_exist_is_refused_and_nothing_is_changed(tmp_path):
    with Gateway(tmp_path) as gateway:
        answer = gateway.post("/middleware/api/settings", {"model_provider": "nosuch", "max_retries": 3})
        assert answer.status == 400
        assert "model_provider" in answer.json["error"]
        assert gateway.services.live_settings.current.max_retries == 7

        assert gateway.post("/middleware/api/settings", {"model_provider": "anthropic"}).status == 200
        assert gateway.post("/middleware/api/settings", {"model_provider": ""}).status == 200
