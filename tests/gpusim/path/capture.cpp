// SPDX-License-Identifier: BSD-3-Clause
// smet::gpusim_capture and gpusim_replay: what capturing a stream into a CUDA graph does to the operators'
// launches. As there, memory that is allocated meanwhile stays what it is, since replays use it.
#include <c10/core/Allocator.h>
#include <gpusim.h>
#include <torch/library.h>

#include <memory>
#include <vector>

namespace {

void keep(void* /*memory*/) {}

// torch's allocator on the CPU, of which nothing is given back before this goes.
class Pool final : public c10::Allocator {
 public:
  Pool() : outer_(c10::GetAllocator(c10::kCPU)) { c10::SetAllocator(c10::kCPU, this, kPriority); }
  ~Pool() override { leave(); }
  void leave() {
    if (outer_ != nullptr) c10::SetAllocator(c10::kCPU, outer_, kPriority);
    outer_ = nullptr;
  }

  c10::DataPtr allocate(size_t bytes) override {
    memory_.push_back(outer_->allocate(bytes));
    void* const data = memory_.back().get();
    return {data, data, &keep, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &keep; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr uint8_t kPriority = 100;
  c10::Allocator* outer_;
  std::vector<c10::DataPtr> memory_;
};

struct Graph {
  Pool pool;
  gpusim::Recording launches;
};
std::unique_ptr<Graph> graph;

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  // begin: from here on; else up to here. Returns how many launches are kept.
  m.def("gpusim_capture(bool begin) -> int", [](bool begin) {
    if (begin) graph = std::make_unique<Graph>();
    if (!begin) {
      graph->launches.stop();
      graph->pool.leave();
    }
    return static_cast<int64_t>(graph->launches.size());
  });
  m.def("gpusim_replay() -> ()", [] { graph->launches.replay(); });
}
