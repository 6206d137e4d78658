# SPDX-License-Identifier: Apache-2.0
"""The reset: re-initialise parameters in every copy of one tag, zero their moments, touch nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gaff.checkpoint.init_source import source_of
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.operation import ZEROS, Edit, Operation
from gaff.checkpoint.random_rows import key_for
from gaff.checkpoint.selection import RowSelection, all_rows, drawn_rows, listed_rows
from gaff.checkpoint.sources import ValueSource
from gaff.checkpoint.surgery.forgotten import save_forgotten
from gaff.checkpoint.surgery.perform import Result, edit_of, new_operation, perform, refuse_unsound
from gaff.checkpoint.survey import Survey, survey
from gaff.checkpoint.transaction import FOLDER, Record, valid_records
from gaff.errors import InputError, Location, Problem
from gaff.plan.settings import InitSpec


@dataclass(frozen=True)
class ResetRequest:
    """What a user or the supervisor wants: reset number ``number`` of a run, with this seed.

    Attributes:
        parameters: nicknames or patterns, as :meth:`Layout.named` takes them.
        rows: a file that lists the rows to reset; all when None.
        fraction: the share of rows to reset, drawn anew for each reset; all when None.
        forgotten: where to keep what was there, as safetensors; with ``save_forgotten`` in the tag's ``gaff/``.
    """

    number: int
    seed: int
    init: InitSpec = field(default_factory=InitSpec)
    moments: str = "zero"
    parameters: tuple[str, ...] = ("input_embedding",)
    rows: Path | None = None
    fraction: float | None = None
    save_forgotten: bool = False
    forgotten: Path | None = None


def reset(tag: Path, request: ResetRequest, *, step0_from: Path | None = None) -> Result:
    """Make one reset in place, durably; finish it if it was begun; leave it if it is done.

    Args:
        tag: the tag directory.
        request: what is wanted.
        step0_from: the save directory that holds ``global_step0``; the tag's own by default.

    Raises:
        CheckpointError, InputError: see :func:`gaff.checkpoint.surgery.perform.perform`.
    """

    def keep(layout: Layout, operation: Operation) -> Operation:
        path = request.forgotten
        if path is None and request.save_forgotten:
            path = tag / FOLDER / f"forgotten-{request.number:04d}.safetensors"
        if path is not None:
            save_forgotten(layout, operation, path)
        return operation

    return perform(
        tag,
        lambda layout: plan_reset(layout, request, step0_from=step0_from),
        already=lambda layout: _already_done(layout, request),
        prepare=keep,
    )


def plan_reset(layout: Layout, request: ResetRequest, *, step0_from: Path | None = None) -> Operation:
    """Work out a reset without writing anything.

    Raises:
        CheckpointError: the tag is incomplete, or its copies of what is reset disagree already.
        InputError: the new values or the rows cannot be had.
    """
    names = layout.named(*request.parameters)
    found = survey(layout, names)
    refuse_unsound(layout, found)
    sources: dict[str, ValueSource] = {
        name: source_of(
            layout, name, request.init, seed=request.seed, reset=request.number,
            forgotten=found.statistics[name], save=step0_from,
        )
        for name in names
    }  # fmt: skip
    return new_operation(
        "reset",
        layout,
        _about(layout, request, found),
        _edits(layout, names, request.moments, found),
        selections=_selections(layout, names, request),
        sources=sources,
    )


def _about(layout: Layout, request: ResetRequest, found: Survey) -> dict[str, object]:
    return {
        **_identity(request),
        "forgotten": {name: asdict(statistics) for name, statistics in found.statistics.items()},
        "left_alone": sorted({scalar.name for scalar in layout.scalars}) if request.moments == "zero" else [],
    }


def _identity(request: ResetRequest) -> dict[str, object]:
    """What makes two resets the same."""
    return {
        "reset": request.number,
        "seed": request.seed,
        "init": str(request.init),
        "moments": request.moments,
        "parameters": list(request.parameters),
        "rows": None if request.rows is None else str(request.rows),
        "fraction": request.fraction,
    }


def _edits(layout: Layout, names: Iterable[str], moments: str, found: Survey) -> Iterable[Edit]:
    for name in names:
        for copy in layout.copies[name]:
            if not copy.is_state:
                yield edit_of(found, copy, name)
            elif moments == "zero":
                yield edit_of(found, copy, ZEROS)


def _selections(layout: Layout, names: Iterable[str], request: ResetRequest) -> Mapping[str, RowSelection]:
    if request.rows is None and request.fraction is None:
        return {}
    chosen = {}
    for name in names:
        rows = layout.parameters[name].rows
        if request.rows is not None:
            chosen[name] = listed_rows(request.rows, rows)
        else:
            assert request.fraction is not None
            key = key_for("gaff-rows", request.seed, request.number, name)
            chosen[name] = drawn_rows(request.fraction, key, rows)
    if not any(selection.count for selection in chosen.values()):
        what = f"a fraction of {request.fraction} is less than one row"
        raise InputError(Problem("no-rows", what, "choose a larger fraction", Location(str(layout.path))))
    return {name: selection for name, selection in chosen.items() if selection != all_rows(selection.rows)}


def _already_done(layout: Layout, request: ResetRequest) -> Record | None:
    """The tag's newest record, if it holds and is exactly this request."""
    held = valid_records(layout.path)
    if not held or held[-1].operation.kind != "reset" or held[-1].operation.iteration != layout.iteration:
        return None
    about = held[-1].operation.about
    return held[-1] if all(about.get(key) == value for key, value in _identity(request).items()) else None
