/* SPDX-License-Identifier: MIT */
/* Other programs, run for their exit status and for what they say on standard error. */
#ifndef CTL_RUN_H
#define CTL_RUN_H

#include "util/error.h"
#include "util/log.h"

/*
 * Runs argv[0], found beside this program or in PATH, with the descriptors of
 * `keep` (ends with -1; may be NULL) besides the standard ones, and waits until it has
 * ended, and whatever it left behind has let go of standard error. 0 when it ended
 * with status 0: what it said is then a line of `log` each, or nobody's where that is NULL.
 * Otherwise -ENOENT where there is no such program, or -EIO, or what qcow2fs said that it is
 * (ERROR_CODE_LINE): `error` has the sentence (the last line, with what continues it; the first
 * where `log` is NULL), or how it ended. Its standard output is nobody's.
 */
int run_program(const char *const argv[], const int *keep, struct log *log, struct error *error);

/* Whether such a program can be run. */
int run_find(const char *name);

#endif
