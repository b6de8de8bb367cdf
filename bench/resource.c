/* SPDX-License-Identifier: Apache-2.0 */
/* resource.c - what ours and the peers share in the resource cases. */
#include "resource.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ALONE_S  0.05
#define NAP_NS   50000
/* That a worker takes to go to sleep, and its CPU after it. */
#define SETTLE_S 50e-6

struct resource resource_own[BENCH_MAX_THREADS];

__attribute__((noinline)) int resource_end(void *arg, const void *unused) {
    struct resource *resource = arg;
    (void)unused;
    resource->ended++;
    return 0;
}

static double now_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void nap(void) {
    nanosleep(&(struct timespec){0, NAP_NS}, NULL);
}

/* ---- registrar ---- */

static void *registrar_main(void *arg) {
    struct resource_registrar *registrar = arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)sysconf(_SC_NPROCESSORS_ONLN) - 1, &set);
    sched_setaffinity(0, sizeof(set), &set);
    while (!__atomic_load_n(&registrar->stop, __ATOMIC_RELAXED)) {
        registrar->cycle(registrar->ctx);
        __atomic_store_n(&registrar->done, registrar->done + 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

void resource_registrar_start(struct resource_registrar *registrar) {
    if (pthread_create(&registrar->thread, NULL, registrar_main, registrar) != 0)
        abort();
    double began = now_s();
    while (now_s() - began < ALONE_S)
        nap();
    registrar->alone =
            (double)__atomic_load_n(&registrar->done, __ATOMIC_RELAXED) / (now_s() - began) / 1e3;
}

void resource_registrar_mark(struct resource_registrar *registrar) {
    registrar->done_then = __atomic_load_n(&registrar->done, __ATOMIC_RELAXED);
    registrar->marked_s = now_s();
}

void resource_registrar_fields(struct resource_registrar *registrar, FILE *out) {
    uint64_t done = __atomic_load_n(&registrar->done, __ATOMIC_RELAXED) - registrar->done_then;
    double took = now_s() - registrar->marked_s;
    __atomic_store_n(&registrar->stop, 1, __ATOMIC_RELAXED);
    pthread_join(registrar->thread, NULL);
    fprintf(out, ",\"registrations\":%llu,\"registrations_per_ms\":%.1f,\"alone_per_ms\":%.1f",
            (unsigned long long)done, (double)done / took / 1e3, registrar->alone);
}

/* ---- worker ---- */

void resource_worker_init(struct resource_worker *worker) {
    memset(worker, 0, sizeof(*worker));
    if (sem_init(&worker->held, 0, 0) || sem_init(&worker->go, 0, 0) ||
            sem_init(&worker->done, 0, 0))
        abort();
}

void resource_worker_hold(struct resource_worker *worker) {
    sem_post(&worker->held);
    sem_wait(&worker->go);
}

void resource_worker_spin(struct resource_worker *worker) {
    sem_post(&worker->held);
    while (!__atomic_load_n(&worker->flow, __ATOMIC_ACQUIRE))
        sched_yield(); /* there may be fewer CPUs than threads */
}

void resource_worker_done(struct resource_worker *worker) {
    __atomic_store_n(&worker->tid, (int)syscall(SYS_gettid), __ATOMIC_RELAXED);
    sem_post(&worker->done);
}

/* The letter that /proc shows for a thread; 0 when there is none. */
static char thread_state(int tid) {
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = '\0';
    const char *paren = strrchr(text, ')');
    return paren && paren[1] ? paren[2] : 0;
}

void resource_worker_wait_asleep(const struct resource_worker *worker) {
    int tid = __atomic_load_n(&worker->tid, __ATOMIC_RELAXED);
    do { /* spinning: the caller's caches stay as they are, and its CPU awake */
        double began = now_s();
        while (now_s() - began < SETTLE_S) {
        }
    } while (thread_state(tid) != 'S');
}
