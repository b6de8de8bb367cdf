/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snippet.h - the SQL function lookup_snippet(offset, size, query): the part of a text that shows why it matches.
 *
 * The index is contentless, so the text is taken from the mapped file of texts, through a checked view.
 * Each match stands between the two marks below, which are in the text for no other reason: whoever shows it to
 * somebody takes them out.
 */
#ifndef LOOKUP_SNIPPET_H
#define LOOKUP_SNIPPET_H

#include <patinox/mapping.h>

#include <sqlite3.h>

#define LOOKUP_MARK_BEGIN '\x02'
#define LOOKUP_MARK_END   '\x03'

/* With this code of SQLite's (data that are not as they were written) the function fails when the file of texts was cut or changed. */
#define LOOKUP_SNIPPET_STALE SQLITE_IOERR_DATA

/*
 * Adds the function to a connection.  It keeps a reference to the mapping until the connection is closed.
 * -ENOMEM, -ENOTSUP (no FTS5), or another negative error.
 */
PNX_NODISCARD int lookup_snippet_register(struct sqlite3 *handle, struct pnx_mapping *texts);

#endif
