// SPDX-License-Identifier: BSD-3-Clause
// What compact moments promise. The kernels that must equal the reference bit for bit are tested where they
// are.
#include "kernels/adamw_compact.h"

#include "kernels/block8.h"
#include "tests/cpp/compact_tensor.h"

namespace smet::test {
namespace {

using kernels::MomentFormat;

// About 256 weights in a block, whole segments, at most a row; nothing that a topology update changes.
TEST(AdamWCompact, BlocksHoldAbout256Weights) {
  EXPECT_EQ(kernels::block8_segments(4096, 11008, 4096 * 11008 / 4), 1);
  EXPECT_EQ(kernels::block8_segments(4096, 11008, 4096 * 11008 / 20), 5);
  EXPECT_EQ(kernels::block8_segments(4096, 11008, 4096 * 11008), 1);
  EXPECT_EQ(kernels::block8_segments(4096, 11008, 4096), 11);  // the whole row
  EXPECT_EQ(kernels::block8_segments(4096, 300, 4096 * 30), 1);
  EXPECT_EQ(kernels::block8_segments(10, 5000, 0), 5);
  EXPECT_EQ(kernels::block8_segments(0, 64, 0), 1);
  EXPECT_EQ(kernels::blocks_per_row(11008, 5), 3);
  EXPECT_EQ(kernels::blocks_per_row(11008, 11), 1);
}

// Every code decodes and encodes to itself, whatever the random bits: a step that changes nothing is
// lossless.
TEST(AdamWCompact, CodesAreFixedPoints) {
  for (const float scale : {1.0F, 3e-7F, 0.7F, 1e-30F, 2e30F, 12345.678F}) {
    for (const int most : {kernels::kBlock8MaxM, kernels::kBlock8MaxV}) {
      const float unit = kernels::block8_unit(scale, most);
      for (int code = 0; code <= most; ++code) {
        const float value = unit * static_cast<float>(code * code);
        const float units = kernels::block8_units(value, kernels::block8_per_unit(unit), most);
        for (const std::uint32_t noise : {0x0U, 0x8000U, 0xFFFFU}) {
          ASSERT_EQ(kernels::block8_code(units, std::sqrt(units), noise), code);
        }
      }
    }
  }
}

// The mean over all random bits is the number itself, between any two codes.
TEST(AdamWCompact, CodesAreUnbiased) {
  for (const int most : {kernels::kBlock8MaxM, kernels::kBlock8MaxV}) {
    Random random(3);
    for (int trial = 0; trial < 40; ++trial) {
      const auto units = static_cast<float>(std::pow(random.uniform(), 4) * most * most);
      double mean = 0;
      for (std::uint32_t noise = 0; noise < 0x10000U; ++noise) {
        const int code = kernels::block8_code(units, std::sqrt(units), noise);
        mean += static_cast<double>(code) * code / 0x10000;
      }
      // One of 2^14 equally likely choices too many or too few, and the roundings of fp32.
      const double step = 2 * std::sqrt(units) + 1;
      EXPECT_NEAR(mean, units, step / 0x4000 + 1e-6 * units);
    }
  }
}

// With zero gradients v decays as beta2^t on average, to within 5 standard errors and 1 %; m to nothing.
// Rounding to nearest would leave v where it is. A live v never becomes 0, which would divide by eps alone.
TEST(AdamWCompact, MomentsDecayAndLiveVStaysLive) {
  const Topology topology = make_topology({"one segment a row", 64, 1024, .25});
  for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::block8}) {
    CompactTensor tensor(topology, DType::f32, format);
    for (float& scale : tensor.scale) scale = 1e-3F;
    for (float& scale : tensor.scale_sq) scale = 1e-3F;
    const auto root_v = [&](std::int64_t i) {
      if (format == MomentFormat::bf16) return std::sqrt(load(tensor.exp_avg_sq, DType::bf16, i));
      // Every block has its own scale, but one block is one row here.
      std::int64_t row = 0;
      while (row + 1 < topology.rows && topology.rank[row + 1] <= i) ++row;
      const float unit = kernels::block8_unit(tensor.scale_sq[row], kernels::kBlock8MaxV);
      return static_cast<double>(kernels::block8_sqrt_v(unit, tensor.exp_avg_sq[i]));
    };
    for (int t = 0; t < 20; ++t) tensor.step();
    double before = 0;
    for (std::int64_t i = 0; i < topology.nnz; ++i) before += std::pow(root_v(i), 2);
    tensor.grad = numbers(DType::f32, topology.nnz);
    constexpr int kSteps = 300;
    for (int t = 0; t < kSteps; ++t) tensor.step();
    double after = 0;
    for (std::int64_t i = 0; i < topology.nnz; ++i) {
      after += std::pow(root_v(i), 2);
      ASSERT_GT(root_v(i), 0) << i;
    }
    EXPECT_NEAR(after / before, std::pow(.999, kSteps), .04)
        << (format == MomentFormat::bf16 ? "bf16" : "block8");
  }
}

