"""asyncpg's exceptions into ``HubError``, once, at the border of this package.

Translates what an operator or a retry can help, and values that come from clients and that PostgreSQL does not know.
A broken constraint or a wrong statement stays what it is: a fault of the code that wrote it, or an answer that it waits
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from hub.errors import ErrorCode, HubError, bad_request, unavailable

LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What using a connection can raise that is not in order any more."""

_UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    # Shut down, starting up, or a statement or session ended by a timeout.
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    # It is a replica just now: a failover is under way.
    asyncpg.ReadOnlySQLTransactionError,
    # What asyncpg's state machine says when the server's farewell comes between two statements.
    asyncpg.InternalClientError,
)
# A net under what should have been checked: a character U+0000, a number that is too large. ``DataError`` itself is
# what asyncpg says of them before it asks; of its other kinds (a division by zero) the statement is to blame.
_NO_VALUE = (
    asyncpg.DataError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.NumericValueOutOfRangeError,
)
_OVERTAKEN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


@contextmanager
def translated() -> Iterator[None]:
    """Raises ``unavailable`` when the database cannot be reached, ``conflict`` (try again now) when it was overtaken,
    and ``bad_request`` for a value that it cannot keep.

    The cause stays attached, for the log.
    """
    try:
        yield
    except _UNREACHABLE as error:
        raise unavailable("the database") from error
    except _OVERTAKEN as error:
        raise HubError(
            ErrorCode.CONFLICT, "another transaction came between; try again", retry="now", retry_after_ms=0
        ) from error
    except asyncpg.DataError as error:
        if type(error) in _NO_VALUE:
            raise bad_request("a value has a character or a size that cannot be stored") from error
        raise
    except asyncpg.InterfaceError as error:
        # One class for a connection that is gone and for a wrong call; only the text tells which. A pool takes back a
        # connection that was lost, so to its user it looks like one that was given back.
        if "clos" in str(error) or "released" in str(error):
            raise unavailable("the database") from error
        raise
