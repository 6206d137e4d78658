# SPDX-License-Identifier: Apache-2.0
"""The restore: put back what a reset forgot, in every copy of one tag of any layout, moments too.

After a reset of some rows these alone are put back, for the others may have been trained since.

In the layout that it was forgotten in, all bytes come back: float32 holds every float16 and bfloat16, and the model
copy is the master rounded to its dtype, which a reset makes sure of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy
from gaff.checkpoint.operation import ZEROS, Edit, Operation
from gaff.checkpoint.sources import FileValues, ValueSource, refuse_overflow
from gaff.checkpoint.surgery.forgotten import ForgottenFile, last_stage, parameter_of
from gaff.checkpoint.surgery.perform import Result, done_before, edit_of, new_operation, perform, refuse_unsound
from gaff.checkpoint.survey import Survey, survey
from gaff.errors import InputError, Location, Problem


@dataclass(frozen=True)
class RestoreRequest:
    """What a user wants put back.

    Attributes:
        file: what ``reset --save-forgotten`` wrote.
        parameters: nicknames or patterns, as :meth:`Layout.named` takes them; all that the file holds when empty.
        moments: what becomes of moments that the file lacks: ``keep`` or ``zero``.
    """

    file: Path
    parameters: tuple[str, ...] = ()
    moments: str = "keep"


def restore(tag: Path, request: RestoreRequest) -> Result:
    """Put back what was forgotten, in place, durably; leave it if the tag's newest operation did exactly that.

    Raises:
        CheckpointError, InputError: see :func:`gaff.checkpoint.surgery.perform.perform`.
    """
    forgotten = ForgottenFile(request.file)
    return perform(
        tag,
        lambda layout: _plan(layout, request, forgotten),
        already=lambda layout: done_before(layout, "restore", lambda: _identity(request, forgotten)),
    )


def plan_restore(layout: Layout, request: RestoreRequest) -> Operation:
    """Work out a restore without writing anything.

    Raises:
        CheckpointError: the tag is incomplete, or its copies of what is restored disagree already.
        InputError: the file cannot be read, holds other shapes, or nothing of what is asked for.
    """
    return _plan(layout, request, ForgottenFile(request.file))


def _plan(layout: Layout, request: RestoreRequest, forgotten: ForgottenFile) -> Operation:
    names = _names(layout, request, forgotten)
    for name in names:
        _refuse_other_shapes(layout, forgotten, name)
    found = survey(layout, names)
    refuse_unsound(layout, found)
    edits = list(_edits(layout, names, request, forgotten, found))
    sources: dict[str, ValueSource] = {
        content: FileValues(forgotten.file, content) for content in {e.content for e in edits} - {ZEROS}
    }
    if forgotten.model_dtype != layout.model_dtype:  # what was forgotten at this precision fits, a diverged run's too
        for name in names:
            refuse_overflow(sources[name], layout.parameters[name].numel, layout.model_dtype, name, request.file)
    selections = {name: rows for name, rows in forgotten.selections.items() if name in names}
    about = _about(layout, request, forgotten, names)
    return new_operation("restore", layout, about, edits, selections=selections, sources=sources)


def _names(layout: Layout, request: RestoreRequest, forgotten: ForgottenFile) -> tuple[str, ...]:
    """The parameters to restore, in the model's order."""
    if request.parameters:
        return _chosen(layout, request.parameters, forgotten)
    strange = [name for name in forgotten.parameters if name not in layout.parameters]
    if strange:
        what = f"holds {strange[0]}, which is no parameter of {layout.path}"
        raise _refused(forgotten, what, "choose with --parameters, or give another file")
    if not forgotten.parameters:
        raise _refused(forgotten, "holds no weights", "give what `gaff surgery reset --save-forgotten` wrote")
    return tuple(name for name in layout.parameters if name in forgotten.parameters)


def _chosen(layout: Layout, patterns: Sequence[str], forgotten: ForgottenFile) -> tuple[str, ...]:
    wanted: set[str] = set()
    for pattern in patterns:
        held = set(layout.named(pattern)).intersection(forgotten.parameters)
        if not held:
            listed = ", ".join(forgotten.parameters[:3]) or "none"
            what = f"holds no weights of {pattern} (of others: {listed})"
            raise _refused(forgotten, what, "choose other --parameters, or give another file")
        wanted |= held
    return tuple(name for name in layout.parameters if name in wanted)


def _refuse_other_shapes(layout: Layout, forgotten: ForgottenFile, name: str) -> None:
    shape = layout.parameters[name].shape
    for tensor, stored in forgotten.file.tensors.items():
        if parameter_of(tensor) == name and stored.shape != shape:
            what = f"holds {tensor} of shape {stored.shape}, but {layout.path} has {shape}"
            raise _refused(forgotten, what, "use `gaff surgery resize` first, or give another file")


def _edits(
    layout: Layout, names: Iterable[str], request: RestoreRequest, forgotten: ForgottenFile, found: Survey
) -> Iterable[Edit]:
    for name in names:
        for copy in layout.copies[name]:
            content = _tensor(layout, copy, forgotten)
            if content is not None:
                yield edit_of(found, copy, content)
            elif request.moments == "zero":
                yield edit_of(found, copy, ZEROS)


def _tensor(layout: Layout, copy: Copy, forgotten: ForgottenFile) -> str | None:
    """The tensor of the file that belongs into a copy; None when there is none."""
    tensor = f"{copy.parameter}#{copy.kind}" if copy.is_state else copy.parameter
    if copy.stage != layout.stages(copy.parameter, copy.kind)[0] and last_stage(tensor) in forgotten.file.tensors:
        return last_stage(tensor)
    return tensor if tensor in forgotten.file.tensors else None


def _about(
    layout: Layout, request: RestoreRequest, forgotten: ForgottenFile, names: Sequence[str]
) -> dict[str, object]:
    ignored = [f"{n}#{s}" for n in names for s in forgotten.states(n) if s not in layout.states(n)]
    lacking = [f"{n}#{s}" for n in names for s in layout.states(n) if s not in forgotten.states(n)]
    notes = [f"ignored, no such moments in the checkpoint: {', '.join(ignored)}"] if ignored else []
    if lacking:
        done = "left alone" if request.moments == "keep" else "zeroed"
        notes.append(f"{done}, not in the file: {', '.join(lacking)}")
    return {
        **_identity(request, forgotten),
        "file": str(request.file),
        "forgotten_at": forgotten.file.about.get("iteration"),
        "restored": list(names),
        "left_alone": sorted({scalar.name for scalar in layout.scalars}),
        "notes": notes,
    }


def _identity(request: RestoreRequest, forgotten: ForgottenFile) -> dict[str, object]:
    """What makes two restores the same."""
    return {"file_crc": forgotten.crc, "parameters": list(request.parameters), "moments": request.moments}


def _refused(forgotten: ForgottenFile, what: str, remedy: str) -> InputError:
    return InputError(Problem("forgotten-file", what, remedy, Location(str(forgotten.file.path))))
