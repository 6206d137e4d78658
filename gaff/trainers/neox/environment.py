# SPDX-License-Identifier: Apache-2.0
"""One environment for every rank on every node.

On one machine, and under Slurm, ranks inherit all.  To other nodes pdsh and MPI take only what DeepSpeed's runner puts
on their command line: variables whose names begin with NCCL, PYTHON and a few more, and ``KEY=VALUE`` lines of the
files ``~/.deepspeed_env`` and ``.deepspeed_env``, or of those that DS_ENV_FILE names.  GAFF therefore writes one file
into the segment's directory and names it there, by its absolute path; the user's own, which that hides, are merged in.

Source: DeepSpeed 0.16.5 ``launcher/runner.py``, ``multinode_runner.py`` (``add_export``: a value is stripped, and put
in double quotes if it holds anything but ``\\w@%+=:,./-``; a shell takes them away under pdsh, nobody does under MPI).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config
from gaff.trainers.neox.launchers import Nodes

FILE_NAME = "deepspeed_env"
DS_ENV_FILE = "DS_ENV_FILE"
RUN_ID = "GAFF_RUN_ID"

#: Variables of GAFF's own shell that ranks on other nodes get as well, and why they need them.
HANDED_ON: Mapping[str, str] = {
    "PATH": "the data helper is made with the g++ and python3 of PATH, kernels with its nvcc and ninja",
    "LD_LIBRARY_PATH": "CUDA, NCCL and MPI libraries of environment modules",
    "LIBRARY_PATH": "the same, when kernels are linked",
    "CPATH": "headers of environment modules, when kernels are compiled",
    "CC": "compiler of kernels",
    "CXX": "compiler of the data helper and of kernels",
    "MAX_JOBS": "how many compilers run at once",
    "OMP_NUM_THREADS": "threads of each rank",
    "MKL_NUM_THREADS": "threads of each rank",
    "TOKENIZERS_PARALLELISM": "threads of the tokenizer, which warns in every data loader worker otherwise",
    "TRANSFORMERS_OFFLINE": "nodes without a network must not ask the hub",
    "TRANSFORMERS_CACHE": "where the tokenizer is kept",
    "TIKTOKEN_CACHE_DIR": "where the encodings of TiktokenTokenizer are kept",
    "REQUESTS_CA_BUNDLE": "certificates, for W&B behind a company's proxy",
    "SSL_CERT_FILE": "certificates, for W&B behind a company's proxy",
    **dict.fromkeys(("http_proxy", "https_proxy", "no_proxy"), "the way out, for W&B on the node of rank 0"),
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"), "the way out, for W&B on the node of rank 0"),
}
#: The same for whole families of names.
HANDED_ON_PREFIXES: Mapping[str, str] = {
    "CUDA_": "CUDA_HOME for kernels, CUDA_DEVICE_MAX_CONNECTIONS and their like; never CUDA_VISIBLE_DEVICES",
    "TORCH_": "TORCH_EXTENSIONS_DIR (a built cache), TORCH_CUDA_ARCH_LIST, TORCH_NCCL_* (time limits of collectives)",
    "DS_": "DS_ACCELERATOR, DS_BUILD_*, DS_SKIP_CUDA_CHECK of DeepSpeed",
    "HF_": "HF_HOME, HF_HUB_OFFLINE: where the tokenizer is kept",
    "WANDB_": "WANDB_MODE, WANDB_BASE_URL, WANDB_DIR of the rank that logs",
    "GLOO_": "the network device of gloo",
    "FI_": "libfabric (EFA, Slingshot) below NCCL",
    "TRITON_": "the cache of Triton's kernels",
    "NVTE_": "which kernels Transformer Engine takes",
    "GAFF_": "the CPU shim's own",
}
_NEVER = frozenset({"CUDA_VISIBLE_DEVICES", DS_ENV_FILE})  # set for each node by the launcher; ours
# These would stand on command lines that everybody can read, and in the log: only the config can ask for that.
_SECRET = re.compile(r"TOKEN(?!IZERS)|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
#: Set by launcher or supervisor for each rank; a value of the user's would be lost or break the launch.
_RESERVED = frozenset(
    [
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", DS_ENV_FILE, RUN_ID),
        *("GAFF_CPU_SHIM", "GAFF_CPU_SHIM_BESIDE_GPUS"),  # `device` says it
    ]
)
_PLAIN = re.compile(r"[\w@%+=:,./-]*")
_IN_QUOTES = re.compile(r'[\\"$`]')
_COMPILER = re.compile(r"(?:.*[-/])?(?:g\+\+|c\+\+|clang\+\+|gcc|cc|clang)(?:-[\d.]+)?")


@dataclass(frozen=True)
class RankEnvironment:
    """What a launch needs so that every rank gets its environment.

    Attributes:
        variables: for :attr:`gaff.trainers.contract.Launch.env`.
        file: text of the file that DS_ENV_FILE must name; None where ranks inherit all.
    """

    variables: Mapping[str, str] = field(repr=False)
    file: str | None = field(default=None, repr=False)


def asked(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``gaff: environment``, with this shell's value for those that are null.

    Raises:
        InputError: this shell has no such variable.
    """
    problems = [p for p in check_environment(config, environ) if p.id == "environment-unset"]
    if problems:
        raise InputError(problems)
    return {name: environ[name] if value is None else value for name, value in config.gaff.environment}


