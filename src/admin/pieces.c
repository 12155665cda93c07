/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/pieces.h"

#include "util/checked.h"
#include "util/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEEK_LOOKS 4096 /* extents of the host that one search looks at */

uint64_t pieces_length(const struct pieces *pieces, size_t index)
{
    uint64_t end = index + 1 < pieces->count ? pieces->list[index + 1].raw_offset : pieces->size;

    return end - pieces->list[index].raw_offset;
}

/* --- Filling ----------------------------------------------------------------------------- */

static bool goes_on(const struct pieces *pieces, const struct piece *piece)
{
    const struct piece *last = pieces->count > 0 ? &pieces->list[pieces->count - 1] : NULL;

    return last != NULL && last->store == piece->store && last->what == piece->what &&
           last->snapshot == piece->snapshot &&
           last->host_offset + pieces_length(pieces, pieces->count - 1) == piece->host_offset;
}

static int make_room(struct pieces *pieces)
{
    size_t room = pieces->room > 0 ? 2 * pieces->room : 16;
    struct piece *list;

    if (pieces->count < pieces->room) {
        return 0;
    }
    list = reallocarray(pieces->list, room, sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    pieces->list = list;
    pieces->room = room;
    return 0;
}

int pieces_add(struct pieces *pieces, const struct piece *piece, uint64_t length)
{
    int result = 0;

    if (length == 0) {
        return 0;
    }
    if (pieces->left_out > 0 || length > INT64_MAX - pieces->size ||
        (pieces->count == PIECES_MAX && !goes_on(pieces, piece))) {
        pieces->left_out += min_u64(length, UINT64_MAX - pieces->left_out);
        return 0;
    }
    if (!goes_on(pieces, piece)) {
        result = make_room(pieces);
        if (result < 0) {
            return result;
        }
        pieces->list[pieces->count] = *piece;
        pieces->list[pieces->count].raw_offset = pieces->size;
        pieces->count++;
    }
    pieces->size += length;
    return 0;
}

void pieces_release(struct pieces *pieces)
{
    free(pieces->list);
    *pieces = (struct pieces){0};
}

/* --- Reading ------------------------------------------------------------------------------ */

/* The piece that `offset`, within the file, is in. */
static size_t find(const struct pieces *pieces, uint64_t offset)
{
    size_t low = 0, high = pieces->count;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (pieces->list[middle].raw_offset <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

int pieces_read(const struct pieces *pieces, uint64_t offset, void *buffer, size_t length)
{
    size_t index = find(pieces, offset), done = 0;
    int result = 0;

    for (; done < length && result == 0; index++) {
        const struct piece *piece = &pieces->list[index];
        uint64_t within = offset + done - piece->raw_offset;
        size_t part = (size_t)min_u64(pieces_length(pieces, index) - within, length - done);

        result = store_read(piece->store, piece->host_offset + within, (char *)buffer + done, part);
        done += part;
    }
    return result;
}

uint64_t pieces_seek(const struct pieces *pieces, uint64_t offset, uint64_t end, bool want_data)
{
    for (size_t looks = 0, index = find(pieces, offset); offset < end; looks++) {
        const struct piece *piece = &pieces->list[index];
        uint64_t within = offset - piece->raw_offset, rest = pieces_length(pieces, index) - within;
        uint64_t length = rest;
        bool is_data = true;

        if (looks == SEEK_LOOKS) {
            return want_data ? offset : end; /* "data" is never wrong */
        }
        if (store_extent(piece->store, piece->host_offset + within, rest, &is_data, &length) < 0) {
            is_data = true;
            length = rest;
        }
        if (is_data == want_data) {
            return offset;
        }
        offset += length;
        index += length == rest;
    }
    return end;
}

/* --- Telling ------------------------------------------------------------------------------ */

static struct json *piece_json(const struct pieces *pieces, size_t index)
{
    const struct piece *piece = &pieces->list[index];
    struct json *object = json_new_object();

    if (piece->path != NULL) {
        json_put_text(object, "file", piece->path);
    }
    if (piece->what != NULL) {
        json_put_text(object, "what", piece->what);
    }
    if (piece->snapshot != 0) {
        json_put_number(object, "snapshot", piece->snapshot);
    }
    json_put_number(object, "host-offset", piece->host_offset);
    json_put_number(object, "length", pieces_length(pieces, index));
    json_put_number(object, "raw-offset", piece->raw_offset);
    return object;
}

char *pieces_json(const struct pieces *pieces, const char *file, bool complete)
{
    struct json *object = json_new_object(), *list = json_new_array();
    char *text;

    json_put_text(object, "file", file);
    json_put_number(object, "size", pieces->size);
    json_put_bool(object, "complete", complete && pieces->left_out == 0);
    json_put_number(object, "left-out", pieces->left_out);
    for (size_t i = 0; i < pieces->count; i++) {
        json_add(list, piece_json(pieces, i));
    }
    json_put(object, "pieces", list);
    text = json_text(object);
    json_free(object);
    return text;
}
