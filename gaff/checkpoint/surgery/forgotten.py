# SPDX-License-Identifier: Apache-2.0
"""What a reset forgets, kept as safetensors: the weights and the moments of every parameter, whatever the layout.

Tensors are named as parameters are (``0.word_embeddings.weight``), moments with their state behind a ``#``
(``0.word_embeddings.weight#exp_avg``); all float32, in the shape of the whole parameter.  Tied embeddings have a master
and moments on the first and on the last pipeline stage; only where these differ are the last stage's kept too, with
``@last`` behind.  The metadata say of which precision the model was, and which rows the reset was limited to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.checkpoint.crc import file_crc
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.operation import Operation
from gaff.checkpoint.reader import TASK_ELEMENTS, CopyReader, OpenFiles, pieces
from gaff.checkpoint.selection import RowSelection
from gaff.checkpoint.tensor_file import TensorFile, write_tensors
from gaff.errors import InputError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LAST = "@last"


def tensor_name(parameter: str, kind: str, truth: str) -> str:
    """The name in the file of one kind of copy."""
    return parameter if kind == truth else f"{parameter}#{kind}"


def last_stage(tensor: str) -> str:
    """The name in the file of what the last pipeline stage has."""
    return tensor + _LAST


def parameter_of(tensor: str) -> str:
    """The parameter that a tensor of the file belongs to."""
    return tensor.removesuffix(_LAST).partition("#")[0]


def save_forgotten(layout: Layout, operation: Operation, path: Path) -> None:
    """Write the parameters that an operation changes as they are now.

    Raises:
        OSError: there is no room for it, or no right to write.
    """
    reader = CopyReader(layout)
    shapes, data = {}, {}
    for name, parameter in operation.parameters.items():
        truth = layout.truth(name)
        for kind in (truth, *layout.states(name)):
            key = tensor_name(name, kind, truth)
            shapes[key] = parameter.shape
            data[key] = _values(reader, name, kind, layout.stages(name, kind)[0])
            if _stages_differ(reader, name, kind):  # tied embeddings, whose stages round apart
                shapes[last_stage(key)] = parameter.shape
                data[last_stage(key)] = _values(reader, name, kind, layout.stages(name, kind)[-1])
    about = {
        "gaff": "forgotten/1",
        "iteration": str(operation.iteration),
        "dtype": layout.model_dtype,
        "rows": json.dumps({name: rows.to_json() for name, rows in operation.selections.items()}),
    }
    write_tensors(path, shapes, data, about)


def _values(reader: CopyReader, name: str, kind: str, stage: int) -> Iterator[NDArray[np.float32]]:
    with OpenFiles(reader.layout.path) as files:
        for start, stop in pieces(0, reader.layout.parameters[name].numel, TASK_ELEMENTS // 4):
            yield reader.values(files, name, kind, start, stop, stage)


def _stages_differ(reader: CopyReader, name: str, kind: str) -> bool:
    first, *others = reader.layout.stages(name, kind)
    both = (zip(_values(reader, name, kind, first), _values(reader, name, kind, s), strict=True) for s in others)
    return any(mine.tobytes() != theirs.tobytes() for pairs in both for mine, theirs in pairs)


class ForgottenFile:
    """A file that :func:`save_forgotten` wrote, or one with tensors of such names.

    Attributes:
        file: the tensors.
        parameters: canonical names of those whose weights it holds, in the file's order.
        model_dtype: torch's name of the dtype that the model had; None where the file does not say it.
        selections: by parameter, the rows that were forgotten; all where it is not named.

    Raises:
        InputError: it cannot be read, or is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.file = TensorFile(path)
        self.parameters = tuple(name for name in self.file.tensors if name == parameter_of(name))
        self.model_dtype = self.file.about.get("dtype")
        self.selections = self._selections()

    def _selections(self) -> dict[str, RowSelection]:
        try:
            listed = json.loads(self.file.about.get("rows", "{}"))
            found = {name: RowSelection.from_json(fields) for name, fields in listed.items()}
            for name, rows in found.items():
                if rows.rows != self.file.tensors[name].shape[0]:
                    raise ValueError(f"{name} has {self.file.tensors[name].shape[0]} rows, not {rows.rows}")
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            what = f"says wrongly which rows were forgotten ({type(error).__name__}: {error})"
            raise InputError(
                Problem("forgotten-file", what, "use another file", Location(str(self.file.path)))
            ) from None
        return found

    def states(self, parameter: str) -> tuple[str, ...]:
        """Names of the optimizer's states that the file holds of a parameter."""
        mine = (name.partition("#") for name in self.file.tensors if not name.endswith(_LAST))
        return tuple(state for name, _, state in mine if state and name == parameter)

    @cached_property
    def crc(self) -> int | None:
        """CRC-32 of the whole file.  Reads all of it."""
        return file_crc(self.file.path)
