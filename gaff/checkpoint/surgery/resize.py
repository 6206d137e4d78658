# SPDX-License-Identifier: Apache-2.0
"""The resize: another number of tokens, in every copy of the embeddings of one tag, whatever its layout.

GPT-NeoX pads the vocabulary to a multiple of ``make_vocab_size_divisible_by`` times the tensor ranks
(``megatron/tokenizer/tokenizer.py``) and refuses a checkpoint whose ``padded_vocab_size`` is another.  Rows that the
tag has stay as they are, also those that were padding; new rows are initialised and have no moments.  Files change
their size, so they are written anew beside the old ones and then take their places.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gaff.checkpoint.crc import file_crc
from gaff.checkpoint.init_source import source_of, tag_config
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, is_output_embedding
from gaff.checkpoint.operation import Operation
from gaff.checkpoint.reader import CopyReader, in_parallel
from gaff.checkpoint.sources import ValueSource
from gaff.checkpoint.surgery.perform import Result, done_before, new_operation, perform, refuse_unsound
from gaff.checkpoint.surgery.quiet_rows import NotQuietError, quiet_rows
from gaff.checkpoint.surgery.resized_file import FileWriter, NewFile
from gaff.checkpoint.surgery.resized_layout import ResizedLayout
from gaff.checkpoint.surgery.resized_tag import resized_files, sizes_written
from gaff.checkpoint.survey import Survey, survey
from gaff.checkpoint.tag import TagFiles, understood
from gaff.checkpoint.transaction import FOLDER, STAGED
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import fsync_directory, make_directory_durably
from gaff.plan.settings import InitSpec

QUIET, INIT = "quiet", "init"
_SPARE = 64 << 20  # bytes to leave on the disk
_LAYER_NORMS = ("layernorm", "te_layernorm")


@dataclass(frozen=True)
class ResizeRequest:
    """What a user wants.

    Attributes:
        vocab: tokens of the new tokenizer, without padding.
        init: what new rows are drawn from.
        seed: what they are drawn with.
        output_rows: ``quiet``: new rows of the output embedding leave the loss on old text as it was; ``init``: they
            are as ``init`` makes them.
    """

    vocab: int
    init: InitSpec = field(default_factory=InitSpec)
    seed: int = 1234
    output_rows: str = QUIET


class Fits(Exception):
    """The tag already has as many rows as the tokens need: ``rows``, after padding.  Nothing is to be done."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


