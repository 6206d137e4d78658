# SPDX-License-Identifier: Apache-2.0
"""What GAFF adds or changes on the user's behalf in the GPT-NeoX keys of a segment, and why.  Pure.

The one place where it is decided: trainers apply the list (:func:`apply`) and the plan shows it, so neither can drift
from the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from gaff.plan.config import Config
from gaff.plan.learning_rate import added_decay_iters
from gaff.plan.schedule import Segment
from gaff.plan.typed import items, pipeline

#: What stands in the plan for what only the run knows.
SAVE_OF_THE_RUN = "<run directory>/checkpoints"
FREE_PORT = "a free port"


@dataclass(frozen=True)
class Change:
    """One key that a segment's config has otherwise than the user's.

    Attributes:
        key: GPT-NeoX's.
        given: the user's value, None where there is none.
        written: what GAFF writes instead, None where the key is left out.
        why: a clause without a final full stop.
    """

    key: str
    given: Any
    written: Any
    why: str


def changes(
    config: Config,
    *,
    start: int,
    stop: int,
    save: str,
    master_port: int | str,
    validates_pipelines: bool,
    launcher: Mapping[str, Any] = MappingProxyType({}),
) -> list[Change]:
    """All changes for one segment; a key that already says what GAFF would write is not among them.

    Args:
        config: the user's.
        start, stop: iterations ``start`` (exclusive) to ``stop`` (inclusive).
        save: the checkpoint directory.
        master_port: a free TCP port.
        validates_pipelines: whether the trainer can validate with ``pipe_parallel_size`` of 1 or more.  GPT-NeoX
            cannot (``TypeError: iteration over a 0-d tensor``, exit code 1), so it is told not to.
        launcher: keys that the trainer's launcher needs.
    """
    wanted = [
        *_place(config, start, stop, save),
        ("master_port", master_port, "free at the launch, so that runs on one machine do not collide"),
        *_on_behalf(config, validates_pipelines),
        *((key, value, "the launcher needs it") for key, value in launcher.items()),
        *_removed(config),
    ]
    found = [Change(key, config.get(key), written, why) for key, written, why in wanted]
    return [
        change for change in found if type(change.given) is not type(change.written) or change.given != change.written
    ]


_Wanted = Iterator[tuple[str, Any, str]]


def _place(config: Config, start: int, stop: int, save: str) -> _Wanted:
    """Where a segment starts, stops and saves."""
    yield "save", save, "the run's checkpoints"
    load, tag = (save, start) if start > 0 else (None, None)
    yield "load", load, "it resumes from the run's own checkpoints"
    yield "iteration", tag, "the exact tag to resume from, whatever `latest` says"
    yield "exit_interval", stop, "GPT-NeoX stops by itself at the segment's end"
    saves = {*(i for i in items(config, "extra_save_iters") if type(i) is int), stop}
    why = "a checkpoint at the segment's end"
    if config.gaff.init.kind == "step0":
        saves.add(0)
        why += " and at 0, for `init: step0`"
    yield "extra_save_iters", sorted(saves), why


def _on_behalf(config: Config, validates_pipelines: bool) -> _Wanted:
    if not validates_pipelines and pipeline(config) >= 1:
        yield "eval_iters", 0, "validation crashes GPT-NeoX when pipe_parallel_size is 1 or more"
    if config.get("use_wandb") is None:
        yield "use_wandb", False, "else W&B turns itself on where an API key lies around"
    if config.gaff.trainer != "bundled" and config.get("data_impl", "infer") == "infer":
        yield "data_impl", "mmap", "GPT-NeoX's default, infer, finds the format and then fails on it"
    if config.gaff.device != "gpu" and config.gaff.trainer != "bundled":
        yield "distributed_backend", "gloo", "there is no NCCL without GPUs"
    decay = added_decay_iters(config)
    if decay is not None:
        yield "lr_decay_iters", decay, "`lr_schedule: restart`: the decay fits between two resets"


def _removed(config: Config) -> _Wanted:
    yield "log_dir", None, "GPT-NeoX truncates it at every start; GAFF keeps the log of each segment"
    yield "keep_last_n_checkpoints", None, "GPT-NeoX would delete tags that are still needed"


def apply(neox: Mapping[str, Any], found: Sequence[Change]) -> dict[str, Any]:
    """The user's keys with the changes made."""
    keys = dict(neox)
    for change in found:
        keys.pop(change.key, None)
        if change.written is not None:
            keys[change.key] = change.written
    return keys


@dataclass(frozen=True)
class Planned:
    """A change as the plan shows it.

    Attributes:
        key, given, why: as in :class:`Change`.
        written: what the first, the second and the last segment's configs say, of as many segments as there are.
    """

    key: str
    given: Any
    written: tuple[Any, ...]
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def planned_changes(
    config: Config, segments: Sequence[Segment], launcher: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Planned, ...]:
    """The changes of a run in these segments, before its directory and ports are known."""
    shown = dict.fromkeys((*segments[:2], segments[-1]))
    found = [_of_segment(config, segment, launcher) for segment in shown]
    reasons = {key: change.why for changed in found for key, change in changed.items()}
    return tuple(
        Planned(
            key=key,
            given=config.get(key),
            written=tuple(changed[key].written if key in changed else config.get(key) for changed in found),
            why=why,
        )
        for key, why in reasons.items()
    )


def _of_segment(config: Config, segment: Segment, launcher: Mapping[str, Any]) -> dict[str, Change]:
    save = config.get("save")
    found = changes(
        config,
        start=segment.start,
        stop=segment.stop,
        save=save if isinstance(save, str) else SAVE_OF_THE_RUN,
        master_port=FREE_PORT,
        validates_pipelines=config.gaff.trainer == "bundled",
        launcher=launcher,
    )
    return {change.key: change for change in found}
