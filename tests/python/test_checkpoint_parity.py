# SPDX-License-Identifier: BSD-3-Clause
"""C19: a checkpoint is the same bytes from Python and from C++, and either continues the other's run."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import smet
from checkpoint_helpers import reseal, rewrite
from smet.checkpoint import manifest
from test_parity import BATCH, IN, OUT, Net, formula

PROGRAM = Path(__file__).parents[2] / "build" / "tests" / "cpp" / "checkpoint_run"
pytestmark = pytest.mark.usefixtures("one_thread")


def in_cpp(load, steps, save, code=0, moments="fp32", masters=False):
    command = [PROGRAM, str(load), str(steps), str(save), moments, *["masters"] * masters]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return Path(done.stdout.strip()) if code == 0 else done.stderr


def in_python(load, steps, save, extra=None, moments="fp32", masters=False):
    torch.manual_seed(3)
    dtype = torch.bfloat16 if masters else torch.float32
    net = Net().to(dtype)
    opt = smet.CompactAdamW(net, lr=4e-3, warmup=5, moments=moments, master_weights=masters)
    topo = smet.TopologyScheduler(
        net, opt, interval=5, fraction=0.3, stop=1.0, total_steps=40, seed=9, track_explored=True
    )
    done, found = 0, None
    if load != "-":
        found = smet.load_checkpoint(load, net, opt, topo)
        done = found.step
    for step in range(done, done + steps):
        opt.zero_grad()
        output, target = net(formula(BATCH, IN, step).to(dtype)), formula(BATCH, OUT, step // 7).to(dtype)
        torch.nn.functional.mse_loss(output, target).backward()
        opt.step()
        topo.step()
    extra = extra if found is None else found.extra
    return smet.save_checkpoint(save, net, opt, topo, step=done + steps, extra=extra)


def moments_of(folder):
    """The dtypes in which a checkpoint holds Adam's moments."""
    with safe_open(folder / "optimizer.safetensors", "pt") as saved:
        names = [name for name in saved.keys() if "exp_avg" in name]  # noqa: SIM118 (no mapping)
        assert names
        return {saved.get_tensor(name).dtype for name in names}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Codes, their scales, and float32 of parameters with few columns.
DTYPES = {
    "fp32": {torch.float32},
    "bf16": {torch.bfloat16},
    "8bit": {torch.int8, torch.uint8, torch.float32},
}

EXTRA = {
    "text": '\u00e9\n"quoted" \U0001f600',
    "numbers": [1e-8, 1e16, 123456789.0, -0.0, 2**53, 0.1, 1.5e-7],
    "empty": {},
}


def test_c21_seeds_give_the_same_model_in_python_and_cpp(tmp_path):
    ours, theirs = in_python("-", 0, tmp_path / "python"), in_cpp("-", 0, tmp_path / "cpp")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert files(ours)[name] == files(theirs)[name]


@pytest.mark.parametrize("moments", ["fp32", "bf16", "8bit"])
def test_c19_cpp_gives_back_the_bytes_of_a_python_checkpoint(tmp_path, moments):
    ours = in_python("-", 12, tmp_path / "python", EXTRA, moments)
    assert moments_of(ours) == DTYPES[moments]
    assert files(in_cpp(ours, 0, tmp_path / "cpp", moments=moments)) == files(ours)


def test_c19_master_weights(tmp_path):
    """The same bytes after the same steps, given back by the other language, which continues the run."""
    ours = in_python("-", 12, tmp_path / "python", moments="bf16", masters=True)
    theirs = in_cpp("-", 12, tmp_path / "cpp", moments="bf16", masters=True)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert files(ours)[name] == files(theirs)[name]
    with safe_open(ours / "optimizer.safetensors", "pt") as saved:
        lows = [saved.get_tensor(name) for name in saved.keys() if name.endswith("/master_low")]  # noqa: SIM118
    assert len(lows) == len(list(Net().parameters())) and all(low.dtype == torch.int16 for low in lows)
    assert all(low.any() for low in lows)
    again = in_cpp(ours, 0, tmp_path / "again", moments="bf16", masters=True)
    assert files(again) == files(ours)
    on = in_cpp(ours, 7, tmp_path / "on", moments="bf16", masters=True)
    whole = in_python(theirs, 7, tmp_path / "whole", moments="bf16", masters=True)
    assert files(on)["optimizer.safetensors"] == files(whole)["optimizer.safetensors"]


def test_c19_a_stop_between_the_backward_passes_of_a_step(tmp_path):
    """C++ loads the gradients of a half step and saves the same bytes."""
    net = Net()
    opt = smet.CompactAdamW(net, lr=4e-3, warmup=5)
    topo = smet.TopologyScheduler(
        net, opt, interval=5, fraction=0.3, stop=1.0, total_steps=40, seed=9, track_explored=True
    )
    torch.nn.functional.mse_loss(net(formula(BATCH, IN, 0)), formula(BATCH, OUT, 0)).backward()
    ours = smet.save_checkpoint(tmp_path / "python", net, opt, topo, step=0, gradients=True)
    assert files(in_cpp(ours, 0, tmp_path / "cpp")) == files(ours)


