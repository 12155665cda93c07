/* SPDX-License-Identifier: MIT */
/*
 * Writes to an image as a program says: write, zero, discard, preallocate,
 * resize, flush, reopen, close. An image that was in order before is in order
 * after that, shows what was written, and its snapshots show what they did
 * before. Of an image that was not, no more is asked than that nothing crashes.
 */
#ifndef FUZZ_SCRIPT_H
#define FUZZ_SCRIPT_H

#include "program.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The bytes are copied. What is left of the program is run to its end, within
 * bounds. Of a `pristine` image nothing may be leaked either; a changed one may
 * count clusters that come into being only when the file grows.
 */
void script_run(const uint8_t *bytes, size_t size, bool pristine, struct program *program);

#endif
