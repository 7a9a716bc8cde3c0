/* A disk that is full: preloaded, every call that writes below $FULL_DISK_ROOT fails with ENOSPC from call number $FULL_DISK_FROM on.
   $FULL_DISK_ONCE: only that one call fails, as when space is freed meanwhile. Reading and removing always succeed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls;

static int below_root(const char *path) {
  const char *root = getenv("FULL_DISK_ROOT");
  char absolute[PATH_MAX * 2];
  if (!root || !path) return 0;
  if (path[0] != '/') {
    char folder[PATH_MAX];
    if (!getcwd(folder, sizeof folder)) return 0;
    snprintf(absolute, sizeof absolute, "%s/%s", folder, path);
    path = absolute;
  }
  return strncmp(path, root, strlen(root)) == 0;
}

static int fails(void) {
  const char *from = getenv("FULL_DISK_FROM");
  long call, first;
  if (!from) return 0;
  first = atol(from);
  call = __sync_add_and_fetch(&calls, 1);
  if (getenv("FULL_DISK_ONCE") ? call != first : call < first) return 0;
  errno = ENOSPC;
  return 1;
}

static int full_at(const char *path) { return below_root(path) && fails(); }

static int full_in(int descriptor) {
  char link[64], path[PATH_MAX];
  ssize_t size;
  struct stat found;
  if (!getenv("FULL_DISK_FROM") || fstat(descriptor, &found) || !S_ISREG(found.st_mode)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return full_at(path);
}

#define REAL(type, name, ...)                                        \
  static type (*real)(__VA_ARGS__);                                  \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define WRITES(type, name, declared, passed, ...)                    \
  type name declared {                                               \
    REAL(type, name, __VA_ARGS__);                                   \
    return full_in(descriptor) ? -1 : real passed;                   \
  }
WRITES(ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size), int, const void *, size_t)
WRITES(ssize_t, writev, (int descriptor, const struct iovec *data, int count), (descriptor, data, count), int, const struct iovec *, int)
WRITES(ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at), int, const void *, size_t, off_t)
WRITES(ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at), int, const void *, size_t, off_t)
WRITES(int, ftruncate, (int descriptor, off_t size), (descriptor, size), int, off_t)
WRITES(int, ftruncate64, (int descriptor, off_t size), (descriptor, size), int, off_t)

#define OPENS(name)                                                  \
  int name(const char *path, int flags, ...) {                       \
    REAL(int, name, const char *, int, ...);                         \
    va_list rest;                                                    \
    mode_t mode;                                                     \
    va_start(rest, flags);                                           \
    mode = va_arg(rest, mode_t);                                     \
    va_end(rest);                                                    \
    return (flags & O_CREAT) && full_at(path) ? -1 : real(path, flags, mode); \
  }
OPENS(open)
OPENS(open64)

#define STREAMS(name)                                                \
  FILE *name(const char *path, const char *mode) {                   \
    REAL(FILE *, name, const char *, const char *);                  \
    return strpbrk(mode, "wa+") && full_at(path) ? NULL : real(path, mode); \
  }
STREAMS(fopen)
STREAMS(fopen64)

#define NAMES(name, declared, passed, at, ...)                       \
  int name declared {                                                \
    REAL(int, name, __VA_ARGS__);                                    \
    return full_at(at) ? -1 : real passed;                           \
  }
NAMES(mkdir, (const char *path, mode_t mode), (path, mode), path, const char *, mode_t)
NAMES(rename, (const char *from, const char *to), (from, to), to, const char *, const char *)
NAMES(link, (const char *from, const char *to), (from, to), to, const char *, const char *)
NAMES(symlink, (const char *from, const char *to), (from, to), to, const char *, const char *)