// A row of 2,048 active weights, which are one block, among empty ones.
Topology crowded_row() {
  Topology topology(20, 2048);
  for (std::int64_t col = 0; col < topology.cols; ++col) topology.activate(3, col);
  topology.derive();
  return topology;
}

// The reference's bits on the CPU for every parameter dtype, instruction set and thread count, over steps
// that feed on each other and begin with newborns and with moments of steps before.
void expect_reference_bits(const Topology& topology, MomentFormat format) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int rounding : {0, 1, 2}) {  // to nearest, at random, of masters not at all
      if (rounding == 2 && dtype != DType::bf16) continue;
      SCOPED_TRACE(std::string(name(dtype)) + (format == MomentFormat::bf16 ? ", bf16, " : ", block8, ") +
                   std::to_string(rounding));
      const bool stochastic = rounding == 1;
      CompactTensor start(topology, dtype, format);
      start.options.stochastic_rounding = stochastic;
      start.options.l2 = rounding > 0 ? .01 : 0;
      start.options.maximize = stochastic;
      if (rounding == 2) start.give_masters();
      start.step();
      std::memset(start.exp_avg.data(), 0, static_cast<std::size_t>(start.exp_avg.size() / 3));
      std::memset(start.exp_avg_sq.data(), 0, static_cast<std::size_t>(start.exp_avg_sq.size() / 3));
      CompactTensor want = start;
      for (int t = 0; t < 3; ++t) want.step();
      for_each_variant([&](const Executor& executor) {
        CompactTensor got = start;
        for (int t = 0; t < 3; ++t) got.step(kernels::cpu::adamw_compact, executor);
        EXPECT_TRUE(same_bytes(got.param, want.param)) << "param";
        EXPECT_TRUE(same_bytes(got.master_low, want.master_low)) << "master_low";
        EXPECT_TRUE(same_bytes(got.exp_avg, want.exp_avg)) << "exp_avg";
        EXPECT_TRUE(same_bytes(got.exp_avg_sq, want.exp_avg_sq)) << "exp_avg_sq";
        EXPECT_TRUE(same_bytes(got.scale, want.scale)) << "scale";
        EXPECT_TRUE(same_bytes(got.scale_sq, want.scale_sq)) << "scale_sq";
      });
    }
  }
}

TEST(AdamWCompact, CpuEqualsTheReferenceBitForBit) {
  for (const Problem& problem : problems()) {
    SCOPED_TRACE(problem.name);
    const Topology topology = make_topology(problem);
    expect_reference_bits(topology, MomentFormat::bf16);
    expect_reference_bits(topology, MomentFormat::block8);
  }
  SCOPED_TRACE("crowded row");
  expect_reference_bits(crowded_row(), MomentFormat::block8);
}

