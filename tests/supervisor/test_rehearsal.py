# SPDX-License-Identifier: Apache-2.0
import pytest

from gaff.errors import InputError
from gaff.supervisor.rehearsal import LEAST_RESETS, MOST_RESETS, Speed, fit


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
