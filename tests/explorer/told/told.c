/* SPDX-License-Identifier: Apache-2.0 */
/* told.c - text for test_mutation.py: a site of a file that no suite contains.  Not compiled. */
#include "base/atomic.h"

uint32_t told(const struct pnx_a32 *word) {
    return pnx_load(word, PNX_RELAXED, "told.relaxed") + pnx_load(word, PNX_ACQUIRE, "told.site");
}