@pytest.mark.parametrize("moments", ["fp32", "bf16", "8bit"])
def test_c19_python_gives_back_the_tensors_of_a_cpp_checkpoint(tmp_path, moments):
    """All but the generators that only Python has."""
    theirs = in_cpp("-", 12, tmp_path / "cpp", moments=moments)
    again = in_python(theirs, 0, tmp_path / "python", moments=moments)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (theirs / name).read_bytes() == (again / name).read_bytes()
    first, second = manifest.read(theirs), manifest.read(again)
    for key in ("layers", "optimizer", "topology", "run", "step", "aliases", "format", "version", "smet"):
        assert first[key] == second[key], key


def same_state(one, two):
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert manifest.read(one)["topology"] == manifest.read(two)["topology"]


@pytest.mark.parametrize("moments", ["fp32", "bf16", "8bit"])
@pytest.mark.parametrize(("own", "other"), [(in_python, in_cpp), (in_cpp, in_python)])
def test_c1_c19_a_run_that_the_other_language_saved_again_ends_in_the_same_bits(
    tmp_path, own, other, moments
):
    """12 steps, through the other language, and 13 more: topology updates on either side of the border."""
    whole = own("-", 25, tmp_path / "whole", moments=moments)
    first = own("-", 12, tmp_path / "first", moments=moments)
    through = other(first, 0, tmp_path / "through", moments=moments)
    same_state(own(through.parent, 13, tmp_path / "end", moments=moments), whole)
    same_state(own(first.parent, 13, tmp_path / "alone", moments=moments), whole)


@pytest.mark.parametrize(
    ("saved", "loaded"), [("fp32", "bf16"), ("bf16", "fp32"), ("fp32", "8bit"), ("8bit", "bf16")]
)
def test_c4_c19_both_languages_convert_moments_to_the_same_bits(tmp_path, saved, loaded):
    """Loaded by an optimizer of the other format, in either language: equal files, then and 13 steps on."""
    first = in_python("-", 12, tmp_path / "first", moments=saved)
    for steps in (0, 13):
        ours = in_python(first, steps, tmp_path / f"python{steps}", moments=loaded)
        theirs = in_cpp(first, steps, tmp_path / f"cpp{steps}", moments=loaded)
        assert moments_of(ours) == DTYPES[loaded]
        same_state(ours, theirs)


REFUSED = {
    "truncated": (
        lambda s: (s / "model.safetensors").write_bytes(b"12345"),
        "model.safetensors is damaged: it has 5",
    ),
    "flipped": (
        lambda s: (s / "optimizer.safetensors").write_bytes(
            (s / "optimizer.safetensors").read_bytes()[:-1] + b"x"
        ),
        "optimizer.safetensors is damaged: its SHA-256",
    ),
    "header": (
        lambda s: reseal(s, "model.safetensors", b"\xff" * 64),
        "model.safetensors is damaged: the header has",
    ),
    "manifest": (lambda s: (s / "manifest.json").write_bytes(b"{}"), "manifest.json is damaged"),
    "missing": (lambda s: (s / "run.safetensors").unlink(), "run.safetensors: No such file"),
    "newer": (
        lambda s: rewrite(s, lambda b: b.update(version=2)),
        "format version 2; this smet reads 1 to 1",
    ),
    "path": (
        lambda s: rewrite(s, lambda b: b["files"].update({"../x": b["files"].pop("run.safetensors")})),
        "no plain name inside the folder",
    ),
    "layer": (
        lambda s: rewrite(s, lambda b: b["layers"]["up"].update(n=3)),
        "layer 'up' was saved with 3 active",
    ),
    "hash": (
        lambda s: rewrite(s, lambda b: b["layers"]["up"].update(hash="0")),
        "topology hash of layer 'up'",
    ),
    "option": (lambda s: rewrite(s, lambda b: b["topology"]["config"].update(interval=7)), "interval = 7"),
    "group": (
        lambda s: rewrite(s, lambda b: b["optimizer"]["groups"][0]["params"].append("x")),
        'saved with "x"',
    ),
    "type": (lambda s: rewrite(s, lambda b: b["optimizer"].update(groups=3)), "number of parameter groups"),
    "state": (lambda s: rewrite(s, lambda b: b["topology"].update(steps="x")), "'steps' is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_x1_x2_x8_cpp_refuses_what_python_refuses(tmp_path, case):
    change, message = REFUSED[case]
    step = in_python("-", 3, tmp_path / "python")
    change(step)
    said = in_cpp(step, 1, tmp_path / "cpp", code=1)
    assert re.search(message, said), said
    with pytest.raises(smet.CheckpointError):
        in_python(step, 1, tmp_path / "again")


def test_c15_c16_cpp_saves_once_and_keeps_python_out(tmp_path):
    in_cpp("-", 2, tmp_path / "run")
    assert "is there already and whole" in in_cpp("-", 2, tmp_path / "run", code=1)
    with smet.checkpoint.durable.locked(tmp_path / "run"):
        assert "in use by another writer" in in_cpp("-", 3, tmp_path / "run", code=1)
