/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: domains, threads, processes and memory that come and go; a kernel that takes membarrier away. */
#include "harness/harness.h"
#include "os/thread.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#endif

struct thing {
    struct pnx_reclaim_node node;
};

static unsigned n_run;
static struct test_env te;

static void note(struct pnx_reclaim_node *node) {
    (void)node;
    __atomic_fetch_add(&n_run, 1, __ATOMIC_SEQ_CST);
}

static void free_thing(struct pnx_reclaim_node *node) {
    free(node); /* the first member */
    note(NULL);
}

static struct pnx_reclaim *make(uint32_t mode) {
    struct pnx_reclaim *domain = NULL;
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = mode), NULL, &domain), 0);
    return domain;
}

static struct pnx_reclaim_stats stats(struct pnx_reclaim *domain) {
    struct pnx_reclaim_stats values = {.size = sizeof(values)};
    CHECK_EQ(pnx_reclaim_read_stats(domain, &values), 0);
    return values;
}

/* ---- events ---- */

static struct pnx_event last_event;
static char last_cause[64];
static int n_events;

static void hear(void *ctx, const struct pnx_event *event) {
    if (event->type != *(const enum pnx_event_type *)ctx)
        return;
    last_event = *event;
    (void)snprintf(last_cause, sizeof(last_cause), "%s", event->cause ? event->cause : "");
    n_events++;
}

static void listen_for(enum pnx_event_type type) {
    static enum pnx_event_type wanted;
    static struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear, .ctx = &wanted};
    uint32_t id;
    wanted = type;
    CHECK_EQ(pnx_monitor_add(NULL, &monitor, &id), 0);
}

/* ---- domains ---- */

TEST(options_are_checked_one_by_one) {
    struct pnx_reclaim *domain = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = 3), &err, &domain), -EINVAL);
    CHECK_STR(err.field, "mode");
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.flags = 2), &err, &domain), -EINVAL);
    CHECK_STR(err.field, "flags");
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.assist_ns = -1), &err, &domain), -EINVAL);
    CHECK_STR(err.field, "assist_ns");
    CHECK_EQ(pnx_reclaim_create(NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_domain");
    struct pnx_reclaim_opts opts = {0};
    CHECK_EQ(pnx_reclaim_create(&opts, &err, &domain), -EINVAL); /* no size */
    CHECK(domain == NULL);
    pnx_reclaim_release(NULL);
    pnx_reclaim_release(&domain);
    struct pnx_reclaim_stats values = {0};
    CHECK_EQ(pnx_reclaim_read_stats(NULL, &values), -EINVAL);
    CHECK_EQ(pnx_reclaim_read_stats(NULL, NULL), -EINVAL);
    domain = pnx_reclaim_ref(NULL);
    CHECK(domain == pnx_reclaim_default());
    pnx_reclaim_release(&domain);
    domain = pnx_reclaim_default();
    pnx_reclaim_release(&domain); /* one too many: it is the process's */
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

static int make_and_use(struct test_env *env, void *ctx) {
    (void)ctx;
    struct pnx_reclaim *domain = NULL;
    int rc = pnx_reclaim_create(
            PNX_RECLAIM_OPTS(.env = &env->env, .registry = pnx_registry_off()), NULL, &domain);
    if (rc)
        return rc;
    struct thing thing;
    unsigned before = n_run;
    pnx_reclaim_enter(domain); /* without memory for a section: as a guest */
    pnx_reclaim_enter(domain);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    (void)pnx_reclaim_tick(domain, 0);
    pnx_reclaim_exit(domain);
    CHECK_EQ(n_run, before);
    CHECK(pnx_reclaim_in_section(domain));
    CHECK(!pnx_reclaim_in_section(NULL));
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_SEC), -EDEADLK); /* it would wait for itself */
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_SEC), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_SEC), -EDEADLK);
    pnx_reclaim_exit(domain);
    CHECK(!pnx_reclaim_in_section(domain));
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, before + 1);
    pnx_reclaim_release(&domain);
    return 0;
}

TEST(p3_each_allocation_may_fail) {
    test_env_init(&te);
    test_fail_each_allocation(&te, make_and_use, NULL);
}