def padded(layout: Layout, vocab: int) -> int:
    """Rows that GPT-NeoX gives a vocabulary of ``vocab`` tokens with the tag's settings."""
    multiple = _multiple(layout)
    return -(-vocab // multiple) * multiple


def _multiple(layout: Layout) -> int:
    with understood(layout.path):
        return int(TagFiles(layout.path).header["args"]["make_vocab_size_divisible_by"]) * layout.topology.tensor


def resize(tag: Path, request: ResizeRequest) -> Result:
    """Resize in place, durably; finish it if it was begun; leave it if it is done.

    Raises:
        Fits: the padded vocabulary is as large as it must be, and not by the same resize.
        CheckpointError, InputError: see :func:`gaff.checkpoint.surgery.perform.perform`.
    """
    found: list[_Plan] = []

    def plan(layout: Layout) -> Operation:
        found.append(_work_out(layout, request))
        return _operation(found[-1], request)

    return perform(
        tag,
        plan,
        already=lambda layout: done_before(layout, "resize", lambda: _identity(request)),
        prepare=lambda _, operation: _stage(found[-1], operation),
    )


def plan_resize(layout: Layout, request: ResizeRequest) -> Operation:
    """Work out a resize without writing anything.

    Raises:
        Fits: there is nothing to do.
        CheckpointError: the tag is incomplete, its copies disagree, or its layout cannot be rebuilt.
        InputError: the new rows cannot be had.
    """
    return _operation(_work_out(layout, request), request)


@dataclass(frozen=True)
class _Plan:
    """What a tag is to become: its geometry, its new files, and where new rows come from."""

    resized: ResizedLayout
    sources: Mapping[str, ValueSource]
    reader: CopyReader
    files: Sequence[NewFile]


def _operation(plan: _Plan, request: ResizeRequest) -> Operation:
    layout, rows = plan.resized.layout, plan.resized.rows
    about = {
        **_identity(request),
        "rows": {"before": layout.vocabulary[0], "after": rows},
        "parameters": list(plan.resized.changed),
        "sources": {name: source.to_json() for name, source in plan.sources.items()},
        "config": _what_the_config_needs(layout, request.vocab, rows),
        "left_alone": sorted({scalar.name for scalar in layout.scalars}),
    }
    return new_operation("resize", layout, about, (), replaced={new.name: {} for new in plan.files})


def _what_the_config_needs(layout: Layout, vocab: int, rows: int) -> str:
    """What a person must change: GPT-NeoX takes the size from the tokenizer, and compares all that leads to it."""
    args = TagFiles(layout.path).header["args"]
    with understood(layout.path):
        kept = ", ".join(
            f"{key}: {args[key]}" for key in ("tokenizer_type", "make_vocab_size_divisible_by", "model_parallel_size")
        )
    return (
        f"from {layout.vocabulary[0]:,} rows to {rows:,}; resume with a vocab_file (and merge_file) of "
        f"{rows - _multiple(layout) + 1:,} to {rows:,} tokens, such as the {vocab:,} named, and with {kept} as they are"
    )


def _work_out(layout: Layout, request: ResizeRequest) -> _Plan:
    if request.vocab < 1:
        what = f"a vocabulary of {request.vocab} tokens makes no model"
        raise InputError(Problem("vocab", what, "give the number of tokens of the new tokenizer"))
    rows = padded(layout, request.vocab)
    if rows == layout.vocabulary[0]:
        raise Fits(rows)
    if sizes_written(layout) != {layout.vocabulary[0]}:
        raise layout.broken("has embeddings of another size than its model files say")
    resized = ResizedLayout(layout, rows)
    found = survey(layout, resized.changed, states=False)
    refuse_unsound(layout, found)
    sources = _sources(resized, request, found) if rows > layout.vocabulary[0] else {}
    reader = CopyReader(layout)
    return _Plan(resized, sources, reader, resized_files(reader, resized))


def _sources(resized: ResizedLayout, request: ResizeRequest, found: Survey) -> dict[str, ValueSource]:
    """By parameter, the values of the new rows, counted over all rows."""
    larger = replace(resized.layout, parameters=resized.parameters)
    sources: dict[str, ValueSource] = {
        name: source_of(
            larger, name, request.init, seed=request.seed, reset=0, forgotten=found.statistics[name], save=None
        )
        for name in resized.changed
    }
    if request.output_rows == QUIET:
        for name in resized.changed:
            if is_output_embedding(name) or (resized.layout.tied and name == INPUT_EMBEDDING):
                sources[name] = _quiet(resized, name, sources[name])
    return sources


def _quiet(resized: ResizedLayout, name: str, drawn: ValueSource) -> ValueSource:
    layout = resized.layout
    try:
        neox, _ = tag_config(layout.path)
        if neox.get("use_mup"):
            raise NotQuietError("muP rescales the logits")
        if neox.get("norm") not in (None, *_LAYER_NORMS):
            raise NotQuietError(f"`norm: {neox['norm']}` does not take away the mean of the hidden state")
        return quiet_rows(layout, name, drawn, resized.rows)
    except NotQuietError as reason:
        old = layout.vocabulary[0]
        rise = math.log(resized.rows / old)
        what = (
            f"the loss on old text cannot be kept as it is ({reason}), and with drawn output rows it rises, "
            f"by {rise:.3g} where all logits are alike and by more where new ones are higher than most old ones"
        )
        remedy = f"accept that with --output-rows {INIT}"
        raise InputError(Problem("not-quiet", what, remedy, Location(str(layout.path)))) from None


def _stage(plan: _Plan, operation: Operation) -> Operation:
    """Write all new files beside the old ones.

    Raises:
        CheckpointError: there is no room for them, or an old file is damaged.
    """
    tag = plan.resized.layout.path
    _refuse_full_disk(tag, sum(new.size(plan.reader.archive(new.name)) for new in plan.files))
    folder = tag / FOLDER / STAGED
    make_directory_durably(folder)
    writer = FileWriter(plan.reader, plan.sources)
    crcs = in_parallel(lambda new: writer.write(new, folder), plan.files)
    fsync_directory(folder)
    return replace(operation, replaced={new.name: done for new, done in zip(plan.files, crcs, strict=True)})


def _refuse_full_disk(tag: Path, needed: int) -> None:
    if shutil.disk_usage(tag).free < needed + _SPARE:
        what = f"there is no room for {needed:,} bytes of new files, which stand beside the old ones for a while"
        raise CheckpointError(Problem("disk-full", what, "free some space", Location(str(tag))))


def _identity(request: ResizeRequest) -> dict[str, Any]:
    """What makes two resizes the same."""
    return {
        "vocab": request.vocab,
        "init": str(request.init),
        "init_crc": None if request.init.path is None else file_crc(Path(request.init.path)),
        "seed": request.seed,
        "output_rows": request.output_rows,
    }
