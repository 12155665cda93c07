/* SPDX-License-Identifier: MIT */
/*
 * A valid image, changed where it matters, then read, checked, and written to.
 * The input is a program: which image, how many changes, these changes, and
 * then the requests of a writer.
 */
#include "config.h"

#include "bases.h"
#include "chance.h"
#include "exercise.h"
#include "guard.h"
#include "mutate.h"
#include "script.h"
#include "subject.h"
#include "target.h"

#include <stdlib.h>

#define CHANGES_MOST 7
#define IMAGE_MOST   (2 << 20)
/* The model of a writer's disk, and the copy of a file that is opened again. */
#define OF_THE_TEST (SUBJECT_FILE_MOST + (1 << 20))

const char *const target_name = "structure";
const size_t target_most = 1024;

static void read_and_check(const struct mutable_image *image)
{
    struct check_result found;
    struct subject subject;

    exercise_inspect(image->bytes, image->size);
    if (subject_open(&subject, image->bytes, image->size, NULL, 0, STORE_READ)) {
        exercise_read(&subject);
    }
    subject_close(&subject);
    if (exercise_check(image->bytes, image->size, &found) && !check_is_clean(&found)) {
        exercise_repair(image->bytes, image->size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct program program = program_of(data, size);
    struct mutable_image image = {.most = IMAGE_MOST};
    uint64_t changes;

    guard_begin(GUARD_MEMORY + OF_THE_TEST);
    image.bytes = bases_make((unsigned)program_below(&program, bases_count()), &image.size);
    changes = program_below(&program, CHANGES_MOST + 1);
    for (uint64_t i = 0; i < changes; i++) {
        mutate(&image, &program);
    }
    read_and_check(&image);
    script_run(image.bytes, image.size, changes == 0, &program);
    free(image.bytes);
    guard_end();
    return 0;
}

uint8_t *target_seed(unsigned number, size_t *size)
{
    struct chance chance = {number};
    uint8_t *bytes;

    if (number >= 8 * bases_count()) {
        return NULL;
    }
    *size = 16 + chance_below(&chance, 200);
    bytes = malloc(*size);
    FUZZ_EXPECT(bytes != NULL);
    chance_fill(&chance, bytes, *size);
    bytes[0] = (uint8_t)(number % bases_count());
    bytes[1] = (uint8_t)(number / bases_count() / 2); /* 0 to 3 changes */
    return bytes;
}
