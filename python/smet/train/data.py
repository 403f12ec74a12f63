# SPDX-License-Identifier: BSD-3-Clause
"""From --data to tokens, and from tokens to batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smet.train import documents, tokenizer
from smet.train.config import PretrainConfig
from smet.train.errors import ConfigError, DataError
from smet.train.token_file import check_tokens, open_token_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT_VOCAB = 4096
_HELD_OUT = 20  # one token in 20 at the end of a .bin without --eval-data


@dataclass
class TokenData:
    """Tokens to train on and held out; `held_out_bytes` is the text they stand for (None: not known)."""

    train: NDArray[Any]
    held_out: NDArray[Any]
    held_out_bytes: int | None
    vocab: int
    tokenizer: Tokenizer | None
    notes: list[str] = field(default_factory=list)


def load_data(config: PretrainConfig, folder: Path, model_vocab: int | None = None) -> TokenData:
    """Tokens of --data and --eval-data; a tokenizer trained on them is kept in `folder`.

    `model_vocab`: the vocabulary that the model's own configuration fixes, if it does. Raises DataError when
    anything about the data would stop or spoil the run later.
    """
    if str(config.data).endswith(".bin"):
        data = _load_bins(config, model_vocab)
    elif str(config.eval_data).endswith(".bin"):
        raise ConfigError(f"--eval-data {config.eval_data} holds tokens; --data must be a .bin too")
    else:
        data = _load_text(config, folder, model_vocab)
    if model_vocab is not None and data.vocab > model_vocab:
        raise DataError(f"the data's vocabulary is {data.vocab}, the model's only {model_vocab}")
    if len(data.train) < config.seq + 1:
        raise DataError(
            f"the training data has {len(data.train)} tokens, fewer than one sequence ({config.seq} + 1); "
            "more data, or a smaller --seq"
        )
    if len(data.held_out) < 2:
        raise DataError(f"the held-out data has {len(data.held_out)} tokens; expected at least 2")
    return data


class Batches:
    """Training sequences in random order: batch i is a pure function of (tokens, seq, batch, seed, i).

    The tokens are cut into windows of seq + 1 that overlap by one token; each epoch visits all of them once
    in an order of its own, drawn from (seed, epoch) and from no global generator.
    """

    def __init__(self, tokens: NDArray[Any], seq: int, batch: int, seed: int) -> None:
        self.tokens, self.seq, self.batch, self.seed = tokens, seq, batch, seed
        self.windows = (len(tokens) - 1) // seq
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, index: int) -> Tensor:
        """int64 [batch, seq + 1]: inputs are [:, :-1], targets [:, 1:]."""
        rows = []
        for number in range(index * self.batch, (index + 1) * self.batch):
            epoch, place = divmod(number, self.windows)
            if epoch != self._epoch:
                self._epoch, self._order = (
                    epoch,
                    np.random.default_rng([self.seed, epoch]).permutation(self.windows),
                )
            start = int(self._order[place]) * self.seq
            rows.append(np.asarray(self.tokens[start : start + self.seq + 1], dtype=np.int64))
        return torch.from_numpy(np.stack(rows))


def _load_text(config: PretrainConfig, folder: Path, model_vocab: int | None) -> TokenData:
    corpus = documents.read_corpus(config.data, config.eval_data, config.text_column, config.max_bytes)
    if config.tokenizer is not None:
        tokens_of = tokenizer.load_tokenizer(Path(config.tokenizer))
    else:
        text = [piece for document in corpus.train for piece in document]
        tokens_of = tokenizer.cached_tokenizer(text, config.vocab or model_vocab or DEFAULT_VOCAB, folder)
    held_out = _first_bytes(corpus.held_out, config.eval_bytes)
    tokens = tokenizer.encode(tokens_of, held_out)
    return TokenData(
        train=tokenizer.encode(tokens_of, corpus.train),
        held_out=tokens,
        held_out_bytes=documents.size(held_out),
        vocab=tokens_of.get_vocab_size(),
        tokenizer=tokens_of,
        notes=corpus.notes,
    )


def _first_bytes(held_out: list[documents.Document], count: int | None) -> list[documents.Document]:
    """Whole pieces from the beginning of each document in turn, about `count` characters (0, None: all)."""
    if not count or sum(len(piece) for document in held_out for piece in document) <= count:
        return held_out
    kept: list[documents.Document] = [[] for _ in held_out]
    left = count
    for round_ in range(max(map(len, held_out))):
        for document, result in zip(held_out, kept, strict=True):
            if round_ < len(document) and left > 0:
                result.append(document[round_])
                left -= len(document[round_])
    return [document for document in kept if document]


def _load_bins(config: PretrainConfig, model_vocab: int | None) -> TokenData:
    """Tokens of a .bin file; the held-out ones from another or from its end."""
    train = open_token_file(_existing(str(config.data)), config.token_dtype)
    bpe = tokenizer.load_tokenizer(Path(config.tokenizer)) if config.tokenizer is not None else None
    vocab = config.vocab or (bpe.get_vocab_size() if bpe else None) or model_vocab or train.vocab
    if vocab is None:
        raise ConfigError(f"{config.data} does not say its vocabulary; give --vocab N or --tokenizer FILE")
    check_tokens(train.tokens, vocab, str(config.data))
    if config.eval_data is not None:
        if not config.eval_data.endswith(".bin"):
            raise ConfigError(f"--data holds tokens; --eval-data {config.eval_data} must be a .bin too")
        own = train.tokens
        held_out = open_token_file(_existing(config.eval_data), config.token_dtype).tokens
        check_tokens(held_out, vocab, config.eval_data)
    else:
        cut = len(train.tokens) - len(train.tokens) // _HELD_OUT
        own, held_out = train.tokens[:cut], train.tokens[cut:]
    held_out = held_out[: config.eval_bytes // 4] if config.eval_bytes else held_out
    text_bytes = None
    if bpe is not None:
        text_bytes = len(bpe.decode(held_out.tolist(), skip_special_tokens=True).encode())
    return TokenData(own, held_out, text_bytes, vocab, bpe)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path
