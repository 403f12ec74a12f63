// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

#include <functional>

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::AdamWStepArgs;
using kernels::AdamWTensor;
using kernels::CohortRow;
using kernels::cuda::StepControl;

DType compute_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// One tensor's buffers on the host and its description.
struct Tensor {
  DType dtype;
  Bytes param, grad, exp_avg, exp_avg_sq;
  Buffer<std::int16_t> master_low{0};  // empty: no masters
  Buffer<std::uint8_t> cohort;
  Buffer<CohortRow> rows;
  AdamWTensor options{};
  std::int64_t offset = 0;  // elements beyond an aligned address, on the device

  Tensor(DType dtype_, std::int64_t size, std::uint64_t seed, double young)
      : dtype(dtype_),
        param(normal_numbers(dtype_, size, seed, .02)),
        grad(normal_numbers(dtype_, size, seed + 1, 1e-3)),
        exp_avg(normal_numbers(compute_type(dtype_), size, seed + 2, 1e-3)),
        exp_avg_sq(normal_numbers(compute_type(dtype_), size, seed + 3, 1e-3)),
        cohort(young < 0 ? 0 : size),
        rows(young < 0 ? 1 : 256) {
    for (std::int64_t i = 0; i < size; ++i) {
      store(exp_avg_sq, compute_type(dtype), i, std::pow(load(exp_avg_sq, compute_type(dtype), i), 2));
    }
    rows[0] = {1e-5, 1.3e-3, .4};
    for (int id = 1; id < rows.size(); ++id) {
      rows[id] = {1e-7 * id, 1e-5 * id, std::sqrt(1 - std::pow(.999, id))};
    }
    Random random(43);
    for (std::uint8_t& id : cohort) {
      id = static_cast<std::uint8_t>(random.uniform() < young ? random.below(256) : 0);
    }
    options.size = size;
    options.param_dtype = options.grad_dtype = dtype;
    options.cohort_rows = rows.size();
    options.beta1 = .9;
    options.beta2 = .999;
    options.eps = 1e-8;
    options.rounding_key = 0x5EED;
  }

  // Of a bf16 tensor: masters whose low halves are any.
  void give_masters() {
    if (dtype != DType::bf16) return;
    master_low = Buffer<std::int16_t>(options.size);
    Random random(47);
    for (std::int16_t& low : master_low) low = static_cast<std::int16_t>(random.below(0x10000) - 0x8000);
  }

  AdamWTensor on_host() {
    AdamWTensor tensor = options;
    tensor.param = param.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    tensor.cohort = cohort.size() > 0 ? cohort.data() : nullptr;
    tensor.master_low = master_low.size() > 0 ? master_low.data() : nullptr;
    tensor.cohorts = rows.data();
    return tensor;
  }
};

// The same tensor in device memory.
struct DeviceTensor {
  DType dtype;
  OnDevice<unsigned char> param, grad, exp_avg, exp_avg_sq;
  OnDevice<std::int16_t> master_low;
  OnDevice<std::uint8_t> cohort;
  OnDevice<CohortRow> rows;
  AdamWTensor tensor;

  explicit DeviceTensor(const Tensor& host)
      : dtype(host.dtype),
        param(host.param, host.offset * kernels::element_size(dtype)),
        grad(host.grad, host.offset * kernels::element_size(dtype)),
        exp_avg(host.exp_avg, host.offset * kernels::element_size(compute_type(dtype))),
        exp_avg_sq(host.exp_avg_sq, host.offset * kernels::element_size(compute_type(dtype))),
        master_low(host.master_low, host.offset),
        cohort(host.cohort, host.offset),
        rows(host.rows),
        tensor(host.options) {
    tensor.param = param.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    tensor.cohort = host.cohort.size() > 0 ? cohort.data() : nullptr;
    tensor.master_low = host.master_low.size() > 0 ? master_low.data() : nullptr;
    tensor.cohorts = rows.data();
  }

