/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/hash_one.h"

#include "disk/walk.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZEROS ((size_t)65536)

static const uint8_t zeros[ZEROS];

struct hashing {
    const struct hash_how *how;
    struct hash_file *file;
    struct view *view; /* or NULL, and there is a store */
    struct disk_walk walk;
    uint8_t *buffer;
    struct digest *whole, *piece; /* the latter NULL without pieces */
    uint64_t position;            /* bytes */
};

uint64_t hash_pieces(const struct hash_how *how, uint64_t size)
{
    return how->piece == 0 ? 0 : div_round_up(size, how->piece);
}

/* --- The digests -------------------------------------------------------------------------- */

static void add_to_pieces(struct hashing *hashing, const uint8_t *bytes, size_t length)
{
    uint64_t size = hashing->how->piece, at = hashing->position;

    while (length > 0) {
        size_t part = (size_t)min_u64(length, size - at % size);

        digest_add(hashing->piece, bytes, part);
        bytes += part;
        length -= part;
        at += part;
        if (at % size == 0 || at == hashing->file->size) {
            digest_take(hashing->piece, hashing->file->pieces[(at - 1) / size].digest);
        }
    }
}

static void add(struct hashing *hashing, const uint8_t *bytes, size_t length)
{
    digest_add(hashing->whole, bytes, length);
    if (hashing->piece != NULL) {
        add_to_pieces(hashing, bytes, length);
    }
    hashing->position += length;
}

/* --- The bytes ---------------------------------------------------------------------------- */

/* Whether there is something to be read at the position, and how far that goes, in *length. */
static int look(struct hashing *hashing, bool *is_data, uint64_t *length)
{
    uint64_t left = hashing->file->size - hashing->position;
    int result;

    if (hashing->view == NULL) {
        return store_extent(hashing->file->store, hashing->position, left, is_data, length);
    }
    result = disk_walk_at(&hashing->walk, hashing->position, hashing->file->size);
    *is_data = hashing->walk.is_data;
    *length = min_u64(hashing->walk.until - hashing->position, left);
    return result;
}

static int read_some(struct hashing *hashing, size_t length)
{
    return hashing->view != NULL
               ? view_read(hashing->view, hashing->position, hashing->buffer, length)
               : store_read(hashing->file->store, hashing->position, hashing->buffer, length);
}

/* The next bytes of one kind; reads begin at multiples of the buffer, as clusters do. */
static int hash_some(struct hashing *hashing)
{
    uint64_t begin = hashing->position, length = 0;
    bool is_data = true;
    int result = look(hashing, &is_data, &length);

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, HASH_BUFFER - hashing->position % HASH_BUFFER);

        if (is_data) {
            result = read_some(hashing, (size_t)part);
        } else {
            part = min_u64(part, ZEROS);
        }
        if (result == 0) {
            add(hashing, is_data ? hashing->buffer : zeros, (size_t)part);
            length -= part;
        }
        if (hashing->position - begin >= HASH_BUFFER || length == 0) {
            hashing->how->progress(hashing->how->context, hashing->position - begin);
            begin = hashing->position;
        }
    }
    return result;
}

static int hash_bytes(struct hashing *hashing)
{
    int result = 0;

    while (hashing->position < hashing->file->size && result == 0) {
        result = hash_some(hashing);
    }
    return result;
}

/* --- One file ----------------------------------------------------------------------------- */

static int open_view(struct hashing *hashing, struct error *error)
{
    const struct hash_file *file = hashing->file;

    switch (file->kind) {
    case HASH_DISK:
        hashing->view = file->disk;
        return 0;
    case HASH_SNAPSHOT:
        return view_open_snapshot(file->image, file->snapshot, &hashing->view, error);
    case HASH_VM_STATE:
        return view_open_vmstate(file->image, file->snapshot, &hashing->view, error);
    default:
        return 0;
    }
}

static int prepare(struct hashing *hashing)
{
    const struct hash_how *how = hashing->how;
    uint64_t pieces = hash_pieces(how, hashing->file->size);
    int result = digest_create(how->algorithm, &hashing->whole);

    if (result == 0 && how->piece != 0) {
        result = digest_create(how->algorithm, &hashing->piece);
        hashing->file->pieces = calloc((size_t)pieces + 1, sizeof(*hashing->file->pieces));
        result = hashing->file->pieces == NULL ? -ENOMEM : result;
    }
    return result;
}

void hash_one(const struct hash_how *how, struct hash_file *file, uint8_t *buffer)
{
    struct hashing hashing = {.how = how, .file = file, .buffer = buffer};
    struct error error = {0};
    int result = open_view(&hashing, &error);

    if (result == 0) {
        if (hashing.view != NULL) {
            disk_walk_begin(&hashing.walk, hashing.view);
        }
        result = prepare(&hashing);
        if (result == 0) {
            result = hash_bytes(&hashing);
        }
        if (result == 0) {
            digest_take(hashing.whole, file->digest);
        }
    }
    if (result < 0 && error.code == 0) {
        error_set(&error, -result, "%s: has no digest: it cannot be read at offset %" PRIu64 ": %s",
                  file->name, hashing.position, strerror(-result));
    }
    if (result < 0) {
        file->problem = strdup(error.text);
        file->digest[0] = '\0';
    }
    if (hashing.view != file->disk) {
        view_close(hashing.view);
    }
    digest_destroy(hashing.whole);
    digest_destroy(hashing.piece);
}
