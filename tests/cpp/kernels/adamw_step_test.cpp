// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

#include <functional>

#include "kernels/rounding_hash.h"
#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::AdamWStepArgs;
using kernels::AdamWTensor;
using kernels::CohortRow;

DType compute_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// One tensor's buffers and its description.
struct Tensor {
  DType dtype;
  Bytes param, grad, exp_avg, exp_avg_sq;
  Buffer<std::uint8_t> cohort;
  std::vector<CohortRow> rows;
  AdamWTensor options{};

  Tensor(DType dtype_, std::int64_t size, std::uint64_t seed)
      : dtype(dtype_),
        param(normal_numbers(dtype_, size, seed, .02)),
        grad(normal_numbers(dtype_, size, seed + 1, 1e-3)),
        exp_avg(normal_numbers(compute_type(dtype_), size, seed + 2, 1e-3)),
        exp_avg_sq(normal_numbers(compute_type(dtype_), size, seed + 3, 1e-3)),
        cohort(size),
        rows({{1e-5, 1.3e-3, .4}}) {
    const DType compute = compute_type(dtype);
    for (std::int64_t i = 0; i < size; ++i) {
      store(exp_avg_sq, compute, i, std::pow(load(exp_avg_sq, compute, i), 2));
    }
    options.size = size;
    options.param_dtype = options.grad_dtype = dtype;
    options.beta1 = .9;
    options.beta2 = .999;
    options.eps = 1e-8;
    options.rounding_key = 0x5EED;
  }

  // `young` of the weights carry one of 255 other ids, each with a row of its own.
  void give_cohorts(double young) {
    for (int id = 1; id < 256; ++id)
      rows.push_back({1e-7 * id, 1e-5 * id, std::sqrt(1 - std::pow(.999, id))});
    Random random(43);
    for (std::uint8_t& id : cohort)
      id = static_cast<std::uint8_t>(random.uniform() < young ? random.below(256) : 0);
  }

  AdamWTensor descriptor() {
    AdamWTensor tensor = options;
    tensor.param = param.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    tensor.cohort = rows.size() > 1 ? cohort.data() : nullptr;
    tensor.cohorts = rows.data();
    tensor.cohort_rows = static_cast<std::int64_t>(rows.size());
    return tensor;
  }
};

using Kernel = Status (*)(const Executor&, const AdamWStepArgs&);

Status step(Kernel kernel, const Executor& executor, std::vector<Tensor>& tensors) {
  std::vector<AdamWTensor> descriptors;
  for (Tensor& tensor : tensors) descriptors.push_back(tensor.descriptor());
  return kernel(executor, {descriptors.data(), static_cast<std::int64_t>(descriptors.size())});
}

Status step(Kernel kernel, const Executor& executor, Tensor& tensor) {
  const AdamWTensor descriptor = tensor.descriptor();
  return kernel(executor, {&descriptor, 1});
}

// The header's lines, one operation at a time in the compute type.
template <typename Compute>
void plain_step(Tensor& tensor) {
  const AdamWTensor& o = tensor.options;
  const DType compute = compute_type(tensor.dtype);
  const auto scalar = [](double x) { return static_cast<Compute>(x); };
  for (std::int64_t i = 0; i < o.size; ++i) {
    const CohortRow& row = tensor.rows[tensor.rows.size() > 1 ? tensor.cohort[i] : 0];
    volatile Compute p = scalar(load(tensor.param, tensor.dtype, i));
    volatile Compute g = scalar(load(tensor.grad, tensor.dtype, i));
    volatile Compute m = scalar(load(tensor.exp_avg, compute, i));
    volatile Compute v = scalar(load(tensor.exp_avg_sq, compute, i));
    volatile Compute t;  // volatile: nothing is contracted or kept in more bits
    if (o.maximize) g = -g;
    t = scalar(o.l2) * p;
    if (o.l2 != 0) g = g + t;
    t = g - m;
    t = t * scalar(1 - o.beta1);
    m = m + t;
    t = scalar(1 - o.beta2) * g;
    t = t * g;
    v = v * scalar(o.beta2);
    v = v + t;
    volatile Compute denominator = std::sqrt(v);
    denominator = denominator * scalar(1 / row.bc2_sqrt);
    denominator = denominator + scalar(o.eps);
    t = scalar(-row.step_size) * m;
    t = t / denominator;
    volatile Compute decayed = scalar(row.decay) * p;
    t = t - decayed;
    p = p + t;
    store(tensor.exp_avg, compute, i, static_cast<double>(m));
    store(tensor.exp_avg_sq, compute, i, static_cast<double>(v));
    store(tensor.param, tensor.dtype, i, static_cast<double>(p));
    if (o.stochastic_rounding && std::isfinite(p)) {
      const auto noise = kernels::hash32(o.rounding_key, static_cast<std::uint64_t>(i)) & 0xFFFFU;
      const auto bits =
          static_cast<std::uint16_t>((kernels::float_bits(static_cast<float>(p)) + noise) >> 16);
      std::memcpy(tensor.param.data() + 2 * i, &bits, 2);
    }
  }
}

