"""The file that ships: it has the flags that the code asks for and no others, each with somebody who answers for it."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import MagicMock

from hub.config import Settings
from hub.config.flag_bounds import FLAG_LEAST_WINDOW_S
from hub.flags import HUB_SWITCHES, Evaluator, Subject, Switches, load_flags
from services.main import SERVICES

FILE = Path(__file__).parent.parent.parent / "feature_flags.yaml"


def _asked_by_code() -> frozenset[str]:
    hub = MagicMock()
    hub.settings = Settings(redis_url="redis://localhost", database_url="postgresql://localhost", jwt_secret="x" * 32)
    return Switches([*HUB_SWITCHES, *(switch for service in SERVICES for switch in service(hub).switches)]).flags


def test_code_and_file_name_the_same_flags() -> None:
    flags = load_flags(FILE.read_text(), FILE.name).flags
    assert set(flags) == _asked_by_code()
    assert [name for name, flag in flags.items() if not (flag.owner and flag.description and flag.expires)] == []


def test_the_examples_of_the_documents_are_flags() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (FILE.parent / "docs" / "flags.md").read_text(), re.DOTALL)
    assert [len(load_flags(example, "docs/flags.md").flags) > 0 for example in examples] == [True] * 4


def test_everything_is_on_for_everybody() -> None:
    values = Evaluator(load_flags(FILE.read_text(), FILE.name)).values(Subject())
    assert set(values.values()) == {True}
    assert len(values) == 17


def test_every_node_is_heard_five_times_in_the_shortest_window() -> None:
    settings = Settings(redis_url="redis://localhost", database_url="postgresql://localhost", jwt_secret="x" * 32)
    assert settings.flags_report_s * 5 <= FLAG_LEAST_WINDOW_S
