// SPDX-License-Identifier: BSD-3-Clause
#include "block.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "qualifiers.h"
#include "sanitizers.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace gpusim {
namespace {

Block* running_block = nullptr;

std::string triple(const uint3& v) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "(%u,%u,%u)", v.x, v.y, v.z);
  return buffer;
}

std::string text(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

bool same_place(const Site& a, const Site& b) {
  return a.line() == b.line() && std::string_view(a.file_name()) == b.file_name();
}

}  // namespace

Block* Block::running() {
  return running_block;
}

Block::Block(const Shape& shape, const Schedule& schedule, Random& random)
    : shape_(shape), schedule_(schedule), random_(random) {
  const auto size = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  threads_.resize(static_cast<std::size_t>(size));
  warps_.resize(static_cast<std::size_t>((size + kWarpThreads - 1) / kWarpThreads));
  for (int i = 0; i < size; ++i) {
    Thread& thread = threads_[static_cast<std::size_t>(i)];
    const auto flat = static_cast<unsigned>(i);
    thread.index = {flat % shape.block.x, flat / shape.block.x % shape.block.y,
                    flat / (shape.block.x * shape.block.y)};
    thread.warp = i / kWarpThreads;
    thread.lane = i % kWarpThreads;
  }
  thread_order_.resize(threads_.size());
  warp_order_.resize(warps_.size());
}

// ---------------------------------------------------------------- scheduling

void Block::run(Slot& slot, const uint3& index, void (*call)(void*), void* context) {
  slot_ = &slot;
  index_ = index;
  call_ = call;
  context_ = context;
  running_block = this;
  start();
  while (exited_ < static_cast<int>(threads_.size()) && error_.empty()) {
    bool progress = false;
    if (schedule_.drain) {
      progress = drain_warps();
    } else {
      shuffle(thread_order_);
      progress = pass(thread_order_, 0);
    }
    if (!progress) report_deadlock();
  }
  running_block = nullptr;
}

void Block::start() {
  Slot& slot = *slot_;
  acquire(slot.ended);  // not sooner: the blocks between would be ordered after this one too
  while (slot.fibers.size() < threads_.size()) slot.fibers.push_back(std::make_unique<Fiber>());
  slot.warp_meetings.resize(std::max(slot.warp_meetings.size(), warps_.size()));
  slot.arena.reset(shape_.shared_bytes);
  at_barrier_ = exited_ = 0;
  for (std::size_t w = 0; w < warps_.size(); ++w) {
    const auto lanes = std::min<std::size_t>(kWarpThreads, threads_.size() - w * kWarpThreads);
    warps_[w] = {&threads_[w * kWarpThreads], lanes == kWarpThreads ? ~0U : (1U << lanes) - 1, 0};
  }
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    threads_[i].fiber = slot.fibers[i].get();
    threads_[i].state = State::ready;
    threads_[i].site = Site();
    threads_[i].fiber->start(&Block::thread_main);
  }
  blockIdx = index_;
  blockDim = shape_.block;
  gridDim = shape_.grid;
  release(slot.started);
  Counts& counts = mutable_counts();
  ++counts.blocks;
  counts.threads += threads_.size();
}

void Block::thread_main() {
  Fiber::entered();
  Block& block = *running_block;
  acquire(block.slot_->started);
  block.call_(block.context_);
  release(block.slot_->ended);
  Fiber* fiber = block.current_->fiber;
  block.leave();
  fiber->finish();
}

void Block::leave() {
  current_->state = State::done;
  ++exited_;
  Warp& warp = warps_[static_cast<std::size_t>(current_->warp)];
  warp.live &= ~(1U << current_->lane);
  if (at_barrier_ > 0 && at_barrier_ + exited_ == static_cast<int>(threads_.size())) release_barrier();
  // Somebody may have waited only for this lane.
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if ((warp.waiting >> lane & 1U) != 0) complete(warp, warp.threads[lane]);
  }
}

bool Block::pass(const std::vector<int>& order, int first) {
  bool progress = false;
  for (const int i : order) {
    Thread& thread = threads_[static_cast<std::size_t>(first + i)];
    if (thread.state != State::ready) continue;
    progress = true;
    current_ = &thread;
    threadIdx = thread.index;
    thread.fiber->resume();
    current_ = nullptr;
    if (!error_.empty()) break;
  }
  return progress;
}

bool Block::drain_warps() {
  bool progress = false;
  shuffle(warp_order_);
  for (const int w : warp_order_) {
    const int first = w * kWarpThreads;
    lane_order_.resize(
        std::min<std::size_t>(kWarpThreads, threads_.size() - static_cast<std::size_t>(first)));
    shuffle(lane_order_);
    while (error_.empty() && pass(lane_order_, first)) {
      progress = true;
      shuffle(lane_order_);
    }
  }
  return progress;
}

