/* SPDX-License-Identifier: MIT */
/* A question to whoever sits at the terminal, whose answer is not shown. */
#ifndef UTIL_PROMPT_H
#define UTIL_PROMPT_H

#include <stddef.h>

/* The terminal that standard input is, for prompt_hidden(), to be closed; or -ENOTTY. */
int prompt_open(void);

/*
 * Asks on a terminal that prompt_open() has opened; the answer, without its newline, in `answer`,
 * and how long it is. -ENOTTY where that is none; -EMSGSIZE for an answer of more than `size`
 * bytes; -ECANCELED when the input ends without one; -EINTR after Ctrl-C; -EIO.
 */
int prompt_hidden(int terminal, const char *question, char *answer, size_t size, size_t *length);

#endif
