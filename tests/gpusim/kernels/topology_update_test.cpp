// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::RelayoutArgs;
using kernels::RelayoutCohortArgs;
using kernels::ScoreOrder;
using kernels::SelectKeepArgs;
using kernels::cuda::RelayoutArray;
using kernels::cuda::RelayoutLayerArgs;

// ---------------------------------------------------------------- select_keep

void check_select(const Topology& topology, DType dtype, ScoreOrder order, const Bytes& score, std::int64_t k,
                  bool every_schedule) {
  Buffer<std::uint32_t> want(topology.mask.size());
  std::int64_t want_nan = -1;
  SelectKeepArgs args = {topology.pattern(), score.data(), dtype, order, k, want.data(), &want_nan};
  ASSERT_EQ(kernels::reference::select_keep(serial(), args), Status::ok);

  DeviceTopology device(topology);
  OnDevice<unsigned char> device_score(score);
  OnDevice<unsigned char> scratch = scratch_of(kernels::cuda::select_keep_scratch());
  OnDevice<std::uint32_t> keep(topology.mask.size());
  OnDevice<std::int64_t> nan(1);
  args = {device.pattern(), device_score.data(), dtype, order, k, keep.data(), nan.data()};
  const auto run = [&] {
    ASSERT_EQ(kernels::cuda::select_keep(stream(), args, scratch.data()), Status::ok);
    ASSERT_TRUE(same_bytes(keep.read(), want));
    EXPECT_EQ(nan.read()[0], want_nan);
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// Scores with ties, infinities and NaN; all equal ones; k from none to all.
TEST(SelectKeepKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const std::int64_t n = topology.nnz;
    for (const DType dtype : dtypes()) {
      for (const ScoreOrder order : {ScoreOrder::magnitude, ScoreOrder::signed_value}) {
        SCOPED_TRACE(std::string(name(dtype)) + (order == ScoreOrder::magnitude ? " magnitude" : " signed"));
        check_select(topology, dtype, order, awkward_numbers(dtype, n, 17, true), n / 5, false);
        if (!few_segments(problem)) continue;
        check_select(topology, dtype, order, normal_numbers(dtype, n, 19, .02), n - n / 7, false);
      }
      if (few_segments(problem)) {
        check_select(topology, dtype, ScoreOrder::magnitude, numbers(dtype, n), n / 3, false);
      }
    }
  });
}

TEST(SelectKeepKernel, UnderEverySchedule) {
  const Topology topology = make_topology({"two segments", 23, 1500, .3});
  const std::int64_t n = topology.nnz;
  const Bytes ties = awkward_numbers(DType::bf16, n, 17, true);
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 5, n / 2, n - 1, n}) {
    SCOPED_TRACE(k);
    check_select(topology, DType::bf16, ScoreOrder::magnitude, ties, k, true);
    check_select(topology, DType::f32, ScoreOrder::signed_value, normal_numbers(DType::f32, n, 19), k, false);
  }
}

TEST(SelectKeepKernel, ImpossibleKIsRefused) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  for (const std::int64_t k : {std::int64_t{-1}, topology.nnz + 1}) {
    const SelectKeepArgs args = {
        topology.pattern(), nullptr, DType::f32, ScoreOrder::magnitude, k, nullptr, nullptr};
    EXPECT_EQ(kernels::cuda::select_keep(stream(), args, nullptr), Status::invalid_argument);
  }
}

// ---------------------------------------------------------------- relayout

// Some weights pruned, others grown; and a denser and an empty topology.
std::vector<Topology> successors(const Problem& problem, const Topology& old) {
  std::vector<Topology> result;
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
  Problem other = problem;
  for (const double density : {0.0, .6}) {
    other.density = density;
    result.push_back(make_topology(other, 2));
  }
  return result;
}

Bytes random_bytes(std::int64_t size, std::uint64_t seed) {
  Bytes bytes(size);
  Random random(seed);
  for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random.bits());
  return bytes;
}

Bytes first(const Bytes& all, std::int64_t size) {
  Bytes part(size);
  std::copy_n(all.data(), size, part.data());
  return part;
}

constexpr std::uint64_t kFill = 0x0807060504030201ULL;
constexpr std::uint8_t kNewborn = 200;

