# SPDX-License-Identifier: Apache-2.0
"""Event files, read by TensorBoard itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

accumulator = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")


def read(directory: Path) -> Any:
    """What TensorBoard's server has in memory of a directory, nothing thinned out."""
    return accumulator.EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()


def tags(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of all scalars that have any point."""
    loaded = read(directory)
    scalar_tags = [tag for tag in loaded.Tags()["tensors"] if tag in loaded.PluginTagToContent("scalars")]
    points = {tag: [_point(event) for event in loaded.Tensors(tag)] for tag in scalar_tags}
    return {tag: values for tag, values in points.items() if values}


def _point(event: Any) -> tuple[int, float]:
    return event.step, round(event.tensor_proto.float_val[0], 6)


def scalars(directory: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them."""
    return tags(directory).get(tag, [])


def wall_times(directory: Path, tag: str) -> list[float]:
    """Of a scalar's points."""
    return [event.wall_time for event in read(directory).Tensors(tag)]


def texts(directory: Path) -> list[tuple[int, str]]:
    """(step, text) of the resets' markers."""
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in read(directory).Tensors("reset/text")]
