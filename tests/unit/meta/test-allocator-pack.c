/* SPDX-License-Identifier: MIT */
/* Places for compressed data, several in one cluster: each is one reference to all that it lies in.
 */
#include "config.h"

#include "meta/refcount_block.h"
#include "suite.h"
#include "util/checked.h"
#include "write_case.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER     UINT64_C(512)
#define PIECES_MAX  4000
#define AT_ONCE     12
#define ALL_COMMITS UINT64_MAX

struct piece {
    uint64_t begin, size; /* bytes of the file */
};

struct packer {
    struct write_case write_case;
    struct piece pieces[PIECES_MAX]; /* that are named */
    size_t count;
    uint64_t commit; /* of what is dropped */
    unsigned seed;
};

static struct allocator *allocator_of(struct packer *packer)
{
    return packer->write_case.allocator;
}

static struct packer *open_packer(uint32_t refcount_order)
{
    struct packer *packer = calloc(1, sizeof(*packer));
    struct builder_options options = write_case_options();

    ck_assert_ptr_nonnull(packer);
    options.refcount_order = refcount_order;
    packer->commit = 1;
    write_case_open(&packer->write_case, builder_create(&options), false);
    return packer;
}

static void close_packer(struct packer *packer)
{
    write_case_close(&packer->write_case);
    free(packer);
}

static bool touches(const struct piece *piece, uint64_t cluster)
{
    return ranges_overlap(piece->begin, piece->size, cluster * CLUSTER, CLUSTER);
}

static void add_piece(struct packer *packer, struct piece piece)
{
    for (size_t i = 0; i < packer->count; i++) {
        if (ranges_overlap(packer->pieces[i].begin, packer->pieces[i].size, piece.begin,
                           piece.size)) {
            ck_abort_msg("offset %llu was handed out twice", (unsigned long long)piece.begin);
        }
    }
    ck_assert_uint_le(piece.begin + piece.size, memory_store_size(packer->write_case.file));
    ck_assert_uint_lt(packer->count, PIECES_MAX);
    packer->pieces[packer->count++] = piece;
}

/* As allocator_pack(): what comes is named. */
static int pack(struct packer *packer, const size_t *sizes, size_t count, struct packed *packed)
{
    int result = allocator_pack(allocator_of(packer), sizes, count, packed);
    uint64_t at = packed->host_offset;

    if (result < 0) {
        return result;
    }
    ck_assert_uint_ge(packed->count, 1);
    ck_assert_uint_le(packed->count, count);
    for (size_t i = 0; i < packed->count; i++) {
        add_piece(packer, (struct piece){at, sizes[i]});
        at += sizes[i];
    }
    return 0;
}

static struct packed packed_one(struct packer *packer, size_t size)
{
    struct packed packed;

    ck_assert_int_eq(pack(packer, &size, 1, &packed), 0);
    return packed;
}

static uint64_t counted(struct packer *packer, uint64_t host_offset)
{
    return write_case_counted(&packer->write_case, host_offset);
}

/* As counted(), for loops: each assertion costs a write to a pipe. */
static uint64_t quickly_counted(struct packer *packer, uint64_t cluster)
{
    uint64_t count = 0;

    if (refcounts_get(packer->write_case.refcounts, cluster, &count) < 0) {
        ck_abort_msg("no count");
    }
    return count;
}

static uint64_t references(const struct packer *packer, uint64_t cluster)
{
    uint64_t references = 0;

    for (size_t i = 0; i < packer->count; i++) {
        references += touches(&packer->pieces[i], cluster);
    }
    return references;
}

/* R2: none is counted less than what lies in it; `exactly`: nor more. */
static void expect_counts(struct packer *packer, bool exactly)
{
    for (size_t i = 0; i < packer->count; i++) {
        const struct piece *piece = &packer->pieces[i];
        uint64_t last = (piece->begin + piece->size - 1) / CLUSTER;

        for (uint64_t cluster = piece->begin / CLUSTER; cluster <= last; cluster++) {
            uint64_t wanted = references(packer, cluster);
            uint64_t found = quickly_counted(packer, cluster);

            if (found < wanted || (exactly && found != wanted)) {
                ck_abort_msg("cluster %llu is counted %llu, and has %llu pieces",
                             (unsigned long long)cluster, (unsigned long long)found,
                             (unsigned long long)wanted);
            }
        }
    }
}

/* All that is counted in the file, but for what was there when it was opened. */
static uint64_t sum_of_counts(struct packer *packer)
{
    uint64_t end = refcounts_end(packer->write_case.refcounts), sum = 0;

    for (uint64_t cluster = 0; cluster < end; cluster++) {
        sum += quickly_counted(packer, cluster);
    }
    return sum;
}

