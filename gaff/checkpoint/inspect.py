# SPDX-License-Identifier: Apache-2.0
"""What one tag is, for a person or a script: topology, copies of the embedding and their statistics, resets made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from gaff.checkpoint.layout import read_layout
from gaff.checkpoint.surgery import embedding_statistics
from gaff.checkpoint.tag import TagFiles, understood
from gaff.checkpoint.transaction import begun_operation, valid_records

SCHEMA = "gaff.inspection/1"

# Parameters that every tensor rank keeps whole (megatron/model/transformer.py, norms.py); all others are split.
_REPLICATED = ("layernorm.weight", "layernorm.bias", "norm.weight", "norm.bias", "norm.scale", "attention.dense.bias",
               "mlp.linear2.bias", "mlp.dense_4h_to_h.bias", "position_embeddings.weight")  # fmt: skip


def inspect_tag(tag: Path) -> dict[str, Any]:
    """Everything about one tag, ready for JSON.

    Raises:
        CheckpointError: incomplete, damaged or of a layout that is not handled.
    """
    layout = read_layout(tag)
    with understood(tag):
        total = count_parameters(TagFiles(tag))
    return {
        "schema": SCHEMA,
        "checkpoint": str(tag),
        "iteration": layout.iteration,
        "topology": vars(layout.topology),
        "zero_stage": layout.zero_stage,
        "precision": layout.model_dtype,
        "optimizer": layout.wrapper,
        "deepspeed": layout.deepspeed_version,
        "parameters": total,
        "bytes": sum(p.stat().st_size for p in tag.glob("*.pt")),
        "input_embedding": {
            "rows": layout.shape[0],
            "hidden": layout.shape[1],
            "tied": layout.tied,
            "parameters": layout.numel,
            "share": layout.numel / total,
            **embedding_statistics(layout),
            "copies": [vars(copy) for copy in layout.copies],
        },
        "half_done_reset": begun_operation(tag) is not None,
        "resets": [
            {"reset": r.operation.reset, "seed": r.operation.seed, "init": r.operation.init, "at": r.operation.began}
            for r in valid_records(tag)
        ],
    }


def count_parameters(files: TagFiles) -> int:
    """Parameters of the whole model, from the shapes that every stage's first tensor rank saved.

    A tied embedding, which two stages keep, counts once.
    """
    tensor, pipeline = files.topology.tensor, files.topology.pipeline
    counted: dict[str, int] = {}
    for stage in range(pipeline):
        header = files.archive(f"mp_rank_{stage * tensor:02d}_model_states.pt").root
        for group in header["param_shapes"]:
            for name, shape in group.items():
                counted[name] = prod(shape) * (1 if name.endswith(_REPLICATED) else tensor)
    return sum(counted.values())


def render_inspection(found: Mapping[str, Any]) -> str:
    """The same as a page of text."""
    embedding, topology = found["input_embedding"], found["topology"]
    lines = [
        f"{found['checkpoint']}",
        f"  iteration        {found['iteration']}",
        f"  layout           TP {topology['tensor']}, PP {topology['pipeline']}, DP {topology['data']}, "
        f"ZeRO stage {found['zero_stage']} ({found['optimizer']}, DeepSpeed {found['deepspeed']})",
        f"  precision        {found['precision']}",
        f"  parameters       {found['parameters']:,} in {found['bytes']:,} bytes",
        f"  input embedding  {embedding['rows']:,} x {embedding['hidden']:,} = {embedding['parameters']:,} "
        f"({embedding['share']:.1%} of the model), {'tied' if embedding['tied'] else 'untied'}",
        f"                   norm {embedding['norm']:.6g}, mean {embedding['mean']:.4g}, std {embedding['std']:.6g}",
    ]
    if found["half_done_reset"]:
        lines.append("  half done        a reset was begun here and not finished")
    lines += [f"  reset {r['reset']:<10} seed {r['seed']}, init {r['init']}, {r['at']}" for r in found["resets"]]
    kinds = Counter(copy["kind"] for copy in embedding["copies"])
    lines.append("  copies           " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    lines += [
        f"    {c['file']:<52} {c['record']:<9} bytes [{c['offset']}, {c['offset'] + c['length']})  "
        f"{c['kind']:<10} {c['dtype']:<8} rows {_rows(c, embedding['hidden'])}"
        for c in embedding["copies"]
    ]
    return "\n".join(lines)


def _rows(copy: Mapping[str, Any], hidden: int) -> str:
    """Rows of a copy; a boundary in the middle of a row shows as a fraction."""
    first, last = copy["start"] / hidden, (copy["start"] + copy["numel"]) / hidden
    return f"[{first:g}, {last:g})"