// Many tensors of both formats in one call, as the operator makes it.
TEST(AdamWCompact, ManyTensorsInOneCall) {
  std::vector<CompactTensor> want;
  for (int t = 0; t < 30; ++t) {
    const Topology topology =
        make_topology({"small", 1 + t % 5, 40 + 71 * t, .4}, static_cast<std::uint64_t>(t));
    want.emplace_back(topology, DType::f32, t % 3 == 0 ? MomentFormat::bf16 : MomentFormat::block8);
  }
  std::vector<CompactTensor> got = want;
  for (CompactTensor& tensor : want) tensor.step();
  std::vector<kernels::AdamWTensor> tensors;
  std::vector<kernels::CompactMoments> moments;
  for (CompactTensor& tensor : got) {
    tensor.key = kernels::mix64(tensor.key);
    tensors.push_back(tensor.tensor());
    moments.push_back(tensor.moments());
  }
  const auto status =
      kernels::cpu::adamw_compact(executor_of<7>(), {tensors.data(), moments.data(), std::ssize(tensors)});
  ASSERT_EQ(status, Status::ok);
  for (std::size_t t = 0; t < got.size(); ++t) {
    SCOPED_TRACE(t);
    EXPECT_TRUE(same_bytes(got[t].param, want[t].param));
    EXPECT_TRUE(same_bytes(got[t].exp_avg, want[t].exp_avg));
    EXPECT_TRUE(same_bytes(got[t].exp_avg_sq, want[t].exp_avg_sq));
    EXPECT_TRUE(same_bytes(got[t].scale, want[t].scale));
  }
}

// Gradients whose squares are subnormal in bf16 or nothing in fp32, huge ones, and moments of NaN and
// infinity: the reference's bits; and a v that is not 0 as computed is not 0 as stored.
TEST(AdamWCompact, TinyHugeAndNonfiniteNumbers) {
  const double gradients[] = {3e-19, -1e-20, 3e-21, 1e-38, 0, -0.0, 1e19, -3e38, 1e-3, 2e-22, 1};
  const Topology topology = make_topology({"three chunks", 40, 1024, 1});
  CompactTensor start(topology, DType::f32, MomentFormat::bf16);
  for (std::int64_t i = 0; i < topology.nnz; ++i) store(start.grad, DType::f32, i, gradients[i % 11]);
  start.step();
  for (std::int64_t i = 0; i < topology.nnz; ++i) {
    const auto g = static_cast<float>(gradients[i % 11]);
    const float v = (static_cast<float>(1 - start.options.beta2) * g) * g;
    ASSERT_EQ(load(start.exp_avg_sq, DType::bf16, i) > 0, v > 0) << i;
  }
  for (std::int64_t i = 0; i < topology.nnz; i += 7) {
    store(start.exp_avg, DType::bf16, i, i % 2 == 0 ? std::nan("") : INFINITY);
    store(start.exp_avg_sq, DType::bf16, i, i % 3 == 0 ? std::nan("") : INFINITY);
  }
  CompactTensor want = start;
  for (int t = 0; t < 3; ++t) want.step();
  for_each_variant([&](const Executor& executor) {
    CompactTensor got = start;
    for (int t = 0; t < 3; ++t) got.step(kernels::cpu::adamw_compact, executor);
    EXPECT_TRUE(same_bytes(got.exp_avg, want.exp_avg)) << "exp_avg";
    EXPECT_TRUE(same_bytes(got.exp_avg_sq, want.exp_avg_sq)) << "exp_avg_sq";
  });
}

