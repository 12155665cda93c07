/* SPDX-License-Identifier: MIT */
/* The inputs to begin with, as files. */
#include "config.h"

#include "guard.h"
#include "target.h"

#include <stdio.h>
#include <stdlib.h>

/* Called by the fuzzer's main() before all else. */
int LLVMFuzzerInitialize(int *count, char ***arguments);

static void write_seed(const char *directory, unsigned number, const uint8_t *bytes, size_t size)
{
    char path[4096];
    FILE *file;

    snprintf(path, sizeof(path), "%s/seed-%03u", directory, number);
    file = fopen(path, "wbe");
    FUZZ_EXPECT(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, "%s",
                path);
}

void seeds_write(const char *directory)
{
    uint8_t *bytes;
    size_t size;

    for (unsigned i = 0; (bytes = target_seed(i, &size)) != NULL; i++) {
        write_seed(directory, i, bytes, size);
        free(bytes);
    }
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    const char *directory = getenv("QCOW2FS_FUZZ_SEEDS");

    (void)count;
    (void)arguments;
    if (directory != NULL) {
        seeds_write(directory);
        exit(EXIT_SUCCESS);
    }
    return 0;
}
