# SPDX-License-Identifier: Apache-2.0
"""One YAML file, read as GPT-NeoX reads it, with the line of every key and the traps of YAML 1.1 found.

GPT-NeoX uses PyYAML's FullLoader, so this does too: what it makes of a file is what GPT-NeoX will see.  Where YAML 1.1
means something else than the person who wrote it (``1e-8`` is text, ``010`` is eight), that is a problem with file and
line, not a crash of the trainer hours later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gaff.errors import InputError, Location, Problem
from gaff.plan.neox_keys import is_numeric, is_text

_SCIENTIFIC = re.compile(r"([-+]?)(?=\.?\d)(\d[\d_]*)?(\.[\d_]*)?[eE]([-+]?\d+)")
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_OCTAL = re.compile(r"([-+]?)0([0-9_]+)")

_DEEPEST = 50  # levels; GPT-NeoX's own configs have four

_YAML = "tag:yaml.org,2002:"
_STR, _INT, _FLOAT, _DATE = (f"{_YAML}{name}" for name in ("str", "int", "float", "timestamp"))
#: What GPT-NeoX can hand on to its ranks, which it does as JSON; dates are told of as traps.
_PLAIN = frozenset(f"{_YAML}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq"))


@dataclass(frozen=True)
class YamlSource:
    """What one file says.

    Attributes:
        values: top-level keys with ``-`` turned into ``_``, as GPT-NeoX does; the ``gaff`` block is among them.
        places: dotted key -> where it stands.  Items of a list are numbered from 0: ``train_data_paths.0``.
        warnings: keys that stand twice, where GPT-NeoX takes the last one.
        problems: traps, and keys that stand twice in the ``gaff:`` block.
        trapped: dotted keys of the traps.
    """

    values: dict[str, Any]
    places: dict[str, Location] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    trapped: frozenset[str] = frozenset()


def read_yaml(path: Path) -> YamlSource:
    """Read one config file.

    Raises:
        InputError: the file cannot be read, is no YAML, is empty or is not a mapping.  Traps are returned, not raised,
            so that all of them can be shown in one go.
    """
    return parse_yaml(_read_text(path), str(path))


def parse_yaml(text: str, file: str) -> YamlSource:
    """As :func:`read_yaml`, for text already read from ``file``."""
    walk = _Walk(file)
    values = _load(text, walk, "")
    if values is None:
        raise _error(
            "config-empty", "the file holds no keys", "write GPT-NeoX keys and a `gaff:` block", Location(file)
        )
    if not isinstance(values, dict):
        raise _error(
            "config-not-mapping",
            "a config file is a list of `key: value` lines, and this is not one",
            "write one `key: value` per line",
            Location(file, walk.first_line),
        )
    return YamlSource(
        values={_name(key): value for key, value in values.items()},
        places=walk.places,
        warnings=tuple(walk.warnings),
        problems=tuple(walk.problems),
        trapped=frozenset(walk.trapped),
    )


def parse_value(text: str, file: str, dotted: str) -> tuple[Any, tuple[Problem, ...]]:
    """The value of an override, read by the same rules as in a file; and the traps in it."""
    walk = _Walk(file, lines=False)
    return _load(text, walk, dotted), tuple(walk.problems)


def _error(id: str, what: str, remedy: str, where: Location) -> InputError:
    return InputError(Problem(id, what, remedy, where))


def _read_text(path: Path) -> str:
    where = Location(str(path))
    if path.is_dir():
        raise _error("config-is-directory", "this is a directory, not a config file", "name the YAML file in it", where)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _error(
            "config-missing", "there is no such config file", "check the path given with --config", where
        ) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise _error(
            "config-not-text", "this is not UTF-8 text", "give a YAML file", Location(str(path), line)
        ) from None
    except OSError as error:
        what = f"the config file cannot be read ({error.strerror})"
        raise _error("config-unreadable", what, "check its permissions", where) from None


def _load(text: str, walk: _Walk, dotted: str) -> Any:
    """Compose, look at the nodes, then construct: only nodes know their lines and whether a word was quoted."""
    loader = None
    try:
        loader = yaml.FullLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        walk.first_line = root.start_mark.line + 1
        walk.node(root, dotted)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = ", ".join(str(part) for part in (error.context, error.problem) if part)
        where = walk.at(mark.line + 1 if mark else 0)
        raise _error(
            "config-syntax", f"this is not YAML ({detail})", "mend this line or the one above it", where
        ) from None
    except yaml.reader.ReaderError as error:
        where = walk.at(text[: error.position].count("\n") + 1)
        raise _error("config-syntax", "a control character stands here", "remove it", where) from None
    except RecursionError:
        raise _too_deep(walk.at(0)) from None
    except (ValueError, TypeError) as error:  # PyYAML lets these through: an impossible date, an unhashable key
        raise _error("config-syntax", f"a value cannot be read ({error})", "put it in quotes", walk.at(0)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _too_deep(where: Location) -> InputError:
    what = f"values are nested more than {_DEEPEST} deep"
    return _error("config-too-deep", what, "write the config flatter", where)


def _name(key: object) -> str:
    return str(key).replace("-", "_")


class _Walk:
    """One walk over the nodes of a file, gathering places, warnings and problems."""

    def __init__(self, file: str, lines: bool = True) -> None:
        self.file = file
        self.lines = lines
        self.first_line = 1
        self.places: dict[str, Location] = {}
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []
        self.trapped: set[str] = set()
        self._seen: set[int] = set()  # an aliased node is looked at once
        self._open: set[int] = set()  # nodes around the present one

    def at(self, line: int) -> Location:
        return Location(self.file, line if self.lines else 0)

    def node(self, node: yaml.Node, dotted: str) -> None:
        if len(self._open) > _DEEPEST:
            raise _too_deep(self.at(node.start_mark.line + 1))
        if id(node) in self._open:
            where = self.at(node.start_mark.line + 1)
            self.problems.append(Problem("yaml-circular", f"`{dotted}` holds itself", "remove the alias", where))
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        self._open.add(id(node))
        self._tag(node, dotted)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, dotted)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.places[f"{dotted}.{index}"] = self.at(item.start_mark.line + 1)
                self.node(item, f"{dotted}.{index}")
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(node, dotted)
        self._open.discard(id(node))

    def _tag(self, node: yaml.Node, dotted: str) -> None:
        if node.tag not in _PLAIN:
            what = f"`{dotted}` is a `!!{node.tag.removeprefix(_YAML)}`, which GPT-NeoX cannot hand on to its ranks"
            where = self.at(node.start_mark.line + 1)
            self.problems.append(Problem("yaml-tag", what, "write text, numbers, lists and mappings", where))

    def _mapping(self, node: yaml.MappingNode, dotted: str) -> None:
        ours = dotted == "gaff" or dotted.startswith("gaff.")
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value) if dotted and not ours else _name(key.value)
            if name == "<<":
                self.node(value, dotted)
                continue
            path = f"{dotted}.{name}" if dotted else name
            if key.tag == _DATE:
                what, remedy = f"the key `{path}` is a date to YAML", "put it in quotes"
                self.problems.append(Problem("yaml-trap", what, remedy, self.at(line)))
            if name in first:
                self._twice(path, first[name], line, ours or path == "gaff")
            first[name] = line
            self.places[path] = self.at(line)
            self.node(value, path)

    def _twice(self, path: str, first: int, line: int, ours: bool) -> None:
        what = f"`{path}` stands here a second time (first in line {first})"
        if ours:
            self.problems.append(Problem("gaff-duplicate-key", what, "remove one of them", self.at(line)))
        else:
            said = f"{what}, and this one wins"
            self.warnings.append(Problem("duplicate-key", said, "remove one of them", self.at(line)))

    def _scalar(self, node: yaml.ScalarNode, dotted: str) -> None:
        trap = _trap(str(node.value), node.tag, node.style is None, _without_index(dotted))
        if trap:
            what, remedy = trap
            where = self.at(node.start_mark.line + 1)
            self.trapped.add(dotted)
            self.problems.append(Problem("yaml-trap", f"`{dotted}: {node.value}` {what}", remedy, where))


def _without_index(dotted: str) -> str:
    return re.sub(r"(\.\d+)+$", "", dotted)


def _trap(text: str, tag: str, plain: bool, key: str) -> tuple[str, str] | None:
    """(what is wrong, remedy) where YAML 1.1 reads ``text`` as something else than it looks."""
    numeric = is_numeric(key)
    if tag == _STR and plain and not is_text(key) and (match := _SCIENTIFIC.fullmatch(text)):
        return "is text to YAML, not a number", f"write {_with_point(match)}"
    if tag == _STR and numeric and _NUMBER.fullmatch(text):
        if plain:
            return "is text to YAML, not a number", f"write {text.lstrip('0') or '0'}"
        return "is text because of the quotes, not a number", "remove the quotes"
    if tag == _INT and plain and (match := _OCTAL.fullmatch(text)):
        value = int(text.replace("_", ""), 8)
        return (
            f"is an octal number to YAML, that is {value}",
            f"write {match[1]}{match[2].lstrip('0') or '0'} or {value}",
        )
    if tag in (_INT, _FLOAT) and plain and ":" in text:
        return "is a number to base 60 in YAML", "write it as one number, or in quotes if it is text"
    if tag == _DATE and plain:
        return "is a date to YAML", "put it in quotes"
    return None


def _with_point(match: re.Match[str]) -> str:
    sign, whole, fraction, exponent = match.groups()
    fraction = "." + ((fraction or ".")[1:] or "0")
    return f"{sign}{whole or '0'}{fraction}e{exponent if exponent[0] in '+-' else '+' + exponent}"
