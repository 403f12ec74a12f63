// SPDX-License-Identifier: BSD-3-Clause
// bf16 parameters with float32 masters: the two halves, and steps that are those of float32 parameters. That
// the instruction sets agree with the reference on compact moments is tested with those of other parameters.
#include "kernels/master_weight.h"

#include "tests/cpp/compact_tensor.h"

namespace smet::test {
namespace {

using kernels::bits_float;
using kernels::float_bits;
using kernels::master_high;
using kernels::master_low;
using kernels::master_weight;
using kernels::MomentFormat;

bool is_nan(std::uint32_t bits) {
  return std::isnan(bits_float(bits));
}

// Every number comes back, and its upper half is the nearest bf16 number, of two the larger one; a NaN stays
// one.
TEST(MasterWeight, HalvesHoldEveryNumber) {
  Random random(3);
  for (std::uint32_t high = 0; high < 0x10000U; ++high) {
    const auto any = static_cast<std::uint32_t>(random.below(0x10000));
    for (const std::uint32_t low : {0x0U, 0x1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU, any}) {
      const std::uint32_t bits = high << 16 | low;
      const std::uint16_t weight = master_high(bits_float(bits));
      const std::int16_t rest = master_low(bits_float(bits));
      if (is_nan(bits)) {
        ASSERT_EQ(weight, (high & 0x8000U) | 0x7FC0U);
        ASSERT_EQ(rest, 0);
        continue;
      }
      ASSERT_EQ(float_bits(master_weight(weight, rest)), bits);
      const std::int64_t exact = bits & 0x7FFFFFFFU;
      const std::int64_t rounded = std::int64_t{weight & 0x7FFF} << 16;
      ASSERT_EQ(weight >> 15, bits >> 31);
      ASSERT_TRUE(rounded - exact <= 0x8000 && exact - rounded < 0x8000) << bits;
    }
  }
}

// A weight that is set from outside keeps the low half that was there: it moves by half a unit at most, and
// zero and infinity never become NaN.
TEST(MasterWeight, AWeightThatIsSetStaysWhatItIs) {
  for (std::uint32_t weight = 0; weight < 0x10000U; ++weight) {
    const std::uint32_t bits = weight << 16;
    for (const int low : {-0x8000, -1, 0, 1, 0x7FFF}) {
      const float master = master_weight(static_cast<std::uint16_t>(weight), static_cast<std::int16_t>(low));
      ASSERT_EQ(std::isnan(master), is_nan(bits)) << weight << ", " << low;
      const std::int64_t moved = std::int64_t{float_bits(master)} - std::int64_t{bits};
      ASSERT_TRUE(moved == low || moved == 0) << weight << ", " << low;
    }
  }
  EXPECT_EQ(float_bits(master_weight(0, -1)), 0U);
  EXPECT_EQ(float_bits(master_weight(0x8000, -1)), 0x80000000U);
  EXPECT_EQ(float_bits(master_weight(0x7F80, 1)), 0x7F800000U);
  EXPECT_EQ(float_bits(master_weight(0x7F80, -1)), 0x7F7FFFFFU);  // the largest number
}

// One layer with moments of any format; `full` ones are those of adamw_step.
struct Layer {
  CompactTensor compact;
  bool full;
  Bytes m, v;

  Layer(const Topology& topology, DType dtype, MomentFormat format, bool full_)
      : compact(topology, dtype, format),
        full(full_),
        m(numbers(DType::f32, topology.nnz)),
        v(numbers(DType::f32, topology.nnz)) {}

  void step(const Executor& executor, bool reference) {
    if (!full) {
      compact.step(reference ? kernels::reference::adamw_compact : kernels::cpu::adamw_compact, executor);
      return;
    }
    kernels::AdamWTensor tensor = compact.tensor();
    tensor.exp_avg = m.data();
    tensor.exp_avg_sq = v.data();
    const auto kernel = reference ? kernels::reference::adamw_step : kernels::cpu::adamw_step;
    ASSERT_EQ(kernel(executor, {&tensor, 1}), Status::ok);
  }
};

// Numbers that a rounding could spoil: ties, both zeros, the smallest and the largest; from kFinite on
// infinities and NaN.
constexpr std::uint32_t kAwkward[] = {0x3F808000, 0xBF808000, 0x3F807FFF, 0x3F818000, 0x00000000, 0x80000000,
                                      0x00000001, 0x80007FFF, 0x00008000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000,
                                      0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF};

constexpr std::int64_t kFinite = 12;

std::uint32_t bits_at(const Bytes& floats, std::int64_t i) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, floats.data() + 4 * i, 4);
  return bits;
}

std::uint32_t master_at(const Layer& layer, std::int64_t i) {
  std::uint16_t weight = 0;
  std::memcpy(&weight, layer.compact.param.data() + 2 * i, 2);
  return float_bits(master_weight(weight, layer.compact.master_low[i]));
}

// `narrow` is `wide` in halves, and has its gradient; the first `awkward` numbers of kAwkward are among them.
void make_equal(Layer& narrow, Layer& wide, std::int64_t awkward) {
  const std::int64_t n = narrow.compact.topology.nnz;
  narrow.compact.give_masters();
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits = bits_at(wide.compact.param, i);
    if (awkward > 0 && i % 3 == 0) bits = kAwkward[i / 3 % awkward];
    std::memcpy(wide.compact.param.data() + 4 * i, &bits, 4);
    const std::uint16_t weight = master_high(bits_float(bits));
    std::memcpy(narrow.compact.param.data() + 2 * i, &weight, 2);
    narrow.compact.master_low[i] = master_low(bits_float(bits));
    store(wide.compact.grad, DType::f32, i, load(narrow.compact.grad, DType::bf16, i));
  }
}

