# SPDX-License-Identifier: BSD-3-Clause
"""A run for another trainer to do, such as examples/cpp/train_llama: all that it needs, in plain files.

run.json                    the configuration, the fingerprint of the data, bytes of held-out text
train.bin, held_out.bin     tokens, little-endian: uint16, or uint32 for a vocabulary above 65,536
checkpoints/step-00000000   the model and the optimizer before the first step
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from smet.train.checkpoints import RunCheckpoints, fingerprint
from smet.train.config import PretrainConfig
from smet.train.data import TokenData
from smet.train.log import write_json
from smet.train.loop import set_up

FILES = ("run.json", "train.bin", "held_out.bin")


def prepare(config: PretrainConfig, folder: Path, model: nn.Module, data: TokenData) -> None:
    """Write them into `folder`, which holds what every run's folder holds from its start."""
    config = replace(config, prepare=False)
    training = set_up(config, model, print)
    vocab: Any = model.config.vocab_size  # type: ignore[union-attr]
    dtype = "<u2" if vocab <= 1 << 16 else "<u4"
    for name, tokens in (("train.bin", data.train), ("held_out.bin", data.held_out)):
        np.asarray(tokens, dtype=dtype).tofile(folder / name)
    run = {"config": config.to_dict(), "data": fingerprint(data), "held_out_bytes": data.held_out_bytes}
    write_json(folder / "run.json", run)
    RunCheckpoints(folder, config, data).save(0, training)
    print(f"prepared: {folder}; now train_llama {folder}, or smet pretrain with the same options")
