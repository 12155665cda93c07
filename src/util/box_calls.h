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

/* Loads what box_restrict_calls() needs, while files can still be opened. */
void box_calls_begin(void);

/*
 * `opens`: whether files may be opened, since something else says which. False where it cannot
 * be done. */
bool box_restrict_calls(const struct box_needs *needs, bool opens);

#endif
