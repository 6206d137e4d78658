# SPDX-License-Identifier: Apache-2.0
"""The splice: the body of one tag with the embeddings of another, whatever the layout of either.

How a body that was trained with forgetting meets the embeddings of a new language (Chen et al. 2023, "Improving
Language Plasticity via Pretraining with Active Forgetting", arXiv 2307.01163).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy, is_output_embedding, is_vocabulary
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.operation import ZEROS, Edit, Operation, crc_digest
from gaff.checkpoint.reader import CopyReader, in_parallel
from gaff.checkpoint.sources import TagValues, ValueSource, refuse_overflow
from gaff.checkpoint.surgery.perform import Result, alone, done_before, edit_of, new_operation, perform, refuse_unsound
from gaff.checkpoint.survey import Survey, survey
from gaff.checkpoint.transaction import refuse_half_done
from gaff.errors import CheckpointError, InputError, Location, Problem


@dataclass(frozen=True)
class SpliceRequest:
    """What a user wants.

    Attributes:
        embeddings: the tag that gives them.
        parameters: nicknames or patterns, as :meth:`Layout.named` takes them; input and output embedding when empty.
        moments: what becomes of their moments: ``zero``, ``keep`` (the body's) or ``take`` (the giver's).
    """

    embeddings: Path
    parameters: tuple[str, ...] = ()
    moments: str = "zero"


def splice(tag: Path, request: SpliceRequest) -> Result:
    """Give a tag the embeddings of another, in place, durably; leave it if its newest operation did exactly that.

    Raises:
        CheckpointError, InputError: see :func:`gaff.checkpoint.surgery.perform.perform`; also when the giving tag is
            damaged, half operated on, or does not fit.
    """
    _refuse_itself(tag, request.embeddings)
    with alone(request.embeddings):
        return perform(
            tag,
            lambda layout: plan_splice(layout, request),
            already=lambda layout: done_before(layout, "splice", lambda: _identity(request, _Giver(layout, request))),
        )


def plan_splice(layout: Layout, request: SpliceRequest) -> Operation:
    """Work out a splice without writing anything.

    Raises:
        CheckpointError: one of the tags is incomplete, damaged or half operated on, or its copies disagree.
        InputError: their embeddings do not fit each other.
    """
    giver = _Giver(layout, request)
    giver.refuse_unsound()
    found = survey(layout, giver.names)
    refuse_unsound(layout, found)
    edits = list(_edits(layout, giver.names, request.moments, found))
    sources = giver.sources({e.content for e in edits} - {ZEROS})
    for name in giver.names:
        numel = layout.parameters[name].numel
        refuse_overflow(sources[name], numel, layout.model_dtype, name, request.embeddings)
    about = {
        **_identity(request, giver),
        "embeddings": str(request.embeddings),
        "embeddings_iteration": giver.layout.iteration,
        "spliced": list(giver.names),
        "left_alone": sorted({scalar.name for scalar in layout.scalars}) if request.moments != "keep" else [],
        "notes": [f"embeddings of iteration {giver.layout.iteration} of {request.embeddings}"],
    }
    return new_operation("splice", layout, about, edits, sources=sources)


def _edits(layout: Layout, names: Iterable[str], moments: str, found: Survey) -> Iterable[Edit]:
    for name in names:
        for copy in layout.copies[name]:
            if not copy.is_state:
                yield edit_of(found, copy, name)
            elif moments != "keep":
                yield edit_of(found, copy, ZEROS if moments == "zero" else f"{name}#{copy.kind}")


class _Giver:
    """The tag that gives embeddings, checked to fit the one that takes them.

    Attributes:
        names: by canonical name in the taking tag, the name in this one.  They differ in the output embedding, whose
            name holds the number of layers.
    """

    def __init__(self, taker: Layout, request: SpliceRequest) -> None:
        _refuse_itself(taker.path, request.embeddings)
        refuse_half_done(request.embeddings)
        self.layout = read_layout(request.embeddings)
        self.reader = CopyReader(self.layout)
        self.takes_moments = request.moments == "take"
        self._refuse_other_model(taker)
        patterns = request.parameters
        chosen = taker.named(*patterns) if patterns else tuple(filter(is_vocabulary, taker.parameters))
        self.names: Mapping[str, str] = {name: self._counterpart(taker, name) for name in chosen}
        if self.takes_moments:
            self._refuse_without_moments(taker)

    def _refuse_other_model(self, taker: Layout) -> None:
        if self.layout.vocabulary != taker.vocabulary:
            (mine, my_width), (theirs, their_width) = self.layout.vocabulary, taker.vocabulary
            what = (
                f"has a vocabulary of {mine} rows and hidden size {my_width}, but {taker.path} has {theirs} and "
                f"{their_width}"
            )
            same_width = my_width == their_width
            remedy = "use `gaff surgery resize` first" if same_width else "use embeddings of the same hidden size"
            raise self._misfit(what, remedy)
        if self.layout.tied != taker.tied:
            kinds = {True: "tied", False: "untied"}
            what = f"has {kinds[self.layout.tied]} embeddings, but those of {taker.path} are {kinds[taker.tied]}"
            raise self._misfit(what, "use two models that are both tied or both untied")

    def _counterpart(self, taker: Layout, name: str) -> str:
        parameters = self.layout.parameters
        same = (n for n in parameters if n == name or (is_output_embedding(n) and is_output_embedding(name)))
        mine = next(same, None)
        shape = taker.parameters[name].shape
        if mine is None:
            raise self._misfit(f"has no {name}, which {taker.path} has", "leave it out of --parameters")
        if parameters[mine].shape != shape:
            what = f"has {mine} of shape {parameters[mine].shape}, but {taker.path} has {shape}"
            raise self._misfit(what, "leave it out of --parameters")
        return mine

    def _refuse_without_moments(self, taker: Layout) -> None:
        for name, mine in self.names.items():
            lacking = set(taker.states(name)) - set(self.layout.states(mine))
            if lacking:
                raise self._misfit(f"has no {min(lacking)} of {mine}", "use --moments zero or keep")

    def _misfit(self, what: str, remedy: str) -> InputError:
        return InputError(Problem("misfit", what, remedy, Location(str(self.layout.path))))

    def copies(self) -> list[Copy]:
        """All that values are read from."""
        mine = self.names.values()
        return [c for n in mine for c in self.layout.copies[n] if c.kind == self.layout.truth(n) or self._taken(c)]

    def _taken(self, copy: Copy) -> bool:
        return copy.is_state and self.takes_moments

    def refuse_unsound(self) -> None:
        """Make sure that the tag is whole, its copies agree, and what is read from it has the right CRCs.

        Raises:
            CheckpointError: it is not.
        """
        refuse_unsound(self.layout, survey(self.layout, self.names.values(), states=False))
        places = sorted({(copy.file, copy.record) for copy in self.copies()})
        self.reader.open_all(self.copies())
        faults = [found for found in in_parallel(self._damage, places) if found]
        if faults:
            raise CheckpointError(faults)

    def _damage(self, place: tuple[str, str]) -> Problem | None:
        file, name = place
        archive = self.reader.archive(file)
        record = archive.records[name]
        if {archive.range_crc(record, 0, record.size)} == {record.crc, record.local_crc}:
            return None
        what = f"record {name} does not match its CRC-32"
        return Problem("bad-crc", what, "use another tag", Location(str(self.layout.path / file)))

    def digest(self) -> str:
        """A short digest of all that is read from the tag."""
        self.reader.open_all(self.copies())
        places = {(copy.file, copy.record) for copy in self.copies()}
        return crc_digest({f"{file}/{name}": self.reader.archive(file).records[name].crc for file, name in places})

    def sources(self, contents: Iterable[str]) -> dict[str, ValueSource]:
        """Where the values come from, by ``NAME`` and ``NAME#STATE`` in the taking tag."""
        self.reader.open_all(self.copies())
        found: dict[str, ValueSource] = {}
        for content in contents:
            name, _, state = content.partition("#")
            mine = self.names[name]
            found[content] = TagValues(self.reader, mine, state or self.layout.truth(mine))
        return found


def _identity(request: SpliceRequest, giver: _Giver) -> dict[str, object]:
    """What makes two splices the same."""
    return {
        "embeddings_digest": giver.digest(),
        "parameters": list(request.parameters),
        "moments": request.moments,
    }


def _refuse_itself(taker: Path, giver: Path) -> None:
    if taker.exists() and os.path.samefile(taker, giver):
        what = "is the checkpoint that is to take the embeddings"
        raise InputError(Problem("same-checkpoint", what, "name two checkpoints", Location(str(giver))))
