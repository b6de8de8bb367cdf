/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - what else the machine does, for tests that look at times only where it does nothing else. */
#include "harness/harness.h"

#include <time.h>
#include <unistd.h>

/* Returns the seconds of CPU time that the machine has spent; 0 where it does not say. */
static double machine_busy_s(void) {
    FILE *file = fopen("/proc/stat", "r");
    unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
    int n = file ? fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
                           &system, &idle, &wait, &irq, &softirq, &steal)
                 : 0;
    if (file)
        fclose(file);
    return n == 8 ? (double)(user + nice + system + irq + softirq + steal) /
                            (double)sysconf(_SC_CLK_TCK)
                  : 0;
}

double test_others_s(void) {
    struct timespec own;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    return machine_busy_s() - (double)own.tv_sec - (double)own.tv_nsec / 1e9;
}
