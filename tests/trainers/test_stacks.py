# SPDX-License-Identifier: Apache-2.0
"""Stacks as CPython prints them, and what is made of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gaff.trainers.hangs import judge
from gaff.trainers.stacks import Frame, Stack, StackReader, announcement

SITE = "/opt/venv/lib/python3.11/site-packages/"
STANDARD = "/usr/lib/python3.11/"
COLLECTIVE = Frame(SITE + "torch/distributed/distributed_c10d.py", 3252, "all_reduce")
WRAPPER = Frame(SITE + "torch/distributed/c10d_logger.py", 83, "wrapper")
STEP = Frame("/opt/gpt-neox/megatron/training.py", 900, "train_step")

# Printed by two ranks over gloo: torch 2.13, Python 3.11.
PRINTED = f"""\
first done
{announcement("rank 0", 1173, "sleeping")}
Fatal Python error: Aborted

Thread 0x00007fb87b7fe640 (most recent call first):
  File "{STANDARD}threading.py", line 327 in wait
  File "{STANDARD}threading.py", line 1002 in _bootstrap

Current thread 0x00007fb8835cab80 (most recent call first):
  File "{SITE}torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "{SITE}torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/opt/gpt-neox/megatron/training.py", line 900 in train_step
  File "/opt/gpt-neox/train.py", line 35 in <module>

Extension modules: numpy.core._multiarray_umath, numpy.linalg._umath_linalg (total: 22)

{announcement("rank 1", 1174, "stopped")}
"""


def read(text: str) -> tuple[Stack, ...]:
    reader = StackReader()
    for line in text.splitlines():
        reader.feed(line)
    return reader.stacks()


def stack(owner: str, *frames: Frame, state: str = "sleeping") -> Stack:
    return Stack(owner, state, frames)


def test_the_thread_that_trains_is_taken_and_a_rank_that_printed_nothing_is_left_out() -> None:
    [found] = read(PRINTED)
    assert (found.owner, found.state) == ("rank 0", "sleeping")
    assert found.innermost == COLLECTIVE
    assert str(found.innermost) == "all_reduce (torch/distributed/distributed_c10d.py:3252)"
    assert str(found.caller) == "train_step (megatron/training.py:900)"


def test_a_backward_pass_stands_where_its_engine_runs_python_code() -> None:
    text = f"""\
{announcement("rank 0", 1, "sleeping")}
Thread 0x01 (most recent call first):
  File "{SITE}torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/opt/gpt-neox/megatron/mpu/mappings.py", line 30 in backward
  File "{SITE}torch/autograd/function.py", line 300 in apply

Current thread 0x02 (most recent call first):
  File "{SITE}torch/autograd/graph.py", line 825 in _engine_run_backward
  File "/opt/gpt-neox/train.py", line 35 in <module>
"""
    [found] = read(text)
    assert found.innermost == COLLECTIVE


def test_what_this_python_prints_is_read(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import faulthandler, os, signal\ndef inner():\n    os.kill(os.getpid(), signal.SIGABRT)\ninner()\n"
    )
    done = subprocess.run([sys.executable, "-X", "faulthandler", script], capture_output=True, text=True)
    [found] = read(announcement("rank 3", 7, "running") + "\n" + done.stderr)
    assert found.frames == (Frame(str(script), 3, "inner"), Frame(str(script), 4, "<module>"))


def test_stacks_that_nobody_asked_for_are_none() -> None:
    assert read("\n".join(PRINTED.splitlines()[2:12])) == ()


# --- what they wait for ---


def test_all_in_one_collective() -> None:
    found = judge([stack(f"rank {n}", COLLECTIVE, WRAPPER, STEP) for n in range(4)])
    assert found.standing == "all 4 ranks stand in all_reduce (torch/distributed/distributed_c10d.py:3252)"
    assert "a rank died on another node" in found.remedy
    assert "NCCL_DEBUG=INFO" in found.remedy
    [line] = found.lines
    assert line.startswith("rank 0, rank 1, rank 2, rank 3: all_reduce")
    assert line.endswith("called from train_step (megatron/training.py:900)")


def test_the_rank_that_is_elsewhere_holds_up_the_others() -> None:
    loader = Frame(SITE + "torch/utils/data/dataloader.py", 1133, "_try_get_data")
    waiting = Frame(STANDARD + "multiprocessing/connection.py", 931, "wait")
    stacks = [stack(f"rank {n}", COLLECTIVE, STEP) for n in (0, 1, 3)] + [stack("rank 2", waiting, loader, STEP)]
    found = judge(stacks)
    assert found.standing == (
        "3 of 4 ranks stand in all_reduce (torch/distributed/distributed_c10d.py:3252),"
        " rank 2 stands in _try_get_data (torch/utils/data/dataloader.py:1133)"
    )
    assert "num_workers: 0" in found.remedy


def test_a_lock_that_a_killed_build_left_is_named() -> None:
    baton = Frame(SITE + "torch/utils/file_baton.py", 49, "wait")
    load = Frame(SITE + "torch/utils/cpp_extension.py", 2400, "_jit_compile")
    found = judge([stack(f"rank {n}", baton, load, STEP) for n in (0, 1)], [Path("/home/u/ext/fused_adam/lock")])
    assert found.standing == "both ranks stand in wait (torch/utils/file_baton.py:49)"
    assert "delete /home/u/ext/fused_adam/lock, which a killed build leaves" in found.remedy


def test_ranks_that_wait_for_a_compiler_at_work_do_not_blame_its_lock() -> None:
    baton = Frame(SITE + "torch/utils/file_baton.py", 49, "wait")
    load = Frame(SITE + "torch/utils/cpp_extension.py", 2400, "_jit_compile")
    ninja = Frame(STANDARD + "subprocess.py", 1209, "communicate")
    found = judge([stack("rank 0", ninja, load), stack("rank 1", baton, load)], [Path("/ext/fused_adam/lock")])
    assert "delete" not in found.remedy
    assert "compiler" in found.remedy


def test_rendezvous_network_and_kernel() -> None:
    store = Frame(SITE + "torch/distributed/rendezvous.py", 199, "_create_c10d_store")
    assert "master_addr" in judge([stack("rank 0", store)]).remedy
    hub = Frame(SITE + "huggingface_hub/file_download.py", 300, "_request_wrapper")
    assert "HF_HUB_OFFLINE=1" in judge([stack("rank 0", hub)]).remedy
    saving = Frame(SITE + "torch/serialization.py", 900, "save")
    found = judge([stack("rank 0", saving, state="disk-sleep"), stack("rank 1", COLLECTIVE)])
    assert "waiting in the kernel" in found.standing
    assert found.remedy.startswith("see whether the file system that rank 0 uses answers")


def test_many_places_are_cut_short() -> None:
    found = judge([stack(f"rank {n}", Frame("/a/b/c.py", n, "f")) for n in range(6)])
    assert found.standing.endswith("rank 2 stands in f (b/c.py:2), the others in 3 further places")


def test_nothing_could_be_had() -> None:
    assert judge([]).standing == "no rank could say where it stands"
