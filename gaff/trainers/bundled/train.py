# SPDX-License-Identifier: Apache-2.0
"""The training loop of one rank.  Order inside an iteration, as in GPT-NeoX: step, log, save, validate, exit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from gaff.data.tokenizers import load_tokenizer
from gaff.trainers.bundled import log, saving, settings
from gaff.trainers.bundled.batches import Batches, Counts, Sources, open_sources
from gaff.trainers.bundled.engine import Engine, build_engine, init_distributed
from gaff.trainers.bundled.log import say_on_rank_0


@dataclass
class Run:
    """One launch on one rank: everything built, and the iteration it stands at."""

    engine: Engine
    loop: settings.LoopSettings
    model: settings.ModelSettings
    sizes: tuple[int, int, int]
    vocab_size: int
    sources: Sources
    args: dict[str, Any]
    config: Path
    iteration: int = 0
    saved_at: int | None = None
    _losses: list[float] = field(default_factory=list)
    _since: float = 0.0

    def train(self) -> None:
        """Train until ``train_iters`` or the exit interval."""
        batches = self._batches(self.sources.train)
        self._since = time.monotonic()
        while self.iteration < self.loop.train_iters:
            self._losses.append(self.engine.train(batches.of(self.iteration)))
            self.iteration += 1
            if self.iteration % self.loop.log_interval == 0:
                self._log()
            if self.loop.save and self.loop.is_save_iteration(self.iteration):
                self._save()
            if self.iteration % self.loop.eval_interval == 0:
                self._evaluate("validation", f"iteration {self.iteration}")
            if self.loop.exit_interval and self.iteration % self.loop.exit_interval == 0:
                say_on_rank_0(log.exit_line(self.iteration))
                return
        self._finish()

    def save_untrained(self) -> None:
        """Write ``global_step0`` when iteration 0 is in ``extra_save_iters``."""
        if self.loop.save and self.iteration == 0 and 0 in self.loop.extra_save_iters:
            self._save()

    def _finish(self) -> None:
        self._evaluate("validation", "the end of training for val data")
        if self.loop.save and self.iteration and self.saved_at != self.iteration:
            self._save()
        self._evaluate("test", "the end of training for test data")

    def _save(self) -> None:
        assert self.loop.save is not None
        saving.save(self.engine, self.loop.save, self.iteration, self.args, self.config)
        self.saved_at = self.iteration

    def _log(self) -> None:
        now = time.monotonic()
        seconds = (now - self._since) / len(self._losses)
        flops = log.flops_per_iteration(self.model, self.sizes[0], self.vocab_size)
        say_on_rank_0(
            log.iteration_line(
                iteration=self.iteration,
                train_iters=self.loop.train_iters,
                batch=self.sizes[0],
                seconds=seconds,
                learning_rate=self.engine.learning_rate,
                flops=flops / seconds / self.engine.layout.world,
                losses={"lm_loss": sum(self._losses) / len(self._losses)},
            )
        )
        self._losses, self._since = [], now

    def _evaluate(self, chart: str, prefix: str) -> None:
        source = self.sources.valid if chart == "validation" else self.sources.test
        if source is None or not self.loop.eval_iters:
            return
        begun = time.monotonic()
        batches = self._batches(source)
        # Evaluation number e takes its own stretch of the samples, whether or not the run was ever stopped.
        first = 0 if chart == "test" else self.iteration // self.loop.eval_interval * self.loop.eval_iters
        losses = [self.engine.evaluate(batches.of(first + n)) for n in range(self.loop.eval_iters)]
        for line in log.results_lines(chart, prefix, sum(losses) / len(losses)):
            say_on_rank_0(line)
        self._since += time.monotonic() - begun  # the next line's time per iteration is of training alone

    def _batches(self, source: Any) -> Batches:
        layout = self.engine.layout
        return Batches(source, self.sizes[1], self.sizes[2], self.engine.replica, layout.data, self.vocab_size)


def train(neox: Mapping[str, Any], config: Path) -> None:
    """Everything that one rank does, from joining the others to the last checkpoint."""
    init_distributed()
    times = [time.monotonic()]
    run = _build(neox, config, times)
    loop = run.loop
    if loop.load:
        run.iteration = saving.load(run.engine, loop.load, loop.iteration, run.args)
        say_on_rank_0(f"Loading checkpoint and starting from iteration {run.iteration}")
    run.save_untrained()
    times.append(time.monotonic())
    say_on_rank_0("done with setups ...")
    data, model = ((after - before) * 1000 for before, after in pairwise(times))
    say_on_rank_0(f"time (ms) | train/valid/test data loaders: {data:.2f} | model and optimizer: {model:.2f}")
    say_on_rank_0("training ...")
    run.train()


def _build(neox: Mapping[str, Any], config: Path, times: list[float]) -> Run:
    loop, model = settings.loop_settings(neox), settings.model_settings(neox)
    sizes = settings.batch_sizes(neox, settings.layout(neox).data)
    tokenizer = load_tokenizer(neox["tokenizer_type"], neox.get("vocab_file"))
    vocab_size = settings.padded_vocab_size(neox, tokenizer.vocab_size)
    dummies = vocab_size - tokenizer.vocab_size
    say_on_rank_0(
        f" > padded vocab (size: {tokenizer.vocab_size}) with {dummies} dummy tokens (new size: {vocab_size})"
    )
    saving.seed_everything(model.seed)
    say_on_rank_0("> building train, validation, and test datasets ...")
    evaluations = loop.train_iters // loop.eval_interval + 1
    counts = Counts(
        train=loop.train_iters * sizes[0],
        valid=evaluations * loop.eval_iters * sizes[0],
        test=loop.eval_iters * sizes[0],
    )
    sources = open_sources(neox, counts)
    times.append(time.monotonic())
    engine = build_engine(neox, vocab_size)
    args = saving.checked_args(neox, vocab_size)
    return Run(engine, loop, model, sizes, vocab_size, sources, args, config)
