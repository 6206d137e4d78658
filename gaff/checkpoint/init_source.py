# SPDX-License-Identifier: Apache-2.0
"""What an ``init`` means for one tag: the source of its new values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import numpy_dtype
from gaff.checkpoint.init_methods import Distribution, ModelSizes, init_method_of
from gaff.checkpoint.layout import MASTER, PARAMETER, Layout, read_layout
from gaff.checkpoint.tag import TagFiles, tag_name
from gaff.checkpoint.values import ArrayValues, CopyReader, DrawnValues, ValueSource, values_of_file
from gaff.errors import InputError, Location, Problem
from gaff.plan.settings import InitSpec
from gaff.plan.yaml_source import read_yaml


def source_of(
    layout: Layout, init: InitSpec, *, seed: int, reset: int, forgotten: Mapping[str, float], save: Path | None
) -> ValueSource:
    """Where the new values of a reset come from.

    Args:
        layout: the tag's.
        init: what the user said.
        seed, reset: of the reset.
        forgotten: statistics of what is there now, for ``matched``.
        save: where ``global_step0`` lies, for ``step0``; None for beside the tag.

    Raises:
        InputError: the values cannot be had, or do not fit into the model's dtype.
    """
    if init.kind == "file":
        assert init.path is not None
        source: ValueSource = values_of_file(Path(init.path), PARAMETER, layout.shape)
    elif init.kind == "step0":
        source = _step0_values(layout, save or layout.path.parent)
    else:
        source = DrawnValues(_distribution(layout, init, forgotten), seed, reset, PARAMETER, layout.shape[1])
    _refuse_overflow(layout, init, source)
    return source


def _refuse_overflow(layout: Layout, init: InitSpec, source: ValueSource) -> None:
    import ml_dtypes

    limit = float(ml_dtypes.finfo(numpy_dtype(layout.model_dtype)).max)
    if not source.largest() <= limit:
        what = f"`init: {init}` gives values that are not finite in the model's {layout.model_dtype}"
        raise InputError(Problem("init-overflow", what, "choose another init", Location(str(layout.path))))


def _distribution(layout: Layout, init: InitSpec, forgotten: Mapping[str, float]) -> Distribution:
    if init.kind == "matched":
        return Distribution("normal", forgotten["std"], forgotten["mean"])
    if init.kind == "config":
        layers = int(TagFiles(layout.path).header["args"]["num_layers"])
        neox, where = tag_config(layout.path)
        return init_method_of(neox, ModelSizes(layout.shape[1], layers, layout.shape[0]), where)
    assert init.kind in ("normal", "uniform")
    assert init.value is not None
    return Distribution("normal" if init.kind == "normal" else "uniform", init.value)


def _step0_values(layout: Layout, save: Path) -> ArrayValues:
    tag = save / tag_name(0)
    where = Location(str(tag))
    if not tag.is_dir():
        remedy = "save one with `extra_save_iters: [0]`, or choose another init"
        raise InputError(Problem("no-step0", "`init: step0` needs this tag, which is not there", remedy, where))
    first = read_layout(tag)
    if first.shape != layout.shape:
        what = f"has an embedding of another shape than {layout.shape}"
        raise InputError(Problem("no-step0", what, "choose another init", where))
    return ArrayValues(CopyReader(first).values(MASTER, 0, first.numel).reshape(first.shape), str(tag))


def tag_config(tag: Path) -> tuple[dict[str, Any], Location]:
    """The GPT-NeoX keys of the configs that the trainer left in the tag.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    paths = sorted(p for p in (tag / "configs").glob("*") if p.is_file())
    where = Location(str(tag / "configs"))
    if not paths:
        remedy = "choose another init, such as normal:0.02"
        raise InputError(Problem("no-config", "`init: config` finds no config in the tag", remedy, where))
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= read_yaml(path).values
    return merged, where
