"""Bounds of a file of feature flags. Not settings: a file that needs more is a fault, and says so."""

from __future__ import annotations

from typing import Final

FLAG_FILE_BYTES: Final = 262_144
"""Largest file that is read; a thousand flags with their descriptions need less."""

FLAG_FILE_DEPTH: Final = 40
"""Deepest nesting of a file, and of a rule with its references put in: the rule is evaluated by recursion."""

FLAG_FILE_NODES: Final = 30_000
"""Values, lists and mappings in a file: reading them takes about a second."""

FLAG_FILE_FAULTS: Final = 20
"""Faults of one file that are told at once."""

FLAG_RULE_NODES: Final = 2_000
"""Size of one flag's rule with its references put in; references that double one another grow without end."""

FLAG_MAPPINGS: Final = 1_024
"""Different outcomes of all flags that are shared by those who have the same; more of them are made anew."""

FLAG_SUBJECTS: Final = 16_384
"""Subjects whose flags are remembered; of those before them, and before the last changes, as many again."""

FLAG_LEAST_WINDOW_S: Final = 10.0
"""Of the guards of a schedule: five times the default of ``flags_report_s``, so that every node is heard in it."""

FLAG_CLIENTS: Final = 100_000
"""Clients whose share in the figures of one schedule a node keeps for a window; what further ones do is not counted."""
