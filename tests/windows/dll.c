/* SPDX-License-Identifier: Apache-2.0 */
/* dll.c - a program that uses libpatinox.dll: what headers inline shares the calling thread's record with the DLL. */
#include <patinox/budget.h>
#include <patinox/cmap.h>
#include <patinox/error.h>
#include <patinox/fault.h>
#include <patinox/guard.h>
#include <patinox/mapping.h>
#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/rwdata.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition); \
            return 1; \
        } \
    } while (0)

static int use(void) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_fault_scope scope;
    pnx_reclaim_enter(NULL);
    pnx_reclaim_enter(NULL);
    CHECK(pnx_reclaim_barrier(NULL, 0) == -EDEADLK); /* the DLL knows of the section */
    pnx_reclaim_exit(NULL);
    pnx_reclaim_exit(NULL);
    CHECK(pnx_reclaim_barrier(NULL, PNX_NEVER) == 0);
    CHECK(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 5000), NULL, &mapping) == 0);
    CHECK(pnx_fault_begin(mapping, &scope) == 0);
    CHECK(pnx_view_all(mapping).p[4999] == 0);
    CHECK(pnx_fault_end(&scope) == 0);
    pnx_mapping_release(&mapping);
    return 0;
}

static void *thread_main(void *arg) {
    *(int *)arg = use();
    return NULL;
}

int main(void) {
    pthread_t thread;
    int failed = 1;
    CHECK(use() == 0);
    CHECK(pthread_create(&thread, NULL, thread_main, &failed) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(failed == 0);
    CHECK(strcmp(pnx_errname(-ESTALE), "ESTALE") == 0);
    printf("version %s of the DLL\n", pnx_version());
    return 0;
}
