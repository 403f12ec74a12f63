// SPDX-License-Identifier: BSD-3-Clause
// The algorithm tile_spmm: see tile_plan.h for its order. Forward and input gradient are one product, of W
// and of its transpose; the values gradient visits W in the forward's order.
#include "kernels/sparse_linear.h"

#include <algorithm>
#include <optional>

#include "kernels/cpu/tile_plan.h"

namespace smet::kernels::cpu {
namespace {

// What every step of one call shares.
struct Call {
  const Executor& executor;
  const IsaKernels& kernels;
  Storage storage;
  TileShape shape;

  std::int64_t bytes() const { return storage == Storage::f32 ? 4 : 2; }
};

// Token-major activations: `tokens` rows of `features` elements, `stride` elements apart.
struct Activations {
  const void* data;
  std::int64_t stride, features, tokens;
};

const void* at(const void* data, std::int64_t element, std::int64_t bytes) {
  return static_cast<const char*>(data) + element * bytes;
}
void* at(void* data, std::int64_t element, std::int64_t bytes) {
  return static_cast<char*>(data) + element * bytes;
}

std::int64_t tile_count(const Call& call, std::int64_t tokens) {
  return (tokens + call.shape.width - 1) / call.shape.width;
}

void pack(const Call& call, const Activations& x, std::int64_t tile, float* packed) {
  const std::int64_t first = tile * call.shape.width;
  call.kernels.tile_layout->pack[static_cast<int>(call.storage)](
      {at(x.data, first * x.stride, call.bytes()), x.stride, std::min(call.shape.width, x.tokens - first),
       x.features, packed, call.shape.width});
}

// y [tokens, rows] = x plan^T + bias.
struct Product {
  const TilePlan& plan;
  Activations x;
  const float* bias;
  void* y;
  std::int64_t y_stride;
};

void multiply_block(const Call& call, const Product& product, std::int64_t tile, std::int64_t block,
                    const float* x, float* y) {
  const TileGrid& grid = product.plan.grid();
  const std::int64_t width = call.shape.width;
  const std::int64_t rows = grid.block_rows(block);
  for (std::int64_t panel = 0; panel < grid.panels(); ++panel) {
    call.kernels.tile_products->spmm[call.shape.pass]({product.plan.panel(block, panel),
                                                       product.plan.values(), x + panel * grid.panel * width,
                                                       y, width, panel > 0});
  }
  const std::int64_t first = tile * width;
  const std::int64_t row = block * grid.block;
  call.kernels.tile_layout->unpack[static_cast<int>(call.storage)](
      {y, width, std::min(width, product.x.tokens - first), rows,
       product.bias == nullptr ? nullptr : product.bias + row,
       at(product.y, first * product.y_stride + row, call.bytes()), product.y_stride});
}

// Each lane packs a tile and multiplies all of its blocks. With fewer tiles than threads the blocks of a tile
// are shared out instead, over x packed beforehand. `packed`: null, or room for all tiles of x, kept.
// beside(tile) is run once for every tile, in parallel.
template <typename Beside>
void multiply(const Call& call, const Product& product, float* packed, Beside&& beside) {
  const TileGrid& grid = product.plan.grid();
  const std::int64_t tiles = tile_count(call, product.x.tokens);
  const std::int64_t x_size = product.x.features * call.shape.width;
  const std::int64_t y_size = grid.block * call.shape.width;
  if (tiles >= call.executor.threads) {
    const std::int64_t lanes = lane_count(call.executor, tiles);
    const Scratch<float> y(lanes * y_size);
    const Scratch<float> x(packed == nullptr ? lanes * x_size : 0);
    for_units(call.executor, tiles, [&](std::int64_t lane, std::int64_t tile) {
      float* const panel = packed == nullptr ? x.data() + lane * x_size : packed + tile * x_size;
      beside(tile);
      pack(call, product.x, tile, panel);
      for (std::int64_t block = 0; block < grid.blocks(); ++block) {
        multiply_block(call, product, tile, block, panel, y.data() + lane * y_size);
      }
    });
    return;
  }
  const Scratch<float> kept(packed == nullptr ? tiles * x_size : 0);
  float* const x = packed == nullptr ? kept.data() : packed;
  for_chunks(call.executor, tiles, [&](std::int64_t tile) {
    beside(tile);
    pack(call, product.x, tile, x + tile * x_size);
  });
  const std::int64_t units = tiles * grid.blocks();
  const Scratch<float> y(lane_count(call.executor, units) * y_size);
  for_units(call.executor, units, [&](std::int64_t lane, std::int64_t unit) {
    const std::int64_t tile = unit / grid.blocks();
    multiply_block(call, product, tile, unit % grid.blocks(), x + tile * x_size, y.data() + lane * y_size);
  });
}

// out [nnz] = (accumulate ? out : 0) + (dy^T x) at active positions, from `tiles` packed tiles of each.
struct Samples {
  const TilePlan& plan;
  const float* x;
  const float* dy;
  std::int64_t tiles;
  float* out;
  bool accumulate;
};

void sample_panel(const Call& call, const Samples& samples, std::int64_t block, std::int64_t panel) {
  const TileGrid& grid = samples.plan.grid();
  const std::int64_t width = call.shape.width;
  const std::int64_t x_size = grid.cols * width;
  const std::int64_t dy_size = grid.rows * width;
  for (std::int64_t tile = 0; tile < samples.tiles; tile += call.shape.tiles) {
    call.kernels.tile_products->sddmm({samples.plan.panel(block, panel), samples.plan.packed(block, panel),
                                       samples.x + tile * x_size + panel * grid.panel * width,
                                       samples.dy + tile * dy_size + block * grid.block * width, width,
                                       std::min(call.shape.tiles, samples.tiles - tile), x_size, dy_size,
                                       samples.out, samples.accumulate || tile > 0});
  }
}

bool storage_of(DType dtype, Storage& storage) {
  storage = dtype == DType::f32 ? Storage::f32 : dtype == DType::bf16 ? Storage::bf16 : Storage::f16;
  return dtype != DType::f64;
}

Activations slice(const Activations& x, std::int64_t first, std::int64_t tokens, std::int64_t bytes) {
  return {at(x.data, first * x.stride, bytes), x.stride, x.features, tokens};
}

// What a backward pass computes, of the tokens from `first` on.
struct Backward {
  const TilePlan* columns;  // null: no input gradient
  const TilePlan* rows;     // null: no values gradient
  const SparseLinearBackwardArgs& args;
  float* dvalues;

