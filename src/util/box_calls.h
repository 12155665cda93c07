/* SPDX-License-Identifier: MIT */
/* The system calls of a process in its box: a part of util/box.h. */
#ifndef UTIL_BOX_CALLS_H
#define UTIL_BOX_CALLS_H

#include "util/box.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BOX_HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BOX_HAS_SANITIZER 1
#endif
#endif

/* A filter that is being put together, by the process that it is for or by another one. */
struct box_filter;

/* Loads what that needs, while files can still be opened, and does all that each filter has. NULL
 * where it cannot be done. */
struct box_filter *box_filter_begin(void);

/*
 * Makes it a program of at most BOX_PROGRAM_MAX instructions for `process`, and frees it; NULL of
 * both is ignored. `opens`: whether files may be opened, since something else says which. The
 * number of instructions; 0 where it cannot be done.
 */
size_t box_filter_end(struct box_filter *filter, const struct box_needs *needs, bool opens,
                      pid_t process, struct sock_filter *program);

/* For this process, with all its threads. False where it cannot be done. */
bool box_filter_install(const struct sock_filter *program, size_t count);

#endif