static uint64_t sum_of_references(const struct packer *packer)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < packer->count; i++) {
        const struct piece *piece = &packer->pieces[i];

        sum += (piece->begin + piece->size - 1) / CLUSTER - piece->begin / CLUSTER + 1;
    }
    return sum;
}

/* --- One after the other ------------------------------------------------------------------------
 */

START_TEST(what_is_kept_for_pieces_can_be_handed_out_and_what_has_some_cannot)
{
    struct packer *packer = open_packer(4);
    struct packed packed = packed_one(packer, 300);
    uint64_t cluster = round_down(packed.host_offset, CLUSTER), offset;
    bool found;

    ck_assert_int_eq(allocator_find_free(allocator_of(packer), cluster, 1, &found, &offset), 0);
    ck_assert(!found);
    ck_assert_int_eq(
        allocator_find_free(allocator_of(packer), cluster + CLUSTER, 1, &found, &offset), 0);
    ck_assert(found);
    ck_assert_uint_eq(offset, cluster + CLUSTER);
    close_packer(packer);
}
END_TEST

START_TEST(pieces_lie_one_behind_the_other_and_share_clusters)
{
    struct packer *packer = open_packer(4);
    struct packed first = packed_one(packer, 200), next;

    ck_assert_uint_eq(first.host_offset % CLUSTER, 0);
    next = packed_one(packer, 200);
    ck_assert_uint_eq(next.host_offset, first.host_offset + 200);
    next = packed_one(packer, 200); /* lies in two */
    ck_assert_uint_eq(next.host_offset, first.host_offset + 400);
    next = packed_one(packer, 300);
    ck_assert_uint_eq(next.host_offset, first.host_offset + 600);
    /* The last cluster's count has one more, as something may follow. */
    ck_assert_uint_eq(counted(packer, first.host_offset), 3);
    ck_assert_uint_eq(counted(packer, first.host_offset + CLUSTER), 2 + 1);
    allocator_end_packing(allocator_of(packer));
    expect_counts(packer, true);
    close_packer(packer);
}
END_TEST

START_TEST(what_ends_with_a_cluster_leaves_no_reference_too_many)
{
    struct packer *packer = open_packer(4);
    const size_t sizes[] = {500, 12, 511, 1, 256, 256};
    struct packed packed;

    ck_assert_int_eq(pack(packer, sizes, 6, &packed), 0);
    ck_assert_uint_eq(packed.count, 6);
    expect_counts(packer, true);
    packed_one(packer, 30);
    allocator_end_packing(allocator_of(packer));
    expect_counts(packer, true);
    close_packer(packer);
}
END_TEST

/* R2: with the call that hands it out, not with the next flush. */
START_TEST(counts_are_in_the_file_when_a_place_is_handed_out)
{
    struct packer *packer = open_packer(4);
    const struct header *header = packer->write_case.image.header;

    for (unsigned i = 0; i < 40; i++) {
        struct packed packed = packed_one(packer, 30 + i * 7);

        for (size_t k = 0; k < packer->count; k++) {
            uint64_t cluster = packer->pieces[k].begin / CLUSTER;

            ck_assert_uint_ge(write_case_count(packer->write_case.file, header, cluster),
                              references(packer, cluster));
        }
        ck_assert(!barrier_is_stable(packer->write_case.barrier, packed.epoch));
    }
    close_packer(packer);
}
END_TEST

START_TEST(no_cluster_is_counted_higher_than_its_count_is_wide)
{
    struct packer *packer = open_packer((uint32_t)_i); /* 1, 2, 4 bits */
    uint64_t most = refcount_max((uint32_t)_i);

    for (unsigned i = 0; i < 40; i++) {
        size_t sizes[AT_ONCE];
        struct packed packed;

        for (size_t k = 0; k < AT_ONCE; k++) {
            sizes[k] = 5 + (i * AT_ONCE + k) * 37 % 90;
        }
        ck_assert_int_eq(pack(packer, sizes, AT_ONCE, &packed), 0);
    }
    for (size_t i = 0; i < packer->count; i++) {
        if (references(packer, packer->pieces[i].begin / CLUSTER) > most) {
            ck_abort_msg("too many in one cluster");
        }
    }
    expect_counts(packer, false);
    allocator_end_packing(allocator_of(packer));
    expect_counts(packer, true);
    close_packer(packer);
}
END_TEST

