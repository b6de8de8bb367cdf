/* SPDX-License-Identifier: Apache-2.0 */
/* Lists: against an array as the model. */
#include "base/list.h"
#include "harness/harness.h"

#define N 32

struct item {
    int before; /* so that the link is not at the start */
    struct pnx_link link;
};

static struct item items[N];

static void check_same(struct pnx_link *list, const int *model, int n) {
    int i = 0;
    PNX_LIST_EACH (link, after, list) {
        CHECK(i < n);
        CHECK(PNX_CONTAINER(link, struct item, link) == &items[model[i]]);
        CHECK(link->next->prev == link && link->prev->next == link);
        i++;
    }
    CHECK_EQ(i, n);
    CHECK_EQ(pnx__list_empty(list), n == 0);
    CHECK(pnx__list_first(list) == (n ? &items[model[0]].link : NULL));
    CHECK(pnx__list_last(list) == (n ? &items[model[n - 1]].link : NULL));
    int linked = 0;
    for (int k = 0; k < N; k++)
        linked += pnx__list_linked(&items[k].link);
    CHECK_EQ(linked, n);
}

TEST(random_operations_agree_with_a_model) {
    struct pnx_link list;
    int model[N], n = 0;
    uint64_t state = test_seed();
    pnx__list_init(&list);
    memset(items, 0, sizeof(items));
    for (int step = 0; step < 20000; step++) {
        int k = (int)(test_random(&state) % N), at = 0;
        while (at < n && model[at] != k)
            at++;
        switch (test_random(&state) % 4) {
        case 0:
            if (at == n) {
                pnx__list_push_back(&list, &items[k].link);
                model[n++] = k;
            }
            break;
        case 1:
            if (at == n) {
                pnx__list_push_front(&list, &items[k].link);
                memmove(model + 1, model, (size_t)n++ * sizeof(model[0]));
                model[0] = k;
            }
            break;
        case 2:
            pnx__list_remove(&items[k].link); /* nothing happens to one that is on no list */
            if (at < n)
                memmove(model + at, model + at + 1, (size_t)(--n - at) * sizeof(model[0]));
            break;
        default:
            CHECK(pnx__list_pop_front(&list) == (n ? &items[model[0]].link : NULL));
            if (n)
                memmove(model, model + 1, (size_t)--n * sizeof(model[0]));
            break;
        }
        check_same(&list, model, n);
    }
}

TEST(the_current_element_may_be_removed_during_a_walk) {
    struct pnx_link list;
    pnx__list_init(&list);
    memset(items, 0, sizeof(items));
    for (int i = 0; i < N; i++)
        pnx__list_push_back(&list, &items[i].link);
    int seen = 0;
    PNX_LIST_EACH (link, after, &list) {
        CHECK(link == &items[seen].link);
        if (seen++ % 2 == 0)
            pnx__list_remove(link);
    }
    CHECK_EQ(seen, N);
    int left = 0;
    PNX_LIST_EACH (link, after, &list) {
        left++;
        pnx__list_remove(link);
    }
    CHECK_EQ(left, N / 2);
    CHECK(pnx__list_empty(&list));
    PNX_LIST_EACH (link, after, &list) {
        CHECK(link == NULL); /* not reached */
    }
}
