# SPDX-License-Identifier: Apache-2.0
"""Watchdogs with a clock of their own and the events of runs that are well, slow or ill."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.config import Config
from gaff.plan.schedule import Segment, schedule
from gaff.plan.settings import GaffSettings, WatchSettings
from gaff.supervisor.journal import Entry
from gaff.supervisor.watch import Watch
from gaff.supervisor.watchdogs.alarm import Alarm
from gaff.supervisor.watchdogs.history import History
from gaff.supervisor.watchdogs.watchdogs import Watchdogs
from gaff.trainers.contract import CheckpointSaved, Event, IterationLogged, ResumedAt, StoppedAt, ValidationLogged

EVENTS = 100_000
LOGS = Path(__file__).parents[1] / "trainers" / "logs"
NEVER: dict[str, Any] = {
    "slow_factor": None,
    "nan_lines": None,
    "skipped_in_a_row": None,
    "high_loss_factor": None,
}


class Run:
    """Launches of one run of 1000 iterations, driven by hand.  An iteration takes 1 s, unless told otherwise."""

    def __init__(self, save: Path, *, log_interval: int = 10, reset_every: int | None = 200, **keys: Any) -> None:
        watch = keys.pop("watch", {})
        self.save = save
        neox = {"train_iters": 1000, "log_interval": log_interval, "eval_iters": 0, **keys}
        self.config = Config(neox, GaffSettings(reset_every=reset_every, watch=WatchSettings(**watch)))
        self.segments = schedule(1000, reset_every)
        self.history = History()
        self.interval = log_interval
        self.now = 1000.0
        self.alarms: list[Alarm] = []

    def launch(self, start: int = 0, stop: int | None = None, *, wait: float = 20.0) -> None:
        segment = next(s for s in self.segments if s.start <= start < s.stop)
        self.iteration, self.stop = start, stop or segment.stop
        self.history.launched(start, segment)
        self.dogs = Watchdogs(self.config, self.history, start, self.stop, self.save, lambda: self.now)
        self.wait(wait / 2)
        self.see(ResumedAt(start))
        self.wait(wait / 2)

    def wait(self, seconds: float, tick: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + tick)
            self.alarms += self.dogs.tick()

    def see(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            (self.save / event.tag).mkdir(exist_ok=True)
        self.alarms += self.dogs.see(event)

    def line(self, loss: float | None = 3.0, s: float = 1.0, *, wait: bool = True, **fields: Any) -> None:
        """The next line, after the time that it takes."""
        before = self.iteration
        self.iteration = (before // self.interval + 1) * self.interval
        if wait:
            self.wait(s * (self.iteration - before), tick=max(1.0, min(20.0, s)))
        self.see(logged(self.iteration, loss, ms=s * 1000, **fields))

    def lines(self, count: int, loss: float | None = 3.0, s: float = 1.0, **fields: Any) -> None:
        for _ in range(count):
            self.line(loss, s, **fields)

    def segment(self, number: int, *losses: float | None) -> None:
        """A whole segment, launched anew, with these losses in its first lines."""
        segment = self.segments[number - 1]
        self.launch(segment.start)
        for at in range((segment.stop - segment.start) // self.interval):
            self.line(losses[min(at, len(losses) - 1)])

    @property
    def told(self) -> list[str]:
        for alarm in self.alarms:
            assert not alarm.what.endswith(".")
            assert "\n" not in alarm.what
            json.dumps(dict(alarm.facts), allow_nan=False)
        return [alarm.id for alarm in self.alarms]


def logged(iteration: int, loss: float | None, ms: float | None = 1000.0, **fields: Any) -> IterationLogged:
    known = {"learning_rate": 1e-3, "samples_per_s": 8.0, "skipped": 0, "nan": 0, **fields}
    return IterationLogged(iteration, 1000, loss, ms_per_iteration=ms, **known)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **keys: Run(tmp_path, **keys)


Make = Callable[..., Run]


# --- a run that is well ---


@pytest.mark.parametrize("log_interval", [1, 10, 100])
def test_a_healthy_run_with_resets_noise_saves_and_slow_starts_is_left_alone(run: Make, log_interval: int) -> None:
    chance = random.Random(log_interval)
    one = run(log_interval=log_interval, checkpoint_factor=100, precision="fp16", eval_iters=10, eval_interval=100)
    for segment in one.segments:
        one.launch(segment.start, wait=200.0)
        for at in range(200 // log_interval):
            spike = 4.0 * 0.9 ** (at * log_interval / 5) if segment.start else 7.0 * 0.97 ** (at * log_interval)
            skips = min(log_interval, 16) if segment.start == 0 and at * log_interval < 16 else 0
            warm_up = 30.0 / log_interval if at == 0 else 1.0
            speed = warm_up * math.exp(chance.gauss(0, 0.5))
            loss = None if skips == log_interval else (3.0 + spike) * math.exp(chance.gauss(0, 0.05))
            one.line(loss, speed, skipped=skips, loss_scale=65536.0)
            if one.iteration % 100 == 0:
                one.wait(250.0)
                one.see(ValidationLogged(one.iteration, 3.0, "validation"))
                one.wait(250.0)
                one.see(CheckpointSaved(f"global_step{one.iteration}"))
        one.see(StoppedAt(segment.stop))
        one.wait(4000.0)
    assert one.told == []


@pytest.mark.parametrize(("name", "start", "interval"), [("resumed", 300, 5), ("eight-ranks", 0, 1), ("fp16", 0, 1)])
def test_nothing_is_told_of_real_logs(tmp_path: Path, name: str, start: int, interval: int) -> None:
    """Logs of unmodified GPT-NeoX; in the first one came a reset before."""
    now, history = 0.0, History()
    keys = {"train_iters": 400, "log_interval": interval, "eval_iters": 0, "precision": "fp16"}
    config = Config(keys, GaffSettings(reset_every=100))
    history.launched(start, schedule(400, 100)[start // 100])
    watch = Watch(start, log_interval=interval)
    dogs = Watchdogs(config, history, start, start + 100, tmp_path, lambda: now)
    seen = 0
    for text in (LOGS / f"{name}.log").read_text(errors="replace").splitlines():
        for event in watch.read(text):
            if isinstance(event, IterationLogged):
                seen += 1
                now += (event.ms_per_iteration or 0) / 1000 * interval
            assert dogs.see(event) + dogs.tick() == []
    assert seen >= 3


# --- slow ---


def test_slow_lines_are_told_once_after_slow_minutes_and_again_after_a_recovery(run: Make) -> None:
    one = run(watch={"on_slow": "restart"})
    one.launch()
    one.lines(6)
    began = one.now
    while not one.alarms:
        one.line(s=20.0)
    [alarm] = one.alarms
    assert (alarm.id, alarm.policy, alarm.iteration) == ("slow", "restart", 70)
    assert "no iteration line came for" in alarm.what
    assert "and iterations were slow for 3.33 min before" in alarm.what
    assert alarm.facts["median_ms"] == 1000.0
    assert 300 <= alarm.facts["slow_seconds"] <= 320
    assert one.now - began <= 400
    one.lines(3, s=20.0)
    assert len(one.alarms) == 1
    one.lines(2)
    one.lines(1, s=20.0)
    assert len(one.alarms) == 1
    one.lines(1, s=20.0)
    assert one.told == ["slow", "slow"]


def test_slow_lines_alone_tell_it_too(run: Make) -> None:
    one = run(log_interval=1)
    one.launch()
    one.lines(6)
    while not one.alarms:
        one.wait(13.5)  # a line may be dated a little back
        one.line(s=15.0, wait=False)
    assert one.told == ["slow"]
    assert one.alarms[0].what == "iterations take 15 s up to iteration 26, 15 times the usual 1 s, for 5 min now"


def test_a_run_slower_than_usual_by_less_than_the_factor_is_not_slow(run: Make) -> None:
    one = run()
    one.launch(stop=1000)
    one.lines(6)
    one.lines(30, s=9.9)
    assert one.told == []


def test_a_100_fold_slowdown_is_told_without_any_line(run: Make) -> None:
    one = run(log_interval=100, reset_every=None)
    one.launch()
    one.lines(7, s=0.34)
    began = one.now
    while not one.alarms and one.now < began + 3600:
        one.wait(1.0)
    assert 340 <= one.now - began <= 342  # ten times the 34 s of 100 iterations
    [alarm] = one.alarms
    assert "no iteration line came for 5.6" in alarm.what
    assert (alarm.id, alarm.iteration) == ("slow", 700)
    one.line(s=34.0)
    assert len(one.alarms) == 1


def test_a_slow_moment_between_two_lines_is_not_told(run: Make) -> None:
    one = run()
    one.launch()
    one.lines(6)
    for _ in range(3):
        one.line(s=25.0)  # 250 s
        one.line()
    assert one.told == []


def test_slow_is_told_also_of_the_first_line_when_earlier_launches_show_what_it_takes(run: Make) -> None:
    one = run()
    one.segment(1, 3.0)
    one.launch(200, wait=20.0)
    one.wait(289)  # 299 since the trainer said where it starts
    assert one.told == []
    one.wait(2)
    assert one.told == ["slow"]


def test_a_first_line_that_covers_more_may_take_more(run: Make) -> None:
    one = run(log_interval=100, reset_every=None)
    one.launch(90)
    one.line()
    one.lines(6)
    one.launch(700)
    one.wait(980.0)
    assert one.told == []
    one.wait(20.0)
    assert one.told == ["slow"]


def test_before_there_is_a_median_nothing_is_slow(run: Make) -> None:
    one = run()
    one.launch()
    one.lines(4)
    one.wait(10_000.0)
    one.line(s=1000.0)
    assert one.told == []


def test_first_lines_do_not_count_for_the_median(run: Make) -> None:
    one = run(reset_every=20)
    for start in range(0, 200, 20):
        one.launch(start)
        one.line(s=50.0)
        one.line(s=1.0)
    assert one.history.median_ms == 1000.0
    assert one.told == []


def test_a_slow_spell_does_not_become_usual_soon_but_at_last(run: Make) -> None:
    one = run()
    for _ in range(20):
        one.history.add_speed(1000.0, False)
    for _ in range(100):
        one.history.add_speed(50_000.0, True)
    assert one.history.median_ms == 1000.0
    for _ in range(200):
        one.history.add_speed(50_000.0, True)
    assert one.history.median_ms == 50_000.0


def test_time_in_which_everything_was_stopped_is_not_slow(run: Make) -> None:
    one = run(log_interval=100, reset_every=None)
    one.launch()
    one.lines(7)
    one.wait(30.0)
    one.now += 8 * 3600  # the lid was closed
    one.wait(70.0)
    assert one.told == []
    one.line(s=289.0, wait=False)  # the trainer's own clock went on
    one.wait(999.0)
    assert one.told == []
    one.wait(2.0)  # and now it is slow indeed
    assert one.told == ["slow"]


@pytest.mark.parametrize(("minutes", "pause"), [(5.0, 31.0), (0.1, 4.0)])
def test_many_short_stops_are_not_slow_either(run: Make, minutes: float, pause: float) -> None:
    one = run(log_interval=100, reset_every=None, watch={"slow_minutes": minutes})
    one.launch()
    one.lines(7)
    for _ in range(500):
        one.wait(1.0)
        one.now += pause
    assert one.told == []


def test_a_line_that_claims_more_time_than_passed_is_not_believed(run: Make) -> None:
    one = run(log_interval=100, reset_every=None)
    one.launch()
    one.lines(7)
    one.wait(100.0)
    one.line(s=289.0, wait=False)  # the wall clock was set forward, or this process' clock stood still in a suspend
    assert one.told == []
    assert one.history.slow_s == 0.0
    one.line()
    assert one.told == []


def test_saving_between_two_lines_is_not_slow_but_what_comes_after_it_may_be(run: Make) -> None:
    one = run(checkpoint_factor=100, reset_every=None)
    one.launch()
    one.lines(10)
    (one.save / "global_step100").mkdir()
    one.wait(3000.0)
    one.see(CheckpointSaved("global_step100"))
    one.wait(10.0)
    one.line(s=301.0, wait=False)  # as the log has it when a save was in it
    assert one.history.slow_s == 0.0
    one.lines(9)
    one.wait(100.0)
    one.see(CheckpointSaved("global_step200"))
    assert one.told == []
    one.wait(250.0)
    one.line(s=35.0, wait=False)  # 250 of these 350 s came after the save
    assert one.history.slow_s == 250.0
    one.wait(102.0)
    assert one.told == ["slow"]


def test_a_checkpoint_that_was_written_excuses_nothing(run: Make) -> None:
    one = run(checkpoint_factor=100, reset_every=None)
    one.launch()
    one.lines(10)
    one.see(CheckpointSaved("global_step100"))
    one.wait(302.0)
    assert one.told == ["slow"]


def test_validating_between_two_lines_is_not_slow_but_what_comes_after_it_may_be(run: Make) -> None:
    one = run(eval_iters=10, eval_interval=100, reset_every=None)
    one.launch()
    one.lines(10)
    one.wait(3000.0)
    one.see(ValidationLogged(100, 3.0, "validation"))
    one.wait(10.0)
    one.line(s=301.0, wait=False)
    one.lines(9)
    one.see(ValidationLogged(200, 3.0, "validation"))
    assert one.told == []
    one.wait(302.0)
    assert one.told == ["slow"]


def test_validating_in_each_interval_is_a_part_of_the_usual_time(run: Make) -> None:
    one = run(eval_iters=10, eval_interval=10, reset_every=None)
    one.launch()
    one.lines(10)
    one.wait(302.0)
    assert one.told == ["slow"]


@pytest.mark.parametrize("event", [StoppedAt(205), CheckpointSaved("global_step205")])
def test_a_launch_that_stops_between_two_lines_is_waited_for_until_it_says_so(run: Make, event: Event) -> None:
    one = run(reset_every=None)
    one.launch(stop=205)
    one.lines(20)
    one.wait(40.0)
    one.see(event)
    one.wait(4000.0)
    assert one.told == []
    shutil.rmtree(one.save)
    one.launch(200, stop=205)
    one.wait(302.0)
    assert one.told == ["slow"]


def test_after_the_last_iteration_nothing_is_waited_for(run: Make) -> None:
    one = run()
    one.segment(1, 3.0)
    one.wait(10_000.0)
    assert one.told == []


def test_a_slow_spell_goes_on_over_short_segments(run: Make) -> None:
    one = run(reset_every=20)
    for start in range(0, 200, 20):
        one.launch(start)
        one.lines(2)
    for start in range(200, 240, 20):
        one.launch(start)
        one.lines(2, s=19.0)  # 190 s in each segment can be judged
    assert one.told == ["slow"]


def test_a_launch_after_a_restart_is_judged_anew(run: Make) -> None:
    one = run()
    one.launch()
    one.lines(6)
    one.lines(2, s=20.0)
    one.launch(50)
    one.lines(2, s=20.0)
    assert one.told == ["slow"]
    one.line(s=20.0)
    assert one.told == ["slow", "slow"]


# --- nan ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_no_numbers_are_told_after_so_many_lines(run: Make, bad: float) -> None:
    one = run(watch={"nan_lines": 3, "on_nan": "stop"})
    one.launch()
    one.lines(2)
    one.lines(2, bad)
    one.line(3.0)
    one.lines(2, bad)
    assert one.told == []
    one.line(None)  # says nothing
    one.line(bad)
    [alarm] = one.alarms
    facts = {"lines": 3, "finite_until": 50}
    assert (alarm.id, alarm.policy, alarm.iteration, dict(alarm.facts)) == ("nan", "stop", 90, facts)
    one.lines(5, bad)
    one.line(3.0)
    one.lines(3, bad)
    assert one.told == ["nan", "nan"]


def test_any_of_several_losses_counts(run: Make) -> None:
    one = run(watch={"nan_lines": 1})
    one.launch()
    one.line(3.0, losses={"aux_loss": math.nan})
    assert one.told == ["nan"]


def test_nan_lines_add_up_over_segments_of_one_line_but_not_over_a_restart(run: Make) -> None:
    one = run(reset_every=10, watch={"nan_lines": 3})
    for start in (0, 10):
        one.launch(start)
        one.line(math.nan)
    one.launch(10)
    one.line(math.nan)
    assert one.told == []
    for start in (20, 30):
        one.launch(start)
        one.line(math.nan)
    assert one.told == ["nan"]


# --- skipped ---


def test_iterations_skipped_in_whole_lines_add_up(run: Make) -> None:
    one = run(watch={"skipped_in_a_row": 100})
    one.launch(stop=1000)
    one.lines(9, None, skipped=10)
    one.line(3.0, skipped=9)
    one.lines(9, None, skipped=10)
    assert one.told == []
    one.line(None, skipped=10, loss_scale=1.0)
    [alarm] = one.alarms
    assert (alarm.id, alarm.policy, alarm.iteration) == ("skipped", "stop", 200)
    assert dict(alarm.facts) == {"skipped": 100, "loss_scale": 1.0}
    one.lines(20, None, skipped=10)
    assert len(one.alarms) == 1


def test_start_up_of_fp16_is_no_alarm(run: Make) -> None:
    one = run(log_interval=1)
    one.launch()
    one.lines(32, None, skipped=1)
    one.lines(100)
    assert one.told == []


@pytest.mark.parametrize(("skipped", "told"), [(98, []), (99, ["skipped"])])
def test_a_long_line_tells_only_what_is_certain(run: Make, skipped: int, told: list[str]) -> None:
    one = run(log_interval=100, watch={"skipped_in_a_row": 50})
    one.launch()
    one.line(3.0, skipped=skipped)  # with 98 of 100 no stretch need be longer than 33, with 99 one is 50 at least
    assert one.told == told


def test_a_first_line_inside_an_interval_is_whole_when_all_since_the_start_were_skipped(run: Make) -> None:
    one = run(watch={"skipped_in_a_row": 5})
    one.launch(3)
    one.see(logged(10, None, ms=None, skipped=7))
    assert one.told == ["skipped"]
    assert one.alarms[0].facts["skipped"] == 7


# --- loss scale ---


@pytest.mark.parametrize("fp16", [None, {"enabled": True, "loss_scale": 0}, {"enabled": True, "min_loss_scale": 1}])
def test_a_loss_scale_at_its_minimum_is_told_until_it_has_recovered(run: Make, fp16: Any) -> None:
    one = run(precision="fp16", **({"fp16": fp16} if fp16 else {}))
    one.launch()
    for scale in (4096.0, 2.0, 1.0, 1.0, 2.0, 1.0):
        one.line(loss_scale=scale)
    [alarm] = one.alarms
    assert (alarm.id, alarm.policy, alarm.iteration) == ("loss-scale", "warn", 30)
    for scale in (2.0, 4.0, 1.0):
        one.line(loss_scale=scale)
    assert one.told == ["loss-scale", "loss-scale"]


def test_the_configs_own_minimum_counts(run: Make) -> None:
    one = run(fp16={"enabled": True, "min_loss_scale": 128})
    one.launch()
    one.line(loss_scale=256.0)
    assert one.told == []
    one.line(loss_scale=128.0)
    assert one.told == ["loss-scale"]


@pytest.mark.parametrize("keys", [{"precision": "fp16", "fp16": {"loss_scale": 1}}, {"precision": "bfloat16"}, {}])
def test_a_fixed_loss_scale_does_not_collapse(run: Make, keys: dict[str, Any]) -> None:
    one = run(**keys)
    one.launch()
    one.lines(5, loss_scale=1.0)
    assert one.told == []


# --- high loss ---


def test_before_the_first_reset_is_over_a_loss_is_measured_by_the_first(run: Make) -> None:
    one = run(watch={"nan_lines": None})
    one.segment(1, math.nan, 8.0, 9.0, 3.0)
    one.launch(200)
    one.line(11.9)
    assert one.told == []
    one.line(12.1)
    [alarm] = one.alarms
    assert (alarm.id, alarm.policy, alarm.iteration) == ("loss-high", "warn", 220)
    assert "12.1" in alarm.what
    assert dict(alarm.facts) == {"loss": 12.1, "usual": 8.0, "limit": 12.0}


def test_then_by_the_peak_after_the_last_reset_and_not_by_its_own(run: Make) -> None:
    one = run(watch={"nan_lines": None})
    one.segment(1, 8.0, 3.0)
    one.segment(2, 5.0, math.inf, None, 2.5)
    one.launch(400)
    one.line(7.0)
    one.line(7.4)
    assert one.told == []
    one.line(7.6)
    one.line(7.9)
    assert one.told == ["loss-high"]
    one.line(3.0)
    one.line(7.6)
    assert one.told == ["loss-high", "loss-high"]


def test_a_high_loss_does_not_hide_the_next_one(run: Make) -> None:
    one = run()
    one.segment(1, 8.0, 3.0)
    one.segment(2, 5.0, 2.5)
    one.segment(3, 5.0, 50.0, 2.5)
    one.launch(600)
    one.line(11.0)
    assert one.told == ["loss-high"]
    one.line(11.3)
    assert one.told == ["loss-high", "loss-high"]


def test_a_restart_inside_a_segment_keeps_the_segments_peak(run: Make) -> None:
    one = run()
    one.segment(1, 8.0, 3.0)
    one.launch(200)
    one.line(5.0)
    one.lines(9)
    one.launch(250)
    one.lines(15, 2.5)
    one.launch(400)
    one.line(7.0)
    assert one.told == []
    one.line(7.6)
    assert one.told == ["loss-high"]


def test_a_supervisor_that_came_in_the_middle_has_no_wrong_yardstick(run: Make) -> None:
    one = run()
    one.launch(300)
    one.lines(10, 2.5)
    one.segment(3, 6.0, 2.5)  # a spike that is usual, and the first that this supervisor sees
    one.launch(600)
    one.line(6.5)
    assert one.told == []
    one.line(9.1)
    assert one.told == ["loss-high"]


def test_a_segment_whose_first_line_says_nothing_is_no_yardstick(run: Make) -> None:
    one = run(reset_every=205)
    one.launch(0)
    one.lines(20, 8.0)
    one.launch(205)
    one.see(logged(210, None, ms=None))  # as Watch strips it
    one.iteration = 210
    one.lines(20, 2.5)
    one.launch(410)
    one.lines(20, 6.0)
    assert one.told == []


def test_seeded_from_the_journal_a_new_supervisor_judges_at_once(run: Make) -> None:
    first = run()
    first.segment(1, 8.0, 3.0)
    first.segment(2, 5.0, 2.5)
    assert first.history.losses == {"first_loss": 8.0, "reset_peak": 5.0}
    entries = [
        Entry("segment_exited", None, {"ms_per_iteration": 1000.0}),
        Entry("segment_done", None, first.history.losses),
        Entry("segment_exited", None, {"ms_per_iteration": None, "first_loss": 1.0}),
        Entry("segment_exited", None, {"ms_per_iteration": "fast"}),
        Entry("segment_exited", None, {"ms_per_iteration": math.inf}),
        Entry("segment_done", None, {"first_loss": -1.0, "reset_peak": math.nan}),
    ]
    second = run()
    second.history.seed(entries)
    assert second.history.median_ms == 1000.0
    second.launch(450)
    second.line()
    second.lines(2, 7.6, s=20.0)
    assert second.told == ["loss-high", "slow"]


# --- late checkpoints ---


def test_a_line_beyond_a_checkpoint_that_is_not_there_is_told(run: Make) -> None:
    one = run(checkpoint_factor=50, watch={"on_late_checkpoint": "stop"})
    one.launch()
    one.lines(5)
    one.see(CheckpointSaved("global_step50"))
    one.lines(5)
    assert one.told == []
    one.line()
    [alarm] = one.alarms
    assert (alarm.id, alarm.policy, alarm.iteration) == ("checkpoint-late", "stop", 110)
    assert dict(alarm.facts) == {"checkpoint": 100}
    assert f"global_step100 in {one.save}" in alarm.what
    one.lines(5)
    assert len(one.alarms) == 1
    (one.save / "global_step200").mkdir()
    one.lines(6)
    assert len(one.alarms) == 1


@pytest.mark.parametrize(
    ("keys", "start", "stop", "told_at"),
    [
        ({"extra_save_iters": [35]}, 0, 200, 40),
        ({"extra_save_iters": [35]}, 40, 200, None),  # not in this launch
        ({"checkpoint_factor": 2, "checkpoint_scale": "log"}, 40, 200, 70),
        ({}, 0, 120, 130),  # the stop; it did not stop
    ],
)
def test_which_checkpoints_are_due(run: Make, keys: dict[str, Any], start: int, stop: int, told_at: int | None) -> None:
    one = run(**keys)
    one.launch(start, stop)
    while one.iteration < 150 and not one.alarms:
        one.line()
    assert [alarm.iteration for alarm in one.alarms] == ([told_at] if told_at else [])


def test_an_older_checkpoint_may_be_gone(run: Make) -> None:
    one = run(checkpoint_factor=10, log_interval=30)
    one.launch()
    (one.save / "global_step20").mkdir()
    one.line()
    assert one.told == []


def test_a_save_that_cannot_be_looked_at_is_no_late_checkpoint(run: Make, tmp_path: Path) -> None:
    one = run(checkpoint_factor=10)
    one.save = tmp_path / "file"
    one.save.write_text("")
    one.launch()
    one.lines(3)
    assert one.told == []


# --- all of them ---


def test_never_switches_a_watchdog_off(run: Make) -> None:
    one = run(watch=NEVER)
    one.launch(stop=1000)
    one.lines(6)
    one.lines(10, 1000.0, s=100.0)
    one.lines(10, math.nan)
    one.lines(20, None, skipped=10)
    one.wait(10_000.0)
    assert one.told == []


def test_lines_that_go_back_are_not_judged(run: Make) -> None:
    one = run(watch={"nan_lines": 1})
    one.launch(200)
    one.see(logged(10, math.nan))
    one.see(logged(200, math.nan))
    assert one.told == []


def test_memory_stays_bounded_however_many_events_come(tmp_path: Path) -> None:
    keys = {"train_iters": 10**9, "log_interval": 1, "eval_iters": 0, "precision": "fp16"}
    config = Config(keys, GaffSettings(reset_every=10**8, watch=WatchSettings(nan_lines=1)))
    history, now = History(), 0.0
    history.launched(0, Segment(1, 0, 10**8, None))
    dogs = Watchdogs(config, history, 0, 10**8, tmp_path, lambda: now)
    chance = random.Random(0)
    pool = [
        logged(0, loss, ms=ms, skipped=skipped, loss_scale=scale)
        for loss in (3.0, 90.0, math.nan, None)
        for ms in (10.0, 11.0, 4000.0, None)
        for skipped in (0, 1)
        for scale in (1.0, 4096.0)
    ]
    told = 0
    for iteration in range(1, EVENTS + 1):
        now += 0.01
        told += len(dogs.see(replace(chance.choice(pool), iteration=iteration))) + len(dogs.tick())
    assert told > EVENTS / 1000
    parts = (history, dogs, *dogs._watchdogs)
    sizes = [len(held) for part in parts for held in vars(part).values() if hasattr(held, "__len__")]
    assert len(sizes) >= 5
    assert max(sizes) <= 301
