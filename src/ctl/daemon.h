/* SPDX-License-Identifier: MIT */
/* Asking a qcow2fs that runs (util/control). */
#ifndef CTL_DAEMON_H
#define CTL_DAEMON_H

#include "ctl/stack.h"
#include "util/control.h"
#include "util/error.h"
#include "util/log.h"

/*
 * Begins a request; control_put() adds to it. `ask` is one of util/control.h's.
 */
void daemon_begin(struct control_message *request, const char *ask);

/*
 * Sends it, and waits for the answer at most `milliseconds` (negative: as long as it takes). 0, or
 * a negative errno with a sentence: the daemon's own where it has said no.
 */
int daemon_ask(const struct stack *stack, const struct control_message *request, int milliseconds,
               struct control_message *answer, struct error *error);

/* The same for as long as it takes, of which a line tells when that is some seconds. */
int daemon_ask_patiently(const struct stack *stack, const struct control_message *request,
                         struct control_message *answer, struct log *log, struct error *error);

#endif
