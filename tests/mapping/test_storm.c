/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The truncation storm: readers go through a file of records while another process cuts it, makes it grow, rewrites,
 * replaces and deletes it, a thousand times and more.
 *
 * Every state between two steps of the other process consists of whole records with right checksums, but for two
 * things, which it announces in shared memory: while it makes the file grow there are holes, and a cut inside a page leaves
 * zeros behind the end of whoever has mapped that page.  So of what a reader has read in a scope that ended with 0:
 *   - checked, and no hole announced meanwhile: each record is right;
 *   - not checked, and moreover no cut inside a page: no record is zero, unless the file was empty when it was opened, and
 *     so was read, to which the system gives zeros where it is cut meanwhile.
 * What a file system with coarse times cannot show, and what a write in progress adds (the windows of patinox/fault.h), is
 * left out.
 */
#include "fault_case.h"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define READERS  8
#define PAGES    24
#define RECORD   64
#define RECORDS  (PAGES * 4096 / RECORD)
#define OPS_LONG 10000
#define OPS      3000
#define OPS_SLOW 1000 /* under sanitizers and valgrind */

struct record {
    uint64_t number;
    uint64_t generation;
    uint64_t fill[5];
    uint64_t checksum;
};

/* Shared by the two processes. */
struct shared {
    uint32_t done;
    uint32_t holes;   /* odd while there may be some; moves with each time */
    uint32_t partial; /* odd during a cut inside a page; moves with each */
    uint32_t writing; /* odd while records are written over others; moves with each time */
    uint64_t scopes;  /* begun by readers */
    uint64_t ops[5];
};

struct storm {
    struct shared *shared;
    struct pnx_mapping *steady; /* a file that nobody touches */
    char path[512];
    bool fine; /* the file system's times tell each change from the one before */
    uint64_t seed;

    pthread_mutex_t lock;
    struct pnx_mapping *current; /* the mapping that all readers use, with a reference */
    uint32_t holes, partial;     /* as they were before it was opened */
    bool in_window; /* opened within a tick of the last change, where times are coarse, or during a write */

    uint64_t ended_well, ended_badly, open_then, refused, checked_well, remapped;
    uint64_t compared_checked,
            compared; /* scopes that ended with 0, and whose records were held to it */
};

static uint64_t mix(uint64_t x) {
    return (x ^ x >> 29) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static uint64_t checksum_of(const struct record *record) {
    uint64_t sum = mix(record->number + 17) ^ mix(record->generation + 4711);
    for (int i = 0; i < 5; i++)
        sum = mix(sum ^ record->fill[i]);
    return sum | 1;
}

static struct record make_record(uint64_t number, uint64_t generation) {
    struct record record = {.number = number, .generation = generation};
    for (int i = 0; i < 5; i++)
        record.fill[i] = mix(generation * 8 + (uint64_t)i) ^ number;
    record.checksum = checksum_of(&record);
    return record;
}

static bool is_right(const struct record *record, uint64_t number) {
    return record->number == number && record->checksum == checksum_of(record);
}

static bool is_zero(const struct record *record) {
    static const struct record zero;
    return memcmp(record, &zero, sizeof(zero)) == 0;
}

/* ---- the other process ---- */

static void write_records(int fd, uint64_t from, uint64_t to, uint64_t generation) {
    static struct record buffer[RECORDS];
    for (uint64_t i = from; i < to; i++)
        buffer[i] = make_record(i, generation);
    size_t n = (size_t)(to - from) * RECORD;
    if (n && pwrite(fd, buffer + from, n, (off_t)(from * RECORD)) != (ssize_t)n)
        _exit(10);
}

static int fresh_file(const char *path, int flags, uint64_t generation) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
    if (fd < 0)
        _exit(11);
    write_records(fd, 0, RECORDS, generation);
    return fd;
}

static uint64_t records_in(int fd) {
    struct stat st;
    if (fstat(fd, &st))
        _exit(12);
    return (uint64_t)st.st_size / RECORD;
}

