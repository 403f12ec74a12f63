// SPDX-License-Identifier: BSD-3-Clause
// The algorithm tile_spmm of kernels/sparse_linear.h against its reference twin.
#include "kernels/sparse_linear.h"
#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::SparseLinearArgs;
using kernels::SparseLinearBackwardArgs;

// Half a unit in the last place, relative.
double epsilon(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
}

// Operands of one layer, and its gradients' room. Activations have a gap after each token that must survive.
struct Layer {
  const Topology& topology;
  DType dtype;
  std::int64_t tokens, x_stride, y_stride;
  Bytes x, dy, values, bias;

  Layer(const Topology& topology_, DType dtype_, std::int64_t tokens_, std::int64_t gap)
      : topology(topology_),
        dtype(dtype_),
        tokens(tokens_),
        x_stride(topology.cols + gap),
        y_stride(topology.rows + gap),
        x(normal_numbers(dtype, tokens * x_stride, 1)),
        dy(normal_numbers(dtype, tokens * y_stride, 2)),
        values(normal_numbers(dtype, topology.nnz, 3)),
        bias(normal_numbers(dtype, topology.rows, 4)) {}

  SparseLinearArgs forward(Bytes& y) const {
    return {topology.pattern(), tokens,      dtype,    x.data(), x_stride,
            values.data(),      bias.data(), y.data(), y_stride};
  }
  SparseLinearBackwardArgs backward(Bytes* dx, Bytes* dvalues) const {
    return {topology.pattern(),
            tokens,
            dtype,
            dy.data(),
            y_stride,
            dvalues == nullptr ? nullptr : x.data(),
            x_stride,
            dx == nullptr ? nullptr : values.data(),
            dx == nullptr ? nullptr : dx->data(),
            x_stride,
            dvalues == nullptr ? nullptr : dvalues->data()};
  }
};

Bytes magnitudes(const Bytes& buffer, DType dtype) {
  Bytes result = buffer;
  const std::int64_t size = buffer.size() / kernels::element_size(dtype);
  for (std::int64_t i = 0; i < size; ++i) store(result, dtype, i, std::abs(load(buffer, dtype, i)));
  return result;
}

// |got - want| <= terms eps32 bound + 2 eps |want|, bound being the sum of the products' magnitudes: the
// error of an fp32 sum in any order, and the rounding of both to the storage type. Gaps are equal bytes.
testing::AssertionResult near(const Bytes& got, const Bytes& want, const Bytes& bound, DType dtype,
                              std::int64_t width, std::int64_t stride, double terms) {
  const std::int64_t size = want.size() / kernels::element_size(dtype);
  for (std::int64_t i = 0; i < size; ++i) {
    const double a = load(got, dtype, i);
    const double b = load(want, dtype, i);
    const double most = i % stride < width
                            ? terms * 0x1p-24 * load(bound, dtype, i) * 1.01 +
                                  2 * epsilon(dtype) * std::abs(b) + (dtype == DType::f16 ? 0x1p-24 : 0)
                            : 0;
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    if (!same && !(std::abs(a - b) <= most)) {
      return testing::AssertionFailure() << "element " << i << " of " << size << " (stride " << stride
                                         << ") is " << a << ", expected " << b << " within " << most;
    }
  }
  return testing::AssertionSuccess();
}

struct Expected {
  Bytes y, y_bound, dx, dx_bound, dvalues, dvalues_bound;
};

