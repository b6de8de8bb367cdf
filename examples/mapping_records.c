/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping_records.c - an array of structs that lives in a file: made, changed in place, checked when it is opened again.
 */
#include <patinox/fault.h>
#include <patinox/mapping.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct header {
    char magic[8];
    uint32_t version;
    uint32_t marker; /* tells the byte order of the machine that wrote the file */
};

struct account {
    uint64_t id;
    int64_t cents;
};

#define ACCOUNTS 1000

static const char magic[8] = {'A', 'C', 'C', 'O', 'U', 'N', 'T', 'S'};

/* Checks what no number in the layout can say; stands for something of yours. */
static int validate(void *ctx, const struct pnx_view *view) {
    (void)ctx;
    struct pnx_records accounts;
    return PNX_RECORDS_GET(view, struct account, sizeof(struct header), PNX_RECORDS_ALL, &accounts);
}

/* Reads in a scope: were the file cut meanwhile, this would be an error, not the end of the process. */
static int total(struct pnx_mapping *mapping, int64_t *ret_cents) {
    struct pnx_fault_scope scope = {0};
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_records accounts;
    int64_t cents = 0;
    int rc = PNX_RECORDS_GET(
            &view, struct account, sizeof(struct header), PNX_RECORDS_ALL, &accounts);
    if (rc == 0)
        rc = pnx_fault_begin(mapping, &scope);
    if (rc)
        return rc;
    PNX_RECORDS_EACH(&accounts, struct account, account) { /* costs what a pointer costs */
        cents += account->cents;
    }
    rc = pnx_fault_end(&scope);
    if (rc == 0)
        *ret_cents = cents;
    return rc;
}

static int transfer(struct pnx_mapping *mapping, size_t from, size_t to, int64_t cents) {
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_records accounts;
    int rc = PNX_RECORDS_GET(
            &view, struct account, sizeof(struct header), PNX_RECORDS_ALL, &accounts);
    if (rc)
        return rc;
    struct account *payer = PNX_RECORD_AT_MUT(&accounts, struct account, from);
    struct account *payee = PNX_RECORD_AT_MUT(&accounts, struct account, to);
    if (!payer || !payee) /* beyond the last one, or the mapping is read-only */
        return -ERANGE;
    payer->cents -= cents;
    payee->cents += cents;
    return pnx_mapping_flush(mapping, 0, view.n, PNX_FLUSH_DURABLE);
}

static int work(const char *path, const struct pnx_layout *layout) {
    struct pnx_error err;
    PNX_AUTO_MAPPING mapping = NULL;
    /* The file gets its blocks now: no store will ever meet a full disk.  A new one gets magic, version and marker. */
    int rc = pnx_mapping_open(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .layout = layout,
                    .length = sizeof(struct header) + ACCOUNTS * sizeof(struct account),
                    .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND),
            &err, &mapping);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return rc;
    }
    rc = pnx_mapping_populate(mapping, 0, pnx_mapping_size(mapping), PNX_POPULATE_WRITE);
    if (rc >= 0 && pnx_mapping_lock(mapping, &err) != 0)
        printf("not locked in memory: %s\n", err.message); /* RLIMIT_MEMLOCK is small in places */
    rc = transfer(mapping, 1, 999, 250);
    if (rc == 0 && transfer(mapping, 0, ACCOUNTS, 1) == -ERANGE)
        printf("there is no account %d\n", ACCOUNTS);
    pnx_mapping_unlock(mapping);
    return rc;
}

int main(void) {
    const struct pnx_layout *layout = PNX_LAYOUT(.magic = magic, .magic_size = sizeof(magic),
            .version_offset = 8, .version_min = 1, .version_max = 1, .marker_offset = 12,
            .marker = 0x01020304, .header_size = sizeof(struct header),
            .record_size = sizeof(struct account), .record_align = 8, .validate = validate);
    char path[] = "/tmp/patinox-records-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int rc = work(path, layout);

    struct pnx_error err;
    PNX_AUTO_MAPPING mapping = NULL;
    int64_t cents = -1;
    if (rc == 0)
        rc = pnx_mapping_open(path, PNX_MAPPING_OPTS(.layout = layout), &err, &mapping);
    if (rc == 0)
        rc = total(mapping, &cents);
    printf("%s; all accounts together have %" PRId64 " cents\n", pnx_strerror(rc), cents);

    /* A file that is not what it should be is refused at once, and the error says why. */
    if (rc == 0 && truncate(path, 100) == 0) {
        PNX_AUTO_MAPPING cut = NULL;
        if (pnx_mapping_open(path, PNX_MAPPING_OPTS(.layout = layout), &err, &cut) == PNX_E_FORMAT)
            printf("%s\n", err.phase);
    }
    unlink(path);
    return rc != 0 || cents != 0;
}
