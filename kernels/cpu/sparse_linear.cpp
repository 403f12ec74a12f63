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
  // Tokens whose products the values gradient sums in registers.
  std::int64_t pass_tokens() const { return shape.width * shape.tiles; }
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
    call.kernels.tile_products->spmm[call.shape.pass](
        {product.plan.panel(block, panel), product.plan.order(block, panel), product.plan.values(),
         x + panel * grid.panel * width, y, width, panel > 0});
  }
  const std::int64_t first = tile * width;
  const std::int64_t row = block * grid.block;
  call.kernels.tile_layout->unpack[static_cast<int>(call.storage)](
      {y, width, std::min(width, product.x.tokens - first), rows,
       product.bias == nullptr ? nullptr : product.bias + row,
       at(product.y, first * product.y_stride + row, call.bytes()), product.y_stride});
}

void multiply_tile(const Call& call, const Product& product, std::int64_t tile, const float* x, float* y) {
  for (std::int64_t block = 0; block < product.plan.grid().blocks(); ++block) {
    multiply_block(call, product, tile, block, x, y);
  }
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
      multiply_tile(call, product, tile, panel, y.data() + lane * y_size);
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

// The tokens from `from` on, at the begin of a pass: the input gradient by all threads, then the values
// gradient, in which each thread has its own rows.
void backward_together(const Call& call, const Backward& back, std::int64_t from) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t width = call.shape.width;
  // Whole passes of the values gradient, so that its sums do not depend on where tokens are cut.
  const std::int64_t pass = call.pass_tokens();
  const std::int64_t at_once =
      (std::max(call.shape.backward, call.executor.threads * width) + pass - 1) / pass * pass;
  const std::int64_t tiles = tile_count(call, std::min(back.args.tokens - from, at_once));
  const Scratch<float> packed_dy(tiles * pattern.rows * width);
  const Scratch<float> packed_x(back.rows == nullptr ? 0 : tiles * pattern.cols * width);
  for (std::int64_t first = from; first < back.args.tokens; first += at_once) {
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

// sums[k] = (begins ? 0 : sums[k]) + parts[0][k] + parts[1][k] + ..., in this order.
void add_parts(const Call& call, const float* parts, std::int64_t count, std::int64_t size, bool begins,
               float* sums) {
  constexpr std::int64_t kChunk = 4096;
  for_chunks(call.executor, (size + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk;
    const std::int64_t end = std::min(size, begin + kChunk);
    if (begins) std::copy(parts + begin, parts + end, sums + begin);
    for (std::int64_t part = begins ? 1 : 0; part < count; ++part) {
      const float* const of_part = parts + part * size;
      for (std::int64_t k = begin; k < end; ++k) sums[k] += of_part[k];
    }
  });
}

// The first `passes`, a multiple of the threads: each thread computes both gradients of a whole pass, whose
// activations stay in its own cache, and the passes' values gradients are added in their order. The sums are
// those of backward_together, which meets a barrier and the other threads' caches twice in a few hundred
// tokens.
void backward_apart(const Call& call, const Backward& back, std::int64_t passes) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t tiles = call.shape.tiles;
  const std::int64_t pass = call.pass_tokens();
  const std::int64_t threads = call.executor.threads;
  const std::int64_t x_size = pattern.cols * call.shape.width;
  const std::int64_t dy_size = pattern.rows * call.shape.width;
  const std::int64_t dx_size = back.columns == nullptr ? 0 : back.columns->grid().block * call.shape.width;
  const Scratch<float> packed_x(threads * tiles * x_size);
  const Scratch<float> packed_dy(threads * tiles * dy_size);
  const Scratch<float> dx(threads * dx_size);
  const Scratch<float> parts(threads * pattern.nnz);
  for (std::int64_t begin = 0; begin < passes; begin += threads) {
    for_units(call.executor, threads, [&](std::int64_t lane, std::int64_t unit) {
      const std::int64_t first = (begin + unit) * pass;
      const std::int64_t tokens = std::min(pass, back.args.tokens - first);
      float* const x = packed_x.data() + lane * tiles * x_size;
      float* const dy = packed_dy.data() + lane * tiles * dy_size;
      for (std::int64_t tile = 0; tile < tile_count(call, tokens); ++tile) {
        pack(call, back.x(call, first, tokens), tile, x + tile * x_size);
        pack(call, back.dy(call, first, tokens), tile, dy + tile * dy_size);
        if (back.columns == nullptr) continue;
        multiply_tile(call, back.input_gradient(call, first, tokens), tile, dy + tile * dy_size,
                      dx.data() + lane * dx_size);
      }
      const Samples samples = {*back.rows, x, dy, tile_count(call, tokens), parts.data() + unit * pattern.nnz,
                               false};
      for (std::int64_t block = 0; block < back.rows->grid().blocks(); ++block) {
        for (std::int64_t panel = 0; panel < back.rows->grid().panels(); ++panel) {
          sample_panel(call, samples, block, panel);
        }
      }
    });
    add_parts(call, parts.data(), threads, pattern.nnz, begin == 0, back.dvalues);
  }
}

// Passes that go apart: every thread gets as many, whose values gradients take no more room than their
// activations do, and both together what a thread keeps between calls.
std::int64_t passes_apart(const Call& call, const Backward& back) {
  const Pattern& pattern = back.args.pattern;
  const std::int64_t threads = call.executor.threads;
  if (back.rows == nullptr || threads == 1) return 0;
  const std::int64_t activations = call.pass_tokens() * (pattern.rows + pattern.cols);
  const auto bytes = static_cast<std::size_t>(threads * (activations + pattern.nnz)) * sizeof(float);
  if (pattern.nnz > activations || bytes > kKeptBytes) return 0;
  const std::int64_t passes = (back.args.tokens + call.pass_tokens() - 1) / call.pass_tokens();
  return passes / threads * threads;
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
  const std::int64_t apart = passes_apart(call, back);
  if (apart > 0) backward_apart(call, back, apart);
  const std::int64_t rest = apart * call.pass_tokens();
  if (rest < args.tokens) backward_together(call, back, rest);
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
