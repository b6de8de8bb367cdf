/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - threads that want connections of one pool all the time, or all at once, and what they find.
 *
 * A contest has two parts.  In the first, which is measured, a turn is an acquire, between two looks at the clock where
 * the case times the waiting, the hold, and a release.  In the second, which is not, each thread also writes down the
 * times of its turns and asks the system whether it lost its CPU: these say who was served out of turn.
 *
 * Both begin with a queue: the first threads hold all connections until the others have asked.  For where connections
 * are held for no time, a queue comes to be by chance, when enough holders have lost their CPUs; in a strict pool it
 * then stays for good, since whoever gives back has to join it.  Without this, a run would measure when that was.
 */
#include "pool.h"

#include "pool_order.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAIR_SLEEP_NS    100000
#define SPIN_NS          1000
#define NAP_NS           200000
#define TURNS_KEPT       (1u << 18) /* of each thread */
#define SPIKE_SIZE       50u
#define SPIKE_IDLE       5u
#define SPIKE_CONNECT_NS 150000000u
#define SPIKE_USE_NS     2000000
#define SPIKE_CALM_NS    400000000 /* nothing connects for so long: no more will */
#define MEMORY_SLOTS     15000u    /* and twice, and four times as many */
#define MEMORY_FIRST     16u

/* ---- waits: a histogram of 64 steps for each power of two, 1.6 % apart at most ---- */

#define STEPS   64u
#define BUCKETS (STEPS * 40u) /* to 2^45 ns */

struct waits {
    uint64_t n;
    int64_t most;
    uint32_t bucket[BUCKETS];
};

static uint32_t bucket_of(uint64_t ns) {
    if (ns < STEPS)
        return (uint32_t)ns;
    uint32_t exponent = 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t bucket = (exponent - 5) * STEPS + (uint32_t)(ns >> (exponent - 6)) % STEPS;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The middle of a bucket. */
static double bucket_ns(uint32_t bucket) {
    if (bucket < STEPS)
        return bucket;
    uint32_t exponent = bucket / STEPS + 5;
    double step = (double)(UINT64_C(1) << (exponent - 6));
    return (STEPS + bucket % STEPS + 0.5) * step;
}

static void waits_add(struct waits *waits, int64_t ns) {
    waits->n++;
    waits->bucket[bucket_of((uint64_t)ns)]++;
    if (ns > waits->most)
        waits->most = ns;
}

static double waits_quantile(const struct waits *waits, double quantile) {
    uint64_t below = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        below += waits->bucket[i];
        if ((double)below > quantile * (double)waits->n)
            return bucket_ns(i);
    }
    return (double)waits->most;
}

/* ---- contests ---- */

struct contest_case {
    const char *name;
    unsigned size;
    uint64_t batch; /* turns between two looks at the stop flag */
    void (*hold)(void);
    bool timed;
};

struct thread {
    _Alignas(128) uint64_t begun; /* calls of contest_work() */
    struct waits waits;
    struct pool_log log;
};

static struct contest {
    const struct contest_case *of;
    const struct pool_ops *ops;
    void *pool;
    unsigned threads;
    bool quick;
    int stop;       /* atomic */
    unsigned asked; /* atomic: threads that have begun their first turn */
    pthread_barrier_t barrier;
    struct thread thread[BENCH_MAX_THREADS];
} contest;

static int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void sleep_ns(long ns) {
    nanosleep(&(struct timespec){ns / 1000000000, ns % 1000000000}, NULL);
}

static void hold_spin(void) {
    for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;) {
    }
}

static void hold_sleep(void) {
    sleep_ns(FAIR_SLEEP_NS);
}

static const struct contest_case contests[] = {
        {.name = "pool/one", .size = 1, .batch = 32},
        {.name = "pool/storm", .size = 8, .batch = 4, .timed = true},
        {.name = "pool/spin", .size = 8, .batch = 4, .hold = hold_spin, .timed = true},
        {.name = "pool/fair", .size = 8, .batch = 1, .hold = hold_sleep, .timed = true},
};

static void *contest_set_up(unsigned threads) {
    (void)threads;
    return contest.pool = contest.ops->set_up(contest.of->size, contest.of->size);
}

