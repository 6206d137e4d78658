# SPDX-License-Identifier: Apache-2.0
"""The reset: re-initialise parameters in every copy of one tag, zero their moments, touch nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gaff.checkpoint.crc import file_crc
from gaff.checkpoint.init_source import source_of
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.operation import ZEROS, Edit, Operation
from gaff.checkpoint.random_rows import key_for
from gaff.checkpoint.selection import RowSelection, all_rows, drawn_rows, listed_rows
from gaff.checkpoint.sources import ValueSource
from gaff.checkpoint.surgery.forgotten import save_forgotten
from gaff.checkpoint.surgery.perform import Result, done_before, edit_of, new_operation, perform, refuse_unsound
from gaff.checkpoint.survey import Survey, survey
from gaff.checkpoint.transaction import FOLDER, Record
from gaff.errors import CheckpointError, InputError, Location, Problem
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
            try:
                save_forgotten(layout, operation, path)
            except OSError as error:
                if path != request.forgotten:
                    raise
                what, remedy = f"cannot be written ({error.strerror or error})", "mend that, or free some space"
                raise CheckpointError(Problem("forgotten-unwritable", what, remedy, Location(str(path)))) from None
        return operation

    def already(layout: Layout) -> Record | None:
        done = done_before(layout, "reset", lambda: _identity(request))
        if done is not None and request.forgotten is not None:
            _refuse_too_late(request.forgotten)
        return done

    return perform(
        tag,
        lambda layout: plan_reset(layout, request, step0_from=step0_from),
        already=already,
        prepare=keep,
    )


def plan_reset(layout: Layout, request: ResetRequest, *, step0_from: Path | None = None) -> Operation:
    """Work out a reset without writing anything.

    Raises:
        CheckpointError: the tag is incomplete, or its copies of what is reset disagree already.
        InputError: the new values or the rows cannot be had, or what is forgotten cannot be kept where it was asked.
    """
    if request.forgotten is not None:
        _refuse_unfit(request.forgotten)
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


def _refuse_unfit(forgotten: Path) -> None:
    """Make sure that a file can be made there, and nobody's file (a checkpoint's, another reset's) is lost by it."""
    folder = forgotten.absolute().parent
    if os.path.lexists(forgotten):
        what, remedy = "is already there", "name a new file to --save-forgotten"
    elif not folder.is_dir():
        what, remedy = "lies in no directory that is there", "make that first"
    elif not os.access(folder, os.W_OK | os.X_OK):
        what, remedy = "cannot be made: its directory is not writable", "name another file to --save-forgotten"
    else:
        return
    raise InputError(Problem("forgotten-unfit", what, remedy, Location(str(forgotten))))


def _refuse_too_late(forgotten: Path) -> None:
    if not forgotten.is_file():
        what = "cannot be made: this reset was already done, and what it forgot is gone"
        remedy = "leave --save-forgotten away, or reset an earlier tag"
        raise InputError(Problem("forgotten-gone", what, remedy, Location(str(forgotten))))


def _about(layout: Layout, request: ResetRequest, found: Survey) -> dict[str, object]:
    return {
        **_identity(request),
        "forgotten": {name: asdict(statistics) for name, statistics in found.statistics.items()},
        "left_alone": sorted({scalar.name for scalar in layout.scalars}) if request.moments == "zero" else [],
    }


def _identity(request: ResetRequest) -> dict[str, object]:
    """What makes two resets the same: what was asked for, and what the files that were named hold."""
    return {
        "reset": request.number,
        "seed": request.seed,
        "init": str(request.init),
        "init_crc": None if request.init.path is None else file_crc(Path(request.init.path)),
        "moments": request.moments,
        "parameters": list(request.parameters),
        "rows": None if request.rows is None else str(request.rows),
        "rows_crc": None if request.rows is None else file_crc(request.rows),
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
