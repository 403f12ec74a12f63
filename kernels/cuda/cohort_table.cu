// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/cohort_table.cuh"

namespace smet::kernels::cuda {

Status cohort_table(Stream stream, const CohortTableArgs& args) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const CohortTable& table = args.tables[t];
    if (table.lr != nullptr && table.lr_dtype != DType::f32 && table.lr_dtype != DType::f64) {
      return Status::unsupported_dtype;
    }
  }
  Launches launches(stream);
  const auto launch = [&](const Batch<CohortTable>& batch) {
    launches(batch.chunks(), kTableThreads, cohort_table_kernel, batch);
  };
  Batches<CohortTable, decltype(launch)> batches(launch);
  for (std::int64_t t = 0; t < args.count; ++t) batches.add(args.tables[t], 1);
  batches.flush();
  return launches.status();
}

Status count_steps(Stream stream, const CountStepsArgs& args) {
  Launches launches(stream);
  for (std::int64_t begin = 0; begin < args.count; begin += CounterBatch::kCapacity) {
    CounterBatch batch{};
    batch.count = static_cast<int>(std::min<std::int64_t>(args.count - begin, CounterBatch::kCapacity));
    std::copy_n(args.steps + begin, batch.count, batch.steps);
    launches(blocks_for(batch.count, kTableThreads), kTableThreads, count_steps_kernel, batch,
             args.found_inf);
  }
  return launches.status();
}

}  // namespace smet::kernels::cuda
