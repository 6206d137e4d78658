# SPDX-License-Identifier: Apache-2.0
"""The reset: re-initialise the input embedding in every copy of one tag, zero its moments, touch nothing else.

Read -> plan -> apply -> verify.  ``plan_reset`` only reads; ``reset`` does it, or finishes it, or finds it done.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gaff.checkpoint.init_methods import Distribution, ModelSizes, init_method_of
from gaff.checkpoint.layout import MASTER, MODEL, MOMENTS, PARAMETER, Copy, Layout, read_layout
from gaff.checkpoint.operation import Edit, Operation, crc_digest, record_crcs
from gaff.checkpoint.tag import TagFiles, tag_name
from gaff.checkpoint.transaction import (
    FOLDER,
    Record,
    apply,
    begin,
    begun_operation,
    commit,
    valid_records,
    withdraw,
)
from gaff.checkpoint.values import CopyReader, DrawnValues, TagValues, ValueSource, file_values, pieces
from gaff.checkpoint.verify import disagreements, undone_edits
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import fsync_directory, make_directory_durably
from gaff.plan.settings import InitSpec
from gaff.plan.yaml_source import read_yaml


@dataclass(frozen=True)
class ResetRequest:
    """What a user or the supervisor wants: reset number ``number`` of a run, with this seed."""

    number: int
    seed: int
    init: InitSpec = field(default_factory=InitSpec)
    moments: str = "zero"
    save_forgotten: bool = False


@dataclass(frozen=True)
class ResetResult:
    """What was done.  ``already_done`` when the tag already carried exactly this reset."""

    record: Record
    already_done: bool

    @property
    def operation(self) -> Operation:
        return self.record.operation


def reset(tag: Path, request: ResetRequest) -> ResetResult:
    """Make one reset in place, durably; finish it if it was begun; leave it if it is done.

    Raises:
        CheckpointError: the tag is incomplete, damaged, of an unsupported layout, or its copies disagree.  Nothing was
            written then.
        InputError: ``request.init`` cannot be had.
    """
    finish_interrupted(tag)
    layout = read_layout(tag)
    done = _already_done(tag, layout, request)
    if done is not None:
        return ResetResult(done, already_done=True)
    operation = plan_reset(layout, request)
    if request.save_forgotten:
        save_forgotten(layout, operation)
    begin(tag, operation)
    return ResetResult(_finish(tag, operation), already_done=False)


def finish_interrupted(tag: Path) -> Record | None:
    """Finish the operation that was begun in the tag and cut short, if there is one.  Returns its record.

    Raises:
        CheckpointError: the bytes on disk are not those that were written.
    """
    operation = begun_operation(tag)
    if operation is None:
        return None
    done = [r for r in valid_records(tag) if r.operation == operation]
    if done:  # killed between the record and the removal of the intent
        withdraw(tag)
        return done[-1]
    return _finish(tag, operation)


def _finish(tag: Path, operation: Operation) -> Record:
    outcome = apply(tag, operation)
    layout = read_layout(tag)
    faults = undone_edits(layout, operation, outcome) + disagreements(layout)
    if faults:
        raise CheckpointError(faults)
    return commit(tag, operation, outcome)


def plan_reset(layout: Layout, request: ResetRequest) -> Operation:
    """Work out a reset without writing anything.

    Raises:
        CheckpointError: the tag's copies of the embedding disagree already, so that GAFF would build on sand.
        InputError: the new values cannot be had.
    """
    faults = disagreements(layout)
    if faults:
        raise CheckpointError(faults)
    reader = CopyReader(layout)
    files = TagFiles(layout.path)
    statistics = embedding_statistics(layout)
    edits = tuple(_edit(reader, copy, request.moments) for copy in _copies_to_edit(layout, request.moments))
    touched = {edit.copy.file for edit in edits}
    return Operation(
        iteration=layout.iteration,
        reset=request.number,
        seed=request.seed,
        parameter=PARAMETER,
        shape=layout.shape,
        init=str(request.init),
        moments=request.moments,
        source=_source(layout, request, statistics),
        edits=edits,
        crcs_before={name: record_crcs(layout.path / name) for name in sorted(touched)},
        untouched={n: crc_digest(record_crcs(layout.path / n)) for n in files.names if n not in touched},
        began=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        forgotten=statistics,
    )


def _already_done(tag: Path, layout: Layout, request: ResetRequest) -> Record | None:
    """The tag's newest record, if it holds and is exactly this request."""
    held = valid_records(tag)
    if not held:
        return None
    done = held[-1].operation
    asked = (request.number, request.seed, str(request.init), request.moments)
    same = (done.reset, done.seed, done.init, done.moments) == asked and done.iteration == layout.iteration
    return held[-1] if same else None


