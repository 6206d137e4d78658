# SPDX-License-Identifier: Apache-2.0
"""New rows of an output embedding that leave the loss on text of old tokens as it was.

Drawn rows get a share of the softmax, so they raise the loss.  Here each new row is ``drawn + offset / gamma``, where
gamma and beta are weight and bias of the final LayerNorm.  Its output is h = gamma x + beta with sum(x) = 0 (it takes
away the mean), so (1 / gamma) . h = sum(beta / gamma) =: B is the same for every hidden state, and the offset alone
sets the row's logit to any level while the row stays distinct and trainable.

The level.  With |x| <= sqrt(d), for every hidden state:

* log Z >= log V + mean row . h  (the logarithm is concave)  >= log V + mean . beta - sqrt(d) |P(mean gamma)|, P taking
  away the mean: the *floor*, from one pass over the old rows;
* drawn . h <= drawn . beta + reach, reach = sqrt(d) min(|drawn gamma|, 8 rms(drawn) max|gamma|); the second is
  8 standard deviations for rows drawn independently of the hidden states.

The offset puts ``drawn . beta + reach + offset B`` at floor - 20 - log(number of new rows), so all new rows together
have a probability below exp(-20).  Rounding to half precision disturbs offset B by about offset u sqrt(2 d / 3), u the
dtype's unit roundoff; the offset is made large enough for 8 times that, or refused.

Adam moves a logit by about lr |h|_1 an update, so a row recovers within dozens of updates once its token occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gaff.checkpoint.archive import numpy_dtype
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.reader import TASK_ELEMENTS, CopyReader, OpenFiles, pieces
from gaff.checkpoint.sources import ValueSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

_BELOW = 20.0  # by how much the new rows' logits together stay below log Z
_DEVIATIONS = 8.0
_LARGEST_RATIO = 100.0  # a new entry may be this many times the largest old one
_LARGEST_COMMON = 10.0  # tied: what new rows have in common may be this many times what tells them apart


class NotQuietError(Exception):
    """Rows cannot be made quiet; the text says why, as a clause."""


@dataclass(frozen=True)
class FinalNorm:
    """Weight and bias of the LayerNorm before the output embedding, float64."""

    gamma: Doubles
    beta: Doubles


@dataclass(frozen=True)
class OldRows:
    """What must be known of the rows that stay.

    Attributes:
        rows: how many.
        mean: the mean row, float64.
        largest: the largest magnitude of an entry.
    """

    rows: int
    mean: Doubles
    largest: float


@dataclass(frozen=True)
class QuietRows:
    """Rows of ``drawn``, each with its own offset.

    Attributes:
        drawn: what the rows would be otherwise.
        norm: the final norm.
        level: at most what every new logit is, for every hidden state.
        gain: what an offset of 1 lowers a logit by at least; the offset's sign is that of ``-sum(beta / gamma)``.
    """

    drawn: ValueSource
    norm: FinalNorm
    level: float
    gain: float

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Flat values; rows are made whole."""
        import numpy as np

        width = len(self.norm.gamma)
        first, last = start // width, -(-stop // width)
        rows = self.drawn.values(first * width, last * width).reshape(-1, width)
        quiet = rows + self.offsets(rows)[:, None] / self.norm.gamma
        return quiet.astype(np.float32).reshape(-1)[start - first * width : stop - first * width]

    def offsets(self, rows: NDArray[np.float32]) -> Doubles:
        """By row, the offset that keeps its logit at the level or below."""
        import numpy as np

        gamma, beta = self.norm.gamma, self.norm.beta
        root = math.sqrt(len(gamma))
        wide = rows.astype(np.float64)
        scaled = np.sqrt(np.square(wide * gamma).sum(axis=1))
        typical = _DEVIATIONS * float(np.abs(gamma).max()) * np.sqrt(np.square(wide).mean(axis=1))
        above = wide @ beta + root * np.minimum(scaled, typical) - self.level
        sign = -1.0 if float((beta / gamma).sum()) > 0 else 1.0
        offsets: Doubles = sign * np.maximum(above, 0.0) / self.gain
        return offsets

    def to_json(self) -> dict[str, Any]:
        return {"kind": "quiet", "level": self.level, "gain": self.gain, "drawn": self.drawn.to_json()}


