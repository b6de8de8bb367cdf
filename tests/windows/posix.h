/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.h - what the tests use of POSIX, on Windows.
 *
 * What Windows has under another name is that.  What it has not ends the test as skipped, with the name of what is
 * missing, so that a test needs no #if, and tests/windows/expected-skips tells what is not shown there.
 */
#ifndef PNX_TESTS_WINDOWS_POSIX_H
#define PNX_TESTS_WINDOWS_POSIX_H

/* All headers whose names are given another meaning below. */
#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* Ends the test as skipped. */
_Noreturn void test_windows_lacks(const char *what);

/* ---- processes ---- */

pid_t posix_fork(void);
#define fork() posix_fork()
pid_t waitpid(pid_t pid, int *ret_status, int options);
pid_t getppid(void);
int kill(pid_t pid, int number);
unsigned alarm(unsigned seconds); /* nothing: every test has a limit */
int pause(void);
int pipe(int fds[2]);
int setpgid(pid_t pid, pid_t group);
int gettid(void);
long syscall(long number, ...); /* SYS_gettid only */
unsigned getuid(void);
int setuid(unsigned id);
int seteuid(unsigned id);
unsigned geteuid(void);

#define SYS_gettid          1
#define WNOHANG             1
#define WIFSIGNALED(status) ((status) < 0)
#define WTERMSIG(status)    (-(status))
#define WIFEXITED(status)   ((status) >= 0)
#define WEXITSTATUS(status) (status)

/* ---- signals ---- */

typedef _sigset_t sigset_t;
typedef struct {
    int si_code;
    int si_signo;
    void *si_addr;
} siginfo_t;
struct sigaction {
    void (*sa_handler)(int number);
    void (*sa_sigaction)(int number, siginfo_t *info, void *context);
    sigset_t sa_mask;
    int sa_flags;
};

#define SIGHUP       1
#define SIGTRAP      5
#define SIGBUS       7
#define SIGKILL      9
#define SIGUSR1      10
#define SIGUSR2      12
#define SIGPIPE      13
#define SIGALRM      14
#define SIGCHLD      17
#define SIGCONT      18
#define SIGSTOP      19
#define SIGXFSZ      25
#define SIGPROF      27
#define SIGRTMIN     34
#define SA_SIGINFO   4
#define SA_ONSTACK   8
#define SA_RESTART   16
#define SA_NODEFER   32
#define SA_RESETHAND 64
#define SIG_BLOCK    0
#define SIG_UNBLOCK  1
#define SIG_SETMASK  2
#define BUS_ADRERR   2

int sigaction(int number, const struct sigaction *action, struct sigaction *ret_before);
int posix_sigmask(int how, const sigset_t *set, sigset_t *ret_before);
#undef pthread_sigmask
#define pthread_sigmask(how, set, before) posix_sigmask(how, set, before)
#define sigprocmask(how, set, before)     posix_sigmask(how, set, before)
int posix_pthread_kill(pthread_t thread, int number);
#undef pthread_kill
#define pthread_kill(thread, number) posix_pthread_kill(thread, number)
int sigemptyset(sigset_t *set);
int sigfillset(sigset_t *set);
int sigaddset(sigset_t *set, int number);
int sigdelset(sigset_t *set, int number);
int sigismember(const sigset_t *set, int number);

struct itimerval {
    struct timeval it_interval, it_value;
};
#define ITIMER_REAL 0
int setitimer(int which, const struct itimerval *value, struct itimerval *ret_before);

/* ---- threads ---- */

/* winpthreads' does not unwind.  A test that shows something all the same calls it as (pthread_exit)(value). */
_Noreturn void posix_pthread_exit(void *value);
#define pthread_exit(value) posix_pthread_exit(value)
int posix_pthread_cancel(pthread_t thread);
#define pthread_cancel(thread) posix_pthread_cancel(thread)

typedef struct {
    uint64_t bits;
} cpu_set_t;
#define CPU_ZERO(set)       ((set)->bits = 0)
#define CPU_SET(cpu, set)   ((set)->bits |= UINT64_C(1) << (cpu))
#define CPU_ISSET(cpu, set) (((set)->bits >> (cpu)&1) != 0)
#define CPU_COUNT(set)      __builtin_popcountll((set)->bits)
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret_set);
int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set);

/* ---- the system ---- */

#define _SC_PAGESIZE         1
#define _SC_NPROCESSORS_ONLN 2
#define _SC_CLK_TCK          3
long sysconf(int name);

struct rusage {
    struct timeval ru_utime, ru_stime;
    long ru_maxrss, ru_minflt, ru_majflt, ru_nvcsw, ru_nivcsw;
};
#define RUSAGE_SELF   0
#define RUSAGE_THREAD 1
int getrusage(int who, struct rusage *ret_usage);
typedef uint64_t rlim_t;
struct rlimit {
    rlim_t rlim_cur, rlim_max;
};
#define RLIMIT_NOFILE  1
#define RLIMIT_MEMLOCK 2
#define RLIMIT_AS      3
#define RLIMIT_CORE    4
#define RLIMIT_FSIZE   5
#define RLIM_INFINITY  UINT64_MAX
int getrlimit(int which, struct rlimit *ret_limit);
int setrlimit(int which, const struct rlimit *limit);

#ifndef CLOCK_MONOTONIC_COARSE
#define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

/* ---- memory ---- */

