# SPDX-License-Identifier: BSD-3-Clause
"""Any sequence of training, saving, loading, moving and freezing keeps the invariants of the topology."""

import copy

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import smet
from smet import _C
from topology_helpers import OPS, active, bits, pack, unpack

SIZE = st.sampled_from([1, 3, 31, 32, 33, 64, 65])


def weights(layer, state):
    """{flat position: bytes of value, moments and cohort}"""
    arrays = [bits(layer.values), bits(state["exp_avg"]), bits(state["exp_avg_sq"]), bits(state["cohort"])]
    return dict(zip(active(layer), zip(*arrays, strict=True), strict=True))


class Training(RuleBasedStateMachine):
    """T1-T6, T12, T13 after every step of any sequence."""

    @initialize(
        sizes=st.tuples(SIZE, SIZE, SIZE),
        density=st.floats(0.05, 1.0),
        interval=st.integers(1, 3),
        fraction=st.floats(0, 1),
        prune=st.sampled_from(_C.prune_criteria()),
        grow=st.sampled_from(_C.grow_criteria()),
        dtype=st.sampled_from([torch.float32, torch.bfloat16]),
        stop=st.integers(0, 30),
    )
    def build(self, sizes, density, interval, fraction, prune, grow, dtype, stop):
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)  # thousands of tiny operations
        self.model = torch.nn.Sequential(
            *[
                smet.SparseLinear(sizes[at], sizes[at + 1], density=density, name=str(at), dtype=dtype)
                for at in range(2)
            ]
        )
        self.options = {
            "interval": interval,
            "fraction": fraction,
            "prune": prune,
            "grow": grow,
            "total_steps": 30,
            "stop": stop,
        }
        self.n = [layer.nnz for layer in self.model]
        self.t = self.u = 0
        self.attach()

    def attach(self):
        self.opt = smet.CompactAdamW(self.model, lr=1e-2, warmup=3)
        self.topo = smet.TopologyScheduler(self.model, self.opt, **self.options)
        self.tensors = [(t.data_ptr(), t.shape) for t in (*self.model.parameters(), *self.model.buffers())]

    def teardown(self):
        torch.set_num_threads(self.threads)

    @rule(batch=st.integers(1, 3), micro=st.integers(1, 2), keep_gradient=st.booleans())
    def train(self, batch, micro, keep_gradient):
        if not keep_gradient:
            self.opt.zero_grad()
        for _ in range(micro):
            x = torch.randn(batch, self.model[0].in_features).to(self.model[0].values.dtype)
            self.model(x).float().square().mean().backward()
        self.opt.step()
        states = [self.opt.state[layer.values] for layer in self.model]
        before = [weights(*pair) for pair in zip(self.model, states, strict=True)]
        update = self.topo.step()
        self.t += 1
        due = self.t % self.options["interval"] == 0 and self.t < self.options["stop"]
        assert (update is not None) == due
        self.u += due
        newborn = bytes([1 + (self.u - 1) % 255])
        for at, (layer, state) in enumerate(zip(self.model, states, strict=True)):
            after = weights(layer, state)
            new, gone = after.keys() - before[at].keys(), before[at].keys() - after.keys()
            k = update.layers[at].k if due else 0
            assert len(new) == len(gone) == k
            for position, arrays in after.items():
                if position in new:
                    assert arrays[3] == newborn and not any(map(any, arrays[:3]))
                else:
                    assert arrays == before[at][position]

    @rule()
    def skip_a_step(self):
        """What a GradScaler does."""
        if self.t > 0:
            assert self.topo.step() is None

    @rule()
    def save_and_load(self):
        saved = copy.deepcopy([part.state_dict() for part in (self.model, self.opt, self.topo)])
        gradients = [p.grad for p in self.model.parameters()]
        fresh = [
            smet.SparseLinear(x.in_features, x.out_features, density=0.5, name=x.name) for x in self.model
        ]
        self.model = torch.nn.Sequential(*(copy.deepcopy(layer) for layer in self.model))
        for layer, other in zip(self.model, fresh, strict=True):
            if other.nnz == layer.nnz:
                layer.set_mask(other.mask)  # loading must bring the saved positions back
            layer.values.data.zero_()
        self.attach()
        for part, state in zip((self.model, self.opt, self.topo), saved, strict=True):
            part.load_state_dict(state)
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient

    @rule(at=st.integers(0, 1))
    def hand_out_nothing_twice(self, at):
        """A refused update (bad callable) leaves everything usable."""
        topo = smet.TopologyScheduler(
            self.model, None, interval=1, total_steps=9, fraction=1.0, grow=lambda c, k: c.positions[:k]
        )
        before = [bits(t) for t in (*self.model.parameters(), *self.model.buffers())]
        layer = self.model[at]
        try:
            topo.step()
        except ValueError:
            assert topo.steps == 0
        else:
            assert all(2 * x.nnz == 0 or x.density == 1 for x in self.model), layer
        assert [bits(t) for t in (*self.model.parameters(), *self.model.buffers())] == before

    @invariant()
    def layers_are_canonical(self):
        if not hasattr(self, "model"):
            return
        assert self.topo.steps == self.t and self.topo.updates == self.u
        for layer, n in zip(self.model, self.n, strict=True):
            dense = unpack(layer.mask, layer.in_features)
            assert int(dense.sum()) == n == layer.nnz
            assert torch.equal(pack(dense), layer.mask)
            assert torch.equal(OPS.mask_rank(layer.mask, layer.in_features), layer.rank)
        now = [(t.data_ptr(), t.shape) for t in (*self.model.parameters(), *self.model.buffers())]
        assert now == self.tensors


TestTraining = Training.TestCase
TestTraining.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