def check_environment(config: Config, environ: Mapping[str, str], nodes: Nodes | None = None) -> Iterator[Problem]:
    """Whether ``gaff: environment`` can be had, and can travel to the nodes under the config's launcher."""
    for name, value in config.gaff.environment:
        key = f"gaff.environment.{name}"
        if name in _RESERVED:
            yield config.problem(
                "environment-reserved", key, f"{name} is set for each rank by its launcher or by GAFF", "remove it"
            )
        elif value is None and name not in environ:
            what = f"{name} is to be handed on from this shell, which does not have it"
            yield config.problem("environment-unset", key, what, f"export {name}, or give its value in the config")
        elif value is not None and "\0" in value:
            what = f"the value of {name} has a character of code 0, which no variable can have"
            yield config.problem("environment-value", key, what, "remove it")
        elif nodes is not None and not nodes.inherits and not travels(environ[name] if value is None else value, nodes):
            what = f"the value of {name} cannot be handed to other nodes by {nodes.launcher}: {_why_not(nodes)}"
            yield config.problem("environment-value", key, what, "set it in the shell's start-up file on each node")
    if nodes is not None and not nodes.inherits:
        try:
            user_lines(environ, None)
        except InputError as error:
            yield from error.problems


def travels(value: str, nodes: Nodes) -> bool:
    """Whether a value reaches ranks on other nodes as it is."""
    if value != value.strip() or len(value.splitlines()) > 1 or "\0" in value:
        return False
    return nodes.launcher == "pdsh" or _PLAIN.fullmatch(value) is not None


def _why_not(nodes: Nodes) -> str:
    if nodes.launcher == "pdsh":
        return "it begins or ends with a blank, or has several lines"
    return "DeepSpeed would put quotation marks around it that nobody takes away"


def compilers(base: Mapping[str, str]) -> dict[str, str]:
    """CXX and CC, where they are not set, or not to a GNU-like compiler.

    Where CXX is icpc or a Cray wrapper GPT-NeoX's data helper and torch's kernels do not build, or crash when loaded.
    """
    wanted = {"CXX": "g++", "CC": "gcc"}
    return {name: value for name, value in wanted.items() if not _gnu_like(base.get(name, ""))}


def _gnu_like(command: str) -> bool:
    words = [
        word for word in command.split() if not word.startswith("-") and Path(word).name not in ("ccache", "sccache")
    ]
    return bool(words) and _COMPILER.fullmatch(words[0]) is not None


