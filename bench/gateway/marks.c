/* Tells callgrind where a counted piece of work begins and ends (valgrind's client requests). Without valgrind these
   calls do nothing. */

#include <valgrind/callgrind.h>

void count_from_here(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void count_until_here(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
