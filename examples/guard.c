/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.c - ending what was begun, on every way out: PNX_DEFER, PNX_AUTO, PNX_TAKE, and guards as values.
 *
 * The resource is a temporary file.  A guard deletes it on every error path; a guard that is tracked in a registry
 * can also be run by a shutdown, and shows up in reports until then.
 */
#include <patinox/guard.h>
#include <patinox/shutdown.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A cleanup: 0 or a negative error.  What it needs comes as its argument. */
static int delete_file(void *arg, const struct pnx_cancel *cancel) {
    char *path = arg;
    (void)cancel; /* deleting takes no time worth asking for */
    int rc = unlink(path) == 0 ? 0 : -errno;
    printf("deleted a file: %s\n", pnx_strerror(rc));
    free(path);
    return rc;
}

/*
 * Makes a file and fills it.  Whatever goes wrong, the file is gone again; when all is well, the caller gets the
 * guard with the file in it.
 */
static int make_file(const char *text, struct pnx_guard *ret_guard) {
    char *path = strdup("/tmp/pnx-example-XXXXXX");
    if (!path)
        return -ENOMEM;
    int fd = mkstemp(path);
    if (fd < 0) {
        int rc = -errno;
        free(path);
        return rc;
    }
    PNX_AUTO_GUARD guard = {0}; /* dropped on every return below */
    int rc = pnx_guard_arm(&guard, delete_file, path);
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    if (rc || n != (ssize_t)strlen(text))
        return rc ? rc : -EIO;
    *ret_guard = pnx_guard_move(&guard); /* not dropped here any more */
    return 0;
}

static void say(void *word) {
    printf("%s\n", (const char *)word);
}

static void free_text(char **text) {
    free(*text);
}

/* Deferred calls run in reverse order, after the return value is known. */
static char *greet(const char *name) {
    PNX_DEFER(say, (void *)"second");
    PNX_DEFER(say, (void *)"first");
    PNX_AUTO(char *, text, free_text, malloc(64));
    if (!text)
        return NULL;
    PNX_DEFER(say, (void *)"the text is made");
    snprintf(text, 64, "hello, %s", name);
    return PNX_TAKE(text); /* it leaves; free_text() finds NULL */
}

int main(void) {
    char *text = greet("world");
    PNX_DEFER(free, text);
    if (!text)
        return 1;

    /* PNX_AUTO declares any variable together with the function that releases it. */
    PNX_AUTO(struct pnx_registry *, registry, pnx_registry_release, NULL);
    if (pnx_registry_create(PNX_REGISTRY_OPTS(.name = "files"), NULL, &registry))
        return 1;

    PNX_AUTO_GUARD kept = {0};
    PNX_AUTO_GUARD tracked = {0};
    if (make_file(text, &kept) || make_file(text, &tracked))
        return 1;

    /* Dismissed: the file is ours again, and its cleanup will not run by itself. */
    char *path = pnx_guard_dismiss(&kept);
    printf("armed after dismissal: %d\n", pnx_guard_armed(&kept));
    if (!path || pnx_guard_arm(&kept, delete_file, path))
        return 1;
    if (pnx_guard_run(&kept)) /* now, with a status */
        return 1;

    /* Tracked: guard and row are one.  Here the registry ends it, and the guard's drop finds nothing to do. */
    struct pnx_error err;
    if (pnx_guard_track(&tracked, registry, PNX_RESOURCE(.type = "temporary file"), &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("row %s, %zu live\n", pnx_guard_id(&tracked) ? "made" : "missing",
            pnx_registry_count(registry));
    if (pnx_guard_asked(&tracked)) /* a long use looks now and then whether it should end */
        pnx_guard_drop(&tracked);
    return pnx_registry_shutdown(registry, PNX_SEC, NULL) ? 1 : 0;
}
