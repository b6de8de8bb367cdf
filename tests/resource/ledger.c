/* SPDX-License-Identifier: Apache-2.0 */
/* ledger.c - the cleanups that the ledger is about: what they do, and what they write down. */
#include "resource/ledger.h"

#include <patinox/query.h>
#include <patinox/trace.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of a cleanup that hangs: when somebody can tell it to end, and when nobody can. */
#define PATIENCE       (250 * PNX_MS)
#define PATIENCE_ALONE (3 * PNX_MS)
#define CHILD_S        30

const char *const ledger_types[4] = {"file", "socket", "lock", "buffer"};

/* ---- acts ---- */

static _Thread_local struct act *innermost;

void act_begin(struct act *act, enum path path) {
    *act = (struct act){.outer = innermost, .path = path};
    innermost = act;
}

void act_end(struct act *act) {
    CHECK(innermost == act);
    innermost = act->outer;
}

/* ---- behaviour ---- */

static void nap(uint64_t us) {
    usleep((useconds_t)us);
}

static void hang(struct record *record, const struct pnx_cancel *cancel) {
    pnx_ns deadline = pnx_cancel_deadline(cancel);
    pnx_ns end = pnx_now() + (deadline == PNX_NEVER ? PATIENCE_ALONE : PATIENCE);
    if (record->seed % 2 && deadline < end)
        end = deadline; /* one that needs not be told */
    while (!pnx_cancel_requested(cancel) && pnx_now() < end && !LEDGER_GET(record->ledger->told))
        nap(200);
}

static void be_stuck(struct record *record, enum path path) {
    /* Where one of our own threads runs it, that thread would never come to the shutdown. */
    while (path == PATH_LIBRARY && !LEDGER_GET(record->ledger->told))
        nap(500);
}

static void add_and_end_elsewhere(struct ledger *ledger, uint64_t *random) {
    uint32_t n = __atomic_fetch_add(&ledger->nested, 1, __ATOMIC_RELAXED);
    if (n >= ledger->n_nested)
        return;
    struct record *record = &ledger->records[ledger->n_records + n];
    record->ledger = ledger;
    record->kind = KIND_GOOD;
    record->seed = test_random(random);
    record->code = test_random(random) % 4 ? 0 : -ENOENT;
    if (!ledger_add(record))
        return; /* we run because of a shutdown */
    if (test_random(random) % 2)
        ledger_run(record);
    else if (test_random(random) % 2)
        ledger_remove(record);
}

static void use_the_registry(struct record *record) {
    struct ledger *ledger = record->ledger;
    uint64_t random = record->seed;
    struct pnx_resource_info info;
    pnx_resource_id own = LEDGER_GET(record->id);
    int rc;
    if (own) /* its maker has told it already */
        CHECK_EQ(pnx_registry_remove(ledger->registry, own), -EALREADY); /* P2 */
    rc = pnx_registry_shutdown(ledger->registry, 0, NULL);
    CHECK_EQ(rc, -EDEADLK);
    add_and_end_elsewhere(ledger, &random);
    if (record->victim) {
        switch (test_random(&random) % 3) {
        case 0:
            ledger_run(record->victim);
            break;
        case 1:
            ledger_remove(record->victim);
            break;
        default:
            ledger_submit(record->victim, test_random(&random));
            break;
        }
        rc = pnx_registry_info(ledger->registry, LEDGER_GET(record->victim->id), &info);
        CHECK(rc == 0 || rc == -ESTALE);
    }
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(ledger->side,
                     PNX_RESOURCE(.type = "side", .cleanup = ledger_cleanup, .parent = 0), NULL,
                     &id),
            0);
    CHECK_EQ(pnx_registry_remove(ledger->side, id), 0);
}

