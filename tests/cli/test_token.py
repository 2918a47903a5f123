"""``hub token``: what it prints, where the secret comes from, how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hub.auth.tokens import TokenVerifier
from hub.cli.commands import app
from hub.cli.environment import make_secret, read_secret
from hub.config import Settings
from tests.cli.conftest import SECRET, Commands
from tests.client.scripted_hub import ScriptedHub

SETTINGS = Settings(redis_url="", database_url="", jwt_secret=SECRET, default_scope="x:y")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    for name in ("HUB_JWT_SECRET", "HUB_JWT_ISSUER", "HUB_JWT_AUDIENCE", "HUB_TOKEN", "HUB_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


async def test_the_token_alone_is_on_stdout(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_JWT_SECRET", SECRET)
    options = ["--scope", "a:b", "--scope", "c:* admin", "--ttl", "2h", "--name", "Al"]
    result = runner.invoke(app, ["token", "--org", "acme", "--user", "al", *options])
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    principal = await TokenVerifier(SETTINGS).verify(result.stdout.strip())
    assert (principal.org, principal.user, principal.name) == ("acme", "al", "Al")
    assert principal.scope == ("a:b", "c:*", "admin")
    assert principal.expires_at - principal.issued_at == pytest.approx(7200)


async def test_without_a_scope_the_hubs_default_applies(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_JWT_SECRET", SECRET)
    result = runner.invoke(app, ["token", "--org", "acme", "--user", "al"])
    assert (await TokenVerifier(SETTINGS).verify(result.stdout.strip())).scope == ("x:y",)


async def test_the_secret_of_hub_dev(runner: CliRunner, tmp_path: Path) -> None:
    secret = make_secret(tmp_path / ".hub")
    assert make_secret(tmp_path / ".hub") == secret == read_secret(tmp_path / ".hub")
    assert (tmp_path / ".hub" / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / ".hub").iterdir()] == ["secret"]
    result = runner.invoke(app, ["token", "--org", "acme", "--user", "al"])
    settings = Settings(redis_url="", database_url="", jwt_secret=secret)
    assert (await TokenVerifier(settings).verify(result.stdout.strip())).user == "al"


@pytest.mark.parametrize(
    ("arguments", "secret", "message"),
    [
        (["--org", "acme", "--user", "al"], "", "hub: HUB_JWT_SECRET is not set, and .hub/secret cannot be read"),
        (["--org", "acme", "--user", "al"], "short", "hub: HUB_JWT_SECRET has 5 bytes; at least 32 are needed"),
        (["--org", "_hub", "--user", "al"], SECRET, "hub: --org, --user or --scope: malformed organisation"),
        (["--org", "acme", "--user", "me"], SECRET, "hub: --org, --user or --scope: a user may not be called 'me'"),
        (["--org", "acme", "--user", "al", "--ttl", "soon"], SECRET, "'soon' is no duration"),
        (["--org", "acme"], SECRET, "--user"),
    ],
)
def test_mistakes(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, arguments: list[str], secret: str, message: str
) -> None:
    monkeypatch.setenv("HUB_JWT_SECRET", secret)
    result = runner.invoke(app, ["token", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


async def test_what_the_commands_import(hub: ScriptedHub, hub_command: Commands) -> None:
    """Each command loads only what it needs: ``python -X importtime`` lists what was loaded, on stderr."""
    server = ("litestar", "uvicorn", "asyncpg", "redis", "prometheus_client", "uvloop")
    token = await hub_command("token", "--org", "acme", "--user", "al", PYTHONPROFILEIMPORTTIME="1")
    hub.reject = lambda _: 401
    tail = await hub_command("tail", "events:a", "--url", hub.url, "--token", "x", PYTHONPROFILEIMPORTTIME="1")
    for run, more in ((token, ("websockets",)), (tail, ("jwt",))):
        loaded = {line.rpartition("|")[2].strip() for line in run.err.splitlines() if line.startswith("import time:")}
        assert "hub.cli.commands" in loaded
        assert not loaded & {*server, *more}
