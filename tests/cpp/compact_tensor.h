// SPDX-License-Identifier: BSD-3-Clause
// A layer's parameters, gradients and compact moments, for the tests of adamw_compact.
#pragma once

#include "kernels/adamw_compact.h"
#include "tests/cpp/numbers.h"

namespace smet::test {

struct CompactTensor {
  Topology topology;
  DType dtype;
  kernels::MomentFormat format;
  Bytes param, grad, exp_avg, exp_avg_sq;
  Buffer<std::int16_t> master_low;  // empty: no masters
  Buffer<std::uint8_t> cohort;
  Buffer<kernels::CohortRow> rows;
  std::int64_t block_segments;
  Buffer<float> scale, scale_sq;
  kernels::AdamWTensor options{};
  std::uint64_t key = 0xC0DE;
  bool dense;  // no rank: every position is active

  CompactTensor(const Topology& topology_, DType dtype_, kernels::MomentFormat format_)
      : topology(topology_),
        dtype(dtype_),
        format(format_),
        param(normal_numbers(dtype, topology.nnz, 3, .02)),
        grad(normal_numbers(dtype, topology.nnz, 5, 1e-3)),
        exp_avg(topology.nnz * moment_bytes()),
        exp_avg_sq(topology.nnz * moment_bytes()),
        master_low(0),
        cohort(topology.nnz),
        rows(256),
        block_segments(kernels::block8_segments(topology.rows, topology.cols, topology.nnz)),
        scale(topology.rows * kernels::blocks_per_row(topology.cols, block_segments)),
        scale_sq(scale.size()),
        dense(topology.nnz == topology.rows * topology.cols) {
    rows[0] = {1e-5, 1.3e-3, .4};
    for (int id = 1; id < 256; ++id) rows[id] = {1e-7 * id, 1e-5 * id, std::sqrt(1 - std::pow(.999, id))};
    Random random(43);
    for (std::uint8_t& id : cohort)
      id = static_cast<std::uint8_t>(random.below(3) == 0 ? random.below(256) : 0);
    options.size = topology.nnz;
    options.param_dtype = options.grad_dtype = dtype;
    options.cohort_rows = rows.size();
    options.beta1 = .9;
    options.beta2 = .999;
    options.eps = 1e-8;
    options.rounding_key = 0x5EED;
  }

  std::int64_t moment_bytes() const { return format == kernels::MomentFormat::bf16 ? 2 : 1; }

  // Masters whose low halves are any.
  void give_masters() {
    master_low = Buffer<std::int16_t>(topology.nnz);
    Random random(47);
    for (std::int16_t& low : master_low) low = static_cast<std::int16_t>(random.below(0x10000) - 0x8000);
  }

  kernels::AdamWTensor tensor() {
    kernels::AdamWTensor result = options;
    result.param = param.data();
    result.grad = grad.data();
    result.exp_avg = exp_avg.data();
    result.exp_avg_sq = exp_avg_sq.data();
    result.cohort = cohort.data();
    result.master_low = master_low.size() > 0 ? master_low.data() : nullptr;
    result.cohorts = rows.data();
    return result;
  }
  kernels::CompactMoments moments() {
    return {format,
            key,
            dense ? nullptr : topology.rank.data(),
            topology.rows,
            topology.cols,
            block_segments,
            scale.data(),
            scale_sq.data()};
  }

  // One step, with a key of its own.
  using Kernel = Status (*)(const Executor&, const kernels::AdamWCompactArgs&);
  void step(Kernel kernel = kernels::reference::adamw_compact, const Executor& executor = serial()) {
    key = kernels::mix64(key);
    const kernels::AdamWTensor one = tensor();
    const kernels::CompactMoments its = moments();
    ASSERT_EQ(kernel(executor, {&one, &its, 1}), Status::ok);
  }
};

}  // namespace smet::test
