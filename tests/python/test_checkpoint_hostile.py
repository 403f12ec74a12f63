# SPDX-License-Identifier: BSD-3-Clause
"""Broken and hostile checkpoint files: a typed error, no code, nothing changed (promises 5 and 6)."""

import hashlib
import os
import pickle
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import smet
from checkpoint_helpers import Run, refused, reseal, rewrite
from smet.checkpoint import manifest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def step(tmp_path):
    """A step folder that a test may damage."""
    run = Run()
    run.advance(31)
    return run.save(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "run.safetensors", "manifest.json"]
)
def test_x1_truncated_anywhere_is_a_typed_error(step, name):
    content = (step / name).read_bytes()
    cuts = range(0, len(content), 256 if len(content) < 20000 else 4096)
    for length in (*cuts, len(content) - 1):
        (step / name).write_bytes(content[:length])
        with pytest.raises(smet.CheckpointError, match=f"{name}.*is damaged"):
            smet.verify_checkpoint(step)
    refused(step, f"{name}.*is damaged")
    (step / name).unlink()
    refused(step, f"{name}.*No such file|holds no checkpoint")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "run.safetensors", "manifest.json"]
)
def test_x2_a_flipped_bit_anywhere_is_a_checksum_error(step, name):
    content = bytearray((step / name).read_bytes())
    places = {*range(0, 80), *range(80, len(content), max(1, len(content) // 100)), len(content) - 1}
    for place in sorted(places):
        content[place] ^= 1 << (place % 8)
        (step / name).write_bytes(content)
        with pytest.raises(smet.CheckpointError, match=f"{name} is damaged"):
            smet.verify_checkpoint(step)
        content[place] ^= 1 << (place % 8)
    (step / name).write_bytes(content)
    smet.verify_checkpoint(step)


HOSTILE = {
    "empty": b"",
    "html": b"<!DOCTYPE html><html><title>Sign in</title></html>",
    "zip": b"PK\x03\x04" + bytes(100),
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 200 MB": struct.pack("<Q", 200_000_000) + b"{}",
    "no JSON": struct.pack("<Q", 8) + b'{"a": 1,',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_x3_foreign_content_is_a_typed_error_even_with_a_fitting_digest(step, case):
    (step / "model.safetensors").write_bytes(HOSTILE[case])
    refused(step, "model.safetensors is damaged")
    reseal(step, "model.safetensors", HOSTILE[case])
    refused(step, "model.safetensors")
    (step / manifest.NAME).write_bytes(HOSTILE[case])
    refused(step, "manifest.json is damaged")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_x4_a_pickle_is_never_executed(step, tmp_path):
    sentinel = tmp_path / "executed"
    payload = pickle.dumps(Bomb(sentinel))
    for name in ("model.safetensors", "optimizer.safetensors", "run.safetensors"):
        original = (step / name).read_bytes()
        reseal(step, name, payload)
        refused(step, name)
        reseal(step, name, original)
    (step / manifest.NAME).write_bytes(payload)
    refused(step, "manifest.json is damaged")
    torch.save({"x": Bomb(sentinel)}, tmp_path / "bomb.pt")
    with pytest.raises(pickle.UnpicklingError):
        Run().opt.load_state_dict(torch.load(tmp_path / "bomb.pt", weights_only=True))
    assert not sentinel.exists()
    assert pickle.loads(payload) == 0 and sentinel.exists()  # the bomb is live


def change_tensor(name, key, change):
    """Change one tensor of a file; digests, names and shapes fit."""

    def damage(step):
        tensors = load_file(step / name)
        tensors[key] = change(tensors[key].clone())
        save_file(tensors, step / name)
        reseal(step, name, (step / name).read_bytes())

    return damage


def set_bits(mask):
    mask[0, 0] = -1
    return mask


def pad_bit(mask):
    """Moves a position of the first row to where no column is (40 columns in two words)."""
    word, bit = next((w, b) for w in range(2) for b in range(8) if mask[0, w] >> b & 1)
    mask[0, word] &= ~(1 << bit)
    mask[0, 1] |= 1 << 9
    return mask


def moved(mask):
    """As many positions, but others."""
    return mask.flip(0)


def added(value):
    return lambda tensor: tensor + value


CORRUPT = {
    "positions added": (
        change_tensor("model.safetensors", "layers.0.mask", set_bits),
        "layers.0.* active positions for 528 values",
    ),
    "position beyond the last column": (
        change_tensor("model.safetensors", "layers.0.mask", pad_bit),
        "layers.0.*beyond column 40",
    ),
    "positions moved": (
        change_tensor("model.safetensors", "layers.0.mask", moved),
        "topology hash of layer 'layers.0'",
    ),
    "cohort never born": (
        change_tensor("optimizer.safetensors", "layers.0.values/cohort", added(100)),
        "layers.0.values: cohort|cohort 100 was born at step -1",
    ),
    "birth in the future": (
        change_tensor("optimizer.safetensors", "layers.0.values/births", added(2**40)),
        "was born at step 1099511627776",
    ),
    "birth negative": (
        change_tensor("optimizer.safetensors", "layers.0.values/births", added(-9)),
        "was born at step -9",
    ),
    "step negative": (
        change_tensor("optimizer.safetensors", "layers.0.values/step", added(-99)),
        "'layers.0.values': step is -",
    ),
    "generator": (
        change_tensor("run.safetensors", "generators/0/python", lambda state: state[:-1]),
        "generators/0/python.* the manifest says",
    ),
    "generator of torch": (
        change_tensor("run.safetensors", "generators/0/torch", lambda state: state.fill_(255)),
        "generator 'torch' is none",
    ),
    "generator of NumPy past its keys": (
        change_tensor("run.safetensors", "generators/0/numpy", lambda state: state.fill_(10**6)),
        "generator 'numpy' is none: it stands at number 1000000 of 624",
    ),
    "generator of Python": (
        change_tensor("run.safetensors", "generators/0/python", lambda state: state.neg_()),
        "generator 'python' is none",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_x6_x7_wrong_positions_and_ages_in_a_valid_file(step, case):
    damage, match = CORRUPT[case]
    damage(step)
    smet.verify_checkpoint(step)
    refused(step, match)


LIES = {
    "shape": (
        lambda b: b["files"]["model.safetensors"]["tensors"]["norm.bias"].update(shape=[41]),
        "'norm.bias' is .*40",
    ),
    "dtype": (
        lambda b: b["files"]["model.safetensors"]["tensors"]["norm.bias"].update(dtype="I32"),
        "'norm.bias' is .*F32",
    ),
    "tensor": (
        lambda b: b["files"]["model.safetensors"]["tensors"].pop("norm.bias"),
        "'norm.bias' is not in the manifest",
    ),
    "more": (
        lambda b: b["files"]["run.safetensors"]["tensors"].update(x={"dtype": "F32", "shape": []}),
        "'x' is missing",
    ),
    "file": (lambda b: b["files"].pop("model.safetensors"), "no file model.safetensors"),
    "optimizer file": (
        lambda b: b["files"].pop("optimizer.safetensors"),
        "optimizer state of 'embed.weight' is missing",
    ),
    "hash": (lambda b: b["layers"]["layers.0"].update(hash="0" * 16), "topology hash of layer 'layers.0'"),
    "n": (lambda b: b["layers"]["layers.0"].update(n=5), "saved with 5 active weights"),
    "no layer": (lambda b: b["layers"].pop("layers.0"), "'layers.0' was saved as no sparse layer"),
    "clock": (lambda b: b["topology"].update(updates=10**6), "updates, which cannot be"),
    "clock type": (lambda b: b["topology"].update(steps="x"), "'steps'"),
    "topology layers": (lambda b: b["topology"].update(layers=3), "'layers' is not an object"),
    "group": (lambda b: b["optimizer"]["groups"][0]["params"].append("x"), "was saved with 'x'"),
    "groups": (lambda b: b["optimizer"].update(groups=None), "it has no parameter groups"),
    "option": (lambda b: b["optimizer"]["groups"][0]["options"].update(lr=-1.0), "Invalid learning rate"),
    "tag": (lambda b: b["run"].update(lr_scheduler={"$pickle": "x"}), "an entry '.pickle'"),
    "scheduler": (
        lambda b: b["run"]["lr_scheduler"].pop("last_epoch"),
        "lr_scheduler does not fit .*'last_epoch'",
    ),
    "step": (lambda b: b.update(step=-1), "'step' is -1"),
    "files": (lambda b: b.update(files=[]), "'files' is"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_manifest_with_a_fitting_digest(step, case):
    change, match = LIES[case]
    rewrite(step, change)
    refused(step, match)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "..", "a/../../b", "x\n", "", "manifest.json"]
)
def test_x8_path_traversal_and_links(step, tmp_path, name):
    shutil.copy(step / "model.safetensors", tmp_path)
    link = step / "model.safetensors"
    link.unlink()
    link.symlink_to(tmp_path / "model.safetensors")
    refused(step, "model.safetensors is not a plain file")

    def redirect(body):
        body["files"][name] = body["files"].pop("model.safetensors")

    rewrite(step, redirect)
    refused(step, "expected a plain name inside the folder")


def test_json_that_is_too_deep_or_not_json(step):
    for body in (b"[" * 100000, b'{"a": NaN}', b"[]", b'"x"', b"{"):
        digest = hashlib.sha256(body).hexdigest().encode()
        (step / manifest.NAME).write_bytes(b'{"sha256": "' + digest + b'", "manifest": ' + body + b"}\n")
        refused(step, "manifest.json is damaged")