/* There is no memory for the section of this thread, which makes mistakes. */
static void *guest(void *arg) {
    struct pnx_reclaim *domain = arg;
    static struct thing thing;
    unsigned before = n_run;
    te.fail_at = te.allocations + 1;
    te.fail_forever = true;
    pnx_reclaim_exit(domain); /* without an enter */
    CHECK_EQ(stats(domain).misuses, 1);
    pnx_reclaim_enter(domain);
    CHECK(te.failed > 0);
    CHECK_EQ(stats(domain).guests, 1);
    pnx_reclaim_retire(NULL, &thing.node, note, 1);
    (void)pnx_reclaim_tick(NULL, 0);
    CHECK_EQ(
            n_run, before); /* nothing runs inside a section, not even another domain's functions */
    for (int i = 0; i < 300; i++)
        pnx_reclaim_enter(domain);
    CHECK_EQ(stats(domain).misuses, 2);
    for (int i = 0; i < 301; i++)
        pnx_reclaim_exit(domain);
    CHECK(pnx_reclaim_in_section(domain)); /* too deep for a guest: until the thread ends */
    CHECK_EQ(stats(domain).misuses, 2);
    te.fail_at = 0;
    return NULL; /* inside */
}

TEST(p3_a_thread_without_memory_for_a_section_is_told_of_its_mistakes_and_holds_nothing_up) {
    struct pnx_reclaim *domain = NULL;
    struct thing thing;
    pthread_t thread;
    test_env_init(&te);
    listen_for(PNX_EVENT_RECLAIM_DIED);
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.env = &te.env), NULL, &domain), 0);
    CHECK_EQ(pthread_create(&thread, NULL, guest, domain), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(stats(domain).deaths, 1);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(n_run, 2);
    pnx_reclaim_release(&domain);
    test_env_check_empty(&te);
}

TEST(there_are_so_many_domains_and_their_places_are_used_again) {
    struct pnx_reclaim *domain[PNX_RECLAIM_DOMAINS_MAX] = {0};
    struct pnx_error err;
    int n = 0, rc = 0;
    while ((rc = pnx_reclaim_create(NULL, &err, &domain[n])) == 0) {
        pnx_reclaim_enter(domain[n]);
        pnx_reclaim_exit(domain[n]);
        n++;
    }
    CHECK_EQ(rc, -EBUSY);
    CHECK_EQ(n, PNX_RECLAIM_DOMAINS_MAX - 1);
    CHECK_CONTAINS(err.message, "64");
    CHECK_EQ(pnx_reclaim_unload(0), -EBUSY);
    for (int round = 0; round < 3; round++) {
        pnx_reclaim_release(&domain[7]);
        domain[7] = make(PNX_RECLAIM_AUTO);
        CHECK(!pnx_reclaim_in_section(domain[7])); /* the thread's place in the old one is gone */
        pnx_reclaim_enter(domain[7]);
        pnx_reclaim_exit(domain[7]);
        CHECK_EQ(stats(domain[7]).threads, 1);
    }
    for (int i = 0; i < n; i++)
        pnx_reclaim_release(&domain[i]);
}

static struct pnx_reclaim *retires_into;

static void retire_more(struct pnx_reclaim_node *node) {
    static int left = 3;
    note(NULL);
    if (left-- > 0)
        pnx_reclaim_retire(retires_into, node, retire_more, 1);
    else
        free(node);
}

static int find_text(void *ctx, const char *text, size_t n) {
    strncat(ctx, text, n);
    return 0;
}

/* Nobody ticks, and nobody has asked for the numbers before. */
TEST(what_waits_shows_in_the_statistics) {
    static char text[1 << 18];
    struct pnx_stats *set = NULL;
    struct pnx_reclaim *domain = NULL;
    struct thing *thing = calloc(1, sizeof(*thing));
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "d", .stats = set), NULL, &domain), 0);
    pnx_reclaim_retire(domain, &thing->node, free_thing, 77);
    CHECK_EQ(pnx_stats_openmetrics(set, find_text, text), 0);
    CHECK_CONTAINS(text, "patinox_reclaim_retired_total{reclaim=\"d\",number=\"0\"} 1\n");
    CHECK_CONTAINS(text, "patinox_reclaim_pending{reclaim=\"d\",number=\"0\"} 1\n");
    CHECK_CONTAINS(text, "patinox_reclaim_pending_memory_bytes{reclaim=\"d\",number=\"0\"} 77\n");
    pnx_reclaim_release(&domain);
    CHECK_EQ(n_run, 1);
    pnx_stats_release(&set);
}

