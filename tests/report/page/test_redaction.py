# SPDX-License-Identifier: Apache-2.0
"""Secrets stay in the run directory."""

from __future__ import annotations

import pytest

from gaff.report.page.redaction import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("WANDB_API_KEY: 0123abc\nlr: 0.1", "WANDB_API_KEY: (hidden)\nlr: 0.1"),
        ("AWS_SECRET_ACCESS_KEY=abc\nssh_private_key: k", "AWS_SECRET_ACCESS_KEY=(hidden)\nssh_private_key: (hidden)"),
        ("    HF_TOKEN: 'two words'", "    HF_TOKEN: (hidden)"),
        ('{MLFLOW_TRACKING_PASSWORD: "a b", LANG: C}', "{MLFLOW_TRACKING_PASSWORD: (hidden), LANG: C}"),
        ("-o gaff.environment.HF_TOKEN=abc --minutes 3", "-o gaff.environment.HF_TOKEN=(hidden) --minutes 3"),
        ("https://me:pass@hooks.example.org/x", "https://(hidden)@hooks.example.org/x"),
    ],
)
def test_values_of_secrets_are_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer_type: HFTokenizer",
        "vocab_file: /data/tokenizer.json",
        "tokens: 1331200\nsecret: null\nseed: 1234",
        "data_path: /data/english_CharLevelTokenizer_512_text_document",
    ],
)
def test_the_rest_is_left_as_it_is(text: str) -> None:
    assert without_secrets(text) == text