void plain_step_any(Tensor& tensor) {
  tensor.dtype == DType::f64 ? plain_step<double>(tensor) : plain_step<float>(tensor);
}

void expect_same(const Tensor& got, const Tensor& want) {
  EXPECT_TRUE(same_bytes(got.param, want.param)) << "param";
  EXPECT_TRUE(same_bytes(got.exp_avg, want.exp_avg)) << "exp_avg";
  EXPECT_TRUE(same_bytes(got.exp_avg_sq, want.exp_avg_sq)) << "exp_avg_sq";
}

struct Setting {
  const char* name;
  double young;
  std::function<void(Tensor&)> change;
};

std::vector<Setting> settings() {
  return {
      {"no cohorts", -1, [](Tensor&) {}},
      {"mature", 0, [](Tensor&) {}},
      {"2 % young", .02, [](Tensor&) {}},
      {"all ages", 1, [](Tensor&) {}},
      {"one cohort", 0, [](Tensor& t) { std::fill(t.cohort.begin(), t.cohort.end(), std::uint8_t{255}); }},
      {"coupled decay, maximize", .3,
       [](Tensor& t) {
         t.options.l2 = .01;
         t.options.maximize = true;
       }},
      {"betas 0", -1, [](Tensor& t) { t.options.beta1 = t.options.beta2 = 0; }},
  };
}

// Every dtype and setting: the bits of the header's formula, on every instruction set and thread count (T8).
TEST(AdamWStep, EqualsTheFormulaBitForBit) {
  for (const DType dtype : dtypes()) {
    for (const Setting& setting : settings()) {
      for (const bool stochastic : {false, true}) {
        if (stochastic && dtype != DType::bf16) continue;
        for (const std::int64_t size : {0, 1, 15, 16, 17, 1000, 40007}) {
          SCOPED_TRACE(std::string(name(dtype)) + ", " + setting.name + ", " + std::to_string(size));
          Tensor start(dtype, size, 47);
          if (setting.young >= 0) start.give_cohorts(setting.young);
          setting.change(start);
          start.options.stochastic_rounding = stochastic;
          Tensor want = start;
          plain_step_any(want);
          for_each_variant([&](const Executor& executor) {
            Tensor got = start;
            ASSERT_EQ(step(kernels::cpu::adamw_step, executor, got), Status::ok);
            expect_same(got, want);
          });
        }
      }
    }
  }
}

// All tensors of a model in one call, sizes from 0 to several chunks, dtypes mixed: as one by one.
TEST(AdamWStep, ManyTensorsAtOnce) {
  std::vector<Tensor> start;
  for (const std::int64_t size : {3, 50000, 0, 1, 16384, 16385, 0, 32768, 7}) {
    start.emplace_back(dtypes()[start.size() % 4], size, 53 + start.size());
    if (size % 2 == 0) start.back().give_cohorts(.1);
  }
  std::vector<Tensor> want = start;
  for (Tensor& tensor : want) plain_step_any(tensor);
  for_each_variant([&](const Executor& executor) {
    std::vector<Tensor> got = start;
    ASSERT_EQ(step(kernels::cpu::adamw_step, executor, got), Status::ok);
    for (std::size_t t = 0; t < got.size(); ++t) expect_same(got[t], want[t]);
  });
  const AdamWStepArgs none = {nullptr, 0};
  EXPECT_EQ(kernels::cpu::adamw_step(serial(), none), Status::ok);
}

