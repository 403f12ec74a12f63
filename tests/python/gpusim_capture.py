# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW(capturable=True) through the CUDA operators and kernels: gpusim_capture.py OPERATORS.

OPERATORS is the library that tests/gpusim/path builds. A run of ordinary steps is compared with a run whose
first step, from forward to optimizer, was captured and is replayed (captured.py), and with one in which the
launches of the optimizer's step are what is captured and replayed.
"""

import sys

import torch

from captured import Run, differences, host_reads, ordinary, replayed

OPS = torch.ops.smet
STEPS = 13
OPTIONS = (
    {},
    {"fused_backward": True},
    {"dtype": torch.bfloat16, "moments": "bf16", "stochastic_rounding": True},
    {"dtype": torch.bfloat16, "master_weights": True},
)


def launches_replayed(steps, **options):
    """Forward and backward pass as they are; the launches of the first optimizer step, again and again."""
    run = Run(capturable=True, **options)
    for step in range(steps):
        run.fill(step)
        run.opt.zero_grad(set_to_none=False)
        torch.nn.functional.mse_loss(run.net(run.x).float(), run.target).backward()
        if step == 0:
            OPS.gpusim_capture(True)
            run.opt.step()
            assert OPS.gpusim_capture(False) >= 3  # tables, the step, the count
        else:
            OPS.gpusim_replay()
        run.after()
    return run


def main():
    torch.set_num_threads(1)
    torch.ops.load_library(sys.argv[1])
    for options in OPTIONS:
        want = ordinary(STEPS, **options)
        assert want.topo.updates == 2
        assert differences(want, replayed(STEPS, **options)) == [], options
        if "fused_backward" not in options:
            assert differences(want, launches_replayed(STEPS, **options)) == [], options
    bad = (1, 4, 5)
    assert differences(ordinary(STEPS, bad, scaler=True), replayed(STEPS, bad, scaler=True)) == []
    for options in OPTIONS:
        run = Run(capturable=True, scaler="fused_backward" not in options, **options)
        run.fill(0)
        assert host_reads(run.step) == [], options
    run = Run(capturable=True)
    counter = run.opt.state[run.net.up.values]["step"]
    assert host_reads(counter.item) == ["aten::_local_scalar_dense", "aten::item"]  # the check checks
    assert OPS.gpusim_launches() > 500


if __name__ == "__main__":
    main()
