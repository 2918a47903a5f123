"""The providers that the settings name. Libraries are loaded here, and only those that are needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from hub.api import ConfigError, Settings
from services.content.assistant.offline import OfflineWriter
from services.content.assistant.provider import Provider


def build_providers(settings: Settings) -> tuple[Provider, ...]:
    """In the order of ``assistant_providers``. Call it before serving: to load a library takes about a second.

    Raises ``ConfigError`` with a line per setting that is missing or wrong, or that needs an extra to be installed.
    """
    built: list[Provider] = []
    problems: list[str] = []
    names = tuple(dict.fromkeys(settings.assistant_providers))
    if not names:
        problems.append("HUB_ASSISTANT_PROVIDERS is empty; name at least offline")
    for name in names:
        if name not in _BUILDERS:
            problems.append(f"HUB_ASSISTANT_PROVIDERS: no provider {name!r}; there are {', '.join(_BUILDERS)}")
            continue
        try:
            built.append(_BUILDERS[name](settings))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(built)


def _offline(settings: Settings) -> Provider:
    return OfflineWriter(settings.assistant_offline_words_per_s)


def _openai(settings: Settings) -> Provider:
    _demand("openai", model=settings.assistant_openai_model, base_url=settings.assistant_openai_base_url)
    return _from_extra("openai")(settings)


def _anthropic(settings: Settings) -> Provider:
    _demand(
        "anthropic",
        key=settings.assistant_anthropic_key,
        model=settings.assistant_anthropic_model,
        base_url=settings.assistant_anthropic_base_url,
    )
    return _from_extra("anthropic")(settings)


_BUILDERS: dict[str, Callable[[Settings], Provider]] = {"openai": _openai, "anthropic": _anthropic, "offline": _offline}


def _demand(name: str, **values: str) -> None:
    missing = [f"HUB_ASSISTANT_{name.upper()}_{field.upper()}" for field, value in values.items() if not value]
    if missing:
        raise ConfigError("\n".join(f"{variable} must be set for the provider {name}" for variable in missing))


def _from_extra(name: str) -> Callable[[Settings], Provider]:
    try:
        module = import_module(f"services.content.assistant.{name}_provider")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"HUB_ASSISTANT_PROVIDERS names {name}, but {error.name} is not installed: pip install 'hub[{name}]'"
        ) from error
    builder: Callable[[Settings], Provider] = getattr(module, f"{name}_provider")
    return builder
