# SPDX-License-Identifier: BSD-3-Clause
"""The README's Python program: a quarter of the weights exists, and they move while training runs."""

# [readme]
import torch

import smet

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
print(smet.sparsify_(model, density=0.25))
opt = smet.CompactAdamW(model, lr=2e-3)
topo = smet.TopologyScheduler(model, opt, interval=50, total_steps=300)
target = torch.randn(64, 64)
for step in range(300):
    x = torch.randn(128, 64)
    loss = torch.nn.functional.mse_loss(model(x), x @ target)
    opt.zero_grad()
    loss.backward()
    opt.step()
    topo.step()
    if step % 50 == 49:
        print(f"step {step + 1}  loss {loss.item():.4f}")
print(smet.report(model, opt))
# [/readme]
