/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - where a test program begins; linked only where nothing else has a main(). */
#include "harness/harness.h"

int main(int argc, char **argv) {
    return test_main(argc, argv);
}
