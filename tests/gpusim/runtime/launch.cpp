// SPDX-License-Identifier: BSD-3-Clause
// Launches: limits, the order of the blocks, races found, and what kernels call.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "atomics.h"
#include "block.h"
#include "sanitizers.h"
#include "shared_memory.h"

namespace gpusim {
namespace {

constexpr std::uint64_t kBlockThreadsLimit = 1024;
constexpr unsigned kGridLimit = 65535;     // of y and z
constexpr std::size_t kRaceFibers = 1024;  // making one costs the thread sanitizer a millisecond

struct Runtime {
  Options options;
  Counts counts = {};
  std::vector<std::unique_ptr<Slot>> slots;
  std::unordered_map<const void*, int> dynamic_limit;  // by kernel, from cudaFuncSetAttribute
  std::mutex launching;
  unsigned races = 0;
  std::string first_race;
};

Runtime& state() {
  static Runtime instance;
  return instance;
}

int fake_stream;

void check_limits(const Shape& shape, const void* kernel) {
  const dim3& g = shape.grid;
  const dim3& b = shape.block;
  const auto threads = static_cast<std::uint64_t>(b.x) * b.y * b.z;
  const auto text = [](const dim3& d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  if (threads == 0 || threads > kBlockThreadsLimit || b.z > 64) {
    throw Error("launch of blocks of " + text(b) + " threads; 1 to 1024 are possible, z up to 64");
  }
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7FFFFFFFU || g.y > kGridLimit || g.z > kGridLimit) {
    throw Error("launch of a grid of " + text(g) + "; 1 to 2^31 - 1, 65535, 65535 are possible");
  }
  const auto asked = state().dynamic_limit.find(kernel);
  const std::size_t limit = asked == state().dynamic_limit.end()
                                ? kStaticSharedLimit
                                : std::max(kStaticSharedLimit, static_cast<std::size_t>(asked->second));
  if (shape.shared_bytes > std::min(limit, kSharedLimit)) {
    throw Error("launch with " + std::to_string(shape.shared_bytes) + " bytes of dynamic shared memory; " +
                std::to_string(limit) + " without another cudaFuncSetAttribute, 227 KiB at most");
  }
}

std::vector<std::uint64_t> block_order(std::uint64_t blocks, const Schedule& schedule,
                                       Block::Random& random) {
  std::vector<std::uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  if (schedule.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (schedule.order == Order::random) std::shuffle(order.begin(), order.end(), random);
  return order;
}

std::size_t slot_count(std::size_t threads, std::size_t blocks) {
  if (!under_tsan()) return 1;
  const auto wanted = static_cast<std::size_t>(std::max(1, state().options.unordered_blocks));
  return std::max<std::size_t>(1, std::min({wanted, kRaceFibers / threads, blocks}));
}

}  // namespace

Counts& mutable_counts() {
  return state().counts;
}
const Counts& counts() {
  return state().counts;
}
cudaStream_t stream() {
  return reinterpret_cast<cudaStream_t>(&fake_stream);
}

void launch_erased(const Shape& shape, const void* kernel, void (*call)(void*), void* context) {
  if (Block::running() != nullptr) throw Error("launch from inside a kernel");
  Runtime& s = state();
  const std::lock_guard lock(s.launching);
  check_limits(shape, kernel);
  ++s.counts.launches;
  s.races = 0;
  const Schedule& schedule = s.options.schedule;
  Block::Random random(schedule.seed);
  Block block(shape, schedule, random);
  const auto blocks = static_cast<std::uint64_t>(shape.grid.x) * shape.grid.y * shape.grid.z;
  const std::size_t slots = slot_count(shape.block.x * shape.block.y * shape.block.z, blocks);
  while (s.slots.size() < slots) s.slots.push_back(std::make_unique<Slot>());
  std::size_t launched = 0;
  for (const std::uint64_t i : block_order(blocks, schedule, random)) {
    const uint3 index = {
        static_cast<unsigned>(i % shape.grid.x), static_cast<unsigned>(i / shape.grid.x % shape.grid.y),
        static_cast<unsigned>(i / (static_cast<std::uint64_t>(shape.grid.x) * shape.grid.y))};
    block.run(*s.slots[launched++ % slots], index, call, context);
    if (!block.error().empty()) break;
  }
  for (const auto& slot : s.slots) acquire(slot->ended);
  const std::string suffix = " [schedule " + name(schedule) + "]";
  if (!block.error().empty()) {
    s.slots.clear();  // fibers that never ended
    throw Error(block.error() + suffix);
  }
  if (s.races != 0)
    throw Error(s.first_race + "; " + std::to_string(s.races) + " reports in this launch" + suffix);
}

// ---------------------------------------------------------------- options

std::string name(const Schedule& schedule) {
  const std::string order = schedule.order == Order::forward   ? "forward"
                            : schedule.order == Order::reverse ? "reverse"
                                                               : "random " + std::to_string(schedule.seed);
  return order + (schedule.drain ? ", draining warps" : ", lock step");
}

std::vector<Options> all_schedules() {
  constexpr int kUnordered = 4;
  if (under_tsan()) return {{{Order::forward, false, 1}, kUnordered}, {{Order::random, true, 1}, kUnordered}};
  std::vector<Options> all;
  for (const Order order : {Order::forward, Order::reverse, Order::random}) {
    for (const bool drain : {false, true}) all.push_back({{order, drain, 1}, 1});
  }
  return all;
}

With::With(const Options& options) : outer_(state().options) {
  state().options = options;
}
With::~With() {
  state().options = outer_;
}

void for_each_schedule(const std::function<void()>& body) {
  for (const Options& options : all_schedules()) {
    const With with(options);
    body();
  }
}

// ---------------------------------------------------------------- what kernels call

std::uint64_t warp_collective(Op op, unsigned mask, std::uint64_t value, int argument, int width,
                              const Site& site) {
  Thread wanted;
  wanted.op = op;
  wanted.mask = mask;
  wanted.value = value;
  wanted.argument = argument;
  wanted.width = width;
  wanted.site = site;
  return Block::running()->collective(wanted);
}

int block_barrier(Vote vote, bool predicate, const Site& site) {
  return Block::running()->barrier(vote, predicate, site);
}

void yield_after_atomic() {
  Block::running()->yield();
}

void* static_shared(const void* key, const char* name, std::size_t bytes) {
  Block& block = *Block::running();
  void* array = block.arena().array(key, name, bytes);
  block.check_shared_limits();
  return array;
}

void* dynamic_shared() {
  return Block::running()->arena().dynamic();
}

}  // namespace gpusim

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
  if (value < 0 || static_cast<std::size_t>(value) > gpusim::kSharedLimit) return cudaErrorInvalidValue;
  gpusim::state().dynamic_limit[kernel] = value;
  return cudaSuccess;
}