def final_norm(layout: Layout) -> FinalNorm:
    """Raises:
    NotQuietError: the model has no final LayerNorm with weight and bias.
    """
    name = f"{_final_layer(layout)}.norm"
    if not {f"{name}.weight", f"{name}.bias"} <= layout.parameters.keys():
        raise NotQuietError("the model's final norm is not a LayerNorm with a bias")
    reader = CopyReader(layout)
    with OpenFiles(layout.path) as files:
        weight, bias = (_whole(reader, files, f"{name}.{part}") for part in ("weight", "bias"))
    return FinalNorm(weight, bias)


def _final_layer(layout: Layout) -> str:
    """The layer of the final norm: the one with a ``norm`` of that name, behind all transformer layers."""
    return next((n.partition(".")[0] for n in layout.parameters if n.partition(".")[2] == "norm.weight"), "")


def _whole(reader: CopyReader, files: OpenFiles, name: str) -> Doubles:
    layout = reader.layout
    return reader.values(files, name, layout.truth(name), 0, layout.parameters[name].numel).astype("f8")


def look_at(layout: Layout, name: str) -> OldRows:
    """One pass over the rows of an output embedding as they are."""
    import numpy as np

    parameter = layout.parameters[name]
    total, largest = np.zeros(parameter.width), 0.0
    for values in _rows(layout, name):
        total += values.sum(axis=0, dtype=np.float64)
        largest = max(largest, float(np.abs(values).max()))
    return OldRows(parameter.rows, total / parameter.rows, largest)


def _rows(layout: Layout, name: str) -> Iterator[NDArray[np.float32]]:
    parameter = layout.parameters[name]
    reader = CopyReader(layout)
    step = max(1, TASK_ELEMENTS // 16 // parameter.width) * parameter.width
    with OpenFiles(layout.path) as files:
        for start, stop in pieces(0, parameter.numel, step):
            yield reader.values(files, name, layout.truth(name), start, stop).reshape(-1, parameter.width)


def quiet_rows(layout: Layout, name: str, drawn: ValueSource, rows: int) -> QuietRows:
    """A source of ``rows`` rows whose new ones, behind those that the tag has, are quiet.

    Args:
        layout: the tag's.
        name: the output embedding, or the input embedding where they are tied.
        drawn: what the rows would be otherwise, over all ``rows``.
        rows: how many there will be.

    Raises:
        NotQuietError: the offset cannot be had, or would make entries too large.
    """
    import numpy as np

    norm, old = final_norm(layout), look_at(layout, name)
    gamma, beta = norm.gamma, norm.beta
    if not gamma.all():
        raise NotQuietError("a weight of the final LayerNorm is zero")
    gain = abs(float((beta / gamma).sum())) - _noise(layout.model_dtype, len(gamma))
    if not gain > 0:
        raise NotQuietError("the biases of the final LayerNorm, divided by its weights, add up to nearly nothing")
    scaled = old.mean * gamma
    floor = math.log(old.rows) + float(old.mean @ beta)
    floor -= math.sqrt(len(gamma)) * float(np.linalg.norm(scaled - scaled.mean()))
    source = QuietRows(drawn, norm, floor - _BELOW - math.log(rows - old.rows), gain)
    _refuse_large(layout, source, old, rows, tied=layout.tied)
    return source


def _noise(dtype: str, width: int) -> float:
    """8 standard deviations of what rounding to the model's dtype makes of (1 / gamma) . h."""
    import ml_dtypes

    roundoff = float(ml_dtypes.finfo(numpy_dtype(dtype)).eps) / 2
    return _DEVIATIONS * roundoff * math.sqrt(2 * width / 3)


def _refuse_large(layout: Layout, source: QuietRows, old: OldRows, rows: int, *, tied: bool) -> None:
    import ml_dtypes
    import numpy as np

    width = len(source.norm.gamma)
    limit = min(_LARGEST_RATIO * old.largest, float(ml_dtypes.finfo(numpy_dtype(layout.model_dtype)).max))
    inverse = 1.0 / source.norm.gamma
    uneven = float(np.linalg.norm(inverse - inverse.mean()))
    step = max(1, TASK_ELEMENTS // 16 // width) * width
    for start, stop in pieces(old.rows * width, rows * width, step):
        drawn = source.drawn.values(start, stop).reshape(-1, width)
        offset = float(np.abs(source.offsets(drawn)).max())
        largest = float(np.abs(source.values(start, stop)).max())
        if not largest <= limit:
            raise NotQuietError(
                f"entries of {largest:.3g} would be needed, where the largest old one is {old.largest:.3g}"
            )
        if tied and offset * uneven > _LARGEST_COMMON * float(np.linalg.norm(drawn, axis=1).mean()):
            raise NotQuietError("tied to the input, the new tokens could hardly be told apart there")
