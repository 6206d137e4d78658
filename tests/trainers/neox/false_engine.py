# SPDX-License-Identifier: Apache-2.0
"""A false ``apptainer`` and ``docker``: they take the options of the real ones, in the same form, and no others.

An image is a directory.  The command runs on this machine with the environment that it would have inside, and only
after every path that the segment's config names was found to be mounted at the same place, for writing where it is
written to.  ``python false_engine.py ENGINE WORD…``; 125, as Docker says it: a container cannot be started.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

WRITTEN = ("save", "tensorboard_dir", "data_path")  # of data_path the directory, in which index maps are made
READ = ("vocab_file", "merge_file", "load")
PASSED_DOCKER = ("--ipc=host", "--network=host", "--gpus=all", "--rm", "--init")


def refuse(why: str) -> NoReturn:
    print(f"false engine: {why}", file=sys.stderr)
    sys.exit(125)


class Call:
    """What the command line asks for.  ``mounts``: target -> (source, whether it can be written to)."""

    def __init__(self) -> None:
        self.mounts: dict[str, tuple[str, bool]] = {}
        self.environment: dict[str, str] = {}
        self.cwd = "/"
        self.words: list[str] = []

    def mount(self, source: str, target: str, writable: bool) -> None:
        if not os.path.isabs(source) or not os.path.isabs(target):
            refuse(f"invalid mount path {source}:{target}")
        if not os.path.exists(source):
            refuse(f"bind source path does not exist: {source}")
        self.mounts[target] = (source, writable)

    def reach(self, path: str, writable: bool) -> None:
        """Refuse unless ``path`` is the same inside as outside."""
        for parent in (Path(path), *Path(path).parents):
            found = self.mounts.get(str(parent))
            if found is not None:
                if found[0] != str(parent):
                    refuse(f"{path} is another file inside")
                if writable and not found[1]:
                    refuse(f"{path}: Read-only file system")
                return
        refuse(f"{path}: No such file or directory")


def apptainer(words: list[str]) -> Call:
    call = Call()
    if words.pop(0) != "exec":
        refuse("unknown command")
    clean = False
    while words[0].startswith("-"):
        option = words.pop(0)
        if option == "--cleanenv":
            clean = True
        elif option == "--bind":
            for bind in words.pop(0).split(","):
                parts = bind.split(":")
                if len(parts) > 3 or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
                    refuse(f"while parsing bind path: {bind}")
                call.mount(parts[0], parts[1] if len(parts) > 1 else parts[0], parts[-1] != "ro" or len(parts) < 3)
        elif option == "--pwd":
            call.cwd = words.pop(0)
        elif option not in ("--nv", "--writable-tmpfs"):
            refuse(f"unknown flag: {option}")
    if not clean:
        call.environment |= os.environ
    call.environment |= {"HOME": os.environ["HOME"], "PATH": "/image/bin:/usr/bin:/bin"}
    prefix = "APPTAINERENV_"
    given = {k[len(prefix) :]: v for k, v in os.environ.items() if k.startswith(prefix)}
    before = given.pop("PREPEND_PATH", None)
    call.environment |= given
    if before is not None:
        call.environment["PATH"] = f"{before}:{call.environment['PATH']}"
    call.words = words
    return call


def docker(words: list[str]) -> Call:
    call = Call()
    if words.pop(0) != "run":
        refuse("unknown command")
    call.environment = {"HOME": "/", "PATH": "/image/bin:/usr/bin:/bin"}
    while words[0].startswith("-"):
        option = words.pop(0)
        name, equals, value = option.partition("=")
        if option in PASSED_DOCKER:
            continue
        if not equals:
            value = words.pop(0)
        if name == "--name":
            if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", value):
                refuse(f"Invalid container name ({value})")
        elif name == "--env":
            call.environment |= {value: os.environ[value]} if value in os.environ else {}
        elif name == "--mount":
            (row,) = csv.reader([value])
            fields = {key: text for key, _, text in (part.partition("=") for part in row)}
            if fields.pop("type") != "bind" or set(fields) - {"source", "target", "readonly"}:
                refuse(f"invalid argument for --mount: {value}")
            call.mount(fields["source"], fields["target"], "readonly" not in fields)
        elif name == "--workdir":
            call.cwd = value
        elif name == "--user":
            if not re.fullmatch(r"\d+:\d+", value):
                refuse(f"no such user: {value}")
        elif name not in ("--ulimit", "--group-add", "--shm-size"):
            refuse(f"unknown flag: {name}")
    call.words = words
    return call


def main() -> None:
    engine, *words = sys.argv[1:]
    with open(os.environ["FALSE_ENGINE_RECORD"], "a") as file:
        file.write(json.dumps([engine, *words]) + "\n")
    if words[0] == "rm":
        sys.exit(1)  # No such container
    call = apptainer(words) if engine == "apptainer" else docker(words)
    image, *command = call.words
    for word in command:
        if word.endswith("neox.yml"):
            check_paths(call, Path(word))
    inside = Path(image + call.cwd)
    if not inside.is_dir():
        refuse(f"{call.cwd} is not in the image")
    os.chdir(inside)
    os.execvpe(sys.executable if command[0] == "python" else command[0], command, call.environment)


def check_paths(call: Call, config: Path) -> None:
    import yaml

    call.reach(str(config), False)
    keys = yaml.safe_load(config.read_text())
    for key in WRITTEN:
        if key in keys:
            call.reach(str(Path(keys[key]).parent) if key == "data_path" else keys[key], True)
    for key in READ:
        if key in keys and os.path.isabs(keys[key]):
            call.reach(keys[key], False)
            call.reach(os.path.realpath(keys[key]), False)
    for name in ("PYTHONPATH", "TORCH_EXTENSIONS_DIR", "HF_HOME"):
        for path in filter(None, call.environment.get(name, "").split(":")):
            call.reach(path, name != "PYTHONPATH")


if __name__ == "__main__":
    main()
