# SPDX-License-Identifier: Apache-2.0
"""docs/journal.md and what is written into journals say the same."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8").partition("\n## The status")[0]
COMMON = {"event", "time", "monotonic_s"}
OPEN = {"warning", "segment_done"}  # their writers hand on figures under names that are not in the source there

ROWS = {
    name: set(re.findall(r"`(\w+)`", fields))
    for name, fields in re.findall(r"^\| `(\w+)` \| (?:before|after) \| ([^|]*) \|", PAGE, re.MULTILINE)
}
EXAMPLES = [json.loads(line) for line in re.findall(r"^\{.*\}$", PAGE, re.MULTILINE)]


def _is_write(node: ast.AST) -> bool:
    """``journal.write(…)``, whoever's journal it is."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "write":
        return False
    owner = node.func.value
    return (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")) == "journal"


def _strings(tree: ast.Module, function: ast.FunctionDef, argument: str) -> Iterator[str]:
    """What callers in the module give a function for one of its arguments."""
    names = [parameter.arg for parameter in function.args.args]
    place = names.index(argument) - (names[0] == "self")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == function.name:
            given = node.args[place]
            assert isinstance(given, ast.Constant), ast.unparse(node)
            yield given.value


def written() -> Iterator[tuple[str, set[str]]]:
    """Every event that gaff/ writes, with the names of its fields."""
    for path in sorted((ROOT / "gaff").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for call in (node for node in ast.walk(tree) if _is_write(node)):
            assert isinstance(call, ast.Call)
            fields = {keyword.arg for keyword in call.keywords if keyword.arg}
            event = call.args[0]
            if isinstance(event, ast.Constant):
                yield event.value, fields
                continue
            assert isinstance(event, ast.Name), ast.unparse(call)
            around = next(f for f in functions if call in ast.walk(f))
            for name in _strings(tree, around, event.id):
                yield name, fields


WRITTEN = list(written())


def test_every_event_that_is_written_is_documented_and_the_other_way_round() -> None:
    names = {name for name, _ in WRITTEN}
    assert len(names) >= 20
    assert names == set(ROWS)


@pytest.mark.parametrize(("name", "fields"), WRITTEN, ids=lambda value: value if isinstance(value, str) else "")
def test_its_fields_are_documented(name: str, fields: set[str]) -> None:
    documented = ROWS.get(name, set())
    assert fields <= documented
    if name not in OPEN:
        assert documented <= fields


def test_every_event_has_an_example_with_its_fields() -> None:
    assert sorted(example["event"] for example in EXAMPLES) == sorted(ROWS)
    for example in EXAMPLES:
        assert set(example) == COMMON | ROWS[example["event"]], example["event"]
