/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scope.c - an explicit stack of cleanups: undo on error, marks, and a landing site of longjmp.
 *
 * Building something in steps, each of which has to be undone if a later one fails, is what scopes are for.  They need
 * no compiler extension.
 */
#include <patinox/guard.h>

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static int undo(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    printf("  undo %s\n", (const char *)arg);
    return 0;
}

static int announce(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    printf("  %s\n", (const char *)arg);
    return 0;
}

/* Does two steps, the second of which may fail.  Undoes all of it then. */
static int build(bool fail) {
    struct pnx_scope scope;
    pnx_scope_begin(&scope, NULL);
    int rc = pnx_scope_push(&scope, PNX_SCOPE_ON_ERROR, undo, "the first step");
    if (rc == 0)
        rc = pnx_scope_push(&scope, PNX_SCOPE_ON_SUCCESS, announce, "it is built");
    if (rc == 0 && fail)
        rc = -EIO; /* the second step fails */
    if (rc)
        pnx_scope_fail(&scope, rc);
    int ended = pnx_scope_end(&scope); /* the first cleanup's error, if any */
    return rc ? rc : ended;
}

/* Tries twice: what the first try has pushed is undone before the second. */
static int retry(void) {
    PNX_AUTO_SCOPE scope = {0};
    int rc = pnx_scope_reserve(&scope, 20); /* room beforehand, so that pushes cannot fail */
    for (int attempt = 1; rc == 0 && attempt <= 2; attempt++) {
        pnx_scope_position before = pnx_scope_mark(&scope);
        rc = pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, undo, attempt == 1 ? "try 1" : "try 2");
        if (rc == 0 && attempt == 1) {
            pnx_scope_fail(&scope, -EAGAIN);
            rc = pnx_scope_unwind(&scope, before); /* as if the try had never been */
        }
    }
    return rc; /* "try 2" is undone here, by the end of the scope */
}

/* A parser that leaves by longjmp: its cleanups are in a scope that the jump does not leave. */
static struct pnx_scope parser_scope;
static jmp_buf landing;

static void parse(void) {
    if (pnx_scope_push(&parser_scope, PNX_SCOPE_ALWAYS, undo, "the parser's buffer"))
        abort();
    longjmp(landing, 1);
}

int main(void) {
    printf("building:\n");
    if (build(false))
        return 1;
    printf("failing:\n");
    if (build(true) != -EIO)
        return 1;
    printf("retrying:\n");
    if (retry())
        return 1;
    printf("jumping:\n");
    pnx_scope_position mark = pnx_scope_mark(&parser_scope);
    if (setjmp(landing) == 0)
        parse();
    if (pnx_scope_unwind(&parser_scope, mark))
        return 1;
    pnx_scope_drop(&parser_scope);
    return 0;
}
