"""The ``hub`` command. One file per group of commands; each imports what it needs when it runs.

So ``hub token`` starts quickly, and the client's commands (``publish``, ``tail``, ``kick``) load no server library.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``hub`` command."""
    from hub.cli.commands import app

    app()
