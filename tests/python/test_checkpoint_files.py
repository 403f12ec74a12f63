# SPDX-License-Identifier: BSD-3-Clause
"""A checkpoint is complete and checksummed, or rejected by name; rejecting changes nothing (promise 5)."""

import errno
import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import smet
from checkpoint_helpers import OPERATIONS, STEPS, Run, differences, numbers_of, refused, rewrite, tensors_of
from smet.checkpoint import checkpoint_steps, durable, folder, generators, manifest, tensor_file

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def step(tmp_path):
    """A step folder that a test may damage."""
    run = Run()
    run.advance(31)
    return run.save(tmp_path / "checkpoints")


def test_files_are_those_of_the_safetensors_library_and_equal_when_saved_twice(tmp_path):
    run = Run()
    run.advance(31)
    step, again = run.save(tmp_path / "a"), run.save(tmp_path / "b")
    tensors = {}
    for name, entry in json.loads((step / manifest.NAME).read_bytes())["manifest"]["files"].items():
        loaded = load_file(step / name)
        assert {key: tensor_file.describe(value) for key, value in loaded.items()} == entry["tensors"]
        tensors |= loaded
    for name, layer in smet.sparse_layers(run.model):
        assert torch.equal(tensors[f"{name}.mask"], layer.mask)
        assert torch.equal(tensors[f"{name}.values"], layer.values)
    assert "head.weight" not in tensors  # one tensor, two names
    for file in step.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


# C5-C9: what does not fit


def test_c5_match_by_name_not_order(tmp_path):
    def model(order):
        torch.manual_seed(0)
        layers = {"a": torch.nn.Linear(8, 8), "b": torch.nn.Linear(8, 8)}
        return torch.nn.ModuleDict({name: layers[name] for name in order})

    first, second = model("ab"), model("ba")
    smet.sparsify_(first)
    smet.sparsify_(second)
    opt, other = smet.CompactAdamW(first), smet.CompactAdamW(list(second.parameters()))
    for param in first["a"].parameters():
        param.grad = torch.ones_like(param)
    opt.step()
    smet.save_checkpoint(tmp_path, first, opt, step=1)
    smet.load_checkpoint(tmp_path, second, other)
    for name, param in first.named_parameters():
        twin = dict(second.named_parameters())[name]
        assert torch.equal(param, twin)
        assert opt.state[param]["step"] == other.state[twin]["step"]
        assert torch.equal(opt.state[param]["exp_avg"], other.state[twin]["exp_avg"])


def test_c6_wrong_model_names_the_key(step):
    refused(
        step,
        r"layer 'layers.0' was saved with 528 .* here it has 660 \(density 0.5\)",
        lambda: Run(density=0.5),
    )
    refused(step, "'embed.weight' is F32 .* has F64", lambda: Run(dtype=torch.float64))
    refused(step, "grow = random, this scheduler has gradient", lambda: Run(grow="gradient"))
    refused(step, "optimizer CompactAdamW; here it is SGD", lambda: Run(opt_class=torch.optim.SGD))

    def wider():
        run = Run()
        run.model.norm.running_mean = torch.zeros(41)
        return run

    run = wider()
    with pytest.raises(smet.CheckpointError, match=r"'norm.running_mean' is F32 \[40\].* F32 \[41\]"):
        smet.load_checkpoint(step, run.model)


def test_c7_missing_and_extra_keys(step):
    run = Run()
    run.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(smet.CheckpointError, match=r"no tensor 'extra.bias' .*\(2 missing\)"):
        smet.load_checkpoint(step, run.model)
    run = Run()
    del run.model.norm
    with pytest.raises(smet.CheckpointError, match=r"'norm.bias' has no place in the model here \(5 such\)"):
        smet.load_checkpoint(step, run.model)
    run = Run()
    opt = smet.CompactAdamW(list(run.model.parameters())[1:])
    with pytest.raises(smet.CheckpointError, match=r"group 0 was saved with 'embed.weight'"):
        smet.load_checkpoint(step, run.model, opt)


