"""PostgreSQL: the pool that serves, migrations, and the outbox as its relay sees it.

``pool`` is what services get; ``migrate`` is for the owner; ``outbox`` is for the relay alone.
"""

from hub.database.pool import Database, Transaction

__all__ = ["Database", "Transaction"]
