# SPDX-License-Identifier: Apache-2.0
"""Faults of what the user gave and installed: the config, the checkpoint to resume from, files, packages."""

from __future__ import annotations

from gaff.trainers.fault import COMPILER, SHM, Course, Fault, Weight, rows

_VOCAB_FILE = "mend vocab_file, and see that every node has that file"
_NETWORK = "download the tokenizer beforehand and name its file in vocab_file: this machine does not reach the network"
_REBUILD = "delete its folder in TORCH_EXTENSIONS_DIR (default ~/.cache/torch_extensions), so that it is built again"
_SAME_SETTINGS = "give the setting its former value: GPT-NeoX resumes with no other"
_NO_GPU = "see that nvidia-smi works here and CUDA_VISIBLE_DEVICES is right, or set `gaff: device: cpu`"

_LEAVES = rows(
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
    course=Course.LASTING,
)

_CONFIG = rows(
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
        r"wandb\.(?:\w+\.)*(?:Usage|Authentication)Error|api_key not configured",
        "log in with `wandb login`, set WANDB_MODE=offline, or set use_wandb: false",
    ),
    course=Course.LASTING,
) + rows(
    Weight.CAUSE,
    False,
    (r"wandb\.(?:\w+\.)*\w*Error", "see whether W&B can be reached, set WANDB_MODE=offline, or set use_wandb: false"),
    course=Course.PASSING,
)

_CHECKPOINT = rows(
    Weight.CAUSE,
    False,
    (r"PytorchStreamReader failed", "a file of the checkpoint is truncated; resume from an earlier tag"),
    (
        r"len\(self\.ckpt_list\) > 0|Unable to load checkpoint for iteration",
        "the tag to resume from is missing or holds no model files",
    ),
) + rows(
    Weight.CAUSE,
    False,
    (
        r"checkpoint being loaded used a DP world size of",
        "the number of data-parallel ranks differs from the one that wrote the checkpoint; use as many GPUs",
    ),
    (
        r"Unable to load optimizer from checkpoint",
        "the checkpoint lacks the state of a random generator; set no_load_rng: true, or resume from another tag",
    ),
    (r"AnnealingLR: class input value", _SAME_SETTINGS + "; see lr, min_lr, warmup, lr_decay_iters, lr_decay_style"),
    (r"(\w+) value from checkpoint \(.*is not equal to the currently set", _SAME_SETTINGS + r"; see \1"),
    (r"size mismatch for [\w.]+", "use the model and the parallel layout that wrote the checkpoint"),
    course=Course.LASTING,
)

_FILES = (
    rows(
        Weight.CAUSE,
        False,
        (r"args\.(vocab|merge)_file is not None", r"name the tokenizer's file in \1_file"),
        course=Course.LASTING,
    )
    + rows(
        Weight.CAUSE,
        False,
        (r"^Exception: No such file or directory \(os error 2\)|NOT_FOUND: \"|^OSError: Not found: \"", _VOCAB_FILE),
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
        (r"No space left on device.*/dev/shm", SHM),
        (
            r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed"
            r"|inline_container\S* \. unexpected pos|basic_ios::clear: iostream error",
            "make room where the checkpoints are written",
        ),
        (r"\[Errno 30\]|Read-only file system", "let the place be writable: GPT-NeoX writes there"),
        (r"PermissionError|\[Errno 13\]", "give this user the right to write there, or name another place"),
        (r"Too many open files", "raise the limit, `ulimit -n`, before the run starts"),
    )
    + rows(
        Weight.CAUSE,
        False,
        (r"\[Errno 5\]|\[Errno 116\]|Stale file handle", "see to the file system: it failed while it was used"),
        course=Course.PASSING,
    )
    + rows(
        Weight.CAUSE,
        True,
        (r"Dataset does not exist: (\S+)", r"mend data_path: there are no \1.bin and \1.idx"),
        (r"can't open file '([^']+)'", r"see that \1 is there: the launch begins with it"),
    )
)

# A package that was there yesterday is gone while its file system is (Python's importer takes what it cannot list for
# empty), a GPU while its driver is reset, a build where two nodes make it at once.  So these are tried again.
_INSTALLATION = (
    rows(
        Weight.CAUSE,
        False,
        (r"Ninja is required|ninja not being installed", "install ninja where GPT-NeoX runs"),
        (r"CUDA_HOME environment variable is not set", "install the CUDA toolkit, and set CUDA_HOME"),
        (
            r"Installed CUDA version .* does not match",
            "use the CUDA toolkit that torch was built with, or install the torch for this toolkit",
        ),
        (
            r"driver version is insufficient|forward compatibility was attempted",
            "update the GPU's driver, or use an older torch",
        ),
        (r"no kernel image is available", "install the torch that is built for this kind of GPU"),
        course=Course.LASTING,
    )
    + rows(
        Weight.CAUSE,
        False,
        (
            r"No module named 'flash_attn|flash_attn\w*\.so",
            'install flash-attn where GPT-NeoX runs, or set attention_config: [[["global"], "all"]]',
        ),
        (r"No module named '([\w.]+)'", r"install \1 where GPT-NeoX runs"),
        (r"Error building extension '(\w+)'", r"see the compiler's words in the log; \1 is built by nvcc and g++"),
        (r"cannot open shared object file|undefined symbol", _REBUILD),
        (r"Unable to JIT load the (\w+) op", r"see why DeepSpeed cannot build \1 here: `ds_report` says it"),
        (r"Megatron requires CUDA|[Nn]o NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device", _NO_GPU),
    )
    + rows(Weight.CAUSE, True, (r"Making C\+\+ dataset helpers module failed", COMPILER))
)

SETUP: tuple[Fault, ...] = (*_LEAVES, *_CONFIG, *_CHECKPOINT, *_FILES, *_INSTALLATION)
