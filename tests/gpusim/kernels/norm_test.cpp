// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/norm.h"

#include <optional>

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

struct Sized {
  DType dtype;
  std::int64_t size, offset;
};

std::vector<Sized> shapes() {
  std::vector<Sized> all = {{DType::bf16, 70000, 0}, {DType::f32, 32768, 0}, {DType::f64, 32769, 1}};
  for (int i = 0; i < 130; ++i) all.push_back({dtypes()[static_cast<std::size_t>(i) % 4], i % 37, i % 2});
  return all;
}

// Within the roundings of so many sums in double, and the same bits under every schedule.
TEST(NormKernel, EqualsReferenceAndItself) {
  std::vector<Bytes> host;
  std::vector<OnDevice<unsigned char>> device;
  std::vector<kernels::Buffer> on_host;
  std::vector<kernels::Buffer> on_device;
  std::int64_t elements = 0;
  device.reserve(shapes().size());
  host.reserve(shapes().size());
  for (const auto& [dtype, size, offset] : shapes()) {
    host.push_back(normal_numbers(dtype, size, 91 + host.size()));
    device.emplace_back(host.back(), offset * kernels::element_size(dtype));
    on_host.push_back({host.back().data(), size, dtype});
    on_device.push_back({device.back().data(), size, dtype});
    elements += size;
  }
  double want = 0;
  ASSERT_EQ(kernels::reference::sum_of_squares(serial(), on_host.data(), std::ssize(on_host), &want),
            Status::ok);
  OnDevice<unsigned char> scratch =
      scratch_of(kernels::cuda::sum_of_squares_scratch(on_device.data(), std::ssize(on_device)));
  OnDevice<double> sum(1);
  std::optional<double> first;
  for_each_schedule([&] {
    ASSERT_EQ(kernels::cuda::sum_of_squares(stream(), on_device.data(), std::ssize(on_device), sum.data(),
                                            scratch.data()),
              Status::ok);
    const double got = sum.read()[0];
    EXPECT_LE(std::fabs(got - want), static_cast<double>(elements) * 0x1p-53 * want);
    EXPECT_EQ(got, first.value_or(got));
    first = got;
  });
  ASSERT_EQ(kernels::cuda::sum_of_squares(stream(), nullptr, 0, sum.data(), nullptr), Status::ok);
  EXPECT_EQ(sum.read()[0], 0);
}

}  // namespace
}  // namespace smet::test
