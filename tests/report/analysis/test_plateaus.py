# SPDX-License-Identifier: Apache-2.0
"""Where a recovery stood still."""

from __future__ import annotations

import numpy as np
import pytest

from gaff.report.analysis.measures import Plateau
from gaff.report.analysis.plateaus import find_plateau


def find(losses: np.ndarray, before: float = 2.0) -> Plateau | None:
    iterations = np.arange(1, len(losses) + 1) * 10
    return find_plateau(iterations, losses, before, float(losses[0]))


def test_a_stretch_that_stands_still_half_way_is_found_and_measured() -> None:
    fall, still, rest = np.linspace(6.0, 4.0, 20), np.full(40, 4.0), np.linspace(4.0, 2.0, 20)
    plateau = find(np.concatenate([fall, still, rest]))
    assert plateau is not None
    assert plateau.level == pytest.approx(4.0, abs=0.05)
    assert plateau.excess == pytest.approx(2.0, abs=0.05)
    assert plateau.first == pytest.approx(200, abs=30)
    assert plateau.last == pytest.approx(600, abs=30)


def test_noise_does_not_hide_it() -> None:
    random = np.random.default_rng(1)
    losses = np.concatenate([np.linspace(6.0, 4.0, 100), np.full(300, 4.0), np.linspace(4.0, 2.0, 100)])
    plateau = find(losses + 0.1 * random.normal(size=500))
    assert plateau is not None
    assert plateau.iterations > 2000
    assert plateau.level == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("tau", [5.0, 20.0, 60.0])
def test_steady_healing_has_none(tau: float) -> None:
    lines = np.arange(200)
    assert find(2.0 + 4.0 * np.exp(-lines / tau)) is None
    assert find(2.0 + 4.0 * tau / (lines + tau)) is None
    assert find(2.0 + 3.0 * np.exp(-lines / 5) + 1.0 * np.exp(-lines / tau)) is None


def test_a_loss_that_falls_at_once_and_then_stays_too_high_has_one_to_the_end() -> None:
    plateau = find(np.concatenate([np.linspace(6.0, 3.0, 10), np.full(90, 3.0)]))
    assert plateau is not None
    assert (plateau.last, plateau.level) == (1000, pytest.approx(3.0, abs=0.05))


def test_what_is_back_at_its_level_is_no_plateau() -> None:
    assert find(np.concatenate([np.linspace(6.0, 2.1, 10), np.full(100, 2.1)])) is None


def test_a_few_lines_tell_nothing() -> None:
    assert find(np.array([6.0, 4.0, 4.0, 4.0, 4.0])) is None


def test_a_long_one_is_found_where_lines_are_thinned() -> None:
    losses = np.concatenate([np.linspace(6.0, 4.0, 20_000), np.full(60_000, 4.0), np.linspace(4.0, 2.0, 20_000)])
    plateau = find(losses)
    assert plateau is not None
    assert plateau.iterations == pytest.approx(600_000, rel=0.1)
