# SPDX-License-Identifier: BSD-3-Clause
"""What a checkpoint is refused for."""


class CheckpointError(ValueError):
    """A checkpoint cannot be written, is damaged, or does not fit; the message names the file or the entry.

    A load that raises it has changed nothing; a save that raises it has left all older checkpoints.
    """
