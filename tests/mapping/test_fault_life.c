/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes of many threads, and what mappings do under them: end, move, fork; many of them; no areas left. */
#include "fault_case.h"
#include "harness/forks.h"

#include <sys/wait.h>

/* ---- p2: all threads ---- */

struct crowd {
    struct pnx_mapping *lost, *fine;
    pthread_barrier_t open, faulted;
    int ended[8];
};

static void crowd_member(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    struct pnx_fault_scope scope, other;
    CHECK_EQ(pnx_fault_begin(crowd->fine, &other), 0);
    if (index % 2)
        CHECK_EQ(pnx_fault_begin(crowd->lost, &scope), 0);
    (void)peek(crowd->fine, 0);
    pthread_barrier_wait(&crowd->open);
    if (index == 1) {
        cut("lost", 0);
        (void)peek(crowd->lost, PAGE); /* only this one faults */
    }
    pthread_barrier_wait(&crowd->faulted);
    if (index % 2)
        crowd->ended[index] = pnx_fault_end(&scope);
    else
        crowd->ended[index] = pnx_fault_begin(crowd->lost, &scope);
    CHECK_EQ(pnx_fault_end_checked(&other), 0);
}

TEST(p2_every_scope_open_on_the_mapping_fails_on_whatever_thread_and_p3_no_other) {
    struct crowd crowd = {.lost = map_pages("lost", 3), .fine = map_pages("fine", 3)};
    pthread_barrier_init(&crowd.open, NULL, 8);
    pthread_barrier_init(&crowd.faulted, NULL, 8);
    test_threads(8, crowd_member, &crowd);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(crowd.ended[i], -ESTALE);
    pthread_barrier_destroy(&crowd.open);
    pthread_barrier_destroy(&crowd.faulted);
    pnx_mapping_release(&crowd.lost);
    pnx_mapping_release(&crowd.fine);
}

/* ---- p4: the last reference goes ---- */

TEST(p4_bytes_stay_while_a_scope_is_open_though_nobody_holds_the_mapping) {
    struct pnx_mapping *mapping = map_pages("a", 3);
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_fault_scope scope;
    char path[512];
    snprintf(path, sizeof(path), "%s", test_path("a"));
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(times_mapped(path), 1);
    for (size_t i = 0; i < view.n; i++)
        CHECK_EQ(view.p[i], byte_at(i));
    CHECK(pnx_fault_tick(0) != PNX_NEVER);
    CHECK_EQ(times_mapped(path), 1);
    cut("a", PAGE);
    CHECK_EQ(*(const volatile unsigned char *)(view.p + 2 * PAGE), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(pnx_fault_tick(0), PNX_NEVER);
    CHECK_EQ(times_mapped(path), 0);
    CHECK_EQ(fault_stats().mappings, 0);
}

TEST(a_mapping_that_waits_for_a_scope_ends_when_the_next_is_opened_or_released) {
    struct pnx_mapping *mapping = map_pages("b", 2), *other = map_pages("c", 2);
    struct pnx_fault_scope scope;
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(pnx_fault_begin(other, &scope), 0);
        pnx_mapping_release(&mapping);
        CHECK_EQ(times_mapped(test_path("b")), 1);
        CHECK_EQ(pnx_fault_end(&scope), 0);
        CHECK_EQ(times_mapped(test_path("b")), 1);
        if (round == 0)
            mapping = map_path(test_path("b"));
        else
            pnx_mapping_release(&other);
        CHECK_EQ(times_mapped(test_path("b")), round == 0);
    }
}

/* A mapping that is dropped by one thread while others may be in it, faulting. */
struct handed {
    pthread_mutex_t lock;
    struct pnx_mapping *mapping;
    uint32_t stop;
    uint64_t looks, losses;
};

static void looks_at_it(struct handed *handed, uint64_t *random) {
    struct pnx_fault_scope scope;
    /* The lock keeps the mapping until the scope does. */
    pthread_mutex_lock(&handed->lock);
    struct pnx_view view = pnx_view_all(handed->mapping);
    int rc = pnx_fault_begin(handed->mapping, &scope);
    pthread_mutex_unlock(&handed->lock);
    if (rc) {
        CHECK_EQ(rc, -ESTALE);
        return;
    }
    unsigned wrong = 0;
    for (int i = 0; i < 16; i++) {
        size_t at = test_random(random) % view.n;
        wrong += *(const volatile unsigned char *)(view.p + at) != byte_at(at);
        if (i == 8)
            sched_yield();
    }
    rc = pnx_fault_end(&scope);
    CHECK(rc == 0 || rc == -ESTALE);
    CHECK(rc || !wrong);
    __atomic_fetch_add(&handed->looks, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&handed->losses, rc != 0, __ATOMIC_RELAXED);
}

