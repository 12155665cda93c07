/* SPDX-License-Identifier: MIT */
/* Any bytes as an image: all that a reader, a mapper and a checker do with it. */
#include "config.h"

#include "bases.h"
#include "chance.h"
#include "exercise.h"
#include "guard.h"
#include "mutate.h"
#include "subject.h"
#include "target.h"

#include <stdlib.h>
#include <string.h>

const char *const target_name = "image";
const size_t target_most = 64 << 10;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct check_result found;
    struct subject subject;

    guard_begin(GUARD_MEMORY);
    exercise_inspect(data, size);
    if (subject_open(&subject, data, size, NULL, 0, STORE_READ)) {
        exercise_read(&subject);
    }
    subject_close(&subject);
    if (exercise_check(data, size, &found) && !check_is_clean(&found)) {
        exercise_repair(data, size);
    }
    guard_end();
    return 0;
}

/* Half of the time, the structure of the image; else the fuzzer's own ways, where it is there. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    struct chance chance = {seed};
    struct mutable_image image = {.size = size, .most = most};
    uint8_t numbers[64];
    struct program program = program_of(numbers, sizeof(numbers));

    if (LLVMFuzzerMutate != NULL && chance_below(&chance, 2) == 0) {
        return LLVMFuzzerMutate(data, size, most);
    }
    image.bytes = malloc(size + 1);
    FUZZ_EXPECT(image.bytes != NULL);
    memcpy(image.bytes, data, size);
    for (uint64_t count = 1 + chance_below(&chance, 3); count > 0; count--) {
        chance_fill(&chance, numbers, sizeof(numbers));
        program = program_of(numbers, sizeof(numbers));
        mutate(&image, &program);
    }
    memcpy(data, image.bytes, image.size);
    size = image.size;
    free(image.bytes);
    return size;
}

uint8_t *target_seed(unsigned number, size_t *size)
{
    uint8_t *bytes;

    if (number >= bases_count()) {
        return NULL;
    }
    bytes = bases_make(number, size);
    *size = *size < target_most ? *size : target_most;
    return bytes;
}
