/* SPDX-License-Identifier: MIT */
/*
 * A loop of independent steps, done by the thread that has it and by helpers (util/helpers.h).
 * Any thread may call.
 */
#ifndef UTIL_TEAM_H
#define UTIL_TEAM_H

#include <stddef.h>

/* Does the step `index`, in any thread. 0 or a negative errno. */
typedef int team_step(void *context, size_t index);

struct team;

/* At most `processors` threads are at work at the same time. 0 or -ENOMEM. */
int team_create(unsigned processors, struct team **team);

/* No loop is being run any more. Returns when the helpers have ended. `team` may be NULL. */
void team_destroy(struct team *team);

/*
 * Does the steps 0 to `count` - 1, each once and in any order, and returns when all of them have
 * ended. Once one has failed no other is begun, and its errno is the result. Without a team (NULL)
 * the caller does them all, in their order.
 */
int team_run(struct team *team, team_step *step, void *context, size_t count);

#endif
