/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - what a registry remembers of a resource: who made it, who used it last.  PATINOX_REGISTRY=paranoid does
 * for the process's registry what the option does here.
 */
#include <patinox/trace.h>

#include <stdio.h>

int main(void) {
    struct pnx_registry *registry;
    pnx_resource_id id;
    if (pnx_registry_create(PNX_REGISTRY_OPTS(.level = PNX_LEVEL_PARANOID), NULL, &registry) ||
            pnx_registry_add(registry, PNX_RESOURCE(.type = "cursor"), NULL, &id))
        return 1;
    if (pnx_registry_touch(registry, id, "fetched") || pnx_registry_touch(registry, id, "rewound"))
        return 1;

    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    if (pnx_registry_trace(registry, id, &trace))
        return 1;
    printf("made by %u calls, one inside the other\n", trace.n_frames);
    for (uint32_t i = 0; i < trace.n_touches; i++)
        printf("%s at %s by thread %llu\n", trace.touches[i].note, trace.touches[i].site,
                (unsigned long long)trace.touches[i].thread);

    /* Enough seen: from here on it costs nothing again. */
    int rc = pnx_registry_set_level(registry, PNX_LEVEL_SIMPLE);
    if (pnx_registry_current_level(registry) != PNX_LEVEL_SIMPLE)
        rc = 1;
    (void)pnx_registry_remove(registry, id);
    pnx_registry_release(&registry);
    return rc ? 1 : 0;
}
