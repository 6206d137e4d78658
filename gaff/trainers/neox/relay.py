# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX in an image on several nodes: its launcher inside asks for srun, and the real srun is outside.

DeepSpeed's runner, in the image, calls ``srun -n RANKS … --export=… COMMAND`` (0.16.5 ``multinode_runner.py``,
``SlurmRunner.get_cmd``).  An image has neither Slurm's programs nor its keys, and a step that it could start would be
outside of it.  So it finds a small stand-in of that name, which leaves the words in the segment's directory and waits;
this program, outside, runs the real srun with the same options, and each task starts its rank in the image of its own
node.  GPT-NeoX and DeepSpeed are as they are.

::

    python -m gaff.trainers.neox.relay DIRECTORY    # which `write_relay` has filled

Exit code: that of the launcher inside; 143 when it was told to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_S = 0.2
_END_S = 10.0  # for a step to end in, once it was told to
_FOLDER = "relay"
_SPEC, _ASKED, _CODE = "commands.json", "asked", "code"

# What Slurm tells each task; the image's environment is made anew, so it must be handed in under the engine's prefix.
_TASK = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NODEID", "SLURM_JOB_ID", "SLURM_STEP_ID")
_ALSO = ("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "SLURM_NODELIST", "SLURM_JOB_NODELIST")

# The stand-in: NUL between the words, the name last, so that half of it is never read.
_SRUN = """#!/bin/sh
# The real srun is outside of this image; gaff.trainers.neox.relay runs it.
cd {folder} || exit 1
for word; do printf '%s\\0' "$word"; done > {asked}.new && mv {asked}.new {asked}
while [ ! -e {code} ]; do sleep 0.2; done
exit "$(cat {code})"
"""


def write_relay(directory: Path, launcher: Sequence[str], rank: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Prepare a relay in a segment's directory, which is mounted in the image under its own path.

    Args:
        directory: the segment's.
        launcher: the command that runs GPT-NeoX's launcher in the image on this node.
        rank: the engine's words before a rank's own command, on any node.
        prefix: with which the engine hands variables into the image, as ``APPTAINERENV_``.

    Returns:
        The command to launch instead of ``launcher``.
    """
    folder = directory / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for left in (_ASKED, _CODE):
        (folder / left).unlink(missing_ok=True)
    quoted = "'" + str(folder).replace("'", "'\\''") + "'"
    scripts = {"srun": _SRUN.format(folder=quoted, asked=_ASKED, code=_CODE), "sinfo": "#!/bin/sh\nexit 0\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    spec = {"launcher": list(launcher), "rank": list(rank), "prefix": prefix}
    (folder / _SPEC).write_text(json.dumps(spec), encoding="utf-8")
    return (sys.executable, "-m", "gaff.trainers.neox.relay", str(folder))


def job_variables(environ: Mapping[str, str], ranks: int) -> dict[str, str]:
    """What GPT-NeoX's launcher reads of its job, which the image's clean environment would lack."""
    own = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": str(ranks)}
    return {**{name: environ[name] for name in (*_TASK, *_ALSO) if name in environ}, **own}


def programs(directory: Path) -> Path:
    """The directory of the stand-ins, to be first on PATH in the image."""
    return directory / _FOLDER


def step_command(words: Sequence[str], rank: Sequence[str], prefix: str) -> list[str]:
    """The real srun's command line for the words that the stand-in was given.

    Variables that DeepSpeed would export are in the image's own environment already; so all is exported, and what Slurm
    tells a task is handed in by its shell.

    Raises:
        ValueError: there is no ``--export=…``, behind which the rank's command begins.
    """
    at = next((number for number, word in enumerate(words) if word.startswith("--export=")), None)
    if at is None:
        raise ValueError(f"srun was called without --export: {' '.join(words)}")
    handed = "; ".join(f'[ -z "${{{name}+x}}" ] || export {prefix}{name}="${name}"' for name in (*_TASK, *_ALSO))
    shell = ["sh", "-c", f'{handed}; exec "$@"', "gaff-rank"]
    return ["srun", *words[:at], "--export=ALL", *shell, *rank, *words[at + 1 :]]


class Relay:
    """One launch: the launcher inside, and the step that it asks for."""

    def __init__(self, folder: Path) -> None:
        spec = json.loads((folder / _SPEC).read_text(encoding="utf-8"))
        self._folder, self._rank, self._prefix = folder, spec["rank"], str(spec["prefix"])
        self._launcher = subprocess.Popen(spec["launcher"])
        self._step: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self) -> int:
        """Wait for the launcher's end, and serve it meanwhile.  Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        while self._launcher.poll() is None and not self._ended:
            if self._step is None and (self._folder / _ASKED).exists():
                self._start()
            if self._step is not None and self._step.poll() is not None and not (self._folder / _CODE).exists():
                self._tell(self._step.returncode)
            time.sleep(_POLL_S)
        self._end()
        if self._ended:
            return 128 + signal.SIGTERM
        code = self._launcher.returncode
        return code if code >= 0 else 128 - code

    def _start(self) -> None:
        words = (self._folder / _ASKED).read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
        try:
            self._step = subprocess.Popen(step_command(words, self._rank, self._prefix))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"the step on all nodes cannot be started: {error}\n")
            self._tell(1)

    def _tell(self, code: int) -> None:
        new = self._folder / f"{_CODE}.new"
        new.write_text(str(code if code >= 0 else 128 - code), encoding="utf-8")
        os.replace(new, self._folder / _CODE)

    def _on_signal(self, number: int, frame: object) -> None:
        self._ended = True

    def _end(self) -> None:
        """Nothing that this has started stays behind, nor the stand-in, which waits for a code."""
        if not (self._folder / _CODE).exists():
            self._tell(128 + signal.SIGTERM)
        for process in filter(None, (self._step, self._launcher)):
            if process.poll() is None:
                process.terminate()
        for process in filter(None, (self._step, self._launcher)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            if process.poll() is None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    sys.exit(Relay(Path(sys.argv[1])).run())
