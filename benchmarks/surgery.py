# SPDX-License-Identifier: Apache-2.0
"""What one reset costs, beside the same edit made with torch, on the same checkpoint in the same run.

    python benchmarks/surgery.py [--hidden 512] [--layers 6,24] [--rounds 3]

For each number of layers the bundled trainer writes one real DeepSpeed tag (ZeRO-1, two data ranks, fp32, Pythia's
vocabulary of 50,304 rows).  Then, by turns, GAFF resets it and a plain script does so with torch.load and torch.save.
Both are timed as whole processes, and their peak memory is taken.  Needs ``gaff[bundled]`` and some gigabytes of disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from gaff.data.corpus import write_corpus
from gaff.data.tokenizers import CharLevel

WITH_TORCH = """
import sys, pathlib, torch
tag, rows, hidden = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(int(sys.argv[4]))
new = torch.randn(rows, hidden) * (2 / (5 * hidden)) ** 0.5
layer = tag / "layer_00-model_00-model_states.pt"
state = torch.load(layer, weights_only=False)
state["word_embeddings.weight"] = new
torch.save(state, layer)
done = 0
for path in sorted(tag.glob("zero_pp_rank_*_optim_states.pt")):
    state = torch.load(path, weights_only=False)
    inner = state["optimizer_state_dict"]
    piece = inner["param_slice_mappings"][0].get("0.word_embeddings.weight")
    if piece is None:
        continue
    where = slice(piece.start, piece.start + piece.numel)
    with torch.no_grad():
        inner["single_partition_of_fp32_groups"][0][where] = new.view(-1)[done : done + piece.numel]
    for moment in ("exp_avg", "exp_avg_sq"):
        inner["base_optimizer_state"]["state"][0][moment][where] = 0
    done += piece.numel
    torch.save(state, path)
"""


def make_tag(folder: Path, hidden: int, layers: int) -> Path:
    """One iteration of the bundled trainer, and its checkpoint."""
    keys = {
        "pipe_parallel_size": 1, "model_parallel_size": 1, "global_num_gpus": 2,
        "num_layers": layers, "hidden_size": hidden, "num_attention_heads": 8, "seq_length": 16,
        "max_position_embeddings": 16, "pos_emb": "rotary", "no_weight_tying": True, "precision": "fp32",
        "make_vocab_size_divisible_by": 50304, "init_method": "small_init", "output_layer_init_method": "wang_init",
        "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-8}},
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 5_000_000, "allgather_bucket_size": 5_000_000},
        "train_micro_batch_size_per_gpu": 1, "train_iters": 1, "lr_decay_iters": 1, "eval_iters": 0,
        "hidden_dropout": 0, "attention_dropout": 0, "tokenizer_type": "CharLevelTokenizer",
        "data_path": str(write_corpus(folder, CharLevel(), characters=100_000)),
        "save": str(folder / "save"), "extra_save_iters": [1], "exit_interval": 1, "master_port": 29771,
    }  # fmt: skip
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(keys))
    with open(folder / "log", "w", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-m", "gaff.trainers.bundled", str(config)], check=True, stdout=log, stderr=log)
    return folder / "save" / "global_step1"


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak memory (MB) of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", default="6,24")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    heads = ("layers", "tag", "embedding", "gaff", "torch", "faster", "gaff", "torch")
    print("{:>6} {:>8} {:>9}   {:>7} {:>7}  {:>6}   {:>7} {:>8}".format(*heads))
    for layers in map(int, options.layers.split(",")):
        with tempfile.TemporaryDirectory() as name:
            tag = make_tag(Path(name), options.hidden, layers)
            size = sum(p.stat().st_size for p in tag.glob("*.pt")) / 1e6
            with_gaff, with_torch = [], []
            for seed in range(options.rounds):
                reset = [sys.executable, "-m", "gaff", "surgery", "reset", str(tag), "--in-place", "--seed", str(seed)]
                with_gaff.append(measure(reset))
                script = [sys.executable, "-c", WITH_TORCH, str(tag), "50304", str(options.hidden), str(seed)]
                with_torch.append(measure(script))
            seconds = [statistics.median(s for s, _ in runs) for runs in (with_gaff, with_torch)]
            memory = [max(m for _, m in runs) for runs in (with_gaff, with_torch)]
            embedding = 50304 * options.hidden * 4 / 1e6
            print(
                f"{layers:>6} {size:>5.0f} MB {embedding:>6.0f} MB   {seconds[0]:>5.2f} s {seconds[1]:>5.2f} s  "
                f"{seconds[1] / seconds[0]:>5.1f}x   {memory[0]:>4.0f} MB {memory[1]:>5.0f} MB",
                flush=True,
            )
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, page size {resource.getpagesize()}")


if __name__ == "__main__":
    main()