def test_what_was_not_saved_is_not_pretended(tmp_path):
    run = Run()
    smet.save_checkpoint(tmp_path, run.model, step=1)
    for given, match in (
        ({"opt": run.opt}, "without an optimizer"),
        ({"topology": run.topo}, "without a topology scheduler"),
        ({"lr_scheduler": run.lr}, "without lr_scheduler"),
    ):
        with pytest.raises(smet.CheckpointError, match=match):
            smet.load_checkpoint(tmp_path, run.model, **given)
    with pytest.raises(smet.CheckpointError, match="holds no checkpoint"):
        smet.load_checkpoint(tmp_path / "nowhere", run.model)
    with pytest.raises(smet.CheckpointError, match="'run/extra/x' is of type set"):
        run.save(tmp_path, extra={"x": {1}})
    with pytest.raises(smet.CheckpointError, match="step is -1"):
        run.save(tmp_path, step=-1)
    assert checkpoint_steps(tmp_path) == [1]


def test_c8_a_checkpoint_of_version_1_loads(tmp_path):
    """The committed files of format version 1; made by Run().advance(31) and save()."""
    run = Run(seed=1)
    assert run.load(Path(__file__).parent / "data" / "checkpoint-v1").step == 31
    assert f"{run.topo.hash():016x}" == "79fb58c18ee4efae"
    assert run.topo.steps == 5 and run.opt.state[run.model.embed.weight]["step"] == 5
    run.advance(STEPS * len(OPERATIONS) - run.done)
    assert run.topo.updates == 2


def test_c9_newer_format_version_rejected(step):
    rewrite(step, lambda body: body.update(version=2))
    refused(step, "format version 2; this smet reads 1 to 1")
    rewrite(step, lambda body: body.update(version=1, format="other"))
    refused(step, "format is 'other'")


# C18: other devices


def test_c18_from_one_device_to_another_and_back(tmp_path, device):
    """Saved on the CPU, continued on `device`, saved there, loaded on the CPU: every bit."""
    first, there, back = Run(), Run(seed=1, device=device), Run(seed=2)
    first.advance(31)
    there.load(first.save(tmp_path / "a"))
    assert {param.device.type for param in there.model.parameters()} == {device}
    on_cpu = {name: tensor.cpu() for name, tensor in tensors_of(there).items()}
    assert differences(tensors_of(first), on_cpu) == []
    there.advance(30)
    back.load(there.save(tmp_path / "b"))
    on_cpu = {name: tensor.cpu() for name, tensor in tensors_of(there).items()}
    assert differences(on_cpu, tensors_of(back)) == []
    assert numbers_of(back) == numbers_of(there) and there.topo.updates == 2
    back.advance(STEPS * len(OPERATIONS) - back.done)


def test_c18_generators_of_a_device_that_is_not_here_are_left(tmp_path, monkeypatch):
    """A checkpoint of a machine with more GPUs loads; the generators of this one are set."""
    run, states = Run(), generators.states
    with monkeypatch.context() as patch:
        more = torch.arange(16, dtype=torch.uint8)
        patch.setattr(generators, "states", lambda: states() | {"cuda:97": more})
        path = run.save(tmp_path)
    assert "generators/0/cuda:97" in load_file(path / "run.safetensors")
    noise = torch.rand(5)
    Run(seed=1).load(path)
    assert torch.equal(torch.rand(5), noise)


# C11, C14-C16: memory, disk, old checkpoints, two writers


def test_c11_loading_does_not_double_memory(tmp_path):
    """Anonymous memory at its peak: no more than one tensor above what it was."""
    model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000, bias=False) for _ in range(12)))
    opt = smet.CompactAdamW(model)
    smet.save_checkpoint(tmp_path, model, opt, step=1)
    peak = 0
    original = torch.Tensor.copy_

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    def copy(self, *arguments, **options):
        nonlocal peak
        result = original(self, *arguments, **options)
        peak = max(peak, anonymous())
        return result

    before = anonymous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "copy_", copy)
        smet.load_checkpoint(tmp_path, model, opt)
    assert peak > 0 and peak - before < 2 * 4_000_000  # of 144 MB


