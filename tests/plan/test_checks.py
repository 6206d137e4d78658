# SPDX-License-Identifier: Apache-2.0
"""Every rule: the bad input, its id, and the line it is blamed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import Location, Problem
from gaff.plan.checks import check
from gaff.plan.config import Config, load_config

Problems = Callable[..., list[Problem]]
Load = Callable[..., Config]


def test_the_good_config_has_no_problems_and_no_warnings(problems: Problems, warned: Problems) -> None:
    assert problems() == []
    assert warned() == []


#: (what the good config says, what it says instead, id, line, part of the sentence)
WRONG = [
    # issue 2, by name
    ("seed: 7", "reset_evry: 7", "unknown-gaff-key", 3, "did you mean `reset_every`?"),
    ("seed: 7", "seed: seven", "gaff-value", 3, "must be an integer of at least 0"),
    ("1.0e-8", "1e-8", "yaml-trap", 26, "write 1.0e-8"),
    ("data/text_document", "data/absent", "data-file-missing", 17, "absent.bin and "),
    ("reset_every: 100", "reset_every: 0", "gaff-value", 2, "at least 1"),
    ("reset_every: 100", "reset_every: 400", "no-reset-fits", 2, "is not below train_iters (400)"),
    ("reset_every: 100", "reset_every: 5000", "no-reset-fits", 2, "is not below train_iters (400)"),
    ("eval_iters: 0", "eval_iters: 0\nsave: a\nload: b", "load-differs-from-save", 33, "another directory"),
    ("eval_iters: 0", "eval_iters: 0\nload: b", "load-differs-from-save", 32, "`save` is not given"),
    ("eval_iters: 0", "keep_last_n_checkpoints: 3", "keep-last-n", 31, "the one to resume from"),
    ("CharLevelTokenizer", "HFTokenizer\nvocab_file: t.json", "tokenizer-file-missing", 19, "t.json is not there"),
    # schedule
    ("seed: 7", "first_reset: 400", "no-reset-fits", 3, "is not below train_iters"),
    ("seed: 7", "last_reset: 50", "last-before-first", 3, "before the first reset (100)"),
    ("reset_every: 100", "reset_every: never\n  first_reset: 5", "reset-never", 3, "makes no resets"),
    ("reset_every: 100", "reset_every: never\n  lr_schedule: restart", "reset-never", 3, "restarts after resets"),
    ("seed: 7", "first_reset: 0", "gaff-value", 3, "at least 1"),
    ("lr_decay_iters: 400", "lr_decay_iters: 300\nwarmup: 1", "warmup-fraction", 30, "by zero after 300 iterations"),
    ("train_iters: 400", "train_epochs: 2", "train-epochs", 4, "give `train_iters` instead"),
    ("train_iters: 400", "train_iters: 0", "not-positive", 4, "at least 1, not 0"),
    ("train_iters: 400", "train_iters:", "train-iters-missing", 4, "is missing"),
    ("train_iters: 400", "train_iters: 400.0", "wrong-type", 4, "write train_iters: 400"),
    ("eval_iters: 0", "warmup: 10", "warmup-fraction", 31, "no fraction"),
    ("eval_iters: 0", "lr_decay_fraction: 2", "lr-decay-fraction", 31, "not between 0 and 1"),
    ("min_lr: 0.0001", "min_lr: 0.1", "min-lr-above-lr", 27, "above the learning rate"),
    ("lr: 0.001", "lr: -1", "lr-value", 24, "no usable learning rate"),
    ("lr: 0.001", "lr: 1.0e+300", "lr-value", 24, "no usable learning rate"),
    ("min_lr: 0.0001", "min_lr: -0.0001", "lr-value", 27, "no usable learning rate"),
    ("eval_iters: 0", "warmup: 1.0e-300", "warmup-fraction", 31, "next to nothing"),
    ("lr_decay_style: cosine", "lr_decay_style: Cosine", "not-a-choice", 28, "write cosine"),
    ("pos_emb: rotary", "pos_emb: Rotary", "not-a-choice", 12, "write rotary"),
    ("checkpoint_factor: 100", "checkpoint_factor: 0", "checkpoint-factor", 5, "whole number"),
    ("checkpoint_factor: 100", "checkpoint_factor: 2.5", "checkpoint-factor", 5, "whole number"),
    ("eval_iters: 0", "save: runs/global_step/x", "directory-unusable", 31, "the name of a tag"),
    # types
    ("eval_iters: 0", "exit_interval: 5.0", "wrong-type", 31, "write exit_interval: 5"),
    ("eval_iters: 0", "eval_iters: no", "wrong-type", 31, "must be an integer, not the true/false value"),
    ("eval_iters: 0", "finetune: 1", "wrong-type", 31, "must be true or false"),
    ("eval_iters: 0", "precision: half", "not-a-choice", 31, "fp16, fp32, bfloat16"),
    ("eval_iters: 0", "extra_save_iters: [1, x]", "wrong-type", 31, "must hold integers"),
    ("log_interval: 10", "log_interval: 0", "not-positive", 6, "at least 1"),
    ("betas: [0.9, 0.95]", "betas: 0.9", "wrong-type", 25, "two numbers"),
    ("eps: 1.0e-8", "eps: small", "wrong-type", 26, "must be a number"),
    ("tokenizer_type: CharLevelTokenizer", "tokenizer_type: Words", "not-a-choice", 18, "HFTokenizer"),
    ("num_layers: 2\n", "", "key-missing", 0, "`num_layers` is missing"),
    ("train_micro_batch_size_per_gpu: 2\n", "", "key-missing", 0, "`train_batch_size` is given"),
    ("lr: 0.001\n", "x: 1\n", "lr-missing", 21, "`optimizer.params.lr` is missing"),
    ("optimizer:\n  type: Adam\n", "optimizer:\n", "optimizer-missing", 21, "`optimizer` block"),
    ("optimizer:\n  type: Adam\n  params:\n    lr: 0.001", "optimizer: 5\nx:\n    y: 1", "wrong-type", 21, "a mapping"),
    ("eval_iters: 0", "fp16: {enabled: 1}", "wrong-type", 31, "`fp16.enabled` must be true or false"),
    ("{stage: 1}", "{stage: x}", "wrong-type", 20, "must be an integer, not the text `x`"),
    ("{stage: 1}", "{}", "zero-stage", 20, "has no key `stage`"),
    ("lr: 0.001", "lr: .nan", "wrong-type", 24, "a finite number"),
    ("betas: [0.9, 0.95]", "betas: [0.9, .inf]", "wrong-type", 25, "a finite number"),
    ("betas: [0.9, 0.95]", "betas: [0.9, 1]", "wrong-type", 25, "from 0 to below 1"),
    ("min_lr: 0.0001", "min_lr: -.inf", "wrong-type", 27, "a finite number"),
    ("eval_iters: 0", "deepspeed_extra_args: {a: [{b: .inf}]}", "wrong-type", 31, "`deepspeed_extra_args.a.0.b`"),
    ("eval_iters: 0", f"lr_decay_iters: {2**63}", "wrong-type", 31, "at most 64 bits"),
    ("lr: 0.001", "lr: 0", "lr-value", 24, "no usable learning rate"),
    ("eps: 1.0e-8", "eps: 0", "out-of-range", 26, "above 0, not 0"),
    ("eps: 1.0e-8", "eps:", "empty-value", 26, "`optimizer.params.eps` is empty"),
    ("eval_iters: 0", "eval_interval: 0", "not-positive", 31, "at least 1, not 0"),
    ("eval_iters: 0", "eval_iters: -1", "out-of-range", 31, "at least 0, not -1"),
    ("eval_iters: 0", "master_port: 65536", "out-of-range", 31, "from 1 to 65535"),
    ("eval_iters: 0", "init_method_std: 0.0", "out-of-range", 31, "above 0"),
    ("eval_iters: 0", "init_method_std: -0.02", "out-of-range", 31, "above 0"),
    ("train_iters: 400", "train_iters: 1000000000000", "too-many-resets", 2, "9,999,999,999 resets"),
    # checkpoints
    ("eval_iters: 0", "finetune: true", "finetune", 31, "fresh optimizer"),
    ("eval_iters: 0", "no_load_optim: true", "no-load-optim", 31, "cannot train"),
    ("eval_iters: 0", "no_save_rng: true", "no-save-rng", 31, "nothing trained"),
    ("eval_iters: 0", "s3_path: s3://bucket/x", "s3-path", 31, "before the reset"),
    ("eval_iters: 0", "adlr_autoresume: true", "adlr-autoresume", 31, "does nothing"),
    (
        "eval_iters: 0",
        "checkpoint_validation_with_forward_pass: true",
        "checkpoint-validation-with-forward-pass",
        31,
        "stored logits",
    ),
    (
        "eval_iters: 0",
        "checkpoint: {use_node_local_storage: true}",
        "checkpoint-use-node-local-storage",
        31,
        "its own shards",
    ),
    (
        "eval_iters: 0",
        "override_lr_scheduler: true\nuse_checkpoint_lr_scheduler: true",
        "lr-scheduler-flags",
        31,
        "both true",
    ),
    # files
    ("data_path: data/text_document", "x: 1", "data-missing", 0, "neither `data_path`"),
    ("data/text_document", "data/text_document.bin", "data-suffix", 17, "without .bin"),
    ("eval_iters: 0", "train_data_paths: [data/text_document]", "data-twice", 17, "both given"),
    ("data_path: data/text_document", "train_data_paths: [data/text_document]", "data-lists", 17, "`valid_data_paths`"),
    ("eval_iters: 0", "hostfile: hosts", "hostfile-missing", 31, "is not there"),
    ("eval_iters: 0", "save: data/text_document.bin", "directory-unusable", 31, "it is a file"),
    ("eval_iters: 0", "save: data/text_document.bin/x", "directory-unusable", 31, "text_document.bin is a file"),
    ("eval_iters: 0", "save: 'runs/[1]'", "directory-unusable", 31, "takes for a pattern"),
    ("seed: 7", "init: new.safetensors", "init-file-missing", 3, "is not there"),
    ("CharLevelTokenizer", "HFTokenizer", "tokenizer-file-missing", 0, "needs `vocab_file`"),
    ("CharLevelTokenizer", "TiktokenTokenizer", "tokenizer-file-missing", 0, "name of an encoding"),
    ("CharLevelTokenizer", "HFTokenizer\nvocab_file: run.yml", "tokenizer-file-kind", 19, "no file for HFTokenizer"),
    # model and layout
    ("hidden_size: 64", "hidden_size: 66", "hidden-heads", 8, "not a multiple of num_attention_heads"),
    ("seq_length: 32", "seq_length: 64", "sequence-length", 10, "above max_position_embeddings"),
    ("eval_iters: 0", "num_kv_heads: 3", "kv-heads", 31, "does not divide"),
    ("eval_iters: 0", "intermediate_size: 8\nexpansion_factor: 2", "mlp-size", 31, "both given"),
    ("{stage: 1}", "{stage: 7}", "zero-stage", 20, "must be 0, 1, 2 or 3, not 7"),
    ("{stage: 1}", "{stage: '1'}", "yaml-trap", 20, "quotes"),
    ("{stage: 1}", "{stage: 2}", "zero-with-model-parallel", 20, "trains nothing"),
    ("zero_optimization: {stage: 1}", "precision: bfloat16", "bf16-without-zero", 20, "TypeError"),
    ("eval_iters: 0", "precision: fp32\nfp16: {enabled: true}", "precision-conflict", 31, "contradicts"),
    ("eval_iters: 0", "fp16: {loss_scale: 0}", "fp16-enabled", 31, "no key `enabled`"),
    ("global_num_gpus: 2", "global_num_gpus: 3\nmodel_parallel_size: 2", "gpus-layout", 16, "not a multiple"),
    ("eval_iters: 0", "train_batch_size: 5", "batch-size", 31, "x 2 data-parallel ranks (4)"),
    ("type: Adam", "type: OneBitAdam", "optimizer-not-handled", 22, "adam, cpu_adam, cpu_torch_adam, lion, sgd"),
    ("type: Adam", "type: sm3", "optimizer-not-handled", 22, "the optimizer sm3"),
    ("type: Adam", "type: madgrad_wd", "optimizer-not-handled", 22, "the optimizer madgrad_wd"),
    ("type: Adam", "type: AdamW", "not-a-choice", 22, "write type: Adam, whose weight decay is AdamW's"),
    ("type: Adam", "type: Adagrad", "not-a-choice", 22, "no optimizer type Adagrad"),
    ("eval_iters: 0", "use_bnb_optimizer: true", "optimizer-not-handled", 31, "8-bit"),
    ("eval_iters: 0", "moe_num_experts: 4", "layout-not-handled", 31, "`moe_num_experts`"),
    ("eval_iters: 0", "soft_prompt_tuning: {enabled: true}", "layout-not-handled", 31, "`soft_prompt_tuning`"),
    (
        "eval_iters: 0",
        "attention_config: [[[mamba], 2]]\nmodel_parallel_size: 2",
        "layout-not-handled",
        31,
        "tensor-parallel ranks share",
    ),
    ("init_method: small_init", "init_method: orthogonal", "init-method", 14, "init_method orthogonal"),
    ("eval_iters: 0", "use_mup: true", "init-method", 31, "use_mup"),
]


@pytest.mark.parametrize(("old", "new", "id", "line", "part"), WRONG, ids=[f"{w[2]}-{w[1]}" for w in WRONG])
def test_bad_input_gets_one_sentence_with_file_and_line(
    problems: Problems, old: str, new: str, id: str, line: int, part: str
) -> None:
    found = [problem for problem in problems(old, new) if problem.id == id]
    assert found, [str(problem) for problem in problems(old, new)]
    said = str(found[0])
    assert said.startswith("run.yml:" if line == 0 else f"run.yml:{line}: ")
    assert part in said
    assert "\n" not in said
    assert found[0].where == Location("run.yml", line)


#: (the gaff block's `parameters`, other keys, id, part of the sentence)
NO_SUCH_PARAMETERS = [
    ("output_embedding", ["no_weight_tying=false"], "parameters-tied", "embeddings are tied"),
    ("'4.final_linear.weight'", ["no_weight_tying=false"], "parameters-no-match", "no parameter"),
    ("position_embedding", [], "parameters-no-positions", "with pos_emb rotary"),
    ("'0.position*'", [], "parameters-no-match", "no parameter"),
    ("'*.attn.dense.weight'", [], "parameters-no-match", "did you mean `3.attention.dense.weight`?"),
    ("'1.*'", [], "parameters-no-match", "transformer layers are 2 to 3"),
    ("'4.mlp.linear1.weight'", [], "parameters-no-match", "did you mean `3.mlp.linear1.weight`?"),
    ("'*.mlp.linear1.bias'", ["use_bias_in_mlp=false"], "parameters-no-match", "no parameter"),
    ("'*norm.weight'", ["norm=rmsnorm"], "parameters-no-match", "no parameter"),
]


@pytest.mark.parametrize(("chosen", "others", "id", "part"), NO_SUCH_PARAMETERS)
def test_parameters_that_the_model_does_not_have_are_refused(
    write: Callable[..., Path], chosen: str, others: list[str], id: str, part: str
) -> None:
    path = write("seed: 7", f"parameters: {chosen}")
    [problem] = check(load_config([path], others))
    assert (problem.id, problem.where) == (id, Location("run.yml", 3))
    assert part in str(problem)
    assert check(load_config([path], [*others, "gaff.reset_every=never"])) == []


def test_each_item_of_a_list_of_parameters_is_looked_at(problems: Problems) -> None:
    found = problems("seed: 7", "parameters:\n    - input_embedding\n    - position_embedding\n    - '*.atention.*'")
    assert [(problem.id, problem.where) for problem in found] == [
        ("parameters-no-positions", Location("run.yml", 5)),
        ("parameters-no-match", Location("run.yml", 6)),
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["gaff.parameters=[input_embedding, output_embedding, '*.attention.dense.*', 6.final_linear.weight]",
         "num_layers=2"],
        ["gaff.parameters=position_embedding", "pos_emb=learned"],
        ["gaff.parameters='*norm.scale'", "norm=rmsnorm"],
        ["gaff.parameters='*.mixer.*'", "attention_config=[[[mamba], 2]]"],
        ["gaff.parameters=5.norm.bias", "num_layers=2"],
    ],
)  # fmt: skip
def test_parameters_that_the_model_has_or_may_have_pass(load: Load, overrides: list[str]) -> None:
    assert check(load(*overrides)) == []


@pytest.mark.parametrize(("pipe", "stages"), [(0, (0, 1, 2, 3)), (1, (0, 1)), (2, (0, 1))])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bfloat16"])
def test_resets_are_made_in_every_layout_that_gpt_neox_trains(
    load: Load, pipe: int, stages: tuple[int, ...], precision: str
) -> None:
    for stage in stages:
        for tied in ("true", "false"):
            assert check(load(f"pipe_parallel_size={pipe}", f"zero_optimization.stage={stage}",
                              f"precision={precision}", f"no_weight_tying={tied}")) == []  # fmt: skip


@pytest.mark.parametrize("optimizer", ["Adam", "cpu_adam", "cpu_torch_adam", "Lion", "SGD"])
def test_resets_know_the_state_of_the_usual_optimizers(load: Load, optimizer: str) -> None:
    assert check(load(f"optimizer.type={optimizer}")) == []


def test_the_bundled_trainer_has_its_own_optimizers(load: Load) -> None:
    assert check(load("optimizer.type=AdamW", "gaff.trainer=bundled")) == []


@pytest.mark.parametrize(
    ("parameters", "overrides", "keys"),
    [
        ("'*.mlp.linear2.weight'", ["output_layer_init_method=strange", "init_method=strange"],
         ["output_layer_init_method"]),
        ("'*.linear?.weight'", ["output_layer_init_method=strange", "init_method=strange"],
         ["init_method", "output_layer_init_method"]),
        ("output_embedding", ["output_layer_init_method=strange"], []),
        ("['*norm*', '*.bias']", ["output_layer_init_method=strange", "init_method=strange"], []),
        ("'*.in_proj.weight'", ["init_method=strange", "attention_config=[[[mamba], 2]]"], ["init_method"]),
    ],
)  # fmt: skip
def test_only_the_initialisers_that_are_used_must_be_known(
    load: Load, parameters: str, overrides: list[str], keys: list[str]
) -> None:
    found = check(load(f"gaff.parameters={parameters}", *overrides))
    assert [(problem.id, str(problem.where).split("=")[0]) for problem in found] == [
        ("init-method", f"-o {key}") for key in keys
    ]


def test_a_number_of_layers_beyond_reason_costs_no_memory(load: Load) -> None:
    assert check(load("num_layers=1000000000000", "gaff.parameters='9.*'")) == []


def test_one_mistake_gives_one_problem(problems: Problems) -> None:
    mistakes = (
        ("num_layers: 2", "num_layers: two"),
        ("hidden_size: 64", "hidden_size: 65"),
        ("train_iters: 400", "train_iters: 400.0"),
        ("train_iters: 400", "train_iters: .inf"),
        ("reset_every: 100", "reset_every: 1e2"),
        ("{stage: 1}", "5"),
        ("{stage: 1}", "[]"),
        ("{stage: 1}", "{stage: x}"),
        ("{stage: 1}", "{stage: 7}"),
        ("lr: 0.001", "lr: .nan"),
        ("lr: 0.001", "lr:"),
        ("betas: [0.9, 0.95]", "betas: [.nan, 0.95]"),
        ("eval_iters: 0", "eval_iters: 0\ntrain_batch_size: many"),
        ("reset_every: 100\n", "reset_every: 100\n  parameters: output_embeding\n"),
        ("pos_emb: rotary", "pos_emb: rotery\ngaff: {reset_every: 100, parameters: position_embedding}"),
        ("no_weight_tying: true", "no_weight_tying: 1\ngaff: {reset_every: 100, parameters: output_embedding}"),
    )
    for old, new in mistakes:
        assert len(problems(old, new)) == 1, [str(problem) for problem in problems(old, new)]


@pytest.mark.parametrize("value", ["5", "[]", "abc"])
def test_an_override_of_a_block_by_something_else_gives_one_problem(load: Load, value: str) -> None:
    for key in ("optimizer", "optimizer.params", "zero_optimization"):
        [problem] = check(load(f"{key}={value}"))
        assert (problem.id, problem.where) == ("wrong-type", Location(f"-o {key}={value}"))


def test_millions_of_tags_are_a_slip_of_the_pen(load: Load) -> None:
    [problem] = check(load("train_iters=100000000000", "gaff.reset_every=never"))
    assert (problem.id, problem.where) == ("too-many-tags", Location("run.yml", 5))
    assert check(load("train_iters=100000000", "gaff.reset_every=100")) == []


def test_a_null_optimizer_block_is_said_to_be_missing(load: Load) -> None:
    assert {problem.id for problem in check(load("optimizer="))} == {"optimizer-missing"}


def test_the_baseline_may_have_any_layout(problems: Problems) -> None:
    assert problems("reset_every: 100", "reset_every: never\n  moments: keep") == []
    free = "reset_every: never\nuse_mup: true\nx: {y: 1}"
    assert problems("reset_every: 100\n  seed: 7", free) == []


@pytest.mark.parametrize("init", ["normal:0.02", "matched", "step0"])
def test_other_inits_do_not_care_about_init_method(load: Load, init: str) -> None:
    assert check(load("init_method=orthogonal", f"gaff.init={init}")) == []


def test_save_and_load_may_be_the_same_directory(load: Load) -> None:
    assert check(load("save=a/../b", "load=b")) == []


def test_a_rehearsal_does_not_look_for_files(load: Load) -> None:
    config = load("data_path=data/absent")
    assert check(config, files=False) == []
    assert len(check(config)) == 1


def test_label_paths_and_weights_are_checked(load: Load, project: Path) -> None:
    config = load(
        "data_path=",
        *(f"{split}_data_paths=[data/text_document]" for split in ("train", "valid", "test")),
        "train_label_data_paths=[data/labels]",
        "train_data_weights=[1, 2]",
    )
    assert [problem.id for problem in check(config)] == ["data-file-missing", "data-weights"]
