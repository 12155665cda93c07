/* SPDX-License-Identifier: MIT */
/*
 * A file that is made of pieces of other files, one behind another: nothing is copied, a read finds
 * its pieces by bisection. Filled by one thread, then read by any number of them.
 *
 * Memory: 40 bytes a piece, at most PIECES_MAX of them. More are left out, and `left_out` says so.
 */
#ifndef ADMIN_PIECES_H
#define ADMIN_PIECES_H

#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIECES_MAX ((size_t)1 << 17)

struct piece {
    uint64_t raw_offset; /* where it begins in the file that is made; bytes, as all here */
    uint64_t host_offset;
    struct store *store; /* borrowed */
    const char *path;    /* of the store; borrowed; NULL: it goes without saying */
    const char *what;    /* static; NULL: likewise */
    size_t snapshot;     /* that it belongs to, from 1 on; 0: none */
};

struct pieces {
    struct piece *list;
    size_t count, room;
    uint64_t size;     /* of the file that is made */
    uint64_t left_out; /* bytes */
};

/*
 * Adds `length` bytes of piece->store from piece->host_offset on; its raw_offset is set. What goes
 * on where the last piece ends becomes part of that. 0 or -ENOMEM.
 */
int pieces_add(struct pieces *pieces, const struct piece *piece, uint64_t length);
void pieces_release(struct pieces *pieces);

/* Bytes of the piece with that index. */
uint64_t pieces_length(const struct pieces *pieces, size_t index);

/* [offset, offset + length) is within the file. 0, or the negative errno of a store. */
int pieces_read(const struct pieces *pieces, uint64_t offset, void *buffer, size_t length);

/*
 * The first offset from `offset` on, below `end`, that is data (want_data) or a hole of the host;
 * `end` where there is none, or where that would take long to say.
 */
uint64_t pieces_seek(const struct pieces *pieces, uint64_t offset, uint64_t end, bool want_data);

/*
 * What the pieces are, as JSON for the caller to free: `file` is what they are of, `complete` says
 * whether all was found. NULL when memory ran out, or this build has no JSON library.
 */
char *pieces_json(const struct pieces *pieces, const char *file, bool complete);

#endif
