# SPDX-License-Identifier: BSD-3-Clause
"""What a CUDA graph is to a GPU, on the CPU: the calls of a step, kept and made again.

A graph holds the launches of the step it was captured in: with the addresses and the numbers that they had,
and nothing of the Python around them. `Capture` holds the operator calls of a step the same way: with the
tensors and the numbers that they had. A replay makes those calls and writes the results where the first ones
are. What the host worked out anew for every step is therefore what it was, which is what a test looks for.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import smet

READS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal")


class Capture(TorchDispatchMode):
    """`with capture: step()` does the step and keeps it; one that reads a tensor on the host is refused."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in READS:
            raise RuntimeError(f"{func.name()}: the host would wait for the device")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def host_reads(body):
    """Names of the operators by which `body`, anywhere below it, reads a tensor on the host."""
    with torch.profiler.profile() as profile:
        body()
    return sorted({event.name for event in profile.events()} & set(READS))


def numbers(rows, cols, step):
    i = torch.arange(rows * cols)
    hashed = (i * 7919 + step * 104729 + 12345) * 2654435761 % 4294967296
    return (hashed % 2048).float().reshape(rows, cols) / 1024 - 1


class Net(torch.nn.Module):
    """Sparse layers of one and of two segments with ragged ends, a bias, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.up = smet.SparseLinear(40, 1061, density=0.3, seed=5, name="up")
        self.norm = torch.nn.LayerNorm(1061)
        self.down = smet.SparseLinear(1061, 33, bias=False, density=0.2, seed=5, name="down")

    def forward(self, x):
        return self.down(torch.relu(self.norm(self.up(x))))


class Run:
    """A training run: inputs, learning rate and the loss's factor are tensors that stay where they are."""

    def __init__(self, *, capturable, dtype=torch.float32, interval=5, scaler=False, warmup=4, **options):
        torch.manual_seed(0)
        self.net = Net().to(dtype)
        self.lr = torch.tensor(4e-3)
        self.opt = smet.CompactAdamW(
            self.net,
            lr=self.lr,
            warmup=warmup,
            boost=2.0,
            capturable=capturable,
            on_nonfinite="ignore",
            **options,
        )
        self.opt._step_supports_amp_scaling = True
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.opt, lambda step: 0.9**step)
        self.topo = smet.TopologyScheduler(
            self.net, self.opt, interval=interval, fraction=0.3, stop=1.0, total_steps=1000, seed=9
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, enabled=scaler)
        self.dtype = dtype
        self.x, self.target = torch.zeros(8, 40, dtype=dtype), torch.zeros(8, 33)
        self.factor = torch.ones(())

    def fill(self, step, bad=()):
        """The inputs of this step; in those of `bad` every gradient is infinite or NaN."""
        self.x.copy_(numbers(8, 40, step).to(self.dtype))
        self.target.copy_(numbers(8, 33, step // 7))
        self.factor.fill_(float("inf") if step in bad else 1)

    def step(self):
        """What a graph may hold."""
        loss = torch.nn.functional.mse_loss(self.net(self.x).float(), self.target) * self.factor
        self.scaler.scale(loss).backward()
        self.scaler.step(self.opt)
        self.scaler.update()

    def after(self):
        """What is outside of it."""
        self.schedule.step()
        self.topo.step()

    def everything(self):
        named = [*self.net.named_parameters(), *self.net.named_buffers()]
        tensors = {name: tensor.detach().clone() for name, tensor in named}
        self.opt.settle()
        for name, parameter in self.net.named_parameters():
            state = self.opt.state[parameter]
            tensors |= {f"{name}.{key}": value.clone() for key, value in state.items()}
        counts = [self.topo.steps, self.topo.updates, self.topo.hash() % 2**62]
        ages = [[a, n] for layer in ("up", "down") for a, n in self.topo.ages(layer).items()]
        return tensors | {"lr": self.lr.clone(), "counts": torch.tensor(counts), "ages": torch.tensor(ages)}


def ordinary(steps, bad=(), capturable=False, **options):
    """Step after step, nothing captured."""
    run = Run(capturable=capturable, **options)
    for step in range(steps):
        run.opt.zero_grad()
        run.fill(step, bad)
        run.step()
        run.after()
    return run


def replayed(steps, bad=(), **options):
    """The first step captured, the others replays of it."""
    run, capture = Run(capturable=True, **options), Capture()
    for step in range(steps):
        run.fill(step, bad)
        if step == 0:
            with capture:
                run.step()
        else:
            capture.replay()
        run.after()
    return run


def differences(a, b):
    """Names of what is not the same, bit for bit."""
    a, b = a.everything(), b.everything()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