def rank_environment(
    nodes: Nodes,
    environ: Mapping[str, str],
    own: Mapping[str, str],
    *,
    checkout: Path,
    raw: Mapping[str, str] | None = None,
) -> RankEnvironment:
    """Put together what every rank gets.

    Args:
        nodes: where the ranks run.
        environ: the environment that the launch inherits.
        own: what the config asks for and what GAFF adds to that, GAFF_RUN_ID included.  It wins over everything.
        checkout: the launch's working directory, where DeepSpeed looks for the user's own file.
        raw: values under pdsh that the shell of each node and pdsh itself are to expand (``%n``: its number).

    Raises:
        InputError: a file of the user's that DeepSpeed would read is not made of ``KEY=VALUE`` lines.
    """
    if nodes.launcher == "local":
        return RankEnvironment(dict(own))
    lines = user_lines(environ, checkout)
    if nodes.launcher == "slurm":  # srun --export=ALL: its own environment wins over what is exported by name
        return RankEnvironment({**{name: _unquoted(value) for name, value in lines.items()}, **own}, "")
    automatic = {name: value for name, value in environ.items() if _handed_on(name, value) and name not in lines}
    # DeepSpeed puts the working directory before PYTHONPATH and hands that on by itself.
    values = {name: value for name, value in {**automatic, **own}.items() if name != "PYTHONPATH"}
    entries = {**lines, **{name: _encoded(value, nodes) for name, value in values.items() if travels(value, nodes)}}
    entries |= raw or {}
    return RankEnvironment(dict(own), "".join(f"{name}={value}\n" for name, value in entries.items()))


def write_environment(environment: RankEnvironment, directory: Path) -> dict[str, str]:
    """Write the file, for its owner's eyes alone, and return the whole of ``Launch.env``."""
    if environment.file is None:
        return dict(environment.variables)
    path = directory.absolute() / FILE_NAME
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(environment.file)
    return {**environment.variables, DS_ENV_FILE: str(path)}


def _handed_on(name: str, value: str) -> bool:
    if name in _NEVER or _SECRET.search(name) or (name.lower().endswith("_proxy") and "@" in value):
        return False
    return name in HANDED_ON or name.startswith(tuple(HANDED_ON_PREFIXES))


def _encoded(value: str, nodes: Nodes) -> str:
    """A value as its line must give it, so that the rank gets just the value."""
    if nodes.launcher != "pdsh":
        return value
    # pdsh expands %h, %n, %u; the node's shell what stands in double quotes.
    return _IN_QUOTES.sub(r"\\\g<0>", value).replace("%", "%%")


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def user_lines(environ: Mapping[str, str], checkout: Path | None) -> dict[str, str]:
    """The ``KEY=VALUE`` lines of the files that DeepSpeed would read without GAFF's, in its order, later ones winning.

    Values stay as they are written.  Blank lines and comments, on which DeepSpeed fails, are left out.

    Raises:
        InputError: another line is no ``KEY=VALUE``.
    """
    name = environ.get(DS_ENV_FILE) or ".deepspeed_env"
    homes = [Path(environ.get("HOME") or os.path.expanduser("~")), *([checkout] if checkout else [])]
    lines: dict[str, str] = {}
    for path in dict.fromkeys(home / name for home in homes):
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except (OSError, UnicodeError) as error:
            what = f"DeepSpeed's file of variables cannot be read ({error})"
            raise InputError(Problem("ds-env-file", what, "mend or remove it", Location(str(path)))) from None
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            key, equals, value = line.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key.strip()):
                remedy = "write KEY=VALUE, one to a line"
                what = f"`{line.strip()}` is no variable and its value"
                raise InputError(Problem("ds-env-file", what, remedy, Location(str(path), number)))
            lines[key.strip()] = value.strip()
    return lines
