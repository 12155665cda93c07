/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots_internal.h"

#include "disk/references.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

#define AT_ONCE (UINT64_C(4) << 20) /* bytes of L2 tables */

uint64_t snapshots_tables_at_once(const struct writer *writer)
{
    uint64_t usual = max_u64(1, AT_ONCE >> writer->header->cluster_bits);

    return writer->options.tables_at_once > 0 ? writer->options.tables_at_once : usual;
}

/*
 * COPIED as the counts are, a part after the other, each with all requests kept out and all that
 * they did stable. Where that cannot be done for now it is left to writer_settle().
 */
static int correct_copied(struct writer *writer, bool others_go_on)
{
    uint64_t step = snapshots_tables_at_once(writer);
    int result = 0, flushed = 0, last;

    for (uint64_t i = 0; i < writer->header->l1_entries && result == 0; i += step) {
        if (others_go_on) {
            writer_pause_nobody(writer);
            flushed = writer_pause_again(writer);
        }
        result = flushed == 0 ? references_correct_copied(writer, i, step) : flushed;
    }
    /* R3: it would name tables that are not written. */
    last = flushed == 0 ? mapping_write_l1(writer->image->active) : flushed;
    result = result == 0 ? last : result;
    writer->unsettled = result < 0;
    return result;
}

int snapshots_correct_copied(struct writer *writer)
{
    return correct_copied(writer, false);
}

int writer_settle(struct writer *writer)
{
    return writer->unsettled && !writer_is_refused(writer) ? snapshots_correct_copied(writer) : 0;
}

int snapshots_share(struct writer *writer, const uint64_t *l1, uint64_t entries,
                    struct allocation *copy)
{
    uint64_t made, bytes = entries * L1_ENTRY_BYTES;
    uint64_t *raw = calloc(1, in_memory(bytes + 1));
    int result = raw == NULL ? -ENOMEM : writer_prepare_allocation(writer);

    if (result < 0) {
        free(raw);
        return result;
    }
    result = references_add(writer, l1, entries, &made);
    for (uint64_t i = 0; i < entries; i++) {
        store_be64((uint8_t *)&raw[i], l1[i] & ~ENTRY_COPIED);
    }
    if (result == 0) {
        result = snapshots_place(writer, raw, bytes, copy);
    }
    if (result == 0) {
        result = allocator_write_back(writer->allocator);
        if (result < 0) {
            allocator_return(writer->allocator, copy->host_offset, copy->clusters);
        }
    }
    if (result < 0 && references_remove(writer, l1, entries, made) < 0) {
        (void)snapshots_correct_copied(
            writer); /* what remains is a leak, and counts that are not 1 */
    }
    free(raw);
    return result;
}

/* Nothing has come to name what snapshots_share() made: it goes again. */
void snapshots_take_back(struct writer *writer, const uint64_t *l1, uint64_t entries,
                         const struct allocation *copy)
{
    (void)references_remove(writer, l1, entries, UINT64_MAX);
    allocator_return(writer->allocator, copy->host_offset, copy->clusters);
    (void)snapshots_correct_copied(writer);
}

uint64_t *snapshots_read_l1(struct writer *writer, const struct snapshot *snapshot, int *result)
{
    uint64_t *l1 = malloc((size_t)snapshot->l1_entries * L1_ENTRY_BYTES + 1);

    *result = l1 == NULL ? -ENOMEM
                         : store_read(writer->image->file, snapshot->l1_offset, l1,
                                      (size_t)snapshot->l1_entries * L1_ENTRY_BYTES);
    if (*result < 0) {
        free(l1);
        return NULL;
    }
    for (uint32_t i = 0; i < snapshot->l1_entries; i++) {
        l1[i] = load_be64(&l1[i]);
    }
    return l1;
}

int snapshots_give_up(struct writer *writer, const uint64_t *l1, uint64_t entries,
                      uint64_t l1_offset, bool others_go_on)
{
    uint64_t clusters = div_round_up(entries * L1_ENTRY_BYTES, writer_cluster_size(writer));
    int result, last;

    if (others_go_on) { /* counts that fall below others' eyes make nobody write what is shared */
        writer_pause_nobody(writer);
    }
    result = references_remove(writer, l1, entries, UINT64_MAX);
    allocator_return(writer->allocator, l1_offset, clusters);
    last = others_go_on ? writer_pause_again(writer) : 0;
    if (last == 0) {
        last = correct_copied(writer, others_go_on);
    } else {
        writer->unsettled = true;
    }
    return result == 0 ? last : result;
}
