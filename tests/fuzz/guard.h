/* SPDX-License-Identifier: MIT */
/*
 * What must hold while one input runs, apart from that it does not crash:
 * expectations, and how much memory may be allocated.
 */
#ifndef FUZZ_GUARD_H
#define FUZZ_GUARD_H

#include <stdint.h>

/* docs: "no more than 64 MiB beyond the configured caches". */
#define GUARD_MEMORY (UINT64_C(64) << 20)

/* Ends the program with a message unless the condition holds: the fuzzer keeps the input. */
#define FUZZ_EXPECT(condition, ...)                                           \
    do {                                                                      \
        if (!(condition)) {                                                   \
            guard_failed(__FILE__, __LINE__, "" #condition, " " __VA_ARGS__); \
        }                                                                     \
    } while (0)

_Noreturn void guard_failed(const char *file, int line, const char *condition, const char *format,
                            ...) __attribute__((format(printf, 4, 5)));

/*
 * From here to guard_end() at most `bytes` more than now may be allocated at
 * any moment; more aborts, in the call that asked for it. Counted exactly where
 * AddressSanitizer is linked. Elsewhere guard_end() looks at how large the
 * process has ever been, which takes in the files in memory too: rough, but
 * something that allocates as an image tells it does not get through.
 */
void guard_begin(uint64_t bytes);
void guard_end(void);

/* Tells on stderr what an input does, where $QCOW2FS_FUZZ_TRACE is set: to understand a failure. */
void guard_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
