/* SPDX-License-Identifier: MIT */
/* What the suites of the locks of a store share. All of them lock the file "a". */
#ifndef UNIT_LOCK_CASE_H
#define UNIT_LOCK_CASE_H

#include "store/file.h"

#include <sys/types.h>

/* Opens it, which succeeds; the caller closes it. */
struct store *lock_open(enum store_access access);

/* Fails unless it is refused as busy, with that sentence. */
void lock_expect_busy(enum store_access access, const char *sentence);

/* Kills a process of the test, and waits until it has let go of what it held. */
void lock_end_child(pid_t child);

#endif