  void expect_equals(const Tensor& want) const {
    EXPECT_TRUE(same_numbers(dtype, param.read(), want.param)) << "param";
    EXPECT_TRUE(same_bytes(master_low.read(), want.master_low)) << "master_low";
    EXPECT_TRUE(same_numbers(compute_type(dtype), exp_avg.read(), want.exp_avg)) << "exp_avg";
    EXPECT_TRUE(same_numbers(compute_type(dtype), exp_avg_sq.read(), want.exp_avg_sq)) << "exp_avg_sq";
  }
};

// What the CPU kernel makes of it: the bits of the header's formula, by
// tests/cpp/kernels/adamw_step_test.cpp.
Tensor stepped(const Tensor& start) {
  Tensor want = start;
  const AdamWTensor tensor = want.on_host();
  EXPECT_EQ(kernels::cpu::adamw_step(serial(), {&tensor, 1}), Status::ok);
  return want;
}

void step(DeviceTensor& tensor, const StepControl& control) {
  ASSERT_EQ(kernels::cuda::adamw_step(stream(), {&tensor.tensor, 1}, control), Status::ok);
}

struct Setting {
  const char* name;
  double young;  // negative: no cohorts
  std::function<void(Tensor&)> change;
};

std::vector<Setting> settings() {
  return {
      {"no cohorts", -1, [](Tensor&) {}},
      {"2 % young", .02, [](Tensor&) {}},
      {"all ages", 1, [](Tensor&) {}},
      {"coupled decay, maximize", .3,
       [](Tensor& t) {
         t.options.l2 = .01;
         t.options.maximize = true;
       }},
      {"stochastic rounding", .3, [](Tensor& t) { t.options.stochastic_rounding = true; }},
      {"master weights", .3, [](Tensor& t) { t.give_masters(); }},
      {"master weights, not aligned, coupled decay", .3,
       [](Tensor& t) {
         t.give_masters();
         t.offset = 1;
         t.options.l2 = .01;
       }},
      {"master weights, awkward numbers", -1,
       [](Tensor& t) {
         t.give_masters();
         t.param = awkward_numbers(t.dtype, t.options.size, 7, true);
         t.grad = awkward_numbers(t.dtype, t.options.size, 5, true);
       }},
      {"not aligned", .3, [](Tensor& t) { t.offset = 1; }},
      {"awkward gradients", .3,
       [](Tensor& t) { t.grad = awkward_numbers(t.dtype, t.options.size, 5, true); }},
  };
}

// Every dtype and setting: the bits of the CPU kernel.
TEST(AdamWStepKernel, EqualsCpu) {
  for (const DType dtype : dtypes()) {
    for (const Setting& setting : settings()) {
      for (const std::int64_t size : {0, 1, 3, 4, 1021, 1024, 9001}) {
        SCOPED_TRACE(std::string(name(dtype)) + ", " + setting.name + ", " + std::to_string(size));
        Tensor start(dtype, size, 47, setting.young);
        setting.change(start);
        const Tensor want = stepped(start);
        const auto run = [&] {
          DeviceTensor got(start);
          step(got, {});
          got.expect_equals(want);
        };
        size == 1021 ? for_each_schedule(run) : on_next_schedule(run);
      }
    }
  }
}

// More tensors than one launch holds, sizes from 0 to several chunks, dtypes mixed: as one by one.
TEST(AdamWStepKernel, ManyTensorsAtOnce) {
  std::vector<Tensor> start;
  for (int t = 0; t < 150; ++t) {
    const std::int64_t sizes[] = {3, 0, 1, 700, 8192, 8193, 20000};
    const std::int64_t size = t < 7 ? sizes[t] : t % 50;
    start.emplace_back(t < 7 ? DType::bf16 : dtypes()[static_cast<std::size_t>(t) % 4], size,
                       53 + static_cast<std::uint64_t>(t), t % 2 == 0 ? .1 : -1);
  }
  on_next_schedule([&] {
    std::vector<std::unique_ptr<DeviceTensor>> got;
    std::vector<AdamWTensor> tensors;
    for (const Tensor& tensor : start) {
      got.push_back(std::make_unique<DeviceTensor>(tensor));
      tensors.push_back(got.back()->tensor);
    }
    const AdamWStepArgs args = {tensors.data(), static_cast<std::int64_t>(tensors.size())};
    ASSERT_EQ(kernels::cuda::adamw_step(stream(), args, {}), Status::ok);
    for (std::size_t t = 0; t < got.size(); ++t) {
      SCOPED_TRACE(t);
      got[t]->expect_equals(stepped(start[t]));
    }
  });
  EXPECT_EQ(kernels::cuda::adamw_step(stream(), {nullptr, 0}, {}), Status::ok);
}

