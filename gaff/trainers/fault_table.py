# SPDX-License-Identifier: Apache-2.0
"""The faults that are known by what they print, what to do about each, and how near to the cause each is.

Where the words come from: runs of unmodified GPT-NeoX (ea7aefd8) and of its Makefile, torch, tokenizers, gloo, ssh,
pdsh and srun on the CPU; the sources of GPT-NeoX, DeepSpeed 0.16.5 and torch 2.13; for NCCL, CUDA and Slurm, logs in
public issue threads (NVIDIA/nccl 525, 795 and 2076, pytorch 5040, deepspeedai/DeepSpeed 5709, huggingface/trl 4149).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


class Weight(IntEnum):
    """How near to the cause a message is.  The lowest of a log is its decisive one, and of equals the first."""

    CAUSE = 0  # says what is wrong
    UNKNOWN = 1  # an exception that nothing is known about, or a rank that died without a word
    CONSEQUENCE = 2  # a rank that lost its peers: the cause is another's
    HINT = 3  # what a dying rank or a launcher says in any case


@dataclass(frozen=True)
class Fault:
    """One row: a message that ``pattern`` finds, and what to do about it (``\\1`` is the pattern's first group).

    ``alone``: a line of its own, outside any Python traceback.
    """

    pattern: re.Pattern[str]
    remedy: str
    weight: Weight = Weight.CAUSE
    alone: bool = False


def _rows(weight: Weight, alone: bool, *rows: tuple[str, str]) -> tuple[Fault, ...]:
    return tuple(Fault(re.compile(pattern), remedy, weight, alone) for pattern, remedy in rows)


_SMALLER = "lower train_micro_batch_size_per_gpu and raise gradient_accumulation_steps by as much"
_HOST_MEMORY = "give the job more host memory, or run fewer ranks on a node"
_SHM = "make room in /dev/shm, or start the container with --ipc=host or a larger --shm-size"
_VOCAB_FILE = "mend vocab_file, and see that every node has that file"
_NETWORK = "download the tokenizer beforehand and name its file in vocab_file: this machine does not reach the network"
_SSH = "make `ssh HOST true` work without a password for every host of the hostfile"
_COMPILER = "install g++ and Python's headers (python3-dev), and set CXX=g++ in `gaff: environment`"
_NCCL = "set NCCL_DEBUG=INFO in `gaff: environment`, run again, and see which rank or node fails first"
_OTHER_RANK = "see why the other rank died: most often its system was out of memory (dmesg), or its node failed"
_REBUILD = "delete its folder in TORCH_EXTENSIONS_DIR (default ~/.cache/torch_extensions), so that it is built again"
_SAME_SETTINGS = "give the setting its former value: GPT-NeoX resumes with no other"
_NO_GPU = "see that nvidia-smi works here and CUDA_VISIBLE_DEVICES is right, or set `gaff: device: cpu`"

# The sentences with which GPT-NeoX leaves with exit code 0.
_LEAVES = _rows(
    Weight.CAUSE,
    True,
    (
        r"ZeRO stage 2/3 and (?:the PipelineModule|pipeline|model) .*",
        "GPT-NeoX runs ZeRO 2 and 3 only with pipe_parallel_size: 0 and model_parallel_size: 1",
    ),
    (r"ERROR: Optimizer is None", "give the config an optimizer"),
    (r"ERROR: Output layer parallelism over the hidden dim", 'set output_layer_parallelism: "column"'),
    (r"ADLR autoresume is not available", "remove adlr_autoresume"),
    (
        r"ERROR: Fused kernels configured but not properly installed",
        "build them (megatron/fused_kernels), or set the three *_fusion keys to false",
    ),
)

_CONFIG = _rows(
    Weight.CAUSE,
    False,
    (
        r"multi_tensor_adam\(\): incompatible function arguments",
        "a number in optimizer.params is a string to YAML, as 1e-8 is; write 1.0e-8",
    ),
    (r"has no attribute '__origin__'", "a number is a string to YAML, as 1e-4 is, or an integer has a point; mend it"),
    (r"NeoXArgs\.__init__\(\) got an unexpected keyword argument '(\w+)'", r"remove \1: GPT-NeoX knows no such key"),
    (r"iteration over a 0-d tensor", "this GPT-NeoX cannot validate in a pipeline run; set eval_iters: 0"),
    (r"expected local-rank to be the same as rank % device-count", "let num_gpus and the hostfile's slots agree"),
    (r"world_size=\d+, pp=\d+, mp=\d+", "let pipe_parallel_size x model_parallel_size divide the number of GPUs"),
    (r"Hostfile (?:contains|is empty)", "write each line of the hostfile as `HOST slots=N`, no host twice"),
    (r"launcher '(\w+)' not installed", r"install \1, or name another launcher"),
    (
        r"wandb\.(?:\w+\.)*\w*Error|api_key not configured",
        "log in with `wandb login`, set WANDB_MODE=offline, or set use_wandb: false",
    ),
)

_CHECKPOINT = _rows(
    Weight.CAUSE,
    False,
    (r"PytorchStreamReader failed", "a file of the checkpoint is truncated; resume from an earlier tag"),
    (
        r"checkpoint being loaded used a DP world size of",
        "the number of data-parallel ranks differs from the one that wrote the checkpoint; use as many GPUs",
    ),
    (
        r"len\(self\.ckpt_list\) > 0|Unable to load checkpoint for iteration",
        "the tag to resume from is missing or holds no model files",
    ),
    (
        r"Unable to load optimizer from checkpoint",
        "the checkpoint lacks the state of a random generator; set no_load_rng: true, or resume from another tag",
    ),
    (r"AnnealingLR: class input value", _SAME_SETTINGS + "; see lr, min_lr, warmup, lr_decay_iters, lr_decay_style"),
    (r"(\w+) value from checkpoint \(.*is not equal to the currently set", _SAME_SETTINGS + r"; see \1"),
    (r"size mismatch for [\w.]+", "use the model and the parallel layout that wrote the checkpoint"),
)

_MEMORY = _rows(
    Weight.CAUSE,
    True,
    (r"Cuda failure (?:2 )?'out of memory'", _SMALLER),
    (r"Detected \d+ oom[_-]kill events?|srun: error: .*Out Of Memory", _HOST_MEMORY),
    (r"NCCL WARN .*(?:creating shared memory segment|failed to extend /dev/shm)", _SHM),
    (
        r"bus error encountered in worker|DataLoader worker .*killed by signal: Bus|Fatal Python error: Bus error",
        _SHM,
    ),
) + _rows(
    Weight.CAUSE,
    False,
    (r"can't allocate memory|\[Errno 12\]|^MemoryError", _HOST_MEMORY),
    (r"[Oo]ut of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", _SMALLER),
)

_FILES = _rows(
    Weight.CAUSE,
    False,
    (r"^Exception: No such file or directory \(os error 2\)|NOT_FOUND: \"|^OSError: Not found: \"", _VOCAB_FILE),
    (r"args\.(vocab|merge)_file is not None", r"name the tokenizer's file in \1_file"),
    (r"Can't load tokenizer for|connect to 'https://huggingface|LocalEntryNotFound|OfflineModeIsEnabled", _NETWORK),
    (
        r"No such file or directory: '(\S*_indexmap_\S*)'",
        "let the data lie on a file system that all nodes share, or set use_shared_fs: false",
    ),
    (
        r"No such file or directory: '\S*\.(?:idx|bin)'|Index file doesn't match expected format",
        "mend data_path: the path of the .bin and .idx files without that ending",
    ),
    (r"No such file or directory: '\S*nvcc'", "install the CUDA toolkit, or set CUDA_HOME in `gaff: environment`"),
    (r"No such file or directory: '([^']+)'", r"see that \1 is there, on every node, and spelled so in the config"),
    (r"No space left on device.*/dev/shm", _SHM),
    (
        r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed|inline_container\S* \. unexpected pos",
        "make room where the checkpoints are written",
    ),
    (r"\[Errno 30\]|Read-only file system", "let the place be writable: GPT-NeoX writes there"),
    (r"PermissionError|\[Errno 13\]", "give this user the right to write there, or name another place"),
    (r"Too many open files", "raise the limit, `ulimit -n`, before the run starts"),
    (r"\[Errno 5\]|\[Errno 116\]|Stale file handle", "see to the file system: it failed while it was used"),
) + _rows(
    Weight.CAUSE,
    True,
    (r"Dataset does not exist: (\S+)", r"mend data_path: there are no \1.bin and \1.idx"),
    (r"can't open file '([^']+)'", r"see that \1 is there: the launch begins with it"),
)

_INSTALLATION = _rows(
    Weight.CAUSE,
    False,
    (
        r"No module named 'flash_attn|flash_attn\w*\.so",
        'install flash-attn where GPT-NeoX runs, or set attention_config: [[["global"], "all"]]',
    ),
    (r"No module named '([\w.]+)'", r"install \1 where GPT-NeoX runs"),
    (r"Ninja is required|ninja not being installed", "install ninja where GPT-NeoX runs"),
    (r"CUDA_HOME environment variable is not set", "install the CUDA toolkit, and set CUDA_HOME"),
    (
        r"Installed CUDA version .* does not match",
        "use the CUDA toolkit that torch was built with, or install the torch for this toolkit",
    ),
    (r"Error building extension '(\w+)'", r"see the compiler's words in the log; \1 is built by nvcc and g++"),
    (r"cannot open shared object file|undefined symbol", _REBUILD),
    (r"Unable to JIT load the (\w+) op", r"see why DeepSpeed cannot build \1 here: `ds_report` says it"),
    (r"Megatron requires CUDA|[Nn]o NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device", _NO_GPU),
    (
        r"driver version is insufficient|forward compatibility was attempted",
        "update the GPU's driver, or use an older torch",
    ),
    (r"no kernel image is available", "install the torch that is built for this kind of GPU"),
) + _rows(
    Weight.CAUSE,
    True,
    (r"Making C\+\+ dataset helpers module failed", _COMPILER),
)

_NUMBERS = _rows(
    Weight.CAUSE,
    False,
    (
        r"loss scale already at minimum|iterations in a row due to Overflow",
        "the loss runs away in fp16: lower lr, lengthen warmup, or use bfloat16",
    ),
    (r"same dtype|expected scalar type", "let precision and the fp16 or bf16 block agree: two number formats met"),
    (
        r"device-side assert|index out of range in self",
        "see that the data were made with this tokenizer: an index, most often a token's, is beyond its table",
    ),
)

_GPU = _rows(
    Weight.CAUSE,
    True,
    (r"NVRM: Xid|watchdog thread terminated with exception: .*ECC", "leave this GPU out: it is failing"),
    (r"Duplicate GPU detected", "start no more ranks on a node than it has GPUs"),
) + _rows(
    Weight.CAUSE,
    False,
    (r"uncorrectable ECC error|fallen off the bus", "leave this GPU out: it is failing; have it looked at"),
    (
        r"illegal memory access|unspecified launch failure",
        "run again with CUDA_LAUNCH_BLOCKING=1 in `gaff: environment` to see where; if it moves, suspect the GPU",
    ),
)

_NODES = (
    _rows(
        Weight.CAUSE,
        False,
        (
            r"EADDRINUSE|[Aa]ddress already in use",
            "another process holds the port on which the ranks meet; run the same command again",
        ),
        (r"was not reachable via ssh", _SSH),
    )
    + _rows(
        Weight.CAUSE,
        True,
        (
            r"Permission denied \([\w,-]*publickey|Permission denied, please try again|Host key verification failed",
            _SSH,
        ),
        (r"Could not resolve hostname (\S+?):", r"mend the hostfile: \1 is not known here"),
        (r"ssh: connect to host (\S+) port", r"see that \1 is up and lets ssh in"),
        (
            r"(?:bash|sh): (?:line \d+: )?\S*python\S*: (?:command not found|not found|No such file)",
            "let GPT-NeoX's Python be on every node at the same path",
        ),
        (r"CANCELLED AT \S+ DUE TO TIME LIMIT", "the job's time was over; run the same command again"),
        (r"CANCELLED AT \S+ DUE TO (?:PREEMPTION|NODE FAILURE)", "the job lost its nodes; run the same command again"),
        (
            r"srun: (?:fatal|error): .*(?:Unable to|unrecognized option|Could not establish|Invalid)",
            "mend the Slurm options of the job",
        ),
    )
    + _rows(
        Weight.CAUSE,
        False,
        (
            r"Name or service not known|name resolution",
            "mend master_addr or the hostfile: a host's name is not known here",
        ),
    )
)

_PEERS = _rows(
    Weight.CONSEQUENCE,
    True,
    (r"Watchdog caught collective operation timeout", "see what the other ranks did: one never came; " + _NCCL),
    (r"terminate called after throwing an instance of 'c10::DistBackendError'", _NCCL),
) + _rows(
    Weight.CONSEQUENCE,
    False,
    (r"waiting for clients|client socket has (?:timed out|failed)", "see that all nodes started and reach master_addr"),
    (
        r"Connection (?:was likely )?(?:closed|reset)|Broken pipe|remote process exited|recvValueWithTimeout failed",
        _OTHER_RANK,
    ),
    (r"DistBackendError|NCCL [Ee]rror|ncclRemoteError|ncclInternalError|Timed out waiting \d+ms", _NCCL),
)

_DEATHS = _rows(
    Weight.UNKNOWN,
    False,
    (r"killed by signal 9\b", "most often the system was out of memory; look at its log (dmesg)"),
    (r"killed by signal 7\b", _SHM),
    (r"killed by signal 11\b", "see the stack in the log, under `Fatal Python error`"),
) + _rows(
    Weight.UNKNOWN,
    True,
    (r"Fatal Python error: Segmentation fault", "see the stack below that line in the log"),
)

_HINTS = _rows(
    Weight.HINT,
    False,
    (r"killed by signal (?:6|15)\b|exited with code", "read the log above that line"),
) + _rows(
    Weight.HINT,
    True,
    (r"Fatal Python error: ", "read the log above that line"),
    (r"terminate called after throwing an instance of ", "read the log above that line"),
    (r"make: \S+: (?:No such file or directory|Command not found)|python3-config: not found", _COMPILER),
    (r"fatal error: \S+\.h: No such file or directory", _COMPILER),
    (r"ssh exited with exit code \d+|srun: error: .*: tasks? [\d,-]+: ", "read the log above that line"),
)

# The first row that finds its pattern counts, so the more special stands before the more general.
FAULTS: tuple[Fault, ...] = (
    *_LEAVES,
    *_CONFIG,
    *_CHECKPOINT,
    *_MEMORY,
    *_FILES,
    *_INSTALLATION,
    *_NUMBERS,
    *_GPU,
    *_NODES,
    *_PEERS,
    *_DEATHS,
    *_HINTS,
)
