"""Which providers there are: by the settings, with the extras that they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hub.config import Settings, load_settings
from hub.errors import ConfigError
from services.content.assistant import Provider, build_providers
from tests.services.assistant.conftest import KEY, LIBRARIES, assistant_settings

READY = {"openai_model": "m", "anthropic_model": "m", "anthropic_key": KEY}


async def closed(providers: tuple[Provider, ...]) -> list[str]:
    for provider in providers:
        await provider.close()
    return [provider.name for provider in providers]


async def test_in_the_order_of_the_settings_and_each_once() -> None:
    settings = assistant_settings(providers=("anthropic", "offline", "openai", "offline"), **READY)
    assert await closed(build_providers(settings)) == ["anthropic", "offline", "openai"]
    assert await closed(build_providers(assistant_settings())) == ["offline"]


@pytest.mark.parametrize(
    ("providers", "lines"),
    [
        ((), ["HUB_ASSISTANT_PROVIDERS is empty; name at least offline"]),
        (("gemini",), ["HUB_ASSISTANT_PROVIDERS: no provider 'gemini'; there are openai, anthropic, offline"]),
        (("openai",), ["HUB_ASSISTANT_OPENAI_MODEL must be set for the provider openai"]),
        (
            ("openai", "anthropic"),
            [
                "HUB_ASSISTANT_OPENAI_MODEL must be set for the provider openai",
                "HUB_ASSISTANT_ANTHROPIC_KEY must be set for the provider anthropic",
                "HUB_ASSISTANT_ANTHROPIC_MODEL must be set for the provider anthropic",
            ],
        ),
    ],
)
def test_what_is_missing_is_named(providers: tuple[str, ...], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        build_providers(assistant_settings(providers=providers))
    assert str(raised.value).splitlines() == lines


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_extra_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"services.content.assistant.{library}_provider", raising=False)
    with pytest.raises(ConfigError, match=rf"{library} is not installed: pip install 'hub\[{library}\]'"):
        build_providers(assistant_settings(providers=(library,), **READY))


def test_libraries_are_loaded_only_when_they_are_named() -> None:
    code = (
        "import sys; from services.content.assistant import build_providers; from hub.config import Settings; "
        "build_providers(Settings(redis_url='', database_url='')); "
        "assert not {'openai', 'anthropic', 'httpx2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_show_none_of_their_values() -> None:
    environ = {
        "HUB_REDIS_URL": "redis://:pw@h",
        "HUB_DATABASE_URL": "postgresql://u:pw@h/d",
        "HUB_JWT_SECRET": "s" * 32,
    }
    settings = load_settings({**environ, "HUB_ASSISTANT_OPENAI_KEY": KEY, "HUB_ASSISTANT_PROVIDERS": "openai, offline"})
    assert settings.assistant_providers == ("openai", "offline")
    for shown in (repr(settings), str(settings), repr(settings.__rich_repr__())):
        assert not [secret for secret in (KEY, "pw", "s" * 32) if secret in shown]
    assert isinstance(settings, Settings)
