# SPDX-License-Identifier: Apache-2.0
"""What the verbs of ``gaff surgery`` share: their arguments, where an operation is done, and how it is told."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.errors import EXIT_DONE, InputError, Problem

if TYPE_CHECKING:
    from gaff.checkpoint.layout.layout import Layout
    from gaff.checkpoint.operation import ByteRange, Operation
    from gaff.checkpoint.surgery.perform import Result

Verbs = argparse._SubParsersAction  # the type that argparse does not name

CHECKPOINT = "a tag directory, or a save directory, whose `latest` is then taken"


def verb(verbs: Verbs[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    """The parser of one verb, with ``--json``; its checkpoints are its own business."""
    parser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def operating_verb(verbs: Verbs[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    """The parser of a verb that changes a checkpoint."""
    parser = verb(verbs, name, help)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--in-place", action="store_true", help="edit the checkpoint itself (safe to kill and repeat)")
    target.add_argument(
        "--output", type=Path, metavar="DIR", help="edit a copy in DIR; untouched files are hard-linked"
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, list every range that would change")
    return parser


def find_checkpoint(path: Path) -> Path:
    """The tag that an argument means, by a name that its neighbours can be found from.

    Raises:
        InputError: there is no checkpoint.
    """
    from gaff.checkpoint.tag import find_tag

    tag = find_tag(path)
    return tag.resolve() if tag.name in ("", "..") else tag


def operate(
    options: argparse.Namespace,
    tag: Path,
    plan: Callable[[Layout], Operation],
    do: Callable[[Path], Result],
) -> int:
    """Do an operation where the options say, and tell what was done.

    Args:
        options: ``in_place``, ``output``, ``dry_run`` and ``json``.
        tag: the checkpoint.
        plan: works the operation out without writing.
        do: does it in the tag that it is given.

    Raises:
        CheckpointError, InputError: it cannot be done; then nothing is left in ``--output``.
    """
    from gaff.checkpoint.layout.read import read_layout

    if not (options.in_place or options.output or options.dry_run):
        what = "it is not said where to operate"
        raise InputError(Problem("no-target", what, "add --in-place, --output DIR or --dry-run"))
    if options.dry_run:
        tell(options.json, tag, plan(read_layout(tag)), "would change", every_range=True)
        return EXIT_DONE
    if options.output:
        plan(read_layout(tag))
        tag, result = _in_copy(tag, options.output, do)
    else:
        result = do(tag)
    tell(options.json, tag, result.operation, "was already done:" if result.already_done else "changed")
    return EXIT_DONE


def _in_copy(tag: Path, output: Path, do: Callable[[Path], Result]) -> tuple[Path, Result]:
    from gaff.checkpoint.tag_copy import copied_tag, refuse_output
    from gaff.plan.directories import directory_problem, make_directory

    role, remedy = "--output", "choose another --output"
    refuse_output(tag, output)
    problem = directory_problem((output / tag.name).absolute(), role, remedy)
    if problem:
        raise InputError(problem)
    make_directory(output.absolute(), role, remedy)
    with copied_tag(tag, output) as copy:
        result = do(copy)
    return output / tag.name, result


def tell(as_json: bool, tag: Path, operation: Operation, verb: str, *, every_range: bool = False) -> None:
    """Print what an operation did or would do."""
    ranges = list(operation.ranges())
    if as_json:
        listed = {"ranges": [asdict(found) for found in ranges]} if every_range else {}
        print(to_json({**operation.to_json(), **listed, "checkpoint": str(tag)}))
        return
    label = f"{operation.kind} {operation.about['reset']}" if operation.kind == "reset" else operation.kind
    print(f"{tag}: {label} {verb} {_extent(operation, ranges)}")
    if every_range:
        for found in ranges:
            end = found.offset + found.length
            place = "" if found.file in operation.replaced else f"  {found.record}  [{found.offset}, {end})"
            print(f"  {found.file}{place}  {found.what}  {found.content}")
    else:
        counted = Counter((found.file, found.what, found.content) for found in ranges)
        for (file, what, content), count in counted.items():
            print(f"  {file}  {what}  {content}" + (f"  ({count:,} ranges)" if count > 1 else ""))
    for note in operation.about.get("notes", ()):
        print(f"  {note}")
    left = operation.about.get("left_alone")
    if left:
        print(f"  left alone, shared with other parameters: {', '.join(left)}")


def _extent(operation: Operation, ranges: Sequence[ByteRange]) -> str:
    """How much changes, in words."""
    patched = [found for found in ranges if found.file not in operation.replaced]
    size = sum(found.length for found in patched)
    files = len({found.file for found in patched})
    parts = [f"{size:,} bytes in {len(patched):,} ranges of {files} files"] if patched else []
    if operation.replaced:
        parts.append(f"{len(operation.replaced)} files as a whole")
    return " and ".join(parts) or "nothing"


def to_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON, which has no NaN and no infinity: they come out as null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
