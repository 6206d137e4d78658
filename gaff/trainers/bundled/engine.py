# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed's engine for a config: the DeepSpeed config that GPT-NeoX would derive, the optimizer, one train step.

torch's AdamW is given to DeepSpeed instead of a kernel of DeepSpeed's own: nothing has to be compiled, and a resumed
run equals an undisturbed one bit for bit, which DeepSpeed's CPU Adam does not (it multiplies β powers up step by step
but recomputes them after a resume).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed import comm

from gaff.trainers.bundled import settings
from gaff.trainers.bundled.batches import Batch
from gaff.trainers.bundled.log import say, say_on_rank_0
from gaff.trainers.bundled.model import build_model, parameter_groups
from gaff.trainers.bundled.schedule import Scheduler

_NEOX_DEFAULT_CLIPPING = 1.0
_NEOX_DEFAULT_STEPS_PER_PRINT = 10
_SHARED_MEMORY_OP = "deepspeed_shm_comm"


def init_distributed() -> None:
    """Join the process group named by the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) over gloo."""
    # DeepSpeed compiles this op at start-up where its table says the machine can; only inference uses it.
    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
    say_on_rank_0("> initializing torch distributed ...")
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def deepspeed_config(neox: Mapping[str, Any], sizes: tuple[int, int, int]) -> dict[str, Any]:
    """The DeepSpeed config as GPT-NeoX derives it from its keys.

    GPT-NeoX leaves out what equals its own default, so ``gradient_clipping: 1.0`` never reaches DeepSpeed and nothing
    is clipped (its issue 1432); other values, and ``deepspeed_extra_args``, do.
    """
    total, micro, steps = sizes
    config: dict[str, Any] = {"train_batch_size": total, "train_micro_batch_size_per_gpu": micro}
    if steps != 1:
        config["gradient_accumulation_steps"] = steps
    config["optimizer"] = neox["optimizer"]
    zero = {key: value for key, value in settings.given(neox, "zero_optimization", {}).items() if key != "cpu_offload"}
    if zero.get("overlap_comm"):
        zero["overlap_comm"] = False  # no streams on the CPU to overlap on; it changes no result
    config["zero_optimization"] = zero
    clipping = settings.given(neox, "gradient_clipping", _NEOX_DEFAULT_CLIPPING)
    if clipping != _NEOX_DEFAULT_CLIPPING:
        config["gradient_clipping"] = clipping
    config["steps_per_print"] = settings.given(neox, "steps_per_print", _NEOX_DEFAULT_STEPS_PER_PRINT)
    if settings.given(neox, "wall_clock_breakdown", False):
        config["wall_clock_breakdown"] = True
    if neox.get("data_types"):
        config["data_types"] = neox["data_types"]
    if settings.precision(neox) == "bfloat16":
        config["bf16"] = {"enabled": True}
    return {**config, **settings.given(neox, "deepspeed_extra_args", {})}


@dataclass(frozen=True)
class Engine:
    """DeepSpeed's engine and what the loop needs to know of it."""

    deepspeed: Any
    scheduler: Scheduler
    layout: settings.Layout
    steps: int  # gradient accumulation

    def train(self, batches: Iterable[Batch]) -> float:
        """One iteration over the micro-batches; the mean loss over micro-batches and replicas."""
        if self.layout.pipe:
            return float(self.deepspeed.train_batch(data_iter=iter(batches)))
        self.deepspeed.train()
        losses = []
        for tokens, labels in batches:
            loss = self.deepspeed(tokens, labels)
            self.deepspeed.backward(loss)
            self.deepspeed.step()
            losses.append(loss.detach())
        return self._mean(losses)

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The mean loss over micro-batches and replicas; nothing changes."""
        if self.layout.pipe:
            return float(self.deepspeed.eval_batch(data_iter=iter(batches)))
        self.deepspeed.eval()
        with torch.no_grad():
            return self._mean([self.deepspeed(tokens, labels) for tokens, labels in batches])

    def _mean(self, losses: list[torch.Tensor]) -> float:
        mean = torch.stack(losses).float().mean()
        comm.all_reduce(mean)
        return float(mean) / self.layout.world

    @property
    def replica(self) -> int:
        """This rank's place among the data-parallel replicas."""
        if self.layout.pipe:
            return int(self.deepspeed.grid.get_data_parallel_id())
        return int(comm.get_rank())

    @property
    def learning_rate(self) -> float:
        """The rate that the next step will use."""
        return float(self.deepspeed.optimizer.param_groups[0]["lr"])


def build_engine(neox: Mapping[str, Any], vocab_size: int) -> Engine:
    """Build this rank's part of the model and hand it to DeepSpeed."""
    layout = settings.layout(neox)
    sizes = settings.batch_sizes(neox, layout.data)
    partition = settings.given(neox, "pipe_partition_method", "type:transformer|mlp")
    say_on_rank_0("building GPT2 model ...")
    model = build_model(settings.model_settings(neox), vocab_size, layout, partition)
    decay = float(settings.given(neox, "weight_decay", 0.1))
    params = neox["optimizer"].get("params", {})
    optimizer = torch.optim.AdamW(
        parameter_groups(model, decay),
        lr=params.get("lr", 1e-3),
        betas=tuple(params.get("betas", (0.9, 0.999))),
        eps=params.get("eps", 1e-8),
        weight_decay=decay,
    )
    scheduler = Scheduler(optimizer, settings.schedule_settings(neox), say_on_rank_0)
    say_on_rank_0("DeepSpeed is enabled.")
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        config=deepspeed_config(neox, sizes),
        dist_init_required=False,
    )
    scheduler.optimizer = engine.optimizer
    built = Engine(engine, scheduler, layout, sizes[2])
    _say_sizes(built, model)
    return built


def _say_sizes(engine: Engine, model: torch.nn.Module) -> None:
    mine = sum(parameter.numel() for parameter in model.parameters())
    if engine.replica == 0:
        stage = engine.deepspeed.grid.get_stage_id() if engine.layout.pipe else 0
        say(f" > number of parameters on model parallel rank {stage}: {mine}")
    total = torch.tensor([mine])
    comm.all_reduce(total)
    say_on_rank_0(f" > total params: {int(total) // engine.layout.data:,}")
