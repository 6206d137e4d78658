# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: segments, resets, sizes and tokens, worked out from the config before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from gaff.errors import InputError, Problem
from gaff.plan import checks
from gaff.plan.changes import Planned, planned_changes
from gaff.plan.check_schedule import check_length
from gaff.plan.config import Config
from gaff.plan.embeddings import COMPARED, HIGH_SHARE
from gaff.plan.estimates import Batch, batch, checkpoint_bytes, tags
from gaff.plan.keeping import Kept, keep_warnings, kept
from gaff.plan.learning_rate import LearningRate, learning_rate
from gaff.plan.loader import LoaderCost, loader_cost
from gaff.plan.model import ModelSize, model_size, printed_parameters
from gaff.plan.moments import Moments, moments
from gaff.plan.parameters import Selection, selection
from gaff.plan.schedule import Reset, Segment, schedule
from gaff.plan.settings import NICKNAMES
from gaff.plan.typed import integer, pipeline, precision, tensor_parallel, zero_stage

SCHEMA = "gaff.plan/1"
#: Training tokens for each parameter of the model: the optimum for a budget of compute (Hoffmann et al., arXiv
#: 2203.15556), and 2 T tokens for 7 B parameters (Touvron et al., arXiv 2307.09288).
RATIOS_COMPARED: Mapping[str, int] = MappingProxyType({"Chinchilla": 20, "Llama-2-7B": 286})


