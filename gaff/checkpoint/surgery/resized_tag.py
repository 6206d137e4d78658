# SPDX-License-Identifier: Apache-2.0
"""All files of a tag that a change of the vocabulary's size changes, in every layout that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy, canonical_name
from gaff.checkpoint.pickle_nodes import torch_size
from gaff.checkpoint.reader import CopyReader
from gaff.checkpoint.surgery.resized_file import FileEditor, NewFile, Slot
from gaff.checkpoint.surgery.resized_layout import Place, ResizedLayout
from gaff.checkpoint.surgery.resized_partitions import repartition
from gaff.checkpoint.surgery.resized_sub_groups import resize_sub_groups
from gaff.checkpoint.tag import MODEL_FILE, OPTIMIZER_FILE, ZERO3_MODEL_FILE, TagFiles, understood


def resized_files(reader: CopyReader, resized: ResizedLayout) -> list[NewFile]:
    """What every file that changes will be, worked out without writing.

    Raises:
        CheckpointError: a file is laid out in a way that cannot be rebuilt.
    """
    layout = resized.layout
    names = TagFiles(layout.path).names
    shards = {(int(m[2]), int(m[1])): name for name in names if (m := OPTIMIZER_FILE.fullmatch(name))}
    found: list[NewFile | None] = []
    with understood(layout.path):
        for name in names:
            if name not in shards.values():
                found.append(_model_file(reader, resized, name))
        for model_rank in sorted({rank for rank, _ in shards}):
            mine = [shards[key] for key in sorted(shards) if key[0] == model_rank]
            editors = [FileEditor(reader.archive(name)) for name in mine]
            stage, tensor_rank = divmod(model_rank, layout.topology.tensor)
            if layout.zero_stage == 3:
                resize_sub_groups(resized, editors, _header(reader, names, model_rank), tensor_rank)
            else:
                repartition(resized, editors, stage, tensor_rank)
            found += [editor.result() for editor in editors]
    return [new for new in found if new is not None]


def _header(reader: CopyReader, names: Iterable[str], model_rank: int) -> Mapping[str, Any]:
    name = next(n for n in names if (m := ZERO3_MODEL_FILE.fullmatch(n)) and int(m[2]) == model_rank)
    root: Mapping[str, Any] = reader.archive(name).root
    return root


def _model_file(reader: CopyReader, resized: ResizedLayout, name: str) -> NewFile | None:
    """Layer files, and model files with the weights, masters and states that they may hold."""
    archive = reader.archive(name)
    editor = FileEditor(archive)
    for record, copies in _whole_blocks(resized, name).items():
        slots = {_slot(resized, copy) for copy in copies}
        editor.replace_slots(record, copies[0].item_size, slots)
    if MODEL_FILE.fullmatch(name) or ZERO3_MODEL_FILE.fullmatch(name):
        _note_sizes(resized, editor)
    return editor.result()


def _whole_blocks(resized: ResizedLayout, file: str) -> dict[str, list[Copy]]:
    """By record of a file, the copies in it that change; each is a tensor rank's whole block."""
    found: dict[str, list[Copy]] = {}
    for name in resized.changed:
        for copy in resized.layout.copies[name]:
            if copy.file == file:
                found.setdefault(copy.record, []).append(copy)
    return found


def _slot(resized: ResizedLayout, copy: Copy) -> Slot:
    parts = resized.block(copy.parameter, Place(copy.kind, copy.stage, copy.tensor_rank))
    return Slot(copy.offset // copy.item_size, copy.numel, resized.parameters[copy.parameter].block_numel, parts)


def _note_sizes(resized: ResizedLayout, editor: FileEditor) -> None:
    """Where a model file says how large the vocabulary is: ``args``, which GPT-NeoX checks, and ``param_shapes``."""
    document = editor.document
    document.replace(document.at("args", "padded_vocab_size"), resized.rows)
    shapes = document.at("param_shapes")
    if document.value(shapes) is None:
        return
    for group in document.items(shapes):
        for name, _ in document.entries(group):
            parameter = resized.parameters.get(canonical_name(str(name)))
            if parameter is not None and parameter.name in resized.changed:
                document.put(group, str(name), torch_size(block_shape(resized, parameter.name)))


def block_shape(resized: ResizedLayout, name: str) -> tuple[int, ...]:
    """The new shape of one tensor rank's block."""
    parameter = resized.parameters[name]
    return (parameter.block_numel // parameter.width, *parameter.shape[1:])


def sizes_written(layout: Layout) -> set[int]:
    """The padded vocabularies that the model files name."""
    files = TagFiles(layout.path)
    found = set()
    with understood(layout.path):
        for name in files.names:
            if MODEL_FILE.fullmatch(name) or ZERO3_MODEL_FILE.fullmatch(name):
                found.add(int(files.archive(name).root["args"]["padded_vocab_size"]))
    return found
