/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/batch.c - ending what is not one's own: forcing one row, or many that match.
 *
 *   P1  What may be run and what may only be asked follows from the row's flags (may_run()), which are fixed while the
 *       row is there; the claim decides whether it still is.
 *   P2  A batch treats the rows that match from the last one made to the first, each once.
 */
#include "base/env.h"
#include "registry/query.h"
#include "registry/sort.h"

#include <string.h>

#define KNOWN_FLAGS ((uint32_t)PNX_CLEANUP_UNUSED)

static bool may_run(const struct pnx_row *row, uint32_t flags) {
    if (row->order & PNX_ROW_OWNED)
        return false;
    return row->order & PNX_ROW_FORCEABLE || flags & PNX_CLEANUP_UNUSED;
}

/* Copies the row that is there under the id.  false when there is none. */
static bool look(struct pnx_registry *registry, pnx_resource_id id, struct pnx_row *ret_row) {
    const struct pnx_row *row = registry->off ? NULL : pnx__row_find(registry, id);
    if (!row)
        return false;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    *ret_row = *row;
    pnx__unlock(&shard->lock);
    return pnx__word_id(ret_row->word.v) == id;
}

bool pnx_registry_asked(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_row row;
    return look(pnx__registry_resolve(registry), id, &row) && pnx__word_is_there(row.word.v) &&
           row.order & PNX_ROW_ASKED;
}

/* Runs the row's cleanup, or says why not; *ret_claimed tells the two apart. */
static int run(
        struct pnx_registry *registry, pnx_resource_id id, pnx_ns deadline, bool *ret_claimed) {
    struct pnx_row_request request;
    pnx__request_init(&request, &registry->env, deadline);
    return pnx__registry_run(registry, id, &request, ret_claimed);
}

int pnx_registry_force(struct pnx_registry *registry, pnx_resource_id id) {
    registry = pnx__registry_resolve(registry);
    struct pnx_row row;
    if (!look(registry, id, &row) || !pnx__row_is_ours(&row))
        return -ESTALE;
    if (!pnx__word_is_there(row.word.v))
        return -EALREADY;
    int rc = pnx__row_ask(registry, id);
    if (rc)
        return -EALREADY; /* it has just gone */
    pnx__registry_count_up(&registry->values.asked);
    if (pnx__word_state(row.word.v) != PNX_ROW_LIVE)
        return -EALREADY;
    if (!may_run(&row, 0))
        return -EBUSY;
    bool claimed;
    rc = run(registry, id, PNX_NEVER, &claimed);
    if (claimed)
        pnx__registry_count_up(&registry->values.forced);
    return rc == -ESTALE && !claimed ? -EALREADY : rc;
}

/* ---- batches ---- */

/* A row that matched. */
struct matched {
    uint64_t serial;
    pnx_resource_id id;
};

/*
 * Rows wait for their turn in an array, the last made first: a child has been added after its parent, so it comes
 * before it.  Without memory for all, the array holds those that were made last, and the next walk those before.
 */
#define FEW 64
struct batch {
    struct pnx_registry *registry;
    uint32_t flags;
    pnx_ns deadline;
    struct pnx_batch_result result;
    bool late;
    int first; /* error of a cleanup */
    struct matched *rows;
    size_t n;
    size_t capacity;
    uint64_t before; /* rows from this serial number on have had their turn */
    bool full; /* there is no memory for more: the array is a heap, with the oldest row at its top */
    struct matched few[FEW];
};

static void note(struct batch *batch, int code) {
    if (code == -EAGAIN)
        batch->result.again++;
    else if (code && code != -EINPROGRESS)
        batch->result.failed++;
    else
        batch->result.done++;
    if (code && code != -EINPROGRESS && !batch->first)
        batch->first = code;
}

static void end_row(struct batch *batch, pnx_resource_id id) {
    if (pnx__now(&batch->registry->env) >= batch->deadline) {
        batch->result.left++;
        batch->late = true;
        return;
    }
    bool claimed;
    int rc = run(batch->registry, id, batch->deadline, &claimed);
    if (claimed) {
        pnx__registry_count_up(&batch->registry->values.forced);
        note(batch, rc);
    } else if (rc == -ENOTSUP || rc == -ENOMEM || rc == -EBUSY) {
        batch->result.left++;
        if (rc == -ENOMEM && !batch->first)
            batch->first = rc;
    } else {
        batch->result.busy++;
    }
}

