/* SPDX-License-Identifier: Apache-2.0 */
/* posix.c - see windows/posix.h. */
#include "windows/posix.h"

#include "harness/harness.h"

#include <errno.h>
#include <stdarg.h>

#pragma GCC diagnostic ignored "-Wunused-parameter" /* of what is not there */

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#undef stat
#undef fork
#undef open
#undef read
#undef write
#undef rename
#undef mkdir
#undef unlink
#undef fcntl
#undef chmod
#undef dup2
#undef ftruncate
#undef truncate
#undef pthread_exit
#undef pthread_cancel

void test_windows_lacks(const char *what) {
    test_skip("no %s on Windows", what);
}

/* A function that Windows has nothing like. */
#define LACKS(name, type, ...) \
    type name(__VA_ARGS__) { \
        test_windows_lacks(#name "()"); \
    }

static int fail(void) {
    DWORD error = GetLastError();
    errno = error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND        ? ENOENT
            : error == ERROR_FILE_EXISTS || error == ERROR_ALREADY_EXISTS         ? EEXIST
            : error == ERROR_ACCESS_DENIED || error == ERROR_WRITE_PROTECT        ? EACCES
            : error == ERROR_SHARING_VIOLATION || error == ERROR_USER_MAPPED_FILE ? EBUSY
            : error == ERROR_INVALID_HANDLE                                       ? EBADF
                                                                                  : EIO;
    return -1;
}

static HANDLE handle_of(int fd) {
    return (HANDLE)_get_osfhandle(fd);
}

/* ---- processes, signals, threads ---- */

pid_t posix_fork(void) {
    test_windows_lacks("fork()");
}
LACKS(waitpid, pid_t, pid_t pid, int *ret_status, int options)
LACKS(getppid, pid_t, void)
LACKS(kill, int, pid_t pid, int number)
LACKS(pipe, int, int fds[2])
LACKS(setpgid, int, pid_t pid, pid_t group)
LACKS(sigaction, int, int number, const struct sigaction *action, struct sigaction *ret_before)
LACKS(setitimer, int, int which, const struct itimerval *value, struct itimerval *ret_before)
LACKS(setuid, int, unsigned id)
LACKS(seteuid, int, unsigned id)
LACKS(socket, int, int family, int type, int protocol)
LACKS(socketpair, int, int family, int type, int protocol, int fds[2])
LACKS(bind, int, int fd, const struct sockaddr *address, socklen_t n)
LACKS(unshare, int, int flags)
LACKS(mount, int, const char *source, const char *target, const char *type, unsigned long flags,
        const void *data)
LACKS(umount, int, const char *target)
LACKS(sigismember, int, const sigset_t *set, int number)

int posix_sigmask(int how, const sigset_t *set, sigset_t *ret_before) {
    (void)how;
    (void)set;
    (void)ret_before;
    test_windows_lacks("signals");
}

int posix_pthread_kill(pthread_t thread, int number) {
    (void)thread;
    (void)number;
    test_windows_lacks("signals");
}

int sigemptyset(sigset_t *set) {
    *set = 0;
    return 0;
}

int sigfillset(sigset_t *set) {
    *set = ~(sigset_t)0;
    return 0;
}

int sigaddset(sigset_t *set, int number) {
    *set |= (sigset_t)1 << (number - 1);
    return 0;
}

int sigdelset(sigset_t *set, int number) {
    *set &= ~((sigset_t)1 << (number - 1));
    return 0;
}

unsigned alarm(unsigned seconds) {
    (void)seconds;
    return 0;
}

int pause(void) {
    Sleep(INFINITE);
    return -1;
}

int gettid(void) {
    return (int)GetCurrentThreadId();
}

long syscall(long number, ...) {
    if (number != SYS_gettid)
        test_windows_lacks("system calls");
    return gettid();
}

unsigned getuid(void) {
    return 0; /* files have no owner that would keep anybody out */
}

unsigned geteuid(void) {
    return 0;
}

void posix_pthread_exit(void *value) {
    (void)value;
    test_windows_lacks("pthread_exit() that unwinds");
}

int posix_pthread_cancel(pthread_t thread) {
    (void)thread;
    test_windows_lacks("pthread_cancel() that unwinds");
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret_set) {
    DWORD_PTR process = 0, system = 0;
    (void)pid;
    (void)size;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        return fail();
    ret_set->bits = process;
    return 0;
}

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) {
    (void)pid;
    (void)size;
    return SetThreadAffinityMask(GetCurrentThread(), (DWORD_PTR)set->bits) ? 0 : fail();
}

/* ---- the system ---- */

