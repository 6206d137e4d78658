# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gaff.errors import InputError, TrainerError
from gaff.plan.config import Config, load_config
from gaff.supervisor.rehearsal import LEAST_RESETS, MOST_RESETS, Speed, fit, measure_speed
from gaff.trainers.contract import Launch, SegmentRequest
from tests.live import write_config
from tests.supervisor.fake_trainer import PEER_LOST, REAL_CAUSE, FakeTrainer


@pytest.mark.parametrize("seconds", [40, 90, 140, 300, 3000])
@pytest.mark.parametrize("speed", [Speed(3, 0.05), Speed(5, 0.1), Speed(1, 0.3)])
def test_what_fits_takes_no_longer_than_the_time_given(seconds: float, speed: Speed) -> None:
    try:
        iterations, resets = fit(speed, seconds, MOST_RESETS)
    except InputError:
        assert 4 * (speed.start_s + 20 * speed.iteration_s) > seconds
        return
    assert LEAST_RESETS <= resets <= MOST_RESETS
    assert (resets + 1) * speed.start_s + iterations * speed.iteration_s <= seconds
    assert iterations % (resets + 1) == 0


def test_more_time_goes_into_longer_segments_before_more_resets() -> None:
    _, few = fit(Speed(3, 0.1), 70, MOST_RESETS)
    _, many = fit(Speed(3, 0.1), 700, MOST_RESETS)
    assert (few, many) == (LEAST_RESETS, MOST_RESETS)


def test_a_run_with_few_resets_is_rehearsed_with_three() -> None:
    assert fit(Speed(3, 0.1), 1000, most_resets=1)[1] == LEAST_RESETS


def test_too_few_minutes_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(InputError, match=r"at least 0\.\d more on this machine; give more with --minutes"):
        fit(Speed(5, 0.1), 10, MOST_RESETS)


@dataclass
class Printing(FakeTrainer):
    """Prints what it is given, and exits with 1."""

    words: str = ""

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        code = f"import sys, time; print({self.words!r}, flush=True); time.sleep({self.iteration_s}); sys.exit(1)"
        return Launch((sys.executable, "-c", code), request.directory, {})


def small_config(folder: Path, *overrides: str) -> Config:
    path = write_config(folder / "run.yml", folder / "data", train_iters=40, reset_every=10)
    return load_config([path], overrides)


def test_a_measurement_that_fails_names_the_rank_that_failed_first_hand(tmp_path: Path) -> None:
    trainer = Printing(tmp_path, 12, words=REAL_CAUSE + PEER_LOST)
    with pytest.raises(TrainerError, match=r"the measurement failed: .*saying: IndexError: index out of range in self"):
        measure_speed(small_config(tmp_path), trainer, tmp_path / "measure", lambda _: None)
    assert (tmp_path / "measure" / "measure.log").is_file()


def test_a_measurement_that_hangs_is_ended_as_a_run_would_be(tmp_path: Path) -> None:
    config = small_config(tmp_path, "gaff.watch={silence_minutes: 0.01}")
    said: list[str] = []
    trainer = Printing(tmp_path, 12, words="loading ...", iteration_s=600)
    with pytest.raises(TrainerError, match=r"the measurement failed: .*said nothing for 0\.01 minutes and was ended"):
        measure_speed(config, trainer, tmp_path / "measure", said.append)
    assert len(said) == 1