/* Returns whether what the child gets is as it should be: nothing of the parent's is ended here. */
static bool child_is_well(const struct record *record) {
    struct ledger *ledger = record->ledger;
    pnx_resource_id id = LEDGER_GET(record->id);
    int rc = pnx_registry_cleanup(ledger->registry, id);
    bool well = rc == -EALREADY || rc == -ESTALE;
    if (record->victim) {
        rc = pnx_registry_cleanup(ledger->registry, LEDGER_GET(record->victim->id));
        well = well && (rc == -EALREADY || rc == -ESTALE);
    }
    rc = pnx_executor_cleanup(ledger->executor, ledger->registry, id, NULL, NULL, NULL);
    well = well && (rc == -ESHUTDOWN || rc == -ESTALE);
    well = well && pnx_registry_forked(ledger->registry) == 0;
    rc = pnx_registry_add(ledger->side, PNX_RESOURCE(.type = "the child's"), NULL, &id);
    return well && rc == 0 && pnx_registry_remove(ledger->side, id) == 0;
}

static void have_a_child(const struct record *record) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_S); /* a child that hangs is ended by it */
        _exit(child_is_well(record) ? 0 : 1);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a cleanup's child ended with %s %d",
            WIFSIGNALED(status) ? "signal" : "status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* What its next end is, whoever tells it. */
static int end_of(struct record *record) {
    int code = LEDGER_GET(record->again) < record->n_again ? -EAGAIN : record->code;
    CHECK_EQ(__atomic_sub_fetch(&record->running, 1, __ATOMIC_ACQ_REL), 0);
    LEDGER_SET(record->finished, LEDGER_UP(record->ledger->clock));
    record->ended_at = pnx_now();
    if (code == -EAGAIN)
        LEDGER_UP(record->again);
    else
        LEDGER_UP(record->ended);
    return code;
}

static int complete(struct record *record, struct pnx_completion completion) {
    struct pnx_completion copy = completion;
    int code = end_of(record);
    CHECK_EQ(pnx_completion_done(&completion, code), 0);
    CHECK_EQ(pnx_completion_done(&completion, 0), -EINVAL);
    int rc = pnx_completion_done(&copy, 0);
    CHECK(rc == -EALREADY || rc == -ESTALE);
    return code;
}

bool ledger_complete_some(struct ledger *ledger) {
    pthread_mutex_lock(&ledger->lock);
    struct record *record = ledger->pending;
    ledger->pending = NULL;
    pthread_mutex_unlock(&ledger->lock);
    bool any = record;
    while (record) {
        struct record *next = record->next_pending;
        struct pnx_completion completion = record->completion;
        complete(record, completion);
        record = next;
    }
    return any;
}

/* -EINPROGRESS when somebody will say how it ended, or has said *ret_early already. */
static int pend(struct record *record, const struct pnx_cancel *cancel, int *ret_early) {
    struct ledger *ledger = record->ledger;
    struct pnx_completion completion, second;
    int rc = pnx_cancel_pend(cancel, &completion);
    if (rc == -ENOTSUP && record->untracked)
        return end_of(record); /* nobody could wait */
    CHECK_EQ(rc, 0);
    CHECK_EQ(pnx_cancel_pend(cancel, &second), -EALREADY);
    if (record->seed % 8 == 0) {
        *ret_early = complete(record, completion);
        return -EINPROGRESS;
    }
    pthread_mutex_lock(&ledger->lock);
    record->completion = completion;
    record->next_pending = ledger->pending;
    ledger->pending = record;
    pthread_mutex_unlock(&ledger->lock);
    return -EINPROGRESS;
}