static void contest_enter_thread(void *state, unsigned index) {
    (void)index;
    if (contest.ops->enter_thread)
        contest.ops->enter_thread(state);
}

static void hold(void) {
    if (contest.of->hold)
        contest.of->hold();
}

static void ask(void *pool, unsigned index, struct pool_turn *turn) {
    turn->asked = now_ns();
    contest.ops->acquire(pool, index);
    turn->got = now_ns();
}

static void give_back(void *pool, unsigned index, struct pool_turn *turn) {
    turn->back = now_ns();
    contest.ops->release(pool, index);
}

/* Whether a thread is one of those that begin with a connection. */
static bool begins_with_one(unsigned index) {
    return index < contest.of->size && index < contest.threads - 1;
}

/* The turn with which a thread begins: asks, if it is one of those, before all start at once. */
static void prepare_turn(void *pool, unsigned index, struct pool_turn *turn) {
    if (begins_with_one(index))
        ask(pool, index, turn);
}

/* And the rest of it: nobody gives back until all have asked. */
static void begin_turn(void *pool, unsigned index, struct pool_turn *turn) {
    __atomic_fetch_add(&contest.asked, 1, __ATOMIC_RELAXED);
    if (begins_with_one(index)) {
        while (__atomic_load_n(&contest.asked, __ATOMIC_RELAXED) < contest.threads)
            sleep_ns(NAP_NS);
        sleep_ns(NAP_NS); /* the last one has the time to join the queue */
    } else {
        ask(pool, index, turn);
    }
    give_back(pool, index, turn);
}

static void take_turn(void *pool, unsigned index, struct pool_turn *turn) {
    ask(pool, index, turn);
    hold();
    give_back(pool, index, turn);
}

static void contest_work(void *state, unsigned index, uint64_t n) {
    struct thread *self = &contest.thread[index];
    bool timed = contest.of->timed;
    struct pool_turn turn;
    if (self->begun++ == 0) { /* the clock does not run yet */
        prepare_turn(state, index, &turn);
        return;
    }
    if (self->begun == 2)
        begin_turn(state, index, &turn);
    for (uint64_t i = 0; i < n; i++) {
        int64_t asked = timed ? now_ns() : 0;
        contest.ops->acquire(state, index);
        if (timed)
            waits_add(&self->waits, now_ns() - asked);
        hold();
        contest.ops->release(state, index);
    }
}

/* On a busy machine the time may be over before a thread has begun. */
static void contest_leave_thread(void *state, unsigned index) {
    if (contest.thread[index].begun < 2)
        contest_work(state, index, 0);
}

