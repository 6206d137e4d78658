# SPDX-License-Identifier: Apache-2.0
"""A layout while its copies are being collected, file by file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MODEL, Copy, Parameter, Scalar, split_dimension
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.unpickle import TensorRef
from gaff.errors import CheckpointError, InputError

# Adam and AdamW (with AMSGrad's maximum), Lion, SGD: moments, for all of which zero means "nothing seen yet".  Other
# optimizers keep factored sums (SM3) or the first weights (MADGRAD), which zeros would falsify.
KNOWN_STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")

Shape = tuple[int, ...]
Rank = tuple[int, int, int]  # stage, tensor rank, data rank


class Draft:
    """Collects the copies of one tag.

    Attributes:
        shapes: by canonical name, the shape of one tensor rank's block, in the model's order.
        stage_members: for readers that must count them, the parameters of each pipeline stage.
    """

    def __init__(self, files: TagFiles) -> None:
        self.files = files
        self.topology = files.topology
        self.shapes: dict[str, Shape] = {}
        self.stage_members: dict[int, list[str]] = {}
        self._copies: dict[str, list[Copy]] = {}
        self._scalars: list[Scalar] = []
        self.zero_stage = 0
        self.wrapper = "none"

    def shape(self, name: str, shape: Shape) -> None:
        """Note a block's shape, which every tensor rank must agree on."""
        if self.shapes.setdefault(name, tuple(shape)) != tuple(shape):
            raise self.broken(f"has blocks of {name} with shapes {self.shapes[name]} and {tuple(shape)}")

    def add(
        self, name: str, kind: str, archive: Archive, tensor: Any, rank: Rank, *,
        first: int = 0, start: int = 0, numel: int | None = None,
    ) -> None:  # fmt: skip
        """Note one copy: elements ``first`` to ``first + numel`` of a tensor are the block's from ``start`` on."""
        if not isinstance(tensor, TensorRef):
            raise self.broken(f"{archive.path.name}: the {kind} of {name} is no tensor")
        numel = tensor.numel - first if numel is None else numel
        if first < 0 or numel < 0 or first + numel > tensor.numel:
            raise self.broken(f"{archive.path.name}: the {kind} is shorter than its fragments")
        if numel == 0:
            return
        stage, tensor_rank, data_rank = rank
        copy = Copy(
            parameter=name,
            kind=kind,
            file=archive.path.name,
            record=archive.record_of(tensor).name,
            dtype=tensor.dtype,
            offset=(tensor.offset + first) * tensor.item_size,
            start=start,
            numel=numel,
            stage=stage,
            tensor_rank=tensor_rank,
            data_rank=data_rank,
            item_size=tensor.item_size,
        )
        self._copies.setdefault(name, []).append(copy)

    def states(self, archive: Archive, state: Mapping[str, Any], group: int) -> dict[str, TensorRef]:
        """The tensors that an optimizer keeps for a group or a parameter; its numbers are noted as scalars."""
        tensors = {}
        for name, value in state.items():
            if isinstance(value, TensorRef) and value.shape:
                if name not in KNOWN_STATES:
                    raise self._unknown_state(archive, name)
                tensors[name] = value
            elif isinstance(value, TensorRef):
                self._scalars.append(Scalar(name, _number(archive, value), archive.path.name, group))
            elif isinstance(value, (int, float)):
                self._scalars.append(Scalar(name, float(value), archive.path.name, group))
            elif value is not None:
                raise self.refused(f"{archive.path.name} keeps optimizer state {name!r}, which is not a tensor")
        return tensors

    def _unknown_state(self, archive: Archive, name: str) -> CheckpointError:
        what = f"{archive.path.name} keeps optimizer state {name!r}, which is not one of Adam's, Lion's or SGD's"
        remedy = "use a checkpoint trained with one of these"
        return self.files.error("unsupported-optimizer", what, remedy)

    def layout(self) -> Layout:
        """The finished layout, checked to be whole.

        Raises:
            CheckpointError: see :meth:`Layout.check_whole`.
        """
        header = self.files.header
        parameters = {name: self._parameter(name, shape) for name, shape in self.shapes.items()}
        layout = Layout(
            path=self.files.path,
            iteration=self.files.iteration,
            topology=self.topology,
            zero_stage=self.zero_stage,
            model_dtype=self._model_dtype(),
            tied=self.files.tied,
            wrapper=self.wrapper,
            deepspeed_version=str(header.get("ds_version", "unknown")),
            parameters=parameters,
            copies={name: tuple(self._copies.get(name, ())) for name in parameters},
            scalars=tuple(self._scalars),
        )
        layout.check_whole()
        return layout

    def _parameter(self, name: str, block: Shape) -> Parameter:
        tensor = self.topology.tensor
        try:
            split = split_dimension(name, tensor)
        except InputError as error:
            raise self.refused(error.problems[0].what) from None
        shape = tuple(size * tensor if dimension == split else size for dimension, size in enumerate(block))
        return Parameter(name, shape, split, tensor)

    def _model_dtype(self) -> str:
        for copies in self._copies.values():
            for copy in copies:
                if copy.kind == MODEL:
                    return copy.dtype
        return self.files.trained_dtype

    def broken(self, what: str) -> CheckpointError:
        return self.files.error("inconsistent-layout", what, "use another tag; no byte was changed")

    def refused(self, what: str) -> CheckpointError:
        return self.files.error(
            "unsupported-layout", what, "see `gaff surgery --help` for the layouts that are handled"
        )


def _number(archive: Archive, tensor: TensorRef) -> float:
    values = archive.elements(archive.record_of(tensor), tensor.dtype, tensor.offset * tensor.item_size, 1)
    return float(values[0])