  Activations dy(const Call& call, std::int64_t first, std::int64_t tokens) const {
    return slice({args.dy, args.dy_stride, args.pattern.rows, 0}, first, tokens, call.bytes());
  }
  Activations x(const Call& call, std::int64_t first, std::int64_t tokens) const {
    return slice({args.x, args.x_stride, args.pattern.cols, 0}, first, tokens, call.bytes());
  }
  Product input_gradient(const Call& call, std::int64_t first, std::int64_t tokens) const {
    return {*columns, dy(call, first, tokens), nullptr, at(args.dx, first * args.dx_stride, call.bytes()),
            args.dx_stride};
  }
};

// The values gradient of all threads after the input gradient of all threads, each with its own rows.
void backward_together(const Call& call, const Backward& back) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t width = call.shape.width;
  // Whole passes of the values gradient, so that its sums do not depend on where tokens are cut.
  const std::int64_t pass = width * call.shape.tiles;
  const std::int64_t at_once =
      (std::max(call.shape.backward, call.executor.threads * width) + pass - 1) / pass * pass;
  const std::int64_t tiles = tile_count(call, std::min(back.args.tokens, at_once));
  const Scratch<float> packed_dy(tiles * pattern.rows * width);
  const Scratch<float> packed_x(back.rows == nullptr ? 0 : tiles * pattern.cols * width);
  for (std::int64_t first = 0; first < back.args.tokens; first += at_once) {
    const std::int64_t tokens = std::min(at_once, back.args.tokens - first);
    const auto pack_x = [&](std::int64_t tile) {
      if (back.rows == nullptr) return;
      pack(call, back.x(call, first, tokens), tile, packed_x.data() + tile * pattern.cols * width);
    };
    if (back.columns != nullptr) {
      multiply(call, back.input_gradient(call, first, tokens), packed_dy.data(), pack_x);
    } else {
      for_chunks(call.executor, tile_count(call, tokens), [&](std::int64_t tile) {
        pack_x(tile);
        pack(call, back.dy(call, first, tokens), tile, packed_dy.data() + tile * pattern.rows * width);
      });
    }
    if (back.rows == nullptr) continue;
    const Samples samples = {*back.rows,   packed_x.data(), packed_dy.data(), tile_count(call, tokens),
                             back.dvalues, first > 0};
    const std::int64_t panels = back.rows->grid().panels();
    for_units(call.executor, back.rows->grid().blocks() * panels,
              [&](std::int64_t /*lane*/, std::int64_t unit) {
                sample_panel(call, samples, unit / panels, unit % panels);
              });
  }
}

// Each thread computes both gradients of whole passes of tokens, whose activations stay in its own cache, and
// the passes' values gradients are added in their order: the sums of backward_together.
void backward_apart(const Call& call, const Backward& back) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t width = call.shape.width;
  const std::int64_t pass = width * call.shape.tiles;
  const std::int64_t passes = (back.args.tokens + pass - 1) / pass;
  const std::int64_t at_once = std::min(passes, 2 * std::int64_t{call.executor.threads});
  const std::int64_t lanes = lane_count(call.executor, at_once);
  const std::int64_t x_size = pattern.cols * width;
  const std::int64_t dy_size = pattern.rows * width;
  const std::int64_t dx_size = back.columns == nullptr ? 0 : back.columns->grid().block * width;
  const Scratch<float> packed_x(lanes * call.shape.tiles * x_size);
  const Scratch<float> packed_dy(lanes * call.shape.tiles * dy_size);
  const Scratch<float> dx(lanes * dx_size);
  const Scratch<float> parts(at_once * pattern.nnz);
  for (std::int64_t begin = 0; begin < passes; begin += at_once) {
    const std::int64_t count = std::min(at_once, passes - begin);
    for_units(call.executor, count, [&](std::int64_t lane, std::int64_t unit) {
      const std::int64_t first = (begin + unit) * pass;
      const std::int64_t tokens = std::min(pass, back.args.tokens - first);
      const std::int64_t tiles = tile_count(call, tokens);
      float* const x = packed_x.data() + lane * call.shape.tiles * x_size;
      float* const dy = packed_dy.data() + lane * call.shape.tiles * dy_size;
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        pack(call, back.dy(call, first, tokens), tile, dy + tile * dy_size);
        if (back.columns != nullptr) {
          const Product product = back.input_gradient(call, first, tokens);
          for (std::int64_t block = 0; block < back.columns->grid().blocks(); ++block) {
            multiply_block(call, product, tile, block, dy + tile * dy_size, dx.data() + lane * dx_size);
          }
        }
        pack(call, back.x(call, first, tokens), tile, x + tile * x_size);
      }
      const Samples samples = {*back.rows, x, dy, tiles, parts.data() + unit * pattern.nnz, false};
      for (std::int64_t block = 0; block < back.rows->grid().blocks(); ++block) {
        for (std::int64_t panel = 0; panel < back.rows->grid().panels(); ++panel) {
          sample_panel(call, samples, block, panel);
        }
      }
    });
    constexpr std::int64_t kChunk = 4096;
    for_chunks(call.executor, (pattern.nnz + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
      const std::int64_t end = std::min(pattern.nnz, (chunk + 1) * kChunk);
      for (std::int64_t k = chunk * kChunk; k < end; ++k) {
        float sum = begin > 0 ? back.dvalues[k] + parts.data()[k] : parts.data()[k];
        for (std::int64_t unit = 1; unit < count; ++unit) sum += parts.data()[unit * pattern.nnz + k];
        back.dvalues[k] = sum;
      }
    });
  }
}