START_TEST(a_cluster_in_which_more_may_come_is_not_freed_with_what_it_had)
{
    struct packer *packer = open_packer(4);
    struct packed first = packed_one(packer, 100), next;

    packer->count = 0;
    ck_assert_int_eq(allocator_drop(allocator_of(packer), first.host_offset, 1, 1), 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(packer), 1), 0);
    ck_assert_uint_eq(counted(packer, first.host_offset), 1);
    next = packed_one(packer, 100);
    ck_assert_uint_eq(next.host_offset, first.host_offset + 100); /* R4: nor written again */
    allocator_end_packing(allocator_of(packer));
    ck_assert_uint_eq(counted(packer, first.host_offset), 1);
    packer->count = 0;
    ck_assert_int_eq(allocator_drop(allocator_of(packer), next.host_offset, 1, 2), 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(packer), 2), 0);
    ck_assert_uint_eq(counted(packer, first.host_offset), 0);
    close_packer(packer);
}
END_TEST

START_TEST(closing_gives_back_what_was_kept_for_more)
{
    struct packer *packer = open_packer(4);
    uint64_t before = sum_of_counts(packer);
    struct packed first = packed_one(packer, 100);

    ck_assert_uint_gt(memory_store_size(packer->write_case.file), first.host_offset + CLUSTER);
    ck_assert_int_eq(allocator_close(allocator_of(packer)), 0);
    ck_assert_uint_eq(counted(packer, first.host_offset), 1);
    ck_assert_uint_le(sum_of_counts(packer), before + 1 + 20); /* blocks that count the run */
    expect_counts(packer, true);
    close_packer(packer);
}
END_TEST

/* --- A host that is full, or fails
 * ---------------------------------------------------------------- */

START_TEST(what_is_kept_for_more_serves_all_on_a_host_that_is_full)
{
    struct packer *packer = open_packer(4);
    struct allocation taken;
    uint64_t got = 0, highest = 0;
    size_t size = 100;
    struct packed packed;
    int result;

    packed = packed_one(packer, size);
    memory_store_fail_from(packer->write_case.file, MEMORY_STORE_RESIZE, 1, ENOSPC);
    while ((result = allocator_take(allocator_of(packer), 1, &taken)) == 0) {
        ck_assert_uint_ne(taken.host_offset, round_down(packed.host_offset, CLUSTER));
        ck_assert_uint_eq(counted(packer, taken.host_offset), 1);
        highest = max_u64(highest, taken.host_offset);
        got++;
    }
    ck_assert_int_eq(result, -ENOSPC);
    ck_assert_uint_ge(got, (UINT64_C(1) << 20) / CLUSTER - 1);
    packed = packed_one(packer, size); /* there is room in that cluster still */
    ck_assert_uint_lt(packed.host_offset, highest);
    size = CLUSTER - 1;
    ck_assert_int_eq(allocator_pack(allocator_of(packer), &size, 1, &packed), -ENOSPC);
    close_packer(packer);
}
END_TEST

static void give_back(struct packer *packer)
{
    size_t which = (size_t)rand_r(&packer->seed) % packer->count;
    struct piece piece = packer->pieces[which];
    uint64_t first = piece.begin / CLUSTER, last = (piece.begin + piece.size - 1) / CLUSTER;

    packer->pieces[which] = packer->pieces[--packer->count];
    if (rand_r(&packer->seed) % 3 == 0) {
        allocator_unpack(allocator_of(packer), piece.begin, piece.size);
    } else {
        ck_assert_int_eq(
            allocator_drop(allocator_of(packer), first * CLUSTER, last - first + 1, packer->commit),
            0);
    }
}

static int pack_some(struct packer *packer)
{
    size_t sizes[AT_ONCE], count = (size_t)rand_r(&packer->seed) % AT_ONCE + 1;
    size_t most = rand_r(&packer->seed) % 2 == 0 ? 60 : CLUSTER - 1;
    struct packed packed;

    for (size_t i = 0; i < count; i++) {
        sizes[i] = (size_t)rand_r(&packer->seed) % most + 1;
    }
    return pack(packer, sizes, count, &packed);
}

static void random_step(struct packer *packer, int error)
{
    unsigned what = (unsigned)rand_r(&packer->seed) % 16;
    struct allocation taken;
    int result = 0;

    if (what < 8) {
        result = pack_some(packer);
    } else if (what < 12) {
        for (unsigned i = 0; i < 4 && packer->count > 0; i++) {
            give_back(packer);
        }
    } else if (what < 13) {
        result = allocator_dropped(allocator_of(packer), packer->commit++);
    } else if (what < 14) { /* of others; never given back here */
        result = allocator_take(allocator_of(packer), 1, &taken);
        if (result == 0) {
            add_piece(packer, (struct piece){taken.host_offset, CLUSTER});
        }
    } else if (what < 15) {
        result = allocator_write_back(allocator_of(packer));
    } else {
        allocator_end_packing(allocator_of(packer));
    }
    ck_assert_msg(result == 0 || (error != 0 && (result == error || result == -EOVERFLOW)),
                  "step %u said %d", what, result);
}

