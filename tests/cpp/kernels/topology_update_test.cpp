// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

#include <array>

#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::RelayoutArgs;
using kernels::RelayoutCohortArgs;
using kernels::ScoreOrder;
using kernels::SelectKeepArgs;

// ---- select_keep ----

// Few distinct scores, so that the cut falls among many equal ones.
Bytes tied_numbers(DType dtype, std::int64_t size) {
  Bytes buffer = numbers(dtype, size);
  Random random(13);
  for (std::int64_t i = 0; i < size; ++i) store(buffer, dtype, i, static_cast<double>(random.below(5)) - 2);
  return buffer;
}

std::vector<std::pair<const char*, Bytes>> score_sets(DType dtype, std::int64_t size) {
  std::vector<std::pair<const char*, Bytes>> sets;
  sets.emplace_back("normal", normal_numbers(dtype, size, 17, .02));
  sets.emplace_back("awkward", awkward_numbers(dtype, size, 19, true));
  sets.emplace_back("tied", tied_numbers(dtype, size));
  sets.emplace_back("T7 all equal", numbers(dtype, size));
  return sets;
}

// The header's definition on a row of eight: NaN, then the smallest; ties by position; -0 equals 0.
TEST(SelectKeep, ReferenceOnASmallLayer) {
  const Topology topology = make_topology({"eight", 1, 8, 1});
  const float score[] = {-3, 0.0F, NAN, -0.0F, 2, -1, 1, -INFINITY};
  struct {
    ScoreOrder order;
    std::int64_t k;
    std::uint32_t pruned;
  } const cases[] = {
      {ScoreOrder::magnitude, 0, 0},
      {ScoreOrder::magnitude, 1, 0b100},
      {ScoreOrder::magnitude, 2, 0b110},
      {ScoreOrder::magnitude, 3, 0b1110},
      {ScoreOrder::magnitude, 4, 0b101110},
      {ScoreOrder::magnitude, 5, 0b1101110},
      {ScoreOrder::magnitude, 7, 0b1111111},
      {ScoreOrder::magnitude, 8, 0b11111111},
      {ScoreOrder::signed_value, 1, 0b100},
      {ScoreOrder::signed_value, 2, 0b10000100},
      {ScoreOrder::signed_value, 3, 0b10000101},
      {ScoreOrder::signed_value, 4, 0b10100101},
      {ScoreOrder::signed_value, 5, 0b10100111},
      {ScoreOrder::signed_value, 6, 0b10101111},
  };
  for (const auto& [order, k, pruned] : cases) {
    std::uint32_t keep = 0;
    std::int64_t nan = -1;
    const SelectKeepArgs args = {topology.pattern(), score, DType::f32, order, k, &keep, &nan};
    ASSERT_EQ(kernels::reference::select_keep(serial(), args), Status::ok);
    EXPECT_EQ(keep, 0xFFU & ~pruned) << static_cast<int>(order) << " " << k;
    EXPECT_EQ(nan, 1);
    ASSERT_EQ(kernels::cpu::select_keep(serial(), args), Status::ok);
    EXPECT_EQ(keep, 0xFFU & ~pruned);
  }
}

// Every dtype, order and k, ties (T7) and NaN (G6) among them: equal to the stable sort of the reference.
TEST(SelectKeep, EqualsStableSort) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const DType dtype : dtypes()) {
      for (const auto& [set, score] : score_sets(dtype, topology.nnz)) {
        for (const ScoreOrder order : {ScoreOrder::magnitude, ScoreOrder::signed_value}) {
          for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, topology.nnz / 5, topology.nnz}) {
            if (k > topology.nnz) continue;
            SCOPED_TRACE(std::string(name(dtype)) + " " + set + " order " +
                         std::to_string(static_cast<int>(order)) + " k " + std::to_string(k));
            Buffer<std::uint32_t> want(topology.mask.size());
            std::int64_t want_nan = -1;
            SelectKeepArgs args = {topology.pattern(), score.data(), dtype, order, k, want.data(), &want_nan};
            ASSERT_EQ(kernels::reference::select_keep(serial(), args), Status::ok);
            for_each_variant([&](const Executor& executor) {
              Buffer<std::uint32_t> got(topology.mask.size());
              std::int64_t nan = -1;
              args.keep = got.data();
              args.nan_count = &nan;
              ASSERT_EQ(kernels::cpu::select_keep(executor, args), Status::ok);
              ASSERT_TRUE(same_bytes(got, want));
              ASSERT_EQ(nan, want_nan);
            });
          }
        }
      }
    }
  });
}

