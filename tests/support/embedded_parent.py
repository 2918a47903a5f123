"""A process that starts embedded servers and then only waits: what `hub dev` is to them. Run by the tests as a script.

Arguments: the data folder or ``-`` for a temporary one, and optionally ``nobody`` to become that user first. Prints one
line of JSON when both servers answer, and stops them in order on SIGTERM and on Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from hub.embedded import EmbeddedServers
from hub.embedded.account import server_account
from hub.errors import ConfigError


def main() -> None:
    folder, *user = sys.argv[1:]
    account = server_account()
    if user and account is not None:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with EmbeddedServers(None if folder == "-" else Path(folder)) as servers:
            answer = {
                "pids": [servers.redis.pid, servers.postgres.pid],
                "path": str(servers.path),
                "redis": servers.redis.url,
                "postgres": servers.postgres.url(),
                "uid": os.geteuid(),
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            while True:
                time.sleep(0.5)  # not ``pause``: a signal that comes right before it would not end it
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
