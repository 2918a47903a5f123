"""flagd's targeting rules in a file: which operators there are, references put in, and variants that exist.

What a rule means is flagd-core's; here it is made sure that evaluating it is bounded and names variants that exist.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping as Variants
from difflib import get_close_matches
from typing import Any, Final

from hub.config.flag_bounds import FLAG_FILE_DEPTH, FLAG_RULE_NODES
from hub.flags.document import Faults, Mapping, Node, Scalar, Sequence, scalar_value

_ANY: Final = 1_000
_OPERATORS: Final[Variants[str, tuple[int, int]]] = {
    **dict.fromkeys(("==", "===", "!=", "!==", "%", "/", "map", "filter", "all", "none", "some", "in"), (2, 2)),
    **dict.fromkeys((">", ">=", "<", "<="), (2, 3)),
    **dict.fromkeys(("+", "*", "-", "min", "max", "and", "or", "cat", "merge"), (1, _ANY)),
    **dict.fromkeys(("!", "!!"), (1, 1)),
    "var": (0, 2),
    "missing": (0, _ANY),
    "missing_some": (2, 2),
    "if": (2, _ANY),
    "reduce": (2, 3),
    "substr": (2, 3),
    "starts_with": (2, 2),
    "ends_with": (2, 2),
    "sem_ver": (3, 3),
    "fractional": (1, _ANY),
}
"""Operator -> least and most arguments. ``log`` of JSON logic is not there: it would write to the standard output."""

_COMPARISONS: Final = ("=", "!=", ">", "<", ">=", "<=", "~", "^")
_MAX_WEIGHTS: Final = 2_147_483_647


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence about a name that is not known."""
    close = get_close_matches(name, known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"


class Rules:
    """Reads the rules of one file. ``evaluators`` are what ``$ref`` may name."""

    def __init__(self, evaluators: Variants[str, Node], faults: Faults) -> None:
        self._evaluators = evaluators
        self._faults = faults
        self._way: list[str] = []
        self._nodes = 0
        self._told_size = False
        self._told_loops: set[frozenset[str]] = set()
        self._variants: Collection[str] | None = None

    def rule(self, node: Node, variants: Collection[str] | None, name: str = "") -> dict[str, Any] | None:
        """The rule of a flag with these variants, references put in; None for one that says nothing, or is wrong.

        ``variants`` None: a shared rule, called ``name``, whose outcome is not known to be a variant.
        """
        self._nodes, self._way, self._variants = 0, [name], variants
        if isinstance(node, Scalar) and scalar_value(node, self._faults) is None:
            return None
        if not isinstance(node, Mapping):
            self._faults.add(node.line, 'targeting is a rule, as {"if": [condition, "variant", null]}')
            return None
        if not node.items:
            return None
        read = self._value(node, outcome=variants is not None, depth=0)
        return read if isinstance(read, dict) else None

    def _value(self, node: Node, *, outcome: bool, depth: int) -> Any:
        """``outcome``: what comes out of it names a variant."""
        self._nodes += 1
        if self._nodes > FLAG_RULE_NODES or depth > FLAG_FILE_DEPTH:
            self._nodes = FLAG_RULE_NODES
            if not self._told_size:
                self._faults.add(node.line, "the rule is too large once its references are put in; make it simpler")
            self._told_size = True
            return None
        if isinstance(node, Mapping):
            return self._operation(node, outcome=outcome, depth=depth)
        if isinstance(node, Sequence):
            if outcome:
                self._faults.add(node.line, "a list where the rule names a variant; write the name of one")
            return [self._value(item, outcome=False, depth=depth + 1) for item in node.items]
        assert isinstance(node, Scalar)  # noqa: S101 - there are three kinds of nodes
        return self._outcome(node) if outcome else scalar_value(node, self._faults)

    def _outcome(self, node: Scalar) -> Any:
        """A value that names a variant. Unquoted on and off are such names here, and can be nothing else."""
        value = node.text if node.is_switch_word else scalar_value(node, self._faults)
        if value is None:
            return None
        name = str(value).lower() if isinstance(value, bool) else value
        if not isinstance(name, str):
            self._faults.add(node.line, f"{node.text} where the rule names a variant; write the name of one in quotes")
        elif self._variants is not None and name not in self._variants:
            self._faults.add(node.line, f"there is no variant {name[:80]}: {nearest(name, self._variants)}")
        return value

    def _operation(self, node: Mapping, *, outcome: bool, depth: int) -> Any:
        if len(node.items) != 1:
            self._faults.add(
                node.line, f"a rule has one operator, this has {len(node.items)}: {', '.join(node.items)[:80]}"
            )
            return None
        ((operator, (line, given)),) = node.items.items()
        if operator == "$ref":
            return self._reference(given, line, outcome=outcome, depth=depth)
        if operator not in _OPERATORS:
            self._faults.add(line, f"there is no operator {operator[:80]}; {nearest(operator, _OPERATORS)}")
            return None
        listed = isinstance(given, Sequence)
        arguments = given.items if isinstance(given, Sequence) else [given]
        least, most = _OPERATORS[operator]
        if not least <= len(arguments) <= most:
            wanted = f"{least}" if least == most else f"{least} or more" if most == _ANY else f"{least} to {most}"
            self._faults.add(line, f"{operator} takes {wanted} arguments, here are {len(arguments)}")
            return None
        if operator == "fractional":
            return {operator: self._fractional(arguments, outcome=outcome, depth=depth + 1)}
        read = []
        for index, argument in enumerate(arguments):
            branch = operator == "if" and (index % 2 == 1 or (index == len(arguments) - 1 and index > 0))
            read.append(self._value(argument, outcome=outcome and branch, depth=depth + 1))
        if operator == "sem_ver" and isinstance(read[1], str) and read[1] not in _COMPARISONS:
            self._faults.add(line, f"sem_ver compares by one of {' '.join(_COMPARISONS)}, not by {read[1][:20]}")
        return {operator: read if listed else read[0]}

    def _reference(self, given: Node, line: int, *, outcome: bool, depth: int) -> Any:
        name = given.text if isinstance(given, Scalar) else ""
        if name not in self._evaluators:
            known = nearest(name, self._evaluators) if self._evaluators else "the file has no $evaluators"
            self._faults.add(line, f"$ref: there is no rule {name[:80]} below $evaluators; {known}")
            return None
        if name in self._way:
            loop = self._way[self._way.index(name) :]
            if frozenset(loop) not in self._told_loops:
                self._faults.add(line, f"the rule loops: {' → '.join([*loop, name])}; take one $ref out")
            self._told_loops.add(frozenset(loop))
            return None
        self._way.append(name)
        read = self._value(self._evaluators[name], outcome=outcome, depth=depth + 1)
        self._way.pop()
        return read

    def _fractional(self, arguments: list[Node], *, outcome: bool, depth: int) -> list[Any]:
        read: list[Any] = []
        total = 0
        for index, argument in enumerate(arguments):
            if isinstance(argument, Sequence):
                bucket, weight = self._bucket(argument, outcome=outcome, depth=depth)
                read.append(bucket)
                total += weight
            elif index == 0:
                read.append(self._value(argument, outcome=False, depth=depth))
            else:
                self._faults.add(argument.line, 'a bucket of fractional is a list, as ["on", 25]')
        if not 0 < total <= _MAX_WEIGHTS and arguments:
            text = f"the weights of fractional add up to {total}; they must be more than 0 and at most {_MAX_WEIGHTS}"
            self._faults.add(arguments[0].line, text)
        return read

    def _bucket(self, node: Sequence, *, outcome: bool, depth: int) -> tuple[list[Any], int]:
        """A bucket, and its weight; one that is computed counts 1."""
        if not 1 <= len(node.items) <= 2:
            self._faults.add(node.line, 'a bucket of fractional is a name and a weight, as ["on", 25]')
            return [], 1
        read = [self._value(node.items[0], outcome=outcome, depth=depth + 1)]
        if len(node.items) == 1:
            return read, 1
        weight = self._value(node.items[1], outcome=False, depth=depth + 1)
        read.append(weight)
        if isinstance(weight, dict):
            return read, 1
        if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
            self._faults.add(
                node.line, f"{str(weight)[:40]} is no weight; weights of fractional are whole numbers from 0"
            )
            return read, 1
        return read, weight
