"""Train language models of which only a fraction of the weights ever exists."""

import torch  # noqa: F401  (loads the libraries that _C links)

from smet import _C as _C

__version__ = "0.1.0"