TEST(close_and_release_run_what_callbacks_retire) {
    struct pnx_reclaim *domain = retires_into = make(PNX_RECLAIM_AUTO);
    struct thing *thing = malloc(sizeof(*thing));
    pnx_reclaim_retire(domain, &thing->node, retire_more, 1);
    CHECK_EQ(pnx_reclaim_close(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 4);
    thing = malloc(sizeof(*thing));
    pnx_reclaim_retire(domain, &thing->node, retire_more, 1);
    pnx_reclaim_release(&domain);
    CHECK_EQ(n_run, 5);
}

static void retire_again(struct pnx_reclaim_node *node) {
    note(NULL);
    pnx_reclaim_retire(retires_into, node, retire_again, 1);
}

TEST(callbacks_that_retire_without_end_hold_up_no_close_and_no_release) {
    static struct thing thing;
    struct pnx_reclaim *domain = retires_into = make(PNX_RECLAIM_AUTO);
    listen_for(PNX_EVENT_RECLAIM_ABANDONED);
    pnx_reclaim_retire(domain, &thing.node, retire_again, 1);
    CHECK_EQ(pnx_reclaim_close(domain, 0), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_close(domain, 10 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0); /* what was retired before its call */
    pnx_reclaim_release(&domain);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.code, -EBUSY);
    CHECK_STR(last_cause, "its callbacks retire without end");
}

TEST(a_shutdown_of_the_registry_runs_what_is_pending) {
    struct pnx_registry *registry = NULL;
    struct pnx_reclaim *domain = NULL;
    struct thing thing;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_reclaim_create(
                     PNX_RECLAIM_OPTS(.name = "mine", .registry = registry), NULL, &domain),
            0);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK_EQ(pnx_registry_shutdown(registry, 20 * PNX_SEC, NULL), 0);
    CHECK_EQ(n_run, 1);
    pnx_reclaim_release(&domain);
    pnx_registry_release(&registry);
}

static void *hold(void *arg) {
    pthread_barrier_t *meet = ((void **)arg)[1];
    pnx_reclaim_enter(((void **)arg)[0]);
    pthread_barrier_wait(meet);
    pthread_barrier_wait(meet);
    return NULL;
}

TEST(a_release_while_a_section_is_open_frees_nothing_and_says_so) {
    struct pnx_reclaim *domain = make(PNX_RECLAIM_AUTO);
    struct thing thing;
    pthread_barrier_t meet;
    pthread_t thread;
    void *args[] = {domain, &meet};
    listen_for(PNX_EVENT_RECLAIM_ABANDONED);
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, hold, args), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    pnx_reclaim_release(&domain);
    CHECK_EQ(n_run, 0);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.code, -EBUSY);
    CHECK_EQ(last_event.value, 1);
    CHECK_STR(last_cause, "a section is open");
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* ---- threads ---- */

TEST(a_thread_that_ends_inside_a_section_is_reported_and_holds_nothing_up) {
    struct pnx_reclaim *domain = make(PNX_RECLAIM_AUTO);
    struct thing thing;
    pthread_barrier_t meet;
    pthread_t thread;
    void *args[] = {domain, &meet};
    listen_for(PNX_EVENT_RECLAIM_DIED);
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, hold, args), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), -ETIMEDOUT);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0); /* its end wakes us, if we sleep already */
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(n_events, 1);
    CHECK(last_event.value > 0);
    CHECK_EQ(stats(domain).deaths, 1);
    pnx_reclaim_release(&domain);
}

static void *come_and_go(void *arg) {
    struct thing *thing = malloc(sizeof(*thing));
    pnx_reclaim_enter(arg);
    pnx_reclaim_enter(NULL);
    pnx_reclaim_exit(NULL);
    pnx_reclaim_retire(arg, &thing->node, free_thing, sizeof(*thing));
    pnx_reclaim_exit(arg);
    pnx__reclaim_assist(arg);
    return NULL;
}

