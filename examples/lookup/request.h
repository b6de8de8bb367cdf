/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.h - what a client's text means: percent-encoding, numbers, paths, ETags, ranges.  Pure functions.
 *
 *   P1  Nothing here reads past the size that it was given, whatever the bytes.
 *   P2  A text is accepted only as a whole: trailing garbage, signs and overflow are errors.
 */
#ifndef LOOKUP_REQUEST_H
#define LOOKUP_REQUEST_H

#include <patinox/base.h>

#define REQUEST_URL_MAX    2048u /* bytes of path and query together; more is 414 */
#define REQUEST_HEADER_MAX 8192u /* bytes of a request's head; more is 431 */

/*
 * Decodes %XX of size bytes into out (capacity bytes; may be the same memory).  *ret_size is the length.
 * -EINVAL for a % without two hexadecimal digits or an encoded NUL, -EFBIG when out is too small.
 */
PNX_NODISCARD int request_decode(
        const char *text, size_t size, char *out, size_t capacity, size_t *ret_size);

/* Reads a decimal number of digits only.  -EINVAL (also when empty), -ERANGE above max. */
PNX_NODISCARD int request_number(const char *text, size_t size, uint64_t max, uint64_t *ret_number);

enum request_route {
    ROUTE_NONE = 0, /* there is no such thing: 404 */
    ROUTE_PAGE,
    ROUTE_SEARCH,
    ROUTE_DOCUMENT,
    ROUTE_METRICS,
    ROUTE_HEALTH,
    ROUTE_STATS,
    ROUTE_ICON,
    ROUTE_CONSTANT, /* --bench-constant */
    ROUTE_COUNT,
};

/* Returns a name for labels: "search", ... */
const char *request_route_name(enum request_route route);

/*
 * Finds what a raw (still encoded) path asks for.  Only the exact spelling counts: a path with "..", "//" or
 * encoded characters is none of ours.  *ret_id is the number in /documents/ID, else untouched.
 */
enum request_route request_route(const char *path, uint64_t *ret_id);

/* Returns whether an If-None-Match header names the ETag (with its quotes), by weak comparison. */
bool request_etag_matches(const char *header, const char *etag);

enum request_range {
    RANGE_WHOLE, /* no range, one that is malformed, of another unit, or several: send everything */
    RANGE_PART,  /* 206, from first to last (inclusive) */
    RANGE_UNSATISFIABLE, /* 416 */
};

/* Reads a Range header (NULL: none) for a body of size bytes. */
enum request_range request_range(
        const char *header, uint64_t size, uint64_t *ret_first, uint64_t *ret_last);

#endif
