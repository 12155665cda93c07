/* SPDX-License-Identifier: MIT */
/* A question to whoever sits at the terminal, whose answer is not shown. */
#ifndef UTIL_PROMPT_H
#define UTIL_PROMPT_H

#include <stddef.h>

/*
 * Asks on the terminal that standard input is; the answer, without its newline, in `answer`, and
 * how long it is. -ENOTTY where standard input is no terminal; -EMSGSIZE for an answer of more than
 * `size` bytes; -ECANCELED when the input ends without one; -EINTR after Ctrl-C; -EIO.
 */
int prompt_hidden(const char *question, char *answer, size_t size, size_t *length);

#endif
