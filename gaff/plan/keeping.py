# SPDX-License-Identifier: Apache-2.0
"""Which of a run's tags stay under ``gaff: keep:``, worked out before anything runs.

What deletes them, after each stop and by the same rules, is :mod:`gaff.supervisor.retention`.  Stops that a walltime or
a signal chooses come on top there, and count among the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.estimates import own_saves
from gaff.plan.schedule import Segment
from gaff.plan.settings import KeepSettings


@dataclass(frozen=True)
class Kept:
    """What becomes of a run's tags.

    Attributes:
        settings: the ``keep`` key.
        tags: the iterations whose tags are there when the run is finished, ascending.
        most: so many tags are on disk at once at most; a new one is written before an old one goes.
        fewest: so many tags to go on from are left after a deletion at the least; None where none is deleted.
        asked: so many of them stay because the config's own keys ask for them.
    """

    settings: KeepSettings
    tags: tuple[int, ...]
    most: int
    fewest: int | None
    asked: int


def kept(config: Config, segments: Sequence[Segment], tags: Sequence[int]) -> Kept:
    """What becomes of the ``tags`` that a run writes, ascending, when it is never interrupted."""
    settings = config.gaff.keep
    if settings.newest is None:
        return Kept(settings, tuple(tags), len(tags), None, 0)
    stops, own = {segment.stop for segment in segments}, own_saves(config, segments[-1].stop)
    safe = own | _safe(config, segments)
    newest: deque[int] = deque()
    gone: set[int] = set()
    most, fewest = 0, None
    for written, iteration in enumerate(tags, start=1):
        most = written - len(gone)  # never less than before: one goes at most for each that comes
        if iteration in stops:
            newest.append(iteration)
            if len(newest) > settings.newest and (oldest := newest.popleft()) not in safe:
                gone.add(oldest)
                left = written - len(gone) - (tags[0] == 0)
                fewest = left if fewest is None else min(fewest, left)
    return Kept(settings, tuple(i for i in tags if i not in gone), most, fewest, len(own))


def _safe(config: Config, segments: Sequence[Segment]) -> set[int]:
    """The stops that ``keep`` keeps however old they grow."""
    settings = config.gaff.keep
    every = {s.stop for s in segments if settings.every and s.stop % settings.every == 0}
    return every | {s.stop for s in segments if settings.resets and s.reset}


def keep_warnings(config: Config, segments: Sequence[Segment], found: Kept) -> Iterator[Problem]:
    """What a person should know of ``keep`` before tags are deleted, or before he waits in vain for that."""
    settings = config.gaff.keep
    if settings.newest is None:
        return
    stops = [segment.stop for segment in segments]
    if found.fewest == 1:
        what = "`gaff.keep` leaves one tag to go on from, so when that is damaged the run is lost"
        yield config.problem("no-second-tag", "gaff.keep", what, "keep the 2 newest if there is room")
    if len(stops) > settings.newest and own_saves(config, stops[-1]).issuperset(stops):
        what = (
            "`gaff.keep` deletes none of the planned tags: `checkpoint_factor` and `extra_save_iters` ask for each of"
            " them, and what they ask for stays"
        )
        yield config.problem("keep-without-effect", "gaff.keep", what, "remove them: GAFF saves at every reset itself")
    if config.gaff.save_forgotten and any(s.reset and s.stop not in found.tags for s in segments):
        what = "`gaff.save_forgotten` saves into the tag of each reset, and `gaff.keep` deletes such tags"
        yield config.problem("forgotten-not-kept", "gaff.keep", what, "add `resets: true` to keep what was forgotten")
    if settings.every and all(stop % settings.every for stop in stops):
        what = f"`gaff.keep.every: {settings.every}` keeps no tag: no segment stops at a multiple of it"
        yield config.problem("keep-every-none", "gaff.keep.every", what, "make it a multiple of reset_every")