// ---------------------------------------------------------------- what the sanitizers call

extern "C" {

// Names the CUDA thread, before the sanitizer's own report.
[[gnu::visibility("default")]] void __asan_on_error() {
  if (const gpusim::Block* block = gpusim::Block::running()) {
    std::fprintf(stderr, "gpusim: %s: %s\n", block->where().c_str(),
                 const_cast<gpusim::Block*>(block)->arena().describe(__asan_get_report_address()).c_str());
  }
}

[[gnu::visibility("default")]] void __ubsan_on_report() {
  if (const gpusim::Block* block = gpusim::Block::running()) {
    std::fprintf(stderr, "gpusim: %s\n", block->where().c_str());
  }
}

// Turns a race inside a launch into its error; the thread sanitizer prints its own report too.
[[gnu::visibility("default")]] void __tsan_on_report(void* report) {
  gpusim::Block* block = gpusim::Block::running();
  if (block == nullptr) return;
  gpusim::Runtime& s = gpusim::state();
  if (s.races++ != 0) return;
  void* address = nullptr;
  void* trace[4] = {};
  int thread = 0;
  int bytes = 0;
  int write = 0;
  int atomic = 0;
  __tsan_get_report_mop(report, 0, &thread, &address, &bytes, &write, &atomic, trace, 4);
  s.first_race = std::string("data race: ") + (write != 0 ? "write" : "read") + " of " +
                 std::to_string(bytes) + " bytes, " + block->arena().describe(address) + ", seen in " +
                 block->where();
}

// One report per race, not per place: a test that looks for a second race must see it.
[[gnu::visibility("default")]] const char* __tsan_default_options() {
  return "suppress_equal_stacks=0:suppress_equal_addresses=0";
}
}