Expected expected(const Layer& layer) {
  const std::int64_t n = layer.topology.nnz;
  Expected e{untouched(layer.dtype, layer.tokens * layer.y_stride),
             untouched(layer.dtype, layer.tokens * layer.y_stride),
             untouched(layer.dtype, layer.tokens * layer.x_stride),
             untouched(layer.dtype, layer.tokens * layer.x_stride),
             untouched(layer.dtype, n),
             untouched(layer.dtype, n)};
  Layer bound(layer.topology, layer.dtype, layer.tokens, layer.x_stride - layer.topology.cols);
  bound.x = magnitudes(layer.x, layer.dtype);
  bound.dy = magnitudes(layer.dy, layer.dtype);
  bound.values = magnitudes(layer.values, layer.dtype);
  bound.bias = magnitudes(layer.bias, layer.dtype);
  using kernels::reference::sparse_linear;
  using kernels::reference::sparse_linear_backward;
  EXPECT_EQ(sparse_linear(serial(), layer.forward(e.y)), Status::ok);
  EXPECT_EQ(sparse_linear(serial(), bound.forward(e.y_bound)), Status::ok);
  EXPECT_EQ(sparse_linear_backward(serial(), layer.backward(&e.dx, &e.dvalues)), Status::ok);
  EXPECT_EQ(sparse_linear_backward(serial(), bound.backward(&e.dx_bound, &e.dvalues_bound)), Status::ok);
  return e;
}

void check(const Layer& layer) {
  const Topology& topology = layer.topology;
  const Expected e = expected(layer);
  for_each_variant([&](const Executor& executor) {
    Bytes y = untouched(layer.dtype, layer.tokens * layer.y_stride);
    ASSERT_EQ(kernels::cpu::sparse_linear(executor, layer.forward(y)), Status::ok);
    ASSERT_TRUE(near(y, e.y, e.y_bound, layer.dtype, topology.rows, layer.y_stride,
                     static_cast<double>(topology.cols + 2)));
    Bytes dx = untouched(layer.dtype, layer.tokens * layer.x_stride);
    Bytes dvalues = untouched(layer.dtype, topology.nnz);
    ASSERT_EQ(kernels::cpu::sparse_linear_backward(executor, layer.backward(&dx, &dvalues)), Status::ok);
    ASSERT_TRUE(near(dx, e.dx, e.dx_bound, layer.dtype, topology.cols, layer.x_stride,
                     static_cast<double>(topology.rows + 2)));
    ASSERT_TRUE(
        near(dvalues, e.dvalues, e.dvalues_bound, layer.dtype, 1, 1, static_cast<double>(layer.tokens + 2)));
  });
}

TEST(TileSpmm, ReferenceOnASmallLayer) {
  Topology topology(2, 3);  // [[0, 2, 0], [3, 0, 4]]
  topology.activate(0, 1);
  topology.activate(1, 0);
  topology.activate(1, 2);
  topology.derive();
  const float values[] = {2, 3, 4};
  const float bias[] = {.5F, -1};
  const float x[] = {1, 2, 3, 4, 5, 6};
  float y[4];
  ASSERT_EQ(kernels::reference::sparse_linear(serial(),
                                              {topology.pattern(), 2, DType::f32, x, 3, values, bias, y, 2}),
            Status::ok);
  EXPECT_EQ(y[0], 4.5F);
  EXPECT_EQ(y[1], 14);
  EXPECT_EQ(y[2], 10.5F);
  EXPECT_EQ(y[3], 35);
  const float dy[] = {1, -1, 2, 1};
  float dx[6];
  float dvalues[3];
  ASSERT_EQ(kernels::reference::sparse_linear_backward(
                serial(), {topology.pattern(), 2, DType::f32, dy, 2, x, 3, values, dx, 3, dvalues}),
            Status::ok);
  const float want_dx[] = {-3, 2, -4, 3, 4, 4};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(dx[i], want_dx[i]) << i;
  EXPECT_EQ(dvalues[0], 12);  // dy[:, 0] . x[:, 1] = 1 * 2 + 2 * 5
  EXPECT_EQ(dvalues[1], 3);
  EXPECT_EQ(dvalues[2], 3);
}

// Every problem, every number of tokens that meets another tile shape, fp32.
TEST(TileSpmm, NearReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const std::int64_t tokens : {1, 7, 16, 45, 128, 133}) {
      SCOPED_TRACE("tokens " + std::to_string(tokens));
      check(Layer(topology, DType::f32, tokens, tokens % 2 == 0 ? 0 : 3));
    }
  });
}

