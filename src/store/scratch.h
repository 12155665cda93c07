/* SPDX-License-Identifier: MIT */
/*
 * A file for what nobody needs any more when this process has ended: it has no name (O_TMPFILE; or
 * loses it at once, where the host has no such files), so that nothing is left of it, however the
 * process ends. Only its owner could read it, and nothing of it is ever synced.
 */
#ifndef STORE_SCRATCH_H
#define STORE_SCRATCH_H

#include "store/store.h"

/* Makes one in `directory`, empty. 0, or a negative errno of open(2); -ENOMEM. */
int store_scratch_create(const char *directory, struct store **store);

#endif
