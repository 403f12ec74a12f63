# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints: one folder per step, complete and checksummed, or rejected by name.

    step-00000300/
        model.safetensors      parameters and buffers by canonical name: values, masks, dense parameters
        optimizer.safetensors  NAME/exp_avg, NAME/exp_avg_sq, NAME/cohort, NAME/births, NAME/step, and with
                               8-bit moments NAME/exp_avg_scale, NAME/exp_avg_sq_scale, with master
                               weights NAME/master_low
        run.safetensors        generator states; gradients and explored bitmaps where there are any
        manifest.json          format version, SHA-256, names, dtypes and shapes of all of these, the topology
                               hash of each layer, optimizer options, topology clock, schedules, what the
                               caller gave

The folder is written under a temporary name; every file, the manifest last, and the folder itself are flushed
to disk; then it is renamed: a step folder that exists is whole. Loading reads tensors and JSON, never code.
"""

from smet.checkpoint.errors import CheckpointError
from smet.checkpoint.folder import checkpoint_steps, latest_checkpoint, verify_checkpoint
from smet.checkpoint.load import Checkpoint, load_checkpoint
from smet.checkpoint.save import save_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checkpoint_steps",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "verify_checkpoint",
]
