// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_compact.h"

#include <functional>

#include "tests/cpp/compact_tensor.h"
#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::MomentFormat;
using kernels::cuda::StepControl;

// The same tensor in device memory, `offset` elements beyond an aligned address.
struct DeviceCompact {
  const CompactTensor& host;
  OnDevice<std::int32_t> rank;
  OnDevice<unsigned char> param, grad, exp_avg, exp_avg_sq;
  OnDevice<std::int16_t> master_low;
  OnDevice<std::uint8_t> cohort;
  OnDevice<kernels::CohortRow> rows;
  OnDevice<float> scale, scale_sq;
  kernels::AdamWTensor tensor;
  kernels::CompactMoments moments;

  DeviceCompact(CompactTensor& start, std::int64_t offset)
      : host(start),
        rank(start.topology.rank),
        param(start.param, offset * kernels::element_size(start.dtype)),
        grad(start.grad, offset * kernels::element_size(start.dtype)),
        exp_avg(start.exp_avg, offset * start.moment_bytes()),
        exp_avg_sq(start.exp_avg_sq, offset * start.moment_bytes()),
        master_low(start.master_low, offset),
        cohort(start.cohort, offset),
        rows(start.rows),
        scale(start.scale),
        scale_sq(start.scale_sq),
        tensor(start.tensor()),
        moments(start.moments()) {
    tensor.param = param.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    if (tensor.master_low != nullptr) tensor.master_low = master_low.data();
    tensor.cohort = cohort.data();
    tensor.cohorts = rows.data();
    if (moments.rank != nullptr) moments.rank = rank.data();
    moments.scale = scale.data();
    moments.scale_sq = scale_sq.data();
  }

  void expect_equals(const CompactTensor& want) const {
    EXPECT_TRUE(same_numbers(want.dtype, param.read(), want.param)) << "param";
    EXPECT_TRUE(same_bytes(master_low.read(), want.master_low)) << "master_low";
    EXPECT_TRUE(same_bytes(exp_avg.read(), want.exp_avg)) << "exp_avg";
    EXPECT_TRUE(same_bytes(exp_avg_sq.read(), want.exp_avg_sq)) << "exp_avg_sq";
    EXPECT_TRUE(same_bytes(scale.read(), want.scale)) << "scale";
    EXPECT_TRUE(same_bytes(scale_sq.read(), want.scale_sq)) << "scale_sq";
  }
};

struct Setting {
  const char* name;
  std::int64_t offset;
  std::function<void(CompactTensor&)> change;
};
void give_masters(CompactTensor& tensor) {
  if (tensor.dtype == DType::bf16) tensor.give_masters();
}

std::vector<Setting> settings() {
  return {
      {"plain", 0, [](CompactTensor&) {}},
      {"not aligned, stochastic rounding", 1, [](CompactTensor& t) { t.options.stochastic_rounding = true; }},
      {"coupled decay, maximize", 0,
       [](CompactTensor& t) {
         t.options.l2 = .01;
         t.options.maximize = true;
       }},
      {"master weights", 0, give_masters},
      {"master weights, not aligned, coupled decay", 1,
       [](CompactTensor& t) {
         give_masters(t);
         t.options.l2 = .01;
       }},
  };
}

void check(CompactTensor start, const Setting& setting, bool every_schedule) {
  setting.change(start);
  // From moments that steps have made, zeros of newborns among them.
  for (int t = 0; t < 3; ++t) start.step();
  std::memset(start.exp_avg.data(), 0, static_cast<std::size_t>(start.exp_avg.size() / 3));
  std::memset(start.exp_avg_sq.data(), 0, static_cast<std::size_t>(start.exp_avg_sq.size() / 3));
  CompactTensor want = start;
  want.step();
  start.key = want.key;
  const auto run = [&] {
    DeviceCompact got(start, setting.offset);
    ASSERT_EQ(kernels::cuda::adamw_compact(stream(), {&got.tensor, &got.moments, 1}, {}), Status::ok);
    got.expect_equals(want);
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// The reference's bits: parameters, codes and scales.
TEST(AdamWCompactKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::block8}) {
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        for (const Setting& setting : settings()) {
          SCOPED_TRACE(std::string(name(dtype)) + (format == MomentFormat::bf16 ? ", bf16, " : ", block8, ") +
                       setting.name);
          check(CompactTensor(topology, dtype, format), setting, false);
        }
      }
    }
  });
}

