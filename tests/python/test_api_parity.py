# SPDX-License-Identifier: BSD-3-Clause
"""Every option exists in Python and C++ under one name with one default.

The C++ side is not listed here: tests/cpp/print_options.py finds the options in the headers and prints their
defaults from compiled objects. What only one side can have is in ONLY_PYTHON and ONLY_CPP, with the reason.
"""

import inspect
import json
import re
import subprocess
from pathlib import Path

import pytest

import smet

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "tests" / "cpp" / "print_options"

# C++ options -> the Python signature with the same ones, and how the C++ function begins whose own arguments
# are the rest of it.
PAIRS = {
    "SparseLinearOptions": (smet.SparseLinear, "explicit SparseLinearImpl("),
    "CompactAdamWOptions": (smet.CompactAdamW, "CompactAdamW(std::vector"),
    "TopologyOptions": (smet.TopologyScheduler, "TopologyScheduler(torch::nn::Module& model, torch::optim"),
    "SparsifyOptions": (smet.sparsify_, "sparsify_("),
    "SaveOptions": (smet.save_checkpoint, "save_checkpoint("),
    "LoadOptions": (smet.load_checkpoint, "load_checkpoint("),
    "LinearCrossEntropyOptions": (smet.linear_cross_entropy, "linear_cross_entropy("),
}
NO_STATE = "torch's C++ schedulers have no state dict; CheckpointRun.state holds what the caller writes there"
NO_GROUP = "C++ has no default process group; train_llama reduces the gradients itself"
ONLY_PYTHON = {
    ("CompactAdamW", "process_group"): NO_GROUP,
    ("TopologyScheduler", "process_group"): NO_GROUP,
    ("save_checkpoint", "lr_scheduler"): NO_STATE,
    ("save_checkpoint", "scaler"): "torch has no GradScaler in C++",
    ("save_checkpoint", "extra"): "CheckpointRun.state holds it, as JSON",
    ("load_checkpoint", "lr_scheduler"): NO_STATE,
    ("load_checkpoint", "scaler"): "torch has no GradScaler in C++",
}
FSDP = "torch has no FSDP in C++"
WITHOUT_CPP = {
    "CheckpointError": "c10::ValueError",
    "ExportError": "of the exports",
    "average_sparse_gradients": FSDP,
    "clip_grad_norm_": FSDP,
    "cmake_prefix_path": "of the Python package",
    "estimate": "reads transformers' configurations; smet estimate",
    "export_csr": "reads transformers' configurations; smet export",
    "export_hf": "writes a transformers checkpoint; smet export",
    "info": "smet info",
    "sparse_parameters": FSDP,
    "__version__": "smet::version()",
    "SKIP": "smet::default_skip(), compared as a default",
}
ONLY_CPP = {
    ("SaveOptions", "run"): "extra, lr_scheduler and what only Python understands, as loaded",
    ("CompactAdamWOptions", "lr_tensor"): "Python's lr takes a number or a tensor",
}
REQUIRED = {
    "total_steps": 0,
    "step": 0,
}  # C++ cannot leave a field without a value; 0 is refused, or the start


@pytest.fixture(scope="module")
def cpp():
    return json.loads(subprocess.run([PROGRAM], capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def headers():
    """The code of all public headers on one line."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "include" / "smet").glob("*.h")))
    return re.sub(r"\s+", " ", re.sub(r"//.*", "", text))


def arguments(headers, start):
    """Names of the arguments of the declaration that begins so, in order."""
    found = re.search(re.escape(start) + r"[^;]*?\);", headers)
    assert found, f"no such C++ function: {start}"
    inside = found[0].partition("(")[2].removesuffix(");")
    return re.findall(r"(\w+)(?: = [^,]+)?(?:,|$)", re.sub(r"<[^<>]*>", "", inside))


def plain(default):
    """A Python default as JSON has it."""
    return list(default) if isinstance(default, tuple) else default


def test_every_struct_of_options_is_compared(cpp):
    assert set(cpp) == set(PAIRS)


@pytest.mark.parametrize("struct", PAIRS)
def test_options_have_one_name_and_one_default(struct, cpp, headers):
    function, start = PAIRS[struct]
    parameters = dict(inspect.signature(function).parameters)
    *own, _ = arguments(headers, start)  # the last one is the options
    assert list(parameters)[: len(own)] == own
    for name in own:
        parameters.pop(name)
    for name in [name for kind, name in ONLY_PYTHON if kind == function.__name__]:
        parameters.pop(name)
    options = {name: value for name, value in cpp[struct].items() if (struct, name) not in ONLY_CPP}
    assert set(options) == set(parameters)
    for name, parameter in parameters.items():
        if name in ("in_features", "out_features"):
            continue
        if parameter.default is inspect.Parameter.empty:
            assert options[name] == REQUIRED[name]
        else:
            assert options[name] == plain(parameter.default), name


def test_exceptions_are_needed(cpp):
    for kind, name in ONLY_PYTHON:
        struct, (function, _) = next((s, p) for s, p in PAIRS.items() if p[0].__name__ == kind)
        assert name in inspect.signature(function).parameters and name not in cpp[struct]
    for struct, name in ONLY_CPP:
        assert name in cpp[struct] and name not in inspect.signature(PAIRS[struct][0]).parameters


def test_every_public_name_exists_in_cpp(headers):
    missing = {name for name in smet.__all__ if not re.search(rf"\b{name}\b", headers)}
    assert missing == set(WITHOUT_CPP)


@pytest.mark.parametrize(
    "function",
    [smet.report, smet.densify_, smet.sparse_layers, smet.latest_checkpoint, smet.verify_checkpoint],
)
def test_functions_have_the_same_arguments(function, headers):
    found = arguments(headers, f" {function.__name__}(")
    assert found == list(inspect.signature(function).parameters)
