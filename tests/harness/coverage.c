/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coverage.c - in the build that counts lines: those of a process that ends by _exit() or abort(), as forked children
 * do.  The linker leads both calls of a test program here (tests/CMakeLists.txt).
 */

/* The names are the linker's and gcov's.  NOLINTBEGIN(bugprone-reserved-identifier) */
_Noreturn void __real__exit(int status);
_Noreturn void __real_abort(void);
_Noreturn void __wrap__exit(int status);
_Noreturn void __wrap_abort(void);
void __gcov_dump(void);

void __wrap__exit(int status) {
    __gcov_dump();
    __real__exit(status);
}

void __wrap_abort(void) {
    __gcov_dump();
    __real_abort();
}
/* NOLINTEND(bugprone-reserved-identifier) */