def test_c14_disk_full(tmp_path, monkeypatch):
    run = Run()
    run.save(tmp_path, step=1)
    before = sorted(entry.name for entry in tmp_path.iterdir())

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "write", full)
        run.save(tmp_path, step=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    assert run.load(tmp_path).step == 1


def test_c14_short_writes_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    run, write = Run(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
        run.save(tmp_path, step=2)
    smet.verify_checkpoint(tmp_path / "step-00000002")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run.save(tmp_path / "file", step=3)


def test_every_file_is_flushed_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    """fsync of each file, the manifest last, then of the folder; the rename; then fsync of its parent."""
    events, fsync, rename = [], os.fsync, folder.Path.rename

    def logged_fsync(descriptor):
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def logged_rename(self, target):
        sizes = {entry.name: entry.stat().st_size for entry in self.iterdir()}
        events.append(("rename", target.name))
        assert all(sizes.values())
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", logged_fsync)
        patch.setattr(folder.Path, "rename", logged_rename)
        Run().save(tmp_path / "root", step=2)
    files = ("model.safetensors", "optimizer.safetensors", "run.safetensors", "manifest.json")
    flushed = [("fsync", name) for name in (*files, ".saving-00000002")]
    assert events == [*flushed, ("rename", "step-00000002"), ("fsync", "root")]


def test_c15_keep_last_k_never_deletes_the_last_good_one(tmp_path, monkeypatch):
    run = Run()
    for step in (1, 2, 3, 4):
        run.save(tmp_path, step=step, keep=2)
    assert checkpoint_steps(tmp_path) == [3, 4]
    with pytest.raises(smet.CheckpointError, match="is there already and whole"):
        run.save(tmp_path, step=4)
    publish = folder.publish

    def corrupted(unfinished, root, step):
        target = publish(unfinished, root, step)
        (target / "model.safetensors").write_bytes(b"")
        return target

    with (
        monkeypatch.context() as patch,
        pytest.raises(smet.CheckpointError, match=r"model.safetensors.*has 0 bytes"),
    ):
        patch.setattr(folder, "publish", corrupted)
        run.save(tmp_path, step=5, keep=1)
    assert checkpoint_steps(tmp_path) == [3, 4, 5]
    with pytest.warns(UserWarning, match="passed over a damaged checkpoint: .*step-00000005"):
        assert run.load(tmp_path).step == 4
    run.save(tmp_path, step=5, keep=1)  # a damaged one is replaced
    assert checkpoint_steps(tmp_path) == [5]
    assert run.load(tmp_path).step == 5


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(tmp_path):
    run = Run()
    path = run.save(tmp_path, step=1)
    shutil.copytree(path, tmp_path / ".saving-00000002")
    shutil.copytree(path, tmp_path / ".removed-00000000")
    assert run.load(tmp_path).step == 1
    run.save(tmp_path, step=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "step-00000001", "step-00000002"]


def test_c16_two_writers_in_one_folder_are_refused(tmp_path):
    with (
        durable.locked(tmp_path),
        pytest.raises(smet.CheckpointError, match=f"another writer .process {os.getpid()}"),
    ):
        Run().save(tmp_path, step=1)
    assert checkpoint_steps(tmp_path) == []
    Run().save(tmp_path, step=1)
    assert checkpoint_steps(tmp_path) == [1]


@pytest.mark.parametrize("sparse", [True, False])
def test_s8_a_model_on_the_meta_device_is_refused_and_loads_once_it_has_memory(tmp_path, sparse):
    """Copying to it would silently do nothing."""

    def build(device):
        net = torch.nn.Sequential(
            torch.nn.Linear(16, 32, device=device), torch.nn.Linear(32, 8, device=device)
        )
        if sparse:
            smet.sparsify_(net, density=0.5, skip=(), init_std=0.02)
        return net

    net = build("cpu")
    smet.save_checkpoint(tmp_path / "cpu", net, step=1)
    meta = build("meta")
    for use in (smet.load_checkpoint, functools.partial(smet.save_checkpoint, step=2)):
        with pytest.raises(smet.CheckpointError, match="is on the meta device and has no values"):
            use(tmp_path / "cpu", meta)
    smet.load_checkpoint(tmp_path / "cpu", meta.to_empty(device="cpu"))
    assert all(map(torch.equal, meta.state_dict().values(), net.state_dict().values()))
