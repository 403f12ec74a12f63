# SPDX-License-Identifier: BSD-3-Clause
"""Text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from torch import Tensor, nn

from smet.train.config import PretrainConfig
from smet.train.device import device_of
from smet.train.errors import ConfigError, NonFiniteLossError
from smet.train.loop import sparsify
from smet.train.methods import is_sparse
from smet.train.models import build_model
from smet.train.tokenizer import end_of_text, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_run(folder: Path) -> tuple[nn.Module, Tokenizer]:
    """Model (in evaluation mode) and tokenizer of a finished run; ConfigError names what is missing."""
    for name in ("config.yaml", "weights.pt", "model/config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"--run {folder} has no {name}; expected the folder of a finished `smet pretrain`"
            )
    from transformers import AutoConfig

    config = PretrainConfig(**yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    model_config = AutoConfig.from_pretrained(folder / "model", local_files_only=True)
    model = build_model(config, model_config.vocab_size, model_config)
    if is_sparse(config):
        sparsify(model, config)
    model.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu", weights_only=True))
    model.eval()
    return model, load_tokenizer(folder / "tokenizer.json")


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    *,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> str:
    """`prompt` and up to `tokens` more tokens, drawn from the `top_k` likeliest with a generator of its own.

    temperature 0 takes the likeliest token each time. Ends early at <|endoftext|>, or where the model has no
    more positions.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    stop = end_of_text(tokenizer)
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [stop or 0]
    longest = getattr(model.config, "max_position_embeddings", None) or len(ids) + tokens
    ids = ids[-longest + 1 :]
    produced: list[int] = []
    device = device_of(model)
    feed, cache = torch.tensor([ids], device=device), None
    while len(produced) < tokens and len(ids) + len(produced) < longest:
        output = model(input_ids=feed, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = _draw(output.logits[0, -1].float().cpu(), temperature, top_k, generator)
        if token == stop:
            break
        produced.append(token)
        feed = torch.tensor([[token]], device=device)
    model.train(was_training)
    return prompt + str(tokenizer.decode(produced))


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """One token id. logits: [vocab]."""
    if temperature == 0:
        return int(logits.argmax())
    best, index = torch.topk(logits, min(top_k, len(logits)))
    if not best[0].isfinite():  # NaN comes first
        raise NonFiniteLossError("the model's predictions are NaN or infinite; there is no text to draw from")
    chances = torch.softmax(best / temperature, dim=0)
    return int(index[torch.multinomial(chances, 1, generator=generator)])
