// SPDX-License-Identifier: BSD-3-Clause
#include "src/checkpoint/folder.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <system_error>

namespace smet::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHead = R"({"sha256": ")", kMiddle = R"(", "manifest": )", kTail = "}\n";
constexpr std::size_t kDigest = 64;
constexpr std::string_view kStep = "step-", kUnfinished = ".saving-", kRemoved = ".removed-";

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument(what);
}

std::string numbered(std::string_view prefix, std::int64_t step) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%08lld", static_cast<long long>(step));
  return std::string(prefix) + digits;
}

bool starts_with(const std::string& text, std::string_view prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

void need(bool holds, const Path& path, const std::string& key) {
  if (!holds) fail(path.string() + ": '" + key + "' is missing or of the wrong type");
}

bool plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name != kManifest &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c < 127 && c != '/' && c != '\\'; });
}

void check_entries(const Path& path, const Json& manifest) {
  for (const char* key : {"files", "layers", "run", "aliases"}) {
    need(manifest.contains(key) && manifest[key].is_object(), path, key);
  }
  for (const char* key : {"optimizer", "topology"}) {
    need(manifest.contains(key) && (manifest[key].is_object() || manifest[key].is_null()), path, key);
  }
  need(manifest.contains("step") && manifest["step"].is_number_unsigned(), path, "step");
  for (const auto& [name, entry] : manifest["files"].items()) {
    if (!plain_name(name)) fail(path.string() + ": a file name is no plain name inside the folder");
    need(entry.is_object() && entry.size() == 3 && entry.contains("bytes") &&
             entry["bytes"].is_number_unsigned() && entry.contains("sha256") && entry["sha256"].is_string() &&
             entry.contains("tensors") && entry["tensors"].is_object(),
         path, name);
  }
}

TensorFile open_file(const Path& path, const Json& entry) {
  TensorFile file;
  try {
    file.map = std::make_unique<MappedFile>(path);
  } catch (const std::system_error& error) {
    fail(error.what());
  }
  const std::string_view bytes = file.map->bytes();
  if (bytes.size() != entry["bytes"].get<std::uint64_t>()) {
    fail(path.string() + " is damaged: it has " + std::to_string(bytes.size()) +
         " bytes; the manifest says " + entry["bytes"].dump());
  }
  if (sha256({bytes}) != entry["sha256"].get<std::string>()) {
    fail(path.string() + " is damaged: its SHA-256 does not fit the manifest's");
  }
  TensorLayout layout;
  try {
    layout = parse_safetensors(bytes);
  } catch (const std::invalid_argument& error) {
    fail(path.string() + " is damaged: " + error.what());
  }
  file.data = layout.data;
  const Json& said = entry["tensors"];
  for (TensorEntry& found : layout.entries) {
    const Json here = {{"dtype", found.dtype}, {"shape", found.shape}};
    if (!said.contains(found.name) || said[found.name] != here) {
      fail(path.string() + ": tensor '" + found.name + "' is not as the manifest says");
    }
    file.entries.emplace(found.name, std::move(found));
  }
  if (file.entries.size() != said.size()) fail(path.string() + ": a tensor of the manifest is missing");
  return file;
}

}  // namespace

Path step_folder(const Path& root, std::int64_t step) {
  return root / numbered(kStep, step);
}

