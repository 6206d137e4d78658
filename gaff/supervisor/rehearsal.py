# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal needs before its loop: a corpus, the speed of this machine, a config that fits the minutes.

The speed is measured by launching the trainer once for a few iterations: the start-up, which every segment pays, and
the time of one iteration decide how many of each fit.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from gaff.errors import InputError, Problem, TrainerError
from gaff.files import make_directory_durably
from gaff.plan.config import Config
from gaff.plan.plan import build_plan
from gaff.plan.shrink import shrink
from gaff.plan.typed import precision
from gaff.supervisor.child import Child
from gaff.supervisor.failures import Ended, failure
from gaff.supervisor.follow import follow
from gaff.supervisor.ports import reserve_port
from gaff.supervisor.watch import Watch
from gaff.trainers.contract import Event, IterationLogged, SegmentRequest, Trainer

LEAST_RESETS, MOST_RESETS = 3, 8
_MEASURED_ITERATIONS = 12
_LEAST_PER_SEGMENT = 20  # iterations; fewer show no recovery
_LEAST_ITERATIONS = (LEAST_RESETS + 1) * _LEAST_PER_SEGMENT
_MOST_PER_SEGMENT = 400  # more teach nothing about the pipeline
_GOOD_PER_SEGMENT = 120  # a further reset is only worth having when this much is left for each
_MARGIN = 0.8  # of the minutes given; machines are busy with other things too
_COMPILED = "Building extension module"  # torch says so when it compiles an op of DeepSpeed's
_VOCABULARY = 2048  # BPE tokens, learnt from the corpus


@dataclass(frozen=True)
class Speed:
    """What this machine takes for the small model: seconds outside the iterations of one launch, and per iteration."""

    start_s: float
    iteration_s: float


@dataclass(frozen=True)
class Rehearsal:
    """The small config, what was shrunk in sentences, and the speed it was fitted to."""

    config: Config
    shrunk: tuple[str, ...]
    speed: Speed


@dataclass(frozen=True)
class Corpus:
    """Text to train on, and its tokenizer's file; None for bytes."""

    data_path: Path
    vocab_file: Path | None
    vocab_size: int


def check_rehearsal(config: Config, trainer: Trainer, root: Path, ranks: int) -> None:
    """Refuse what the trainer could not do, before anything is written.

    Raises:
        InputError: there is any.
    """
    any_text = Corpus(root / "data" / "text", None, 256)
    probe, _ = _small(config, trainer, any_text, ranks, _LEAST_ITERATIONS, LEAST_RESETS, root / "checkpoints")
    problems = trainer.check(probe)
    if problems:
        raise InputError(problems)


def _small(
    config: Config, trainer: Trainer, corpus: Corpus, ranks: int, iterations: int, resets: int, save: Path
) -> tuple[Config, tuple[str, ...]]:
    return shrink(
        config,
        iterations=iterations,
        resets=resets,
        ranks=ranks,
        data_path=corpus.data_path,
        vocab_file=corpus.vocab_file,
        vocab_size=corpus.vocab_size,
        save=save,
        # DeepSpeed has no fp16 on the CPU; with the shim that GPT-NeoX runs on, it has
        precision="bfloat16" if trainer.name == "bundled" and precision(config) == "fp16" else None,
        trainer="neox" if trainer.name == "neox" else "bundled",
        device="cpu-beside-gpus",
    )


def prepare_rehearsal(
    config: Config, trainer: Trainer, root: Path, *, minutes: float, ranks: int, say: Callable[[str], None]
) -> Rehearsal:
    """Make a rehearsal of ``config`` that ends in about ``minutes``, preparations included.

    Args:
        config: the user's, checked without its files and by :func:`check_rehearsal`.
        trainer: whose CPU variant rehearses.
        root: run directory; the corpus goes into ``data/`` below it.
        minutes, ranks: what the user gives.
        say: told what is going on, one line at a time.

    Raises:
        InputError: not even the least rehearsal fits into the minutes.
        TrainerError: the trainer does not run here.
    """
    began = time.monotonic()
    say("preparing English text from this Python's documentation and library")
    corpus = prepare_corpus(config, root / "data")
    probe, _ = _small(config, trainer, corpus, ranks, _LEAST_ITERATIONS, LEAST_RESETS, root / "measure" / "checkpoints")
    say(f"measuring this machine with {_MEASURED_ITERATIONS} iterations")
    speed = measure_speed(probe, trainer, root / "measure", say)
    left = minutes * 60 * _MARGIN - (time.monotonic() - began)
    plan = build_plan(config)
    iterations, resets = fit(speed, left, most_resets=min(MOST_RESETS, len(plan.resets)))
    say(f"{speed.start_s:.1f} s to start a segment, {speed.iteration_s * 1000:.0f} ms an iteration")
    iterations = max(_LEAST_ITERATIONS, min(iterations, plan.train_iters))
    shrunk, sentences = _small(config, trainer, corpus, ranks, iterations, resets, root / "checkpoints")
    return Rehearsal(shrunk, sentences, speed)


