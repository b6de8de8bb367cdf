/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - the page that "/" answers with; the build makes it of page/page.html, .css and .js. */
#ifndef LOOKUP_PAGE_H
#define LOOKUP_PAGE_H

#include <stddef.h>

extern const unsigned char page_html[];
extern const size_t page_html_size;
extern const unsigned char page_icon[];
extern const size_t page_icon_size;
extern const char page_etag[]; /* with its quotes */
extern const char
        page_csp[]; /* the Content-Security-Policy, which names style and script by their hashes */

#endif
