// SPDX-License-Identifier: BSD-3-Clause
// Step folders and their manifests; the twin of python/smet/checkpoint/{folder,manifest}.py.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/checkpoint/durable.h"
#include "src/checkpoint/json.h"
#include "src/checkpoint/safetensors.h"

namespace smet::checkpoint {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kFormat = "smet checkpoint";
inline constexpr std::int64_t kVersion = 1;

// One verified tensor file, mapped.
struct TensorFile {
  std::unique_ptr<MappedFile> map;
  std::map<std::string, TensorEntry> entries;
  std::size_t data = 0;

  std::string_view bytes(const TensorEntry& entry) const {
    return map->bytes().substr(data + entry.begin, entry.end - entry.begin);
  }
};
using TensorFiles = std::map<std::string, TensorFile>;

Path step_folder(const Path& root, std::int64_t step);
// Steps that have a folder, ascending; damaged ones too.
std::vector<std::int64_t> checkpoint_steps(const Path& root);

// manifest.json: the text around a manifest, and back. Reading checks the digest, the version and the types
// of the entries that every reader relies on. Throws std::invalid_argument.
std::string dump_manifest(const Json& manifest);
Json read_manifest(const Path& folder);

// Which files of a step folder are looked at; empty: all.
using FileNames = std::set<std::string>;

// Maps files of a step folder: plain, of the size and the digest that the manifest says, and with the tensors
// that it lists.
TensorFiles open_files(const Path& folder, const Json& manifest, const FileNames& needed = {});

// The newest step folder of which `needed` is whole; none where there is no step folder. Throws when all are
// damaged.
std::optional<Path> latest_checkpoint(const Path& root, const FileNames& needed = {});

// A new, empty folder for what is being written; what interrupted writers left is removed first.
Path unfinished_folder(const Path& root, std::int64_t step);
// Gives the complete folder its name.
Path publish(const Path& unfinished, const Path& root, std::int64_t step);
void remove_step(const Path& root, std::int64_t step);
void keep_last(const Path& root, std::int64_t count, std::int64_t saved);

}  // namespace smet::checkpoint
