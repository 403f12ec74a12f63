// SPDX-License-Identifier: BSD-3-Clause
// LD_PRELOAD: counts the calls that change files below a folder, and kills the process at one of them, or
// makes that call and all later ones fail. scripts/crash_test.sh arms it through ctypes.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long calls, fault_at;
static int fault_errno;  // 0: SIGKILL

// Faults at the `at`-th call from now on (0: none, only counts); error 0 kills.
void fault_arm(const char* folder, long at, int error) {
  snprintf(root, sizeof(root), "%s", folder);
  calls = 0;
  fault_at = at;
  fault_errno = error;
}

long fault_calls(void) { return calls; }

static int below_root(const char* path) { return root[0] != 0 && strncmp(path, root, strlen(root)) == 0; }

static int fd_below_root(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below_root(path);
}

// True when this call must fail; does not return when the process is to die.
static int faulty(int counted) {
  if (!counted) return 0;
  ++calls;
  if (fault_at == 0 || calls < fault_at) return 0;
  if (fault_errno == 0) raise(SIGKILL);
  errno = fault_errno;
  return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void* data, size_t size) {
  const int counted = fd_below_root(fd);
  if (counted && fault_at != 0 && calls + 1 == fault_at && fault_errno == 0) {
    NEXT(write)(fd, data, size / 2);  // a write that got halfway
  }
  return faulty(counted) ? -1 : NEXT(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  return faulty(fd_below_root(fd)) ? -1 : NEXT(pwrite64)(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec* pieces, int count) {
  return faulty(fd_below_root(fd)) ? -1 : NEXT(writev)(fd, pieces, count);
}

int fsync(int fd) { return faulty(fd_below_root(fd)) ? -1 : NEXT(fsync)(fd); }

int ftruncate64(int fd, off64_t size) {
  return faulty(fd_below_root(fd)) ? -1 : NEXT(ftruncate64)(fd, size);
}

int rename(const char* from, const char* to) {
  return faulty(below_root(to)) ? -1 : NEXT(rename)(from, to);
}

int mkdir(const char* path, mode_t mode) { return faulty(below_root(path)) ? -1 : NEXT(mkdir)(path, mode); }

int unlink(const char* path) { return faulty(below_root(path)) ? -1 : NEXT(unlink)(path); }

int unlinkat(int folder, const char* path, int flags) {
  return faulty(below_root(path) || fd_below_root(folder)) ? -1 : NEXT(unlinkat)(folder, path, flags);
}

int rmdir(const char* path) { return faulty(below_root(path)) ? -1 : NEXT(rmdir)(path); }

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  return faulty((flags & O_CREAT) && below_root(path)) ? -1 : NEXT(open64)(path, flags, mode);
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  return faulty((flags & O_CREAT) && below_root(path)) ? -1 : NEXT(open)(path, flags, mode);
}
