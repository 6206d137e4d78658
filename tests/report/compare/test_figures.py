# SPDX-License-Identifier: Apache-2.0
"""The numbers that are compared agree with what the logs say, worked out again from their text."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median, stdev

import pytest

from gaff.errors import InputError
from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery
from gaff.report.compare.comparison import Comparison, compare
from gaff.report.compare.figures import median_back
from gaff.report.compare.notes import notes
from gaff.report.compare.runs import read_runs
from tests.report.compare.compared_runs import TOKENS, write_run
from tests.report.naive import naive_curve, naive_recovery, naive_resets


def compared(*paths: Path, **options: object) -> Comparison:
    return compare(read_runs(paths), **options)  # type: ignore[arg-type]


def test_a_baseline_and_two_k_agree_with_their_logs(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, k=k, seed=3) for name, k in (("base", None), ("k50", 50), ("k100", 100))]
    found = compared(*paths)
    assert found.baseline is not None
    assert found.baseline.name == "base"
    assert found.count == 20
    base = naive_curve(paths[0])
    for path, figures in zip(paths, found.figures, strict=True):
        curve, resets = naive_curve(path), naive_resets(path)
        assert len(curve) == 400
        last = [loss for _, loss in curve[-20:]]
        assert figures.final is not None
        assert figures.final.mean == pytest.approx(mean(last), rel=1e-9)
        assert figures.final.sd == pytest.approx(stdev(last), rel=1e-9)
        assert (figures.final.first, figures.final.last) == (381, 400)
        lowest = min(curve, key=lambda line: line[1])
        assert (figures.lowest_iteration, figures.lowest) == lowest
        naive = [naive_recovery(curve, resets, place) for place in range(len(resets))]
        assert figures.resets == len(resets) == {"base": 0, "k50": 7, "k100": 3}[path.name]
        if path.name == "base":
            assert figures.difference is figures.spike is figures.share is None
            continue
        assert figures.difference is not None
        assert figures.difference.value == pytest.approx(mean(last) - mean(loss for _, loss in base[-20:]), rel=1e-9)
        assert (figures.difference.until, figures.difference.is_at_end) == (400, True)
        assert all(one["iterations"] is not None for one in naive)
        assert figures.back.value == median(one["iterations"] for one in naive)
        for name in ("spike", "half_life", "area"):
            assert getattr(figures, name) == pytest.approx(median(one[name] for one in naive), rel=1e-9)
        assert figures.share == pytest.approx(sum(one["spent"] for one in naive) / 400)
        assert figures.training_s == pytest.approx(40.0)
        assert figures.launches == len(resets) + 1


def test_the_final_loss_is_of_as_many_losses_for_all_as_the_shortest_run_allows(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", k=None), write_run(tmp_path / "b", k=50, iterations=120, planned=400)]
    found = compared(*paths)
    assert found.count == 6
    assert [figures.final.count for figures in found.figures if figures.final] == [6, 6]
    assert "b is not finished: 120 of 400 iterations." in notes(found)


def test_a_shorter_baseline_is_compared_with_as_far_as_it_goes(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "long", k=100), write_run(tmp_path / "base", k=None, iterations=240)]
    found = compared(*paths)
    difference = found.figures[0].difference
    assert difference is not None
    assert (difference.until, difference.is_at_end) == (240, False)
    long, base = naive_curve(paths[0]), naive_curve(paths[1])
    count = found.count
    expected = mean(loss for _, loss in long[240 - count : 240]) - mean(loss for _, loss in base[-count:])
    assert difference.value == pytest.approx(expected, rel=1e-9)
    assert "§ long: compared up to iteration 240, as far as base goes." in notes(found)


def test_runs_that_log_at_different_intervals_are_compared_over_the_same_iterations(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "k", k=100, interval=10), write_run(tmp_path / "base", k=None)]
    found = compared(*paths)
    assert found.count == 2
    coarse, fine = naive_curve(paths[0]), naive_curve(paths[1])
    expected = mean(loss for _, loss in coarse[-2:]) - mean(loss for _, loss in fine[-20:])
    difference = found.figures[0].difference
    assert difference is not None
    assert difference.value == pytest.approx(expected, rel=1e-9)
    assert any(
        note.startswith("The runs log every 1 to 10 iterations, so 2 losses cover 2 to 20") for note in notes(found)
    )


def test_at_equal_tokens_and_at_equal_hours(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", k=None, iterations=200, ms=50.0, config={"train_micro_batch_size_per_gpu": 8})
    other = write_run(tmp_path / "k", k=100, iterations=400)
    one, two = naive_curve(base), naive_curve(other)
    found = compared(base, other, align="tokens")
    assert [run.tokens_per_iteration for run in found.runs] == [2 * TOKENS, TOKENS]
    count = found.count
    expected = mean(loss for _, loss in two[-count:]) - mean(loss for _, loss in one[-count // 2 :])
    assert found.figures[1].difference is not None
    assert found.figures[1].difference.value == pytest.approx(expected, rel=1e-9)
    hours = compared(base, other, align="hours").figures[1].difference  # the baseline took 10 s, the other one 40
    assert hours is not None
    assert (hours.until, hours.is_at_end) == (100, False)
    expected = mean(loss for _, loss in two[100 - count : 100]) - mean(loss for _, loss in one[-2 * count :])
    assert hours.value == pytest.approx(expected, rel=1e-9)
    assert any("1,024 to 2,048 tokens" in note for note in notes(compared(base, other)))


def test_where_tokens_or_times_are_not_known_they_are_refused(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", k=None), write_run(tmp_path / "b", k=50, config={"seq_length": None}, ms=0.0)]
    for align, clause in (("tokens", "how many tokens an iteration has"), ("hours", "how long an iteration took")):
        with pytest.raises(InputError, match=clause) as refused:
            compared(*paths, align=align)
        assert [str(problem.where) for problem in refused.value.problems] == [str(paths[1])]


def test_a_final_loss_that_covers_a_reset_or_a_recovery_says_so(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "covers", k=195), write_run(tmp_path / "recovers", k=182, seed=1)]
    found = compared(*paths)
    covers, recovers = (figures.final for figures in found.figures)
    assert covers is not None
    assert covers.reset == Reset(2, 390)
    assert recovers is not None
    assert recovers.reset is None
    assert recovers.recovering == Reset(2, 364)
    back = found.runs[1].analysis.recoveries[1].recovered_iteration
    assert back is not None
    assert 381 < back <= 400  # it came back while the mean was already being taken
    told = notes(found)
    assert any(note.startswith("† covers: the mean covers reset 2, made after iteration 390") for note in told)
    assert any(note.startswith("‡ recovers: the loss had not come back from reset 2") for note in told)


def recovery(number: int, spent: int, back: bool, every: int = 100) -> Recovery:
    at = number * every
    end = at + spent
    return Recovery(Reset(number, at), end, 2.0, 3.0, at + 1, 1.0, end if back else None, {}, 1.0, None, 2.0)


def test_a_reset_that_was_not_recovered_from_counts_as_longer_than_any() -> None:
    found = median_back([recovery(1, 10, True), recovery(2, 100, False), recovery(3, 40, True)])
    assert (found.value, found.at_least, found.recovered, found.of) == (40, None, 2, 3)
    found = median_back([recovery(1, 10, True), recovery(2, 100, False), recovery(3, 100, False)])
    assert (found.value, found.at_least, found.recovered, found.of) == (None, 100, 1, 3)
    cut_short = median_back([recovery(1, 10, True), recovery(2, 30, True), recovery(3, 5, False)])
    assert (cut_short.value, cut_short.of) == (20, 2)
    assert median_back([]).value is median_back([]).at_least is None


def test_the_baseline_is_the_named_one_or_the_first_without_resets(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, k=k) for name, k in (("k50", 50), ("base", None), ("k100", 100))]
    assert compared(*paths).baseline == compared(*paths, baseline=paths[1]).baseline
    named = compared(*paths, baseline=Path("k100"))
    assert named.baseline is not None
    assert named.baseline.name == "k100"
    assert [figures.difference is None for figures in named.figures] == [False, False, True]
    assert compared(paths[0], paths[2]).baseline is None
    with pytest.raises(InputError, match="none of the runs"):
        compared(*paths, baseline=tmp_path)


def test_several_seeds_of_the_baseline_are_taken_together(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"base-s{n}", k=None, seed=n) for n in (1, 2)]
    paths.append(write_run(tmp_path / "k", k=100, seed=1))
    found = compared(*paths)
    finals = [mean(loss for _, loss in naive_curve(path)[-20:]) for path in paths]
    assert found.figures[2].difference is not None
    assert found.figures[2].difference.value == pytest.approx(finals[2] - mean(finals[:2]), rel=1e-9)
    assert found.figures[0].difference is found.figures[1].difference is None


def test_a_run_without_a_loss_yet_stands_beside_the_others(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", k=50), write_run(tmp_path / "none", k=50, iterations=0, planned=400)]
    found = compared(*paths, align="tokens")
    assert found.count == 20
    assert found.figures[1].final is None
    assert "none: no loss is logged yet." in notes(found)


def test_where_logs_are_lost_the_last_loss_is_not_the_end(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", k=None), write_run(tmp_path / "b", k=100)]
    (paths[1] / "segments" / "0004" / "attempt-1.log").unlink()
    assert "b: its last logged loss is of iteration 300, of 400 trained." in notes(compared(*paths))
