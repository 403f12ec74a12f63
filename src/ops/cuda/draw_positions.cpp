// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/draw_positions.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <limits>

#include "src/ops/cuda/mask.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {

Tensor draw(const OnDevice& device, const Tensor& mask, kernels::DrawPositionsArgs args, const char* op) {
  TORCH_CHECK_VALUE(args.k >= 0 && args.k <= args.inactive, "smet::", op, ": k is ", args.k,
                    "; the mask has ", args.inactive, " inactive positions");
  Tensor chosen = at::empty_like(mask);
  const Tensor fault = at::empty({}, mask.options());
  const Tensor scratch = device.scratch(kernels::cuda::draw_positions_scratch());
  args.mask = words(mask);
  args.rows = mask.size(0);
  args.chosen = mutable_words(chosen);
  check_status(kernels::cuda::draw_positions(device.stream(), args, fault.mutable_data_ptr<int32_t>(),
                                             scratch.mutable_data_ptr()),
               op);
  if (fault.item<int32_t>() != 0) check_status(kernels::Status::invalid_argument, op);
  return chosen;
}

uint32_t checked_update(int64_t update, const char* op) {
  TORCH_CHECK_VALUE(update >= 0 && update <= std::numeric_limits<uint32_t>::max(), "smet::", op,
                    ": update is ", update, "; expected 0 to 2^32 - 1");
  return static_cast<uint32_t>(update);
}

Tensor draw_positions(const Tensor& mask, int64_t cols, int64_t k, int64_t key, int64_t stream,
                      int64_t update) {
  constexpr const char* op = "draw_positions";
  const OnDevice device(mask);
  TORCH_CHECK_VALUE(stream >= 0 && stream <= 3, "smet::draw_positions: stream is ", stream,
                    "; expected 0 (initial), 1 (grow), 2 (scores) or 3 (init_values)");
  check_mask(device, mask, cols, op);
  const int64_t active = derive_ranks(device, mask, cols, op).active;
  return draw(device, mask,
              {.mask = nullptr,
               .rows = 0,
               .cols = cols,
               .inactive = mask.size(0) * cols - active,
               .k = k,
               .key = static_cast<uint64_t>(key),
               .stream = static_cast<kernels::DrawStream>(stream),
               .update = checked_update(update, op),
               .chosen = nullptr},
              op);
}

}  // namespace smet::ops::cuda