// Arrays of every element size and the cohort ids, in one launch.
void check_relayout(const Topology& old, const Topology& next, bool every_schedule) {
  const std::int64_t sizes[] = {1, 2, 4, 8, 4};
  std::vector<Bytes> sources;
  std::vector<Bytes> want;
  for (const std::int64_t bytes : sizes) {
    sources.push_back(random_bytes(old.nnz * bytes, 29 + sources.size()));
    Bytes array(std::max(old.nnz, next.nnz) * bytes);
    std::copy_n(sources.back().data(), old.nnz * bytes, array.data());
    Bytes scratch(next.nnz * bytes);
    const RelayoutArgs args = {old.pattern(), next.pattern(), array.data(), bytes, &kFill, scratch.data()};
    ASSERT_EQ(kernels::reference::relayout(serial(), args), Status::ok);
    want.push_back(first(array, next.nnz * bytes));
  }
  Buffer<std::uint8_t> ids = random_bytes(old.nnz, 31);
  for (std::int64_t i = 0; i < ids.size(); i += 3) ids[i] = kNewborn;
  Buffer<std::uint8_t> cohort_ids(std::max(old.nnz, next.nnz));
  std::copy(ids.begin(), ids.end(), cohort_ids.begin());
  Buffer<std::uint8_t> scratch(next.nnz);
  Buffer<std::int64_t> want_died(256);
  const RelayoutCohortArgs cohort = {old.pattern(), next.pattern(),   cohort_ids.data(),
                                     kNewborn,      want_died.data(), scratch.data()};
  ASSERT_EQ(kernels::reference::relayout_cohort(serial(), cohort), Status::ok);
  const Buffer<std::uint8_t> want_ids = first(cohort_ids, next.nnz);

  DeviceTopology device_old(old);
  DeviceTopology device_next(next);
  OnDevice<std::uint8_t> device_ids(ids);
  const auto run = [&] {
    std::vector<std::unique_ptr<OnDevice<unsigned char>>> from;
    std::vector<std::unique_ptr<OnDevice<unsigned char>>> to;
    std::vector<RelayoutArray> arrays;
    for (std::size_t a = 0; a < sources.size(); ++a) {
      from.push_back(std::make_unique<OnDevice<unsigned char>>(sources[a]));
      to.push_back(std::make_unique<OnDevice<unsigned char>>(want[a].size()));
      arrays.push_back({from.back()->data(), to.back()->data(), sizes[a], kFill});
    }
    OnDevice<std::uint8_t> got_ids(next.nnz);
    OnDevice<std::int64_t> died(want_died);
    const RelayoutLayerArgs args = {
        device_old.pattern(), device_next.pattern(), arrays.data(), std::ssize(arrays),
        device_ids.data(),    got_ids.data(),        kNewborn,      died.data()};
    ASSERT_EQ(kernels::cuda::relayout(stream(), args), Status::ok);
    for (std::size_t a = 0; a < to.size(); ++a) ASSERT_TRUE(same_bytes(to[a]->read(), want[a])) << sizes[a];
    ASSERT_TRUE(same_bytes(got_ids.read(), want_ids));
    ASSERT_TRUE(same_bytes(died.read(), want_died));
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// T4, T5: survivors keep their bits, newborns are `fill`; ids move, are recycled and counted.
TEST(RelayoutKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology old = make_topology(problem);
    for (const Topology& next : successors(problem, old)) check_relayout(old, next, false);
  });
  const Problem small = {"two segments", 9, 1500, .3};
  const Topology old = make_topology(small);
  check_relayout(old, successors(small, old)[0], true);
}

TEST(RelayoutKernel, WithoutCohortAndWrongArguments) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  DeviceTopology device(topology);
  const Bytes source = random_bytes(2 * topology.nnz, 3);
  OnDevice<unsigned char> from(source);
  OnDevice<unsigned char> to(source.size());
  std::vector<RelayoutArray> arrays(9, {from.data(), to.data(), 2, 0});
  RelayoutLayerArgs args = {device.pattern(), device.pattern(), arrays.data(), 1, nullptr, nullptr, 0,
                            nullptr};
  ASSERT_EQ(kernels::cuda::relayout(stream(), args), Status::ok);
  EXPECT_TRUE(same_bytes(to.read(), source));
  for (const std::int64_t bytes : {0, 3, 16}) {
    arrays[0].element_bytes = bytes;
    EXPECT_EQ(kernels::cuda::relayout(stream(), args), Status::unsupported_dtype);
  }
  arrays[0].element_bytes = 2;
  args.count = 9;
  EXPECT_EQ(kernels::cuda::relayout(stream(), args), Status::invalid_argument);
}

}  // namespace
}  // namespace smet::test
