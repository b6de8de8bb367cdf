/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - see request.h. */
#include "request.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int request_decode(const char *text, size_t size, char *out, size_t capacity, size_t *ret_size) {
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < size ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < size ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0 || (high | low) == 0)
                return -EINVAL;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (n == capacity)
            return -EFBIG;
        out[n++] = c;
    }
    *ret_size = n;
    return 0;
}

int request_number(const char *text, size_t size, uint64_t max, uint64_t *ret_number) {
    uint64_t number = 0;
    bool over = false;
    if (size == 0)
        return -EINVAL;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        uint64_t digit = (uint64_t)(text[i] - '0');
        over = over || number > (UINT64_MAX - digit) / 10;
        number = number * 10 + digit;
    }
    if (over || number > max)
        return -ERANGE;
    *ret_number = number;
    return 0;
}

static const struct {
    const char *path;
    const char *name;
} routes[ROUTE_COUNT] = {
        [ROUTE_NONE] = {NULL, "none"},
        [ROUTE_PAGE] = {"/", "page"},
        [ROUTE_SEARCH] = {"/search", "search"},
        [ROUTE_DOCUMENT] = {NULL, "documents"},
        [ROUTE_METRICS] = {"/metrics", "metrics"},
        [ROUTE_HEALTH] = {"/health", "health"},
        [ROUTE_STATS] = {"/stats.json", "stats"},
        [ROUTE_ICON] = {"/favicon.ico", "icon"},
        [ROUTE_CONSTANT] = {"/bench/constant", "constant"},
};

const char *request_route_name(enum request_route route) {
    return route < ROUTE_COUNT ? routes[route].name : "none";
}

enum request_route request_route(const char *path, uint64_t *ret_id) {
    static const char documents[] = "/documents/";
    size_t prefix = sizeof(documents) - 1;
    if (strncasecmp(path, "http://", 7) == 0) { /* the form that is meant for proxies */
        path += 7 + strcspn(path + 7, "/");
        path = *path ? path : "/";
    }
    if (strncmp(path, documents, prefix) == 0) {
        size_t size = strlen(path + prefix);
        /* One document has one address: no leading zeros. */
        if (size > 1 && path[prefix] == '0')
            return ROUTE_NONE;
        return request_number(path + prefix, size, INT64_MAX, ret_id) == 0 ? ROUTE_DOCUMENT
                                                                           : ROUTE_NONE;
    }
    for (unsigned i = 1; i < ROUTE_COUNT; i++)
        if (routes[i].path && strcmp(path, routes[i].path) == 0)
            return (enum request_route)i;
    return ROUTE_NONE;
}

bool request_etag_matches(const char *header, const char *etag) {
    size_t length = strlen(etag);
    for (const char *p = header; *p;) {
        p += strspn(p, " \t,");
        if (*p == '*')
            return true;
        if (strncmp(p, "W/", 2) == 0)
            p += 2;
        if (*p != '"')
            return false; /* not a list of tags */
        const char *end = strchr(p + 1, '"');
        if (!end)
            return false;
        if ((size_t)(end + 1 - p) == length && memcmp(p, etag, length) == 0)
            return true;
        p = end + 1;
    }
    return false;
}

enum request_range request_range(
        const char *header, uint64_t size, uint64_t *ret_first, uint64_t *ret_last) {
    if (!header || strncasecmp(header, "bytes=", 6) != 0 || strchr(header, ','))
        return RANGE_WHOLE;
    const char *from = header + 6 + strspn(header + 6, " \t");
    const char *dash = strchr(from, '-');
    if (!dash)
        return RANGE_WHOLE;
    size_t from_size = (size_t)(dash - from);
    size_t to_size = strcspn(dash + 1, " \t");
    if (dash[1 + to_size + strspn(dash + 1 + to_size, " \t")] != '\0')
        return RANGE_WHOLE;

    uint64_t first = 0, last = UINT64_MAX;
    if (from_size == 0) { /* the last N bytes */
        int r = request_number(dash + 1, to_size, UINT64_MAX, &last);
        if (r == -EINVAL)
            return RANGE_WHOLE;
        if (last == 0 || size == 0)
            return RANGE_UNSATISFIABLE;
        *ret_first = last < size ? size - last : 0;
        *ret_last = size - 1;
        return RANGE_PART;
    }
    int r = request_number(from, from_size, UINT64_MAX, &first);
    if (r == -EINVAL)
        return RANGE_WHOLE;
    if (r == -ERANGE) /* beyond any body, whatever follows is well-formed or not */
        first = UINT64_MAX;
    r = to_size ? request_number(dash + 1, to_size, UINT64_MAX, &last) : 0;
    if (r == -EINVAL || last < first)
        return RANGE_WHOLE;
    if (first >= size)
        return RANGE_UNSATISFIABLE;
    *ret_first = first;
    *ret_last = last < size ? last : size - 1;
    return RANGE_PART;
}
