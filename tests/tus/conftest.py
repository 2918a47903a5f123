"""tus-js-client for the session. Where it cannot be had its tests are skipped, but never where CI promises they ran."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HOW_TO_INSTALL = "node and npm are missing, or npm cannot install tus-js-client: apt-get install nodejs npm"
_PACKAGE = Path(__file__).with_name("package.json")
_INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
_INSTALL_S = 90


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest) -> Path:
    """Where the packages are: installed once, and again when ``package.json`` has changed."""
    folder = Path(request.config.cache.mkdir("tus-js-client"))  # type: ignore[union-attr]
    wanted = folder / "package.json"
    done = folder / "node_modules" / "tus-js-client" / "package.json"
    if not done.exists() or wanted.read_bytes() != _PACKAGE.read_bytes():
        shutil.copy(_PACKAGE, wanted)
        _install(folder)
    return done.parent.parent


def _install(folder: Path) -> None:
    problem = ""
    if shutil.which("node") is None or shutil.which("npm") is None:
        problem = HOW_TO_INSTALL
    else:
        try:
            subprocess.run(_INSTALL, cwd=folder, check=True, capture_output=True, timeout=_INSTALL_S)
        except (subprocess.SubprocessError, OSError) as error:
            problem = f"{HOW_TO_INSTALL} ({error})"
    if problem:
        (folder / "package.json").unlink()
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
