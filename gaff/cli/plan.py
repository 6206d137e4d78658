# SPDX-License-Identifier: Apache-2.0
"""``gaff plan``: what a config would do, as a table or as JSON.  Starts nothing, writes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from gaff.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError, Problem
from gaff.plan.checks import check
from gaff.plan.config import load_config
from gaff.plan.plan import Plan, build_plan, problem_json
from gaff.plan.schedule import Segment
from gaff.plan.settings import GaffSettings, InitSpec

_ROWS_SHOWN = 12  # segments; a longer list is cut in the middle


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--config`` and ``-o``, the same for every verb that takes a config."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        action="append",
        required=required,
        help="GPT-NeoX YAML file with a `gaff:` block; may be given several times, later files win",
    )
    parser.add_argument(
        "-o",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key, for example -o gaff.reset_every=500 or -o optimizer.params.lr=0.001",
    )


def add_parser(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "plan",
        help="segments, resets, sizes and tokens of a config",
        description="Read and check a config, and print what a run of it would do. Starts nothing.",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON (schema gaff.plan/1)")
    parser.add_argument("--keys", action="store_true", help="print every key of the `gaff:` block and leave")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The verb itself.  Returns the exit code: 2 when the config has errors, also where a plan could be shown."""
    if args.keys:
        print(render_keys())
        return EXIT_DONE
    if not args.config:
        raise InputError(
            Problem("config-missing", "no config is given", "add --config FILE, or --keys for the gaff keys")
        )
    config = load_config(args.config, args.overrides)
    errors = check(config)
    try:
        plan = build_plan(config)
    except InputError as error:
        raise InputError(errors or error.problems) from None
    if args.json:
        print(json.dumps({**plan.to_json(), "problems": [problem_json(problem) for problem in errors]}, indent=2))
    else:
        print(render_plan(plan))
    for problem in errors:
        print(f"gaff: {problem}", file=sys.stderr)
    return EXIT_WRONG_INPUT if errors else EXIT_DONE


def render_keys() -> str:
    """Every key of the ``gaff:`` block with its default and meaning."""
    rows = []
    for item in fields(GaffSettings):
        default = "required" if item.default is MISSING else _yaml_word(item.default)
        rows.append((item.name, default, item.metadata["doc"]))
    return "\n".join(_columns(rows))


def render_plan(plan: Plan) -> str:
    """The plan as plain text, aligned, for a terminal or a log."""
    lines = [*_columns(_facts(plan)), "", *_segments(plan.segments)]
    if plan.warnings:
        lines += ["", *(f"warning: {problem}" for problem in plan.warnings)]
    return "\n".join(lines)


def _facts(plan: Plan) -> list[tuple[str, ...]]:
    every = "never" if plan.reset_every is None else f"every {plan.reset_every:,} iterations"
    return [
        ("iterations", f"{plan.train_iters:,}"),
        ("segments", f"{len(plan.segments):,}"),
        ("resets", f"{len(plan.resets):,}, {every}" if plan.resets else "none"),
        ("forgets", plan.forgets),
        ("layout", plan.layout),
        *_model_facts(plan),
        *_token_facts(plan),
        *_disk_facts(plan),
    ]


def _model_facts(plan: Plan) -> list[tuple[str, ...]]:
    model = plan.model
    if model is None:
        return [("parameters", f"not known: {plan.model_unknown}")]
    tied = "tied to the output" if model.tied else f"and as many in the output ({2 * model.share:.1%} together)"
    words = model.vocabulary
    return [
        ("parameters", f"{model.total:,}"),
        ("embedding", f"{model.input_embedding:,} parameters, {model.share:.1%} of the model, {tied}"),
        ("vocabulary", f"{words.tokens:,} tokens ({words.source}), padded to {words.rows:,} rows"),
    ]


def _token_facts(plan: Plan) -> list[tuple[str, ...]]:
    batch = plan.batch
    if batch is None:
        return [("tokens", "not known: batch size or sequence length is missing")]
    if batch.tokens is not None and plan.tokens is not None:
        gpus = f" on {batch.gpus:,} GPUs" if batch.gpus else ""
        sample = f"{batch.samples:,} sequences of {batch.sequence:,}{gpus}"
        return [("tokens", f"{batch.tokens:,} per iteration ({sample}), {plan.tokens:,} in all")]
    per_gpu = batch.tokens_per_gpu or 0
    why = "set global_num_gpus or a hostfile for the whole"
    return [("tokens", f"{per_gpu:,} per iteration and data-parallel rank; the number of GPUs is not known ({why})")]


def _disk_facts(plan: Plan) -> list[tuple[str, ...]]:
    if plan.checkpoint_bytes is None or plan.disk_bytes is None:
        return [("checkpoints", f"{len(plan.tags):,} tags")]
    one, whole = _bytes(plan.checkpoint_bytes), _bytes(plan.disk_bytes)
    return [("checkpoints", f"{one} per tag, {len(plan.tags):,} tags, {whole} in all")]


def _segments(segments: Sequence[Segment]) -> list[str]:
    rows = [("segment", "from", "to", "iterations", "then")]
    rows += [
        (
            f"{s.number:,}",
            f"{s.start:,}",
            f"{s.stop:,}",
            f"{s.iterations:,}",
            f"reset {s.reset.number:,}" if s.reset else "end",
        )
        for s in segments
    ]
    lines = _columns(rows, right=4)
    hidden = len(segments) - _ROWS_SHOWN
    if hidden <= 1:
        return lines
    half = _ROWS_SHOWN // 2
    return [*lines[: 1 + half], f"  … {hidden:,} more segments …", *lines[-half:]]


def _columns(rows: Sequence[tuple[str, ...]], right: int = 0) -> list[str]:
    """Rows with aligned columns: the first ``right`` to the right, the last one unpadded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i < right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _yaml_word(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, (type, InitSpec)):
        return ", ".join(f"{item.name} {_yaml_word(getattr(value, item.name))}" for item in fields(value))
    if value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(value)
    return {"None": "null", "False": "false", "True": "true"}.get(str(value), str(value))
