/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin with the static library inside, for test_reclaim_unload.c. */
#include <patinox/patinox.h>

#include <stdlib.h>

__attribute__((visibility("default"))) int plugin_use(void);
__attribute__((visibility("default"))) int plugin_end(void);

static void free_node(struct pnx_reclaim_node *node) {
    free(node); /* the only member */
}

/* From any thread of the program: reads, retires, frees. */
int plugin_use(void) {
    for (int i = 0; i < 100; i++) {
        struct pnx_reclaim_node *node = malloc(sizeof(*node));
        if (!node)
            return 1;
        pnx_reclaim_enter(NULL);
        pnx_reclaim_retire(NULL, node, free_node, sizeof(*node));
        pnx_reclaim_exit(NULL);
    }
    (void)pnx_reclaim_tick(NULL, pnx_now());
    return pnx_reclaim_in_section(NULL);
}

/* Before the unloading. */
int plugin_end(void) {
    return pnx_reclaim_unload(10 * PNX_SEC);
}