TEST_LIMIT(p1_a_hundred_thousand_short_threads_use_the_same_few_records, 300) {
    struct pnx_reclaim *domain = make(PNX_RECLAIM_AUTO);
    unsigned n = test_slow() ? 4000 : 100000;
    for (unsigned i = 0; i < n; i += 4) {
        pthread_t thread[4];
        for (int k = 0; k < 4; k++)
            CHECK_EQ(pthread_create(&thread[k], NULL, come_and_go, domain), 0);
        for (int k = 0; k < 4; k++)
            CHECK_EQ(pthread_join(thread[k], NULL), 0);
    }
    struct pnx_reclaim_stats values = stats(domain);
    CHECK_EQ(values.retired, n);
    CHECK(values.threads <= 8);
    /* One grace period may be in flight, and each section may have all but enough for the next. */
    CHECK_MSG(values.pending <= 3 * 8 * PNX_RECLAIM_DUE_OBJECTS,
            "%llu pending: none of the short threads freed", (unsigned long long)values.pending);
    CHECK(stats(NULL).threads <= 8);
    pnx_reclaim_release(&domain);
    CHECK_EQ(n_run, n);
}

static pthread_barrier_t many;

static void *be_there(void *arg) {
    pnx_reclaim_enter(arg);
    pnx_reclaim_exit(arg);
    pthread_barrier_wait(&many);
    pthread_barrier_wait(&many);
    return NULL;
}

TEST(with_many_threads_a_look_at_all_of_them_is_for_more_objects) {
    enum { N = 400 };
    static struct thing things[N];
    struct pnx_reclaim *domain = make(PNX_RECLAIM_AUTO);
    pthread_t thread[N];
    pthread_barrier_init(&many, NULL, N + 1);
    for (int i = 0; i < N; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, be_there, domain), 0);
    pthread_barrier_wait(&many);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), 0);
    for (unsigned i = 0; i < N / PNX_RECLAIM_DUE_SHARE; i++) {
        pnx__reclaim_assist(domain);
        CHECK_EQ(n_run, 0);
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
    }
    pnx__reclaim_assist(domain);
    CHECK_EQ(n_run, N / PNX_RECLAIM_DUE_SHARE);
    pthread_barrier_wait(&many);
    for (int i = 0; i < N; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    for (unsigned i = 0; i < N; i++)
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), 0); /* at once, since nobody is in its way */
    CHECK_EQ(n_run, N / PNX_RECLAIM_DUE_SHARE + N);
    pnx_reclaim_release(&domain);
}

static pthread_key_t late_key;
static struct pnx_reclaim *late_domain;
static int late_calls;

/* Sanitizers end their own part of a thread in one of the last rounds. */
static int late_rounds(void) {
    return test_slow() ? 1 : 3;
}

static void use_late(void *value) {
    pnx_reclaim_enter(late_domain);
    pnx_reclaim_enter(NULL);
    pnx_reclaim_exit(NULL);
    pnx_reclaim_exit(late_domain);
    struct thing *thing = malloc(sizeof(*thing));
    pnx_reclaim_retire(late_domain, &thing->node, free_thing, 1);
    if (++late_calls < late_rounds())
        CHECK_EQ(pthread_setspecific(late_key, value), 0);
}

static void *set_late(void *arg) {
    CHECK_EQ(pthread_setspecific(late_key, arg), 0);
    pnx_reclaim_enter(late_domain);
    pnx_reclaim_exit(late_domain);
    return NULL;
}

TEST(destructors_of_threads_that_run_later_may_come_back) {
    late_domain = make(PNX_RECLAIM_AUTO);
    CHECK(pnx__thread()); /* our key first */
    CHECK_EQ(pthread_key_create(&late_key, use_late), 0);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        late_calls = 0;
        CHECK_EQ(pthread_create(&thread, NULL, set_late, &late_key), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(late_calls, late_rounds());
    }
    CHECK(stats(late_domain).threads <= 4);
    pnx_reclaim_release(&late_domain);
    CHECK_EQ(n_run, 3 * late_rounds());
}

/* ---- no memory for a thread's record ---- */