// N1 (one step): how far fp32 may lie from the double reference, with no outlier. u = 2^-24 is half an ulp of
// 1; every operation adds at most u of its result: 3 for m, 5 for v, 8 for the update, 2 for param.
TEST(AdamWStep, N1WithinUlpsOfDouble) {
  const double u = 0x1p-24;
  Tensor fast(DType::f32, 200000, 59);
  fast.give_cohorts(.5);
  for (int round = 0; round < 20; ++round) {
    Tensor exact = fast;
    const Tensor before = fast;
    ASSERT_EQ(step(kernels::cpu::adamw_step, serial(), fast), Status::ok);
    ASSERT_EQ(step(kernels::reference::adamw_step, serial(), exact), Status::ok);
    for (std::int64_t i = 0; i < fast.options.size; ++i) {
      const auto at = [&](const Bytes& buffer) { return load(buffer, DType::f32, i); };
      const double m_scale = std::fabs(at(before.exp_avg)) + std::fabs(at(before.grad));
      ASSERT_LE(std::fabs(at(fast.exp_avg) - at(exact.exp_avg)), 3 * u * m_scale) << i;
      ASSERT_LE(std::fabs(at(fast.exp_avg_sq) - at(exact.exp_avg_sq)), 5 * u * at(exact.exp_avg_sq)) << i;
      const CohortRow& row = fast.rows[fast.cohort[i]];
      const double update =
          row.step_size * m_scale / (std::sqrt(at(exact.exp_avg_sq)) / row.bc2_sqrt + fast.options.eps);
      const double p_scale = std::fabs(at(before.param)) + update;
      ASSERT_LE(std::fabs(at(fast.param) - at(exact.param)), 8 * u * update + 2 * u * p_scale) << i;
    }
    for (std::int64_t i = 0; i < fast.options.size; ++i) {
      store(fast.grad, DType::f32, i, 1e-3 * std::sin(static_cast<double>(i * (round + 1))));
    }
  }
}

// N5. Gradients of 1e-38, denormals and 1e30: the formula's bits, and parameters stay finite.
TEST(AdamWStep, N5TinyAndHugeGradients) {
  const double gradients[] = {1e-38, -1e-38, 1e-45, 3e-42, 1e30, -1e30, 3e38, 0, -0.0, 1e-20, 1e19};
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    Tensor start(dtype, 300, 61);
    for (std::int64_t i = 0; i < 300; ++i) {
      store(start.grad, dtype, i, gradients[i % 11]);
      if (i % 3 != 0) continue;
      store(start.exp_avg, compute_type(dtype), i, 0);
      store(start.exp_avg_sq, compute_type(dtype), i, 0);
    }
    for_each_variant([&](const Executor& executor) {
      Tensor got = start;
      Tensor want = start;
      for (int round = 0; round < 5; ++round) {
        plain_step_any(want);
        ASSERT_EQ(step(kernels::cpu::adamw_step, executor, got), Status::ok);
      }
      expect_same(got, want);
      for (std::int64_t i = 0; i < 300; ++i) EXPECT_TRUE(std::isfinite(load(got.param, dtype, i))) << i;
    });
  }
}

// N6: eps is added after the bias correction of v. From zero moments with g = eps the first step is then half
// of step_size (1 - beta1); were eps added before the correction it would be 30 times smaller.
TEST(AdamWStep, N6EpsAfterBiasCorrection) {
  Tensor tensor(DType::f64, 4, 67);
  tensor.rows = {{0, 1 / (1 - .9), std::sqrt(1 - .999)}};
  tensor.options.eps = 1e-4;
  for (std::int64_t i = 0; i < 4; ++i) {
    store(tensor.param, DType::f64, i, 0);
    store(tensor.grad, DType::f64, i, 1e-4);
    store(tensor.exp_avg, DType::f64, i, 0);
    store(tensor.exp_avg_sq, DType::f64, i, 0);
  }
  ASSERT_EQ(step(kernels::cpu::adamw_step, serial(), tensor), Status::ok);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(load(tensor.param, DType::f64, i), -.5, 1e-12);
}

// N7 (kernel): with the corrections of age 1 the first step from zero moments is the learning rate, against
// the gradient's sign; with those of age 2^24, which are 1, it is smaller by exactly what they correct.
TEST(AdamWStep, N7FirstAndLastAges) {
  const double lr = 1e-3;
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const double age : {1.0, 0x1p24}) {
      const double bc1 = 1 - std::pow(.9, age);
      const double bc2_sqrt = std::sqrt(1 - std::pow(.999, age));
      Tensor tensor(dtype, 100, 71);
      tensor.rows = {{0, lr / bc1, bc2_sqrt}};
      tensor.options.eps = 0;
      for (std::int64_t i = 0; i < 100; ++i) {
        store(tensor.param, dtype, i, 0);
        store(tensor.exp_avg, dtype, i, 0);
        store(tensor.exp_avg_sq, dtype, i, 0);
      }
      ASSERT_EQ(step(kernels::cpu::adamw_step, serial(), tensor), Status::ok);
      const double size = age == 1 ? lr : lr * .1 / std::sqrt(1 - .999);
      for (std::int64_t i = 0; i < 100; ++i) {
        const double want = std::copysign(size, -load(tensor.grad, dtype, i));
        ASSERT_NEAR(load(tensor.param, dtype, i), want, size * (dtype == DType::f32 ? 1e-6 : 1e-12));
      }
    }
  }
}

