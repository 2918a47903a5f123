"""The account that embedded servers run as: the current user, or ``nobody`` for root, whom PostgreSQL refuses."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple


class Account(NamedTuple):
    """A user and group that servers are dropped to."""

    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether the mode bits let this account, which owns nothing there, run or enter ``path`` from the root on."""
        return all(part.stat().st_mode & 0o001 for part in (path, *path.absolute().parents))

    def give(self, path: Path) -> None:
        """Makes this account the owner of ``path`` and everything in it, unless it is already."""
        if path.lstat().st_uid == self.uid:
            return
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), self.uid, self.gid, follow_symlinks=False)
        # Last, because it is what is looked at above: an interruption must not leave a half-given tree behind.
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def server_account() -> Account | None:
    """``nobody`` when the hub runs as root, else None: the servers run as the hub does."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)
