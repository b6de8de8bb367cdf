/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/base.h - what every other header stands on: attributes, time, sites, the environment.
 *
 * Conventions of the whole library:
 *   - Functions return 0 or a negative error (patinox/error.h); outputs are named ret_*, come last and
 *     are untouched on failure.
 *   - Time is monotonic nanoseconds.  A timeout is relative; it becomes one absolute deadline at entry
 *     and is never re-armed.  0 tries once, PNX_TIMEOUT_DEFAULT asks for the object's own option,
 *     PNX_NEVER waits without limit, any other negative value is -EINVAL.
 *   - Release functions take a pointer to the handle, accept NULL, clear it, and cannot fail, so that
 *     each is also the handler of PNX_CLEANUP.
 *   - Option structs start with their size; zero selects a field's default; fields are only ever added.
 *     A field that this library does not know and that is not zero is -E2BIG.
 */
#ifndef PNX_BASE_H
#define PNX_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PNX_VERSION_MAJOR 0
#define PNX_VERSION_MINOR 1
#define PNX_VERSION_PATCH 0

#ifdef __cplusplus
#define PNX_BEGIN_DECLS extern "C" {
#define PNX_END_DECLS   }
#else
#define PNX_BEGIN_DECLS
#define PNX_END_DECLS
#endif

#if defined(__GNUC__) || defined(__clang__)
#ifdef _WIN32 /* a list says what the library exports; mingw-w64 brings a printf() of C99 */
#define PNX_API
#define PNX_PRINTF(index, first) __attribute__((format(gnu_printf, index, first)))
#else
#define PNX_API                  __attribute__((visibility("default")))
#define PNX_PRINTF(index, first) __attribute__((format(printf, index, first)))
#endif
#define PNX_NODISCARD        __attribute__((warn_unused_result))
/* Runs handler(&variable) when the variable's scope is left; see patinox/guard.h for which exits count. */
#define PNX_CLEANUP(handler) __attribute__((cleanup(handler), unused))
#else
#define PNX_API
#define PNX_NODISCARD
#define PNX_PRINTF(index, first)
#endif

#define PNX_STRINGIFY_(x) #x
#define PNX_STRINGIFY(x)  PNX_STRINGIFY_(x)

/* The place in the source where it stands, "file.c:123": the birthplace that reports show. */
#define PNX_SITE __FILE__ ":" PNX_STRINGIFY(__LINE__)

PNX_BEGIN_DECLS

/* Nanoseconds: a point on the monotonic clock, or a duration. */
typedef int64_t pnx_ns;

#define PNX_US              ((pnx_ns)1000)
#define PNX_MS              ((pnx_ns)1000000)
#define PNX_SEC             ((pnx_ns)1000000000)
#define PNX_NEVER           INT64_MAX /* as a timeout: no limit; as an option: switched off */
#define PNX_TIMEOUT_DEFAULT INT64_MIN /* as a timeout: the one in the object's options */

enum pnx_log_level {
    PNX_LOG_ERROR = 1,
    PNX_LOG_WARNING = 2,
    PNX_LOG_INFO = 3,
    PNX_LOG_DEBUG = 4,
};

/*
 * The world as the library sees it: memory, clocks, randomness, a log.  Given at construction; copied,
 * so the struct itself need not live on, but ctx must outlive every object made with it.  A NULL member
 * is the system's.  Every function may be called from any thread, never under a lock of the library,
 * the clocks excepted, which must not call back.
 */
struct pnx_env {
    size_t size; /* sizeof(struct pnx_env); 0 is an error */
    void *ctx;   /* first argument of every function */
    /* Returns memory of at least size > 0 bytes at the alignment (a power of two), or NULL. */
    void *(*alloc)(void *ctx, size_t size, size_t align);
    /* Frees what alloc returned; size is the one that was asked for.  p is never NULL. */
    void (*free)(void *ctx, void *p, size_t size);
    pnx_ns (*now)(void *ctx);        /* monotonic, exact (some 30-50 ns a call) */
    pnx_ns (*now_coarse)(void *ctx); /* the same clock, up to 10 ms behind (some 8 ns a call) */
    int64_t (*real_ns)(void *ctx);   /* nanoseconds since 1970-01-01 UTC, for people */
    uint64_t (*random)(void *ctx);   /* 64 unpredictable bits: hash seeds, jitter */
    /* Receives one line without a newline.  The system's env logs nothing. */
    void (*log)(void *ctx, enum pnx_log_level level, const char *message);
};

/* Returns "0.1.0"; a static string.  Any thread. */
PNX_API const char *pnx_version(void);

/* Returns the exact monotonic time of the system's environment.  Any thread; does not block. */
PNX_API pnx_ns pnx_now(void);

PNX_END_DECLS
#endif /* PNX_BASE_H */