static void one_op(struct storm *storm, unsigned op, uint64_t generation, uint64_t *random) {
    struct shared *shared = storm->shared;
    char other[600];
    snprintf(other, sizeof(other), "%s.new", storm->path);
    __atomic_fetch_add(&shared->ops[op], 1, __ATOMIC_RELAXED);
    if (op == 3) { /* replaced */
        close(fresh_file(other, 0, generation));
        if (rename(other, storm->path))
            _exit(13);
        return;
    }
    if (op == 4) { /* deleted; readers find none, or one of few records */
        if (unlink(storm->path))
            _exit(14);
        close(fresh_file(storm->path, O_EXCL, generation));
        return;
    }
    int fd = open(storm->path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        _exit(15);
    uint64_t n = records_in(fd);
    if (op == 0) { /* cut: to whole pages, or inside one */
        uint64_t to = test_random(random) % (n + 1);
        uint32_t inside = test_random(random) % 4 == 0;
        if (!inside)
            to -= to % (4096 / RECORD);
        __atomic_fetch_add(&shared->partial, inside, __ATOMIC_SEQ_CST);
        if (ftruncate(fd, (off_t)(to * RECORD)))
            _exit(16);
        __atomic_fetch_add(&shared->partial, inside, __ATOMIC_SEQ_CST);
    } else if (op == 1) { /* grown: zeros first, then records */
        __atomic_fetch_add(&shared->holes, 1, __ATOMIC_SEQ_CST);
        if (ftruncate(fd, (off_t)RECORDS * RECORD))
            _exit(17);
        write_records(fd, n, RECORDS, generation);
        __atomic_fetch_add(&shared->holes, 1, __ATOMIC_SEQ_CST);
    } else { /* rewritten in place, and made whole at its end */
        __atomic_fetch_add(&shared->writing, 1, __ATOMIC_SEQ_CST);
        write_records(fd, 0, RECORDS, generation);
        __atomic_fetch_add(&shared->writing, 1, __ATOMIC_SEQ_CST);
    }
    close(fd);
}

static void rage(struct storm *storm, int ops) {
    struct shared *shared = storm->shared;
    uint64_t random = storm->seed;
    for (int i = 0; i < ops; i++) {
        static const unsigned char mixture[] = {0, 0, 0, 0, 2, 2, 1, 3, 3, 4};
        one_op(storm, mixture[test_random(&random) % sizeof(mixture)], (uint64_t)i + 2, &random);
        /* A scope at least begins between two steps, or the storm would be over before anybody has read. */
        uint64_t seen = __atomic_load_n(&shared->scopes, __ATOMIC_RELAXED);
        for (int tries = 0; tries < 2000; tries++) {
            if (__atomic_load_n(&shared->scopes, __ATOMIC_RELAXED) != seen)
                break;
            sched_yield();
        }
    }
}

/* ---- readers ---- */

/* Opens the file as it is now, for all readers; NULL when it is not there, or empty. */
static void remap_locked(struct storm *storm) {
    struct shared *shared = storm->shared;
    struct timespec now;
    struct pnx_mapping *fresh = NULL;
    pnx_mapping_release(&storm->current);
    storm->holes = __atomic_load_n(&shared->holes, __ATOMIC_SEQ_CST);
    storm->partial = __atomic_load_n(&shared->partial, __ATOMIC_SEQ_CST);
    uint32_t writing = __atomic_load_n(&shared->writing, __ATOMIC_SEQ_CST);
    int rc = pnx_mapping_open(storm->path, PNX_MAPPING_OPTS(.small_max = 1), NULL, &fresh);
    if (rc) {
        CHECK_EQ(rc, -ENOENT);
        return;
    }
    storm->current = fresh;
    storm->remapped++;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age = now.tv_sec * (int64_t)PNX_SEC + now.tv_nsec - fresh->info.mtime_ns;
    storm->in_window = (!storm->fine && age < 20 * PNX_MS) || (writing & 1) ||
                       writing != __atomic_load_n(&shared->writing, __ATOMIC_SEQ_CST);
}

/* What one scope may be held to. */
struct look {
    struct pnx_mapping *mapping;
    uint32_t holes, partial;
    bool in_window;
    bool last_failed; /* this reader has seen a scope on it fail */
};

static bool take(struct storm *storm, struct look *look, uint64_t *random) {
    pthread_mutex_lock(&storm->lock);
    /* An empty file has nothing to read, and one that was replaced is as good as ever: open the one that is there now. */
    bool again = !storm->current || look->last_failed || pnx_mapping_size(storm->current) == 0 ||
                 test_random(random) % 4 == 0;
    if (again && storm->current == look->mapping)
        remap_locked(storm);
    pnx_mapping_release(&look->mapping);
    look->mapping = pnx_mapping_ref(storm->current);
    look->holes = storm->holes;
    look->partial = storm->partial;
    look->in_window = storm->in_window;
    look->last_failed = false;
    pthread_mutex_unlock(&storm->lock);
    return look->mapping && pnx_mapping_size(look->mapping) > 0;
}

static void read_all(
        struct pnx_mapping *mapping, uint64_t *random, uint64_t *ret_bad, uint64_t *ret_zero) {
    struct pnx_view view = pnx_view_all(mapping);
    uint64_t n = view.n / RECORD, first = test_random(random) % (n + 1);
    *ret_bad = *ret_zero = 0;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t i = (first + k) % n;
        struct record record;
        memcpy(&record, view.p + i * RECORD, sizeof(record));
        *ret_bad += !is_right(&record, i);
        *ret_zero += is_zero(&record);
        if (k % 61 == 60 && test_random(random) % 8 == 0)
            sched_yield();
    }
}

