/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_source.c - a text from elsewhere than a file, fetched by a function of the user's.
 *
 * The source hands over what it has; the buffer grows by doubling and never beyond max_bytes and the NUL.  A failure
 * of the buffer's sticks, so that a source that looks at no return value cannot publish half a text.
 */
#include "share/callback.h"
#include "share/check.h"
#include "share/config.h"

#include <string.h>

#define ROOM_FIRST 4096

/* Lives on the stack of pnx__config_fetch(). */
struct pnx_config_fetch {
    const struct pnx_env *env;
    const char *tag; /* of the text that we have */
    size_t max;
    int rc; /* the first failure of add */
    struct pnx_text text;
};

const char *pnx_config_fetch_tag(const struct pnx_config_fetch *fetch) {
    return fetch ? fetch->tag : "";
}

void pnx_config_fetch_set_tag(struct pnx_config_fetch *fetch, const char *tag) {
    if (!fetch)
        return;
    size_t n = tag ? strlen(tag) : 0;
    if (n > sizeof(fetch->text.tag) - 1)
        n = sizeof(fetch->text.tag) - 1;
    memset(fetch->text.tag, 0, sizeof(fetch->text.tag));
    if (n)
        memcpy(fetch->text.tag, tag, n);
}

/* Makes room for n bytes more and the NUL. */
static int grow(struct pnx_config_fetch *fetch, size_t n) {
    struct pnx_text *text = &fetch->text;
    PNX_DEBUG_CHECK(text->bytes ? text->n < text->room : text->n == 0 && text->room == 0);
    if (n > fetch->max - text->n)
        return -EFBIG;
    size_t want = text->n + n + 1;
    if (want <= text->room)
        return 0;
    size_t room = text->room ? 2 * text->room : ROOM_FIRST;
    if (room > fetch->max + 1)
        room = fetch->max + 1;
    if (room < want)
        room = want;
    char *bytes = pnx__alloc(fetch->env, room, 1);
    if (!bytes)
        return -ENOMEM;
    if (text->n)
        memcpy(bytes, text->bytes, text->n);
    pnx__free(fetch->env, text->bytes, text->room, 1);
    text->bytes = bytes;
    text->room = room;
    return 0;
}

int pnx_config_fetch_add(struct pnx_config_fetch *fetch, const char *text, size_t n) {
    if (!fetch || (!text && n))
        return -EINVAL;
    if (fetch->rc == 0)
        fetch->rc = grow(fetch, n);
    if (fetch->rc)
        return fetch->rc;
    if (n)
        memcpy(fetch->text.bytes + fetch->text.n, text, n);
    fetch->text.n += n;
    fetch->text.bytes[fetch->text.n] = '\0';
    return 0;
}

int pnx__config_fetch(
        struct pnx_config *config, bool fresh, struct pnx_error *err, struct pnx_text *ret_text) {
    struct pnx_config_fetch fetch = {.env = &config->env,
            .tag = fresh ? "" : config->seen.tag,
            .max = config->opts.max_bytes};
    struct pnx_error said = {0};
    pnx__mutex_assert_none_held();
    int rc = config->opts.source(config->opts.ctx, &fetch, &said);
    bool unchanged = rc == PNX_CONFIG_UNCHANGED;
    if (fetch.rc)
        rc = pnx__fail(err, fetch.rc, 0, "source", "%s: %s", config->prefix,
                fetch.rc == -EFBIG ? "has more bytes than max_bytes" : "no memory for the text");
    else if (unchanged && !fetch.tag[0])
        rc = pnx__fail(err, -EINVAL, 0, "source",
                "%s: the source says unchanged, but was given no tag", config->prefix);
    else if (unchanged)
        rc = PNX_CONFIG_UNCHANGED;
    else if (rc)
        rc = pnx__callback_fail(err, pnx__callback_code(rc), &said, "source", config->prefix);
    else if (!fetch.text.bytes && pnx_config_fetch_add(&fetch, "", 0)) /* an empty text */
        rc = pnx__fail(err, -ENOMEM, 0, "source", "%s: no memory for the text", config->prefix);
    if (rc)
        pnx__config_text_free(&config->env, &fetch.text);
    else
        *ret_text = fetch.text;
    return rc;
}