static void hands_over(unsigned index, void *ctx) {
    struct handed *handed = ctx;
    uint64_t random = test_seed() + index;
    if (index) {
        while (!__atomic_load_n(&handed->stop, __ATOMIC_RELAXED))
            looks_at_it(handed, &random);
        return;
    }
    for (int i = 0; i < (test_slow() ? 150 : 600); i++) {
        struct pnx_mapping *fresh = map_pages("handed", 6), *old;
        pthread_mutex_lock(&handed->lock);
        old = handed->mapping;
        handed->mapping = fresh;
        pthread_mutex_unlock(&handed->lock);
        pnx_mapping_release(&old);
        uint64_t seen = __atomic_load_n(&handed->looks, __ATOMIC_RELAXED);
        while (__atomic_load_n(&handed->looks, __ATOMIC_RELAXED) < seen + 3)
            sched_yield();
        cut("handed", test_random(&random) % 6 * PAGE);
        /* Unlinked, so that the next one's pages are its own. */
        CHECK_EQ(unlink(test_path("handed")), 0);
    }
    __atomic_store_n(&handed->stop, 1, __ATOMIC_RELAXED);
}

TEST_LIMIT(p4_unmapping_races_with_readers_that_fault_and_hurts_nobody, 120) {
    struct handed handed = {.lock = PTHREAD_MUTEX_INITIALIZER};
    handed.mapping = map_pages("first", 6);
    test_threads(4, hands_over, &handed);
    CHECK(handed.losses > 0);
    pnx_mapping_release(&handed.mapping);
    (void)pnx_fault_tick(0);
    CHECK_EQ(fault_stats().mappings, 0);
}

/* ---- suspending: for who moves pages ---- */

TEST(a_suspended_mapping_has_no_scopes_and_comes_back_with_other_pages) {
    struct hand hand;
    struct pnx_fault_scope scope;
    make_file("s", 2 * PAGE);
    int fd = open_rw("s");
    hand_map(&hand, fd, 2 * PAGE, 0);
    struct pnx_fault_record *record = &hand.mapping.fault;
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), 0);
    CHECK_EQ(pnx__fault_suspend(record, PNX_NEVER), -EDEADLK);
    cut("s", 0);
    (void)*hand_at(&hand, 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(pnx__fault_suspend(record, PNX_NEVER), 0);
    CHECK_EQ(pnx__fault_resume(record, NULL), 0); /* as it was: poisoned */
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), -ESTALE);
    CHECK_EQ(pnx__fault_suspend(record, PNX_NEVER), 0);
    munmap(record->pages.base, record->pages.base_size);
    make_file("s", 5 * PAGE);
    void *base = mmap(NULL, 5 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(base != MAP_FAILED);
    struct pnx_fault_pages pages = hand_pages(fd, 0, base, 5 * PAGE, 0);
    CHECK_EQ(pnx__fault_resume(record, &pages), 0);
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), 0);
    CHECK_EQ(*hand_at(&hand, 4 * PAGE), byte_at(4 * PAGE));
    CHECK_EQ(pnx_fault_end_checked(&scope), 0);
    CHECK_EQ(pnx__fault_suspend(record, PNX_NEVER), 0);
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), -EBUSY);
    unsigned char byte;
    CHECK_EQ(pnx_fault_copy_out(&hand.mapping, 0, &byte, 1), -EBUSY);
    CHECK_EQ(pnx_fault_probe(&hand.mapping, 0, 1), -EBUSY);
    CHECK_EQ(fault_stats().mappings, 1);
    pages = hand_pages(fd, 0, base, 5 * PAGE, PNX_FAULT_NEVER);
    CHECK_EQ(pnx__fault_resume(record, &pages), 0); /* from what can fault to what cannot */
    CHECK_EQ(fault_stats().mappings, 0);
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end_checked(&scope), 0);
    hand_end(&hand);
    close(fd);
}

struct held {
    struct hand hand;
    pthread_barrier_t open, let_go;
};

static void *holds_scope(void *ctx) {
    struct held *held = ctx;
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(&held->hand.mapping, &scope), 0);
    pthread_barrier_wait(&held->open);
    pthread_barrier_wait(&held->let_go);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    return NULL;
}

