/* SPDX-License-Identifier: MIT */
/* What clusters hold: images within the disk, remnants of snapshot tables, entropy. */
#include "config.h"

#include "admin/audit_internal.h"

#include "meta/format.h"
#include "meta/snapshot.h"
#include "util/checked.h"
#include "util/size.h"
#include "util/zeros.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SECTOR      ((size_t)512)
#define WINDOW      ((size_t)4096)                   /* bytes of which the entropy is told */
#define WINDOWS_MAX ((UINT64_C(256) << 20) / WINDOW) /* that are looked at */

/* --- Entropy ------------------------------------------------------------------------- */

#define ONE        UINT32_C(65536) /* a bit */
#define RANDOM_MIN (79 * ONE / 10) /* random bytes: 7.95 in a window, so seldom less */
#define PLAIN_MAX  (6 * ONE)       /* text, tables, programs have less */

/* The logarithm to the base 2 of a number that is not 0, in units of 1/65536. */
static uint32_t logarithm(uint32_t number)
{
    uint32_t whole = 31 - (uint32_t)__builtin_clz(number), part = 0;
    uint64_t x = (uint64_t)number << (31 - whole); /* 1 is 2^31 */

    for (uint32_t bit = ONE / 2; bit > 0; bit /= 2) {
        x = x * x >> 31;
        if (x >= UINT64_C(1) << 32) {
            x /= 2;
            part |= bit;
        }
    }
    return whole * ONE + part;
}

/* Shannon's, of single bytes: bits for each, in units of 1/65536. */
static uint32_t entropy(const uint8_t *bytes, size_t length)
{
    uint32_t counts[256] = {0};
    uint64_t sum = 0;

    for (size_t i = 0; i < length; i++) {
        counts[bytes[i]]++;
    }
    for (size_t i = 0; i < 256; i++) {
        sum += counts[i] == 0 ? 0 : (uint64_t)counts[i] * logarithm(counts[i]);
    }
    return logarithm((uint32_t)length) - (uint32_t)(sum / length);
}

static void look_at_entropy(struct audit_contents *contents, uint64_t host_offset,
                            const uint8_t *bytes, size_t length)
{
    for (size_t at = 0; at + WINDOW <= length && contents->windows < WINDOWS_MAX; at += WINDOW) {
        uint32_t bits;

        if (is_all_zeros(bytes + at, WINDOW)) {
            continue;
        }
        bits = entropy(bytes + at, WINDOW);
        if (contents->windows++ == 0) {
            contents->first_window = host_offset + at;
        }
        contents->entropy_sum += bits;
        contents->plain += bits < PLAIN_MAX;
        if (bits >= RANDOM_MIN && contents->random++ == 0) {
            contents->first_random = host_offset + at;
        }
    }
}

static void tell_entropy(const struct audit_contents *contents)
{
    uint64_t hundredths;

    if (contents->windows == 0) {
        return;
    }
    hundredths = contents->entropy_sum * 100 / contents->windows / ONE;
    audit_add_at(contents->audit, AUDIT_NOTE, "entropy", contents->image,
                 contents->random > 0 ? contents->first_random : contents->first_window,
                 "entropy of what no table refers to: %" PRIu64 ".%02" PRIu64
                 " bits a byte; of %" PRIu64 "%s pieces of 4 KiB with data, %" PRIu64
                 " have 7.9 or more, as encrypted or compressed data has, and %" PRIu64
                 " less than 6, as text, tables and programs have",
                 hundredths / 100, hundredths % 100, contents->windows,
                 contents->windows == WINDOWS_MAX ? " (no more were looked at)" : "",
                 contents->random, contents->plain);
}

/* --- Images within the disk ------------------------------------------------------------ */