std::vector<std::int64_t> checkpoint_steps(const Path& root) {
  std::vector<std::int64_t> steps;
  if (!fs::is_directory(root)) return steps;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    const std::string digits = starts_with(name, kStep) ? name.substr(kStep.size()) : "";
    const bool number = digits.size() >= 8 && digits.size() <= 18 &&
                        digits.find_first_not_of("0123456789") == std::string::npos;
    if (number && entry.is_directory()) steps.push_back(std::stoll(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string dump_manifest(const Json& manifest) {
  const std::string body = dump_json(manifest);
  std::string text(kHead);
  text += sha256({body});
  text += kMiddle;
  text += body;
  return text += kTail;
}

Json read_manifest(const Path& folder) {
  const Path path = folder / kManifest;
  std::unique_ptr<MappedFile> map;
  try {
    map = std::make_unique<MappedFile>(path);
  } catch (const std::system_error& error) {
    fail(folder.string() + " is not a checkpoint: " + error.what());
  }
  const std::string_view text = map->bytes();
  const std::size_t start = kHead.size() + kDigest + kMiddle.size();
  const bool framed = text.size() >= start + kTail.size() && text.substr(0, kHead.size()) == kHead &&
                      text.substr(kHead.size() + kDigest, kMiddle.size()) == kMiddle &&
                      text.substr(text.size() - kTail.size()) == kTail;
  const std::string_view body = framed ? text.substr(start, text.size() - start - kTail.size()) : "";
  if (!framed || text.substr(kHead.size(), kDigest) != sha256({body})) {
    fail(path.string() + " is damaged: its SHA-256 does not fit its content");
  }
  Json manifest;
  try {
    manifest = parse_json(body);
  } catch (const std::invalid_argument& error) {
    fail(path.string() + " is damaged: " + error.what());
  }
  if (!manifest.is_object()) fail(path.string() + " is damaged: it holds no object");
  if (manifest.value("format", Json()) != kFormat)
    fail(path.string() + ": the format is not '" + kFormat + "'");
  const Json version = manifest.value("version", Json());
  if (!version.is_number_unsigned() || version.get<std::int64_t>() < 1 ||
      version.get<std::int64_t>() > kVersion) {
    fail(path.string() + ": format version " + version.dump() + "; this smet reads 1 to " +
         std::to_string(kVersion) + ". A newer one wrote it");
  }
  check_entries(path, manifest);
  return manifest;
}

TensorFiles open_files(const Path& folder, const Json& manifest, const FileNames& needed) {
  TensorFiles files;
  for (const auto& [name, entry] : manifest["files"].items()) {
    if (needed.empty() || needed.contains(name)) files.emplace(name, open_file(folder / name, entry));
  }
  return files;
}

std::optional<Path> latest_checkpoint(const Path& root, const FileNames& needed) {
  std::vector<std::int64_t> steps = checkpoint_steps(root);
  std::string damaged;
  for (; !steps.empty(); steps.pop_back()) {
    const Path folder = step_folder(root, steps.back());
    try {
      open_files(folder, read_manifest(folder), needed);
      return folder;
    } catch (const std::invalid_argument& error) {
      damaged += std::string(damaged.empty() ? "" : "; ") + error.what();
    }
  }
  if (!damaged.empty()) fail(root.string() + " has only damaged checkpoints: " + damaged);
  return std::nullopt;
}

Path unfinished_folder(const Path& root, std::int64_t step) {
  std::vector<Path> leftovers;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    const bool left = starts_with(name, kUnfinished) || starts_with(name, kRemoved);
    if (left && !entry.is_symlink()) leftovers.push_back(entry.path());
  }
  for (const Path& path : leftovers) fs::remove_all(path);
  const Path folder = root / numbered(kUnfinished, step);
  fs::create_directory(folder);
  return folder;
}

Path publish(const Path& unfinished, const Path& root, std::int64_t step) {
  flush_folder(unfinished);
  const Path target = step_folder(root, step);
  fs::rename(unfinished, target);
  flush_folder(root);
  return target;
}

void remove_step(const Path& root, std::int64_t step) {
  const Path removed = root / numbered(kRemoved, step);  // renamed first: no half a step folder
  fs::rename(step_folder(root, step), removed);
  fs::remove_all(removed);
}

void keep_last(const Path& root, std::int64_t count, std::int64_t saved) {
  std::vector<std::int64_t> others = checkpoint_steps(root);
  others.erase(std::remove(others.begin(), others.end(), saved), others.end());
  const auto kept = static_cast<std::size_t>(count - 1);
  if (others.size() <= kept) return;
  const Path folder = step_folder(root, saved);
  open_files(folder, read_manifest(folder));
  others.resize(others.size() - kept);
  for (const std::int64_t step : others) remove_step(root, step);
}

}  // namespace smet::checkpoint