TEST(suspending_waits_for_open_scopes_and_undoes_itself_when_it_has_waited_in_vain) {
    struct held held;
    struct pnx_fault_scope scope;
    pthread_t thread;
    make_file("t", PAGE);
    int fd = open_rw("t");
    hand_map(&held.hand, fd, PAGE, 0);
    pthread_barrier_init(&held.open, NULL, 2);
    pthread_barrier_init(&held.let_go, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, holds_scope, &held), 0);
    pthread_barrier_wait(&held.open);
    CHECK_EQ(pnx__fault_suspend(&held.hand.mapping.fault, 10 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(pnx_fault_begin(&held.hand.mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pthread_barrier_wait(&held.let_go);
    CHECK_EQ(pnx__fault_suspend(&held.hand.mapping.fault, PNX_NEVER), 0);
    CHECK_EQ(pnx__fault_resume(&held.hand.mapping.fault, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&held.open);
    pthread_barrier_destroy(&held.let_go);
    hand_end(&held.hand);
    close(fd);
}

/* ---- fork ---- */

static int child_status(pid_t pid) {
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(a_child_that_was_forked_inside_a_scope_is_guarded_by_it_and_poisons_only_its_own_copy) {
    struct pnx_mapping *mapping = map_pages("f", 4);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 0), byte_at(0));
    char path[512];
    snprintf(path, sizeof(path), "%s", test_path("f"));
    pid_t pid = fork();
    if (pid == 0) {
        if (truncate(path, (off_t)PAGE))
            _exit(1);
        if (peek(mapping, 2 * PAGE) != 0)
            _exit(2);
        if (pnx_fault_end(&scope) != -ESTALE || pnx_fault_begin(mapping, &scope) != -ESTALE)
            _exit(3);
        pnx_mapping_release(&mapping);
        _exit(pnx_fault_check() != 0 || fault_stats().mappings != 0 ? 4 : 0);
    }
    CHECK_EQ(child_status(pid), 0);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    CHECK_EQ(peek(mapping, PAGE - 1), byte_at(PAGE - 1));
    CHECK_EQ(pnx_fault_end(&scope), 0); /* nobody has faulted here */
    pnx_mapping_release(&mapping);
}

struct forks {
    const struct pnx_env *env;
    struct pnx_mapping *mapping;
    pthread_barrier_t ready;
    uint32_t stop;
};

static int open_and_close_scope(struct pnx_mapping *mapping) {
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(mapping, &scope);
    if (rc)
        return rc;
    bool found = peek(mapping, 3) == byte_at(3);
    rc = pnx_fault_end(&scope);
    return rc || found ? rc : -EIO;
}

/* Other threads' scopes, and the locks that they held, are not in the child's way. */
static void fork_once(struct forks *forks) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(20); /* it hangs: the signal ends it */
        int rc = open_and_close_scope(forks->mapping);
        pnx_mapping_release(&forks->mapping);
        _exit(rc ? 1 : 0);
    }
    CHECK_EQ(child_status(pid), 0);
}

static void scopes_and_mappings(unsigned index, void *ctx) {
    struct forks *forks = ctx;
    /* The forking thread's first scope is in the child, unless that may not allocate. */
    if (index > 0 || forks->env)
        CHECK_EQ(open_and_close_scope(forks->mapping), 0);
    pthread_barrier_wait(&forks->ready);
    if (index == 0) {
        for (int i = 0; i < (test_slow() ? 20 : 100); i++)
            fork_once(forks);
        __atomic_store_n(&forks->stop, 1, __ATOMIC_RELAXED);
    }
    while (!__atomic_load_n(&forks->stop, __ATOMIC_RELAXED)) {
        /* Those that are released stay until the scopes of others have ended: no more than there is memory for. */
        bool few = fault_stats().mappings < 64;
        struct pnx_mapping *own =
                index == 1 && few ? map_path_in(forks->env, test_path("forks")) : NULL;
        CHECK_EQ(open_and_close_scope(forks->mapping), 0);
        pnx_mapping_release(&own);
        if (!few)
            (void)pnx_fault_tick(0);
    }
}

TEST(forks_while_others_are_in_scopes_and_open_mappings_leave_the_child_with_all_it_needs) {
    struct forks forks = {.env = test_fork_env()};
    forks.mapping = map_path_in(forks.env, make_file("forks", 2 * PAGE));
    CHECK_EQ(pthread_barrier_init(&forks.ready, NULL, 4), 0);
    test_threads(4, scopes_and_mappings, &forks);
    pthread_barrier_destroy(&forks.ready);
    pnx_mapping_release(&forks.mapping);
}

/* ---- many, and no areas left ---- */

#define MANY 20000

TEST(p1_many_mappings_are_told_apart) {
    enum { PAGES = 16 };
    struct hand *hands = calloc(MANY, sizeof(*hands));
    CHECK(hands);
    make_file("many", PAGES * PAGE);
    make_file("one", PAGES * PAGE);
    int fd = open_rw("many"), one = open_rw("one");
    uint64_t random = test_seed();
    for (int i = 0; i < MANY; i++) /* two files in turn, so that the kernel merges none */
        hand_map(&hands[i], i % 2 ? fd : one, (1 + test_random(&random) % PAGES) * PAGE, 0);
    CHECK_EQ(fault_stats().mappings, MANY);
    cut("many", 0);
    for (int i = 0; i < 300; i++) {
        struct hand *hand = &hands[test_random(&random) % MANY];
        bool lost = (hand - hands) % 2;
        struct pnx_fault_scope scope;
        int rc = pnx_fault_begin(&hand->mapping, &scope);
        CHECK(rc == 0 || (rc == -ESTALE && lost));
        if (rc)
            continue;
        CHECK_EQ(*hand_at(hand, 5), lost ? 0 : byte_at(5));
        CHECK_EQ(pnx_fault_end(&scope), lost ? -ESTALE : 0);
    }
    for (int i = 0; i < MANY; i++)
        hand_end(&hands[(i * 7919L) % MANY]);
    CHECK_EQ(fault_stats().mappings, 0);
    close(fd);
    close(one);
    free(hands);
}

/* Takes areas until the system gives no more. */
static void take_all_areas(void) {
    unsigned char *at = mmap(
            NULL, 200000 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    size_t i = 1;
    while (i < 200000 && mprotect(at + i * PAGE, PAGE, PROT_READ) == 0)
        i += 2;
    CHECK(i < 200000);
}

/* What is lost reaches to the end of the mapping: one more area, which the system allows. */
static void survives_a_cut(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    take_all_areas();
    (void)peek(mapping, 3 * PAGE);
    _exit(pnx_fault_end(&scope) == -ESTALE ? 0 : 9);
}

/* A page in the middle: two more, which it does not allow. */
static void survives_a_bad_page(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    take_all_areas();
    test_os_fault("fstat", 1, true, EIO);
    (void)peek(mapping, 3 * PAGE);
    test_os_fault_clear();
    bool zero = peek(mapping, 0) == 0; /* all of it was replaced */
    _exit(pnx_fault_end(&scope) == -EIO && zero && fault_stats().whole == 1 ? 0 : 9);
}

static void dies_without_areas(void *ctx) {
    struct hand *hand = ctx;
    struct pnx_fault_scope scope;
    signal(SIGBUS, SIG_DFL);
    CHECK_EQ(pnx_fault_begin(&hand->mapping, &scope), 0);
    take_all_areas();
    (void)*hand_at(hand, PAGE);
}

TEST(without_areas_a_whole_mapping_is_replaced_and_where_that_fails_the_signal_is_passed_on) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    test_skip("a sanitizer needs areas of its own");
#endif
    if (getenv("PNX_TEST_SLOW"))
        test_skip("valgrind needs areas of its own");
    struct pnx_mapping *mapping = map_pages("whole", 5);
    cut("whole", 2 * PAGE);
    CHECK_EQ(test_child(survives_a_cut, mapping), 0);
    if (test_os_faults())
        CHECK_EQ(test_child(survives_a_bad_page, mapping), 0);
    pnx_mapping_release(&mapping);

    /* A part of an area cannot be replaced without a split. */
    struct hand hand = {0};
    make_file("part", 8 * PAGE);
    int fd = open_rw("part");
    unsigned char *base = mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(base != MAP_FAILED);
    struct pnx_fault_pages pages = hand_pages(fd, 2 * PAGE, base + 2 * PAGE, 3 * PAGE, 0);
    CHECK_EQ(pnx__fault_register(&hand.mapping.fault, &pages), 0);
    cut("part", 0);
    CHECK_EQ(test_child(dies_without_areas, &hand), -SIGBUS);
    hand_end(&hand);
    munmap(base, 8 * PAGE);
    close(fd);
}

static void dies_if_refused(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    struct pnx_fault_scope scope;
    signal(SIGBUS, SIG_DFL);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    test_os_fault("mmap_zero", 1, true, ENOMEM);
    (void)peek(mapping, PAGE);
}

TEST(a_refused_replacement_is_tried_on_the_whole_and_then_passed_on) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    struct pnx_mapping *mapping = map_pages("x", 3);
    struct pnx_fault_scope scope;
    cut("x", PAGE);
    CHECK_EQ(test_child(dies_if_refused, mapping), -SIGBUS);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    test_os_fault("mmap_zero", 1, false, ENOMEM);
    CHECK_EQ(peek(mapping, PAGE), 0);
    CHECK_EQ(test_os_fault_clear(), 1);
    CHECK_EQ(peek(mapping, 0), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(fault_stats().whole, 1);
    pnx_mapping_release(&mapping);
}

TEST(the_reason_of_a_fault_is_found_though_the_system_does_not_help) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    static const struct {
        const char *call;
        int error, expected;
    } cases[] = {{"fstat", EIO, EIO}, {"fstat", ESTALE, ESTALE}, {"populate", EINVAL, ESTALE}};
    for (unsigned i = 0; i < 3; i++) {
        struct pnx_mapping *mapping = map_pages("y", 3);
        struct pnx_fault_scope scope;
        CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
        cut("y", PAGE);
        test_os_fault(cases[i].call, 1, true, cases[i].error);
        (void)peek(mapping, PAGE);
        test_os_fault_clear();
        CHECK_EQ(pnx_fault_end(&scope), -cases[i].expected);
        pnx_mapping_release(&mapping);
    }
}

