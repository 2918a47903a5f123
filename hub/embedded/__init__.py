"""A real Redis-compatible server and a real PostgreSQL as child processes, for `hub dev` and the tests.

Neither root nor Docker is needed, and both work. The children end with the hub, however it ends.
"""

from hub.embedded.postgres_server import PostgresServer
from hub.embedded.redis_server import RedisServer
from hub.embedded.servers import EmbeddedServers

__all__ = ["EmbeddedServers", "PostgresServer", "RedisServer"]
