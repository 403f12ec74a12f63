# SPDX-License-Identifier: BSD-3-Clause
"""What an export is refused for."""


class ExportError(ValueError):
    """The source cannot be exported, or not to there; the message says why. Nothing is left behind."""