static int behave(
        struct record *record, const struct pnx_cancel *cancel, enum path path, int *ret_early) {
    switch (record->kind) {
    case KIND_SLOW:
        nap(50 + record->seed % 500);
        break;
    case KIND_HANGS:
        hang(record, cancel);
        break;
    case KIND_STUCK:
        be_stuck(record, path);
        break;
    case KIND_NESTED:
        use_the_registry(record);
        break;
    case KIND_FORKS:
        have_a_child(record);
        break;
    case KIND_PENDS:
        return pend(record, cancel, ret_early);
    case KIND_AGAIN:
        if (record->seed % 4 == 0)
            nap(50);
        break;
    case KIND_GOOD:
    case KIND_BAD:
        break;
    case KIND_BARE:
    case KINDS:
        test_fail(__FILE__, __LINE__, "a row without a cleanup was cleaned up");
    }
    return end_of(record);
}

bool ledger_was_left(const struct record *record) {
    return record->guarded && (LEDGER_GET(record->children) || LEDGER_GET(record->again));
}

/* What only asks must not run it; see patinox/query.h. */
static void check_allowed(const struct record *record, const struct act *act) {
    if (act && (act->path == PATH_FORCE || act->path == PATH_BATCH))
        CHECK(record->flags & PNX_RESOURCE_FORCEABLE ||
                (act->unused &&
                        (!(record->flags & PNX_RESOURCE_OWNED) || ledger_was_left(record))));
}

int ledger_cleanup(void *arg, const struct pnx_cancel *cancel) {
    struct record *record = arg;
    struct act *act = innermost;
    enum path path = act ? act->path : PATH_LIBRARY;
    check_allowed(record, act);
    CHECK_EQ(LEDGER_UP(record->running), 1); /* never two at once */
    CHECK_EQ(LEDGER_GET(record->ended), 0);  /* P1: never again */
    CHECK_EQ(LEDGER_GET(record->struck), 0); /* P1: never after a removal */
    LEDGER_UP(record->started);
    LEDGER_SET(record->began, LEDGER_UP(record->ledger->clock));
    LEDGER_SET(record->path, path);
    innermost = NULL; /* what it calls is for acts of its own */
    int early = -EINPROGRESS;
    int code = behave(record, cancel, path, &early);
    innermost = act;
    if (act) {
        act->ran++;
        act->last = record;
        act->code = code == -EINPROGRESS ? early : code;
        act->again += act->code == -EAGAIN;
        act->pended += act->code == -EINPROGRESS;
        act->failed += act->code && act->code != -EAGAIN && act->code != -EINPROGRESS;
    }
    return code;
}

/* ---- calls, and what they may return ---- */

/* What the record's row says, but for its cleanup. */
static struct pnx_resource row_of(const struct record *record) {
    if (record->parent)
        LEDGER_SET(record->parent->children, 1);
    return *PNX_RESOURCE(.type = ledger_types[record->seed % 4], .owner = record->seed % 8,
            .parent = record->parent ? LEDGER_GET(record->parent->id) : 0,
            .tag = (uint64_t)(uintptr_t)record, .bytes = record->seed % 4096,
            .priority = record->priority, .flags = record->flags);
}

/* The row is there, or the registry shut down. */
static bool note_added(struct record *record, int rc, pnx_resource_id id) {
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    if (rc)
        return false;
    LEDGER_SET(record->id, id);
    LEDGER_SET(record->made, 1);
    LEDGER_SET(record->added, 1);
    return true;
}

bool ledger_add(struct record *record) {
    struct pnx_resource row = row_of(record);
    pnx_resource_id id = 0;
    row.cleanup = record->kind == KIND_BARE ? NULL : ledger_cleanup;
    row.arg = record;
    int rc = pnx_registry_add(record->ledger->registry, &row, NULL, &id);
    if (rc == -EINVAL && record->parent) {
        record->parent = NULL; /* it has ended meanwhile */
        return ledger_add(record);
    }
    return note_added(record, rc, id);
}

