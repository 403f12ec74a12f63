// SPDX-License-Identifier: BSD-3-Clause
// One running block: its threads, what each waits for, and who may go on.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arena.h"
#include "collectives.h"
#include "fiber.h"
#include "gpusim.h"

namespace gpusim {

inline constexpr int kWarpThreads = 32;

// Orders the threads that meet at a barrier, for the race check. Two tokens in turn: a thread may leave its
// token for the next meeting before a slow one has taken this meeting's.
struct Meeting {
  unsigned generation = 0;
  char tokens[2][8] = {};
  char* token() { return tokens[generation & 1U]; }
};

// What outlives a block and is lent to the next one: stacks and shared memory, with the contexts under which
// the thread sanitizer knows them. Blocks that use the same slot are ordered; those of different slots are
// not.
struct Slot {
  std::vector<std::unique_ptr<Fiber>> fibers;
  Arena arena;
  Meeting block_meeting;
  std::vector<std::map<unsigned, Meeting>> warp_meetings;  // by warp, by mask
  char started[8] = {};
  char ended[8] = {};
};

enum class State : std::uint8_t { ready, at_barrier, in_collective, done };

struct Thread {
  Fiber* fiber = nullptr;
  uint3 index = {};
  int warp = 0;
  int lane = 0;
  State state = State::ready;
  // What it waits in, or last waited in.
  Site site;
  Op op = Op::sync;
  Vote vote = Vote::none;
  unsigned mask = 0;
  std::uint64_t value = 0;
  int argument = 0;
  int width = kWarpThreads;
  std::uint64_t result = 0;
};

struct Warp {
  Thread* threads = nullptr;
  unsigned live = 0;     // lanes that exist and have not exited
  unsigned waiting = 0;  // lanes in a collective
};

class Block {
 public:
  using Random = std::mt19937_64;

  Block(const Shape& shape, const Schedule& schedule, Random& random);

  // Runs one block of the launch from start to end. error() is empty if nothing was wrong with it.
  void run(Slot& slot, const uint3& index, void (*call)(void*), void* context);
  const std::string& error() const { return error_; }

  // From the running thread.
  std::uint64_t collective(const Thread& wanted);
  int barrier(Vote vote, bool predicate, const Site& site);
  void yield();
  Arena& arena() { return slot_->arena; }
  void fail(const std::string& what);
  std::string where(const Thread& thread) const;
  std::string where() const { return current_ == nullptr ? "between threads" : where(*current_); }
  void check_shared_limits();

  static Block* running();

 private:
  static void thread_main();
  void start();
  bool pass(const std::vector<int>& order, int first);
  bool drain_warps();
  void shuffle(std::vector<int>& order);
  void leave();
  void release_barrier();
  Meeting& meeting_of(const Thread& thread);
  void complete(Warp& warp, const Thread& arrived);
  void give_results(Warp& warp, unsigned members, const Thread& first);
  void report_deadlock();
  [[noreturn]] void stop();

  Shape shape_;
  Schedule schedule_;
  Random& random_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> thread_order_, warp_order_, lane_order_;
  Slot* slot_ = nullptr;
  Thread* current_ = nullptr;
  uint3 index_ = {};
  void (*call_)(void*) = nullptr;
  void* context_ = nullptr;
  int at_barrier_ = 0;
  int exited_ = 0;
  std::string error_;
};

// warp.cpp: what lane `lane` of `warp` gets from a collective of `members`. An empty optional: from nobody.
bool collective_result(const Warp& warp, unsigned members, int lane, std::uint64_t& result);
Counts& mutable_counts();

}  // namespace gpusim
