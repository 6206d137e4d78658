# SPDX-License-Identifier: Apache-2.0
"""What one tag is, for a person or a script: topology, copies of the embedding and their statistics, resets made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.survey import survey
from gaff.checkpoint.transaction import Record, begun_operation, refuse_half_done, valid_records
from gaff.errors import CheckpointError

SCHEMA = "gaff.inspection/2"
_MOST_LISTED = 32  # copies that a page shows one by one

# What an optimizer keeps tells which it is (torch.optim, deepspeed.ops).
_OPTIMIZERS = {
    ("exp_avg", "exp_avg_sq"): "Adam",
    ("exp_avg",): "Lion",
    ("momentum_buffer",): "SGD with momentum",
}


def inspect_tag(tag: Path, *patterns: str) -> dict[str, Any]:
    """Everything about one tag, ready for JSON.

    Args:
        patterns: the parameters to look into, as :meth:`Layout.named` takes them; the input embedding when none.

    Raises:
        CheckpointError: incomplete, damaged or of a layout that is not handled.
        InputError: there is no such parameter.
    """
    layout = _layout(tag)
    names = layout.named(*(patterns or ("input_embedding",)))
    statistics = survey(layout, names, states=False).statistics
    total = sum(parameter.numel for parameter in layout.parameters.values())
    return {
        "schema": SCHEMA,
        "checkpoint": str(tag),
        "iteration": layout.iteration,
        "topology": vars(layout.topology),
        "zero_stage": layout.zero_stage,
        "precision": layout.model_dtype,
        "optimizer": _optimizer(layout),
        "wrapper": layout.wrapper,
        "deepspeed": layout.deepspeed_version,
        "tied": layout.tied,
        "parameters": total,
        "bytes": sum(p.stat().st_size for p in tag.glob("*.pt")),
        "looked_into": [
            {
                "name": name,
                "shape": list(layout.parameters[name].shape),
                "split": layout.parameters[name].split,
                "parameters": layout.parameters[name].numel,
                "share": layout.parameters[name].numel / total,
                **asdict(statistics[name]),
                "copies": [{**vars(copy), "length": copy.length} for copy in layout.copies[name]],
            }
            for name in names
        ],
        "shared_scalars": [asdict(scalar) for scalar in layout.scalars],
        "half_done": begun_operation(tag) is not None,
        "operations": [_done(record) for record in valid_records(tag)],
    }


def _layout(tag: Path) -> Layout:
    """The tag's layout; where a resize was cut short, files of both sizes stand side by side and there is none."""
    try:
        return read_layout(tag)
    except CheckpointError:
        refuse_half_done(tag)
        raise


def _optimizer(layout: Layout) -> str:
    states = layout.states(INPUT_EMBEDDING)
    return _OPTIMIZERS.get(tuple(sorted(states)), ", ".join(states)) or "no state (step 0, or SGD without momentum)"


def _done(record: Record) -> dict[str, Any]:
    operation = record.operation
    return {"kind": operation.kind, "at": operation.began, **operation.about}


def render_inspection(found: Mapping[str, Any], *, every_copy: bool = False) -> str:
    """The same as a page of text; where there are many copies, they are counted unless ``every_copy`` is asked for."""
    topology = found["topology"]
    lines = [
        f"{found['checkpoint']}",
        f"  iteration        {found['iteration']}",
        f"  layout           TP {topology['tensor']}, PP {topology['pipeline']}, DP {topology['data']}, "
        f"ZeRO stage {found['zero_stage']} ({_wrapper(found)}DeepSpeed {found['deepspeed']})",
        f"  precision        {found['precision']}",
        f"  optimizer        {found['optimizer']}",
        f"  parameters       {found['parameters']:,} in {found['bytes']:,} bytes, "
        f"embeddings {'tied' if found['tied'] else 'untied'}",
    ]
    if found["half_done"]:
        lines.append("  half done        an operation was begun here and not finished: `gaff surgery finish`")
    lines += [f"  {_line_of(done)}" for done in found["operations"]]
    scalars = Counter((s["name"], s["value"]) for s in found["shared_scalars"])
    lines += [f"  shared scalar    {name} = {value:g} ({count} places)" for (name, value), count in scalars.items()]
    copies = sum(len(parameter["copies"]) for parameter in found["looked_into"])
    listed = every_copy or copies <= _MOST_LISTED
    for parameter in found["looked_into"]:
        lines += _parameter_lines(parameter)
        lines += _copy_lines(parameter, topology["tensor"]) if listed else _counts(parameter)
    if not listed:
        lines.append(f"  --all lists each of the {copies:,} copies with its file, bytes and rows")
    return "\n".join(lines)


def _wrapper(found: Mapping[str, Any]) -> str:
    return "" if found["wrapper"] == "none" else f"{found['wrapper']}, "


def _line_of(done: Mapping[str, Any]) -> str:
    if done["kind"] == "reset":
        return f"reset {done['reset']:<10} seed {done['seed']}, init {done['init']}, {done['at']}"
    return f"{done['kind']:<16} {done['at']}"


def _parameter_lines(parameter: Mapping[str, Any]) -> list[str]:
    shape = " x ".join(f"{size:,}" for size in parameter["shape"])
    return [
        f"  {parameter['name']}",
        f"    {shape} = {parameter['parameters']:,} ({parameter['share']:.1%} of the model), "
        f"norm {parameter['norm']:.6g}, mean {parameter['mean']:.4g}, std {parameter['std']:.6g}",
    ]


def _counts(parameter: Mapping[str, Any]) -> list[str]:
    kinds = Counter(copy["kind"] for copy in parameter["copies"])
    files = len({copy["file"] for copy in parameter["copies"]})
    return [f"    copies: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}, in {files:,} files"]


def _copy_lines(parameter: Mapping[str, Any], tensor: int) -> list[str]:
    cells = [
        (
            copy["file"],
            copy["record"],
            f"bytes [{copy['offset']}, {copy['offset'] + copy['length']})",
            copy["kind"],
            copy["dtype"],
            f"rank {copy['tensor_rank']}, {_place(parameter, copy, tensor)}",
        )
        for copy in parameter["copies"]
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [*_counts(parameter), *(f"    {line.rstrip()}" for line in padded)]


def _place(parameter: Mapping[str, Any], copy: Mapping[str, Any], tensor: int) -> str:
    """The rows of the whole parameter that a copy holds; a boundary in the middle of a row shows as a fraction."""
    rows = parameter["shape"][0]
    width = max(1, parameter["parameters"] // max(1, rows))
    top, columns = 0, ""
    if parameter["split"] == 0:
        top = copy["tensor_rank"] * rows // tensor
    elif parameter["split"] == 1:
        width //= tensor
        left = copy["tensor_rank"] * width
        columns = f", columns [{left}, {left + width})"
    first, last = top + copy["start"] / width, top + (copy["start"] + copy["numel"]) / width
    return f"rows [{first:.12g}, {last:.12g}){columns}"
