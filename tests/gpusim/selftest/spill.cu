// SPDX-License-Identifier: BSD-3-Clause
// A kernel that spills: 48 values that live across a loop, in the 32 registers that its launch bounds leave.
// scripts/cuda_gate.sh must refuse it.
__global__ void __launch_bounds__(1024, 2) spill(float* x, int rounds) {
  float v[48];
  for (int i = 0; i < 48; ++i) v[i] = x[i * 1024 + threadIdx.x];
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 48; ++i) v[i] = v[i] * v[(i + 7) % 48] + v[(i + 13) % 48];
  }
  for (int i = 0; i < 48; ++i) x[i * 1024 + threadIdx.x] = v[i];
}
