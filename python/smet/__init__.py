# SPDX-License-Identifier: BSD-3-Clause
"""Train language models of which only a fraction of the weights ever exists.

SKIP is what `sparsify_` leaves dense unless told otherwise, cmake_prefix_path what a C++ project that uses
the library gives to CMake, and __version__ the version of both.

Names are resolved on first use (PEP 562), so that `smet --help` answers before torch (2 s) is loaded.
The operators are registered as soon as both packages are imported, in whichever order.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    cmake_prefix_path: str
    from smet._info import info as info
    from smet._linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
    from smet._plan import SKIP as SKIP
    from smet._sharded import average_sparse_gradients as average_sparse_gradients
    from smet._sharded import clip_grad_norm_ as clip_grad_norm_
    from smet.checkpoint import Checkpoint as Checkpoint
    from smet.checkpoint import CheckpointError as CheckpointError
    from smet.checkpoint import latest_checkpoint as latest_checkpoint
    from smet.checkpoint import load_checkpoint as load_checkpoint
    from smet.checkpoint import save_checkpoint as save_checkpoint
    from smet.checkpoint import verify_checkpoint as verify_checkpoint
    from smet.compact_adamw import CompactAdamW as CompactAdamW
    from smet.convert import ConversionTable as ConversionTable
    from smet.convert import densify_ as densify_
    from smet.convert import sparse_layers as sparse_layers
    from smet.convert import sparse_parameters as sparse_parameters
    from smet.convert import sparsify_ as sparsify_
    from smet.export import ExportError as ExportError
    from smet.export import export_csr as export_csr
    from smet.export import export_hf as export_hf
    from smet.memory_estimate import estimate as estimate
    from smet.memory_report import report as report

__version__ = "0.1.0"

_MODULE_OF = {
    "SKIP": "_plan",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "ConversionTable": "convert",
    "CompactAdamW": "compact_adamw",
    "ExportError": "export",
    "SparseLinear": "sparse_linear",
    "TopologyScheduler": "topology_scheduler",
    "TopologyUpdate": "topology_scheduler",
    "average_sparse_gradients": "_sharded",
    "clip_grad_norm_": "_sharded",
    "densify_": "convert",
    "estimate": "memory_estimate",  # a module of the same name would take the function's place
    "export_csr": "export",
    "export_hf": "export",
    "info": "_info",
    "latest_checkpoint": "checkpoint",
    "linear_cross_entropy": "_linear_cross_entropy",
    "load_checkpoint": "checkpoint",
    "report": "memory_report",
    "save_checkpoint": "checkpoint",
    "sparse_layers": "convert",
    "sparse_parameters": "convert",
    "sparsify_": "convert",
    "verify_checkpoint": "checkpoint",
}
__all__ = ["__version__", "cmake_prefix_path", *sorted(_MODULE_OF)]


def _load_engine() -> Any:
    """Load `_C`, which registers the operators, and their fakes; torch first, whose libraries `_C` links."""
    importlib.import_module("torch")
    engine = importlib.import_module("smet._C")
    if importlib.util.find_spec("smet._fakes"):
        importlib.import_module("smet._fakes")
    return engine


def __getattr__(name: str) -> Any:
    if name == "_C":
        return _load_engine()
    if name == "cmake_prefix_path":  # for -DCMAKE_PREFIX_PATH, as torch.utils.cmake_prefix_path
        globals()[name] = path = str(Path(_load_engine().__file__).parent / "share" / "cmake")
        return path
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'smet' has no attribute '{name}'")
    _load_engine()
    value = getattr(importlib.import_module(f"smet.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


class _AfterTorch(MetaPathFinder):
    """Loads the engine at the end of a later `import torch`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Torch's own spec, whose loader takes our step after its own; None for every other module.

        Asking is not importing (`importlib.util.find_spec("torch")`): the finder stays until torch has run.
        """
        if name != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        run_torch = spec.loader.exec_module

        def run_both(module: ModuleType) -> None:
            run_torch(module)
            sys.meta_path.remove(self)
            _load_engine()

        spec.loader.exec_module = run_both  # type: ignore[method-assign]
        return spec


if "torch" in sys.modules:
    _load_engine()
else:
    sys.meta_path.insert(0, _AfterTorch())