TEST(AdamWCompactKernel, UnderEverySchedule) {
  const Topology topology = make_topology({"two blocks a row", 11, 5000, .1});
  for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::block8}) {
    check(CompactTensor(topology, DType::bf16, format), settings()[1], true);
    check(CompactTensor(topology, DType::bf16, format), settings()[4], true);
  }
}

// Formats and dtypes mixed in one call; found_inf stops all of them, grad_scale divides all of them.
TEST(AdamWCompactKernel, ManyTensorsAndG4) {
  std::vector<CompactTensor> start;
  for (int t = 0; t < 40; ++t) {
    const DType types[] = {DType::f32, DType::bf16, DType::f16};
    const Topology topology =
        make_topology({"small", 1 + t % 5, 40 + 31 * t, .4}, static_cast<std::uint64_t>(t));
    start.emplace_back(topology, types[t % 3], t % 2 == 0 ? MomentFormat::block8 : MomentFormat::bf16);
    start.back().step();
  }
  std::vector<CompactTensor> want = start;
  for (std::size_t t = 0; t < start.size(); ++t) {
    want[t].step();
    start[t].key = want[t].key;
    for (std::int64_t i = 0; i < start[t].topology.nnz; ++i) {
      store(start[t].grad, start[t].dtype, i, 64 * load(start[t].grad, start[t].dtype, i));
    }
  }
  Buffer<float> flags(2);
  flags[0] = 1;
  flags[1] = 64;
  OnDevice<float> control(flags);
  on_next_schedule([&] {
    std::vector<std::unique_ptr<DeviceCompact>> got;
    std::vector<kernels::AdamWTensor> tensors;
    std::vector<kernels::CompactMoments> moments;
    for (CompactTensor& tensor : start) {
      got.push_back(std::make_unique<DeviceCompact>(tensor, 0));
      tensors.push_back(got.back()->tensor);
      moments.push_back(got.back()->moments);
    }
    const kernels::AdamWCompactArgs args = {tensors.data(), moments.data(), std::ssize(tensors)};
    const StepControl overflow = {control.data(), control.data() + 1};
    ASSERT_EQ(kernels::cuda::adamw_compact(stream(), args, overflow), Status::ok);
    for (std::size_t t = 0; t < got.size(); ++t) got[t]->expect_equals(start[t]);
    ASSERT_EQ(kernels::cuda::adamw_compact(stream(), args, {nullptr, control.data() + 1}), Status::ok);
    for (std::size_t t = 0; t < got.size(); ++t) {
      SCOPED_TRACE(t);
      got[t]->expect_equals(want[t]);
    }
  });
}

TEST(AdamWCompactKernel, WrongArgumentsAreRefused) {
  CompactTensor good(make_topology({"small", 3, 50, .5}), DType::f32, MomentFormat::block8);
  kernels::AdamWTensor tensor = good.tensor();
  kernels::CompactMoments moments = good.moments();
  const auto status = [&] { return kernels::cuda::adamw_compact(stream(), {&tensor, &moments, 1}, {}); };
  tensor.param_dtype = tensor.grad_dtype = DType::f64;
  EXPECT_EQ(status(), Status::unsupported_dtype);
  tensor.param_dtype = tensor.grad_dtype = DType::f32;
  moments.block_segments = 0;
  EXPECT_EQ(status(), Status::invalid_argument);
  good.give_masters();
  tensor.master_low = good.master_low.data();
  EXPECT_EQ(status(), Status::unsupported_dtype);
}

}  // namespace
}  // namespace smet::test
