// SPDX-License-Identifier: BSD-3-Clause
// Checkpoints: the folders that Python's smet.save_checkpoint writes, byte for byte, and reads.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "smet/compact_adamw.h"
#include "smet/topology_scheduler.h"

namespace smet {

// What a checkpoint holds beside model, optimizer and topology. A loaded one can be given back to
// save_checkpoint, so that what only Python understands survives.
struct CheckpointRun {
  // JSON: {"extra": {...}, "lr_scheduler": ..., "scaler": ...}; "extra" is the caller's.
  std::string state = R"({"extra": {}, "lr_scheduler": null, "scaler": null})";
  // Tensors of run.safetensors that C++ does not know: Python's and NumPy's generators, other ranks'.
  std::map<std::string, at::Tensor> tensors;
};

// What load_checkpoint found.
struct Checkpoint {
  std::string path;       // the step folder
  std::int64_t step = 0;  // optimizer steps done
  CheckpointRun run;      // what was saved beside model, optimizer and topology
};

// Options of save_checkpoint.
struct SaveOptions {
  std::int64_t step = 0;             // names the folder
  std::optional<std::int64_t> keep;  // remove all but the newest so many, once the new one was read back
  bool gradients = false;            // save gradients too: a stop between the backward passes of one step
  CheckpointRun run;                 // what else belongs to the run
};

// Options of load_checkpoint.
struct LoadOptions {
  bool restore_generators = true;  // torch's CPU generator
  // Called before anything changes, with what the caller gave to save_checkpoint; may throw.
  std::function<void(const CheckpointRun&)> check_extra;
};

// Writes root/step-00000300 and returns it. Parameters, buffers, optimizer state, topology clock and torch's
// CPU generator; every file is flushed to disk, the manifest last, then the folder gets its name. One writer
// at a time. Throws c10::ValueError, or std::system_error from the file system; older checkpoints stay.
std::string save_checkpoint(const std::string& root, torch::nn::Module& model, CompactAdamW* opt,
                            TopologyScheduler* topology, const SaveOptions& options);

// The newest whole step folder in `root`; empty where there is no step folder. Damaged ones are passed over;
// throws c10::ValueError when all are.
std::optional<std::string> latest_checkpoint(const std::string& root);

// Throws c10::ValueError unless the step folder `path` is complete and every checksum fits.
void verify_checkpoint(const std::string& path);

// Continues where save_checkpoint was called, from C++ or Python. `path` is a step folder, or a folder of
// them, of which the newest whole one is taken. Everything is checked before anything changes; entries are
// matched by name and copied into the existing tensors. Without `opt`, as for inference, the optimizer's file
// is not read and need not be there. Throws c10::ValueError naming the file, parameter, layer or option that
// is wrong.
Checkpoint load_checkpoint(const std::string& path, torch::nn::Module& model, CompactAdamW* opt = nullptr,
                           TopologyScheduler* topology = nullptr, const LoadOptions& options = {});

}  // namespace smet
