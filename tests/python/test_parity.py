# SPDX-License-Identifier: BSD-3-Clause
"""The same tiny network trained from Python and from C++: bytes of every tensor equal."""

import subprocess
from pathlib import Path

import torch

import smet

IN, HIDDEN, OUT, BATCH, STEPS = 40, 70, 33, 16, 300
PARITY_RUN = Path(__file__).parents[2] / "build" / "tests" / "cpp" / "parity_run"


def formula(rows, cols, step):
    i = torch.arange(rows * cols)
    hashed = (i * 7919 + step * 104729 + 12345) * 2654435761 % 4294967296
    return (hashed % 2048).float().reshape(rows, cols) / 1024 - 1


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = smet.SparseLinear(IN, HIDDEN, density=0.3, seed=5, name="up")
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.down = smet.SparseLinear(HIDDEN, OUT, bias=False, density=0.2, seed=5, name="down")

    def forward(self, x):
        return self.down(torch.relu(self.norm(self.up(x))))


def train_in_python():
    net = Net()
    opt = smet.CompactAdamW(net, lr=4e-3, weight_decay=0.01, warmup=50)
    topo = smet.TopologyScheduler(
        net, opt, interval=50, fraction=0.3, stop=1.0, total_steps=STEPS + 1, seed=9
    )
    for step in range(STEPS):
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(net(formula(BATCH, IN, step)), formula(BATCH, OUT, step // 7))
        loss.backward()
        opt.step()
        topo.step()
    assert topo.updates == 6
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for name, parameter in net.named_parameters():
        for key in ("exp_avg", "exp_avg_sq", "cohort", "births"):
            if key in opt.state[parameter]:
                tensors[f"{name}.{key}"] = opt.state[parameter][key]
    return {name: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}


def read_tensors(path):
    data, tensors, at = path.read_bytes(), {}, 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, size = data[at:end].decode().rsplit(" ", 1)
        at = end + 1 + int(size)
        tensors[name] = data[end + 1 : at]
    return tensors


def test_python_and_cpp_training_bytes_equal(tmp_path):
    done = subprocess.run([PARITY_RUN, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert done.stdout == "updates 6\n"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = train_in_python()
    finally:
        torch.set_num_threads(threads)
    theirs = read_tensors(tmp_path / "out")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