#define PROT_NONE           0
#define PROT_READ           1
#define PROT_WRITE          2
#define PROT_EXEC           4
#define MAP_SHARED          1
#define MAP_PRIVATE         2
#define MAP_FIXED           16
#define MAP_FIXED_NOREPLACE 64
#define MAP_ANONYMOUS       32
#define MAP_NORESERVE       0
#define MAP_FAILED          ((void *)-1)
/* Private memory only. */
void *mmap(void *at, size_t n, int protection, int flags, int fd, int64_t offset);
int munmap(void *base, size_t n);
int mprotect(void *base, size_t n, int protection);
int mlock(const void *base, size_t n);
int munlock(const void *base, size_t n);
struct mallinfo2 {
    size_t uordblks, hblkhd;
};
struct mallinfo2 mallinfo2(void);
void *memmem(const void *text, size_t n, const void *part, size_t part_n);

/* ---- files ---- */

#define O_CLOEXEC   O_NOINHERIT
#define O_DIRECTORY 0x01000000
#define O_NONBLOCK  0
#define O_NOCTTY    0
#define AT_FDCWD    (-100)

struct posix_stat {
    uint64_t st_dev, st_ino, st_nlink;
    unsigned st_mode;
    int64_t st_size, st_blocks;
    struct timespec st_atim, st_mtim, st_ctim;
};
int posix_stat(const char *path, struct posix_stat *ret_stat);
int posix_fstat(int fd, struct posix_stat *ret_stat);
#undef stat
#undef fstat
#undef lstat
#define stat            posix_stat
#define fstat(fd, st)   posix_fstat(fd, st)
#define lstat(path, st) posix_stat(path, st)
#ifndef S_ISLNK
#define S_ISLNK(mode) 0
#endif

int posix_open(const char *path, int flags, ...);
int64_t posix_read(int fd, void *buf, size_t n);
int64_t posix_write(int fd, const void *data, size_t n);
int64_t pread(int fd, void *buf, size_t n, int64_t offset);
int64_t pwrite(int fd, const void *data, size_t n, int64_t offset);
int posix_rename(const char *from, const char *to);
int posix_mkdir(const char *path);
int posix_unlink(const char *path);
int posix_fcntl(int fd, int command, ...);
int posix_chmod(const char *path, unsigned mode);
unsigned posix_open_handles(void);
int posix_dup2(int fd, int wanted);
#define dup2(fd, wanted)   posix_dup2(fd, wanted)
#define open(...)          posix_open(__VA_ARGS__)
#define read(fd, buf, n)   posix_read(fd, buf, n)
#define write(fd, data, n) posix_write(fd, data, n)
#define rename(from, to)   posix_rename(from, to)
#define mkdir(path, mode)  posix_mkdir(path)
#define unlink(path)       posix_unlink(path)
#define fcntl(...)         posix_fcntl(__VA_ARGS__)
#define chmod(path, mode)  posix_chmod(path, mode)
#define F_GETFD            1
#define F_SETFD            2
#define F_GETFL            3
#define F_SETFL            4
#define FD_CLOEXEC         1
int posix_ftruncate(int fd, int64_t n);
int posix_truncate(const char *path, int64_t n);
#undef ftruncate
#undef truncate
#define ftruncate(fd, n)  posix_ftruncate(fd, n)
#define truncate(path, n) posix_truncate(path, n)
int fsync(int fd);
int symlink(const char *target, const char *path);
int link(const char *from, const char *to);
int mkfifo(const char *path, unsigned mode);
int memfd_create(const char *name, unsigned flags);
#define MFD_CLOEXEC       1
#define MFD_ALLOW_SEALING 2
#define UTIME_NOW         ((1l << 30) - 1)
#define UTIME_OMIT        ((1l << 30) - 2)
int utimensat(int dir, const char *path, const struct timespec times[2], int flags);
int futimens(int fd, const struct timespec times[2]);
char *mkdtemp(char *pattern);
FILE *open_memstream(char **ret_text, size_t *ret_n);
void flockfile(FILE *file);
void funlockfile(FILE *file);

int setenv(const char *name, const char *value, int overwrite);
int unsetenv(const char *name);
int clearenv(void);

/* ---- sockets, mounts ---- */

#define AF_UNIX     1
#define SOCK_STREAM 1
struct sockaddr {
    unsigned short sa_family;
};
struct sockaddr_un {
    unsigned short sun_family;
    char sun_path[108];
};
typedef unsigned socklen_t;
int socket(int family, int type, int protocol);
int socketpair(int family, int type, int protocol, int fds[2]);
int bind(int fd, const struct sockaddr *address, socklen_t n);
#define CLONE_NEWNS   1
#define CLONE_NEWUSER 2
#define MS_REC        1
#define MS_PRIVATE    2
int unshare(int flags);
int mount(const char *source, const char *target, const char *type, unsigned long flags,
        const void *data);
int umount(const char *target);

#ifndef EUCLEAN
#define EUCLEAN 117
#endif

/* ---- events ---- */

/* Descriptors here are the events of the library (src/os/notify.h). */
struct pollfd {
    int fd;
    short events, revents;
};
typedef unsigned long nfds_t;
#define POLLIN   1
#define POLLPRI  2
#define POLLOUT  4
#define POLLHUP  16
#define POLLERR  8
#define POLLNVAL 32
int poll(struct pollfd *fds, nfds_t n, int timeout_ms);

#endif