// The same of block8, each row, which is a block, times another power of ten: scales from below the smallest
// normal number to infinity, which is NaN after the next step, where a code is 0. A v that is not 0 as
// computed has a code that is not 0.
TEST(AdamWCompact, Block8TinyHugeAndNonfiniteNumbers) {
  const Topology topology = make_topology({"a block a row", 44, 1024, 1});
  CompactTensor start(topology, DType::f32, MomentFormat::block8);
  Random random(9);
  for (std::int64_t i = 0; i < topology.nnz; ++i) {
    const std::int64_t row = i / topology.cols;
    double g = random.normal() * std::pow(10, -44.0 + 2 * static_cast<double>(row));
    if (i % 17 == 0) g = i % 2 == 0 ? 0 : -0.0;
    store(start.grad, DType::f32, i, row < 42 ? g : i % 100 == 0 ? std::nan("") : 1);
  }
  CompactTensor want = start;
  for (int t = 0; t < 3; ++t) {
    want.step();
    for (std::int64_t i = 0; i < topology.nnz; ++i) {
      const auto g = static_cast<float>(load(want.grad, DType::f32, i));
      const float v = (static_cast<float>(1 - want.options.beta2) * g) * g;
      ASSERT_TRUE(want.exp_avg_sq[i] > 0 || !(v > 0)) << i;
    }
  }
  EXPECT_TRUE(std::isnan(want.scale[43]) && std::isnan(want.scale_sq[41]) && want.scale[2] < 1e-38F);
  for_each_variant([&](const Executor& executor) {
    CompactTensor got = start;
    for (int t = 0; t < 3; ++t) got.step(kernels::cpu::adamw_compact, executor);
    EXPECT_TRUE(same_bytes(got.exp_avg, want.exp_avg)) << "exp_avg";
    EXPECT_TRUE(same_bytes(got.exp_avg_sq, want.exp_avg_sq)) << "exp_avg_sq";
    EXPECT_TRUE(same_bytes(got.scale_sq, want.scale_sq)) << "scale_sq";
  });
}

// What a stored moment is on average, over many weights that differ in their random bits alone: the number
// that was computed, to 5 standard errors; m's and v's choices do not go together.
TEST(AdamWCompact, Bf16IsUnbiasedAndIndependent) {
  const Topology topology = make_topology({"equal weights", 100, 2048, 1});
  CompactTensor tensor(topology, DType::f32, MomentFormat::bf16);
  tensor.options.beta1 = tensor.options.beta2 = 0;
  const double gradient = 1 + 0x1p-7 * .3;  // .3 of the way between two bf16 numbers
  for (std::int64_t i = 0; i < topology.nnz; ++i) store(tensor.grad, DType::f32, i, gradient);
  tensor.step(kernels::cpu::adamw_compact, serial());
  const double square = static_cast<double>(static_cast<float>(gradient) * static_cast<float>(gradient));
  const double part_v = std::fmod(square - 1, 0x1p-7) / 0x1p-7;
  double up_m = 0;
  double up_v = 0;
  double both = 0;
  for (std::int64_t i = 0; i < topology.nnz; ++i) {
    const bool m = load(tensor.exp_avg, DType::bf16, i) > gradient;
    const bool v = load(tensor.exp_avg_sq, DType::bf16, i) > square;
    up_m += m;
    up_v += v;
    both += m && v;
  }
  const auto n = static_cast<double>(topology.nnz);
  const auto expect_rate = [&](double count, double rate) {
    EXPECT_NEAR(count / n, rate, 5 * std::sqrt(rate * (1 - rate) / n));
  };
  expect_rate(up_m, .3);
  expect_rate(up_v, part_v);
  expect_rate(both, .3 * part_v);
}

