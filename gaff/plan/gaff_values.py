# SPDX-License-Identifier: Apache-2.0
"""Values of the ``gaff:`` block: one parser for each kind, which takes what the YAML says or tells what it expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar, get_args

from gaff.plan.settings import (
    NICKNAMES,
    SCALES,
    ContainerSettings,
    Device,
    Engine,
    InitSpec,
    KeepSettings,
    LrSchedule,
    Moments,
    Policy,
    TrackerName,
    TrainerName,
    WatchSettings,
    usable_scale,
)

Parser = Callable[[Any], Any]
_T = TypeVar("_T")
_MOST_MINUTES = 100_000.0
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Bad(Exception):
    """What was expected instead; becomes a :class:`gaff.errors.Problem` with its place.

    Attributes:
        inside: the item or key inside the value that is meant, None for the whole.
    """

    def __init__(self, expected: str, inside: int | str | None = None) -> None:
        super().__init__(expected)
        self.inside = inside


class Unknown(Exception):
    """A key that a block inside the block does not have.

    Attributes:
        key: it.
        known: those that there are.
    """

    def __init__(self, key: str, known: Collection[str]) -> None:
        super().__init__(key)
        self.key, self.known = key, tuple(known)


def describe(value: object) -> str:
    """A value as a person would name it: its kind and itself."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the true/false value `{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"the number `{value}`"
    if isinstance(value, str):
        return f"the text `{value}`"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping" if isinstance(value, Mapping) else repr(value)


