# SPDX-License-Identifier: Apache-2.0
"""What becomes of tags beside training and surgery: read, set aside, deleted."""

from __future__ import annotations

from dataclasses import dataclass, field

from gaff.checkpoint.surgery.perform import alone
from gaff.checkpoint.tag import tag_name
from gaff.checkpoint.verify import why_damaged
from gaff.errors import GaffError
from gaff.supervisor import progress, retention
from gaff.supervisor.disk import size_of
from gaff.supervisor.run_context import RunContext

_LARGE = 1 << 30  # bytes of a tag that takes a while to read


@dataclass
class TagCare:
    """For one supervisor.

    Attributes:
        examined: tags that it has read, or has seen being written.
        tidied: it has tried to finish the deletions that were cut short.
    """

    run: RunContext
    examined: set[int] = field(default_factory=set)
    tidied: bool = False
    _not_deleted: set[int] = field(default_factory=set)

    def finish_deletions(self) -> None:
        """End the deletions that an earlier supervisor began."""
        self.tidied = True
        self._tell_deletions(retention.finish_deletions(self.run.directory.save), "deletion_finished")

    def examine(self, iteration: int) -> None:
        """Read a tag before anything is built on it."""
        tag = self.run.directory.save / tag_name(iteration)
        if size_of(tag) >= _LARGE:
            self.run.observer.message(f"reading {tag.name} to see that it is undamaged")
        with alone(tag):  # bytes that somebody operates on meanwhile are no damage
            why = why_damaged(tag)
        if why is None:
            self.examined.add(iteration)
        else:
            self._give_up(iteration, why)

    def _give_up(self, iteration: int, why: str) -> None:
        """A tag whose bytes are damaged: its predecessor is used, where there is one."""
        save = self.run.directory.save
        if not any(0 < other < iteration for other in progress.tags(save)):
            raise GaffError(progress.nothing_left(save, iteration, why))
        self.set_aside(iteration, why)

    def set_aside(self, iteration: int, why: str) -> None:
        run = self.run
        place = progress.set_aside(run.directory.save, iteration)
        self.examined.discard(iteration)  # another of that name may come
        run.journal.write("tag_set_aside", iteration=iteration, why=why, place=str(place))
        earlier = max((i for i in progress.tags(run.directory.save) if 0 < i < iteration), default=None)
        then = "the run begins anew" if earlier is None else f"{tag_name(earlier)} is next"
        run.observer.message(f"{tag_name(iteration)} {why}: set aside as {place.name}, {then}")

    def set_spoilt_aside(self, finite_until: int | None) -> None:
        """Tags that may hold weights which are no numbers.

        Raises:
            GaffError: no other is left of a run whose loss once was a number (``keep`` has deleted them).
        """
        save, why = self.run.directory.save, "was written when the loss was no finite number"
        if finite_until is None:
            return
        spoilt = [iteration for iteration in progress.tags(save) if iteration > finite_until]
        if finite_until and spoilt and not any(0 < other <= finite_until for other in progress.tags(save)):
            raise GaffError(progress.nothing_left(save, spoilt[-1], why))
        for iteration in spoilt:
            self.set_aside(iteration, why)

    def prune(self, newest: int) -> None:
        """Delete what the config does not keep, now that the newest tag is whole and operated on."""
        run = self.run
        stop = run.segments[-1].stop
        done = retention.prune(
            run.directory.save, run.config, run.run_id, newest, stop, enough=lambda: run.signals.name is not None
        )
        self._tell_deletions(done, "tags_deleted")

    def _tell_deletions(self, done: retention.Deletions, event: str) -> None:
        run = self.run
        if done.deleted:
            run.journal.write(event, iterations=done.deleted)
        for iteration, why in done.left.items():
            if iteration not in self._not_deleted:
                self._not_deleted.add(iteration)
                run.warn("not-deleted", f"{tag_name(iteration)} should be deleted and {why}", iteration)