static void treat(struct batch *batch, pnx_resource_id id) {
    struct pnx_row row;
    if (!look(batch->registry, id, &row) || pnx__word_state(row.word.v) != PNX_ROW_LIVE) {
        batch->result.busy++;
    } else if (may_run(&row, batch->flags)) {
        end_row(batch, id);
    } else if (pnx__row_ask(batch->registry, id) == 0) {
        batch->result.asked++;
        pnx__registry_count_up(&batch->registry->values.asked);
    } else {
        batch->result.busy++; /* it has just gone */
    }
}

static bool is_older(const void *a, const void *b) {
    const struct matched *x = a, *y = b;
    return x->serial < y->serial;
}

static bool is_newer(const void *a, const void *b) {
    return is_older(b, a);
}

static void grow(struct batch *batch) {
    size_t capacity = 4 * batch->capacity;
    struct matched *rows = pnx__alloc(&batch->registry->env, capacity, sizeof(*rows));
    struct matched spare;
    if (!rows) {
        batch->full = true;
        for (size_t i = batch->n / 2; i > 0; i--)
            pnx__sort_sift(batch->rows, i - 1, batch->n, sizeof(spare), &spare, is_newer);
        return;
    }
    memcpy(rows, batch->rows, batch->n * sizeof(*rows));
    if (batch->rows != batch->few)
        pnx__free(&batch->registry->env, batch->rows, batch->capacity, sizeof(*rows));
    batch->rows = rows;
    batch->capacity = capacity;
}

static int keep(void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info) {
    struct batch *batch = ctx;
    struct matched one = {pnx__row_serial(row), info->id}, spare;
    if (!pnx__row_is_ours(row) || one.serial >= batch->before)
        return 0; /* a parent process's: not ours to end */
    if (batch->n == batch->capacity && !batch->full)
        grow(batch);
    if (batch->n < batch->capacity) {
        batch->rows[batch->n++] = one;
    } else if (one.serial > batch->rows[0].serial) {
        batch->rows[0] = one;
        pnx__sort_sift(batch->rows, 0, batch->n, sizeof(spare), &spare, is_newer);
    }
    return 0;
}

static void run_batch(struct batch *batch, const struct pnx_resource_filter *filter) {
    struct matched spare;
    batch->rows = batch->few;
    batch->capacity = FEW;
    batch->before = UINT64_MAX;
    do {
        batch->n = 0;
        batch->full = false;
        (void)pnx__rows_walk(batch->registry, filter, keep, batch);
        pnx__sort(batch->rows, batch->n, sizeof(spare), &spare, is_newer);
        for (size_t i = 0; i < batch->n; i++) {
            batch->result.matched++;
            treat(batch, batch->rows[i].id);
        }
        if (batch->n > 0)
            batch->before = batch->rows[batch->n - 1].serial;
    } while (batch->full);
    if (batch->rows != batch->few)
        pnx__free(&batch->registry->env, batch->rows, batch->capacity, sizeof(*batch->rows));
}

int pnx_registry_cleanup_where(struct pnx_registry *registry,
        const struct pnx_resource_filter *filter, uint32_t flags, pnx_ns timeout,
        struct pnx_batch_result *ret_result) {
    registry = pnx__registry_resolve(registry);
    struct pnx_resource_filter own;
    if (flags & ~KNOWN_FLAGS || timeout < 0 ||
            (ret_result && ret_result->size < sizeof(ret_result->size)))
        return -EINVAL;
    int rc = pnx__filter_copy(filter, &own);
    if (rc)
        return rc;
    struct batch batch;
    memset(&batch, 0, offsetof(struct batch, few));
    batch.registry = registry;
    batch.flags = flags;
    if (!registry->off) {
        batch.deadline = pnx__deadline(pnx__now(&registry->env), timeout);
        run_batch(&batch, &own);
    }
    if (ret_result) {
        size_t size = ret_result->size;
        batch.result.size = size;
        memcpy(ret_result, &batch.result,
                size < sizeof(batch.result) ? size : sizeof(batch.result));
    }
    return batch.late ? -ETIMEDOUT : batch.first;
}