void expect_same_masters(const Layer& narrow, const Layer& wide) {
  for (std::int64_t i = 0; i < narrow.compact.topology.nnz; ++i) {
    const std::uint32_t got = master_at(narrow, i);
    const std::uint32_t want = bits_at(wide.compact.param, i);
    if (is_nan(want)) {
      ASSERT_EQ(got & 0x7FFFFFFFU, 0x7FC00000U) << i;
    } else {
      ASSERT_EQ(got, want) << i;
    }
  }
  EXPECT_TRUE(same_bytes(narrow.m, wide.m) && same_bytes(narrow.v, wide.v));
  EXPECT_TRUE(same_bytes(narrow.compact.exp_avg, wide.compact.exp_avg));
  EXPECT_TRUE(same_bytes(narrow.compact.exp_avg_sq, wide.compact.exp_avg_sq));
}

void expect_steps_of_float32(const Topology& topology, bool coupled, bool awkward) {
  const auto check = [&](MomentFormat format, bool full) {
    SCOPED_TRACE(full ? "fp32 moments" : format == MomentFormat::bf16 ? "bf16 moments" : "block8 moments");
    Layer narrow_start(topology, DType::bf16, format, full);
    Layer wide_start(topology, DType::f32, format, full);
    for (Layer* layer : {&narrow_start, &wide_start}) {
      layer->compact.options.l2 = coupled ? .01 : 0;
      layer->compact.options.maximize = coupled;
    }
    make_equal(narrow_start, wide_start, !awkward ? 0 : coupled ? kFinite : std::ssize(kAwkward));
    const auto run = [](Layer layer, const Executor& executor, bool reference) {
      for (int t = 0; t < 3; ++t) layer.step(executor, reference);
      return layer;
    };
    expect_same_masters(run(narrow_start, serial(), true), run(wide_start, serial(), true));
    const Layer want = run(wide_start, serial(), false);
    for_each_variant(
        [&](const Executor& executor) { expect_same_masters(run(narrow_start, executor, false), want); });
  };
  check(MomentFormat::bf16, true);
  check(MomentFormat::bf16, false);
  // Coupled decay of the largest numbers makes a block's scale infinite, and its codes are any.
  if (!coupled || !awkward) check(MomentFormat::block8, false);
}

// The masters, and all moments, of bf16 parameters are those of float32 parameters bit for bit.
TEST(MasterWeight, StepsAreThoseOfFloat32) {
  for (const Problem& problem : problems()) {
    SCOPED_TRACE(problem.name);
    for (const bool coupled : {false, true}) {
      expect_steps_of_float32(make_topology(problem), coupled, false);
      expect_steps_of_float32(make_topology(problem), coupled, true);
    }
  }
}

// Updates of 1/21 of a bf16 unit, which the parameter alone would lose, move it after eleven steps.
TEST(MasterWeight, SmallUpdatesAreNotLost) {
  Layer layer(make_topology({"small", 4, 100, .5}), DType::bf16, MomentFormat::bf16, true);
  layer.compact.options.beta1 = layer.compact.options.beta2 = layer.compact.options.eps = 0;
  layer.compact.cohort = Buffer<std::uint8_t>(layer.compact.topology.nnz);
  layer.compact.rows[0] = {0, 0x1p-7 / 21, 1};
  layer.compact.give_masters();
  for (std::int64_t i = 0; i < layer.compact.topology.nnz; ++i) {
    store(layer.compact.param, DType::bf16, i, 1);
    store(layer.compact.grad, DType::bf16, i, -1);
    layer.compact.master_low[i] = 0;
  }
  for (int t = 1; t <= 20; ++t) {
    layer.step(serial(), false);
    for (std::int64_t i = 0; i < layer.compact.topology.nnz; ++i) {
      ASSERT_EQ(load(layer.compact.param, DType::bf16, i), t > 10 ? 1 + 0x1p-7 : 1) << t;
      ASSERT_NEAR(bits_float(master_at(layer, i)), 1 + 0x1p-7 / 21 * t, 20 * 0x1p-24) << t;
    }
  }
}

TEST(MasterWeight, WrongArgumentsAreRefused) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  const auto statuses = [&](DType dtype, bool stochastic) {
    CompactTensor bad(topology, dtype, MomentFormat::bf16);
    bad.give_masters();
    bad.options.stochastic_rounding = stochastic;
    const CompactTensor before = bad;
    const kernels::AdamWTensor tensor = bad.tensor();
    const kernels::CompactMoments moments = bad.moments();
    const std::vector<Status> found = {kernels::reference::adamw_step(serial(), {&tensor, 1}),
                                       kernels::cpu::adamw_step(serial(), {&tensor, 1}),
                                       kernels::reference::adamw_compact(serial(), {&tensor, &moments, 1}),
                                       kernels::cpu::adamw_compact(serial(), {&tensor, &moments, 1})};
    EXPECT_TRUE(same_bytes(bad.param, before.param));
    return found;
  };
  for (const DType dtype : {DType::f32, DType::f16}) {
    EXPECT_EQ(statuses(dtype, false), std::vector<Status>(4, Status::unsupported_dtype));
  }
  EXPECT_EQ(statuses(DType::bf16, true), std::vector<Status>(4, Status::invalid_argument));
}

}  // namespace
}  // namespace smet::test
