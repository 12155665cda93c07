/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target: one program, which links either the fuzzer's own main()
 * (configure --enable-fuzzers, with clang) or that of replay.c.
 */
#ifndef FUZZ_TARGET_H
#define FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>

/* Runs one input. What must not be aborts the program. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * Changes an input in its own way, optional: of `size` bytes in room for
 * `most`; the new size.
 */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
    __attribute__((weak));

/* The fuzzer's way; not there in the replayer. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) __attribute__((weak));

/*
 * Seeds to begin with, for the replayer: the bytes of seed `number` for the
 * caller to free, NULL when there are no more.
 */
uint8_t *target_seed(unsigned number, size_t *size);

/* Writes all of them to files of that directory (seeds.c). */
void seeds_write(const char *directory);

/* The longest input that makes sense, bytes. */
extern const size_t target_most;

/* How the target is called: the directory of its corpus. */
extern const char *const target_name;

#endif
