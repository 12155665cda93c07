/* SPDX-License-Identifier: MIT */
/* A file that may not become longer than it is told: of the clusters within it none is missing. */
#include "config.h"

#include "suite.h"
#include "write_case.h"

#include <errno.h>

static const struct {
    uint32_t cluster_bits;
    uint64_t size_max;
} bounds[] = {{9, 100000}, {9, 40 << 10}, {12, 1 << 20}, {16, 8 << 20}, {16, (8 << 20) - 1}};

#define BOUNDS (sizeof(bounds) / sizeof(bounds[0]))

/* An allocator that knows the bound; the one of the case is not used. */
static struct allocator *bounded(struct write_case *subject, uint64_t size_max)
{
    const struct allocator_source source = {
        .header = subject->image.header,
        .file = subject->file,
        .gate = subject->gate,
        .barrier = subject->barrier,
        .refcounts = subject->refcounts,
        .size_max = size_max,
    };
    struct allocator *allocator;

    ck_assert_int_eq(allocator_create(&source, &allocator), 0);
    return allocator;
}

/* Takes all there is; how many clusters. */
static uint64_t take_all(struct allocator *allocator, struct allocation *last)
{
    struct allocation taken;
    uint64_t clusters = 0;
    int result;

    while ((result = allocator_take(allocator, 7, &taken)) == 0) {
        clusters += taken.clusters;
        *last = taken;
        ck_assert_uint_lt(clusters, 1 << 20);
    }
    ck_assert_int_eq(result, -ENOSPC);
    return clusters;
}

START_TEST(clusters_are_taken_up_to_the_bound_and_what_is_free_within_it_again)
{
    struct builder_options options = write_case_options();
    uint64_t size_max = bounds[_i].size_max, cluster_size, clusters, before;
    struct allocation last = {0};
    struct allocator *allocator;
    struct write_case subject;

    options.cluster_bits = bounds[_i].cluster_bits;
    cluster_size = UINT64_C(1) << options.cluster_bits;
    write_case_open(&subject, builder_create(&options), false);
    allocator = bounded(&subject, size_max);
    before = memory_store_size(subject.file);
    clusters = take_all(allocator, &last);
    ck_assert_uint_le(memory_store_size(subject.file), size_max);
    /* What is missing counts them, and is not half of one part in eight. */
    ck_assert_uint_ge(clusters * cluster_size, (size_max - before) / 8 * 7 - 4 * cluster_size);
    allocator_return(allocator, last.host_offset, last.clusters);
    ck_assert_uint_eq(take_all(allocator, &last), last.clusters);
    ck_assert_uint_le(memory_store_size(subject.file), size_max);
    allocator_destroy(allocator);
    write_case_close(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocator-bound");
    TCase *tcase = tcase_create("allocator-bound");

    tcase_add_loop_test(tcase, clusters_are_taken_up_to_the_bound_and_what_is_free_within_it_again,
                        0, BOUNDS);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
