/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/mapping.c - the life of a mapping once it is open, and what can be asked of it.
 *
 *   P1  The bytes stay mapped until the last reference is gone, and the last access scope has ended.
 *   P2  Dispose takes a mapping in any state of its making.
 */
#include "mapping/mapping.h"

#include "base/list.h"
#include "os/lost.h"

#include <patinox/fault.h>

#include <string.h>

/* ---- life ---- */

/* Nobody can be inside the bytes any more. */
static void dispose_memory(struct pnx_fault_record *record) {
    struct pnx_mapping *mapping = (struct pnx_mapping *)(void *)record;
    struct pnx_env env = mapping->env;
    size_t locked = mapping->locked_charged; /* unmapping unlocks */
    pnx__bytes_drop(mapping, &mapping->bytes);
    pnx_budget_uncharge(mapping->budget, locked);
    pnx__os_close(
            &mapping->fd); /* what was stored is the system's to write: nothing can be lost here */
    pnx_budget_release(&mapping->budget);
    pnx_registry_release(&mapping->registry);
    pnx__strfree(&env, mapping->name);
    pnx__strfree(&env, mapping->directory);
    pnx__free(&env, mapping, 1, sizeof(*mapping));
}

void pnx__mapping_dispose(struct pnx_mapping *mapping) {
    pnx__mapping_dead(mapping);
    if (mapping->row)
        pnx_registry_remove(mapping->registry, mapping->row);
    pnx__stats_remove(&mapping->block);
    if (mapping->fault.head.domain)
        pnx__fault_retire(&mapping->fault, dispose_memory);
    else
        dispose_memory(&mapping->fault);
}

struct pnx_mapping *pnx_mapping_ref(struct pnx_mapping *mapping) {
    if (mapping) /* relaxed: who has a reference can hand one on */
        pnx_fetch_add(&mapping->refs, 1, PNX_RELAXED, "mapping.ref");
    return mapping;
}

void pnx_mapping_release(struct pnx_mapping **mapping) {
    struct pnx_mapping *m = mapping ? *mapping : NULL;
    if (!m)
        return;
    *mapping = NULL;
    /* Pairs with itself: the last one sees all that others did with the mapping before they let go. */
    if (pnx_fetch_sub(&m->refs, 1, PNX_ACQ_REL, "mapping.release") == 1)
        pnx__mapping_dispose(m);
}

void pnx_mapping_close(struct pnx_mapping *mapping) {
    if (mapping) /* a wish, without data: no partner */
        pnx_store(&mapping->closed, 1, PNX_RELAXED, "mapping.close");
}

/* What a shutdown does: it must not unmap under somebody's view. */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_mapping_close(arg);
    return 0;
}

int pnx__mapping_register(struct pnx_mapping *mapping, const char *site, struct pnx_error *err) {
    return pnx_registry_add(mapping->registry,
            &(const struct pnx_resource){
                    .size = sizeof(struct pnx_resource),
                    .type = "mapping",
                    .name = mapping->name,
                    .site = site,
                    .cleanup = cleanup,
                    .arg = mapping,
                    .bytes = mapping->bytes.size,
                    .flags = PNX_RESOURCE_LONG_LIVED,
            },
            err, &mapping->row);
}

/* ---- questions ---- */

enum pnx_mapping_backing pnx_mapping_backing(const struct pnx_mapping *mapping) {
    return mapping ? pnx__mapping_look(mapping).bytes.backing : PNX_BACKING_EMPTY;
}

size_t pnx_mapping_size(const struct pnx_mapping *mapping) {
    return mapping ? pnx__mapping_look(mapping).bytes.size : 0;
}

int pnx_mapping_fd(const struct pnx_mapping *mapping) {
    return mapping ? mapping->fd : -1;
}

