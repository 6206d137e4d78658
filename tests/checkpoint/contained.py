# SPDX-License-Identifier: Apache-2.0
"""Opens files in a process of its own that may not take much memory, nor execute, import, write or start anything.

Run as a program, it takes paths on standard input and says what became of each, one JSON text a line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # of address space, of which some hundred megabytes are the interpreter's
SECONDS = 60  # for one file
FORBIDDEN = (
    "import", "exec", "compile", "code.__new__", "marshal.", "ctypes.", "pickle.", "os.system", "os.exec",
    "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "subprocess.", "socket.", "shutil.", "builtins.input", "object.__setattr__", "function.__new__",
)  # fmt: skip


def outcomes(paths: Iterable[Path]) -> dict[Path, str]:
    """``ok``, the id of the problem that was raised, or what went wrong, for each file."""
    paths = list(paths)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=20 * SECONDS,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(paths), f"died at {paths[len(lines)]} with {done.returncode}: {done.stderr[-2000:]}"
    return dict(zip(paths, lines, strict=True))


def main() -> None:
    from gaff.checkpoint.archive import Archive
    from gaff.checkpoint.unpickle import TensorRef
    from gaff.errors import CheckpointError

    def outcome(path: Path) -> str:
        try:
            archive = Archive(path)
            for tensor in _tensors(archive.root, TensorRef):
                archive.record_of(tensor)
            archive.document().to_bytes()
        except CheckpointError as error:
            if len(error.problems) != 1 or "\n" in str(error) or len(str(error)) > 500:
                return f"no clear sentence: {error}"
            return error.problems[0].id
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:300]!a}"
        return "ok"

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    paths = [Path(line.rstrip("\n")) for line in sys.stdin]
    sys.addaudithook(_refuse)
    for path in paths:
        signal.alarm(SECONDS)
        print(json.dumps(outcome(path)), flush=True)


def _tensors(node: Any, kind: type) -> Iterable[Any]:
    if isinstance(node, kind):
        yield node
    elif isinstance(node, (dict, list, tuple)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _tensors(item, kind)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event.startswith(FORBIDDEN):
        raise PermissionError(f"forbidden: {event} {ascii(args)[:200]}")


if __name__ == "__main__":
    main()
