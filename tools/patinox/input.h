/* SPDX-License-Identifier: Apache-2.0 */
/* input.h - the bytes of a file, decompressed (.gz, .xz, .zst, .bz2, .lz4, .lz; by libarchive). */
#ifndef PATINOX_INPUT_H
#define PATINOX_INPUT_H

#include "failure.h"

#include <sys/types.h>

struct input;

/* Opens a file, or standard input for "-".  Returns 0, or -1 with a failure. */
int input_open(const char *path, struct failure *failure, struct input **ret_input);
/* Opens bytes in memory, which stay there. */
int input_open_memory(
        const void *data, size_t n, struct failure *failure, struct input **ret_input);
/* Reads up to n bytes; fewer than n only at the end.  -1 with a failure. */
ssize_t input_read(struct input *input, void *data, size_t n, struct failure *failure);
/* Position in the file as it is stored, and the file's length, 0 where that is not known: for a progress bar. */
uint64_t input_position(const struct input *input);
uint64_t input_length(const struct input *input);
void input_close(struct input **input);

#endif
