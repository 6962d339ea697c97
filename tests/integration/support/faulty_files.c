// A library for LD_PRELOAD: it counts the file operations of a program and lets some of them fail.
//
// FAULT_FOLDERS folders, separated by `:`; only operations on files in them are counted
// FAULT_ERROR   the errno (EIO if unset); only operations that can fail with it are counted
// FAULT_OP      the name of the only operation that is counted
// FAULT_AT      the first operation that fails, from 1; 0 counts and fails none
// FAULT_FOR     how many operations in a row fail (1 if unset)
// FAULT_COUNT   a file of 8 bytes that holds the count, so that the count outlives the program
// FAULT_RENAME  a folder that is renamed to FOLDER.gone at that operation, which then succeeds
// FAULT_CLOCK   seconds by which the wall clock jumps at that operation, which then succeeds
// FAULT_KILL    if set, only operations that change something are counted, and the program is killed at that one
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
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
static const char *folders, *renamed_folder, *only_op;
static int fault_errno, kinds, kills;
static long fail_from, fail_count, clock_jump;
static atomic_long unshared;
static atomic_long *count = &unshared;
static atomic_long skew;
static atomic_bool watched_fds[MOST_FILES];

static long env_number(const char *name, long fallback) {
    const char *text = getenv(name);
    return text ? atol(text) : fallback;
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void load_settings(void) {
    folders = getenv("FAULT_FOLDERS");
    renamed_folder = getenv("FAULT_RENAME");
    only_op = getenv("FAULT_OP");
    fault_errno = (int)env_number("FAULT_ERROR", EIO);
    fail_from = env_number("FAULT_AT", 0);
    fail_count = env_number("FAULT_FOR", 1);
    clock_jump = env_number("FAULT_CLOCK", 0);
    switch (fault_errno) {
    case ENOSPC: kinds = WRITES | CREATES; break;
    case EMFILE: kinds = OPENS | CREATES; break;
    case EROFS: kinds = CREATES; break;
    default: kinds = READS | WRITES | OPENS | CREATES;
    }
    kills = getenv("FAULT_KILL") != NULL;
    if (kills)
        kinds = WRITES | CREATES;
    const char *file = getenv("FAULT_COUNT");
    int fd = file ? ((int (*)(const char *, int, ...))real("open"))(file, O_RDWR) : -1;
    if (fd >= 0) {
        void *shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED)
            count = shared;
    }
}

static int is_watched_path(const char *path) {
    char absolute[PATH_MAX];
    pthread_once(&once, load_settings);
    if (!folders || !path)
        return 0;
    if (path[0] != '/' && getcwd(absolute, sizeof absolute)) {
        strncat(absolute, "/", sizeof absolute - strlen(absolute) - 1);
        strncat(absolute, path, sizeof absolute - strlen(absolute) - 1);
        path = absolute;
    }
    for (const char *at = folders; *at;) {
        size_t len = strcspn(at, ":");
        if (strncmp(path, at, len) == 0 && (path[len] == '/' || path[len] == 0))
            return 1;
        at += len + (at[len] == ':');
    }
    return 0;
}

static int is_watched_fd(int fd) { return fd >= 0 && fd < MOST_FILES && watched_fds[fd]; }

// Counts an operation, if it is one that is counted, and returns whether it fails.
static int fails(int kind, const char *op) {
    pthread_once(&once, load_settings);
    if (!(kind & kinds) || (only_op && strcmp(only_op, op) != 0))
        return 0;
    long op_number = atomic_fetch_add(count, 1) + 1;
    if (!fail_from || op_number < fail_from || op_number >= fail_from + fail_count)
        return 0;
    if (kills)
        kill(getpid(), SIGKILL);
    if (renamed_folder) {
        char to[PATH_MAX];
        snprintf(to, sizeof to, "%s.gone", renamed_folder);
        ((int (*)(const char *, const char *))real("rename"))(renamed_folder, to);
        return 0;
    }
    if (clock_jump) {
        atomic_store(&skew, clock_jump);
        return 0;
    }
    errno = fault_errno;
    return 1;
}

static int opened(int fd, int watched) {
    if (fd >= 0 && fd < MOST_FILES)
        watched_fds[fd] = watched;
    return fd;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = va_arg(args, mode_t);                                                        \
        va_end(args);                                                                              \
        int watched = is_watched_path(path);                                                       \
        if (watched && fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) ? CREATES : OPENS, "open"))   \
            return -1;                                                                             \
        return opened(((int (*)(const char *, int, ...))real(#name))(path, flags, mode), watched); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int at, const char *path, int flags, ...) {                                           \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = va_arg(args, mode_t);                                                        \
        va_end(args);                                                                              \
        int watched = is_watched_path(path);                                                       \
        if (watched && fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) ? CREATES : OPENS, "open"))   \
            return -1;                                                                             \
        int fd = ((int (*)(int, const char *, int, ...))real(#name))(at, path, flags, mode);       \
        return opened(fd, watched);                                                                \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < MOST_FILES)
        watched_fds[fd] = 0;
    return ((int (*)(int))real("close"))(fd);
}

#define OF_FILE(kind, result, name, params, args, types)                                           \
    result name params {                                                                           \
        if (is_watched_fd(fd) && fails(kind, #name))                                               \
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
    if ((is_watched_fd(from) || is_watched_fd(to)) && fails(WRITES, "copy_file_range"))
        return -1;
    ssize_t (*go)(int, off64_t *, int, off64_t *, size_t, unsigned) = real("copy_file_range");
    return go(from, at, to, pos, n, flags);
}

#define OF_PATH(name, params, args, types)                                                         \
    int name params {                                                                              \
        if (is_watched_path(path) && fails(CREATES, #name))                                        \
            return -1;                                                                             \
        return ((int(*) types) real(#name))args;                                                   \
    }
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode), (const char *, mode_t))
OF_PATH(unlink, (const char *path), (path), (const char *))
OF_PATH(chmod, (const char *path, mode_t mode), (path, mode), (const char *, mode_t))
OF_PATH(rename, (const char *path, const char *to), (path, to), (const char *, const char *))

int symlink(const char *target, const char *path) {
    if (is_watched_path(path) && fails(CREATES, "symlink"))
        return -1;
    return ((int (*)(const char *, const char *))real("symlink"))(target, path);
}

DIR *opendir(const char *path) {
    if (is_watched_path(path) && fails(OPENS, "opendir"))
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
