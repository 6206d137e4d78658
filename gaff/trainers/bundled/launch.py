# SPDX-License-Identifier: Apache-2.0
"""One process per rank, and none left behind.

The launcher imports torch and DeepSpeed once and forks (safe: neither starts a thread on import, and no thread exists
before the fork), which takes a third of the time of starting each rank anew.  When one rank dies the others are
killed; when the launcher dies, however, the kernel kills the ranks.

Where srun starts the ranks (:mod:`.nodes`), each process is one of them, and Slurm is what ends them (:mod:`.step`).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gaff.errors import EXIT_FAILED, EXIT_WRONG_INPUT, GaffError, InputError, Location, Problem
from gaff.trainers.bundled import settings, step
from gaff.trainers.bundled.support import unsupported

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0  # between SIGTERM and SIGKILL
_POLL_S = 0.02
_DEFAULT_PORT = 29500


def main(arguments: list[str]) -> int:
    """Run ``CONFIG.yml`` to its end and return the exit code: 0, that of the first rank to fail, or 128 + signal.

    As a task of srun's step it is one rank, which leaves the process with its own exit code.
    """
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gaff.trainers.bundled CONFIG.yml\n")
        return EXIT_WRONG_INPUT
    config = Path(arguments[0])
    try:
        neox = read_config(config)
        problems = unsupported(neox, lambda key: Location(str(config)))
        if problems:
            raise InputError(problems)
        by_srun = step.is_started_by_srun(neox)
        variables = step.rank_variables(neox, os.environ, config) if by_srun else {}
    except GaffError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if by_srun:
        _be_task(neox, config, variables)
    _prepare_environment(neox)
    _stay_on_this_machine()
    _import_heavy()
    world = settings.layout(neox).world
    return Ranks().run(neox, config, world)


def read_config(path: Path) -> dict[str, Any]:
    """GPT-NeoX keys of one merged YAML file, hyphens made underscores, read as GPT-NeoX reads it (YAML 1.1).

    Raises:
        InputError: the file cannot be read or is no mapping.
    """
    where = Location(str(path))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = f"the config cannot be read ({error})"
        raise InputError(Problem("bad-config", what, "give one YAML file of GPT-NeoX keys", where)) from error
    if not isinstance(content, dict):
        raise InputError(Problem("bad-config", "the config holds no keys", "give GPT-NeoX keys", where))
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _prepare_environment(neox: Mapping[str, Any]) -> None:
    """What must be set before torch is imported, and what all ranks share."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["MASTER_PORT"] = str(settings.given(neox, "master_port", _DEFAULT_PORT))


def _stay_on_this_machine() -> None:
    # Without it gloo looks up the host's name, which need not resolve.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def _import_heavy() -> None:
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True, write_through=False)  # whole lines, also from DeepSpeed's print()
    warnings.simplefilter("ignore", FutureWarning)  # torch's, about calls that DeepSpeed makes
    importlib.import_module("gaff.trainers.bundled.train")


class Ranks:
    """The rank processes of one launch."""

    def __init__(self) -> None:
        self._alive: dict[int, int] = {}  # process id -> rank
        self._signal: int | None = None

    def run(self, neox: Mapping[str, Any], config: Path, world: int) -> int:
        """Start all ranks and wait for them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        launcher = os.getpid()
        sys.stdout.flush()
        for rank in range(world):
            child = os.fork()
            if child == 0:
                _be_fork(neox, config, rank, world, launcher)
            self._alive[child] = rank
        return self._wait()

    def _on_signal(self, number: int, frame: object) -> None:
        self._signal = number

    def _wait(self) -> int:
        code = 0
        while self._alive:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                if self._signal is not None:
                    self._end()
                    return 128 + self._signal
                time.sleep(_POLL_S)
                continue
            rank = self._alive.pop(child)
            ended = os.waitstatus_to_exitcode(status)
            if ended and not code:
                code = ended if ended > 0 else 128 - ended
                how = f"exit code {ended}" if ended > 0 else f"signal {signal.Signals(-ended).name}"
                sys.stderr.write(f"rank {rank} (process {child}) ended with {how}; ending the others\n")
                self._end()
        return code

    def _end(self) -> None:
        """End all ranks: ask, wait, kill."""
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self._alive and time.monotonic() < deadline:
            child, _ = os.waitpid(-1, os.WNOHANG)
            if child:
                self._alive.pop(child, None)
            else:
                time.sleep(_POLL_S)
        self._send(signal.SIGKILL)
        while self._alive:
            self._alive.pop(os.waitpid(-1, 0)[0], None)

    def _send(self, number: signal.Signals) -> None:
        for child in self._alive:
            os.kill(child, number)


def _be_task(neox: Mapping[str, Any], config: Path, variables: Mapping[str, str]) -> NoReturn:
    """Train as one rank of srun's step and leave the process; never returns."""
    step.end_with_the_step(config)
    _prepare_environment(neox)
    code = _be_rank(neox, config, variables)
    if code:
        step.mark_failed(config)
    _leave(code)


def _be_fork(neox: Mapping[str, Any], config: Path, rank: int, world: int, launcher: int) -> NoReturn:
    """Train as one rank and leave the process; never returns."""
    code = EXIT_FAILED
    try:
        _die_with(launcher)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_SIZE": world}
        code = _be_rank(neox, config, {name: str(number) for name, number in numbers.items()})
    finally:
        _leave(code)  # not sys.exit: the launcher's exit handlers are not the rank's to run


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _be_rank(neox: Mapping[str, Any], config: Path, variables: Mapping[str, str]) -> int:
    """Train as the rank that ``variables`` make this process; say what fails, and return the exit code."""
    os.environ |= variables
    try:
        _import_heavy()  # a fork has it all
        _train(neox, config)
    except GaffError as error:
        _complain(variables["RANK"], str(error))
        return error.exit_code
    except BaseException:  # the top of the process
        _complain(variables["RANK"], traceback.format_exc())
        return EXIT_FAILED
    return 0


def _complain(rank: str, text: str) -> None:
    """Write to stderr with the rank in front of each line, as torch does."""
    sys.stderr.write("".join(f"[rank{rank}]: {line}\n" for line in text.splitlines()))


def _die_with(launcher: int) -> None:
    """Have the kernel kill this process when the launcher dies (elsewhere than on Linux only the launcher can)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != launcher:  # it died before the line above took effect
        os._exit(EXIT_FAILED)


def _train(neox: Mapping[str, Any], config: Path) -> None:
    import torch

    from gaff.trainers.bundled.train import train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.use_deterministic_algorithms(True)
    # DeepSpeed takes buckets of 5e8 elements that it hardly touches; filling them costs seconds per iteration.
    torch.utils.deterministic.fill_uninitialized_memory = False
    train(neox, config)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
