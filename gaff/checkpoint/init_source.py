# SPDX-License-Identifier: Apache-2.0
"""What an ``init`` means for one parameter of one tag: the source of its new values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.checkpoint.init_methods import Constant, Distribution, Initialiser, ModelSizes, Orthogonal, init_method_of
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Parameter
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.random_rows import key_for, standard_normal
from gaff.checkpoint.reader import CopyReader
from gaff.checkpoint.sources import (
    ArrayValues,
    ConstantValue,
    DrawnValues,
    FileValues,
    TagValues,
    ValueSource,
    refuse_overflow,
)
from gaff.checkpoint.survey import Statistics
from gaff.checkpoint.tag import TagFiles, tag_name
from gaff.checkpoint.tensor_file import TensorFile
from gaff.errors import InputError, Location, Problem
from gaff.plan.settings import InitSpec
from gaff.plan.yaml_source import read_yaml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def source_of(
    layout: Layout, name: str, init: InitSpec, *, seed: int, reset: int, forgotten: Statistics, save: Path | None
) -> ValueSource:
    """Where the new values of a reset come from.

    Args:
        layout: the tag's.
        name: the parameter.
        init: what the user said.
        seed, reset: of the reset.
        forgotten: statistics of what is there now, for ``matched``.
        save: where ``global_step0`` lies, for ``step0``; None for beside the tag.

    Raises:
        InputError: the values cannot be had, or do not fit into the model's dtype.
    """
    parameter = layout.parameters[name]
    source: ValueSource
    if init.kind == "file":
        assert init.path is not None
        source = values_of_file(Path(init.path), parameter)
    elif init.kind == "step0":
        source = _step0_values(parameter, save or layout.path.parent)
    else:
        source = _made_values(parameter, _initialiser(layout, parameter, init, forgotten), seed, reset)
    refuse_overflow(source, parameter.numel, layout.model_dtype, f"`init: {init}`", layout.path)
    return source


def values_of_file(path: Path, parameter: Parameter) -> FileValues:
    """The tensor of a safetensors file that has the parameter's name (with or without its layer), or its only one.

    Raises:
        InputError: no such file or tensor, or another shape.
    """
    file = TensorFile(path)
    only = next(iter(file.tensors)) if len(file.tensors) == 1 else None
    names = (parameter.name, parameter.name.partition(".")[2], only)
    name = next((n for n in names if n in file.tensors), None)
    if name is None or file.tensors[name].shape != parameter.shape:
        shapes = {n: t.shape for n, t in file.tensors.items()}
        listed = dict(list(shapes.items())[:3])
        what = (
            f"holds {listed}{' and more' if len(shapes) > 3 else ''}, not {parameter.name} of shape {parameter.shape}"
        )
        remedy = "give a tensor of that name and shape (the padded vocabulary's)"
        raise InputError(Problem("init-file", what, remedy, Location(str(path))))
    return FileValues(file, name)


def _initialiser(layout: Layout, parameter: Parameter, init: InitSpec, forgotten: Statistics) -> Initialiser:
    if init.kind == "matched":
        return Distribution("normal", forgotten.std, forgotten.mean)
    if init.kind == "config":
        layers = int(TagFiles(layout.path).header["args"]["num_layers"])
        neox, where = tag_config(layout.path)
        sizes = ModelSizes(layout.vocabulary[1], layers, parameter.rows, columns=parameter.width)
        return init_method_of(neox, sizes, where, parameter=parameter.name)
    assert init.kind in ("normal", "uniform")
    assert init.value is not None
    return Distribution("normal" if init.kind == "normal" else "uniform", init.value)


def _made_values(parameter: Parameter, initialiser: Initialiser, seed: int, reset: int) -> ValueSource:
    if isinstance(initialiser, Constant):
        return ConstantValue(initialiser.value)
    if isinstance(initialiser, Orthogonal):
        return ArrayValues(_orthogonal(parameter, initialiser.gain, seed, reset))
    return DrawnValues(initialiser, seed, reset, parameter.name, parameter.width)


def _orthogonal(parameter: Parameter, gain: float, seed: int, reset: int) -> NDArray[np.float32]:
    """The Q of a Gaussian matrix, its signs made uniform by R's diagonal (Mezzadri, math-ph/0609050), times ``gain``.

    The one initialiser whose rows depend on each other: it holds the whole weight in memory, and its last bits are
    those of this machine's LAPACK.
    """
    import numpy as np

    key = key_for("gaff-reset", seed, reset, parameter.name)
    gaussian = standard_normal(key, 0, parameter.rows, parameter.width).astype(np.float64)
    q, r = np.linalg.qr(gaussian if parameter.rows >= parameter.width else gaussian.T)
    q *= np.sign(np.diag(r)) * gain
    return np.ascontiguousarray(q if parameter.rows >= parameter.width else q.T, dtype=np.float32)


def _step0_values(parameter: Parameter, save: Path) -> TagValues:
    tag = save / tag_name(0)
    where = Location(str(tag))
    if not tag.is_dir():
        remedy = "save one with `extra_save_iters: [0]`, or choose another init"
        raise InputError(Problem("no-step0", "`init: step0` needs this tag, which is not there", remedy, where))
    first = read_layout(tag)
    if parameter.name not in first.parameters or first.parameters[parameter.name].shape != parameter.shape:
        what = f"has no {parameter.name} of shape {parameter.shape}"
        raise InputError(Problem("no-step0", what, "choose another init", where))
    return TagValues(CopyReader(first), parameter.name, first.truth(parameter.name))


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
