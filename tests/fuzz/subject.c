/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "subject.h"

#include "bases.h"
#include "bounded_store.h"
#include "disk/chain.h"
#include "guard.h"
#include "memory_store.h"
#include "meta/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void expect_printable(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        FUZZ_EXPECT((unsigned char)*at >= ' ' && *at != 0x7f, "in \"%s\"", text);
    }
}

void expect_sentence(const struct error *error, int result)
{
    FUZZ_EXPECT(error->code > 0 && result < 0, "%d is %d", error->code, result);
    FUZZ_EXPECT(error->text[0] != '\0');
    expect_printable(error->text);
    FUZZ_EXPECT(strncmp(error->text, SUBJECT_PATH ": ", sizeof(SUBJECT_PATH) + 1) == 0, "\"%s\"",
                error->text);
}

static void take_line(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    expect_printable(line);
}

/* --- What else it needs ------------------------------------------------------------------------
 */

static void make_data_file(struct subject *subject, const uint8_t *bytes, size_t size)
{
    uint8_t standard[BASES_DATA_SIZE];

    if (bytes == NULL) {
        bases_fill_data(standard);
        bytes = standard;
        size = sizeof(standard);
    }
    subject->data_fd = memfd_create("data", MFD_CLOEXEC);
    FUZZ_EXPECT(subject->data_fd >= 0);
    FUZZ_EXPECT(write(subject->data_fd, bytes, size) == (ssize_t)size);
    snprintf(subject->data_path, sizeof(subject->data_path), "/proc/self/fd/%d", subject->data_fd);
}

/* Whether the header says so; the image itself has yet to be opened. */
static bool wants_data_file(const uint8_t *bytes, size_t size)
{
    return size >= HEADER_V3_LENGTH &&
           (load_be64(bytes + HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_EXTERNAL_DATA_FILE) != 0;
}

/* As chain_open_backing() does, but for names and host files. */
static bool open_backing(struct subject *subject, const struct image_options *options)
{
    uint8_t *bytes = malloc(BASES_BACKING_SIZE);
    struct image_request request = {
        .path = SUBJECT_PATH,
        .what = "backing file",
        .format = IMAGE_RAW,
        .number = 1,
    };
    struct error error = {0};

    FUZZ_EXPECT(bytes != NULL);
    bases_fill_backing(bytes);
    request.file = memory_store_from(bytes, BASES_BACKING_SIZE);
    free(bytes);
    return image_open_one(&request, options, &subject->log, &subject->image->backing, &error) == 0;
}

static bool open_behind(struct subject *subject, const struct image_options *options)
{
    const struct header *header = subject->image->header;

    return header->backing_file == NULL || open_backing(subject, options);
}

static bool attach_cache(struct subject *subject)
{
    const struct cache_options options = {
        .l2_size = {true, 1},
        .l2_entry_size = {true, CACHE_L2_ENTRY_MIN},
        .refcount_size = {true, 1},
        .data_size = {true, 1},
    };
    struct error error = {0};

    return image_attach_cache(subject->image, &options, &error) == 0;
}

/* --- Opening -------------------------------------------------------------------------------------
 */

bool subject_open(struct subject *subject, const uint8_t *bytes, size_t size,
                  const uint8_t *data_file, size_t data_size, enum store_access access)
{
    const struct image_options options = {.access = access, .data_file = subject->data_path};
    struct image_request request = {
        .path = SUBJECT_PATH,
        .what = "image",
        .format = IMAGE_QCOW2,
        .access = access,
    };
    struct error error = {0};
    int result;

    memset(subject, 0, sizeof(*subject));
    log_init(&subject->log, take_line, NULL);
    subject->data_fd = -1;
    strcpy(subject->data_path, "/nonexistent");
    if (wants_data_file(bytes, size)) {
        make_data_file(subject, data_file, data_size);
    }
    request.file = bounded_store_from(bytes, size, SUBJECT_FILE_MOST);
    result = image_open_one(&request, &options, &subject->log, &subject->image, &error);
    if (result < 0) {
        expect_sentence(&error, result);
        return false;
    }
    return open_behind(subject, &options) && attach_cache(subject);
}

void subject_close(struct subject *subject)
{
    image_close(subject->image);
    log_release(&subject->log);
    if (subject->data_fd >= 0) {
        close(subject->data_fd);
    }
}

const uint8_t *subject_bytes(const struct subject *subject, size_t *size)
{
    struct store *memory = bounded_store_memory(subject->image->file);

    *size = memory_store_size(memory);
    return memory_store_data(memory);
}

uint8_t *subject_data_file(const struct subject *subject, size_t *size)
{
    struct stat status;
    uint8_t *bytes;

    if (subject->data_fd < 0) {
        return NULL;
    }
    FUZZ_EXPECT(fstat(subject->data_fd, &status) == 0);
    *size = status.st_size < 1 << 20 ? (size_t)status.st_size : 1 << 20;
    bytes = malloc(*size + 1);
    FUZZ_EXPECT(bytes != NULL && pread(subject->data_fd, bytes, *size, 0) == (ssize_t)*size);
    return bytes;
}

bool subject_was_full(const struct subject *subject)
{
    return bounded_store_was_full(subject->image->file);
}
