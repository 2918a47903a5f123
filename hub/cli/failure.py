"""How a command fails: one line on stderr that says what to change, and an exit code. Never a traceback.

Exit codes: 0 done; 1 it did not work; 2 a setting, option or argument is wrong; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import typer

from hub.errors import ConfigError

FAILED = 1
WRONG_SETTING = 2
INTERRUPTED = 130

P = ParamSpec("P")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Prints ``message``, a line per line, and ends the command."""
    for line in message.splitlines():
        print(f"hub: {line}", file=sys.stderr)
    raise typer.Exit(code)


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose failures are reported as this module says."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            fail(str(error), WRONG_SETTING)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has left (`hub tail … | head`): write no more, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            _explain(error)

    return run


def _explain(error: Exception) -> NoReturn:
    if type(error).__module__.partition(".")[0] in ("click", "typer"):
        raise error
    if os.environ.get("LOG_LEVEL", "").lower() == "debug":
        raise error
    if type(error).__module__.startswith("hub.") or isinstance(error, OSError):
        fail(str(error) or type(error).__name__)
    fail(f"internal fault: {type(error).__name__}: {error} (LOG_LEVEL=debug shows where)")
