"""Names of what is in a store. Nothing else makes one, so nothing leads out of the store's root or into another
organisation.
"""

from __future__ import annotations

import re
from typing import Final

from hub.api import OrgId

CONTENT: Final = "content"
PARTS: Final = "parts"

# No slash, and no dot in front: neither "." nor ".." nor a hidden file.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def upload_path(org: OrgId, upload: str) -> str:
    """``<org>/<upload>``. Raises ``TypeError`` for a plain string as organisation, ``ValueError`` for other names."""
    if not isinstance(org, OrgId):
        raise TypeError("an OrgId is needed here; a plain string may not name an organisation")
    return f"{org}/{checked(upload)}"


def content_path(org: OrgId, upload: str) -> str:
    """The object that has the content."""
    return f"{upload_path(org, upload)}/{CONTENT}"


def part_path(org: OrgId, upload: str, name: str) -> str:
    """The object of a part."""
    return f"{upload_path(org, upload)}/{PARTS}/{checked(name)}"


def check_part_path(org: OrgId, path: str) -> str:
    """``path``, if it is a part of some upload of ``org``. Raises ``ValueError`` when it is not."""
    pieces = path.split("/")
    if len(pieces) != 4 or part_path(org, pieces[1], pieces[3]) != path:
        raise ValueError(f"{path!r} is no part of an upload of {org}")
    return path


def is_name(name: str) -> bool:
    """Whether it may stand in a path; a folder that others have made, such as ``lost+found``, may have other names."""
    return _NAME.fullmatch(name) is not None


def checked(name: str) -> str:
    """``name``, if it may stand in a path. Raises ``ValueError`` when it may not."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name in a store; it must match {_NAME.pattern}")
    return name
