/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/references.h"

#include "disk/writer_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

/* Told of host clusters that follow each other; a negative errno ends the walk. */
typedef int run_fn(void *context, uint64_t first, uint64_t clusters);

struct walk {
    struct writer *writer;
    run_fn *run;
    void *context;
    uint64_t limit;         /* clusters of the file */
    uint64_t first, length; /* the run that is being put together */
    uint8_t *table;         /* of one cluster */
};

static int open_walk(struct walk *walk, struct writer *writer)
{
    struct store_info info;
    int result = store_info(writer->image->file, &info);

    walk->writer = writer;
    walk->limit = div_round_up(info.size, writer_cluster_size(writer));
    walk->table = malloc(in_memory(writer_cluster_size(writer)));
    if (result == 0 && walk->table == NULL) {
        result = -ENOMEM;
    }
    return result;
}

static int end_run(struct walk *walk)
{
    uint64_t length = walk->length;

    walk->length = 0;
    return length == 0 ? 0 : walk->run(walk->context, walk->first, length);
}

static int add_clusters(struct walk *walk, uint64_t first, uint64_t clusters)
{
    int result = 0;

    if (!range_within(first, clusters, walk->limit)) {
        return -EUCLEAN;
    }
    if (walk->length > 0 && walk->first + walk->length == first) {
        walk->length += clusters;
        return 0;
    }
    result = end_run(walk);
    walk->first = first;
    walk->length = clusters;
    return result;
}

/* What one L2 entry names, "Standard" or "Compressed Clusters Descriptor". */
static int add_entry(struct walk *walk, uint64_t entry)
{
    const struct header *header = walk->writer->header;
    uint32_t bits = header->cluster_bits;
    uint64_t offset = l2_entry_host_offset(entry), size = header->cluster_size;

    if (l2_entry_is_compressed(entry)) {
        offset = l2_entry_compressed_offset(entry, bits);
        size = l2_entry_compressed_size(entry, bits);
    } else if (offset == 0) {
        return 0;
    } else if (offset % size != 0) {
        return -EUCLEAN;
    }
    return add_clusters(walk, offset >> bits, ((offset + size - 1) >> bits) - (offset >> bits) + 1);
}

static int read_table(const struct walk *walk, uint64_t table)
{
    const struct header *header = walk->writer->header;

    if (table % header->cluster_size != 0 || table >> header->cluster_bits >= walk->limit) {
        return -EUCLEAN;
    }
    return store_read(walk->writer->image->file, table, walk->table,
                      in_memory(header->cluster_size));
}

static int walk_table(struct walk *walk, uint64_t table)
{
    const struct header *header = walk->writer->header;
    int result = read_table(walk, table);

    if (result == 0) {
        result = add_clusters(walk, table >> header->cluster_bits, 1);
    }
    for (uint64_t at = 0; at < header->cluster_size && result == 0; at += header->l2_entry_bytes) {
        result = add_entry(walk, load_be64(walk->table + at));
    }
    return result;
}

/* --- One reference more ---------------------------------------------------------------------- */

struct adding {
    struct allocator *allocator;
    uint32_t bits;
    uint64_t made;
};

static int add_run(void *context, uint64_t first, uint64_t clusters)
{
    struct adding *adding = context;
    uint64_t done;
    int result = allocator_share(adding->allocator, first << adding->bits, clusters, &done);

    adding->made += done;
    return result;
}

int references_add(struct writer *writer, const uint64_t *l1, uint64_t entries, uint64_t *made)
{
    struct adding adding = {.allocator = writer->allocator, .bits = writer->header->cluster_bits};
    struct walk walk = {.run = add_run, .context = &adding};
    int result = open_walk(&walk, writer);

    for (uint64_t i = 0; i < entries && result == 0; i++) {
        if (l1_entry_table(l1[i]) == 0) {
            continue;
        }
        result = walk_table(&walk, l1_entry_table(l1[i]));
        if (result == 0) {
            result = end_run(&walk);
        }
        if (result == 0) {
            result = allocator_write_back(writer->allocator); /* they are not to fill the cache */
        }
    }
    free(walk.table);
    *made = adding.made;
    return result;
}

/* --- One less -------------------------------------------------------------------------------- */

struct removing {
    struct allocator *allocator;
    uint32_t bits;
    uint64_t left;
};

static int remove_run(void *context, uint64_t first, uint64_t clusters)
{
    struct removing *removing = context;
    uint64_t part = min_u64(clusters, removing->left);

    removing->left -= part;
    return allocator_unshare(removing->allocator, first << removing->bits, part);
}

int references_remove(struct writer *writer, const uint64_t *l1, uint64_t entries, uint64_t limit)
{
    struct removing removing = {
        .allocator = writer->allocator,
        .bits = writer->header->cluster_bits,
        .left = limit,
    };
    struct walk walk = {.run = remove_run, .context = &removing};
    int result = open_walk(&walk, writer), first = result;

    for (uint64_t i = 0; i < entries && result == 0 && removing.left > 0; i++) {
        int each;

        if (l1_entry_table(l1[i]) == 0) {
            continue;
        }
        each = walk_table(&walk, l1_entry_table(l1[i]));
        if (each == 0) {
            each = end_run(&walk);
        }
        walk.length = 0;
        if (each == 0) {
            each = allocator_write_back(writer->allocator);
        }
        first = first == 0 ? each : first;
        if (limit != UINT64_MAX) {
            result = each; /* how many references of this table were counted nobody can say */
        }
    }
    free(walk.table);
    return first;
}

