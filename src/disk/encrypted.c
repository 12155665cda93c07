/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/encrypted.h"

#include "crypto/cipher.h"
#include "disk/sectors.h"
#include "util/checked.h"
#include "util/team.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR ((uint64_t)CIPHER_SECTOR)

/* So much at once that it stays in a processor's cache between the file and the cipher. */
#define PIECE ((size_t)256 << 10)

/* Of fewer pieces (cipher_piece()) than this, all are done before another processor has woken up.
 */
#define SHARED_MIN 4

static uint64_t sector_of(const struct image *image, const struct encrypted_place *place)
{
    bool by_guest = image->header->crypt_method == CRYPT_AES;

    return (by_guest ? place->guest_offset : place->host_offset) / SECTOR;
}

static struct encrypted_place moved(const struct encrypted_place *place, uint64_t bytes)
{
    return (struct encrypted_place){
        .store = place->store,
        .host_offset = place->host_offset + bytes,
        .guest_offset = place->guest_offset + bytes,
    };
}

/* --- Whole sectors ------------------------------------------------------------------------ */

/* Whole sectors that lie one behind another, and are read in pieces. */
struct whole {
    const struct image *image;
    struct sectors *sectors; /* NULL: nobody writes to these */
    const struct encrypted_place *place;
    uint8_t *to;
    size_t length;
    size_t piece; /* bytes */
};

/* team_step */
static int read_piece(void *context, size_t index)
{
    const struct whole *whole = context;
    size_t begin = index * whole->piece, part = min_size(whole->length - begin, whole->piece);
    struct encrypted_place place = moved(whole->place, begin);
    int result = sectors_read(whole->sectors, &place, whole->to + begin, part);

    return result < 0 ? result
                      : cipher_decrypt(whole->image->cipher, sector_of(whole->image, &place),
                                       whole->to + begin, part);
}

static int read_sectors(const struct image *image, struct sectors *sectors,
                        const struct encrypted_place *place, uint8_t *to, size_t length)
{
    size_t shared = cipher_piece(image->cipher);
    struct team *team = length >= SHARED_MIN * shared ? image->team : NULL;
    struct whole whole = {
        .image = image,
        .sectors = sectors,
        .place = place,
        .to = to,
        .length = length,
        .piece = team != NULL ? shared : PIECE,
    };

    return team_run(team, read_piece, &whole, (length + whole.piece - 1) / whole.piece);
}

/* By one thread: a file is written by one at a time, so others would wait for it (ext4, tmpfs). */
int encrypted_write(const struct image *image, const struct encrypted_place *whole,
                    const void *data, size_t length)
{
    struct encrypted_place place = *whole;
    const uint8_t *from = data;
    uint8_t *piece;
    int result = 0;

    if (image->cipher == NULL) {
        return -ENOKEY;
    }
    if (place.host_offset % SECTOR != 0 || place.guest_offset % SECTOR != 0 ||
        length % SECTOR != 0) {
        return -EINVAL;
    }
    piece = malloc(min_size(length, PIECE));
    if (piece == NULL) {
        return length == 0 ? 0 : -ENOMEM;
    }
    while (length > 0 && result == 0) {
        size_t part = min_size(length, PIECE);

        result = cipher_encrypt(image->cipher, sector_of(image, &place), from, piece, part);
        if (result == 0) {
            result = store_write(place.store, place.host_offset, piece, part);
        }
        place = moved(&place, part);
        from += part;
        length -= part;
    }
    free(piece);
    return result;
}

/* --- Parts of sectors --------------------------------------------------------------------- */

/* How many bytes from there on, at most `length`, are in the sector of the first. */
static size_t part_of_sector(const struct encrypted_place *place, size_t length)
{
    return min_size(length, SECTOR - place->host_offset % SECTOR);
}

static int read_sector(const struct image *image, struct sectors *sectors,
                       const struct encrypted_place *place, uint8_t sector[CIPHER_SECTOR],
                       struct encrypted_place *begin)
{
    uint64_t before = place->host_offset % SECTOR;

    *begin = *place;
    begin->host_offset -= before;
    begin->guest_offset -= before;
    return read_sectors(image, sectors, begin, sector, CIPHER_SECTOR);
}

static int read_part(const struct image *image, const struct encrypted_place *place,
                     uint8_t *buffer, size_t length)
{
    uint8_t sector[CIPHER_SECTOR];
    struct encrypted_place begin;
    int result = read_sector(image, image->sectors, place, sector, &begin);

    memcpy(buffer, sector + place->host_offset % SECTOR, length);
    explicit_bzero(sector, sizeof(sector));
    return result;
}

static int update_part(const struct image *image, const struct encrypted_place *place,
                       const uint8_t *data, size_t length)
{
    uint8_t sector[CIPHER_SECTOR];
    struct encrypted_place begin;
    int result = read_sector(image, NULL, place, sector, &begin);

    if (result == 0) {
        memcpy(sector + place->host_offset % SECTOR, data, length);
        result = encrypted_write(image, &begin, sector, sizeof(sector));
    }
    explicit_bzero(sector, sizeof(sector));
    return result;
}

/* Cuts [0, length) into the part of a first sector, whole ones, and the part of a last one. */
static void cut(const struct encrypted_place *place, size_t length, size_t *head, size_t *middle)
{
    *head = place->host_offset % SECTOR != 0 ? part_of_sector(place, length) : 0;
    *middle = (size_t)round_down(length - *head, SECTOR);
}

int encrypted_read(const struct image *image, const struct encrypted_place *place, void *buffer,
                   size_t length)
{
    struct encrypted_place at = *place;
    uint8_t *to = buffer;
    size_t head, middle;
    int result = image->cipher != NULL ? 0 : -ENOKEY;

    cut(place, length, &head, &middle);
    if (head > 0 && result == 0) {
        result = read_part(image, &at, to, head);
    }
    at = moved(&at, head);
    if (result == 0) {
        result = read_sectors(image, image->sectors, &at, to + head, middle);
    }
    at = moved(&at, middle);
    if (result == 0 && head + middle < length) {
        result = read_part(image, &at, to + head + middle, length - head - middle);
    }
    return result;
}

int encrypted_update(const struct image *image, const struct encrypted_place *place,
                     const uint8_t *data, size_t length)
{
    struct encrypted_place at = *place;
    size_t head, middle;
    int result = image->cipher != NULL ? 0 : -ENOKEY;

    cut(place, length, &head, &middle);
    if (head > 0 && result == 0) {
        result = update_part(image, &at, data, head);
    }
    at = moved(&at, head);
    if (middle > 0 && result == 0) { /* else it may end within the sector in which it began */
        result = encrypted_write(image, &at, data + head, middle);
    }
    at = moved(&at, middle);
    if (result == 0 && head + middle < length) {
        result = update_part(image, &at, data + head + middle, length - head - middle);
    }
    return result;
}
