/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared objects: references, weak references, copy on write, chains, flexible and cyclic objects, on_drop.
 */
#include <patinox/rc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int rc, const char *what) {
    if (rc) {
        fprintf(stderr, "%s: %s\n", what, pnx_strerror(rc));
        exit(1);
    }
}

/* ---- a kind of object: a node that owns its title and its next ---- */

struct node {
    char *title;
    struct node *next;
};

static void node_drop(void *ctx, void *object) {
    struct node *node = object;
    (void)ctx;
    free(node->title);
    PNX_RC_CLEAR(node->next); /* a million of these need no deep stack */
}

static int node_clone(void *ctx, const void *object, void *ret_copy) {
    const struct node *from = object;
    struct node *to = ret_copy; /* zeroed */
    (void)ctx;
    to->title = strdup(from->title);
    if (!to->title)
        return -ENOMEM;
    to->next = pnx_rc_ref(from->next);
    return 0;
}

static const struct pnx_rc_type node_type =
        PNX_RC_TYPE(struct node, .clone = node_clone, .drop = node_drop);
PNX_RC_DEFINE(node, struct node, node_type) /* node_new, node_ref, node_release, ... */

static struct node *make(const char *title, struct node *next) {
    struct node *node = NULL;
    must(node_new(&(struct node){.title = strdup(title), .next = next}, &node), "node_new");
    return node;
}

static int retitle(void *ctx, void *object) {
    struct node *node = object;
    char *title = strdup(ctx);
    if (!title)
        return -ENOMEM;
    free(node->title);
    node->title = title;
    return 0;
}

static void sharing(void) {
    PNX_AUTO_RC struct node *a = make("first draft", NULL); /* let go at the end of the scope */
    struct node *b = node_ref(a);
    printf("a has %u references, unique: %s\n", pnx_rc_count(a), node_unique(a) ? "yes" : "no");

    /* b wants to write: it gets a copy, since a shares the object. */
    must(node_make_mut(&b), "make_mut");
    must(retitle("second draft", b), "retitle");
    printf("a is \"%s\", b is \"%s\"\n", a->title, b->title);

    /* The same as one step that changes nothing when the edit fails. */
    void *handle = b;
    must(pnx_rc_update(&handle, retitle, "third draft"), "update");
    b = handle;

    /* In place, and only if nobody else could see it. */
    struct node *c = node_ref(b);
    printf("try_update while shared: %s\n", pnx_errname(pnx_rc_try_update(b, retitle, "x")));
    node_release(&c);
    must(pnx_rc_try_update(b, retitle, "final"), "try_update");
    printf("b is \"%s\"\n", b->title);

    must(node_copy(b, &c), "copy"); /* typed pnx_rc_clone() */
    node_release(&c);
    node_release(&b);
}

static void weak(void) {
    struct node *a = make("watched", NULL);
    PNX_AUTO_WEAK observer = node_weak(a);
    PNX_AUTO_WEAK other = pnx_weak_ref(&observer);
    struct node *held = node_upgrade(&observer);
    printf("%u weak references; upgraded: %s\n", pnx_rc_weak_count(a), held->title);
    node_release(&held);
    node_release(&a);
    printf("after the last release: %s\n", pnx_weak_upgrade(&other) ? "still there" : "gone");
}

/* ---- a flexible object, plain bytes: needs neither clone nor drop ---- */

struct text {
    size_t n;
    char bytes[];
};
static const struct pnx_rc_type text_type = PNX_RC_TYPE(struct text);

static void flexible(void) {
    const char *words = "of any length";
    void *object = NULL;
    must(pnx_rc_new_flexible(&text_type, &(struct text){strlen(words)}, strlen(words) + 1, &object),
            "new_flexible");
    struct text *text = object;
    memcpy(text->bytes, words, strlen(words) + 1);
    printf("%s \"%s\", %zu bytes\n", pnx_rc_type_of(text)->name, text->bytes, pnx_rc_size(text));
    PNX_RC_CLEAR(text);
}

/* ---- an object that its own parts know, and others who want to hear of its end ---- */

struct session {
    struct pnx_weak self; /* given to timers, callbacks ... */
    int number;
};

static void session_drop(void *ctx, void *object) {
    struct session *session = object;
    (void)ctx;
    pnx_weak_release(&session->self);
}
static const struct pnx_rc_type session_type = PNX_RC_TYPE(struct session, .drop = session_drop);
PNX_RC_DEFINE(session, struct session, session_type)

static int know_thyself(void *ctx, void *object, const struct pnx_weak *self) {
    struct session *session = object;
    (void)ctx;
    session->self = pnx_weak_ref(self); /* nobody can upgrade it before we have returned */
    return 0;
}

static void forget(void *arg) {
    printf("%s: the session is gone\n", (const char *)arg);
}

static void cyclic(void) {
    struct session *session = NULL;
    must(session_new_cyclic(&(struct session){.number = 7}, know_thyself, NULL, &session),
            "new_cyclic");
    struct session *again = session_upgrade(&session->self);
    printf("session %d knows itself\n", again->number);
    session_release(&again);

    char name[] = "timer", other[] = "log";
    struct pnx_rc_drop_node timer = {0}, log = {0};
    must(session_on_drop(session, &timer, forget, name), "on_drop");
    must(session_on_drop(session, &log, forget, other), "on_drop");
    must(pnx_rc_on_drop_remove(&log), "on_drop_remove"); /* does not want to know any more */
    session_release(&session);
}

/* ---- all objects of a kind, in numbers ---- */

static struct pnx_rc_tally *points; /* set before the first point is made */
struct point {
    double x, y;
};
static const struct pnx_rc_type point_type = PNX_RC_TYPE(struct point, .tally = &points);
PNX_RC_DEFINE(point, struct point, point_type)

static void numbers(void) {
    struct point *made[10] = {NULL};
    struct pnx_rc_tally_stats stats = {.size = sizeof(stats)};
    must(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.name = "points"), NULL, &points), "tally");
    for (int i = 0; i < 10; i++)
        must(point_new(&(struct point){i, i}, &made[i]), "point_new");
    must(pnx_rc_tally_read_stats(points, &stats), "read_stats");
    printf("%d points, %d bytes\n", (int)stats.live, (int)stats.bytes);
    for (int i = 0; i < 10; i++)
        point_release(&made[i]);
    pnx_rc_tally_release(&points);
}

static void chain(void) {
    struct node *head = NULL;
    for (int i = 0; i < 100000; i++)
        head = make("link", head);
    node_release(&head);
    puts("a chain of 100000 is gone");
}

int main(void) {
    sharing();
    weak();
    flexible();
    cyclic();
    numbers();
    chain();
    printf("%llu objects leaked\n", (unsigned long long)pnx_rc_saturated());
    return pnx_rc_saturated() != 0;
}