void Block::shuffle(std::vector<int>& order) {
  std::iota(order.begin(), order.end(), 0);
  if (schedule_.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (schedule_.order == Order::random) std::shuffle(order.begin(), order.end(), random_);
}

void Block::yield() {
  if (schedule_.order == Order::random) current_->fiber->suspend();
}

// ---------------------------------------------------------------- barriers

int Block::barrier(Vote vote, bool predicate, const Site& site) {
  Thread& thread = *current_;
  thread.vote = vote;
  thread.value = predicate ? 1 : 0;
  thread.site = site;
  thread.state = State::at_barrier;
  char* token = slot_->block_meeting.token();
  release(token);
  if (++at_barrier_ + exited_ == static_cast<int>(threads_.size())) release_barrier();
  thread.fiber->suspend();
  acquire(token);
  return static_cast<int>(thread.result);
}

void Block::release_barrier() {
  const auto waits = [](const Thread& t) { return t.state == State::at_barrier; };
  const Thread& first = *std::find_if(threads_.begin(), threads_.end(), waits);
  if (exited_ > 0) {
    fail("divergent __syncthreads: " + std::to_string(exited_) + " of " + std::to_string(threads_.size()) +
         " threads have exited without it; waiting: " + where(first));
  }
  int yes = 0;
  for (const Thread& thread : threads_) {
    if (!waits(thread)) continue;
    yes += thread.value != 0 ? 1 : 0;
    if (!same_place(thread.site, first.site)) {
      fail("divergent __syncthreads: threads of one block wait in different ones: " + where(first) + "; " +
           where(thread));
    }
  }
  for (Thread& thread : threads_) {
    if (!waits(thread)) continue;
    const bool all = yes == at_barrier_;
    thread.result = static_cast<std::uint64_t>(thread.vote == Vote::count ? yes
                                               : thread.vote == Vote::all ? all
                                                                          : yes > 0);
    thread.state = State::ready;
  }
  at_barrier_ = 0;
  ++slot_->block_meeting.generation;
  ++mutable_counts().barriers;
}

// ---------------------------------------------------------------- warp collectives

std::uint64_t Block::collective(const Thread& wanted) {
  Thread& thread = *current_;
  thread.op = wanted.op;
  thread.mask = wanted.mask;
  thread.value = wanted.value;
  thread.argument = wanted.argument;
  thread.width = wanted.width;
  thread.site = wanted.site;
  if ((thread.mask >> thread.lane & 1U) == 0) {
    fail("lane " + std::to_string(thread.lane) + " is not in its own mask: " + where());
    stop();
  }
  if (thread.width < 1 || thread.width > kWarpThreads || (thread.width & (thread.width - 1)) != 0) {
    fail("a shuffle's width is a power of two up to 32, not " + std::to_string(thread.width) + ": " +
         where());
    stop();
  }
  thread.state = State::in_collective;
  Warp& warp = warps_[static_cast<std::size_t>(thread.warp)];
  warp.waiting |= 1U << thread.lane;
  // Only __syncwarp orders memory; a shuffle or a vote does not.
  char* token = nullptr;
  if (thread.op == Op::sync) {
    token = meeting_of(thread).token();
    release(token);
  }
  complete(warp, thread);
  thread.fiber->suspend();
  if (token != nullptr) acquire(token);
  return thread.result;
}

Meeting& Block::meeting_of(const Thread& thread) {
  auto& meetings = slot_->warp_meetings[static_cast<std::size_t>(thread.warp)];
  const auto found = meetings.find(thread.mask);
  if (found != meetings.end()) return found->second;
  const OwnMemory own;
  return meetings[thread.mask];
}

// Lets the collective that `arrived` waits in go on if all live lanes of its mask wait in it.
void Block::complete(Warp& warp, const Thread& arrived) {
  const unsigned members = arrived.mask & warp.live;
  if ((warp.waiting & members) != members) return;
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if ((members >> lane & 1U) == 0) continue;
    const Thread& other = warp.threads[lane];
    if (other.op != arrived.op || other.mask != arrived.mask || !same_place(other.site, arrived.site)) return;
  }
  give_results(warp, members, arrived);
  warp.waiting &= ~members;
  if (arrived.op == Op::sync) {
    ++meeting_of(arrived).generation;
  }
  ++mutable_counts().collectives;
}

void Block::give_results(Warp& warp, unsigned members, const Thread& first) {
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if ((members >> lane & 1U) == 0) continue;
    Thread& thread = warp.threads[lane];
    if (!collective_result(warp, members, lane, thread.result)) {
      fail("shuffle from a lane that takes no part: " + where(thread) + " with argument " +
           std::to_string(first.argument));
    }
    thread.state = State::ready;
  }
}

// ---------------------------------------------------------------- what went wrong

void Block::fail(const std::string& what) {
  const OwnMemory own;
  if (error_.empty()) error_ = what;
}

// The fiber is left where it is: nothing on its stack is destroyed.
void Block::stop() {
  current_->fiber->finish();
}

std::string Block::where(const Thread& thread) const {
  std::string place = "block " + triple(index_) + " thread " + triple(thread.index);
  if (thread.site.line() != 0) place += " at " + text(thread.site);
  return place;
}

void Block::check_shared_limits() {
  const std::size_t fixed = arena().static_bytes();
  const std::size_t all = fixed + shape_.shared_bytes;
  if (fixed <= kStaticSharedLimit && all <= kSharedLimit) return;
  fail(std::to_string(fixed) + " bytes of static and " + std::to_string(all) +
       " bytes of all shared memory, 48 and 227 KiB are possible: " + where());
  stop();
}

// One line for each different wait: where, in what, and how many threads.
void Block::report_deadlock() {
  std::map<std::string, std::pair<int, const Thread*>> waits;
  for (const Thread& thread : threads_) {
    if (thread.state != State::at_barrier && thread.state != State::in_collective) continue;
    char mask[16] = "";
    if (thread.state == State::in_collective) std::snprintf(mask, sizeof mask, "%08x", thread.mask);
    const std::string kind =
        thread.state == State::at_barrier ? "__syncthreads" : std::string("warp collective ") + mask;
    auto& [count, first] = waits[kind + " at " + text(thread.site)];
    if (count++ == 0) first = &thread;
  }
  std::string report = "deadlock:";
  for (const auto& [what, who] : waits) {
    report += "\n  " + std::to_string(who.first) + " threads wait in " + what + ", the first: block " +
              triple(index_) + " thread " + triple(who.second->index);
  }
  fail(report);
}

}  // namespace gpusim
