# SPDX-License-Identifier: Apache-2.0
"""The facts of a plan in rows of two cells, a name and a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from gaff.cli.plan_layout import Row, size
from gaff.plan.embeddings import COMPARED
from gaff.plan.learning_rate import DECAYING, LearningRate
from gaff.plan.plan import RATIOS_COMPARED, Plan
from gaff.report.format import count

_TAGS_SHOWN = 5  # of those that stay


def facts(plan: Plan, data: Sequence[Row] = ()) -> list[Row]:
    """All that is worked out from the config alone, and rows about the data in their place."""
    every = "never" if plan.reset_every is None else f"every {count(plan.reset_every, 'iteration')}"
    return [
        ("iterations", f"{plan.train_iters:,}"),
        ("segments", f"{len(plan.segments):,}"),
        ("resets", f"{len(plan.resets):,}, {every}" if plan.resets else "none"),
        ("forgets", plan.forgets),
        ("layout", plan.layout),
        *_model_facts(plan),
        *_token_facts(plan),
        *_ratio_facts(plan),
        *data,
        *_disk_facts(plan),
        *_loader_facts(plan),
        *_rate_facts(plan.learning_rate),
    ]


def _model_facts(plan: Plan) -> list[Row]:
    model = plan.model
    if model is None:
        return [("parameters", f"not known: {plan.model_unknown}")]
    words = model.vocabulary
    total = f"{model.total:,}, of them {model.non_embedding:,} without embeddings"
    if plan.printed not in (None, model.total):
        total += f"; GPT-NeoX prints {plan.printed:,}, as it counts what several ranks hold more than once"
    tied = "tied to the output" if model.tied else f"and as many in the output ({model.embedding_share:.1%} together)"
    return [
        ("parameters", total),
        ("embedding", f"{model.input_embedding:,} parameters, {model.share:.1%} of the model, {tied}"),
        ("in comparison", f"input and output embedding are {_compared()}"),
        ("vocabulary", f"{words.tokens:,} tokens ({words.source}), padded to {words.rows:,} rows"),
    ]


def _compared() -> str:
    shares = [f"{_percent(share)} of {name}" for name, share in COMPARED.items()]
    return f"{', '.join(shares[:-1])} and {shares[-1]}"


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{share:.0%}"


def _ratio_facts(plan: Plan) -> list[Row]:
    whole, body = plan.tokens_per_parameter, plan.tokens_per_body_parameter
    rows: list[Row] = []
    if whole is not None and body is not None:
        others = ", ".join(f"{name} {ratio}" for name, ratio in RATIOS_COMPARED.items())
        rows.append(("per parameter", f"{_ratio(whole)} tokens, {_ratio(body)} without embeddings ({others})"))
    if plan.tokens_between_resets is not None and plan.tokens and plan.resets:
        share = plan.tokens_between_resets / plan.tokens
        rows.append(("between resets", f"{plan.tokens_between_resets:,} tokens, {share:.2%} of the run"))
    return rows


def _ratio(value: float) -> str:
    """A number of tokens for one parameter, with the digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
        said = f"{size(plan.checkpoint_bytes)} per tag, {said}, {size(plan.disk_bytes)} in all"
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
        most += f", {size(plan.most_disk_bytes)}"
    return [("kept", f"{said}; {most}")]


def _loader_facts(plan: Plan) -> list[Row]:
    cost = plan.loader
    if cost is None:
        return []
    said = f"keeps up to {size(cost.kept_bytes)} of batches in the memory of each rank that reads data"
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
