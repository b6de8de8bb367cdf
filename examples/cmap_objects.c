/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A concurrent map from names to objects: sessions, made once, read without locks.
 */
#include <patinox/cmap.h>

#include <stdio.h>
#include <stdlib.h>

struct session {
    char user[16];
    int number;
};
static const struct pnx_rc_type session_type = PNX_RC_TYPE(struct session);

struct point {
    uint64_t x;
    uint64_t y;
};
PNX_CMAP_DEFINE_RC(grid, struct point, struct session) /* keys of one size, objects by pointer */

static void must(int rc, const char *what) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, pnx_errname(rc));
        exit(1);
    }
}

/* Makes a session: on one thread, while all others who ask for this name wait for it. */
static int open_session(void *ctx, uint64_t *ret_value) {
    struct session session = {.number = 1};
    void *object = NULL;
    snprintf(session.user, sizeof(session.user), "%s", (const char *)ctx);
    int rc = pnx_rc_new(&session_type, &session, &object);
    *ret_value = pnx_cmap_value(object); /* the reference passes to the map */
    return rc;
}

int main(void) {
    struct pnx_error err;
    struct pnx_cmap *map = NULL;
    must(pnx_cmap_create(PNX_CMAP_OPTS(.name = "sessions", .flags = PNX_CMAP_RC), &err, &map),
            "create");

    char name[] = "ada";
    uint64_t value = 0;
    must(pnx_cmap_get_or_insert_with(map, name, 3, open_session, name, &err, &value), "open");
    PNX_AUTO_RC struct session *ada = pnx_cmap_object(value); /* a reference of ours */

    /* A short look needs no reference, only a section. */
    pnx_reclaim_enter(NULL);
    must(pnx_cmap_peek(map, name, 3, &value), "peek");
    const struct session *seen = pnx_cmap_object(value);
    printf("%s has session %d\n", seen->user, seen->number);
    pnx_reclaim_exit(NULL);

    struct pnx_cmap_item items[2] = {{.key = "ada", .key_size = 3}, {.key = "eve", .key_size = 3}};
    printf("%d of 2 names are known\n", pnx_cmap_get_batch(map, items, 2));
    pnx_rc_unref(pnx_cmap_object(items[0].value));

    if (pnx_cmap_put_if_absent(map, name, 3, pnx_cmap_value(ada), NULL) != -EEXIST)
        return 1;
    if (pnx_cmap_replace_if(map, name, 3, pnx_cmap_value(map), pnx_cmap_value(ada)) !=
            PNX_E_CONFLICT)
        return 1;
    must(pnx_cmap_remove(map, name, 3, &value), "remove");
    PNX_AUTO_RC struct session *removed = pnx_cmap_object(value); /* lives on in our hands */
    printf("removed %s, found again: %s\n", removed->user,
            pnx_errname(pnx_cmap_get(map, name, 3, &value)));
    must(pnx_cmap_put(map, name, 3, pnx_cmap_value(ada)), "put");
    must(pnx_cmap_remove_if(map, name, 3, pnx_cmap_value(ada)), "remove_if");
    pnx_cmap_close(map);
    printf("after close: %s\n", pnx_errname(pnx_cmap_get(map, name, 3, &value)));
    pnx_cmap_release(&map);

    struct pnx_cmap *points = NULL;
    must(grid_create(NULL, &err, &points), "create");
    must(grid_put(points, (struct point){1, 2}, ada), "put");
    PNX_AUTO_RC struct session *there = grid_get(points, (struct point){1, 2});
    printf("at 1, 2: %s\n", there ? there->user : "nobody");
    pnx_cmap_release(&points);

    /* Words have short calls of their own. */
    struct pnx_cmap *words = NULL;
    must(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8), &err, &words), "create");
    must(pnx_cmap_put(words, &(uint64_t){7}, 8, 49), "put");
    must(pnx_cmap_get_word(words, 7, &value), "get_word");
    pnx_reclaim_enter(NULL);
    must(pnx_cmap_peek_word(words, 7, &value), "peek_word");
    pnx_reclaim_exit(NULL);
    printf("7 is %llu\n", (unsigned long long)value);
    pnx_cmap_release(&words);
    return 0;
}