static void read_once(struct storm *storm, struct look *look, uint64_t *random) {
    struct shared *shared = storm->shared;
    struct pnx_fault_scope outer, scope;
    uint64_t bad, zero, ignored;
    bool checked = test_random(random) % 2, nested = test_random(random) % 4 == 0;
    if (nested)
        CHECK_EQ(pnx_fault_begin(storm->steady, &outer), 0);
    int rc = pnx_fault_begin(look->mapping, &scope);
    __atomic_fetch_add(&shared->scopes, 1, __ATOMIC_RELAXED);
    if (rc) {
        CHECK_MSG(rc == -ESTALE || rc == -EIO, "begin: %s", pnx_errname(rc));
        __atomic_fetch_add(&storm->refused, 1, __ATOMIC_RELAXED);
    } else {
        read_all(look->mapping, random, &bad, &zero);
        bool lost = pnx_fault_state(look->mapping, NULL) != 0; /* to whomever: the scope is open */
        rc = checked ? pnx_fault_end_checked(&scope) : pnx_fault_end(&scope);
        CHECK_MSG(rc || !lost, "a scope ended with 0 that was open when another one faulted");
        __atomic_fetch_add(&storm->open_then, lost, __ATOMIC_RELAXED);
        CHECK_MSG(rc == 0 || rc == -ESTALE || rc == -EIO, "end: %s", pnx_errname(rc));
        __atomic_fetch_add(rc ? &storm->ended_badly : &storm->ended_well, 1, __ATOMIC_RELAXED);
    }
    if (nested) { /* whatever has happened, not to this one */
        if (test_random(random) % 64 == 0) {
            read_all(storm->steady, random, &ignored, &zero);
            CHECK_EQ(ignored, 0);
            zero = 0;
        }
        CHECK_EQ(pnx_fault_end_checked(&outer), 0);
    }
    look->last_failed = rc != 0;
    if (rc) {
        bool poisoned = pnx_fault_state(look->mapping, NULL) != 0;
        CHECK(poisoned || checked); /* a checked one may fail alone: the file was changed */
        if (poisoned) {             /* and stays so */
            rc = pnx_fault_begin(look->mapping, &scope);
            CHECK(rc == -ESTALE || rc == -EIO);
        }
        return;
    }
    bool no_holes =
            !(look->holes & 1) && look->holes == __atomic_load_n(&shared->holes, __ATOMIC_SEQ_CST);
    bool whole_pages = !(look->partial & 1) &&
                       look->partial == __atomic_load_n(&shared->partial, __ATOMIC_SEQ_CST);
    if (checked)
        __atomic_fetch_add(&storm->checked_well, 1, __ATOMIC_RELAXED);
    if (!no_holes || (checked && look->in_window))
        return;
    if (checked) {
        CHECK_MSG(bad == 0, "%llu records of a checked scope that ended with 0 are bad",
                (unsigned long long)bad);
        __atomic_fetch_add(&storm->compared_checked, 1, __ATOMIC_RELAXED);
    } else if (whole_pages && pnx_mapping_backing(look->mapping) == PNX_BACKING_MMAP) {
        CHECK_MSG(zero == 0, "%llu records of a scope that ended with 0 were replaced by zeros",
                (unsigned long long)zero);
        __atomic_fetch_add(&storm->compared, 1, __ATOMIC_RELAXED);
    }
}

