"""The shape of the project: import contracts, file lengths, and lists that must not drift apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hub.errors import ERROR_SPECS, ErrorCode
from hub.protocol.codes import CLOSE_SPECS, CloseCode

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("hub", "services") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION_LINES = 70  # with its docstring; ruff bounds statements and complexity

# Who may make an OrgId: where a token was verified, a row is in hand, or a setting names it.
ORG_ID_MAKERS = {
    "hub/orgs.py",
    "hub/auth/tokens.py",
    "hub/auth/tickets.py",
    "hub/database/pool.py",
    "hub/fanout/outbox_relay.py",
    "hub/cli/checks_flags.py",
    "hub/nodes/flags/board.py",
    "services/events/service.py",
    "services/uploads/links.py",  # out of a signature of the hub's own
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_files_stay_small(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert path.read_text().count("\n") <= MAX_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_owns(path: Path) -> None:
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


def test_import_contracts() -> None:
    script = Path(sys.executable).parent / "lint-imports"
    if not script.exists():
        pytest.skip("import-linter comes with the gate: make check")
    result = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_only_verified_places_make_organisations() -> None:
    makers = {str(path.relative_to(ROOT)) for path in SOURCES if "OrgId.from_" in path.read_text()}
    assert makers <= ORG_ID_MAKERS


def test_every_code_is_specified_and_documented() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    assert set(ERROR_SPECS) == set(ErrorCode)
    assert set(CLOSE_SPECS) == set(CloseCode)
    assert [code for code in ErrorCode if f"`{code}`" not in protocol] == []
    assert [code for code in CloseCode if f"| {int(code)} |" not in protocol] == []


def test_documents_are_fresh() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
