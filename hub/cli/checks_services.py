"""``hub doctor`` on what the services need: the checks that stand beside the list of services."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence

from hub.cli.checks import Verdict, bad, ok
from hub.config import Settings
from hub.service import Check

CHECKS = "CHECKS"


async def check_services(settings: Settings) -> list[Verdict]:
    """All rows about services; none where nobody has written a check."""
    try:
        module = importlib.import_module(settings.services.partition(":")[0])
    except (ImportError, ValueError) as error:
        return [bad("services", str(error), "correct HUB_SERVICES")]
    checks: Sequence[Check] = getattr(module, CHECKS, ())
    groups = await asyncio.gather(*(check(settings) for check in checks))
    return [
        ok(finding.check, finding.found) if finding.well else bad(finding.check, finding.found, finding.remedy)
        for group in groups
        for finding in group
    ]