TEST(TileSpmm, StorageTypesNearReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(name(dtype));
      check(Layer(topology, dtype, 19, 5));
    }
  });
}

// More tokens than a backward pass packs at a time.
TEST(TileSpmm, ManyTokens) {
  check(Layer(make_topology({"small", 40, 70, .3}), DType::f32, 5000, 0));
  check(Layer(make_topology({"sparse", 40, 270, .03}), DType::f32, 1500, 0));
}

// T8: the same bits for any number of threads.
TEST(TileSpmm, ThreadsDoNotMatter) {
  for (const Problem& problem : {Problem{"dense half", 700, 300, .5}, Problem{"quarter", 300, 700, .25},
                                 Problem{"sparse", 700, 900, .03}}) {
    const Topology topology = make_topology(problem);
    for (const auto& [tokens, dtype] :
         {std::pair{5, DType::f32}, {130, DType::f32}, {2100, DType::f32}, {700, DType::bf16}}) {
      const Layer layer(topology, dtype, tokens, 0);
      const Executor executors[] = {executor_of<1>(), executor_of<2>(), executor_of<7>()};
      std::vector<Bytes> results[3];
      for (int i = 0; i < 3; ++i) {
        Bytes y = untouched(dtype, tokens * topology.rows);
        Bytes dx = untouched(dtype, tokens * topology.cols);
        Bytes dvalues = untouched(dtype, topology.nnz);
        ASSERT_EQ(kernels::cpu::sparse_linear(executors[i], layer.forward(y)), Status::ok);
        ASSERT_EQ(kernels::cpu::sparse_linear_backward(executors[i], layer.backward(&dx, &dvalues)),
                  Status::ok);
        // One gradient at a time gives the same bits as both together.
        Bytes dx_alone = untouched(dtype, tokens * topology.cols);
        Bytes dvalues_alone = untouched(dtype, topology.nnz);
        ASSERT_EQ(kernels::cpu::sparse_linear_backward(executors[i], layer.backward(&dx_alone, nullptr)),
                  Status::ok);
        ASSERT_EQ(kernels::cpu::sparse_linear_backward(executors[i], layer.backward(nullptr, &dvalues_alone)),
                  Status::ok);
        ASSERT_TRUE(same_bytes(dx_alone, dx));
        ASSERT_TRUE(same_bytes(dvalues_alone, dvalues));
        results[i].push_back(std::move(y));
        results[i].push_back(std::move(dx));
        results[i].push_back(std::move(dvalues));
        for (std::size_t r = 0; r < 3; ++r) ASSERT_TRUE(same_bytes(results[i][r], results[0][r])) << r;
      }
    }
  }
}

// NaN and infinity travel: no product is left out because its other operand is zero.
TEST(TileSpmm, NonFiniteActivations) {
  const Topology topology = make_topology({"small", 33, 70, .4});
  Layer layer(topology, DType::f32, 20, 0);
  store(layer.x, DType::f32, 3 * layer.x_stride + 5, std::numeric_limits<double>::quiet_NaN());
  store(layer.x, DType::f32, 11 * layer.x_stride + 64, std::numeric_limits<double>::infinity());
  store(layer.dy, DType::f32, 7 * layer.y_stride + 32, -std::numeric_limits<double>::infinity());
  check(layer);
}

TEST(TileSpmm, DoubleIsRefused) {
  const Topology topology = make_topology({"small", 2, 8, .5});
  const Layer layer(topology, DType::f64, 2, 0);
  Bytes y = untouched(DType::f64, 4);
  Bytes dx = untouched(DType::f64, 16);
  const Bytes before = y;
  EXPECT_EQ(kernels::cpu::sparse_linear(serial(), layer.forward(y)), Status::unsupported_dtype);
  EXPECT_EQ(kernels::cpu::sparse_linear_backward(serial(), layer.backward(&dx, nullptr)),
            Status::unsupported_dtype);
  EXPECT_TRUE(same_bytes(y, before));
}

}  // namespace
}  // namespace smet::test