TEST(SelectKeep, ImpossibleKIsRefused) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  const Bytes score = numbers(DType::f32, topology.nnz);
  for (const std::int64_t k : {std::int64_t{-1}, topology.nnz + 1}) {
    Buffer<std::uint32_t> keep(topology.mask.size());
    std::int64_t nan = -1;
    const SelectKeepArgs args = {topology.pattern(), score.data(), DType::f32, ScoreOrder::magnitude, k,
                                 keep.data(),        &nan};
    EXPECT_EQ(kernels::cpu::select_keep(serial(), args), Status::invalid_argument);
    EXPECT_EQ(kernels::reference::select_keep(serial(), args), Status::invalid_argument);
    EXPECT_EQ(nan, -1);
  }
}

// ---- relayout ----

// Another topology: some weights pruned, others grown; and far ones, denser, emptier, the same.
std::vector<Topology> successors(const Problem& problem, const Topology& old) {
  std::vector<Topology> result;
  Problem other = problem;
  for (const double density : {problem.density, 0.0, 1.0, .5}) {
    other.density = density;
    result.push_back(make_topology(other, 2));
  }
  result.push_back(old);
  Topology changed = old;
  Random random(23);
  for (std::int64_t row = 0; row < problem.rows; ++row) {
    for (std::int64_t col = 0; col < problem.cols; ++col) {
      if (random.below(10) == 0) {
        changed.mask[row * kernels::words_per_row(problem.cols) + col / 32] ^= 1U << (col % 32);
      }
    }
  }
  changed.derive();
  result.push_back(changed);
  return result;
}

constexpr unsigned char kUntouched = 0xA5;
constexpr std::int64_t kBehind = 64;  // bytes behind the scratch, which stay untouched

// Moves random elements of every size, by every variant as by the reference. Returns how many bytes of the
// scratch for one-byte elements were written.
std::int64_t expect_reference(const Topology& old, const Topology& next) {
  const unsigned char fill[] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::int64_t touched = 0;
  for (const std::int64_t bytes : {8, 4, 2, 1}) {
    SCOPED_TRACE(std::to_string(bytes) + " bytes, " + std::to_string(old.nnz) + " to " +
                 std::to_string(next.nnz));
    Bytes before(std::max(old.nnz, next.nnz) * bytes);
    Random random(29);
    for (unsigned char& byte : before) byte = static_cast<unsigned char>(random.below(kUntouched));
    Bytes want = before;
    Bytes scratch(next.nnz * bytes + kBehind);
    RelayoutArgs args = {old.pattern(), next.pattern(), want.data(), bytes, fill, scratch.data()};
    EXPECT_EQ(kernels::reference::relayout(serial(), args), Status::ok);
    for_each_variant([&](const Executor& executor) {
      Bytes got = before;
      std::fill(scratch.begin(), scratch.end(), kUntouched);
      args.array = got.data();
      ASSERT_EQ(kernels::cpu::relayout(executor, args), Status::ok);
      ASSERT_TRUE(same_bytes(got, want));
      touched = std::count_if(scratch.begin(), scratch.end(),
                              [](unsigned char byte) { return byte != kUntouched; });
      ASSERT_EQ(std::count(scratch.end() - kBehind, scratch.end(), kUntouched), kBehind);
    });
  }
  return touched;
}

// T4, T5: survivors keep their bits, newborns are `fill`, whatever the element size.
TEST(Relayout, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology old = make_topology(problem);
    for (const Topology& next : successors(problem, old)) expect_reference(old, next);
  });
}

// Weights of the second chunk move left where it begins, right in its middle, left at its end; and the other
// way round.
TEST(Relayout, WeightsMoveBothWaysWithinAChunk) {
  const Topology old = make_topology({"64 segments", 1, 65536, .75});
  Topology next = old;
  const auto set = [&](std::int64_t segment, std::int64_t segments, std::uint32_t bits) {
    std::fill_n(next.mask.begin() + segment * 32, segments * 32, bits);
  };
  set(2, 1, 0);
  set(17, 5, ~0U);
  set(26, 2, 0);
  set(40, 4, ~0U);
  next.derive();
  expect_reference(old, next);
  expect_reference(next, old);
}