// 200 steps on noisy quadratics: parameters end as near to their minimum as those with fp32 moments do.
TEST(AdamWCompact, MinimisesAsFullMomentsDo) {
  const Topology topology = make_topology({"small", 16, 2048, .25});
  const auto distance = [&](const Bytes& param) {
    double sum = 0;
    for (std::int64_t i = 0; i < topology.nnz; ++i) sum += std::pow(load(param, DType::f32, i) - 1, 2);
    return std::sqrt(sum / static_cast<double>(topology.nnz));
  };
  const auto run = [&](CompactTensor& tensor, auto&& step) {
    tensor.cohort = Buffer<std::uint8_t>(topology.nnz);
    Random random(11);
    for (int t = 1; t <= 200; ++t) {
      tensor.rows[0] = {0, 1e-2 / (1 - std::pow(.9, t)), std::sqrt(1 - std::pow(.999, t))};
      for (std::int64_t i = 0; i < topology.nnz; ++i) {
        const double slope = std::pow(10, -2 + .5 * static_cast<double>(i % 7));  // three decades
        store(tensor.grad, DType::f32, i,
              slope * (load(tensor.param, DType::f32, i) - 1 + .1 * random.normal()));
      }
      step();
    }
    return distance(tensor.param);
  };
  CompactTensor full(topology, DType::f32, MomentFormat::bf16);
  Bytes m = numbers(DType::f32, topology.nnz);
  Bytes v = numbers(DType::f32, topology.nnz);
  const double want = run(full, [&] {
    kernels::AdamWTensor tensor = full.tensor();
    tensor.exp_avg = m.data();
    tensor.exp_avg_sq = v.data();
    ASSERT_EQ(kernels::cpu::adamw_step(serial(), {&tensor, 1}), Status::ok);
  });
  for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::block8}) {
    CompactTensor compact(topology, DType::f32, format);
    const double got = run(compact, [&] { compact.step(); });
    EXPECT_LT(got, 1.25 * want) << (format == MomentFormat::bf16 ? "bf16" : "block8");
  }
}

TEST(AdamWCompact, WrongArgumentsAreRefused) {
  CompactTensor good(make_topology({"small", 3, 50, .5}), DType::f32, MomentFormat::block8);
  const auto status = [](const kernels::AdamWTensor& tensor, const kernels::CompactMoments& moments) {
    return kernels::reference::adamw_compact(serial(), {&tensor, &moments, 1});
  };
  kernels::AdamWTensor tensor = good.tensor();
  kernels::CompactMoments moments = good.moments();
  tensor.param_dtype = tensor.grad_dtype = DType::f64;
  EXPECT_EQ(status(tensor, moments), Status::unsupported_dtype);
  tensor.param_dtype = DType::f32;
  EXPECT_EQ(status(tensor, moments), Status::unsupported_dtype);
  tensor.grad_dtype = DType::f32;
  moments.block_segments = 0;
  EXPECT_EQ(status(tensor, moments), Status::invalid_argument);
  const auto cpu_status = [&] { return kernels::cpu::adamw_compact(serial(), {&tensor, &moments, 1}); };
  EXPECT_EQ(cpu_status(), Status::invalid_argument);
  moments.block_segments = 1;
  EXPECT_EQ(cpu_status(), Status::ok);
  tensor.cohort_rows = 257;
  EXPECT_EQ(status(tensor, moments), Status::invalid_argument);
  EXPECT_EQ(cpu_status(), Status::invalid_argument);
}

// A rank of other weights would lead out of memory: nothing is written then.
TEST(AdamWCompact, RanksThatDoNotFitAreRefused) {
  const Topology topology = make_topology({"small", 3, 2500, .5});
  for (const auto& [entry, value] : std::vector<std::pair<std::int64_t, std::int32_t>>{
           {0, 1}, {4, -1}, {4, 2'000'000'000}, {8, static_cast<std::int32_t>(topology.nnz) + 1}}) {
    CompactTensor bad(topology, DType::f32, MomentFormat::block8);
    bad.topology.rank[entry] = value;
    const CompactTensor before = bad;
    const kernels::AdamWTensor tensor = bad.tensor();
    const kernels::CompactMoments moments = bad.moments();
    EXPECT_EQ(kernels::cpu::adamw_compact(serial(), {&tensor, &moments, 1}), Status::invalid_argument);
    EXPECT_TRUE(same_bytes(bad.param, before.param) && same_bytes(bad.exp_avg, before.exp_avg));
  }
}

}  // namespace
}  // namespace smet::test
