# SPDX-License-Identifier: BSD-3-Clause
"""The models to train: LLaMA in the paper's sizes, or any causal LM that transformers can configure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from smet.llama_sizes import LLAMA_SIZES
from smet.train.config import PretrainConfig
from smet.train.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_model_config(config: PretrainConfig) -> Any | None:
    """The transformers configuration that --model points to; None for a size of the paper."""
    if config.model in LLAMA_SIZES:
        return None
    found = read_model_config(config.model)
    positions = getattr(found, "max_position_embeddings", None)
    if positions is not None and config.seq > positions:
        raise ConfigError(f"--seq {config.seq} is longer than the {positions} positions of {config.model}")
    return found


def read_model_config(path: str) -> Any:
    """A transformers configuration from config.json or its folder; only local files, no code from them."""
    if not Path(path).exists():
        raise ConfigError(
            f"--model {path} is neither a size ({' '.join(LLAMA_SIZES)}) nor a config.json or its folder"
        )
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--model {path} is not a transformers configuration: {error}") from error


def build_model(config: PretrainConfig, vocab: int, found: Any | None = None) -> nn.Module:
    """The dense model with weights drawn from --seed; the global generator is left as it was.

    With --init sparse it is on the meta device: `materialise` draws its weights when it is sparse.
    """
    import transformers

    if found is None:
        size = LLAMA_SIZES[config.model]
        found = transformers.LlamaConfig(
            vocab_size=vocab,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            num_hidden_layers=size.layers,
            max_position_embeddings=max(config.seq, 2048),
            tie_word_embeddings=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta" if config.init == "sparse" else "cpu"):
        torch.manual_seed(config.seed)
        build: Any = transformers.AutoModelForCausalLM.from_config
        try:
            model: nn.Module = build(found, dtype=torch.float32, attn_implementation="sdpa")
        except ValueError as error:
            raise ConfigError(f"--model {config.model} cannot be built as a causal LM: {error}") from error
    for param in model.parameters():  # not the buffers: rotary frequencies would lose bits
        param.data = param.data.to(DTYPES[config.dtype or "float32"])
    return model.train()


def materialise(model: nn.Module, seed: int, device: torch.device) -> None:
    """Take a model whose projections are sparse from the meta device to `device`.

    Sparse layers draw positions and values from (seed, name, position), all else is initialised as
    transformers does, from `seed`; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.to_empty(device=device)
        model.initialize_weights()  # type: ignore[operator]
        model.tie_weights()  # type: ignore[operator]


def checkpoint_activations(model: nn.Module) -> None:
    """Keep the inputs of the blocks alone, and compute the rest again in the backward pass."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(f"--checkpoint-activations: {type(model).__name__} has no blocks that can do it")
    enable: Any = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def describe(model: nn.Module) -> str:
    """'LlamaForCausalLM, 1.85 M parameters'."""
    count = sum(param.numel() for param in model.parameters())
    return f"{type(model).__name__}, {count / 1e6:.2f} M parameters"