static void *without_a_record(void *arg) {
    struct pnx_reclaim *domain = arg;
    static struct thing thing;
    CHECK(pnx__thread() == NULL);
    CHECK(!pnx_reclaim_in_section(domain));
    pnx_reclaim_enter(domain);
    pnx_reclaim_enter(domain);
    CHECK_EQ(stats(domain).guests, 2);
    pnx_reclaim_exit(domain);
    CHECK(pnx_reclaim_in_section(domain));
    pnx_reclaim_retire(domain, &thing.node, note, 5);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), -ENOMEM); /* it could wait for itself */
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), -ENOMEM);
    (void)pnx_reclaim_tick(domain, 0);
    (void)pnx_reclaim_tick(NULL, 0);
    CHECK_EQ(n_run, 0); /* nor another domain's functions inside the section */
    CHECK_EQ(stats(domain).pending, 1);
    pnx_reclaim_exit(domain);
    CHECK(!pnx_reclaim_in_section(domain));
    CHECK(pnx_reclaim_tick(domain, 0) == PNX_NEVER);
    CHECK_EQ(n_run, 1);
    pnx_reclaim_exit(domain); /* one too many */
    CHECK_EQ(stats(domain).misuses, 1);
    return NULL;
}

TEST(p3_a_thread_without_memory_for_a_record_reads_and_retires_too) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    struct pnx_reclaim *domain = make(PNX_RECLAIM_AUTO);
    struct thing other;
    pthread_t thread;
    pnx_reclaim_enter(domain);
    pnx_reclaim_exit(domain);
    pnx_reclaim_retire(NULL, &other.node, note, 1);
    test_os_fault("thread_record", 1, true, ENOMEM);
    CHECK_EQ(pthread_create(&thread, NULL, without_a_record, domain), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(test_os_fault_clear() > 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(n_run, 2);
    pnx_reclaim_release(&domain);
}

/* ---- membarrier ---- */

static void deny_membarrier(void) {
#ifdef __linux__
    struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        test_skip("the kernel has no seccomp filters");
#else
    test_skip("there are no seccomp filters");
#endif
}

TEST(without_membarrier_from_the_start_readers_use_fences) {
    deny_membarrier();
    struct pnx_reclaim *domain = NULL;
    struct pnx_error err;
    struct thing thing;
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = PNX_RECLAIM_MEMBARRIER), &err, &domain),
            -ENOTSUP);
    CHECK_STR(err.field, "mode");
    domain = make(PNX_RECLAIM_AUTO);
    CHECK_EQ(stats(domain).fences, 1);
    CHECK_EQ(stats(NULL).fences, 1);
    pnx_reclaim_enter(NULL);
    pnx_reclaim_retire(NULL, &thing.node, note, 1);
    (void)pnx_reclaim_tick(NULL, 0);
    CHECK_EQ(n_run, 0);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    pnx_reclaim_release(&domain);
}

TEST(p6_membarrier_taken_away_later_stops_freeing_for_good) {
    if (!pnx__barrier_is_asymmetric())
        test_skip("the system has no heavy barrier");
    struct pnx_reclaim *domain = make(PNX_RECLAIM_MEMBARRIER);
    struct pnx_reclaim *fenced = make(PNX_RECLAIM_FENCES);
    struct thing thing, other;
    listen_for(PNX_EVENT_RECLAIM_BROKEN);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    deny_membarrier();
    pnx_reclaim_retire(domain, &thing.node, note, 9);
    pnx_reclaim_retire(fenced, &other.node, note, 9);
    CHECK(pnx_reclaim_tick(domain, 0) != PNX_NEVER);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.code, -EPERM);
    CHECK_EQ(last_event.value, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), PNX_E_BROKEN);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), PNX_E_BROKEN);
    CHECK_EQ(pnx_reclaim_close(domain, PNX_NEVER), PNX_E_BROKEN);
    CHECK_EQ(n_run, 0);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(stats(domain).broken, 1);
    CHECK_EQ(stats(domain).pending, 1);
    CHECK_EQ(pnx_reclaim_barrier(fenced, PNX_NEVER), 0); /* which needs no membarrier */
    CHECK_EQ(n_run, 1);
    pnx_reclaim_release(&fenced);
    pnx_reclaim_release(&domain); /* stays, with what it holds */
    CHECK_EQ(n_run, 1);
}
