# SPDX-License-Identifier: Apache-2.0
"""Faults of machines and numbers while the ranks work: memory, GPUs, the network between nodes, ranks that die."""

from __future__ import annotations

from gaff.trainers.fault import COMPILER, SHM, Course, Fault, Weight, rows

_SMALLER = "lower train_micro_batch_size_per_gpu and raise gradient_accumulation_steps by as much"
_HOST_MEMORY = "give the job more host memory, or run fewer ranks on a node"
_SSH = "make `ssh HOST true` work without a password for every host of the hostfile"
_NCCL = "set NCCL_DEBUG=INFO in `gaff: environment`, run again, and see which rank or node fails first"
_OTHER_RANK = "see why the other rank died: most often its system was out of memory (dmesg), or its node failed"

_MEMORY = rows(
    Weight.CAUSE,
    True,
    (r"Cuda failure (?:2 )?'out of memory'", _SMALLER),
    (r"Detected \d+ oom[_-]kill events?|srun: error: .{0,300}Out Of Memory", _HOST_MEMORY),
    (r"NCCL WARN .{0,300}(?:creating shared memory segment|failed to extend /dev/shm)", SHM),
    (
        r"bus error encountered in worker|DataLoader worker .{0,99}killed by signal: Bus|Fatal Python error: Bus error",
        SHM,
    ),
) + rows(
    Weight.CAUSE,
    False,
    (r"can't allocate memory|\[Errno 12\]|^MemoryError", _HOST_MEMORY),
    (r"[Oo]ut of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", _SMALLER),
)

_NUMBERS = rows(
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

_GPU = rows(
    Weight.CAUSE,
    True,
    (r"NVRM: Xid|watchdog thread terminated with exception: .{0,300}ECC", "leave this GPU out: it is failing"),
    (r"Duplicate GPU detected", "start no more ranks on a node than it has GPUs"),
) + rows(
    Weight.CAUSE,
    False,
    (r"uncorrectable ECC error|fallen off the bus", "leave this GPU out: it is failing; have it looked at"),
    (
        r"illegal memory access|unspecified launch failure",
        "run again with CUDA_LAUNCH_BLOCKING=1 in `gaff: environment` to see where; if it moves, suspect the GPU",
    ),
)

_NODES = (
    rows(
        Weight.CAUSE,
        False,
        (
            r"EADDRINUSE|[Aa]ddress already in use",
            "another process holds the port on which the ranks meet; run the same command again",
        ),
        (r"was not reachable via ssh", _SSH),
        course=Course.PASSING,
    )
    + rows(
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
            r"srun: (?:fatal|error): .{0,300}(?:Unable to|unrecognized option|Could not establish|Invalid)",
            "mend the Slurm options of the job",
        ),
    )
    + rows(
        Weight.CAUSE,
        False,
        (
            r"Name or service not known|name resolution",
            "mend master_addr or the hostfile: a host's name is not known here",
        ),
        course=Course.PASSING,
    )
)

_PEERS = rows(
    Weight.CONSEQUENCE,
    True,
    (r"Watchdog caught collective operation timeout", "see what the other ranks did: one never came; " + _NCCL),
    (r"terminate called after throwing an instance of 'c10::DistBackendError'", _NCCL),
    course=Course.PASSING,
) + rows(
    Weight.CONSEQUENCE,
    False,
    (r"waiting for clients|client socket has (?:timed out|failed)", "see that all nodes started and reach master_addr"),
    (
        r"Connection (?:was likely )?(?:closed|reset)|Broken pipe|remote process exited|recvValueWithTimeout failed",
        _OTHER_RANK,
    ),
    (r"DistBackendError|NCCL [Ee]rror|ncclRemoteError|ncclInternalError|Timed out waiting \d+ms", _NCCL),
    course=Course.PASSING,
)

_DEATHS = rows(
    Weight.UNKNOWN,
    False,
    (r"killed by signal 9\b", "most often the system was out of memory; look at its log (dmesg)"),
    (r"killed by signal 7\b", SHM),
    (r"killed by signal 11\b", "see the stack in the log, under `Fatal Python error`"),
) + rows(
    Weight.UNKNOWN,
    True,
    (r"Fatal Python error: Segmentation fault", "see the stack below that line in the log"),
)

_HINTS = rows(
    Weight.HINT,
    False,
    (r"killed by signal (?:6|15)\b|exited with code", "read the log above that line"),
) + rows(
    Weight.HINT,
    True,
    (r"Fatal Python error: ", "read the log above that line"),
    (r"terminate called after throwing an instance of ", "read the log above that line"),
    (r"make: \S+: (?:No such file or directory|Command not found)|python3-config: not found", COMPILER),
    (r"fatal error: \S+\.h: No such file or directory", COMPILER),
    (r"ssh exited with exit code \d+|srun: error: .{0,300}: tasks? [\d,-]+: ", "read the log above that line"),
)

AT_WORK: tuple[Fault, ...] = (*_MEMORY, *_NUMBERS, *_GPU, *_NODES, *_PEERS, *_DEATHS, *_HINTS)