long sysconf(int name) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return name == _SC_PAGESIZE           ? (long)info.dwPageSize
           : name == _SC_NPROCESSORS_ONLN ? (long)info.dwNumberOfProcessors
                                          : 100;
}

LACKS(getrusage, int, int who, struct rusage *ret_usage)
LACKS(getrlimit, int, int which, struct rlimit *ret_limit)
LACKS(setrlimit, int, int which, const struct rlimit *limit)

/* ---- memory ---- */

void *mmap(void *at, size_t n, int protection, int flags, int fd, int64_t offset) {
    (void)offset;
    if (!(flags & MAP_ANONYMOUS) || fd != -1 || (flags & MAP_FIXED))
        test_windows_lacks("mmap()");
    DWORD words = protection == PROT_NONE   ? PAGE_NOACCESS
                  : protection & PROT_WRITE ? PAGE_READWRITE
                                            : PAGE_READONLY;
    void *base = VirtualAlloc(at, n, MEM_RESERVE | MEM_COMMIT, words);
    return base ? base : MAP_FAILED;
}

int munmap(void *base, size_t n) {
    (void)n;
    return VirtualFree(base, 0, MEM_RELEASE) ? 0 : fail();
}

LACKS(mlock, int, const void *base, size_t n)
LACKS(munlock, int, const void *base, size_t n)
LACKS(mprotect, int, void *base, size_t n, int protection)
LACKS(mallinfo2, struct mallinfo2, void)

void *memmem(const void *text, size_t n, const void *part, size_t part_n) {
    for (size_t i = 0; i + part_n <= n; i++) {
        if (memcmp((const char *)text + i, part, part_n) == 0)
            return (void *)(uintptr_t)((const char *)text + i);
    }
    return NULL;
}

/* ---- files ---- */

#define SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

static const wchar_t *wide(const char *path) {
    static _Thread_local wchar_t buf[2][2048];
    static _Thread_local unsigned turn;
    wchar_t *text = buf[turn++ % 2];
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, text, 2048))
        text[0] = L'\0';
    return text;
}

int64_t posix_read(int fd, void *buf, size_t n) {
    return _read(fd, buf, (unsigned)n);
}

int64_t posix_write(int fd, const void *data, size_t n) {
    return _write(fd, data, (unsigned)n);
}

int64_t pread(int fd, void *buf, size_t n, int64_t offset) {
    OVERLAPPED at = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
    DWORD done = 0;
    if (ReadFile(handle_of(fd), buf, (DWORD)n, &done, &at))
        return done;
    return GetLastError() == ERROR_HANDLE_EOF ? 0 : fail();
}

int64_t pwrite(int fd, const void *data, size_t n, int64_t offset) {
    OVERLAPPED at = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
    DWORD done = 0;
    return WriteFile(handle_of(fd), data, (DWORD)n, &done, &at) ? (int64_t)done : fail();
}

unsigned posix_open_handles(void) {
    DWORD n = 0;
    GetProcessHandleCount(GetCurrentProcess(), &n);
    return n;
}

int posix_dup2(int fd, int wanted) {
    return _dup2(fd, wanted) == 0 ? wanted : -1;
}

/* What is open is not replaced: as programs for Windows do, this tries for a while. */
int posix_rename(const char *from, const char *to) {
    for (int i = 0; i < 100; i++) {
        if (MoveFileExW(wide(from), wide(to), MOVEFILE_REPLACE_EXISTING))
            return 0;
        DWORD error = GetLastError();
        if (error != ERROR_ACCESS_DENIED && error != ERROR_SHARING_VIOLATION)
            break;
        Sleep(5);
    }
    return fail();
}

int posix_mkdir(const char *path) {
    return CreateDirectoryW(wide(path), NULL) ? 0 : fail();
}

int posix_unlink(const char *path) {
    return DeleteFileW(wide(path)) ? 0 : fail();
}

int posix_chmod(const char *path, unsigned mode) {
    return _chmod(path, mode & 0200 ? _S_IREAD | _S_IWRITE : _S_IREAD);
}

int posix_fcntl(int fd, int command, ...) {
    (void)fd;
    (void)command;
    test_windows_lacks("fcntl()");
}

/* Whether a file has got a length, at last. */
static bool becomes(HANDLE handle, int64_t n) {
    LARGE_INTEGER size = {.QuadPart = -1};
    for (int i = 0; i < 2000 && size.QuadPart != n; i++) {
        if (i > 0)
            Sleep(1);
        if (!GetFileSizeEx(handle, &size))
            return false;
    }
    return size.QuadPart == n;
}

/*
 * Windows cuts no file that is mapped.  Wine, which is strict about it, runs on a system that does: another program of
 * that one is started.
 */