int pnx_mapping_read_info(struct pnx_mapping *mapping, struct pnx_mapping_info *ret_info) {
    if (!mapping || !ret_info || ret_info->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_mapping_look look = pnx__mapping_look(mapping);
    const struct pnx_mapping_bytes *bytes = &look.bytes;
    uint64_t locked = pnx_load(&mapping->values.locked, PNX_RELAXED, "mapping.info_locked");
    struct pnx_mapping_info info = {
            .size = ret_info->size,
            .backing = bytes->backing,
            .mode = mapping->mode,
            .huge = bytes->huge,
            .flags = mapping->flags,
            .epoch = look.epoch,
            .seals = look.seals,
            .offset = mapping->offset,
            .length = bytes->size,
            .reserve = bytes->size,
            .charged = bytes->charged + (bytes->charged ? 0 : locked),
            .views = look.views,
            .locked = locked,
    };
    if (bytes->backing == PNX_BACKING_MMAP && (mapping->flags & PNX_MAPPING_RESIZABLE))
        info.reserve = bytes->reserved - (size_t)(bytes->data - bytes->base);
    memcpy(ret_info, &info, ret_info->size < sizeof(info) ? ret_info->size : sizeof(info));
    return 0;
}

static int stale(struct pnx_mapping *mapping) {
    pnx_fetch_add(&mapping->values.stale, 1, PNX_RELAXED, "mapping.stale"); /* a statistic */
    return -ESTALE;
}

bool pnx__file_same(const struct pnx_file_info *then, const struct pnx_file_info *now,
        enum pnx_mapping_mode mode) {
    if (now->size != then->size || now->inode != then->inode || now->device != then->device)
        return false;
    if (mode == PNX_MAPPING_WRITE)
        return true;
    if (now->mtime_ns != then->mtime_ns)
        return false;
    /* Somebody who sets the modification time back cannot set this one; but a new or lost name moves it, too. */
    return now->ctime_ns == then->ctime_ns || now->links != then->links;
}

int pnx_mapping_changed(struct pnx_mapping *mapping) {
    struct pnx_file_info now;
    if (!mapping)
        return -EINVAL;
    struct pnx_mapping_look look = pnx__mapping_look(mapping);
    /* Files of /proc have bytes and no size, and times that say nothing. */
    if (mapping->fd < 0 || (look.seen.size == 0 && look.bytes.size > 0))
        return -ENOTSUP;
    int rc = pnx__os_fstat(mapping->fd, &now);
    if (rc)
        return rc == -ESTALE ? stale(mapping) : rc; /* what NFS says of a file that is gone */
    return pnx__file_same(&look.seen, &now, mapping->mode) ? 0 : stale(mapping);
}

/* Copies from the pages themselves, which are not those of the file, or for which there is no descriptor. */
static int copy_pages(struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, void *to, size_t n) {
    int rc = pnx__os_copy_by_system(to, bytes->data + offset, n, false);
    if (rc == -ENOTSUP) /* a sandbox forbids it */
        return pnx_fault_copy_out(mapping, offset, to, n);
    if (rc == -EFAULT)
        return mapping->fd < 0 ? stale(mapping) : -EIO;
    return rc;
}

static int copy_out(struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, void *dst, size_t n) {
    if (bytes->backing != PNX_BACKING_MMAP || mapping->anonymous) {
        memcpy(dst, bytes->data + offset, n);
        return 0;
    }
    if (mapping->mode == PNX_MAPPING_PRIVATE || mapping->fd < 0)
        return copy_pages(mapping, bytes, offset, dst, n);
    int64_t got = pnx__os_pread_full(mapping->fd, dst, n, mapping->offset + offset);
    if (got < 0)
        return (int)got;
    return (size_t)got == n ? 0 : stale(mapping);
}

int pnx_mapping_copy_out(struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n) {
    struct pnx_mapping_bytes bytes;
    if (!mapping || (!dst && n))
        return -EINVAL;
    int rc = pnx__mapping_hold(mapping, offset, n, &bytes);
    if (rc)
        return rc;
    pnx_fetch_add(&mapping->values.copy_outs, 1, PNX_RELAXED, "mapping.copy_out"); /* a statistic */
    if (n)
        rc = copy_out(mapping, &bytes, offset, dst, n);
    pnx__mapping_let_go(mapping);
    return rc;
}

void pnx__mapping_refresh(const struct pnx_stats_block *block) {
    const struct pnx_mapping *mapping = PNX_CONTAINER(block, const struct pnx_mapping, block);
    struct pnx_mapping_values *values = (struct pnx_mapping_values *)(void *)block->values;
    /* Relaxed, all: numbers. */
    uint64_t faults = pnx_load(&mapping->fault.faults, PNX_RELAXED, "mapping.faults_look");
    uint64_t io = pnx_load(&mapping->fault.io_faults, PNX_RELAXED, "mapping.io_faults_look");
    pnx_store(&values->faults, faults, PNX_RELAXED, "mapping.faults");
    pnx_store(&values->io_faults, io, PNX_RELAXED, "mapping.io_faults");
}

int pnx_mapping_read_stats(const struct pnx_mapping *mapping, struct pnx_mapping_stats *ret_stats) {
    if (!mapping || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_mapping_stats all = {.size = ret_stats->size};
    pnx__mapping_refresh(&mapping->block);
#define PNX_STAT(name, kind, unit, level, help) \
    all.name = pnx_load(&mapping->values.name, PNX_RELAXED, "mapping.stats." #name);
#include <patinox/stats/mapping.def>
#undef PNX_STAT
    memcpy(ret_stats, &all, ret_stats->size < sizeof(all) ? ret_stats->size : sizeof(all));
    return 0;
}
