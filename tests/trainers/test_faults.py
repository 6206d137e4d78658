# SPDX-License-Identifier: Apache-2.0
"""Every known fault by words it is printed in: from runs of GPT-NeoX, its tools, torch, gloo, ssh, pdsh and srun, from
the sources of GPT-NeoX, DeepSpeed and torch, and for NCCL, CUDA and Slurm from public issue threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from gaff.trainers.contract import ErrorLogged, LoadFailed
from gaff.trainers.fault import Course, Weight
from gaff.trainers.fault_table import FAULTS
from gaff.trainers.faults import course, decisive, explain, weigh
from gaff.trainers.loglines import read_events

NCCL = "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, "
WATCHDOG = (
    "[rank{0}]:[E1016 03:31:38.928019586 ProcessGroupNCCL.cpp:607] [Rank {0}] Watchdog caught collective operation "
    "timeout: WorkNCCL(SeqNum=9141, OpType=_ALLGATHER_BASE, NumelIn=19008, NumelOut=152064, Timeout(ms)=600000) ran "
    "for 600071 milliseconds before timing out."
)
GLOO = (
    "RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error "
    "[127.0.0.1]:45758: Connection reset by peer. This is typically caused by a remote worker hanging or bugs in the "
    "application. Check the logs of the remote worker before reporting an error. GLHF!"
)
HUB = (
    "We couldn't connect to 'https://huggingface.co' to load this file, couldn't find it in the cached files and it "
    "looks like gpt2 is not the path to a directory containing a file named config.json."
)
LAUNCHER = (
    "[2026-11-21 03:52:21,810] [ERROR] [launch.py:325:sigkill_handler] ['/opt/venv/bin/python', '-u', 'train.py', "
    "'--local_rank=1', '--deepspeed_config', 'eyJ0', '--megatron_config', 'eyJ0'] exits with return code = {}"
)


def traceback(raised: str, rank: int = 0, source: str = "pretrain(neox_args=neox_args)") -> str:
    lines = ["Traceback (most recent call last):", '  File "/opt/gpt-neox/train.py", line 31, in main', f"    {source}"]
    return "\n".join(f"[rank{rank}]: {line}" for line in [*lines, raised])


RAISED: tuple[tuple[str, str], ...] = (  # the last line of a traceback, and a part of the remedy
    ("TypeError: multi_tensor_adam(): incompatible function arguments. The following argument", "1.0e-8"),
    ("AttributeError: type object 'float' has no attribute '__origin__'", "string to YAML"),
    ("TypeError: NeoXArgs.__init__() got an unexpected keyword argument 'trian_iters'", "remove trian_iters"),
    ("TypeError: iteration over a 0-d tensor", "eval_iters: 0"),
    ("AssertionError: expected local-rank to be the same as rank % device-count.", "slots agree"),
    ("AssertionError: world_size=6, pp=2, mp=2", "divide the number of GPUs"),
    ("ValueError: Hostfile contains a bad entry: n1 slots, unable to proceed with launching", "HOST slots=N"),
    ("RuntimeError: launcher 'pdsh' not installed.", "install pdsh"),
    ("wandb.errors.errors.CommError: Run initialization has timed out after 90.0 sec.", "W&B can be reached"),
    ("wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login", "use_wandb: false"),
    (
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
        "truncated",
    ),
    (
        "deepspeed.runtime.zero.utils.ZeRORuntimeException: The checkpoint being loaded used a DP world size of 1 but",
        "as many GPUs",
    ),
    ("ValueError: Unable to load checkpoint for iteration 40. ", "missing or holds no model files"),
    (
        "AssertionError: AnnealingLR: class input valueand checkpoint values for learning rate do not match",
        "former value",
    ),
    (
        "AssertionError: num_layers value from checkpoint (12) is not equal to the currently set argument value (6).",
        "see num_layers",
    ),
    ("RuntimeError: Error(s) in loading: size mismatch for word_embeddings.weight: copying a param", "layout"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", "micro_batch"),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "micro_batch"),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you",
        "host memory",
    ),
    ("OSError: [Errno 12] Cannot allocate memory", "host memory"),
    ("RuntimeError: HIP out of memory. Tried to allocate 20.00 MiB", "micro_batch"),
    ("Exception: No such file or directory (os error 2)", "vocab_file"),
    ('RuntimeError: NOT_FOUND: "/data/sp.model": No such file or directory', "vocab_file"),
    ('OSError: Not found: "/data/sp.model": No such file or directory Error #2', "vocab_file"),
    ("OSError: Can't load tokenizer for 'gpt2'. If you were trying to load it from 'https://hug", "beforehand"),
    ("OSError: " + HUB, "beforehand"),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: "
        "'/data/txt_train_indexmap_80ns_64sl_1234s_packedpi_ac_doc_idx.npy'",
        "use_shared_fs",
    ),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/data/txt_text_document.idx'", "data_path"),
    (
        "AssertionError: Index file doesn't match expected format. Make sure that --dataset-impl",
        "data_path",
    ),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'", "CUDA toolkit"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/data/vocab.json'", "see that /data/vocab.json is"),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/torch_123'", "--shm-size"),
    ("OSError: [Errno 28] No space left on device", "make room"),
    ("OSError: [Errno 122] Disk quota exceeded: '/scratch/u/run'", "make room"),
    ("RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598", "make room"),
    ("OSError: [Errno 30] Read-only file system: '/data/a.npy'", "writable"),
    ("PermissionError: [Errno 13] Permission denied: '/data/a.npy'", "right to write"),
    ("OSError: [Errno 24] Too many open files", "ulimit -n"),
    ("OSError: [Errno 116] Stale file handle", "file system"),
    ("ModuleNotFoundError: No module named 'flash_attn'", "attention_config"),
    ("ModuleNotFoundError: No module named 'transformer_engine'", "install transformer_engine"),
    ("RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)", "install ninja"),
    ("OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.", "CUDA_HOME"),
    (
        "deepspeed.ops.op_builder.builder.CUDAMismatchException: >- DeepSpeed Op Builder: Installed CUDA version 11.8 "
        "does not match the version torch was compiled with 12.1, unable to compile cuda/cpp extensions",
        "toolkit that torch was built with",
    ),
    ("RuntimeError: Error building extension 'fused_adam'", "fused_adam is built"),
    (
        "ImportError: /home/ada/.cache/torch_extensions/py311_cu121/fused_adam/fused_adam.so: cannot open shared "
        "object file: No such file or directory",
        "built again",
    ),
    ("RuntimeError: Unable to JIT load the fused_adam op due to it not being compatible", "ds_report"),
    ("AssertionError: Megatron requires CUDA.", "nvidia-smi"),
    ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "nvidia-smi"),
    ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "update the GPU's driver"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "kind of GPU"),
    ("Exception: Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.", "lower lr"),
    ("Exception: Skipped 50 iterations in a row due to Overflow - Exiting training.", "lower lr"),
    ("RuntimeError: mat1 and mat2 must have the same dtype, but got BFloat16 and Float", "precision"),
    ("RuntimeError: CUDA error: device-side assert triggered", "tokenizer"),
    ("IndexError: index out of range in self", "tokenizer"),
    ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "leave this GPU out"),
    ("RuntimeError: CUDA error: an illegal memory access was encountered", "CUDA_LAUNCH_BLOCKING=1"),
    (
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        "port: 29612, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        "holds the port",
    ),
    ("RuntimeError: Using hostfile at /job/hostfile but host=n2 was not reachable via ssh. If you are", "ssh HOST"),
    ("socket.gaierror: [Errno -2] Name or service not known", "master_addr"),
    (
        "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
        "all nodes started",
    ),
    (GLOO, "why the other rank died"),
    (NCCL + "remote process exited or there was a network error, NCCL version 2.21.5", "why the other rank died"),
    (NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5", "NCCL_DEBUG=INFO"),
)

SAID: tuple[tuple[str, str], ...] = (  # lines outside tracebacks
    ("ZeRO stage 2/3 and model paralleism are not currently supported simultaneously", "model_parallel_size: 1"),
    ("ERROR: Optimizer is None. Either set the optimizer dict in your config (if training)", "an optimizer"),
    ("ERROR: Output layer parallelism over the hidden dim is currently broken (https:", "column"),
    ("> ADLR autoresume is not available, exiting ...", "adlr_autoresume"),
    ("ERROR: Fused kernels configured but not properly installed. Please run `from", "_fusion keys"),
    ("python: can't open file '/opt/neox/deepy.py': [Errno 2] No such file or directory", "/opt/neox/deepy.py"),
    ("n1:13:14 [3] include/alloc.h:178 NCCL WARN Cuda failure 'out of memory'", "micro_batch"),
    ("slurmstepd: error: Detected 2 oom_kill events in StepId=7.13. Some of the step tasks have", "host memory"),
    ("srun: error: Orion-01-01: task 4: Out Of Memory", "host memory"),
    (
        "ubuntu:9621:9688 [3] misc/shmutils.cc:112 NCCL WARN Error while creating shared memory segment "
        "/dev/shm/nccl-KWfVyt (size 5967872)",
        "--shm-size",
    ),
    ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient", "--shm-size"),
    ("Fatal Python error: Bus error", "--shm-size"),
    ("Dataset does not exist: /data/txt_text_document", "no /data/txt_text_document.bin"),
    ("Making C++ dataset helpers module failed, exiting.", "CXX=g++"),
    ("Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 7000", "no more ranks"),
    ("[Sat Nov 21 03:00:00 2026] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", "leave this GPU out"),
    (
        "[E ProcessGroupNCCL.cpp:916] [Rank 1] NCCL watchdog thread terminated with exception: CUDA error: "
        "uncorrectable ECC error encountered",
        "leave this GPU out",
    ),
    ("localhost: jiaming@localhost: Permission denied (publickey,password).", "ssh HOST true"),
    ("n2: Host key verification failed.", "ssh HOST true"),
    ("n2: ssh: Could not resolve hostname n2: Name or service not known", "n2 is not known here"),
    ("n2: ssh: connect to host n2 port 22: Connection refused", "see that n2 is up"),
    ("n2: bash: line 1: /opt/venv/bin/python: No such file or directory", "same path"),
    ("n2: bash: line 1: python: command not found", "same path"),
    ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-21T07:16:01 DUE TO TIME LIMIT ***", "time was over"),
    ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-21T07:16:01 DUE TO PREEMPTION ***", "lost its nodes"),
    ("srun: fatal: Could not establish a configuration source", "Slurm options"),
    ("srun: error: Unable to create step for job 7: Requested node configuration is not available", "Slurm options"),
    (WATCHDOG.format(1), "one never came"),
    ("terminate called after throwing an instance of 'c10::DistBackendError'", "NCCL_DEBUG=INFO"),
    ("Fatal Python error: Segmentation fault", "stack below"),
    (LAUNCHER.format(-9), "dmesg"),
    (LAUNCHER.format(-7), "--shm-size"),
    (LAUNCHER.format(-11), "Fatal Python error"),
    (LAUNCHER.format(-6), "above that line"),
    ("Fatal Python error: Aborted", "above that line"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "above that line"),
    ("make: icpc: No such file or directory", "CXX=g++"),
    ("/bin/sh: 1: python3-config: not found", "python3-dev"),
    ("helpers.cpp:1:10: fatal error: pybind11/pybind11.h: No such file or directory", "python3-dev"),
    ("pdsh@vm: n2: ssh exited with exit code 255", "above that line"),
    ("srun: error: n1: tasks 1-3: Exited with exit code 1", "above that line"),
)
LOAD_FAILED = "Unable to load optimizer from checkpoint /data/global_step10/mp_rank_00_model_states.pt. Specify --no"
BARE = (
    ("assert len(self.ckpt_list) > 0", "missing or holds no model files"),
    (
        "assert args.vocab_file is not None",
        "name the tokenizer's file in vocab_file",
    ),
)


def errors_of(text: str) -> list[ErrorLogged]:
    return [event for event in read_events(text.splitlines()) if isinstance(event, ErrorLogged)]


def only(text: str) -> str:
    [error] = errors_of(text)
    return error.message


@pytest.mark.parametrize(("raised", "remedy"), RAISED, ids=lambda value: value[:40])
def test_exception_has_its_remedy(raised: str, remedy: str) -> None:
    message = only(traceback(raised))
    assert raised.startswith(message.rstrip("…"))
    assert remedy in (explain(message) or "")


@pytest.mark.parametrize(("source", "remedy"), BARE)
def test_bare_assertion_has_its_remedy(source: str, remedy: str) -> None:
    assert remedy in (explain(only(traceback("AssertionError", source=source))) or "")


@pytest.mark.parametrize(("line", "remedy"), SAID, ids=lambda value: value[:40])
def test_line_outside_a_traceback_is_seen_and_has_its_remedy(line: str, remedy: str) -> None:
    assert remedy in (explain(only("training ...\n" + line + "\ntime (ms)")) or "")


def test_every_row_of_the_table_has_such_a_test() -> None:
    messages = [only(traceback(raised)) for raised, _ in RAISED] + [only(line) for line, _ in SAID]
    messages += [only(traceback("AssertionError", source=source)) for source, _ in BARE]
    [failed] = [event for event in read_events([LOAD_FAILED]) if isinstance(event, LoadFailed)]
    first = [next(f for f in FAULTS if f.pattern.search(message)) for message in [*messages, failed.message]]
    assert [fault.pattern.pattern for fault in FAULTS if fault not in first] == []


def test_remedies_are_clauses() -> None:
    for fault in FAULTS:
        assert not fault.remedy.endswith(".")
        assert fault.remedy == fault.remedy.strip()


# --- which of several errors is the decisive one ---


def decisive_of(*parts: str) -> str:
    error = decisive(errors_of("\n".join(parts)))
    assert error is not None
    return error.message


BAD = "ValueError: bad shape"


@pytest.mark.parametrize(
    "consequences",
    [
        (traceback(GLOO, 1),),
        (traceback(NCCL + "remote process exited or there was a network error", 1),),
        (WATCHDOG.format(1), "terminate called after throwing an instance of 'c10::DistBackendError'"),
        ("Fatal Python error: Aborted", LAUNCHER.format(-6)),
        ("/bin/sh: 1: python3-config: not found",),
    ],
    ids=["gloo", "nccl", "watchdog", "abort", "hint"],
)
def test_the_cause_wins_wherever_it_stands(consequences: Sequence[str]) -> None:
    assert decisive_of(*consequences, traceback(BAD)) == BAD
    assert decisive_of(traceback(BAD), *consequences) == BAD


def test_a_rank_that_was_killed_explains_the_peers_that_lost_it() -> None:
    said = decisive_of(traceback(GLOO), LAUNCHER.format(-9))
    assert said == "a rank was killed by signal 9 (SIGKILL)"
    assert "out of memory" in (explain(said) or "")


def test_known_cause_wins_over_what_it_was_made_of() -> None:
    parts = (
        traceback("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443)"),
        "\nThe above exception was the direct cause of the following exception:\n",
        traceback("OSError: " + HUB),
    )
    assert decisive_of(*parts).startswith("OSError: We couldn't connect")


def test_of_two_causes_the_first_is_taken() -> None:
    assert decisive_of(traceback(BAD), traceback("KeyError: 'x'", 1)) == BAD


def test_an_exit_code_is_told_only_where_nothing_else_is() -> None:
    assert decisive_of(LAUNCHER.format(3)) == "a rank exited with code 3"
    assert errors_of("\n".join([traceback(BAD), LAUNCHER.format(1)])) == [ErrorLogged(BAD)]


def test_watchdogs_of_all_ranks_are_one_error_from_its_first_word_on() -> None:
    [error] = errors_of("\n".join(WATCHDOG.format(rank) for rank in range(4)))
    assert error.message.startswith("Watchdog caught collective operation timeout: WorkNCCL(")
    assert error.lines[0].startswith("[rank0]:[E1016")


def test_unknown_message() -> None:
    assert explain(BAD) is None
    assert weigh(BAD) is Weight.UNKNOWN


def test_a_good_log_has_no_error() -> None:
    good = (
        "[WARNING]  async_io requires the dev libaio .so object and headers but these were not found.",
        "NCCL INFO [Service thread] Connection closed by localRank 0",
        "make: Nothing to be done for 'default'.",
        " > no checkpoint found, Permission is granted",
        re.sub("ERROR", "INFO", "[INFO] out of memory budget: none"),
    )
    assert errors_of("\n".join(good)) == []


@pytest.mark.parametrize(
    "message",
    [
        "wandb.errors.errors.CommError: Run initialization has timed out after 90.0 sec.",
        "ModuleNotFoundError: No module named 'torch'",
        "RuntimeError: No CUDA GPUs are available",
        "assert len(self.ckpt_list) > 0",
        "OSError: We couldn't connect to 'https://huggingface.co' to load this file",
        "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "RuntimeError: Error building extension 'fused_adam'",
    ],
)
def test_what_a_network_a_node_or_a_file_system_may_have_caused_is_tried_again(message: str) -> None:
    """The file system that holds Python's packages, say: the importer takes a directory that fails for an empty one."""
    assert explain(message)
    assert course(message) is not Course.LASTING


@pytest.mark.parametrize(
    "message",
    [
        "wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login",
        "TypeError: NeoXArgs.__init__() got an unexpected keyword argument 'resets'",
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    ],
)
def test_what_the_config_or_a_version_causes_is_not(message: str) -> None:
    assert course(message) is Course.LASTING