def _whole(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise Bad(f"an integer of at least {minimum}")
        return value

    return parse


def _optional(parse: Parser) -> Parser:
    return lambda value: None if value is None else parse(value)


def _reset_every(value: Any) -> int | None:
    if value == "never":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Bad("an integer of at least 1, or `never`")
    return value


def _number(expected: str, *, above: float = 0.0, zero: bool = False, most: float = _MOST_MINUTES) -> Parser:
    """A number above ``above``, and up to ``most``; with ``zero`` also 0."""

    def parse(value: Any) -> float:
        number = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
        if not number or not (above < value <= most or (zero and value == 0)):
            raise Bad(expected)
        return float(value)

    return parse


def _or_never(parse: Parser) -> Parser:
    """``never`` is None."""

    def parse_either(value: Any) -> Any:
        if value == "never":
            return None
        try:
            return parse(value)
        except Bad as expected:
            raise Bad(f"{expected}, or `never`") from None

    return parse_either


def _keep(value: Any) -> KeepSettings:
    if value == "all":
        return KeepSettings()
    if value == "resets":
        return KeepSettings(newest=1, resets=True)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return KeepSettings(newest=value)
    if not isinstance(value, Mapping):
        raise Bad("all, resets, a number of newest, or a block with the keys newest, every, resets")
    kept: KeepSettings = _block(KeepSettings, _KEEP)(value)
    return kept if kept.newest or not (kept.every or kept.resets) else replace(kept, newest=1)


def _word(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Bad(" or ".join(f"`{choice}`" for choice in choices))
        return value

    return parse


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Bad("true or false")
    return value


def _text(expected: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not value or "\n" in value or "\0" in value:
            raise Bad(expected)
        return value

    return parse


def _texts(expected: str) -> Callable[[Any], tuple[str, ...]]:
    def parse(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise Bad(f"a list, each item {expected}")
        for index, item in enumerate(value):
            if not isinstance(item, str) or not item or "\n" in item:
                raise Bad(expected, index)
        return tuple(value)

    return parse


def _environment(value: Any) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(value, Mapping):
        raise Bad("a block of variables, as KEY: value")
    for key, item in value.items():
        if not isinstance(key, str) or not _VARIABLE.fullmatch(key):
            raise Bad(f"a block of variables, whose names have letters, digits and _ (`{key}` is none)")
        if not isinstance(item, (str, int, float, type(None))) or isinstance(item, bool) or "\n" in str(item):
            raise Bad("one line of text, in quotes if need be; or null to hand on the value of this shell", key)
    return tuple((key, None if item is None else str(item)) for key, item in value.items())


def _track(value: Any) -> tuple[str, ...]:
    names = get_args(TrackerName)
    if value == "none":
        return ()
    listed = value if isinstance(value, list) else [value]
    for index, item in enumerate(listed):
        if not isinstance(item, str) or item not in names:
            raise Bad(f"{', '.join(names)}, a list of these, or none", index if listed is value else None)
    return tuple(dict.fromkeys(listed))


def _parameters(value: Any) -> tuple[str, ...]:
    expected = f"{', '.join(NICKNAMES)}, a pattern of parameter names, or a list of these"
    if value == []:
        raise Bad(f"{expected} with at least one")
    listed = value if isinstance(value, list) else [value]
    for index, item in enumerate(listed):
        if not isinstance(item, str) or not (item in NICKNAMES or _may_match_names(item)):
            raise Bad(expected, index if listed is value else None)
    return tuple(listed)


def _may_match_names(pattern: str) -> bool:
    """Whether a pattern can match ``LAYER.NAME``: a plain word without a dot is a slip of the pen."""
    return any(character in pattern for character in ".*?[")


def parse_init(text: str) -> InitSpec:
    """An ``init`` given on a command line.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    try:
        return _init(text)
    except Bad as expected:
        raise ValueError(f"must be {expected}") from None


def _init(value: Any) -> InitSpec:
    expected = Bad("config, matched, step0, normal:STD, uniform:BOUND or a .safetensors file")
    if not isinstance(value, str):
        raise expected
    if value in ("config", "matched", "step0"):
        return InitSpec(kind=value)  # type: ignore[arg-type]
    if value.endswith(".safetensors"):
        return InitSpec(kind="file", path=value)
    kind, colon, number = value.partition(":")
    if kind not in ("normal", "uniform") or not colon:
        raise expected
    try:
        size = float(number)
    except ValueError:
        raise expected from None
    if not usable_scale(size):
        raise Bad(f"{kind}: followed by a number {SCALES}")
    return InitSpec(kind="normal" if kind == "normal" else "uniform", value=size)


def _block(kind: type[_T], parsers: Mapping[str, Parser]) -> Callable[[Any], _T]:
    """A block inside the block, made into the dataclass ``kind``."""

    def parse(value: Any) -> _T:
        if not isinstance(value, Mapping):
            raise Bad(f"a block with the keys {', '.join(parsers)}")
        given = {str(key).replace("-", "_"): item for key, item in value.items()}
        for key in given:
            if key not in parsers:
                raise Unknown(key, parsers)
        lacking = [f.name for f in fields(kind) if f.default is MISSING and f.name not in given]  # type: ignore[arg-type]
        if lacking:
            raise Bad(f"a block with at least {' and '.join(lacking)}")
        values = {}
        for key, item in given.items():
            try:
                values[key] = parsers[key](item)
            except Bad as expected:
                raise Bad(str(expected), key) from None
        return kind(**values)

    return parse


_path = _text("a path")
_policy = _word(get_args(Policy))
_minutes, _seconds = _number("a number of minutes above 0"), _number("a number of seconds from 0 on", zero=True)
_factor = _number("a number above 1", above=1.0)

_WATCH: Mapping[str, Parser] = {
    "silence_minutes": _or_never(_minutes),
    "on_silence": _policy,
    "slow_factor": _or_never(_factor),
    "slow_minutes": _minutes,
    "on_slow": _policy,
    "nan_lines": _or_never(_whole(1)),
    "on_nan": _policy,
    "skipped_in_a_row": _or_never(_whole(1)),
    "on_skipped": _policy,
    "on_loss_scale": _policy,
    "high_loss_factor": _or_never(_factor),
    "on_high_loss": _policy,
    "on_late_checkpoint": _policy,
    "disk_factor": _or_never(_number("a number of checkpoint sizes above 0")),
    "restarts": _whole(0),
    "same_iteration": _whole(1),
    "backoff_seconds": _seconds,
    "grace_seconds": _seconds,
    "warning_seconds": _seconds,
}
_KEEP: Mapping[str, Parser] = {"newest": _whole(1), "every": _whole(1), "resets": _boolean}

PARSERS: Mapping[str, Parser] = {
    "reset_every": _reset_every,
    "first_reset": _optional(_whole(1)),
    "last_reset": _optional(_whole(1)),
    "parameters": _parameters,
    "init": _init,
    "moments": _word(get_args(Moments)),
    "lr_schedule": _word(get_args(LrSchedule)),
    "seed": _whole(0),
    "trainer": _word(get_args(TrainerName)),
    "neox_dir": _optional(_path),
    "neox_python": _optional(_path),
    "device": _word(get_args(Device)),
    "container": _optional(
        _block(
            ContainerSettings,
            {
                "engine": _word(get_args(Engine)),
                "image": _text("an .sif file, or an image's name"),
                "neox_dir": _path,
                "python": _path,
                "binds": _texts("HOST, HOST:INSIDE or HOST:INSIDE:ro"),
                "options": _texts("one word of a command line"),
            },
        )
    ),
    "environment": _environment,
    "watch": _block(WatchSettings, _WATCH),
    "notify": _optional(_text("a shell command in one line")),
    "track": _track,
    "save_forgotten": _boolean,
    "keep": _keep,
}

#: How each key may be written, for the sentence that refuses another value.
EXAMPLES: Mapping[str, str] = {
    "reset_every": "1000",
    "first_reset": "1000",
    "last_reset": "50000",
    "parameters": "input_embedding",
    "init": "normal:0.02",
    "moments": "zero",
    "lr_schedule": "continue",
    "seed": "1234",
    "trainer": "auto",
    "neox_dir": "/path/to/gpt-neox",
    "neox_python": "/path/to/venv/bin/python",
    "device": "gpu",
    "container": "{engine: apptainer, image: gpt-neox.sif}",
    "environment": '{NCCL_DEBUG: "WARN"}',
    "watch": "{silence_minutes: 30, on_nan: stop}",
    "notify": "mail -s $GAFF_EVENT me@example.org",
    "track": "[tensorboard, wandb]",
    "save_forgotten": "true",
    "keep": "{newest: 2, every: 10000, resets: true}",
}
