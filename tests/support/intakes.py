"""Takes chunks in tests: strict about offset and credit, remembers everything, and misbehaves when asked to."""

from __future__ import annotations

from typing import Any

from hub.api import Caller, ErrorCode, Handle, HubError, not_found


class TestIntake:
    """One handle's. ``window``: bytes that may come beyond what was acknowledged by ``test.credit``."""

    __test__ = False

    def __init__(self, window: int) -> None:
        self.handle: Handle
        self.window = window
        self.data = bytearray()
        self.acknowledged = 0
        self.losses = 0

    def chunk(self, offset: int, data: memoryview) -> None:
        """Takes what follows."""
        if offset != len(self.data):
            details = {"offset": len(self.data)}
            raise HubError(ErrorCode.OFFSET_MISMATCH, "not the offset expected", details=details)
        if len(self.data) + len(data) > self.acknowledged + self.window:
            raise HubError(ErrorCode.RATE_LIMITED, "beyond the credit", details={"offset": len(self.data)})
        if bytes(data[:5]) == b"crash":
            raise RuntimeError("a fault of the intake, on purpose")
        self.data += data

    def lost(self) -> None:
        """The connection is gone."""
        self.losses += 1


class Intakes:
    """The methods ``test.intake`` and what goes with it; by organisation and the name that the caller gives."""

    def __init__(self) -> None:
        self._intakes: dict[tuple[str, str], TestIntake] = {}

    def of(self, org: str, name: str) -> TestIntake:
        """Raises ``not_found``."""
        intake = self._intakes.get((org, name))
        if intake is None:
            raise not_found("intake")
        return intake

    async def open(self, caller: Caller, params: dict[str, Any]) -> Any:
        """Opens a handle: ``{name, window}``."""
        intake = TestIntake(params.get("window", 1_000_000))
        intake.handle = caller.open_handle(intake)
        self._intakes[str(caller.principal.org), params["name"]] = intake
        return {"handle": intake.handle.number, "user": caller.principal.user}

    async def credit(self, caller: Caller, params: dict[str, Any]) -> Any:
        """Acknowledges all there is and sends credit."""
        intake = self.of(str(caller.principal.org), params["name"])
        intake.acknowledged = len(intake.data)
        intake.handle.credit(intake.acknowledged, intake.window)

    async def close(self, caller: Caller, params: dict[str, Any]) -> Any:
        """Closes the handle; with ``code``, says why before."""
        intake = self.of(str(caller.principal.org), params["name"])
        if "code" in params:
            intake.handle.refuse(HubError(ErrorCode(params["code"]), "over", details={"state": "cancelled"}))
        intake.handle.close()
        intake.handle.close()
