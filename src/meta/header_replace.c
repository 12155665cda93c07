/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/header_replace.h"

#include "meta/format.h"
#include "util/checked.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR ((size_t)512)

/* An extension of no meaning; readers pass over a type that they do not know. */
#define EXTENSION_LEAP UINT32_C(0x51464c50)

struct replacement {
    struct gate *gate;
    struct store *file;
    const uint8_t *old, *new; /* the beginning of the first cluster */
    size_t length;            /* of both, bytes */
    size_t old_used;          /* bytes that the old header uses, */
    size_t extensions;        /* and where the new one's extensions begin */
    size_t cluster_size;
};

static int write_part(const struct replacement *replacement, const uint8_t *bytes, size_t from,
                      size_t to)
{
    int result = 0;

    if (from < to) {
        result = gate_write(replacement->gate, GATE_HEADER, from, bytes + from, to - from);
    }
    return result < 0 ? result : store_sync(replacement->file);
}

/* What differs: [*from, *to). */
static void find_difference(const struct replacement *replacement, size_t *from, size_t *to)
{
    *from = 0;
    *to = replacement->length;
    while (*from < *to && replacement->old[*from] == replacement->new[*from]) {
        (*from)++;
    }
    while (*to > *from && replacement->old[*to - 1] == replacement->new[*to - 1]) {
        (*to)--;
    }
}

/* Where the second copy of the extensions and the name comes; 0 where it has no place. */
static size_t copy_place(const struct replacement *replacement)
{
    size_t place = (replacement->length + SECTOR - 1) / SECTOR * SECTOR;
    size_t needed = replacement->length - replacement->extensions;

    if (replacement->extensions + EXTENSION_DATA > SECTOR || place >= replacement->cluster_size ||
        needed > replacement->cluster_size - place) {
        return 0;
    }
    return place;
}

/* The first sector that leads to the copy. */
static void make_leap(const struct replacement *replacement, size_t place, uint8_t sector[SECTOR])
{
    size_t at = replacement->extensions;
    uint64_t backing = load_be64(replacement->new + HEADER_BACKING_FILE_OFFSET);

    memset(sector, 0, SECTOR);
    memcpy(sector, replacement->new, at);
    store_be32(sector + at + EXTENSION_TYPE, EXTENSION_LEAP);
    store_be32(sector + at + EXTENSION_LENGTH, (uint32_t)(place - at - EXTENSION_DATA));
    if (backing != 0) {
        store_be64(sector + HEADER_BACKING_FILE_OFFSET, backing + place - at);
    }
}

static int clear_copy(const struct replacement *replacement, size_t place, size_t length)
{
    uint8_t *zeros = calloc(1, length);
    int result;

    if (zeros == NULL) {
        return 0; /* it is behind the end of all, where nobody looks */
    }
    result = gate_write(replacement->gate, GATE_HEADER, place, zeros, length);
    free(zeros);
    return result < 0 ? result : store_sync(replacement->file);
}

/* By way of a copy behind all that is in use. */
static int replace_leaping(const struct replacement *replacement, size_t place)
{
    size_t length = replacement->length - replacement->extensions;
    uint8_t sector[SECTOR];
    int result;

    make_leap(replacement, place, sector);
    result = gate_write(replacement->gate, GATE_HEADER, place,
                        replacement->new + replacement->extensions, length);
    if (result == 0) {
        result = store_sync(replacement->file);
    }
    if (result == 0) {
        result = write_part(replacement, sector, 0, SECTOR);
    }
    if (result == 0) {
        result = write_part(replacement, replacement->new, SECTOR, replacement->length);
    }
    if (result == 0) {
        result = write_part(replacement, replacement->new, 0, SECTOR);
    }
    return result < 0 ? result : clear_copy(replacement, place, length);
}

static int replace(const struct replacement *replacement)
{
    size_t from, to, place;
    int result;

    find_difference(replacement, &from, &to);
    if (from == to) {
        return 0;
    }
    if (from / SECTOR == (to - 1) / SECTOR) {
        return write_part(replacement, replacement->new, from, to);
    }
    if (replacement->old_used <= SECTOR) { /* what is behind the first sector shows later */
        result = write_part(replacement, replacement->new, SECTOR, to);
        return result < 0 ? result : write_part(replacement, replacement->new, 0, SECTOR);
    }
    place = copy_place(replacement);
    return place != 0 ? replace_leaping(replacement, place)
                      : write_part(replacement, replacement->new, from, to);
}

int header_replace(struct gate *gate, struct store *file, const struct header *header,
                   const struct header_rest *rest, const char *name, struct error *error)
{
    struct replacement replacement = {
        .gate = gate,
        .file = file,
        .old = rest->cluster,
        .old_used = rest->used,
        .cluster_size = in_memory(header->cluster_size),
        .extensions = HEADER_V2_LENGTH,
    };
    uint8_t *bytes;
    int result = header_encode(header, rest, name, &bytes, &replacement.length, error);

    if (result < 0) {
        return result;
    }
    replacement.new = bytes;
    if (header->version > 2) {
        replacement.extensions = load_be32(bytes + HEADER_HEADER_LENGTH);
    }
    result = replace(&replacement);
    free(bytes);
    if (result < 0) {
        error_set(error, -result, "%s: the header cannot be written: %s", name, strerror(-result));
    }
    return result;
}
