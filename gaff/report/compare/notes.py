# SPDX-License-Identifier: Apache-2.0
"""The sentences below the table: what its numbers are, and where one is not what it seems."""

from __future__ import annotations

from collections.abc import Iterator

from gaff.report import format as fmt
from gaff.report.compare.columns import DAGGER, DOUBLE_DAGGER, SECTION, difference_mark, final_mark
from gaff.report.compare.comparison import Comparison
from gaff.report.compare.figures import Figures

_SAME = {"iteration": "iterations", "tokens": "tokens", "hours": "hours of training"}


def caption(comparison: Comparison) -> str:
    """What the table is, in the words of a paper."""
    count = comparison.count
    text = "Final loss: " + (f"mean of the last {count} logged losses" if count > 1 else "the last logged loss")
    if any(len(setting.runs) > 1 for setting in comparison.settings):
        text += "; of n runs that differ in their seeds alone, mean ± standard deviation over the runs"
    return f"Runs with and without resets. {text}."


def notes(comparison: Comparison) -> list[str]:
    """All of them."""
    return [*_final(comparison), *_difference(comparison), *_back(comparison), *_runs(comparison)]


def _named(comparison: Comparison) -> Iterator[tuple[str, Figures]]:
    return zip((run.name for run in comparison.runs), comparison.figures, strict=True)


def _final(comparison: Comparison) -> Iterator[str]:
    intervals = {run.metrics.log_interval for run in comparison.runs if run.metrics.log_interval}
    if len(intervals) > 1:
        low, high = min(intervals), max(intervals)
        yield (
            f"The runs log every {low:,} to {high:,} iterations, so {fmt.count(comparison.count, 'loss', 'losses')}"
            f" cover {low * comparison.count:,} to {high * comparison.count:,} of them."
        )
    for name, numbers in _named(comparison):
        final = numbers.final
        if final is None:
            continue
        if final.reset:
            yield (
                f"{DAGGER} {name}: the mean covers reset {final.reset.number}, made after iteration"
                f" {final.reset.iteration:,}, with losses of iterations {final.first:,} to {final.last:,}."
            )
        elif final_mark(numbers) and final.recovering:
            yield (
                f"{DOUBLE_DAGGER} {name}: the loss had not come back from reset {final.recovering.number}, made after"
                f" iteration {final.recovering.iteration:,}, when the mean begins at iteration {final.first:,}."
            )


def _difference(comparison: Comparison) -> Iterator[str]:
    base = comparison.baseline
    if base is None:
        return
    what = f"{base.name} after as many {_SAME[comparison.align]}"
    over = ", the mean of its runs" if len(base.runs) > 1 else ""
    yield f"Δ {base.name}: loss minus that of {what}{over}; below 0 is better."
    for name, numbers in _named(comparison):
        if difference_mark(numbers) and numbers.difference:
            yield (
                f"{SECTION} {name}: compared up to iteration {numbers.difference.until:,}, as far as {base.name} goes."
            )


def _back(comparison: Comparison) -> Iterator[str]:
    for name, numbers in _named(comparison):
        back = numbers.back
        if back.recovered < back.of:
            yield (
                f"{name}: the loss came back after {back.recovered:,} of {fmt.count(back.of, 'reset')}; the others"
                " count as longer than any in the median."
            )


def _runs(comparison: Comparison) -> Iterator[str]:
    for run, numbers in zip(comparison.runs, comparison.figures, strict=True):
        if not len(run.metrics.curve[0]):
            yield f"{run.name}: no loss is logged yet."
        elif numbers.final and numbers.final.last + (run.metrics.log_interval or 1) <= run.done:
            last = numbers.final.last
            yield f"{run.name}: its last logged loss is of iteration {last:,}, of {run.done:,} trained."
        elif not run.is_finished:
            planned = f" of {numbers.planned:,}" if numbers.planned else ""
            yield f"{run.name} is not finished: {numbers.iterations:,}{planned} iterations."
    if unread := [run.name for run in comparison.runs if run.config is None]:
        yield f"{', '.join(unread)}: config.yml cannot be read, so nothing that comes from it is compared."
    batches = {run.tokens_per_iteration for run in comparison.runs if run.tokens_per_iteration}
    if len(batches) > 1 and comparison.align == "iteration":
        yield (
            f"An iteration has {min(batches):,} to {max(batches):,} tokens: at equal iterations the runs have not seen"
            " equally much; see --align tokens."
        )
