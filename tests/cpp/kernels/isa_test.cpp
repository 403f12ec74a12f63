// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "kernels/expand.h"
#include "tests/cpp/problems.h"

namespace smet::test {
namespace {

TEST(Isa, BaselineIsEverywhereAndSwitchable) {
  EXPECT_TRUE(kernels::has_isa(Isa::baseline));
  const std::string names[] = {"baseline", "avx2", "avx512"};
  for_each_variant([&](const Executor&) {
    EXPECT_EQ(kernels::isa_error(), nullptr);
    EXPECT_TRUE(kernels::active_isa() == names[0] || kernels::active_isa() == names[1] ||
                kernels::active_isa() == names[2]);
  });
}

// Runs in a child process, where the choice has not been made yet.
[[noreturn]] void report_choice(const char* wanted) {
  setenv("SMET_ISA", wanted, 1);
  const char* error = kernels::isa_error();
  std::fprintf(stderr, "active=%s error=%s", kernels::active_isa(), error == nullptr ? "null" : error);
  const Topology topology = make_topology({"one", 1, 8, 1});
  float values[8] = {};
  float dense[8] = {-1};
  const Status status = kernels::cpu::expand(
      serial(), {topology.pattern(), {0, 1, 0, 8}, values, DType::f32, dense, DType::f32, 8});
  std::exit(status == Status::unsupported_isa && dense[0] == -1 ? 3 : 0);
}

// An unknown SMET_ISA is an error with the value and the choices, never another instruction set.
TEST(IsaDeathTest, UnknownNameIsAnError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(report_choice("sse9"), testing::ExitedWithCode(3),
              "active=none error=SMET_ISA=sse9 is unknown; expected baseline, avx2 or avx512");
}

TEST(IsaDeathTest, NameIsHonoured) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(report_choice("baseline"), testing::ExitedWithCode(0), "active=baseline error=null");
  if (kernels::has_isa(Isa::avx512)) {
    EXPECT_EXIT(report_choice("avx512"), testing::ExitedWithCode(0), "active=avx512 error=null");
  } else {
    EXPECT_EXIT(report_choice("avx512"), testing::ExitedWithCode(3),
                "active=none error=SMET_ISA=avx512, but this");
  }
}

}  // namespace
}  // namespace smet::test