static void reader(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    struct look look = {0};
    uint64_t random = storm->seed + index * 77 + 1;
    while (!__atomic_load_n(&storm->shared->done, __ATOMIC_ACQUIRE)) {
        if (!take(storm, &look, &random)) {
            sched_yield();
            continue;
        }
        for (int i = 0; i < 3 && !look.last_failed; i++)
            read_once(storm, &look, &random);
    }
    pnx_mapping_release(&look.mapping);
}

/* Whether two changes, with a look between them, always have different times. */
static bool times_are_fine(const char *path) {
    struct stat first, second;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    bool fine = true;
    CHECK(fd >= 0);
    for (int i = 0; i < 200 && fine; i++) {
        CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
        CHECK_EQ(fstat(fd, &first), 0);
        CHECK_EQ(pwrite(fd, "y", 1, 0), 1);
        CHECK_EQ(fstat(fd, &second), 0);
        fine = first.st_mtim.tv_nsec != second.st_mtim.tv_nsec &&
               first.st_ctim.tv_nsec != second.st_ctim.tv_nsec;
    }
    close(fd);
    return fine;
}

struct parent {
    struct storm *storm;
    pid_t pid;
    int status;
};

static void *waits_for_child(void *ctx) {
    struct parent *parent = ctx;
    CHECK_EQ(waitpid(parent->pid, &parent->status, 0), parent->pid);
    __atomic_store_n(&parent->storm->shared->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

TEST_LIMIT(p1_p2_p3_p5_readers_survive_a_storm_of_truncations_and_are_told_of_each, 400) {
    static struct storm storm = {.lock = PTHREAD_MUTEX_INITIALIZER};
    storm.seed = test_seed();
    storm.shared = mmap(
            NULL, sizeof(*storm.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(storm.shared != MAP_FAILED);
    snprintf(storm.path, sizeof(storm.path), "%s", test_path("records"));
    storm.fine = times_are_fine(test_path("times"));
    close(fresh_file(storm.path, 0, 1));
    close(fresh_file(test_path("steady"), 0, 1));
    storm.steady = map_path(test_path("steady"));
    struct parent parent = {.storm = &storm, .pid = fork()};
    if (parent.pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the test, however that ends */
        rage(&storm, test_long() ? OPS_LONG : test_slow() ? OPS_SLOW : OPS);
        _exit(0);
    }
    pthread_t waiter;
    CHECK_EQ(pthread_create(&waiter, NULL, waits_for_child, &parent), 0);
    test_threads(READERS, reader, &storm);
    CHECK_EQ(pthread_join(waiter, NULL), 0);
    CHECK_EQ(parent.status, 0);

    struct pnx_fault_stats stats = fault_stats();
    const struct shared *shared = storm.shared;
    printf("cut %llu, grown %llu, rewritten %llu, replaced %llu, deleted %llu; times are %s\n"
           "scopes: %llu well, %llu badly, %llu refused at once; %llu checked well, of them %llu "
           "compared, of the others %llu\n"
           "remapped %llu times; faults %llu, of I/O %llu\n",
            (unsigned long long)shared->ops[0], (unsigned long long)shared->ops[1],
            (unsigned long long)shared->ops[2], (unsigned long long)shared->ops[3],
            (unsigned long long)shared->ops[4], storm.fine ? "fine" : "coarse",
            (unsigned long long)storm.ended_well, (unsigned long long)storm.ended_badly,
            (unsigned long long)storm.refused, (unsigned long long)storm.checked_well,
            (unsigned long long)storm.compared_checked, (unsigned long long)storm.compared,
            (unsigned long long)storm.remapped, (unsigned long long)stats.truncated,
            (unsigned long long)stats.io_errors);
    CHECK_EQ(stats.foreign + stats.outside + stats.helpless, 0);
    CHECK(stats.truncated >= 20);
    CHECK(storm.ended_badly >= 20);
    CHECK(storm.open_then >= 20);
    CHECK(storm.compared >= 20);
    if (storm.fine) /* else hardly any mapping is older than the last change by a tick */
        CHECK(storm.compared_checked >= 20);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(storm.steady, &scope), 0);
    CHECK_EQ(pnx_fault_end_checked(&scope), 0);
    pnx_mapping_release(&storm.current);
    pnx_mapping_release(&storm.steady);
    CHECK_EQ(fault_stats().mappings, 0);
}
