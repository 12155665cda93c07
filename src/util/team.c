/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/team.h"

#include "util/helpers.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* On the stack of who runs it, and in the team's list until he has no more to begin. */
struct loop {
    team_step *step;
    void *context;
    size_t count;
    _Atomic size_t next; /* to be begun; `count` and more: none */
    _Atomic int failure; /* of the first step that failed, else 0 */
    unsigned helpers;    /* at work on it */
    struct loop *other;  /* in the list */
};

struct team {
    struct helpers helpers;
    struct loop *loops;  /* guarded by the helpers' mutex, and what is not atomic in them */
    pthread_cond_t left; /* a loop has lost its last helper */
};

/* Begins steps until there are none. */
static void work(struct loop *loop)
{
    size_t index;

    while ((index = atomic_fetch_add(&loop->next, 1)) < loop->count) {
        int result = loop->step(loop->context, index), none = 0;

        if (result < 0) {
            atomic_compare_exchange_strong(&loop->failure, &none, result);
            atomic_store(&loop->next, loop->count);
        }
    }
}

/* --- The helpers ----------------------------------------------------------------------------- */

static bool take(void *context, struct helpers_part *part)
{
    const struct team *team = context;

    for (struct loop *loop = team->loops; loop != NULL; loop = loop->other) {
        if (atomic_load(&loop->next) < loop->count) {
            loop->helpers++;
            part->what = loop;
            return true;
        }
    }
    return false;
}

static void run(void *context, const struct helpers_part *part)
{
    (void)context;
    work(part->what);
}

static void done(void *context, const struct helpers_part *part)
{
    struct team *team = context;
    struct loop *loop = part->what;

    if (--loop->helpers == 0) {
        pthread_cond_broadcast(&team->left);
    }
}

int team_create(unsigned processors, struct team **team)
{
    static const struct helpers_owner owner = {.take = take, .run = run, .done = done};

    *team = calloc(1, sizeof(**team));
    if (*team == NULL) {
        return -ENOMEM;
    }
    helpers_init(&(*team)->helpers, &owner, *team, "team", processors);
    pthread_cond_init(&(*team)->left, NULL);
    return 0;
}

void team_destroy(struct team *team)
{
    if (team == NULL) {
        return;
    }
    helpers_destroy(&team->helpers);
    pthread_cond_destroy(&team->left);
    free(team);
}

/* --- Loops ----------------------------------------------------------------------------------- */

static void begin(struct team *team, struct loop *loop)
{
    pthread_mutex_lock(&team->helpers.mutex);
    team->helpers.callers++;
    loop->other = team->loops;
    team->loops = loop;
    helpers_wake(&team->helpers, loop->count - 1); /* one is the caller's */
    pthread_mutex_unlock(&team->helpers.mutex);
}

/* Returns when no helper knows the loop any more. */
static void end(struct team *team, struct loop *loop)
{
    struct loop **place = &team->loops;

    pthread_mutex_lock(&team->helpers.mutex);
    while (*place != loop) {
        place = &(*place)->other;
    }
    *place = loop->other;
    team->helpers.callers--;
    while (loop->helpers > 0) {
        pthread_cond_wait(&team->left, &team->helpers.mutex);
    }
    pthread_mutex_unlock(&team->helpers.mutex);
}

int team_run(struct team *team, team_step *step, void *context, size_t count)
{
    struct loop loop = {.step = step, .context = context, .count = count};
    int result = 0;

    if (team == NULL || count <= 1) {
        for (size_t i = 0; i < count && result == 0; i++) {
            result = step(context, i);
        }
        return result;
    }
    begin(team, &loop);
    work(&loop);
    end(team, &loop);
    return atomic_load(&loop.failure);
}
