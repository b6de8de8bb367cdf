/* SPDX-License-Identifier: Apache-2.0 */
/* A user's program in C: every header, one object, a clean end. */
#include <patinox/patinox.h>

#include <stdio.h>

int main(void) {
    struct pnx_error err;
    struct pnx_budget *budget = NULL;
    int rc = pnx_budget_create(PNX_BUDGET_OPTS(.name = "consumer", .hard = 1000), &err, &budget);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    if (pnx_budget_charge(budget, 600, 0) != 0 || pnx_budget_charge(budget, 600, 0) != -ENOMEM)
        return 2;
    pnx_budget_uncharge(budget, 600);
    pnx_budget_release(&budget);
    printf("patinox %s from C\n", pnx_version());
    return pnx_shutdown(PNX_SEC, NULL) == 0 ? 0 : 3;
}
