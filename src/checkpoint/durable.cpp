// SPDX-License-Identifier: BSD-3-Clause
#include "src/checkpoint/durable.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <system_error>

namespace smet::checkpoint {
namespace {

[[noreturn]] void fail(const Path& path) {
  throw std::system_error(errno, std::generic_category(), path.string());
}

class Descriptor {
 public:
  Descriptor(const Path& path, int flags) : value(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (value < 0) fail(path);
  }
  ~Descriptor() { ::close(value); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int value;
};

}  // namespace

std::string sha256(const std::vector<std::string_view>& pieces) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::array<unsigned char, 32> digest;
  bool done = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  for (const std::string_view piece : pieces) {
    done = done && EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
  }
  if (!done || EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1) {
    throw std::runtime_error("smet: OpenSSL could not compute a SHA-256");
  }
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

void write_file(const Path& path, const std::vector<std::string_view>& pieces) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
  for (std::string_view piece : pieces) {
    while (!piece.empty()) {  // a full disk or a signal may cut a write short
      const ssize_t count = ::write(file.value, piece.data(), piece.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(path);
      piece.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  if (::fsync(file.value) != 0) fail(path);
}

void flush_folder(const Path& path) {
  const Descriptor folder(path, O_RDONLY | O_DIRECTORY);
  if (::fsync(folder.value) != 0) fail(path);
}

FolderLock::FolderLock(const Path& folder)
    : descriptor_(::open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail(folder / ".lock");
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor_);
    throw std::invalid_argument(folder.string() +
                                " is in use by another writer; wait for it, or write elsewhere");
  }
}

FolderLock::~FolderLock() {
  ::close(descriptor_);
}

MappedFile::MappedFile(const Path& path) {
  const Descriptor file(path, O_RDONLY | O_NOFOLLOW);
  struct stat status;
  if (::fstat(file.value, &status) != 0) fail(path);
  if (!S_ISREG(status.st_mode)) throw std::invalid_argument(path.string() + " is not a plain file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (data == MAP_FAILED) fail(path);
  data_ = static_cast<const char*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

}  // namespace smet::checkpoint
