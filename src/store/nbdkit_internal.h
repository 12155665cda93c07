/* SPDX-License-Identifier: MIT */
/* Between a process and the keeper of its nbdkit. Internal to store/nbdkit. */
#ifndef STORE_NBDKIT_INTERNAL_H
#define STORE_NBDKIT_INTERNAL_H

#include "store/nbdkit.h"

#include <stdint.h>

/* Questions, each a byte. The end of the socket is the last one. */
#define KEEPER_SAID  's' /* answered by NBDKIT_SAID bytes */
#define KEEPER_BEGUN 'b' /* not answered */

/* What the keeper says unasked, first of all: 0, or the errno of what kept nbdkit from running. */
typedef int32_t keeper_start;

/*
 * The keeper's life: runs nbdkit with these words (NULL at the end), listening at `listening`,
 * until the other end of `control` is closed. In a process of its own, with one thread.
 */
_Noreturn void keeper_run(int control, int listening, char **words);

#endif