static int cut_beneath_wine(HANDLE handle, int64_t n) {
    typedef char *CDECL unix_name_fn(const wchar_t *path);
    wchar_t path[2048];
    char line[2200], program[] = "Z:\\usr\\bin\\truncate";
    STARTUPINFOA startup = {.cb = sizeof(startup)};
    PROCESS_INFORMATION process = {0};
    FARPROC found = GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "wine_get_unix_file_name");
    LARGE_INTEGER size;
    if (GetFileSizeEx(handle, &size) && size.QuadPart == n)
        return 0;
    if (!found || !GetFinalPathNameByHandleW(handle, path, 2048, 0))
        test_windows_lacks("way to cut a file that is mapped");
    char *name = ((unix_name_fn *)(void (*)(void))found)(path);
    snprintf(line, sizeof(line), "truncate -s %lld \"%s\"", (long long)n, name ? name : "");
    if (!CreateProcessA(program, line, NULL, NULL, FALSE, 0, NULL, NULL, &startup, &process))
        return fail();
    return becomes(handle, n) ? 0 : -1;
}

int posix_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    unsigned mode = flags & O_CREAT ? va_arg(args, unsigned) : 0600;
    va_end(args);
    DWORD access = (flags & O_ACCMODE) == O_RDONLY   ? GENERIC_READ
                   : (flags & O_ACCMODE) == O_WRONLY ? GENERIC_WRITE
                                                     : GENERIC_READ | GENERIC_WRITE;
    DWORD how = flags & O_CREAT   ? (flags & O_EXCL           ? CREATE_NEW
                                            : flags & O_TRUNC ? CREATE_ALWAYS
                                                              : OPEN_ALWAYS)
                : flags & O_TRUNC ? TRUNCATE_EXISTING
                                  : OPEN_EXISTING;
    DWORD attributes = mode & 0200 ? FILE_ATTRIBUTE_NORMAL : FILE_ATTRIBUTE_READONLY;
    HANDLE handle = CreateFileW(wide(path), access, SHARE_ALL, NULL, how,
            attributes | (access == GENERIC_READ ? FILE_FLAG_BACKUP_SEMANTICS : 0), NULL);
    if (handle == INVALID_HANDLE_VALUE && GetLastError() == ERROR_USER_MAPPED_FILE) {
        handle = CreateFileW(wide(path), access, SHARE_ALL, NULL, OPEN_EXISTING, attributes, NULL);
        if (handle != INVALID_HANDLE_VALUE && cut_beneath_wine(handle, 0))
            return -1;
    }
    if (handle == INVALID_HANDLE_VALUE)
        return fail();
    return _open_osfhandle((intptr_t)handle, (flags & O_APPEND) | _O_BINARY | _O_NOINHERIT);
}

static int set_end(HANDLE handle, int64_t n) {
    FILE_END_OF_FILE_INFO end = {.EndOfFile.QuadPart = n};
    if (SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof(end)))
        return 0;
    return GetLastError() == ERROR_USER_MAPPED_FILE ? cut_beneath_wine(handle, n) : fail();
}

int posix_ftruncate(int fd, int64_t n) {
    return set_end(handle_of(fd), n);
}

int posix_truncate(const char *path, int64_t n) {
    HANDLE handle = CreateFileW(
            wide(path), GENERIC_WRITE, SHARE_ALL, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE)
        return fail();
    int rc = set_end(handle, n);
    CloseHandle(handle);
    return rc;
}

int fsync(int fd) {
    return FlushFileBuffers(handle_of(fd)) ? 0 : fail();
}

int link(const char *from, const char *to) {
    return CreateHardLinkW(wide(to), wide(from), NULL) ? 0 : fail();
}

LACKS(symlink, int, const char *target, const char *path)
LACKS(mkfifo, int, const char *path, unsigned mode)
LACKS(memfd_create, int, const char *name, unsigned flags)

#define TICKS_TO_1970 INT64_C(116444736000000000)

static struct timespec to_timespec(LARGE_INTEGER ticks) {
    int64_t since = ticks.QuadPart - TICKS_TO_1970;
    return (struct timespec){since / 10000000, (long)(since % 10000000 * 100)};
}

static int64_t to_ticks(const struct timespec *ts) {
    return ts->tv_nsec == UTIME_OMIT
                   ? 0
                   : ts->tv_sec * INT64_C(10000000) + ts->tv_nsec / 100 + TICKS_TO_1970;
}

