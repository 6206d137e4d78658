# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a tag belong together: all of one step of one run.

What tells it without reading a tensor: counters in every model file, the optimizer's step count, learning rate and
loss scale in every shard, the number of data ranks that they were cut for, DeepSpeed's version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gaff.checkpoint.file_numbers import LEARNING_RATE, STEP, FileNumbers, read_numbers
from gaff.checkpoint.tag import TAG_NAME, TagFiles
from gaff.errors import Location, Problem

_REMEDY = "use an earlier tag, or put back the file that belongs here"

# What all files that say it must agree on, the most telling first.  Each with the words for it.
_SHARED = {
    "iteration": "iteration",
    "global_steps": "number of steps",
    STEP: "optimizer step count",
    "dp_world_size": "number of data ranks",
    "mp_world_size": "number of model ranks",
    "skipped_steps": "number of skipped steps",
    "global_samples": "number of samples",
    "lr_scheduler.num_iters": "learning rate schedule's iteration",
    LEARNING_RATE: "learning rate",
    "loss_scaler.cur_scale": "loss scale",
    "loss_scaler.cur_iter": "loss scaler's iteration",
    "ds_version": "DeepSpeed version",
}
_BY_MODEL_RANK = {LEARNING_RATE}  # with muP the groups, and so their rates, depend on the layers of a stage


def foreign_files(tag: Path) -> list[Problem]:
    """Files that are of another step or another run than the rest of the tag, one problem a file.

    What cannot be told from numbers: a shard of another run at the same step, which the weights tell, and with ZeRO
    stages 0 and 3, which keep one copy of the weights only, nothing does.

    Raises:
        CheckpointError: a file is damaged, or not GPT-NeoX's.
    """
    numbers = read_numbers(tag)
    files = TagFiles(tag)
    found: dict[str, Problem] = {}
    for problem in (*_disagreeing(tag, numbers), *_without_states(tag, numbers), *_ahead(tag, numbers)):
        assert problem.where is not None
        found.setdefault(problem.where.file, problem)
    named = TAG_NAME.fullmatch(tag.resolve().name)
    if not found and named and int(named[1]) != files.iteration:
        what = f"holds iteration {files.iteration}, which is not what its name says"
        found[""] = Problem("wrong-iteration", what, "give it the right name", Location(str(tag)))
    return list(found.values())


def _disagreeing(tag: Path, numbers: list[FileNumbers]) -> Iterable[Problem]:
    for name, words in _SHARED.items():
        said = {one.file: (one.rank[1], one.values[name]) for one in numbers if name in one.values}
        if name in _BY_MODEL_RANK:
            for rank in sorted({rank for rank, _ in said.values()}):
                yield from _odd(tag, words, {file: value for file, (r, value) in said.items() if r == rank}, None)
        else:
            expected = _steps_taken(numbers) if name == STEP else _named_iteration(tag) if name == "iteration" else None
            yield from _odd(tag, words, {file: value for file, (_, value) in said.items()}, expected)


def _odd(tag: Path, words: str, said: dict[str, tuple[Any, ...]], expected: float | None) -> Iterable[Problem]:
    """The files that do not say what most do; where two say it as often, what is ``expected`` counts."""
    if len(set(said.values())) < 2:
        return
    often = Counter(said.values())
    right = max(often, key=lambda value: (often[value], value == (expected,)))
    witness = next(file for file, value in said.items() if value == right)
    for file, value in said.items():
        if value != right:
            what = f"has {words} {_text(value)} where {witness} has {_text(right)}: it is of another step or run"
            yield Problem("foreign-file", what, _REMEDY, Location(str(tag / file)))


def _text(value: tuple[Any, ...]) -> str:
    return " and ".join(f"{item:.10g}" if isinstance(item, (int, float)) else str(item) for item in value)


def _named_iteration(tag: Path) -> int | None:
    named = TAG_NAME.fullmatch(tag.resolve().name)
    return int(named[1]) if named else None


def _steps_taken(numbers: list[FileNumbers]) -> int | None:
    """Optimizer steps that the model files tell of: all but those that an overflow skipped."""
    for one in numbers:
        if "global_steps" in one.values:
            return int(one.values["global_steps"][0]) - int(one.values.get("skipped_steps", (0,))[0])
    return None


def _without_states(tag: Path, numbers: list[FileNumbers]) -> Iterable[Problem]:
    """Shards as they are before the first step, in a tag where steps were taken."""
    iteration = max((one.values["iteration"][0] for one in numbers if "iteration" in one.values), default=0)
    if iteration <= 0 or (_steps_taken(numbers) or 0) <= 0:
        return
    for one in numbers:
        if one.has_optimizer and one.adaptive and not one.has_states:
            what = f"holds no moments though {iteration} iterations were made: it is of step 0 or of another run"
            yield Problem("foreign-file", what, _REMEDY, Location(str(tag / one.file)))


def _ahead(tag: Path, numbers: list[FileNumbers]) -> Iterable[Problem]:
    """Optimizers with more steps than were taken.  Fewer are right where a run went on without its optimizer's state.

    One more is right too: ``FP16_Optimizer`` makes an empty step when it starts.
    """
    taken = _steps_taken(numbers)
    for one in numbers:
        if taken is not None and one.values.get(STEP, (0,))[0] > taken + 1:
            steps = _text(one.values[STEP])
            what = f"has optimizer step count {steps} where {taken} steps were taken: it is of another step or run"
            yield Problem("foreign-file", what, _REMEDY, Location(str(tag / one.file)))