/* How often the calling thread lost its CPU against its will. */
static long preemptions(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

static void *watch_main(void *arg) {
    struct thread *self = arg;
    unsigned index = (unsigned)(self - contest.thread);
    struct pool_log *log = &self->log;
    if (bench_pins(contest.threads))
        bench_pin(index);
    contest_enter_thread(contest.pool, index);
    prepare_turn(contest.pool, index, log->turns);
    pthread_barrier_wait(&contest.barrier);
    for (long before = preemptions(); log->n < TURNS_KEPT;) {
        struct pool_turn *turn = &log->turns[log->n++];
        turn->unsure = true; /* its page is there before the clock is read */
        if (log->n == 1)
            begin_turn(contest.pool, index, turn);
        else
            take_turn(contest.pool, index, turn);
        long after = preemptions();
        turn->unsure = after != before;
        before = after;
        if (__atomic_load_n(&contest.stop, __ATOMIC_RELAXED))
            break;
    }
    __atomic_store_n(&contest.stop, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Starts n threads, lets them go at once, and returns when that was; they are to be joined. */
static int64_t start_at_once(pthread_t *threads, unsigned n, void *(*thread_main)(void *arg)) {
    pthread_barrier_init(&contest.barrier, NULL, n + 1);
    for (unsigned i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, thread_main, &contest.thread[i]) != 0)
            abort();
    }
    int64_t began = now_ns();
    pthread_barrier_wait(&contest.barrier);
    return began;
}

static void join_all(const pthread_t *threads, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* The second part: the same again, and every turn is written down. */
static uint64_t watch(uint64_t *ret_grants) {
    pthread_t threads[BENCH_MAX_THREADS];
    contest.asked = 0;
    __atomic_store_n(&contest.stop, 0, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < contest.threads; i++) {
        void *turns = mmap(NULL, TURNS_KEPT * sizeof(struct pool_turn), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (turns == MAP_FAILED)
            abort();
        contest.thread[i].log = (struct pool_log){.turns = turns};
    }
    start_at_once(threads, contest.threads, watch_main);
    sleep_ns(contest.quick ? 100000000 : 300000000);
    __atomic_store_n(&contest.stop, 1, __ATOMIC_RELAXED);
    join_all(threads, contest.threads);
    struct pool_log logs[BENCH_MAX_THREADS];
    *ret_grants = 0;
    for (unsigned i = 0; i < contest.threads; i++) {
        logs[i] = contest.thread[i].log;
        *ret_grants += logs[i].n;
    }
    uint64_t inversions = pool_order_inversions(logs, contest.threads, contest.of->size);
    for (unsigned i = 0; i < contest.threads; i++)
        munmap(logs[i].turns, TURNS_KEPT * sizeof(struct pool_turn));
    return inversions;
}

/* The third part, for a pool that can count them itself: another pool, which does. */
static void watch_traced(FILE *out) {
    uint64_t grants;
    if (!contest.ops->set_up_traced)
        return;
    contest.pool = contest.ops->set_up_traced(contest.of->size, contest.of->size);
    if (!contest.pool)
        return;
    (void)watch(&grants);
    fprintf(out, ",\"inversions_traced\":%llu,\"grants_traced\":%llu",
            (unsigned long long)contest.ops->traced(contest.pool), (unsigned long long)grants);
}

static void contest_fields(void *state, FILE *out) {
    static struct waits all;
    for (unsigned i = 0; i < contest.threads; i++) {
        const struct waits *waits = &contest.thread[i].waits;
        all.n += waits->n;
        all.most = waits->most > all.most ? waits->most : all.most;
        for (uint32_t j = 0; j < BUCKETS; j++)
            all.bucket[j] += waits->bucket[j];
    }
    if (all.n > 0) {
        double p50 = waits_quantile(&all, 0.5), p99 = waits_quantile(&all, 0.99);
        double p999 = waits_quantile(&all, 0.999);
        fprintf(out, ",\"wait_p50_ns\":%.0f,\"wait_p99_ns\":%.0f,\"wait_p999_ns\":%.0f", p50, p99,
                p999);
        fprintf(out, ",\"wait_max_ns\":%lld,\"wait_p99_by_p50\":%.3f,\"wait_p999_by_p50\":%.3f",
                (long long)all.most, p99 / p50, p999 / p50);
    }
    (void)state;
    uint64_t grants, inversions = watch(&grants);
    watch_traced(out);
    fprintf(out, ",\"inversions\":%llu,\"grants_watched\":%llu", (unsigned long long)inversions,
            (unsigned long long)grants);
}

static int run_contest(const struct bench_args *args, const char *version) {
    const struct bench_impl impl = {.name = args->impl,
            .version = version,
            .set_up = contest_set_up,
            .work = contest_work,
            .enter_thread = contest_enter_thread,
            .leave_thread = contest_leave_thread,
            .fields = contest_fields,
            .batch = contest.of->batch};
    return bench_cycle(args, &impl);
}

/* ---- pool/spike ---- */

static uint64_t connect_takes_ns;
static uint32_t connects; /* atomic: that have begun */

uint64_t pool_connect_ns(void) {
    __atomic_fetch_add(&connects, 1, __ATOMIC_RELAXED);
    return connect_takes_ns;
}

void pool_connect(void) {
    uint64_t ns = pool_connect_ns();
    if (ns > 0)
        sleep_ns((long)ns);
}

static void *spike_main(void *arg) {
    struct thread *self = arg;
    unsigned index = (unsigned)(self - contest.thread);
    struct pool_turn *turn = self->log.turns;
    contest_enter_thread(contest.pool, index);
    pthread_barrier_wait(&contest.barrier);
    turn->asked = now_ns();
    contest.ops->acquire(contest.pool, index);
    turn->got = now_ns();
    sleep_ns(SPIKE_USE_NS);
    turn->back = now_ns();
    contest.ops->release(contest.pool, index);
    return NULL;
}

static int run_spike(const struct bench_args *args, const char *version) {
    static struct pool_turn turns[BENCH_MAX_THREADS];
    pthread_t threads[BENCH_MAX_THREADS];
    contest_enter_thread(NULL, 0);
    contest.pool = contest.ops->set_up(SPIKE_SIZE, SPIKE_IDLE);
    if (!contest.pool)
        return 1;
    connect_takes_ns = SPIKE_CONNECT_NS;
    for (unsigned i = 0; i < args->threads; i++)
        contest.thread[i].log.turns = &turns[i];
    int64_t began = start_at_once(threads, args->threads, spike_main), ended = began;
    join_all(threads, args->threads);
    for (unsigned i = 0; i < args->threads; i++) {
        waits_add(&contest.thread[0].waits, turns[i].got - turns[i].asked);
        ended = turns[i].back > ended ? turns[i].back : ended;
    }
    uint32_t opened;
    do {
        opened = __atomic_load_n(&connects, __ATOMIC_RELAXED);
        sleep_ns(SPIKE_CALM_NS);
    } while (__atomic_load_n(&connects, __ATOMIC_RELAXED) != opened);
    const struct waits *waits = &contest.thread[0].waits;
    printf("{\"version\":\"%s\",\"ns_per_op\":%lld,\"served_ms\":%.3f,\"opened\":%u", version,
            (long long)(ended - began), (double)(ended - began) / 1e6, opened);
    printf(",\"wait_p50_ns\":%.0f,\"wait_max_ns\":%lld}\n", waits_quantile(waits, 0.5),
            (long long)waits->most);
    fflush(stdout);
    _exit(0);
}

/* ---- pool/slot-memory ---- */

/* The bytes that become resident with a pool of so many idle connections, in a process of its own. */
static double memory_of(uint32_t slots) {
    double bytes = 0;
    int fds[2], status;
    if (pipe(fds) != 0)
        return 0;
    pid_t child = fork();
    if (child == 0) {
        contest_enter_thread(NULL, 0);
        if (!contest.ops->set_up(MEMORY_FIRST, MEMORY_FIRST)) /* what is made once is there */
            _exit(1);
        bytes = bench_resident_bytes();
        if (!contest.ops->set_up(slots, slots))
            _exit(1);
        bytes = bench_resident_bytes() - bytes;
        _exit(write(fds[1], &bytes, sizeof(bytes)) != sizeof(bytes));
    }
    close(fds[1]);
    if (child < 0 || read(fds[0], &bytes, sizeof(bytes)) != sizeof(bytes))
        bytes = 0;
    close(fds[0]);
    waitpid(child, &status, 0);
    return bytes;
}

static int run_memory(const char *version) {
    double bytes[3];
    for (unsigned i = 0; i < 3; i++) {
        bytes[i] = memory_of(MEMORY_SLOTS << i);
        if (bytes[i] <= 0)
            return 1;
    }
    /* What each of the last half takes, so that what a pool takes whatever its size is left out; a page more or less of
     * them all is a seventh of a byte. */
    printf("{\"version\":\"%s\",\"bytes_per_entry\":%.0f,\"bytes_per_entry_of_all\":%.2f", version,
            (bytes[2] - bytes[1]) / (2 * MEMORY_SLOTS), bytes[2] / (4 * MEMORY_SLOTS));
    printf(",\"growth\":%.3f}\n", (bytes[2] - bytes[1]) / (2 * (bytes[1] - bytes[0])));
    fflush(stdout);
    return 0;
}

int pool_run(const struct bench_args *args, const char *version, const struct pool_ops *ops) {
    contest.ops = ops;
    contest.threads = args->threads;
    contest.quick = args->quick;
    if (strcmp(args->case_name, "pool/spike") == 0)
        return run_spike(args, version);
    if (strcmp(args->case_name, "pool/slot-memory") == 0)
        return run_memory(version);
    for (size_t i = 0; i < sizeof(contests) / sizeof(contests[0]); i++) {
        if (strcmp(contests[i].name, args->case_name) != 0)
            continue;
        contest.of = &contests[i];
        return run_contest(args, version);
    }
    return 2;
}
