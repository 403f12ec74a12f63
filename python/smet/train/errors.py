# SPDX-License-Identifier: BSD-3-Clause
"""What the trainer refuses: each error ends the command with one line on stderr and an exit code."""


class TrainerError(Exception):
    """Base of the errors below; `exit_code` is the command's."""

    exit_code = 1


class ConfigError(TrainerError, ValueError):
    """An option out of range, or options that do not go together. Raised before any data is read."""

    exit_code = 2


class DataError(TrainerError, ValueError):
    """Data that is missing, unreadable or too short. Raised before training starts."""

    exit_code = 2


class CheckpointRunError(TrainerError, ValueError):
    """The run's checkpoints are damaged or those of another model."""


class NonFiniteLossError(TrainerError, ArithmeticError):
    """The loss became NaN or infinite; the weights are those before the step that showed it."""
