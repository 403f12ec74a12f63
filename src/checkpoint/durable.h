// SPDX-License-Identifier: BSD-3-Clause
// Files that survive a crash, their digests, and maps of them. System calls that fail throw
// std::system_error naming the path.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace smet::checkpoint {

using Path = std::filesystem::path;

// SHA-256 in hexadecimal of the pieces one after the other.
std::string sha256(const std::vector<std::string_view>& pieces);

// Writes a new file and flushes it to disk.
void write_file(const Path& path, const std::vector<std::string_view>& pieces);

// Flushes a folder's list of names to disk.
void flush_folder(const Path& path);

// The lock of a checkpoint folder, held until destruction or the end of the process. Throws
// std::invalid_argument when another writer holds it.
class FolderLock {
 public:
  explicit FolderLock(const Path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

// A plain file as read-only memory. A link is refused.
class MappedFile {
 public:
  explicit MappedFile(const Path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::string_view bytes() const { return {data_, size_}; }

 private:
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace smet::checkpoint