/* --- COPIED ---------------------------------------------------------------------------------- */

/* The bytes of the table that were changed. */
struct changed {
    uint64_t begin, end;
};

static void set_bit(struct walk *walk, uint64_t at, bool copied, struct changed *changed)
{
    uint64_t entry = load_be64(walk->table + at);

    if (l2_entry_is_copied(entry) == copied) {
        return;
    }
    store_be64(walk->table + at, entry ^ ENTRY_COPIED);
    if (changed->end == 0) {
        changed->begin = at;
    }
    changed->end = at + sizeof(entry);
}

/* Whether the entry names a cluster that COPIED is said of, *cluster. */
static bool has_copied(const struct walk *walk, uint64_t at, uint64_t *cluster)
{
    uint64_t entry = load_be64(walk->table + at);

    *cluster = l2_entry_host_offset(entry) >> walk->writer->header->cluster_bits;
    return !l2_entry_is_compressed(entry) && *cluster != 0;
}

static int clear_in_table(struct walk *walk, struct changed *changed)
{
    const struct header *header = walk->writer->header;
    uint64_t cluster;

    for (uint64_t at = 0; at < header->cluster_size; at += header->l2_entry_bytes) {
        if (has_copied(walk, at, &cluster)) {
            set_bit(walk, at, false, changed);
        }
    }
    return 0;
}

/* Entries whose clusters follow each other, from `at` on: how many. */
static uint64_t count_following(const struct walk *walk, uint64_t at, uint64_t first)
{
    const struct header *header = walk->writer->header;
    uint64_t count = 0, cluster;

    for (; at < header->cluster_size && has_copied(walk, at, &cluster) && cluster == first + count;
         at += header->l2_entry_bytes) {
        count++;
    }
    return count;
}

static int correct_in_table(struct walk *walk, struct changed *changed)
{
    const struct header *header = walk->writer->header;
    bool *ones = malloc(in_memory(header->cluster_size / header->l2_entry_bytes * sizeof(*ones)));
    uint64_t at = 0, first;
    int result = ones == NULL ? -ENOMEM : 0;

    while (at < header->cluster_size && result == 0) {
        uint64_t count;

        if (!has_copied(walk, at, &first)) {
            at += header->l2_entry_bytes;
            continue;
        }
        count = count_following(walk, at, first);
        result =
            allocator_are_one(walk->writer->allocator, first << header->cluster_bits, count, ones);
        for (uint64_t i = 0; i < count && result == 0; i++, at += header->l2_entry_bytes) {
            set_bit(walk, at, ones[i], changed);
        }
    }
    free(ones);
    return result;
}

static int write_changed(const struct walk *walk, uint64_t table, const struct changed *changed)
{
    uint64_t begin = round_down(changed->begin, 512), end = round_down(changed->end + 511, 512);
    int result;

    if (changed->end == 0) {
        return 0;
    }
    result =
        gate_write(walk->writer->gate, GATE_L2, table + begin, walk->table + begin, end - begin);
    /* Not before: a reader could have it read again as it was. */
    mapping_forget_table(walk->writer->image->active, table);
    return result;
}

/* The table at that host offset: cleared, or corrected. */
static int change_table(struct walk *walk, uint64_t table, bool clear)
{
    struct changed changed = {0};
    int result = read_table(walk, table);

    if (result == 0) {
        result = clear ? clear_in_table(walk, &changed) : correct_in_table(walk, &changed);
    }
    return result == 0 ? write_changed(walk, table, &changed) : result;
}

int references_clear_copied(struct writer *writer, const uint64_t *l1, uint64_t entries)
{
    struct walk walk = {0};
    int result = open_walk(&walk, writer);

    for (uint64_t i = 0; i < entries && result == 0; i++) {
        if (l1_entry_table(l1[i]) != 0) {
            result = change_table(&walk, l1_entry_table(l1[i]), true);
        }
    }
    free(walk.table);
    return result;
}

int references_correct_copied(struct writer *writer, uint64_t first, uint64_t count)
{
    struct mapping *mapping = writer->image->active;
    struct walk walk = {0};
    uint64_t entries = writer->header->l1_entries;
    uint64_t end = first < entries ? first + min_u64(count, entries - first) : first;
    int result = open_walk(&walk, writer);

    for (uint64_t i = first; i < end && result == 0; i++) {
        uint64_t table = mapping_table(mapping, i);
        bool one = false;

        if (table == 0) {
            continue;
        }
        result = change_table(&walk, table, false);
        if (result == 0) {
            result = allocator_are_one(writer->allocator, table, 1, &one);
        }
        if (result == 0) {
            mapping_set_copied(mapping, i, one);
        }
    }
    free(walk.table);
    return result;
}
