// A library for LD_PRELOAD: it counts the file operations of a program and lets some of them fail.
//
// FAULT_UNDER   folders, separated by `:`; only operations on files in them are counted
// FAULT_ERROR   the errno (EIO if unset); only operations that can fail with it are counted
// FAULT_OP      the name of the only operation that is counted
// FAULT_AT      the first operation that fails, from 1; 0 counts and fails none
// FAULT_FOR     how many operations in a row fail (1 if unset)
// FAULT_COUNT   a file of 8 bytes that holds the count, so that the count outlives the program
// FAULT_GONE    a folder that is renamed to FOLDER.gone at that operation, which then succeeds
// FAULT_CLOCK   seconds by which the wall clock jumps at that operation, which then succeeds
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { READS = 1, WRITES = 2, OPENS = 4, CREATES = 8 };
enum { MOST_FILES = 65536 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *under, *gone, *only;
static int error, kinds;
static long first, many, jump;
static atomic_long unshared;
static atomic_long *count = &unshared;
static atomic_long skew;
static atomic_bool ours[MOST_FILES];

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void start(void) {
    under = getenv("FAULT_UNDER");
    gone = getenv("FAULT_GONE");
    only = getenv("FAULT_OP");
    error = (int)number("FAULT_ERROR", EIO);
    first = number("FAULT_AT", 0);
    many = number("FAULT_FOR", 1);
    jump = number("FAULT_CLOCK", 0);
    switch (error) {
    case ENOSPC: kinds = WRITES | CREATES; break;
    case EMFILE: kinds = OPENS | CREATES; break;
    case EROFS: kinds = CREATES; break;
    default: kinds = READS | WRITES | OPENS | CREATES;
    }
    const char *file = getenv("FAULT_COUNT");
    int fd = file ? ((int (*)(const char *, int, ...))real("open"))(file, O_RDWR) : -1;
    if (fd >= 0) {
        void *shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED)
            count = shared;
    }
}

static int is_ours(const char *path) {
    char whole[PATH_MAX];
    pthread_once(&once, start);
    if (!under || !path)
        return 0;
    if (path[0] != '/' && getcwd(whole, sizeof whole)) {
        strncat(whole, "/", sizeof whole - strlen(whole) - 1);
        strncat(whole, path, sizeof whole - strlen(whole) - 1);
        path = whole;
    }
    for (const char *at = under; *at;) {
        size_t len = strcspn(at, ":");
        if (strncmp(path, at, len) == 0 && (path[len] == '/' || path[len] == 0))
            return 1;
        at += len + (at[len] == ':');
    }
    return 0;
}

static int is_open(int fd) { return fd >= 0 && fd < MOST_FILES && ours[fd]; }

// Counts an operation, if it is one that is counted, and returns whether it fails.
static int fails(int kind, const char *op) {
    pthread_once(&once, start);
    if (!(kind & kinds) || (only && strcmp(only, op) != 0))
        return 0;
    long step = atomic_fetch_add(count, 1) + 1;
    if (!first || step < first || step >= first + many)
        return 0;
    if (gone) {
        char to[PATH_MAX];
        snprintf(to, sizeof to, "%s.gone", gone);
        ((int (*)(const char *, const char *))real("rename"))(gone, to);
        return 0;
    }
    if (jump) {
        atomic_store(&skew, jump);
        return 0;
    }
    errno = error;
    return 1;
}

static int opened(int fd, int mine) {
    if (fd >= 0 && fd < MOST_FILES)
        ours[fd] = mine;
    return fd;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = va_arg(more, mode_t);                                                        \
        va_end(more);                                                                              \
        int mine = is_ours(path);                                                                  \
        if (mine && fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) ? CREATES : OPENS, "open"))      \
            return -1;                                                                             \
        return opened(((int (*)(const char *, int, ...))real(#name))(path, flags, mode), mine);    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int at, const char *path, int flags, ...) {                                           \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = va_arg(more, mode_t);                                                        \
        va_end(more);                                                                              \
        int mine = is_ours(path);                                                                  \
        if (mine && fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) ? CREATES : OPENS, "open"))      \
            return -1;                                                                             \
        int fd = ((int (*)(int, const char *, int, ...))real(#name))(at, path, flags, mode);       \
        return opened(fd, mine);                                                                   \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < MOST_FILES)
        ours[fd] = 0;
    return ((int (*)(int))real("close"))(fd);
}

#define OF_FILE(kind, result, name, params, args, types)                                           \
    result name params {                                                                           \
        if (is_open(fd) && fails(kind, #name))                                                     \
            return -1;                                                                             \
        return((result(*) types) real(#name))args;                                                 \
    }
OF_FILE(READS, ssize_t, read, (int fd, void *b, size_t n), (fd, b, n), (int, void *, size_t))
OF_FILE(READS, ssize_t, pread, (int fd, void *b, size_t n, off_t o), (fd, b, n, o),
        (int, void *, size_t, off_t))
OF_FILE(READS, ssize_t, pread64, (int fd, void *b, size_t n, off64_t o), (fd, b, n, o),
        (int, void *, size_t, off64_t))
OF_FILE(WRITES, ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n),
        (int, const void *, size_t))
OF_FILE(WRITES, ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n),
        (int, const struct iovec *, int))
OF_FILE(WRITES, ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o),
        (int, const void *, size_t, off_t))
OF_FILE(WRITES, ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o),
        (int, const void *, size_t, off64_t))
OF_FILE(WRITES, int, ftruncate, (int fd, off_t n), (fd, n), (int, off_t))
OF_FILE(WRITES, int, ftruncate64, (int fd, off64_t n), (fd, n), (int, off64_t))
OF_FILE(WRITES, int, fsync, (int fd), (fd), (int))
OF_FILE(WRITES, int, fdatasync, (int fd), (fd), (int))

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *pos, size_t n, unsigned flags) {
    if ((is_open(from) || is_open(to)) && fails(WRITES, "copy_file_range"))
        return -1;
    ssize_t (*go)(int, off64_t *, int, off64_t *, size_t, unsigned) = real("copy_file_range");
    return go(from, at, to, pos, n, flags);
}

#define OF_PATH(name, params, args, types)                                                         \
    int name params {                                                                              \
        if (is_ours(path) && fails(CREATES, #name))                                                \
            return -1;                                                                             \
        return ((int(*) types) real(#name))args;                                                   \
    }
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode), (const char *, mode_t))
OF_PATH(unlink, (const char *path), (path), (const char *))
OF_PATH(chmod, (const char *path, mode_t mode), (path, mode), (const char *, mode_t))
OF_PATH(rename, (const char *path, const char *to), (path, to), (const char *, const char *))

int symlink(const char *target, const char *path) {
    if (is_ours(path) && fails(CREATES, "symlink"))
        return -1;
    return ((int (*)(const char *, const char *))real("symlink"))(target, path);
}

DIR *opendir(const char *path) {
    if (is_ours(path) && fails(OPENS, "opendir"))
        return NULL;
    return ((DIR * (*)(const char *)) real("opendir"))(path);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = ((int (*)(clockid_t, struct timespec *))real("clock_gettime"))(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += skew;
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int done = ((int (*)(struct timeval *, void *))real("gettimeofday"))(now, zone);
    now->tv_sec += skew;
    return done;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
