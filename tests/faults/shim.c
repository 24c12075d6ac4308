/* Make the n-th call of the C library fail. Loaded before it (LD_PRELOAD), so that calls of Python, torch, protobuf, safetensors
   and LLVM are all seen. `fault_arm` says which kinds of calls are counted, which one fails, and with what. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, WRITE = 4, FSYNC = 8, RENAME = 16, MKDIR = 32, MMAP = 64, STAT = 128, UNLINK = 256, FLOCK = 512,
       LIST = 1024, CLOSE = 2048, ALLOC = 4096, LARGE = 8192, THREAD = 16384 };
#define LARGE_BYTES 65536

static volatile int kinds;
static long at, seen, fired;
static int error, for_good;

void fault_arm(int which, long nth, int with, int always) {
    at = nth; seen = fired = 0; error = with; for_good = always;
    __atomic_store_n(&kinds, which, __ATOMIC_SEQ_CST);
}
void fault_disarm(void) { __atomic_store_n(&kinds, 0, __ATOMIC_SEQ_CST); }
long fault_seen(void) { return seen; }
long fault_fired(void) { return fired; }

static int fails(int kind) {
    if (!(kinds & kind)) return 0;
    long n = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (n != at && !(for_good && at > 0 && n > at)) return 0;
    __atomic_add_fetch(&fired, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRAP(kind, type, bad, name, parameters, ...) \
    type name parameters { REAL(name); return fails(kind) ? bad : real(__VA_ARGS__); }
#define WRAP_OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        return fails(OPEN) ? -1 : real(path, flags, mode); }
#define WRAP_OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        return fails(OPEN) ? -1 : real(folder, path, flags, mode); }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP(OPEN, FILE *, NULL, fopen, (const char *p, const char *m), p, m)
WRAP(OPEN, FILE *, NULL, fopen64, (const char *p, const char *m), p, m)
WRAP(READ, ssize_t, -1, read, (int f, void *b, size_t n), f, b, n)
WRAP(READ, ssize_t, -1, readv, (int f, const struct iovec *v, int n), f, v, n)
WRAP(READ, ssize_t, -1, pread, (int f, void *b, size_t n, off_t o), f, b, n, o)
WRAP(READ, ssize_t, -1, pread64, (int f, void *b, size_t n, off64_t o), f, b, n, o)
WRAP(WRITE, ssize_t, -1, write, (int f, const void *b, size_t n), f, b, n)
WRAP(WRITE, ssize_t, -1, writev, (int f, const struct iovec *v, int n), f, v, n)
WRAP(WRITE, ssize_t, -1, pwrite, (int f, const void *b, size_t n, off_t o), f, b, n, o)
WRAP(WRITE, ssize_t, -1, pwrite64, (int f, const void *b, size_t n, off64_t o), f, b, n, o)
WRAP(WRITE, int, -1, ftruncate, (int f, off_t n), f, n)
WRAP(WRITE, int, -1, ftruncate64, (int f, off64_t n), f, n)
WRAP(FSYNC, int, -1, fsync, (int f), f)
WRAP(FSYNC, int, -1, fdatasync, (int f), f)
WRAP(RENAME, int, -1, rename, (const char *a, const char *b), a, b)
WRAP(RENAME, int, -1, renameat, (int d, const char *a, int e, const char *b), d, a, e, b)
WRAP(MKDIR, int, -1, mkdir, (const char *p, mode_t m), p, m)
WRAP(MKDIR, int, -1, mkdirat, (int d, const char *p, mode_t m), d, p, m)
WRAP(MMAP, void *, MAP_FAILED, mmap, (void *a, size_t n, int p, int g, int f, off_t o), a, n, p, g, f, o)
WRAP(MMAP, void *, MAP_FAILED, mmap64, (void *a, size_t n, int p, int g, int f, off64_t o), a, n, p, g, f, o)
WRAP(STAT, int, -1, stat, (const char *p, struct stat *s), p, s)
WRAP(STAT, int, -1, lstat, (const char *p, struct stat *s), p, s)
WRAP(STAT, int, -1, fstat, (int f, struct stat *s), f, s)
WRAP(STAT, int, -1, fstatat, (int d, const char *p, struct stat *s, int g), d, p, s, g)
WRAP(STAT, int, -1, stat64, (const char *p, struct stat64 *s), p, s)
WRAP(STAT, int, -1, lstat64, (const char *p, struct stat64 *s), p, s)
WRAP(STAT, int, -1, fstat64, (int f, struct stat64 *s), f, s)
WRAP(STAT, int, -1, fstatat64, (int d, const char *p, struct stat64 *s, int g), d, p, s, g)
WRAP(STAT, int, -1, statx, (int d, const char *p, int g, unsigned m, struct statx *s), d, p, g, m, s)
int __xstat64(int v, const char *p, struct stat64 *s);
int __lxstat64(int v, const char *p, struct stat64 *s);
int __fxstat64(int v, int f, struct stat64 *s);
int __fxstatat64(int v, int d, const char *p, struct stat64 *s, int g);
WRAP(STAT, int, -1, __xstat64, (int v, const char *p, struct stat64 *s), v, p, s)
WRAP(STAT, int, -1, __lxstat64, (int v, const char *p, struct stat64 *s), v, p, s)
WRAP(STAT, int, -1, __fxstat64, (int v, int f, struct stat64 *s), v, f, s)
WRAP(STAT, int, -1, __fxstatat64, (int v, int d, const char *p, struct stat64 *s, int g), v, d, p, s, g)
int __xstat(int v, const char *p, struct stat *s);
int __lxstat(int v, const char *p, struct stat *s);
int __fxstat(int v, int f, struct stat *s);
WRAP(STAT, int, -1, __xstat, (int v, const char *p, struct stat *s), v, p, s)
WRAP(STAT, int, -1, __lxstat, (int v, const char *p, struct stat *s), v, p, s)
WRAP(STAT, int, -1, __fxstat, (int v, int f, struct stat *s), v, f, s)
WRAP(UNLINK, int, -1, unlink, (const char *p), p)
WRAP(UNLINK, int, -1, unlinkat, (int d, const char *p, int g), d, p, g)
WRAP(UNLINK, int, -1, rmdir, (const char *p), p)
int flock(int f, int how);
WRAP(FLOCK, int, -1, flock, (int f, int how), f, how)
WRAP(LIST, DIR *, NULL, opendir, (const char *p), p)
WRAP(LIST, DIR *, NULL, fdopendir, (int f), f)
WRAP(LIST, struct dirent *, NULL, readdir, (DIR *d), d)
WRAP(LIST, struct dirent64 *, NULL, readdir64, (DIR *d), d)

int close(int f) { /* a descriptor is closed even if close fails */
    REAL(close);
    int result = real(f);
    return fails(CLOSE) ? -1 : result;
}

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x) {
    REAL(pthread_create);
    return fails(THREAD) ? EAGAIN : real(t, a, f, x);
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t a, size_t n);

static int no_memory(size_t n) { return kinds && (fails(ALLOC) || (n >= LARGE_BYTES && fails(LARGE))); }

void *malloc(size_t n) { return no_memory(n) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return no_memory(n * m) ? NULL : __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return n && no_memory(n) ? NULL : __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { return no_memory(n) ? NULL : __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { return no_memory(n) ? NULL : __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    if (no_memory(n) || !(*p = __libc_memalign(a, n))) return ENOMEM;
    return 0;
}