/* Whether a header could begin here that image_open() would take. */
static bool is_header(const uint8_t *sector)
{
    uint32_t version = load_be32(sector + HEADER_VERSION);
    uint32_t bits = load_be32(sector + HEADER_CLUSTER_BITS);
    uint64_t size = load_be64(sector + HEADER_SIZE);
    uint64_t l1 = load_be64(sector + HEADER_L1_TABLE_OFFSET);

    return load_be32(sector + HEADER_MAGIC) == QCOW_MAGIC && (version == 2 || version == 3) &&
           bits >= CLUSTER_BITS_MIN && bits <= CLUSTER_BITS_MAX && size <= INT64_MAX &&
           load_be32(sector + HEADER_CRYPT_METHOD) <= CRYPT_LUKS &&
           (l1 & ((UINT64_C(1) << bits) - 1)) == 0;
}

static void look_for_headers(struct audit_contents *contents, uint64_t host_offset,
                             const uint8_t *bytes, size_t length, bool used)
{
    for (size_t at = 0; at + SECTOR <= length; at += SECTOR) {
        if (is_header(bytes + at) && contents->nested_count++ < AUDIT_LIST_MAX) {
            contents->nested[contents->nested_count - 1] = (struct audit_nested){
                .host_offset = host_offset + at,
                .virtual_size = load_be64(bytes + at + HEADER_SIZE),
                .version = load_be32(bytes + at + HEADER_VERSION),
                .used = used,
            };
        }
    }
}

static void tell_nested(const struct audit_contents *contents)
{
    char size[SIZE_TEXT_MAX], where[64];

    for (size_t i = 0; i < contents->nested_count && i < AUDIT_LIST_MAX; i++) {
        const struct audit_nested *nested = &contents->nested[i];

        snprintf(where, sizeof(where), "at offset %" PRIu64 " of the disk", nested->guest_offset);
        audit_add_at(contents->audit, AUDIT_WARNING, "nested-image", contents->image,
                     nested->host_offset,
                     "%s begins a qcow2 image of version %" PRIu32
                     " with a disk of %s of its own, which nothing here looks into",
                     !nested->used               ? "in what no table refers to"
                     : nested->has_guest         ? where
                     : contents->guests_left_out ? "in what a table refers to"
                                                 : "in what a snapshot keeps",
                     nested->version, size_format(nested->virtual_size, size));
    }
    if (contents->nested_count > AUDIT_LIST_MAX) {
        audit_add(contents->audit, AUDIT_WARNING, "nested-image", contents->image,
                  "has %zu places in all at which a qcow2 image begins", contents->nested_count);
    }
    if (contents->data_left == 0) {
        audit_add(contents->audit, AUDIT_NOTE, "nested-search-ended", contents->image,
                  "images within the disk were looked for in the first %s of its data alone",
                  size_format(AUDIT_DATA_MAX, size));
    }
}

/* --- Snapshots that were removed --------------------------------------------------------- */

#define ID_MAX          20 /* digits of a number */
#define NAME_LENGTH_MAX 255
#define EXTRA_MAX       1024
#define YEAR_2005       1104537600 /* before that there was no such format */

static bool is_number(const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
    }
    return length > 0 && length <= ID_MAX;
}

static bool is_name(const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] < ' ' || text[i] == 0x7f) {
            return false;
        }
    }
    return length <= NAME_LENGTH_MAX;
}

static bool is_there(const struct snapshot_table *table, uint64_t l1, const uint8_t *bytes)
{
    for (size_t i = 0; table != NULL && i < table->count; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];

        if (snapshot->l1_offset == l1 &&
            snapshot->date_sec == load_be32(bytes + SNAPSHOT_DATE_SEC) &&
            snapshot->date_nsec == load_be32(bytes + SNAPSHOT_DATE_NSEC)) {
            return true;
        }
    }
    return false;
}

/* Whether it was told: each change of the snapshots leaves a table with all others. */
static bool is_told(struct audit_contents *contents, uint64_t l1, const uint8_t *bytes)
{
    const struct audit_entry entry = {l1, load_be64(bytes + SNAPSHOT_DATE_SEC)};

    for (size_t i = 0; i < contents->entry_count; i++) {
        if (contents->entries[i].l1_offset == entry.l1_offset &&
            contents->entries[i].date == entry.date) {
            return true;
        }
    }
    if (contents->entry_count == AUDIT_LIST_MAX) {
        contents->entries_left_out = true;
        return true;
    }
    contents->entries[contents->entry_count++] = entry;
    return false;
}