// N8: updates of 1/20 of a bf16 ulp are lost by rounding to nearest and kept on average by stochastic
// rounding, within 5 standard errors.
TEST(AdamWStep, N8StochasticRoundingDoesNotStall) {
  constexpr std::int64_t kSize = 100000;
  const double ulp = 0x1p-7;
  for (const bool stochastic : {false, true}) {
    Tensor tensor(DType::bf16, kSize, 73);
    tensor.options.stochastic_rounding = stochastic;
    tensor.options.beta1 = tensor.options.beta2 = 0;
    tensor.options.eps = 0;
    tensor.rows = {{0, ulp / 20, 1}};
    for (std::int64_t i = 0; i < kSize; ++i) {
      store(tensor.param, DType::bf16, i, 1);
      store(tensor.grad, DType::bf16, i, -1);
    }
    constexpr int kSteps = 10;
    for (int round = 0; round < kSteps; ++round) {
      tensor.options.rounding_key = kernels::mix64(static_cast<std::uint64_t>(round) + 1);
      ASSERT_EQ(step(kernels::cpu::adamw_step, serial(), tensor), Status::ok);
    }
    double sum = 0;
    for (std::int64_t i = 0; i < kSize; ++i) sum += load(tensor.param, DType::bf16, i);
    const double moved = (sum / kSize - 1) / ulp;
    const double standard_error = std::sqrt(kSteps * .05 * .95 / kSize);
    EXPECT_NEAR(moved, stochastic ? kSteps / 20.0 : 0, stochastic ? 5 * standard_error : 0);
  }
}

TEST(AdamWStep, WrongArgumentsAreRefused) {
  Tensor tensor(DType::f32, 20, 79);
  const Tensor before = tensor;
  tensor.options.grad_dtype = DType::bf16;
  EXPECT_EQ(step(kernels::cpu::adamw_step, serial(), tensor), Status::unsupported_dtype);
  EXPECT_EQ(step(kernels::reference::adamw_step, serial(), tensor), Status::unsupported_dtype);
  tensor.options.grad_dtype = DType::f32;
  for (const std::size_t rows : {0U, 257U}) {
    tensor.rows.assign(rows, {0, 1, 1});
    EXPECT_EQ(step(kernels::cpu::adamw_step, serial(), tensor), Status::invalid_argument);
    EXPECT_EQ(step(kernels::reference::adamw_step, serial(), tensor), Status::invalid_argument);
  }
  expect_same(tensor, before);
}

// The first buffer with a NaN or an infinity, wherever in it.
TEST(FirstNonfinite, FindsEveryPlace) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : dtypes()) {
    for (const std::int64_t size : {0, 1, 1500, 40000}) {
      std::vector<Bytes> data;
      for (std::uint64_t b = 0; b < 4; ++b) data.push_back(normal_numbers(dtype, size, 83 + b));
      std::vector<kernels::Buffer> buffers;
      for (const Bytes& bytes : data) buffers.push_back({bytes.data(), size, dtype});
      for_each_variant([&](const Executor& executor) {
        EXPECT_EQ(kernels::cpu::first_nonfinite(executor, buffers.data(), 4), -1);
        for (const std::int64_t at : {std::int64_t{0}, size / 2, size - 1}) {
          if (at < 0 || at >= size) continue;
          for (const double bad : {infinity, -infinity, std::nan("")}) {
            store(data[3], dtype, at, bad);
            EXPECT_EQ(kernels::cpu::first_nonfinite(executor, buffers.data(), 4), 3);
            store(data[1], dtype, size - 1 - at, bad);
            EXPECT_EQ(kernels::cpu::first_nonfinite(executor, buffers.data(), 4), 1);
            EXPECT_EQ(kernels::reference::first_nonfinite(serial(), buffers.data(), 4), 1);
            for (const std::size_t b : {1U, 3U}) {
              for (const std::int64_t i : {at, size - 1 - at}) store(data[b], dtype, i, 1);
            }
          }
        }
      });
    }
  }
}

}  // namespace
}  // namespace smet::test