static int stat_handle(HANDLE handle, struct posix_stat *ret_stat) {
    BY_HANDLE_FILE_INFORMATION file;
    FILE_BASIC_INFO basic;
    FILE_STANDARD_INFO standard;
    if (!GetFileInformationByHandle(handle, &file) ||
            !GetFileInformationByHandleEx(handle, FileBasicInfo, &basic, sizeof(basic)) ||
            !GetFileInformationByHandleEx(handle, FileStandardInfo, &standard, sizeof(standard)))
        return fail();
    *ret_stat = (struct posix_stat){
            .st_dev = file.dwVolumeSerialNumber,
            .st_ino = (uint64_t)file.nFileIndexHigh << 32 | file.nFileIndexLow,
            .st_nlink = file.nNumberOfLinks,
            .st_mode = file.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY  ? _S_IFDIR | 0777
                       : file.dwFileAttributes & FILE_ATTRIBUTE_READONLY ? _S_IFREG | 0444
                                                                         : _S_IFREG | 0666,
            .st_size = standard.EndOfFile.QuadPart,
            .st_blocks = standard.AllocationSize.QuadPart / 512,
            .st_atim = to_timespec(basic.LastAccessTime),
            .st_mtim = to_timespec(basic.LastWriteTime),
            .st_ctim = to_timespec(basic.ChangeTime),
    };
    return 0;
}

static HANDLE open_attributes(const char *path, DWORD access) {
    return CreateFileW(
            wide(path), access, SHARE_ALL, NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
}

int posix_stat(const char *path, struct posix_stat *ret_stat) {
    HANDLE handle = open_attributes(path, FILE_READ_ATTRIBUTES);
    if (handle == INVALID_HANDLE_VALUE)
        return fail();
    int rc = stat_handle(handle, ret_stat);
    CloseHandle(handle);
    return rc;
}

int posix_fstat(int fd, struct posix_stat *ret_stat) {
    return stat_handle(handle_of(fd), ret_stat);
}

static int set_times(HANDLE handle, const struct timespec times[2]) {
    FILE_BASIC_INFO basic = {0}; /* 0: stays */
    if (times) {
        basic.LastAccessTime.QuadPart = to_ticks(&times[0]);
        basic.LastWriteTime.QuadPart = to_ticks(&times[1]);
    } else {
        FILETIME now;
        GetSystemTimePreciseAsFileTime(&now);
        basic.LastWriteTime.QuadPart =
                (int64_t)((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime);
    }
    return SetFileInformationByHandle(handle, FileBasicInfo, &basic, sizeof(basic)) ? 0 : fail();
}

int utimensat(int dir, const char *path, const struct timespec times[2], int flags) {
    (void)dir;
    (void)flags;
    HANDLE handle = open_attributes(path, FILE_WRITE_ATTRIBUTES);
    if (handle == INVALID_HANDLE_VALUE)
        return fail();
    int rc = set_times(handle, times);
    CloseHandle(handle);
    return rc;
}

int futimens(int fd, const struct timespec times[2]) {
    return set_times(handle_of(fd), times);
}

char *mkdtemp(char *pattern) {
    size_t n = strlen(pattern);
    snprintf(pattern + n - 6, 7, "%06u", (unsigned)(GetCurrentProcessId() % 1000000));
    return posix_mkdir(pattern) == 0 ? pattern : NULL;
}

LACKS(open_memstream, FILE *, char **ret_text, size_t *ret_n)

void flockfile(FILE *file) {
    _lock_file(file);
}

void funlockfile(FILE *file) {
    _unlock_file(file);
}

/* ---- the environment ---- */

int setenv(const char *name, const char *value, int overwrite) {
    if (!*value)
        test_windows_lacks("empty variables of the environment");
    return !overwrite && getenv(name) ? 0 : _putenv_s(name, value);
}

int unsetenv(const char *name) {
    return _putenv_s(name, "");
}

LACKS(clearenv, int, void)

/* ---- events ---- */

static int look(struct pollfd *fds, nfds_t n) {
    int ready = 0;
    for (nfds_t i = 0; i < n; i++) {
        HANDLE event = (HANDLE)(intptr_t)fds[i].fd;
        bool set = fds[i].fd >= 0 && WaitForSingleObject(event, 0) == WAIT_OBJECT_0;
        fds[i].revents = set ? POLLIN : 0;
        ready += set;
    }
    return ready;
}

int poll(struct pollfd *fds, nfds_t n, int timeout_ms) {
    HANDLE events[MAXIMUM_WAIT_OBJECTS];
    DWORD count = 0;
    for (nfds_t i = 0; i < n && count < MAXIMUM_WAIT_OBJECTS; i++) {
        if (fds[i].fd >= 0)
            events[count++] = (HANDLE)(intptr_t)fds[i].fd;
    }
    DWORD ms = timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms;
    if (count == 0)
        Sleep(ms);
    else if (WaitForMultipleObjects(count, events, FALSE, ms) == WAIT_FAILED)
        return fail();
    return look(fds, n);
}