// G4: after an overflow nothing is written; the gradient is divided by the scale first.
TEST(AdamWStepKernel, G4FoundInfAndGradScale) {
  Buffer<float> flags(3);
  flags[1] = 1;
  flags[2] = 1024;  // a power of two: scaling and dividing is exact
  OnDevice<float> device_flags(flags);
  const float* no = device_flags.data();
  const float* found = device_flags.data() + 1;
  const float* scale = device_flags.data() + 2;
  for (const DType dtype : dtypes()) {
    Tensor start(dtype, 1000, 61, .3);
    const Tensor want = stepped(start);
    for (std::int64_t i = 0; i < 1000; ++i) store(start.grad, dtype, i, 1024 * load(start.grad, dtype, i));
    for_each_schedule([&] {
      DeviceTensor skipped(start);
      step(skipped, {found, scale});
      skipped.expect_equals(start);
      DeviceTensor scaled(start);
      step(scaled, {no, scale});
      scaled.expect_equals(want);
    });
  }
}

TEST(AdamWStepKernel, WrongArgumentsAreRefused) {
  AdamWTensor tensor{};
  tensor.param_dtype = DType::f32;
  tensor.grad_dtype = DType::bf16;
  tensor.cohort_rows = 1;
  EXPECT_EQ(kernels::cuda::adamw_step(stream(), {&tensor, 1}, {}), Status::unsupported_dtype);
  tensor.grad_dtype = DType::f32;
  for (const std::int64_t rows : {0, 257}) {
    tensor.cohort_rows = rows;
    EXPECT_EQ(kernels::cuda::adamw_step(stream(), {&tensor, 1}, {}), Status::invalid_argument);
  }
  std::int16_t low = 0;
  tensor.master_low = &low;
  EXPECT_EQ(kernels::cuda::adamw_step(stream(), {&tensor, 1}, {}), Status::unsupported_dtype);
}

TEST(FirstNonfiniteKernel, FindsEveryPlace) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::int64_t sizes[] = {500, 17000, 0, 33};
  OnDevice<std::int64_t> first(1);
  const auto find = [&](const std::vector<Bytes>& host) {
    std::vector<OnDevice<unsigned char>> device(host.begin(), host.end());
    std::vector<kernels::Buffer> buffers;
    for (std::size_t b = 0; b < host.size(); ++b)
      buffers.push_back({device[b].data(), sizes[b], dtypes()[b]});
    EXPECT_EQ(kernels::cuda::first_nonfinite(stream(), buffers.data(), 4, first.data()), Status::ok);
    return first.read()[0];
  };
  std::vector<Bytes> data;
  for (std::size_t b = 0; b < 4; ++b) data.push_back(normal_numbers(dtypes()[b], sizes[b], 83 + b));
  for_each_schedule([&] { EXPECT_EQ(find(data), -1); });
  for (const double bad : {infinity, -infinity, std::nan("")}) {
    for (const std::size_t b : {0U, 1U, 3U}) {
      for (const std::int64_t at : {std::int64_t{0}, sizes[b] / 2, sizes[b] - 1}) {
        std::vector<Bytes> broken = data;
        store(broken[b], dtypes()[b], at, bad);
        store(broken[3], dtypes()[3], 32, bad);
        on_next_schedule([&] { EXPECT_EQ(find(broken), static_cast<std::int64_t>(b)); });
      }
    }
  }
}

}  // namespace
}  // namespace smet::test
