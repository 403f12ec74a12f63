# SPDX-License-Identifier: BSD-3-Clause
"""Trained models for other programs: a dense transformers checkpoint, or sparse matrices in CSR form.

Both read a run or a checkpoint tensor by tensor: no optimizer state is touched, the sparse model is never
built, and no dense layer exists but those of the file that is being written.
"""

from smet.export.csr import export_csr
from smet.export.errors import ExportError
from smet.export.hf import export_hf

__all__ = ["ExportError", "export_csr", "export_hf"]