/* ---- mappings whose faults are always ours ---- */

TEST(a_mapping_that_is_always_guarded_loses_its_pages_quietly) {
    struct hand hand;
    make_file("z", 3 * PAGE);
    int fd = open_rw("z");
    hand_map(&hand, fd, 3 * PAGE, PNX_FAULT_WRITABLE | PNX_FAULT_ALWAYS);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    cut("z", 0);
    *hand_at(&hand, PAGE) = 3;
    CHECK_EQ(*hand_at(&hand, PAGE), 3);
    CHECK_EQ(*hand_at(&hand, 0), 0);
    uint64_t lost = 1;
    CHECK_EQ(pnx__fault_poison(&hand.mapping.fault, &lost), -ESTALE);
    CHECK_EQ(lost, PAGE);
    CHECK_EQ(hand.mapping.fault.faults.v, 2);
    hand_end(&hand);
    close(fd);
}

/* ---- registering ---- */

TEST(a_mapping_that_cannot_be_registered_is_not_opened) {
    struct pnx_reclaim *domains[PNX_RECLAIM_DOMAINS_MAX];
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    unsigned n = 0;
    make_file("r", 10);
    while (pnx_reclaim_create(NULL, NULL, &domains[n]) == 0)
        n++;
    CHECK_EQ(pnx_mapping_open(test_path("r"), NULL, &err, &mapping), -EBUSY);
    CHECK(!mapping && err.code == -EBUSY);
    pnx_reclaim_release(&domains[--n]);
    CHECK_EQ(pnx_mapping_open(test_path("r"), NULL, NULL, &mapping), 0);
    pnx_mapping_release(&mapping);
    while (n)
        pnx_reclaim_release(&domains[--n]);
}

TEST(a_table_without_memory_refuses_a_mapping_and_loses_none) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    enum { MORE = 140 };
    static struct hand hands[MORE];
    make_file("t", PAGE);
    int fd = open_rw("t"), refused = 0;
    for (int i = 0; i < MORE; i++) {
        hands[i].unmaps = true;
        void *base = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(base != MAP_FAILED);
        struct pnx_fault_pages pages = hand_pages(fd, 0, base, PAGE, 0);
        test_os_fault("ranges", 1, true, ENOMEM);
        int rc = pnx__fault_register(&hands[i].mapping.fault, &pages);
        test_os_fault_clear();
        CHECK(rc == 0 || rc == -ENOMEM);
        refused += rc != 0;
        if (rc)
            CHECK_EQ(pnx__fault_register(&hands[i].mapping.fault, &pages), 0);
    }
    CHECK_EQ(refused, 1); /* then there is a second chunk */
    CHECK_EQ(fault_stats().mappings, MORE);
    for (int i = 0; i < MORE; i++)
        hand_end(&hands[i]);
    close(fd);
}
