"""Looks into folders while others work in them."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below, as far as it is there. ``Path.rglob`` fails when a folder goes away while it looks."""
    for parent, _, names in os.walk(folder):  # passes over what cannot be read
        for name in names:
            yield Path(parent) / name
