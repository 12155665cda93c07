/* SPDX-License-Identifier: MIT */
/*
 * What qcow2ctl asks a daemon that runs, and is answered: one message each way, of NAME=value
 * pairs, over a socket (SOCK_SEQPACKET) that lies beside the daemon's file in the registry. It is
 * there for each kind of mount, also for one that has no name; nobody but its user and root is
 * heard.
 *
 *     request   version=1 ask=status
 *               version=1 ask=snapshot-make name=NAME
 *               version=1 ask=snapshot-remove name=NAME|ID
 *               version=1 ask=snapshot-rename name=NAME|ID new-name=NAME
 *               version=1 ask=bitmap-add name=NAME [granularity=BYTES|from=NAME]
 *               version=1 ask=bitmap-remove|bitmap-clear|bitmap-enable|bitmap-disable name=NAME
 *               version=1 ask=bitmap-merge name=NAME from=NAME
 *     answer    error=0 and what was asked for: id=, name=, dirty= and counters
 *               error=ERRNO message=SENTENCE
 *
 * Who asks and goes away has not asked, where nothing has been done yet.
 */
#ifndef UTIL_CONTROL_H
#define UTIL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CONTROL_VERSION "1"
#define CONTROL_MAX     16384 /* bytes of a message */

struct control_message {
    size_t length;
    char text[CONTROL_MAX];
};

/* Appends a pair; false, and the message as it was, where it has no room. */
bool control_put(struct control_message *message, const char *name, const char *value);

/* The value, or NULL. */
const char *control_get(const struct control_message *message, const char *name);

/* 0, or a negative errno; -EMSGSIZE for what is none, or too long. */
int control_send(int socket, const struct control_message *message);

/* Waits for one, at most `milliseconds` (negative: for ever): -ETIMEDOUT. -EPIPE at the end. */
int control_receive(int socket, int milliseconds, struct control_message *message);

/* Whether who listens at the other end is `user`. */
bool control_is_of(int socket, uid_t user);

/* Whether the other end belongs to this user, or to root. */
bool control_is_allowed(int socket);

#endif
