/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/signals.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#define WAKE_AGAIN_NANOSECONDS 10000000L

struct signals {
    struct fuse_session *fuse;
    void (*before_end)(void *context);
    void *context;
    pthread_t loop;
    pthread_t thread;
    atomic_bool loop_has_ended;
};

static void signals_to_end(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

void signals_block(sigset_t *before)
{
    sigset_t set;

    signals_to_end(&set);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

void signals_unblock(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void do_nothing(int number)
{
    (void)number;
}

/* SIGUSR1 only interrupts what the loop waits in. */
static int handle_wake(void)
{
    struct sigaction action = {.sa_handler = do_nothing};

    sigemptyset(&action.sa_mask);
    return sigaction(SIGUSR1, &action, NULL) == 0 ? 0 : -errno;
}

/*
 * The loop looks at its flag, then waits; a signal between the two is lost, so
 * it is sent until it has had its effect.
 */
static void end_loop(struct signals *signals)
{
    const struct timespec pause = {.tv_nsec = WAKE_AGAIN_NANOSECONDS};

    fuse_session_exit(signals->fuse);
    while (!atomic_load(&signals->loop_has_ended)) {
        pthread_kill(signals->loop, SIGUSR1);
        nanosleep(&pause, NULL);
    }
}

static void *run(void *argument)
{
    struct signals *signals = argument;
    sigset_t set;
    int number;

    signals_to_end(&set);
    while (sigwait(&set, &number) != 0) {
    }
    if (!atomic_load(&signals->loop_has_ended)) {
        signals->before_end(signals->context);
        end_loop(signals);
    }
    return NULL;
}

int signals_start(struct fuse_session *fuse, void (*before_end)(void *context), void *context,
                  struct signals **signals)
{
    struct signals *made = malloc(sizeof(*made));
    int r = made != NULL ? handle_wake() : -ENOMEM;

    if (r != 0) {
        free(made);
        return r;
    }
    *made = (struct signals){
        .fuse = fuse, .before_end = before_end, .context = context, .loop = pthread_self()};
    atomic_init(&made->loop_has_ended, false);
    r = pthread_create(&made->thread, NULL, run, made);
    if (r != 0) {
        free(made);
        return -r;
    }
    *signals = made;
    return 0;
}

void signals_stop(struct signals *signals)
{
    if (signals == NULL) {
        return;
    }
    atomic_store(&signals->loop_has_ended, true);
    pthread_kill(signals->thread, SIGTERM);
    pthread_join(signals->thread, NULL);
    free(signals);
}
