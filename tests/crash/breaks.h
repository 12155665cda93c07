/* SPDX-License-Identifier: MIT */
/*
 * Changes the log of a run into one that code would have left which keeps all
 * rules of docs/design.md but one, so that the explorer can be seen to see it.
 * R4 cannot be broken in a log: explore-r4 is built with code that breaks it.
 *
 * For runs of one thread and of one disk.
 */
#ifndef CRASH_BREAKS_H
#define CRASH_BREAKS_H

#include "run.h"

/* `rule`: R1, R2, R3, R5, R6 or R7; NULL: nothing is changed. */
void breaks_apply(const char *rule, struct run *run);

#endif