bool ledger_track(struct record *record, struct pnx_guard *guard) {
    struct pnx_resource row = row_of(record);
    CHECK_EQ(pnx_guard_arm(guard, ledger_cleanup, record), 0);
    int rc = pnx_guard_track(guard, record->ledger->registry, &row, NULL);
    if (rc == -EINVAL && record->parent) {
        record->parent = NULL;
        row.parent = 0;
        rc = pnx_guard_track(guard, record->ledger->registry, &row, NULL);
    }
    if (rc)
        CHECK(pnx_guard_dismiss(guard) == record);
    return note_added(record, rc, pnx_guard_id(guard));
}

bool ledger_guard(struct record *record, struct pnx_guard *guard) {
    CHECK_EQ(pnx_guard_arm(guard, ledger_cleanup, record), 0);
    LEDGER_SET(record->made, 1);
    return true;
}

/* What is to be expected when somebody else has taken the record. */
static void note_lost(const struct record *record, int rc) {
    CHECK_MSG(rc == -EALREADY || rc == -ESTALE || rc == -EDEADLK || rc == -EINPROGRESS,
            "others were first: %s", pnx_errname(rc));
    if (rc != -EDEADLK && rc != -EINPROGRESS)
        CHECK_EQ(LEDGER_GET(record->running), 0); /* P2: it has come to its end */
}

static void note_struck(struct record *record) {
    CHECK_EQ(LEDGER_UP(record->struck), 1);
    CHECK_EQ(LEDGER_GET(record->running), 0);
    CHECK_EQ(LEDGER_GET(record->ended), 0);
}

int ledger_remove(struct record *record) {
    int rc = pnx_registry_remove(record->ledger->registry, LEDGER_GET(record->id));
    if (rc == 0)
        note_struck(record);
    else
        note_lost(record, rc);
    return rc;
}

/* The call has run the record's cleanup, and nothing else, and says so. */
static void note_ran(const struct act *act, const struct record *record, int rc) {
    CHECK_EQ(act->ran, 1);
    CHECK(act->last == record);
    if (act->pended && rc != -EINPROGRESS)
        CHECK(rc == record->code || rc == -EAGAIN);
    else
        CHECK_EQ(rc, act->code);
}

int ledger_run(struct record *record) {
    struct act act;
    act_begin(&act, PATH_CLEANUP);
    int rc = pnx_registry_cleanup(record->ledger->registry, LEDGER_GET(record->id));
    act_end(&act);
    if (act.ran)
        note_ran(&act, record, rc);
    else if (record->kind == KIND_BARE)
        CHECK(rc == -ENOTSUP || rc == -EALREADY || rc == -ESTALE);
    else
        /* It may still be running, or have children. */
        CHECK(rc == -EALREADY || rc == -ESTALE || rc == -EBUSY);
    return rc;
}

void ledger_end_guard(struct record *record, struct pnx_guard *guard, uint64_t r) {
    struct pnx_guard moved = pnx_guard_move(guard);
    struct act act;
    if (r % 4 == 0) {
        if (pnx_guard_dismiss(&moved) == record)
            note_struck(record);
        else
            note_lost(record, -EINPROGRESS);
        return;
    }
    act_begin(&act, PATH_GUARD);
    int rc = r % 4 == 1 ? pnx_guard_run(&moved) : (pnx_guard_drop(&moved), 0);
    act_end(&act);
    if (act.ran)
        note_ran(&act, record, r % 4 == 1 ? rc : act.code);
    else if (rc != -EBUSY) /* it has children */
        note_lost(record, r % 4 == 1 ? rc : -EINPROGRESS);
    CHECK_EQ(pnx_guard_armed(&moved), rc == -EAGAIN || rc == -EBUSY);
    if (record->untracked && act.code == -EAGAIN && !pnx_guard_armed(&moved))
        LEDGER_SET(record->gave_up, 1); /* lost, as the header says */
    *guard = pnx_guard_move(&moved);
}