/* Even and odd: without failures, with. Of 2 and of 16 bits. */
START_TEST(whatever_happens_each_cluster_is_counted_as_often_as_something_lies_in_it)
{
    struct packer *packer = open_packer(_i % 4 < 2 ? 1 : 4);
    static const int errors[] = {ENOSPC, EIO};
    int error = _i % 2 == 0 ? 0 : errors[_i / 4 % 2];
    uint64_t before;

    before = sum_of_counts(packer);
    packer->seed = (unsigned)_i + 1;
    for (unsigned i = 0; i < 200; i++) {
        if (error != 0 && i % 6 == 0) {
            enum memory_store_call call = i % 12 == 0 ? MEMORY_STORE_WRITE : MEMORY_STORE_RESIZE;

            memory_store_fail(packer->write_case.file, call, 1 + i % 5, error);
        }
        random_step(packer, -error);
        expect_counts(packer, false);
    }
    memory_store_fail(packer->write_case.file, MEMORY_STORE_WRITE, 0, 0);
    memory_store_fail(packer->write_case.file, MEMORY_STORE_RESIZE, 0, 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(packer), ALL_COMMITS), 0);
    ck_assert_int_eq(allocator_close(allocator_of(packer)), 0);
    expect_counts(packer, true);
    /* What else is counted are the blocks that count it. */
    ck_assert_uint_le(sum_of_counts(packer), before + sum_of_references(packer) +
                                                 refcounts_end(packer->write_case.refcounts) / 200 +
                                                 8);
    close_packer(packer);
}
END_TEST

/* Its cluster is counted more often than it is used, until what was raised in vain is taken back.
 */
START_TEST(what_becomes_a_table_while_it_is_counted_in_vain_is_no_damage)
{
    struct packer *packer = open_packer(4);
    struct allocator *allocator = allocator_of(packer);
    struct store *file = packer->write_case.file;
    size_t sizes[20];
    struct allocation taken;
    struct packed packed;
    uint64_t place;

    for (unsigned i = 0; i < 20; i++) {
        sizes[i] = 20;
    }
    ck_assert_int_eq(allocator_take(allocator, 1, &taken), 0); /* the run is there */
    memory_store_fail(file, MEMORY_STORE_WRITE, 5, ENOSPC);    /* of the counts: the fifth time */
    ck_assert_int_eq(allocator_pack(allocator, sizes, 20, &packed), -ENOSPC);
    place = taken.host_offset + CLUSTER;
    ck_assert_uint_gt(write_case_counted(&packer->write_case, place), 1);
    memory_store_fail_from(file, MEMORY_STORE_RESIZE, 1, ENOSPC); /* the host is full */
    do {
        ck_assert_int_eq(allocator_take(allocator, 1, &taken), 0);
    } while (taken.host_offset != place);
    ck_assert_int_eq(gate_know(packer->write_case.gate, GATE_TABLE_L2, place), 0);
    ck_assert_int_eq(allocator_dropped(allocator, ALL_COMMITS), 0);
    ck_assert_uint_eq(write_case_counted(&packer->write_case, place), 1);
    memory_store_fail(file, MEMORY_STORE_RESIZE, 0, 0);
    close_packer(packer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocator-pack");
    TCase *tcase = tcase_create("allocator-pack");

    tcase_add_test(tcase, what_is_kept_for_pieces_can_be_handed_out_and_what_has_some_cannot);
    tcase_add_test(tcase, pieces_lie_one_behind_the_other_and_share_clusters);
    tcase_add_test(tcase, what_ends_with_a_cluster_leaves_no_reference_too_many);
    tcase_add_test(tcase, counts_are_in_the_file_when_a_place_is_handed_out);
    tcase_add_loop_test(tcase, no_cluster_is_counted_higher_than_its_count_is_wide, 0, 3);
    tcase_add_test(tcase, a_cluster_in_which_more_may_come_is_not_freed_with_what_it_had);
    tcase_add_test(tcase, closing_gives_back_what_was_kept_for_more);
    tcase_add_test(tcase, what_is_kept_for_more_serves_all_on_a_host_that_is_full);
    tcase_add_test(tcase, what_becomes_a_table_while_it_is_counted_in_vain_is_no_damage);
    tcase_add_loop_test(
        tcase, whatever_happens_each_cluster_is_counted_as_often_as_something_lies_in_it, 0, 12);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