def fit(speed: Speed, seconds: float, most_resets: int) -> tuple[int, int]:
    """How many iterations and resets fit into ``seconds``: as many resets as leave each a recovery worth looking at.

    Raises:
        InputError: less than three resets with 20 iterations a segment fit.
    """

    def per_segment_with(resets: int) -> int:
        return int((seconds / (resets + 1) - speed.start_s) / speed.iteration_s)

    resets = LEAST_RESETS
    while resets < most_resets and per_segment_with(resets + 1) >= _GOOD_PER_SEGMENT:
        resets += 1
    per_segment = min(per_segment_with(resets), _MOST_PER_SEGMENT) // 10 * 10
    if per_segment < _LEAST_PER_SEGMENT:
        least = (LEAST_RESETS + 1) * (speed.start_s + _LEAST_PER_SEGMENT * speed.iteration_s) - seconds
        what = (
            f"the minutes given are too few: a rehearsal needs at least {least / 60 / _MARGIN:.1f} more on this machine"
        )
        raise InputError(Problem("too-few-minutes", what, "give more with --minutes"))
    return per_segment * (resets + 1), resets


def measure_speed(probe: Config, trainer: Trainer, folder: Path, say: Callable[[str], None]) -> Speed:
    """Launch the trainer for a few iterations in ``folder``, which is removed afterwards.

    Raises:
        TrainerError: it did not get through them; its log stays in ``folder``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_directory_durably(folder)
    save = folder / "checkpoints"
    with reserve_port(str(folder)) as port:
        request = SegmentRequest(0, _MEASURED_ITERATIONS, save, folder, port.number, "rehearsal")
        log = folder / "measure.log"
        measured = _measure(trainer, probe, request, log, say)
        if _COMPILED in log.read_text(encoding="utf-8", errors="replace"):  # once on a machine, not at each start
            shutil.rmtree(save, ignore_errors=True)
            measured = _measure(trainer, probe, request, folder / "measure-again.log", say)
    shutil.rmtree(folder, ignore_errors=True)
    return measured


def _measure(trainer: Trainer, probe: Config, request: SegmentRequest, log: Path, say: Callable[[str], None]) -> Speed:
    """One launch.

    Raises:
        TrainerError: it logged too few iterations.
    """
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, IterationLogged) and event.ms_per_iteration:
            times.append(event.ms_per_iteration / 1000)

    watch = Watch(request.start, probe.gaff.watch.silence_minutes)
    began = time.monotonic()
    with Child(trainer.prepare(probe, request), log, run_id=f"measure-{request.master_port}") as child:
        code = follow(child, watch, tell=note, message=say)
    wall = time.monotonic() - began
    if len(times) < 2:
        raise _did_not_run(failure(Ended(code, request.stop, None, request.save, log), watch).problem)
    iteration = statistics.median(times[1:])  # the first one warms up
    return Speed(max(0.0, wall - iteration * _MEASURED_ITERATIONS), iteration)


def _did_not_run(problem: Problem) -> TrainerError:
    return TrainerError(replace(problem, id="trainer-failed", what=f"the measurement failed: {problem.what}"))


def prepare_corpus(config: Config, folder: Path) -> Corpus:
    """English text as a .bin/.idx pair in ``folder``.

    Bytes where the config says CharLevelTokenizer or the package ``tokenizers`` is not there, else a small BPE learnt
    from the text itself.
    """
    from gaff.data.corpus import limited_text, write_corpus
    from gaff.data.tokenizers import CharLevel, HuggingFace, Tokenizer, train_bpe

    folder.mkdir(parents=True, exist_ok=True)
    if config.get("tokenizer_type") == CharLevel.name or find_spec("tokenizers") is None:
        tokenizer: Tokenizer = CharLevel()
        vocab_file = None
    else:
        vocab_file = folder / "tokenizer.json"
        if not vocab_file.is_file():
            train_bpe(limited_text(), _VOCABULARY, vocab_file)
        tokenizer = HuggingFace(vocab_file)
    return Corpus(write_corpus(folder, tokenizer), vocab_file, tokenizer.vocab_size)