void ledger_force(struct record *record) {
    struct ledger *ledger = record->ledger;
    struct act act;
    act_begin(&act, PATH_FORCE);
    int rc = pnx_registry_force(ledger->registry, LEDGER_GET(record->id));
    act_end(&act);
    if (act.ran) {
        note_ran(&act, record, rc);
        LEDGER_UP(ledger->forced);
        LEDGER_UP(ledger->asked);
        return;
    }
    switch (rc) {
    case -EBUSY:
        CHECK(!(record->flags & PNX_RESOURCE_FORCEABLE) || LEDGER_GET(record->children));
        LEDGER_UP(ledger->asked);
        break;
    case -ENOTSUP:
        CHECK_EQ(record->kind, KIND_BARE);
        LEDGER_UP(ledger->asked);
        break;
    default:
        CHECK(rc == -EALREADY || rc == -ESTALE);
        LEDGER_UP(ledger->may_be_asked);
        break;
    }
}

void ledger_batch(struct ledger *ledger, uint64_t r) {
    struct pnx_batch_result result = {.size = sizeof(result)};
    struct act act;
    act_begin(&act, PATH_BATCH);
    act.unused = r % 2;
    int rc = pnx_registry_cleanup_where(ledger->registry,
            PNX_FILTER(.type = ledger_types[(r >> 1) % 4], .owner = 1 + (r >> 3) % 7,
                    .min_bytes = (r >> 8) % 4096),
            act.unused ? PNX_CLEANUP_UNUSED : 0, (pnx_ns)(r >> 24) % (4 * PNX_MS), &result);
    act_end(&act);
    CHECK_EQ(result.matched,
            result.done + result.failed + result.again + result.asked + result.busy + result.left);
    CHECK_EQ(act.ran, result.done + result.failed + result.again);
    CHECK(result.failed >= act.failed && result.again >= act.again);
    CHECK(result.failed + result.again <= act.failed + act.again + act.pended);
    CHECK(rc == 0 || rc == -ETIMEDOUT || result.failed + result.again > 0);
    __atomic_add_fetch(&ledger->forced, act.ran, __ATOMIC_RELAXED);
    __atomic_add_fetch(&ledger->asked, result.asked, __ATOMIC_RELAXED);
}

/* Other than the tag says nothing is wrong with what a query shows of rows that come and go. */
static int see(void *ctx, const struct pnx_resource_info *info) {
    uint32_t *left = ctx;
    const struct record *record = (const struct record *)(uintptr_t)info->tag;
    if (record)
        CHECK_EQ(info->owner, record->seed % 8);
    return --*left == 0;
}

static int ignore(void *ctx, const char *text, size_t n) {
    (void)ctx;
    (void)text;
    (void)n;
    return 0;
}

void ledger_look(struct record *record, uint64_t r) {
    struct pnx_registry *registry = record->ledger->registry;
    pnx_resource_id id = LEDGER_GET(record->id);
    struct pnx_resource_info info;
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    uint32_t most = 50;
    int rc;
    switch (r % 8) {
    case 0:
        rc = pnx_registry_set_bytes(registry, id, (r >> 4) % 4096);
        break;
    case 1:
        rc = pnx_registry_touch(registry, id, "looked at");
        break;
    case 2:
        rc = pnx_registry_trace(registry, id, &trace);
        break;
    case 3:
        pnx_registry_query(registry, PNX_FILTER(.owner = 3), see, &most);
        rc = 0;
        break;
    case 4:
        rc = r >> 3 & 31 ? 0 : pnx_registry_each(registry, see, &most) < 0 ? -EIO : 0;
        break;
    case 5:
        rc = r >> 3 & 31 ? 0 : pnx_registry_report(registry, PNX_REPORT_TEXT, ignore, NULL);
        break;
    case 6:
        rc = pnx_registry_asked(registry, id) ? 0 : -ESTALE;
        break;
    default:
        rc = pnx_registry_info(registry, id, &info);
        if (rc == 0)
            CHECK_EQ(info.tag, (uintptr_t)record);
        break;
    }
    CHECK(rc == 0 || rc == -ESTALE);
}
