/* SPDX-License-Identifier: MIT */
/*
 * What a reader does with an image, within bounds, and what must be true of it
 * whatever the image holds.
 */
#ifndef FUZZ_EXERCISE_H
#define FUZZ_EXERCISE_H

#include "check/check.h"
#include "subject.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Checks the bytes, which stay as they are; false when they are no image, or none to check. */
bool exercise_check(const uint8_t *bytes, size_t size, struct check_result *result);

/* The same with all repairs, on a copy: what it says is repaired is found in order afterwards. */
void exercise_repair(const uint8_t *bytes, size_t size);

/*
 * Reads the active disk and some of the snapshots, maps them, seeks in them,
 * and asks for all that there is to know.
 */
void exercise_read(struct subject *subject);

/*
 * What can be told of the bytes, which need not be an image that can be opened.
 * No file of the host that they name is found: they seem to lie in a directory
 * that holds nothing else.
 */
void exercise_inspect(const uint8_t *bytes, size_t size);

/* A number for what the first snapshots show, of their beginnings. 0 errors are counted, too. */
uint64_t exercise_digest_snapshots(struct subject *subject);

#endif
