/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_env.h - the variables of the environment that stand over a text.
 */
#ifndef PNX_SRC_SHARE_CONFIG_ENV_H
#define PNX_SRC_SHARE_CONFIG_ENV_H

#include "base/env.h"

#include <patinox/config.h>

/* A variable that counts; the three strings lie in the bytes of the set. */
struct pnx_config_var {
    const char *variable;
    const char *setting;
    const char *text;
};

/* What the environment says at one moment: copied, sorted by name, each name once.  Owned by who collected it. */
struct pnx_config_vars {
    uint32_t n;
    struct pnx_config_var rows[PNX_CONFIG_OVERRIDES_MAX];
    char *bytes; /* used of room */
    size_t used;
    size_t room;
};

/*
 * Which variables were met; shared by the records of one value.  references and what it holds are touched by the
 * owner of the config's latch only, entries also read under the config's lock while a record in the history has it.
 */
struct pnx_config_applied {
    uint32_t references;
    uint32_t n;
    uint32_t in_force; /* of n; the others name no setting */
    uint32_t reserved;
    struct pnx_config_override entries[];
};

/* Collects what counts.  -EOVERFLOW for too many, -ENOMEM; err->phase is "override". */
int pnx__config_vars_collect(
        const struct pnx_config *config, struct pnx_error *err, struct pnx_config_vars *ret_vars);
void pnx__config_vars_free(const struct pnx_config *config, struct pnx_config_vars *vars);

/* Returns a hash of names and texts; 0 when there are none. */
uint64_t pnx__config_vars_hash(uint64_t seed, const struct pnx_config_vars *vars);

/*
 * Applies them to the value in *value, which is replaced by a copy if somebody else has it too.  *ret_applied says
 * which, NULL when there are none.  override's error, -ENOMEM, ...: what *value then holds is still the caller's.
 */
int pnx__config_vars_apply(const struct pnx_config *config, const struct pnx_config_vars *vars,
        struct pnx_error *err, void **value, struct pnx_config_applied **ret_applied);

struct pnx_config_applied *pnx__config_applied_ref(struct pnx_config_applied *applied);
void pnx__config_applied_unref(const struct pnx_config *config, struct pnx_config_applied *applied);

#endif
