/* SPDX-License-Identifier: MIT */
/*
 * Threads that take a part of others' work, while processors have nothing to do.
 *
 * Callers, who have such work and do it themselves, too, and the helpers that are at it are
 * together never more than processors: where there are enough callers at the same time, nobody
 * helps them. Helpers are started when there is something for them, and end when there was nothing
 * for some seconds.
 *
 * What the work is, and which of it is to be done, is its owner's: `struct helpers` is a part of
 * the owner's structure, and its mutex guards what belongs to both. The mutex is a leaf, and not
 * held while work is done.
 */
#ifndef UTIL_HELPERS_H
#define UTIL_HELPERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define HELPERS_MAX 16

/* A part of the work, in the owner's words. */
struct helpers_part {
    void *what;
    uint64_t offset;
};

struct helpers_owner {
    /* Takes what is to be done next. False: there is nothing. The mutex is held. */
    bool (*take)(void *context, struct helpers_part *part);
    /* Does it. The mutex is not held. */
    void (*run)(void *context, const struct helpers_part *part);
    /* It has been done; NULL: nobody wants to know. The mutex is held. */
    void (*done)(void *context, const struct helpers_part *part);
    /* The last thread ends: there was nothing to do for a while. NULL likewise; the mutex is held.
     */
    void (*rest)(void *context);
};

struct helpers;

enum helper_state {
    HELPER_NONE,
    HELPER_RUNS,
    HELPER_ENDED, /* to be joined */
};

struct helper {
    struct helpers *helpers;
    pthread_t thread;
    enum helper_state state;
};

struct helpers {
    const struct helpers_owner *owner;
    void *context;
    const char *name;      /* of the threads; borrowed, up to 15 bytes that stay */
    unsigned processors;   /* at most so many at work, callers and helpers */
    pthread_mutex_t mutex; /* guards all that follows, and what the owner says */
    pthread_cond_t wake;   /* there is work, or `stop`; its clock is CLOCK_MONOTONIC */
    bool stop;
    unsigned callers;       /* who are at work themselves; the owner counts them */
    unsigned running, idle; /* helpers; the idle ones are among the running */
    struct helper threads[HELPERS_MAX];
};

/* `processors` UINT_MAX: what they do is to wait. helpers_destroy() ends it. */
void helpers_init(struct helpers *helpers, const struct helpers_owner *owner, void *context,
                  const char *name, unsigned processors);

/* Returns when no part is being done, and the threads have ended. */
void helpers_destroy(struct helpers *helpers);

/* There are so many parts to be taken: wakes or starts a thread for each, as far as there are
 * processors for them. The mutex is held. */
void helpers_wake(struct helpers *helpers, uint64_t parts);

#endif
