/* SPDX-License-Identifier: MIT */
/*
 * A thread that answers what those who take requests must not wait for: it waits for the kernel,
 * which may itself wait for an answer of theirs; or for another request, with a deadline. None of
 * them ever waits for this thread.
 *
 * One leaf mutex; what is called runs without it.
 */
#ifndef FUSE_LATER_H
#define FUSE_LATER_H

#include <stdbool.h>
#include <stdint.h>

struct later;

/* Something to be done, once, in the order of asking. The first member of what it needs. */
struct later_job {
    struct later_job *next; /* the module's */
    /* `ending`: the thread is to end, and nothing may be waited for any more. Frees the job. */
    void (*serve)(struct later_job *job, bool ending);
};

/* Something to be tried until it works. The first member of what it needs. */
struct later_attempt {
    struct later_attempt *next; /* the module's, too */
    uint64_t deadline;
    /* Whether it is over, and was freed: it must be, where this is the last time. */
    bool (*attempt)(struct later_attempt *attempt, bool last);
};

/* 0 or -ENOMEM. The thread begins with the first thing that it is asked for. */
int later_create(struct later **later);

/*
 * Serves what waits, for the last time, and ends the thread. What comes later is served at once, by
 * who brings it, as for the last time; and so is all where no thread can be started. May be called
 * twice.
 */
void later_stop(struct later *later);

/* `later` may be NULL. */
void later_destroy(struct later *later);

void later_do(struct later *later, struct later_job *job);

/* Tries at each later_poke(), and when so many milliseconds are over. */
void later_try(struct later *later, struct later_attempt *attempt, unsigned milliseconds);

/* What was tried in vain may work now. */
void later_poke(struct later *later);

#endif