// backward_together meets a barrier, and the other threads' caches, twice in a few hundred tokens. Apart,
// every pass needs room for its values gradient: as much as for its activations at most.
bool apart_pays(const Call& call, const Backward& back) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t pass = call.shape.width * call.shape.tiles;
  return back.rows != nullptr && call.executor.threads > 1 &&
         back.args.tokens > pass * (call.executor.threads - 1) &&
         pattern.nnz <= pass * (pattern.rows + pattern.cols);
}

void backward(const Call& call, const SparseLinearBackwardArgs& args, float* dvalues) {
  const Pattern& pattern = args.pattern;
  std::optional<TilePlan> columns;
  std::optional<TilePlan> rows;
  if (args.dx != nullptr) {
    columns.emplace(call.executor, call.kernels, pattern, Side::columns, call.shape.product, args.values,
                    args.dtype);
  }
  if (dvalues != nullptr) {
    rows.emplace(call.executor, call.kernels, pattern, Side::rows, call.shape.gradient, nullptr, args.dtype);
  }
  const Backward back = {columns ? &*columns : nullptr, rows ? &*rows : nullptr, args, dvalues};
  apart_pays(call, back) ? backward_apart(call, back) : backward_together(call, back);
}

}  // namespace

Status sparse_linear(const Executor& executor, const SparseLinearArgs& args) try {
  const IsaKernels* const kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  Storage storage{};
  if (!storage_of(args.dtype, storage)) return Status::unsupported_dtype;
  const Pattern& pattern = args.pattern;
  if (args.tokens == 0 || pattern.rows == 0) return Status::ok;
  const Call call = {executor, *kernels, storage,
                     tile_shape(pattern, args.tokens, executor.threads, kernels->tile_products->lanes)};
  const TilePlan plan(executor, *kernels, pattern, Side::rows, call.shape.product, args.values, args.dtype);
  const Scratch<float> bias(args.bias == nullptr ? 0 : pattern.rows);
  if (args.bias != nullptr) {
    kernels->tile_layout->widen[static_cast<int>(storage)](args.bias, bias.data(), pattern.rows);
  }
  multiply(call,
           {plan,
            {args.x, args.x_stride, pattern.cols, args.tokens},
            args.bias == nullptr ? nullptr : bias.data(),
            args.y,
            args.y_stride},
           nullptr, [](std::int64_t) {});
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

Status sparse_linear_backward(const Executor& executor, const SparseLinearBackwardArgs& args) try {
  const IsaKernels* const kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  Storage storage{};
  if (!storage_of(args.dtype, storage)) return Status::unsupported_dtype;
  const Call call = {executor, *kernels, storage,
                     tile_shape(args.pattern, args.tokens, executor.threads, kernels->tile_products->lanes)};
  if (args.dvalues == nullptr || storage == Storage::f32) {
    backward(call, args, static_cast<float*>(args.dvalues));
    return Status::ok;
  }
  const Scratch<float> dvalues(args.pattern.nnz);
  backward(call, args, dvalues.data());
  kernels->tile_layout->narrow[static_cast<int>(storage)](dvalues.data(), args.dvalues, args.pattern.nnz);
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