def _copies_to_edit(layout: Layout, moments: str) -> list[Copy]:
    kinds = (MODEL, MASTER, *MOMENTS) if moments == "zero" else (MODEL, MASTER)
    return sorted(layout.of_kind(*kinds), key=lambda c: (c.file, c.record, c.offset))


def _edit(reader: CopyReader, copy: Copy, moments: str) -> Edit:
    archive = reader.archive(copy.file)
    crc = archive.range_crc(archive.records[copy.record], copy.offset, copy.offset + copy.length)
    return Edit(copy, "zeros" if copy.kind in MOMENTS else "values", crc)


def _source(layout: Layout, request: ResetRequest, forgotten: Mapping[str, float]) -> ValueSource:
    init = request.init
    if init.kind == "file":
        assert init.path is not None
        return file_values(Path(init.path), PARAMETER, layout.shape)
    if init.kind == "step0":
        return _step0_values(layout)
    distribution = _distribution(layout, init, forgotten)
    return DrawnValues(distribution, request.seed, request.number, PARAMETER, layout.shape[1])


def _distribution(layout: Layout, init: InitSpec, forgotten: Mapping[str, float]) -> Distribution:
    if init.kind == "matched":
        return Distribution("normal", forgotten["std"], forgotten["mean"])
    if init.kind == "config":
        layers = int(TagFiles(layout.path).header["args"]["num_layers"])
        neox, where = tag_config(layout.path)
        return init_method_of(neox, ModelSizes(layout.shape[1], layers, layout.shape[0]), where)
    assert init.kind in ("normal", "uniform")
    assert init.value is not None
    return Distribution("normal" if init.kind == "normal" else "uniform", init.value)


def _step0_values(layout: Layout) -> TagValues:
    tag = (layout.path.parent / tag_name(0)).resolve()
    where = Location(str(tag))
    if not tag.is_dir():
        remedy = "save one with `extra_save_iters: [0]`, or choose another init"
        raise InputError(Problem("no-step0", "`init: step0` needs this tag, which is not there", remedy, where))
    if read_layout(tag).shape != layout.shape:
        what = f"has an embedding of another shape than {layout.shape}"
        raise InputError(Problem("no-step0", what, "choose another init", where))
    return TagValues(tag)


def tag_config(tag: Path) -> tuple[dict[str, Any], Location]:
    """The GPT-NeoX keys of the configs that the trainer left in the tag."""
    paths = sorted(p for p in (tag / "configs").glob("*") if p.is_file())
    where = Location(str(tag / "configs"))
    if not paths:
        remedy = "choose another init, such as normal:0.02"
        raise InputError(Problem("no-config", "`init: config` finds no config in the tag", remedy, where))
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= read_yaml(path).values
    return merged, where


def embedding_statistics(layout: Layout) -> dict[str, float]:
    """Norm, mean and standard deviation of the master, all rows, summed in float64."""
    import numpy as np

    reader = CopyReader(layout)
    total = squares = 0.0
    for start, stop in pieces(0, layout.numel):
        values = reader.values(MASTER, start, stop).astype(np.float64)
        total += float(values.sum())
        squares += float((values * values).sum())
    mean = total / layout.numel
    return {
        "norm": math.sqrt(squares),
        "mean": mean,
        "std": math.sqrt(max(0.0, squares / layout.numel - mean * mean)),
    }


def save_forgotten(layout: Layout, operation: Operation) -> Path:
    """Write the embedding as it is (the master, float32) into the tag's ``gaff/`` as safetensors."""
    import numpy as np
    from safetensors.numpy import save_file

    make_directory_durably(layout.path / FOLDER)
    path = layout.path / FOLDER / f"forgotten-{operation.reset:04d}.safetensors"
    matrix = CopyReader(layout).values(MASTER, 0, layout.numel).reshape(layout.shape)
    temporary = path.with_name(f".{path.name}.gaff-tmp")
    about = {"iteration": str(operation.iteration), "reset": str(operation.reset)}
    save_file({operation.parameter: np.ascontiguousarray(matrix)}, str(temporary), metadata=about)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_directory(path.parent)
    return path


def copy_tag(tag: Path, output: Path) -> Path:
    """A second tag in ``output`` that shares its files by hard link where it can; surgery replaces what it touches.

    Raises:
        InputError: ``output`` already has something of that name.
    """
    target = output / tag.name
    if target.exists():
        raise InputError(Problem("output-exists", "is already there", "choose another --output", Location(str(target))))
    staging = output / f".{tag.name}.gaff-tmp"
    shutil.rmtree(staging, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tag, staging, copy_function=_link_or_copy)
    os.replace(staging, target)
    fsync_directory(output)
    return target


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target
