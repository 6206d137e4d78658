# SPDX-License-Identifier: Apache-2.0
"""The effective config of a run: one or several YAML files and ``-o`` overrides, merged, with the place of every key.

Merging: a key in a later file replaces that of an earlier one as a whole, mappings such as ``optimizer`` included; only
the ``gaff:`` block merges key by key.  Overrides come last and reach into mappings: ``-o optimizer.params.lr=0.001``.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gaff.errors import InputError, Location, Problem
from gaff.plan.gaff_block import dump_block, parse_block
from gaff.plan.neox_keys import KINDS
from gaff.plan.paths import absolute_paths, absolute_settings
from gaff.plan.settings import GaffSettings
from gaff.plan.yaml_source import parse_value, read_yaml


@dataclass(frozen=True)
class Config:
    """What a run is made from.  Two configs are equal when they say the same, wherever it was written.

    Attributes:
        neox: GPT-NeoX's own keys, with ``_`` for ``-`` and absolute paths.  Not to be changed in place.
        gaff: the ``gaff:`` block, checked.
        places: dotted key (``train_iters``, ``gaff.reset_every``, ``optimizer.params.eps``) -> where it stands.
        sources: the files, in the order given.
        warnings: what was noticed while reading.
    """

    neox: Mapping[str, Any]
    gaff: GaffSettings
    places: Mapping[str, Location] = field(default_factory=dict, compare=False)
    sources: tuple[Path, ...] = field(default=(), compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def where(self, dotted: str) -> Location | None:
        """Where a key stands, or the nearest key around it; None when neither was written by anybody."""
        return _nearest(self.places, dotted)

    def get(self, key: str, default: Any = None) -> Any:
        """A GPT-NeoX key; dots reach into mappings.  ``null`` means not given, as it does to GPT-NeoX."""
        value: Any = self.neox
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def problem(self, id: str, key: str, what: str, remedy: str) -> Problem:
        """A problem with ``key``, placed where it stands; where nobody wrote it, in the first file."""
        first = Location(str(self.sources[0])) if self.sources else None
        return Problem(id, what, remedy, self.where(key) or first)

    def to_yaml(self) -> str:
        """The whole config as one file, the ``gaff:`` block last.  :func:`load_config` reads an equal config back."""
        whole = {**self.neox, "gaff": dump_block(self.gaff)}
        return yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """No anchors: they are right, but nobody reads them with ease."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def load_config(paths: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Read, merge and convert; nothing outside the config files is looked at.

    Raises:
        InputError: with every problem found in any of the files and overrides.
    """
    draft = _Draft()
    for path in paths:
        draft.add_file(Path(path))
    for override in overrides:
        draft.add_override(override)
    if not draft.readable:
        raise InputError(draft.problems)
    settings, problems = parse_block(draft.values.pop("gaff", None), draft.where, draft.trapped)
    problems = [*draft.problems, *problems]
    if problems or settings is None:
        raise InputError(problems)
    cwd = Path.cwd()
    return Config(
        neox=absolute_paths(draft.values, cwd),
        gaff=absolute_settings(settings, cwd),
        places=draft.places,
        sources=tuple(Path(path) for path in paths),
        warnings=(*draft.warnings, *_near_misses(draft)),
    )


class _Draft:
    """Files and overrides, merged so far."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[str, Location] = {}
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []
        self.trapped: set[str] = set()  # dotted keys whose values are told of in problems
        self.readable = True
        self._first_file: Location | None = None

    def where(self, dotted: str) -> Location | None:
        return _nearest(self.places, dotted) or self._first_file

    def add_file(self, path: Path) -> None:
        self._first_file = self._first_file or Location(str(path))
        try:
            source = read_yaml(path)
        except InputError as error:
            self.problems.extend(error.problems)
            self.readable = False
            return
        self.warnings.extend(source.warnings)
        self.problems.extend(source.problems)
        self.trapped |= source.trapped
        for key, value in source.values.items():
            if key == "gaff" and isinstance(value, Mapping):
                self._merge_block(value, source.places)
            else:
                self._replace(key, value, source.places)

    def _merge_block(self, block: Mapping[Any, Any], places: Mapping[str, Location]) -> None:
        merged = self.values.get("gaff")
        self.values["gaff"] = merged = dict(merged) if isinstance(merged, Mapping) else {}
        self.places.setdefault("gaff", places["gaff"])
        for key, value in block.items():
            name = str(key).replace("-", "_")
            self._note_second(f"gaff.{name}", name in merged, places)
            merged[name] = value
            self._move_places(f"gaff.{name}", places)

    def _replace(self, key: str, value: Any, places: Mapping[str, Location]) -> None:
        self._note_second(key, key in self.values, places)
        self.values[key] = value
        self._move_places(key, places)

    def _note_second(self, dotted: str, again: bool, places: Mapping[str, Location]) -> None:
        if again:
            what = f"`{dotted}` replaces that of {self.where(dotted)}"
            self.warnings.append(
                Problem("key-in-two-files", what, "remove one if that is not wanted", places.get(dotted))
            )

    def _move_places(self, dotted: str, places: Mapping[str, Location]) -> None:
        inside = f"{dotted}."
        self.places = {k: v for k, v in self.places.items() if k != dotted and not k.startswith(inside)}
        self.places.update({k: v for k, v in places.items() if k == dotted or k.startswith(inside)})

    def add_override(self, text: str) -> None:
        where = Location(f"-o {text}")
        left, equals, right = text.partition("=")
        parts = left.strip().split(".")
        parts[0] = parts[0].replace("-", "_")
        if parts[0] == "gaff":
            parts = [part.replace("-", "_") for part in parts]
        if not equals or not all(parts) or parts == ["gaff"]:
            what = "an override is written key=value"
            remedy = "write for example -o train_iters=400 or -o gaff.reset_every=100"
            self.problems.append(Problem("override-syntax", what, remedy, where))
            return
        try:
            value, problems = parse_value(right, str(where), ".".join(parts))
        except InputError as error:
            self.problems.extend(error.problems)
            return
        self.problems.extend(problems)
        if problems:
            self.trapped.add(".".join(parts))
        self._set(parts, value, where)

    def _set(self, parts: list[str], value: Any, where: Location) -> None:
        target = self.values
        for depth, part in enumerate(parts[:-1], start=1):
            inner = target.get(part)
            if inner is not None and not isinstance(inner, Mapping):
                what = f"`{'.'.join(parts[:depth])}` has no keys inside it"
                self.problems.append(Problem("override-path", what, "override that key itself", where))
                return
            target[part] = dict(copy.copy(inner or {}))
            target = target[part]
        target[parts[-1]] = value
        dotted = ".".join(parts)
        self._move_places(dotted, {dotted: where})


def _nearest(places: Mapping[str, Location], dotted: str) -> Location | None:
    while dotted:
        if dotted in places:
            return places[dotted]
        dotted = dotted.rpartition(".")[0]
    return None


def _near_misses(draft: _Draft) -> list[Problem]:
    """Keys that GPT-NeoX does not have (it refuses them at its start), where one that it has is spelt almost so."""
    found = []
    for key in draft.values:
        near = [] if key in KINDS else difflib.get_close_matches(key, KINDS, n=1, cutoff=0.85)
        if near:
            what = f"GPT-NeoX has no key `{key}`"
            found.append(Problem("key-near-miss", what, f"did you mean `{near[0]}`?", draft.where(key)))
    return found
