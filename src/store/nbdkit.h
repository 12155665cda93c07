/* SPDX-License-Identifier: MIT */
/*
 * A server of our own: an address "nbdkit:WORDS" stands for nbdkit with these words behind it,
 * which runs from when the address is first opened to the end of this process, however that ends.
 *
 *     this process ---- control socket ---- the keeper ---- nbdkit (socket activation)
 *          |                                                   |
 *          +---- a socket that has no name any more -----------+
 *
 * The keeper (store/nbdkit_keeper.c) is a process between them: it ends nbdkit when nobody has the
 * other end of its socket any more, keeps what nbdkit says, and is not met by the signals of a
 * terminal or of who stops a service, nor is nbdkit: who writes needs its server to the end.
 * No shell looks at WORDS: they are separated by spaces, and ' " and \ are what they are to one.
 *
 * The socket is listened to here, and has a name for a moment only: nobody else can find it, and
 * nothing is left of it. We reach it by /proc/self/fd, also after a fork.
 *
 * What runs is therefore the process's own, as with store/opener.h, and known to one file alone. To
 * be used while there is one thread.
 */
#ifndef STORE_NBDKIT_H
#define STORE_NBDKIT_H

#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>

#define NBDKIT_SCHEME "nbdkit:"

bool nbdkit_is_address(const char *name);

/*
 * A name that begins like an address may be one that somebody else gave to a file, and a wildcard
 * of a shell to us: nothing is run but what who runs this process has said that he means. This
 * address, which lives to the end; NULL: each that he gives.
 */
void nbdkit_allow(const char *address);

/* 0; -EPERM with a sentence where it is not allowed. */
int nbdkit_check_allowed(const char *address, struct error *error);

/*
 * The address for these words and, where `last` is not NULL, this one as it is behind them, and
 * never an option of nbdkit: for the caller to free, NULL when memory ran out.
 */
char *nbdkit_make_address(const char *words, const char *last);

/*
 * Starts nbdkit, where it does not run yet for that address; `read_only`: it lets nobody write.
 * *server is the address of its socket, which lives to the end. -EPERM where it is not allowed;
 * -EINVAL for words that cannot be meant; -ENOENT where nbdkit is missing; all with a sentence.
 * Whether nbdkit likes the words shows when it is connected to.
 */
int nbdkit_start(const char *address, bool read_only, const char **server, struct error *error);

/* The most of what nbdkit has said that is told, bytes. */
#define NBDKIT_SAID 512

/* What nbdkit has said of what went wrong, "" where that is nothing. */
void nbdkit_said(const char *address, char said[NBDKIT_SAID]);

/* It has begun: what it says from here on goes to syslog. */
void nbdkit_has_begun(const char *address);

/* Ends all that run, and waits for that, some seconds at most. Nobody is connected any more. */
void nbdkit_stop(void);

#endif
