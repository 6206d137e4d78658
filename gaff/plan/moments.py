# SPDX-License-Identifier: Apache-2.0
"""What zeroed moments do to the first updates after a reset.  Pure arithmetic.

Adam divides its moments by 1 - beta^s, s being the steps done, so that they are unbiased although they begin at zero.
DeepSpeed counts s for a whole partition, not for each parameter (contract 5.3), so after a reset s stays high while the
moments of what was forgotten begin at zero again: nothing corrects them.  With a steady gradient the t-th update after
a reset is (1 - beta1^t) / sqrt(1 - beta2^t) times a settled one.  This is the limit for resets late in a run; after
early ones, when s is still low, the factor is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gaff.plan.config import Config
from gaff.plan.learning_rate import LearningRate
from gaff.plan.schedule import Segment
from gaff.plan.typed import word

#: Optimizers that correct the bias of their moments, by ``optimizer.type``; ``adamw`` is the bundled trainer's name.
_ADAM = ("adam", "cpu_adam", "cpu_torch_adam", "adamw")
_DEFAULT_BETAS = (0.9, 0.999)  # DeepSpeed's and torch's, when betas are not given
_TOLERANCE = 0.1  # within which the factor counts as settled
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FAR = 2**53  # steps
_MOST_TRIED = 100_000  # steps looked at one by one; behind any peak a longer warm-up rises to its end


@dataclass(frozen=True)
class Moments:
    """How updates are scaled after each reset.

    Attributes:
        beta1, beta2: Adam's.
        values: (t, factor) of a few steps after a reset, as far as they come before the next one.
        peak: (t, factor) of the highest before the next reset; None where the factor never exceeds 1.
        settled: the first step from which on the factor is within a tenth of 1; None where the next reset comes first.
        with_warmup: (t, factor x rate / start_lr) of the highest, where the learning rate's schedule begins anew after
            each reset; None where it does not.
    """

    beta1: float
    beta2: float
    values: tuple[tuple[int, float], ...]
    peak: tuple[int, float] | None
    settled: int | None
    with_warmup: tuple[int, float] | None

    def to_json(self) -> dict[str, Any]:
        def pair(value: tuple[int, float] | None) -> dict[str, Any] | None:
            return None if value is None else {"step": value[0], "factor": value[1]}

        pairs = {"values": [pair(value) for value in self.values], "peak": pair(self.peak)}
        return {**asdict(self), **pairs, "with_warmup": pair(self.with_warmup)}


def factor(step: int, beta1: float, beta2: float) -> float:
    """(1 - beta1^t) / sqrt(1 - beta2^t) for t = ``step``, from 1 up."""
    return _one_minus_power(beta1, step) / math.sqrt(_one_minus_power(beta2, step))


def _one_minus_power(beta: float, step: int) -> float:
    """1 - beta^step, exact also where beta is next to 1."""
    return 1.0 if beta == 0 else -math.expm1(step * math.log(beta))


def moments(config: Config, segments: Sequence[Segment], rate: LearningRate | None) -> Moments | None:
    """What zeroing moments does in a run in these segments.

    None where no moments are zeroed, or the optimizer corrects no bias.
    """
    betas = _betas(config)
    longest = max((segment.iterations for segment in segments[1:]), default=0)  # until the next reset, or the end
    if betas is None or not longest or config.gaff.moments != "zero":
        return None
    beta1, beta2 = betas
    peak, settled = _peak_until(longest, beta1, beta2), _settled(beta1, beta2)
    values = tuple((t, factor(t, beta1, beta2)) for t in _STEPS if t <= longest)
    with_restart = _with_restart(beta1, beta2, peak, rate, longest)
    return Moments(beta1, beta2, values, peak, settled if settled <= longest else None, with_restart)


def _betas(config: Config) -> tuple[float, float] | None:
    if word(config, "optimizer.type") not in _ADAM:
        return None
    given = config.get("optimizer.params.betas", list(_DEFAULT_BETAS))
    good = isinstance(given, list) and len(given) == 2 and all(type(b) in (int, float) and 0 <= b < 1 for b in given)
    return (float(given[0]), float(given[1])) if good else None


def _peak(beta1: float, beta2: float) -> tuple[int, float] | None:
    """With beta1 < beta2 the factor rises to one peak and falls to 1 from there; else it rises to 1 from below."""
    if beta1 >= beta2:
        return None
    at = _first(lambda t: factor(t + 1, beta1, beta2) <= factor(t, beta1, beta2))
    return at, factor(at, beta1, beta2)


def _peak_until(longest: int, beta1: float, beta2: float) -> tuple[int, float] | None:
    """The highest factor above 1 among the first ``longest`` steps."""
    peak = _peak(beta1, beta2)
    if peak is None or peak[0] <= longest:
        return peak
    highest = factor(longest, beta1, beta2)
    return (longest, highest) if highest > 1 else None


def _settled(beta1: float, beta2: float) -> int:
    peak = _peak(beta1, beta2)
    if peak is not None and peak[1] > 1 + _TOLERANCE:
        return _first(lambda t: t > peak[0] and factor(t, beta1, beta2) <= 1 + _TOLERANCE)
    return _first(lambda t: (peak is not None and t >= peak[0]) or factor(t, beta1, beta2) >= 1 - _TOLERANCE)


def _first(holds: Callable[[int], bool]) -> int:
    """The first step for which something holds that then holds for all later ones."""
    high = 1
    while not holds(high) and high < _FAR:
        high *= 2
    low = high // 2  # it does not hold there
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _with_restart(
    beta1: float, beta2: float, peak: tuple[int, float] | None, rate: LearningRate | None, longest: int
) -> tuple[int, float] | None:
    """The highest factor x rate / start_lr after a restart: not later than both the peak and the warm-up's end."""
    if rate is None or not rate.restarts:
        return None
    schedule = rate.schedule
    latest = max(peak[0] if peak else 1, int(schedule.warmup_iter) + 2)

    def scaled(t: int) -> float:
        return factor(t, beta1, beta2) * schedule.rate_after(t - 1) / schedule.start_lr

    last = min(latest, longest)
    at = max((*range(1, min(last, _MOST_TRIED) + 1), last), key=scaled)
    return at, scaled(at)
