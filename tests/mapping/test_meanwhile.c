/* SPDX-License-Identifier: Apache-2.0 */
/* What may be done with a mapping while another thread resizes or seals it. */
#include "mapping/help_file.h"

#include <patinox/fault.h>

/* ---- resizes and seals that wait for access scopes ---- */

struct in_scope {
    struct pnx_mapping *mapping;
    int (*change)(struct pnx_mapping *mapping);
    int expected;
    bool keeps; /* the view, beyond the scope, until the change has been refused */
    uint32_t open, over;
};

static int shrink_it(struct pnx_mapping *mapping) {
    return pnx_mapping_resize(mapping, 20000, 0, NULL);
}

static int replace_it(struct pnx_mapping *mapping) {
    return pnx_mapping_resize(mapping, 0, 0, NULL);
}

static int seal_it(struct pnx_mapping *mapping) {
    return pnx_mapping_seal(mapping, PNX_SEAL_WRITE, NULL);
}

static void await(const uint32_t *flag) {
    while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE))
        sched_yield(); /* the test's limit is the limit */
}

static void change_or_look(unsigned index, void *ctx) {
    struct in_scope *state = ctx;
    struct pnx_fault_scope scope = {0}, probe = {0};
    if (index == 0) {
        await(&state->open);
        CHECK_EQ(state->change(state->mapping), state->expected);
        __atomic_store_n(&state->over, 1, __ATOMIC_RELEASE);
        return;
    }
    CHECK_EQ(pnx_fault_begin(state->mapping, &scope), 0);
    __atomic_store_n(&state->open, 1, __ATOMIC_RELEASE);
    int rc;
    while ((rc = pnx_fault_begin(state->mapping, &probe)) == 0) { /* until scopes are waited for */
        CHECK_EQ(pnx_fault_end(&probe), 0);
        sched_yield();
    }
    CHECK_EQ(rc, -EBUSY);
    struct pnx_view view = pnx_view_all(state->mapping); /* as the guide does it: in the scope */
    unsigned char byte = 0;
    CHECK_EQ(view.n, 50000);
    CHECK_EQ(view.p[40000], byte_at(40000));
    CHECK_EQ(pnx_mapping_copy_out(state->mapping, 40000, &byte, 1), 0);
    CHECK_EQ(byte, byte_at(40000));
    if (!state->keeps)
        pnx_view_release(&view);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    if (state->keeps) {
        await(&state->over);
        CHECK_EQ(view.p[40000], byte_at(40000));
        pnx_view_release(&view);
    }
}

/* Neither waits for the other: the view for the change to be over, and the change for the scope to end. */
TEST(p3_a_view_can_be_had_in_a_scope_for_which_a_change_of_the_mapping_waits) {
    int (*const changes[])(struct pnx_mapping *) = {shrink_it, replace_it, seal_it, seal_it};
    for (unsigned i = 0; i < 8; i++) {
        struct in_scope state = {.change = changes[i % 4], .keeps = i >= 4 && i % 4 != 3};
        uint32_t flags = i % 4 == 3 ? 0 : PNX_MAPPING_RESIZABLE; /* whose views are not counted */
        state.expected = state.keeps ? -EBUSY : 0;
        if (state.change == seal_it) {
            int rc = pnx_mapping_open_memfd(
                    PNX_MAPPING_OPTS(.length = 50000, .flags = flags), NULL, &state.mapping);
            if (rc == -ENOTSUP)
                continue;
            CHECK_EQ(rc, 0);
            *at(state.mapping, 40000, 1) = byte_at(40000);
        } else {
            state.mapping = opened(make_file("in_scope", 50000), PNX_MAPPING_OPTS(.flags = flags));
        }
        test_threads(2, change_or_look, &state);
        CHECK_EQ(info_of(state.mapping).views, 0);
        pnx_mapping_release(&state.mapping);
    }
}

static void resize_or_ask(unsigned index, void *ctx) {
    struct in_scope *state = ctx;
    if (index == 0) {
        for (uint64_t i = 0; i < 300; i++)
            resized(state->mapping, i % 2 ? 30000 : 50000, 0);
        __atomic_store_n(&state->over, 1, __ATOMIC_RELEASE);
        return;
    }
    while (!__atomic_load_n(&state->over, __ATOMIC_ACQUIRE)) {
        uint64_t offset = 1;
        CHECK_EQ(pnx_fault_state(state->mapping, &offset), 0);
        CHECK_EQ(offset, 1);
    }
}

TEST(a_mapping_can_be_asked_for_faults_while_it_is_resized) {
    struct in_scope state = {.mapping = opened(make_file("asked", 50000),
                                     PNX_MAPPING_OPTS(.flags = PNX_MAPPING_RESIZABLE))};
    test_threads(2, resize_or_ask, &state);
    pnx_mapping_release(&state.mapping);
}

/* ---- seals ---- */

/* One thread seals the content, the others use it by each call that reads it, until they see that. */
static void seal_content_or_use(unsigned index, void *ctx) {
    struct pnx_mapping *mapping = ctx;
    struct pnx_view view = {.p = NULL};
    if (index == 0) {
        CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, NULL), 0);
        return;
    }
    do {
        unsigned char byte = 0;
        CHECK_EQ(pnx_mapping_copy_out(mapping, 9999, &byte, 1), 0);
        CHECK_EQ(byte, 7);
        CHECK(pnx_mapping_populate(mapping, 0, 10000, PNX_POPULATE_READ) >= 0);
        int rc = pnx_mapping_populate(mapping, 0, 10000, PNX_POPULATE_WRITE);
        CHECK(rc >= 0 || rc == -EACCES);
        CHECK_EQ(pnx_mapping_flush(mapping, 0, 10000, PNX_FLUSH_SYNC), 0);
        CHECK(pnx_mapping_advise(mapping, 0, 10000, PNX_ADVICE_WILLNEED) >= 0);
        CHECK_EQ(pnx_view_get(mapping, 0, 10000, &view), 0);
        view = pnx_view_all(mapping);
        CHECK_EQ(view.n, 10000);
        /* Not pnx_view_at_mut(): a view from before the content was sealed has ended, which debug builds would say. */
    } while (view.flags & PNX_VIEW_WRITABLE_);
    CHECK_EQ(view.p[9999], 7);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, PNX_POPULATE_WRITE), -EACCES);
}

TEST(content_is_sealed_while_others_get_views_and_use_it) {
    for (int i = 0; i < 100; i++) {
        struct pnx_mapping *mapping = NULL;
        CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 10000), NULL, &mapping), 0);
        *at(mapping, 9999, 1) = 7;
        test_threads(3, seal_content_or_use, mapping);
        pnx_mapping_release(&mapping);
    }
}