@dataclass(frozen=True)
class Plan:
    """What a run will do and need.

    Attributes:
        train_iters: iterations in all.
        reset_every: k, None for a baseline.
        segments: in order; each but the last ends in a reset.
        forgets: what is forgotten, and where new values come from, in words.
        selection: the parameters that are forgotten, None for a baseline.
        layout: precision, ZeRO stage and parallelism, in words.
        model: parameters, None when they cannot be counted.
        model_unknown: then, why not.
        printed: the parameters that GPT-NeoX prints for it, None where it prints none of use (ZeRO 3).
        batch: tokens per iteration, None when its keys are missing.
        checkpoint_bytes: one tag, None without ``model``.
        tags: iterations that leave a tag.
        kept: which of them stay, and how many there are at once.
        loader: what GPT-NeoX's data loader costs, None when it is not known.
        learning_rate: over the run, None when its keys make no schedule.
        moments: how updates are scaled after each reset, None where no moments are zeroed or nothing scales.
        changes: what GAFF adds or changes in the keys of the segments.
        warnings: what a person should read beforehand.
    """

    train_iters: int
    reset_every: int | None
    segments: tuple[Segment, ...]
    forgets: str
    selection: Selection | None
    layout: str
    model: ModelSize | None
    model_unknown: str
    printed: int | None
    batch: Batch | None
    checkpoint_bytes: int | None
    tags: tuple[int, ...]
    kept: Kept
    loader: LoaderCost | None
    learning_rate: LearningRate | None
    moments: Moments | None
    changes: tuple[Planned, ...]
    warnings: tuple[Problem, ...]

    @property
    def resets(self) -> tuple[Reset, ...]:
        return tuple(segment.reset for segment in self.segments if segment.reset)

    @property
    def tokens(self) -> int | None:
        """Tokens of the whole run, None when the number of GPUs is not known."""
        per_iteration = self.batch.tokens if self.batch else None
        return None if per_iteration is None else per_iteration * self.train_iters

    @property
    def tokens_per_parameter(self) -> float | None:
        """Of the whole model; None where tokens or parameters are not known."""
        return None if self.tokens is None or self.model is None else self.tokens / self.model.total

    @property
    def tokens_per_body_parameter(self) -> float | None:
        """Of the model without its embeddings, as scaling laws count it."""
        return None if self.tokens is None or self.model is None else self.tokens / self.model.non_embedding

    @property
    def tokens_between_resets(self) -> int | None:
        """Tokens that each new embedding is trained on, but the first and the last."""
        per_iteration = self.batch.tokens if self.batch else None
        return None if per_iteration is None or self.reset_every is None else per_iteration * self.reset_every

    @property
    def disk_bytes(self) -> int | None:
        """All tags together; a tag at iteration 0, which has no moments yet, is counted in full."""
        return None if self.checkpoint_bytes is None else self.checkpoint_bytes * len(self.tags)

    @property
    def most_disk_bytes(self) -> int | None:
        """The tags that lie there at once, at most."""
        return None if self.checkpoint_bytes is None else self.checkpoint_bytes * self.kept.most

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values.  ``schema`` changes when a key changes its meaning or goes away."""
        return {
            "schema": SCHEMA,
            "train_iters": self.train_iters,
            "reset_every": self.reset_every,
            "forgets": self.forgets,
            "parameters": self.selection.to_json() if self.selection else None,
            "layout": self.layout,
            "segments": [
                {"number": s.number, "start": s.start, "stop": s.stop, "reset": s.reset.number if s.reset else None}
                for s in self.segments
            ],
            "resets": [asdict(reset) for reset in self.resets],
            "model": _model_json(self.model, self.printed),
            "model_unknown": self.model_unknown or None,
            "batch": _batch_json(self.batch),
            "tokens": self.tokens,
            "tokens_per_parameter": {
                "all": self.tokens_per_parameter,
                "without_embeddings": self.tokens_per_body_parameter,
                "compared": dict(RATIOS_COMPARED),
            },
            "tokens_between_resets": self.tokens_between_resets,
            "checkpoint_bytes": self.checkpoint_bytes,
            "tags": list(self.tags),
            "disk_bytes": self.disk_bytes,
            "keep": {
                **asdict(self.kept.settings),
                "tags": list(self.kept.tags),
                "most_tags": self.kept.most,
                "most_disk_bytes": self.most_disk_bytes,
            },
            "loader": self.loader.to_json() if self.loader else None,
            "learning_rate": self.learning_rate.to_json() if self.learning_rate else None,
            "moments": self.moments.to_json() if self.moments else None,
            "changes": [change.to_json() for change in self.changes],
            "warnings": [problem_json(problem) for problem in self.warnings],
        }


def build_plan(config: Config, launcher: Mapping[str, Any] = MappingProxyType({})) -> Plan:
    """Work out the plan.

    Args:
        config: checked or not.
        launcher: GPT-NeoX keys that the trainer's launcher will need, which only the trainer knows.

    Raises:
        InputError: ``train_iters`` is missing or unusable, or there would be millions of segments.  Other problems of
            the config (:func:`gaff.plan.checks.check`) leave gaps in the plan, not more.
    """
    train_iters = integer(config, "train_iters")
    if train_iters is None or train_iters < 1:
        what = "there is no plan without a usable `train_iters`"
        raise InputError(config.problem("train-iters-missing", "train_iters", what, "give the length of the run"))
    too_long = list(check_length(config))
    if too_long:
        raise InputError(too_long)
    gaff = config.gaff
    segments = schedule(train_iters, gaff.reset_every, gaff.first_reset, gaff.last_reset)
    size = model_size(config)
    counted = size if isinstance(size, ModelSize) else None
    forgotten = None if gaff.reset_every is None else selection(config, counted)
    sizes, rate = batch(config), learning_rate(config, segments)
    written = tags(config, (segment.stop for segment in segments), train_iters)
    staying = kept(config, segments, written)
    return Plan(
        train_iters=train_iters,
        reset_every=gaff.reset_every,
        segments=segments,
        forgets=_forgets(config, forgotten),
        selection=forgotten,
        layout=_layout(config),
        model=counted,
        model_unknown=size if isinstance(size, str) else "",
        printed=printed_parameters(config, counted) if counted else None,
        batch=sizes,
        checkpoint_bytes=checkpoint_bytes(config, counted) if counted else None,
        tags=written,
        kept=staying,
        loader=None if gaff.trainer == "bundled" else loader_cost(sizes, segments),
        learning_rate=rate,
        moments=moments(config, segments, rate),
        changes=planned_changes(config, segments, launcher),
        warnings=(*checks.warnings(config), *keep_warnings(config, segments, staying)),
    )


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem as plain JSON values."""
    where = problem.where
    return {
        "id": problem.id,
        "what": problem.what,
        "remedy": problem.remedy,
        "detail": list(problem.detail),
        "file": where.file if where else None,
        "line": where.line if where and where.line else None,
    }


def _forgets(config: Config, forgotten: Selection | None) -> str:
    gaff = config.gaff
    if forgotten is None:
        return "nothing (baseline)"
    new = str(gaff.init)
    if gaff.init.kind == "config":
        only_embeddings = all(chosen in NICKNAMES for chosen in gaff.parameters)
        new = (
            f"as init_method {config.get('init_method', 'normal')}"
            if only_embeddings
            else "as the config's init methods"
        )
    return f"{forgotten}, new values {new}, moments {gaff.moments}, seed {gaff.seed}"


def _layout(config: Config) -> str:
    return (
        f"{precision(config)}, ZeRO {zero_stage(config)}, tensor parallel {tensor_parallel(config)},"
        f" pipeline {pipeline(config)}"
    )


def _model_json(model: ModelSize | None, printed: int | None) -> dict[str, Any] | None:
    if model is None:
        return None
    return {
        **asdict(model),
        "total": model.total,
        "printed_by_neox": printed,
        "without_embeddings": model.non_embedding,
        "share": model.share,
        "embedding_share": model.embedding_share,
        "embedding_share_high": HIGH_SHARE,
        "embedding_share_compared": dict(COMPARED),
    }


def _batch_json(value: Batch | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {**asdict(value), "tokens": value.tokens, "tokens_per_gpu": value.tokens_per_gpu}
