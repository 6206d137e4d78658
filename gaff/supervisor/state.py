# SPDX-License-Identifier: Apache-2.0
"""The state machine of a run: every state in which a crash can leave it, and the one step that leads out of each.

:func:`next_step` looks at the checkpoint directory alone.  The loop performs the step and asks again, so a run that
was killed at any point is carried on by the code that would have gone on.  States, in the order in which they are
looked for:

==========================================  ==========================  =============================================
what is found in ``save``                   how it comes about          step
==========================================  ==========================  =============================================
a tag half deleted (``deleting/``)          killed while tidying up     :class:`FinishDeletion`
the newest tag is not whole                 killed while saving; files  :class:`SetAside`, or :class:`Refuse` where
                                            damaged, cut off or lost    nothing else is left of a run that had a tag
``latest`` names another tag, or none       killed while saving or      :class:`MendLatest`
                                            between any two steps
the newest tag has an intent, no record     killed in surgery           :class:`FinishSurgery`
the newest tag was not read by this process  a new supervisor, or a      :class:`Examine`
                                            launch from it that failed
a reset was passed over                     tags brought from elsewhere  :class:`Refuse`
the newest tag is due for a reset           killed after the save       :class:`Forget`
it is reset, its schedule is not            killed after the reset      :class:`RestartSchedule`
the newest tag lies before ``train_iters``  killed in training, or      :class:`Train`
                                            nothing went wrong
it lies at ``train_iters``                  the run is finished         :class:`Finished`
it lies beyond                              another run's tags          :class:`Refuse`
==========================================  ==========================  =============================================

What lies outside the checkpoint directory is never needed: a journal that is cut off or gone, a lock that is left
behind and processes that outlived their supervisor are dealt with before the first step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.completeness import was_complete
from gaff.checkpoint.tag import tag_name
from gaff.checkpoint.transaction import begun_operation
from gaff.errors import Location, Problem
from gaff.plan.schedule import Reset, Segment
from gaff.supervisor import progress
from gaff.supervisor.retention import pending_deletions


@dataclass(frozen=True)
class FinishDeletion:
    """Remove what is left of tags whose deletion was begun."""


@dataclass(frozen=True)
class SetAside:
    """Move a tag that cannot be trusted out of the trainer's sight."""

    iteration: int
    why: str


@dataclass(frozen=True)
class MendLatest:
    """Let ``latest`` name the tag of ``iteration``; 0 for none."""

    iteration: int


@dataclass(frozen=True)
class FinishSurgery:
    """End the operation that was begun in the tag of ``iteration``."""

    iteration: int


@dataclass(frozen=True)
class Examine:
    """Read every byte of the tag of ``iteration`` before anything is built on it."""

    iteration: int


@dataclass(frozen=True)
class Forget:
    """Make the reset in its tag."""

    reset: Reset


@dataclass(frozen=True)
class RestartSchedule:
    """Begin the learning rate anew in the tag of the reset."""

    reset: Reset


@dataclass(frozen=True)
class Train:
    """Train ``segment`` on from iteration ``start``, which lies in it."""

    segment: Segment
    start: int


@dataclass(frozen=True)
class Finished:
    """Nothing is left to do."""

    iteration: int


@dataclass(frozen=True)
class Refuse:
    """A person must decide."""

    problem: Problem


Step = (
    FinishDeletion
    | SetAside
    | MendLatest
    | FinishSurgery
    | Examine
    | Forget
    | RestartSchedule
    | Train
    | Finished
    | Refuse
)


def next_step(
    save: Path,
    segments: Sequence[Segment],
    *,
    restarts_schedule: bool = False,
    examined: Collection[int] = (),
    tidied: bool = False,
) -> Step:
    """What is to be done next.  Writes nothing but the mark of a tag that is found whole.

    Args:
        save: the checkpoint directory.
        segments: the whole plan.
        restarts_schedule: ``lr_schedule: restart``.
        examined: tags whose bytes need not be read again.
        tidied: a deletion that cannot be finished was tried already.

    Raises:
        OSError: the directory cannot be looked at, which says nothing about the tags in it.
    """
    if not tidied and pending_deletions(save):
        return FinishDeletion()
    now = progress.judge(save)
    for iteration, why in now.untrusted.items():
        return _distrust(save, iteration, why, alone=now.iteration == 0)
    if not progress.latest_is_right(save, now.iteration):
        return MendLatest(now.iteration)
    tag = save / tag_name(now.iteration)
    if now.iteration and begun_operation(tag) is not None:
        return FinishSurgery(now.iteration)
    if now.iteration and now.iteration not in examined:
        return Examine(now.iteration)
    if now.iteration == segments[-1].stop:
        return Finished(now.iteration)
    return _onward(save, segments, now.iteration, restarts_schedule)


def _onward(save: Path, segments: Sequence[Segment], iteration: int, restarts_schedule: bool) -> Step:
    """From a sound tag: the reset that belongs into it, then training."""
    missed = progress.missed_reset(save, segments, iteration)
    if missed:
        return Refuse(_missed(save, missed))
    due = progress.reset_due(segments, iteration)
    if due:
        made = progress.operations_of(save / tag_name(iteration), due)
        if made is None:
            return Forget(due)
        if restarts_schedule and "restart-lr" not in made:
            return RestartSchedule(due)
    segment = progress.segment_after(segments, iteration)
    if segment is None:
        what = f"`save` holds iteration {iteration}, beyond train_iters {segments[-1].stop}"
        return Refuse(Problem("beyond-the-end", what, "use another run directory", Location(str(save))))
    return Train(segment, iteration)


def _distrust(save: Path, iteration: int, why: str, *, alone: bool) -> SetAside | Refuse:
    """A tag that was never whole costs nothing to give up.  The last one of a run is only a person's to give up."""
    if alone and was_complete(save / tag_name(iteration)):
        return Refuse(progress.nothing_left(save, iteration, why))
    return SetAside(iteration, why)


def _missed(save: Path, missed: Reset) -> Problem:
    what = f"carries no reset {missed.number}, yet later checkpoints are there, so the run went on without it"
    remedy = "use a fresh run directory, or move the later tags away to train them again"
    return Problem("reset-missed", what, remedy, Location(str(save / tag_name(missed.iteration))))
