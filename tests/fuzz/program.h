/* SPDX-License-Identifier: MIT */
/*
 * The input of a fuzz target, read as a program: numbers are taken from it one
 * after the other. Behind its end there are zeros, so that every input is a
 * program, and so is every input cut short.
 */
#ifndef FUZZ_PROGRAM_H
#define FUZZ_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct program {
    const uint8_t *at, *end;
};

static inline struct program program_of(const uint8_t *data, size_t size)
{
    return (struct program){.at = data, .end = data + size};
}

static inline bool program_ended(const struct program *program)
{
    return program->at == program->end;
}

static inline uint8_t program_u8(struct program *program)
{
    return program_ended(program) ? 0 : *program->at++;
}

/* `bytes` of them, at most 8, the first is the least significant. */
static inline uint64_t program_number(struct program *program, unsigned bytes)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < bytes; i++) {
        number |= (uint64_t)program_u8(program) << 8 * i;
    }
    return number;
}

static inline uint16_t program_u16(struct program *program)
{
    return (uint16_t)program_number(program, 2);
}

static inline uint32_t program_u32(struct program *program)
{
    return (uint32_t)program_number(program, 4);
}

static inline uint64_t program_u64(struct program *program)
{
    return program_number(program, 8);
}

/* 0 to `bound` - 1; `bound` > 0. Takes as many bytes as the bound has. */
static inline uint64_t program_below(struct program *program, uint64_t bound)
{
    unsigned bytes = bound <= 0x100 ? 1 : bound <= 0x10000 ? 2 : bound <= UINT64_C(1) << 32 ? 4 : 8;

    return program_number(program, bytes) % bound;
}

static inline bool program_bool(struct program *program)
{
    return (program_u8(program) & 1) != 0;
}

#endif