// Of the scratch only the chunks' buffers are touched.
TEST(Relayout, NearMovesTouchLittleScratch) {
  const Problem problem = {"4096 segments", 16, 262144, .75};
  const Topology old = make_topology(problem);
  EXPECT_LT(expect_reference(old, old), old.nnz / 3);
  const Topology next = make_topology(problem, 2);
  EXPECT_LT(expect_reference(old, next), next.nnz / 2);
}

TEST(Relayout, ReferenceOnASmallLayer) {
  Topology old(1, 40);
  Topology next(1, 40);
  for (const std::int64_t col : {3, 17, 39}) old.activate(0, col);
  for (const std::int64_t col : {2, 17, 33, 39}) next.activate(0, col);
  old.derive();
  next.derive();
  std::array<std::uint16_t, 4> array = {30, 170, 390};
  std::array<std::uint16_t, 4> scratch{};
  const std::uint16_t fill = 7;
  const RelayoutArgs args = {old.pattern(), next.pattern(), array.data(), 2, &fill, scratch.data()};
  ASSERT_EQ(kernels::reference::relayout(serial(), args), Status::ok);
  EXPECT_EQ(array, (std::array<std::uint16_t, 4>{7, 170, 7, 390}));
}

TEST(Relayout, OtherElementSizesAreRefused) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  Bytes array(16 * topology.nnz);
  Bytes scratch(16 * topology.nnz);
  const std::uint64_t fill = 0;
  for (const std::int64_t bytes : {0, 3, 16}) {
    const RelayoutArgs args = {topology.pattern(), topology.pattern(), array.data(), bytes, &fill,
                               scratch.data()};
    EXPECT_EQ(kernels::cpu::relayout(serial(), args), Status::unsupported_dtype);
    EXPECT_EQ(kernels::reference::relayout(serial(), args), Status::unsupported_dtype);
  }
}

// Ids move with their weights, the recycled id becomes 0, newborns get it, and the dead are counted.
TEST(RelayoutCohort, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology old = make_topology(problem);
    for (const Topology& next : successors(problem, old)) {
      Buffer<std::uint8_t> before(std::max(old.nnz, next.nnz));
      Random random(31);
      for (std::uint8_t& id : before)
        id = static_cast<std::uint8_t>(random.below(2) == 0 ? 200 : random.bits());
      Buffer<std::uint8_t> want = before;
      Buffer<std::uint8_t> scratch(next.nnz);
      std::array<std::int64_t, 256> want_died{};
      RelayoutCohortArgs args = {old.pattern(), next.pattern(),   want.data(),
                                 200,           want_died.data(), scratch.data()};
      ASSERT_EQ(kernels::reference::relayout_cohort(serial(), args), Status::ok);
      for_each_variant([&](const Executor& executor) {
        Buffer<std::uint8_t> got = before;
        std::array<std::int64_t, 256> died;
        died.fill(-1);
        args.cohort = got.data();
        args.died = died.data();
        ASSERT_EQ(kernels::cpu::relayout_cohort(executor, args), Status::ok);
        ASSERT_TRUE(same_bytes(got, want));
        ASSERT_EQ(died, want_died);
      });
    }
  });
}

TEST(RelayoutCohort, ReferenceOnASmallLayer) {
  Topology old(1, 40);
  Topology next(1, 40);
  for (const std::int64_t col : {3, 17, 36, 39}) old.activate(0, col);
  for (const std::int64_t col : {2, 17, 33, 39}) next.activate(0, col);
  old.derive();
  next.derive();
  std::array<std::uint8_t, 4> cohort = {5, 9, 5, 4};
  std::array<std::uint8_t, 4> scratch{};
  std::array<std::int64_t, 256> died{};
  const RelayoutCohortArgs args = {old.pattern(), next.pattern(), cohort.data(), 9,
                                   died.data(),   scratch.data()};
  ASSERT_EQ(kernels::reference::relayout_cohort(serial(), args), Status::ok);
  EXPECT_EQ(cohort, (std::array<std::uint8_t, 4>{9, 0, 9, 4}));
  std::array<std::int64_t, 256> want{};
  want[5] = 2;
  EXPECT_EQ(died, want);
}

}  // namespace
}  // namespace smet::test