/* Bytes of the entry of a snapshot table that begins here; 0: none does. */
static size_t look_at_entry(struct audit_contents *contents, uint64_t host_offset,
                            const uint8_t *bytes, size_t length)
{
    uint64_t l1, cluster_size = contents->image->header->cluster_size;
    size_t id_length, name_length, extra, at, end;
    time_t when;
    struct tm parts;
    char date[64] = "?";

    if (length < SNAPSHOT_FIXED_LENGTH) {
        return 0;
    }
    l1 = load_be64(bytes + SNAPSHOT_L1_TABLE_OFFSET);
    id_length = load_be16(bytes + SNAPSHOT_ID_LENGTH);
    name_length = load_be16(bytes + SNAPSHOT_NAME_LENGTH);
    extra = load_be32(bytes + SNAPSHOT_EXTRA_DATA_SIZE);
    when = load_be32(bytes + SNAPSHOT_DATE_SEC);
    if (l1 == 0 || l1 % cluster_size != 0 || l1 >= 2 * contents->image->info.size ||
        load_be32(bytes + SNAPSHOT_L1_SIZE) > HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES ||
        when < YEAR_2005 || id_length == 0 || extra > EXTRA_MAX) {
        return 0;
    }
    at = SNAPSHOT_FIXED_LENGTH + extra;
    end = at + id_length + name_length;
    if (end > length || !is_number(bytes + at, id_length) ||
        !is_name(bytes + at + id_length, name_length)) {
        return 0;
    }
    if (gmtime_r(&when, &parts) != NULL) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &parts);
    }
    if (!is_there(contents->image->snapshots, l1, bytes) && !is_told(contents, l1, bytes)) {
        audit_add_at(contents->audit, AUDIT_WARNING, "removed-snapshot", contents->image,
                     host_offset,
                     "an old snapshot table that no table refers to tells of a snapshot '%.*s' "
                     "(id %.*s) of %s, whose L1 table was at offset 0x%" PRIx64,
                     (int)name_length, (const char *)bytes + at + id_length, (int)id_length,
                     (const char *)bytes + at, date, l1);
    }
    return (size_t)(div_round_up(end, 8) * 8);
}

static void look_for_snapshots(struct audit_contents *contents, uint64_t host_offset,
                               const uint8_t *bytes, size_t length)
{
    uint64_t cluster_size = contents->image->header->cluster_size;

    for (size_t at = 0; at < length; at += in_memory(cluster_size)) {
        size_t entry = 0, found = 0;

        do { /* a table begins with its cluster */
            found = look_at_entry(contents, host_offset + at + entry, bytes + at + entry,
                                  length - at - entry);
            entry += found;
        } while (found > 0 && at + entry < length);
    }
}

/* --- All of it ------------------------------------------------------------------------- */

void audit_look_at_unused(struct audit_contents *contents, uint64_t host_offset,
                          const uint8_t *bytes, size_t length)
{
    look_for_snapshots(contents, host_offset, bytes, length);
    if (contents->image->header->crypt_method == CRYPT_NONE) {
        look_at_entropy(contents, host_offset, bytes, length);
        look_for_headers(contents, host_offset, bytes, length, false);
    }
}

void audit_look_at_data(struct audit_contents *contents, uint64_t host_offset, const uint8_t *bytes,
                        size_t length)
{
    look_for_headers(contents, host_offset, bytes, length, true);
    contents->data_left -= min_u64(contents->data_left, length);
}

void audit_tell_contents(struct audit_contents *contents)
{
    if (contents->nested_count > 0) {
        audit_find_guests(contents);
    }
    tell_nested(contents);
    tell_entropy(contents);
    if (contents->entries_left_out) {
        audit_add(contents->audit, AUDIT_WARNING, "removed-snapshot", contents->image,
                  "old snapshot tables tell of more snapshots than are listed here");
    }
}
