# SPDX-License-Identifier: Apache-2.0
"""What the verbs of ``gaff surgery`` share: their arguments, where an operation is done, and how it is told."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.cli.output import note
from gaff.errors import EXIT_DONE, InputError, Problem

if TYPE_CHECKING:
    from gaff.checkpoint.layout.layout import Layout
    from gaff.checkpoint.operation import Operation
    from gaff.checkpoint.surgery.perform import Result

Verbs = argparse._SubParsersAction  # the type that argparse does not name

CHECKPOINT = "a tag directory, or a save directory, whose `latest` is then taken"
_ROLE, _REMEDY = "--output", "choose another --output"
_SAID = {
    "planned": "would change",
    "done": "changed",
    "already-done": "was already done:",
    "finished": "is finished:",
}
EXIT_CODES = "exit codes: 0 done, 1 failed, or faults or differences found, 2 wrong usage or input, 130 interrupted"


def verb(verbs: Verbs[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    """The parser of one verb, with ``--json``; its checkpoints are its own business."""
    parser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=EXIT_CODES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def operating_verb(verbs: Verbs[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    """The parser of a verb that changes a checkpoint."""
    parser = verb(verbs, name, help)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--in-place", action="store_true", help="edit the checkpoint itself (safe to kill and repeat)")
    target.add_argument(
        "--output", type=Path, metavar="DIR", help="edit a copy, DIR/TAG; untouched files are hard-linked"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing, list every byte range that would change"
    )
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
    from gaff.checkpoint.transaction import refuse_half_done

    if not (options.in_place or options.output or options.dry_run):
        what = "it is not said where to operate"
        raise InputError(Problem("no-target", what, "add --in-place, --output DIR or --dry-run"))
    if options.output:
        _refuse_output(tag, options.output)
    if not options.in_place:
        refuse_half_done(tag)  # in place it would be finished first
    if options.dry_run:
        tell(options.json, tag, plan(read_layout(tag)), "planned")
        return EXIT_DONE
    if options.output:
        plan(read_layout(tag))
        tag, result = _in_copy(tag, options.output, do)
    else:
        try:
            result = do(tag)
        except KeyboardInterrupt:
            _tell_half_done(tag)
            raise
    tell(options.json, tag, result.operation, "already-done" if result.already_done else "done")
    return EXIT_DONE


def _tell_half_done(tag: Path) -> None:
    from gaff.checkpoint.transaction import begun_operation

    begun = begun_operation(tag)
    if begun is not None:
        note(f"gaff: {tag}: the {begun.kind} is half done; finish it with `gaff surgery finish`.")


def _refuse_output(tag: Path, output: Path) -> None:
    from gaff.checkpoint.tag_copy import refuse_output
    from gaff.plan.directories import directory_problem

    problem = directory_problem((output / tag.name).absolute(), _ROLE, _REMEDY)
    if problem and not os.path.lexists(output / tag.name):
        raise InputError(problem)
    refuse_output(tag, output)


def _in_copy(tag: Path, output: Path, do: Callable[[Path], Result]) -> tuple[Path, Result]:
    from gaff.checkpoint.tag_copy import copied_tag
    from gaff.files import write_durably
    from gaff.plan.directories import make_directory

    absent = [path for path in (output.absolute(), *output.absolute().parents) if not path.exists()]
    make_directory(output.absolute(), _ROLE, _REMEDY)
    try:
        with copied_tag(tag, output) as copy:
            result = do(copy)
            if all(path.name.startswith(".") for path in output.iterdir()):
                # the only tag there: a trainer that finds no `latest` would start from scratch
                write_durably(output / "latest", tag.name.encode())
    except BaseException:
        for path in absent:
            with suppress(OSError):  # somebody else's files are in it
                path.rmdir()
        raise
    return output / tag.name, result


def tell_nothing(as_json: bool, tag: Path, why: str, **facts: Any) -> None:
    """Print that there was nothing to do; ``facts`` go into the JSON object."""
    nothing = {"schema": "gaff.nothing-done/1", "checkpoint": str(tag), "operation": None, **facts}
    print(to_json(nothing) if as_json else f"{tag}: {why}")


def tell(as_json: bool, tag: Path, operation: Operation, status: str) -> None:
    """Print what an operation did or would do; ``status`` is one of ``_SAID``.  Only a plan has every range."""
    from gaff.checkpoint.operation import ZEROS

    if as_json:
        listed = {"ranges": [asdict(found) for found in operation.ranges()]} if status == "planned" else {}
        print(to_json({**operation.to_json(), **listed, "checkpoint": str(tag), "status": status}))
        return
    label = f"{operation.kind} {operation.about['reset']}" if operation.kind == "reset" else operation.kind
    print(f"{tag}: {label} {_SAID[status]} {_extent(operation)}")
    written = {edit.content: "zeros" if edit.content == ZEROS else "new values" for edit in operation.edits}
    if status == "planned":
        for found in operation.ranges():
            end = found.offset + found.length
            place = "" if found.file in operation.replaced else f"  {found.record}  [{found.offset}, {end})"
            print(f"  {found.file}{place}  {found.what}  {written.get(found.content, found.content)}")
    else:
        ranges = operation.ranges()
        counted = Counter((found.file, found.what, written.get(found.content, found.content)) for found in ranges)
        for (file, what, content), count in counted.items():
            print(f"  {file}  {what}  {content}" + (f"  ({count:,} ranges)" if count > 1 else ""))
    for remark in operation.about.get("notes", ()):
        print(f"  {remark}")
    left = operation.about.get("left_alone")
    if left:
        print(f"  left alone, shared with other parameters: {', '.join(left)}")


def _extent(operation: Operation) -> str:
    """How much changes, in words."""
    size = ranges = 0
    for found in operation.ranges():
        size += found.length
        ranges += found.file not in operation.replaced
    files = len(operation.touched - set(operation.replaced))
    parts = [f"{size:,} bytes in {ranges:,} ranges of {files} files"] if ranges else []
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
