# SPDX-License-Identifier: Apache-2.0
"""A plan as plain text, for a terminal or a log: facts, segments, learning rate, moments, changes, warnings."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from gaff.cli.plan_chart import draw
from gaff.plan.changes import Planned
from gaff.plan.learning_rate import DECAYING, LearningRate
from gaff.plan.moments import Moments
from gaff.plan.plan import Plan
from gaff.plan.schedule import Segment
from gaff.report.format import count

WIDTH = 100
_ROWS_SHOWN = 12  # segments; a longer list is cut in the middle
_TAGS_SHOWN = 5  # of those that stay
_ITEMS_SHOWN = 4  # of a list that is written into a config
_VALUE_WIDTH = 40  # of what is written into a config

Row = tuple[str, ...]


def render_plan(plan: Plan, *, unicode: bool | None = None) -> str:
    """The plan as aligned text in at most 100 columns, but for words that are longer.

    Args:
        plan: what is shown.
        unicode: whether block characters can be shown; by default what the encoding of standard output says.
    """
    blocks = [wrapped(_facts(plan)), _segments(plan.segments)]
    if plan.learning_rate:
        resets = [reset.iteration for reset in plan.resets]
        blocks.append(draw(plan.learning_rate, resets, unicode=_takes_unicode() if unicode is None else unicode))
    if plan.moments:
        blocks.append(_moments(plan.moments))
    if plan.changes:
        blocks.append(["written into each segment's config on your behalf:", *_changes(plan.changes)])
    if plan.warnings:
        blocks.append([line for warning in plan.warnings for line in _paragraph(f"warning: {warning}")])
    return "\n\n".join("\n".join(block) for block in blocks)


def _takes_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _facts(plan: Plan) -> list[Row]:
    every = "never" if plan.reset_every is None else f"every {count(plan.reset_every, 'iteration')}"
    return [
        ("iterations", f"{plan.train_iters:,}"),
        ("segments", f"{len(plan.segments):,}"),
        ("resets", f"{len(plan.resets):,}, {every}" if plan.resets else "none"),
        ("forgets", plan.forgets),
        ("layout", plan.layout),
        *_model_facts(plan),
        *_token_facts(plan),
        *_disk_facts(plan),
        *_loader_facts(plan),
        *_rate_facts(plan.learning_rate),
    ]


def _model_facts(plan: Plan) -> list[Row]:
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


def _token_facts(plan: Plan) -> list[Row]:
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


def _disk_facts(plan: Plan) -> list[Row]:
    said = f"{len(plan.tags):,} tags"
    if plan.checkpoint_bytes is not None and plan.disk_bytes is not None:
        said = f"{_bytes(plan.checkpoint_bytes)} per tag, {said}, {_bytes(plan.disk_bytes)} in all"
    return [("checkpoints", said), *_kept_facts(plan)]


def _kept_facts(plan: Plan) -> list[Row]:
    settings, stay = plan.kept.settings, plan.kept.tags
    if settings.newest is None:
        return []
    rules = ["the newest" if settings.newest == 1 else f"the {settings.newest:,} newest"]
    rules += [f"multiples of {settings.every:,}"] if settings.every else []
    rules += ["reset points"] if settings.resets else []
    shown = [f"{iteration:,}" for iteration in stay]
    if len(shown) > _TAGS_SHOWN:
        shown = [*shown[:2], "…", *shown[-2:]]
    rules += ["what checkpoint_factor and extra_save_iters ask for"] if plan.kept.asked else []
    said = f"{', '.join(rules)}: {count(len(stay), 'tag')} in the end ({', '.join(shown)})"
    most = f"at most {plan.kept.most:,} at once"
    if plan.most_disk_bytes is not None:
        most += f", {_bytes(plan.most_disk_bytes)}"
    return [("kept", f"{said}; {most}")]


def _loader_facts(plan: Plan) -> list[Row]:
    cost = plan.loader
    if cost is None:
        return []
    said = f"keeps up to {_bytes(cost.kept_bytes)} of batches in the memory of each rank that reads data"
    if cost.skipped is not None and cost.skip_seconds is not None and len(plan.segments) > 1:
        said += f"; before the last segment it skips {cost.skipped:,} samples, about {cost.skip_seconds:,.0f} s"
    return [("data loader", said)]


def _rate_facts(rate: LearningRate | None) -> list[Row]:
    if rate is None:
        return []
    s = rate.schedule
    unit = "iteration" if s.warmup_iter == 1 else "iterations"
    warm = f"after {s.warmup_iter:,.6g} {unit} of warm-up" if s.warmup_iter else "without warm-up"
    fall = f"{s.decay_style} over {count(s.end_iter, 'iteration')}, never below {s.min_lr:g}"
    after = f"{s.start_lr:g} {warm}, then {fall if s.decay_style in DECAYING else 'constant'}"
    again = f"; begins anew after each of {count(len(rate.restarts), 'reset')}" if rate.restarts else ""
    return [("learning rate", after + again)]


def _segments(segments: Sequence[Segment]) -> list[str]:
    rows: list[Row] = [("segment", "from", "to", "iterations", "then")]
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
    lines = columns(rows, right=4)
    hidden = len(segments) - _ROWS_SHOWN
    if hidden <= 1:
        return lines
    half = _ROWS_SHOWN // 2
    return [*lines[: 1 + half], f"  … {hidden:,} more segments …", *lines[-half:]]


def _moments(moments: Moments) -> list[str]:
    steps = ("step after a reset", *(f"{step:,}" for step, _ in moments.values))
    factors = ("factor", *(f"{factor:.2f}" if factor < 1000 else f"{factor:.0e}" for _, factor in moments.values))
    betas = f"betas [{moments.beta1:g}, {moments.beta2:g}]"
    said = f"updates of what is forgotten, {betas}: moments are zeroed, and Adam's shared step count corrects no bias"
    peak = "never above 1"
    if moments.peak:
        peak = f"{moments.peak[1]:.2f} at its highest, at step {moments.peak[0]:,} after a reset"
    settled = "the next reset comes before it is within a tenth of 1"
    if moments.settled is not None:
        settled = f"within a tenth of 1 from step {moments.settled:,} on"
    ends = f"{peak}; {settled}"
    if moments.with_warmup:
        step, factor = moments.with_warmup
        ends += f"; with the restarted learning rate {factor:.2f} times the full rate at most, at step {step:,}"
    return [*_paragraph(said), *columns([steps, factors], right=len(steps)), *_paragraph(ends)]


def _changes(changes: Sequence[Planned]) -> list[str]:
    cells = [([f"  {change.key}"], _lines(_written(change), _VALUE_WIDTH), _why(change)) for change in changes]
    indent = max(len(key) for [key], _, _ in cells) + max(len(line) for _, value, _ in cells for line in value) + 4
    broken = (zip_longest(key, value, _lines(why, WIDTH - indent), fillvalue="") for key, value, why in cells)
    return columns([row for rows in broken for row in rows])


def _why(change: Planned) -> str:
    late = change.written[0] is None and any(value is not None for value in change.written)
    return f"from segment 2 on: {change.why}" if late else change.why


def _written(change: Planned) -> str:
    """The value in all segments; or in the first two that have one, and in the last."""
    values = list(dict.fromkeys(_yaml(value) for value in change.written if value is not None))
    said = " … ".join(filter(None, [", ".join(values[:-1]), *values[-1:]])) or "left out"
    return said if change.given is None else f"{said} (yours: {_yaml(change.given)})"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        shown = [_yaml(item) for item in value]
        if len(shown) > _ITEMS_SHOWN:
            shown = [*shown[:2], "…", shown[-1]]
        return f"[{', '.join(shown)}]"
    if isinstance(value, str) and len(value) > _VALUE_WIDTH - 10:
        return f"…{value[10 - _VALUE_WIDTH :]}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def columns(rows: Sequence[Row], right: int = 0) -> list[str]:
    """Rows with aligned columns: the first ``right`` to the right, the last one unpadded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i < right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(rows: Sequence[Row]) -> list[str]:
    """Rows with aligned columns, the last of which is broken into lines so that all fits into ``WIDTH``."""
    indent = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1))
    return columns([part for row in rows for part in _broken(row, WIDTH - indent)])


def _broken(row: Row, width: int) -> Iterator[Row]:
    first, *rest = _lines(row[-1], width)
    yield (*row[:-1], first)
    yield from ((*("" for _ in row[:-1]), line) for line in rest)


def _paragraph(text: str) -> list[str]:
    first, *rest = _lines(text, WIDTH)
    return [first, *(f"  {line}" for line in _lines(" ".join(rest), WIDTH - 2) if line)]


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]


def _bytes(amount: int) -> str:
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
