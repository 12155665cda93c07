/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/sizes.h"
#include "suite.h"
#include "util/checked.h"
#include "util/memory.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#define KIB  UINT64_C(1024)
#define MIB  (KIB * KIB)
#define GIB  (KIB * MIB)
#define TIB  (KIB * GIB)
#define NONE UINT64_MAX /* an option that was not given */

/* 64 KiB clusters, 16-bit refcounts: what qemu-img makes when it is told nothing. */
static struct cache_geometry ordinary(uint64_t virtual_size, uint64_t file_size)
{
    return (struct cache_geometry){
        .virtual_size = virtual_size,
        .file_size = file_size,
        .cluster_size = 64 * KIB,
        .l2_entry_bytes = 8,
        .refcount_bits = 16,
    };
}

static struct option_number given(uint64_t value)
{
    return (struct option_number){.set = value != NONE, .value = value != NONE ? value : 0};
}

static struct cache_options options_of(uint64_t size, uint64_t l2, uint64_t refcount)
{
    return (struct cache_options){
        .size = given(size),
        .l2_size = given(l2),
        .refcount_size = given(refcount),
    };
}

static struct cache_sizes resolve_chain(struct cache_options options,
                                        const struct cache_geometry *images, size_t count)
{
    struct cache_sizes sizes;
    struct error error = {0};

    ck_assert_msg(cache_sizes_resolve(&options, images, count, &sizes, &error) == 0, "%s",
                  error.text);
    return sizes;
}

static struct cache_sizes resolve(struct cache_options options, struct cache_geometry image)
{
    return resolve_chain(options, &image, 1);
}

/* The refusal names the option, and the value. */
static void expect_refusal(struct cache_options options, struct cache_geometry image,
                           const char *name, const char *value)
{
    struct cache_sizes sizes;
    struct error error = {0};

    ck_assert_int_eq(cache_sizes_resolve(&options, &image, 1, &sizes, &error), -EINVAL);
    ck_assert_int_eq(error.code, EINVAL);
    ck_assert_msg(strstr(error.text, name) != NULL, "%s", error.text);
    ck_assert_msg(strstr(error.text, value) != NULL, "%s", error.text);
    ck_assert_int_eq(cache_sizes_resolve(&options, &image, 1, &sizes, NULL), -EINVAL);
}

START_TEST(full_l2_size_follows_the_documented_formula)
{
    struct cache_geometry image = ordinary(8 * GIB, 0);

    ck_assert_uint_eq(cache_l2_full_size(&image), MIB); /* disk = l2 * cluster_size / 8 */
    image.l2_entry_bytes = 16;
    ck_assert_uint_eq(cache_l2_full_size(&image), 2 * MIB);
    image.virtual_size++;
    ck_assert_uint_eq(cache_l2_full_size(&image), 2 * MIB + 16);
    image.cluster_size = 2 * MIB;
    image.virtual_size = 256 * GIB;
    ck_assert_uint_eq(cache_l2_full_size(&image), 2 * MIB);
    image.virtual_size = 0;
    ck_assert_uint_eq(cache_l2_full_size(&image), 0);
}
END_TEST

START_TEST(full_refcount_size_follows_the_documented_formula)
{
    struct cache_geometry image = ordinary(0, 8 * GIB);

    /* disk = refcount * cluster_size * 8 / refcount_bits */
    ck_assert_uint_eq(cache_refcount_full_size(&image), 256 * KIB);
    image.refcount_bits = 64;
    ck_assert_uint_eq(cache_refcount_full_size(&image), MIB);
    image.refcount_bits = 1;
    ck_assert_uint_eq(cache_refcount_full_size(&image), 64 * KIB); /* whole blocks */
    image.file_size = 1;
    ck_assert_uint_eq(cache_refcount_full_size(&image), 64 * KIB);
    image.file_size = 0;
    ck_assert_uint_eq(cache_refcount_full_size(&image), 0);
}
END_TEST

START_TEST(without_options_the_documented_defaults_hold)
{
    struct cache_sizes sizes = resolve(options_of(NONE, NONE, NONE), ordinary(TIB, TIB));

    ck_assert_uint_eq(sizes.l2_budget, min_u64(cache_l2_default(memory_size()), 128 * MIB));
    ck_assert_uint_eq(sizes.l2_entry_size, (sizes.l2_budget == 128 * MIB ? 64 : 4) * KIB);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    ck_assert_uint_eq(sizes.data_budget, cache_data_default(memory_size()));
    ck_assert_uint_eq(sizes.clean_interval, 600);
}
END_TEST

START_TEST(no_more_is_taken_than_the_image_can_use)
{
    struct cache_sizes sizes = resolve(options_of(NONE, NONE, NONE), ordinary(8 * GIB, GIB));

    ck_assert_uint_eq(sizes.l2_budget, MIB);
    sizes = resolve(options_of(NONE, GIB, GIB), ordinary(8 * GIB, 16 * GIB));
    ck_assert_uint_eq(sizes.l2_budget, MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 512 * KIB);
    sizes = resolve(options_of(GIB, NONE, NONE), ordinary(8 * GIB, 16 * GIB));
    ck_assert_uint_eq(sizes.l2_budget, MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 512 * KIB);
    /* The last slice is cached as a whole. */
    sizes = resolve(options_of(NONE, NONE, NONE), ordinary(8 * GIB + 1, GIB));
    ck_assert_uint_eq(sizes.l2_budget, MIB + 4 * KIB);
}
END_TEST

START_TEST(never_less_is_taken_than_works)
{
    struct cache_sizes sizes = resolve(options_of(NONE, 1, 1), ordinary(TIB, TIB));

    ck_assert_uint_eq(sizes.l2_budget, 2 * 4 * KIB);
    ck_assert_uint_eq(sizes.refcount_budget, 4 * 64 * KIB);
    sizes = resolve(options_of(0, NONE, NONE), ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.l2_budget, 2 * 4 * KIB);
    ck_assert_uint_eq(sizes.refcount_budget, 4 * 64 * KIB);
    sizes = resolve(options_of(NONE, NONE, NONE), ordinary(0, 0));
    ck_assert_uint_eq(sizes.l2_budget, 2 * 4 * KIB);
    ck_assert_uint_eq(sizes.refcount_budget, 4 * 64 * KIB);
}
END_TEST

START_TEST(one_given_size_leaves_the_other_at_its_default)
{
    struct cache_sizes sizes = resolve(options_of(NONE, 100 * MIB, NONE), ordinary(TIB, TIB));

    ck_assert_uint_eq(sizes.l2_budget, 100 * MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    sizes = resolve(options_of(NONE, NONE, 3 * MIB), ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.l2_budget, min_u64(cache_l2_default(memory_size()), 128 * MIB));
    ck_assert_uint_eq(sizes.refcount_budget, 3 * MIB);
    sizes = resolve(options_of(NONE, 5 * MIB, 3 * MIB), ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.l2_budget, 5 * MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 3 * MIB);
}
END_TEST

START_TEST(cache_size_and_one_part_leave_the_rest_to_the_other_part)
{
    struct cache_sizes sizes = resolve(options_of(20 * MIB, 15 * MIB, NONE), ordinary(TIB, TIB));

    ck_assert_uint_eq(sizes.l2_budget, 15 * MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 5 * MIB);
    sizes = resolve(options_of(20 * MIB, NONE, MIB), ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.l2_budget, 19 * MIB);
    ck_assert_uint_eq(sizes.refcount_budget, MIB);
    sizes = resolve(options_of(20 * MIB, 20 * MIB, NONE), ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.l2_budget, 20 * MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
}
END_TEST

START_TEST(cache_size_alone_goes_to_l2_first_but_for_the_refcount_minimum)
{
    struct cache_geometry image = ordinary(8 * GIB, TIB); /* 1 MiB of L2, 32 MiB of refcounts */
    struct cache_sizes sizes = resolve(options_of(MIB, NONE, NONE), image);

    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    ck_assert_uint_eq(sizes.l2_budget, 768 * KIB);
    sizes = resolve(options_of(MIB + 256 * KIB - 1, NONE, NONE), image);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    ck_assert_uint_eq(sizes.l2_budget, MIB - 1);
    sizes = resolve(options_of(MIB + 256 * KIB, NONE, NONE), image);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    ck_assert_uint_eq(sizes.l2_budget, MIB);
    sizes = resolve(options_of(10 * MIB, NONE, NONE), image);
    ck_assert_uint_eq(sizes.l2_budget, MIB);
    ck_assert_uint_eq(sizes.refcount_budget, 9 * MIB);
    sizes = resolve(options_of(10 * MIB, NONE, NONE), ordinary(0, TIB));
    ck_assert_uint_eq(sizes.refcount_budget, 10 * MIB - 8 * KIB); /* less the minimum of L2 */
    sizes = resolve(options_of(260 * KIB, NONE, NONE), image);    /* 4 KiB remain: too little */
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
    ck_assert_uint_eq(sizes.l2_budget, 8 * KIB);
}
END_TEST

START_TEST(all_three_sizes_at_once_are_refused)
{
    struct cache_options options = options_of(3 * MIB, MIB, 2 * MIB);

    expect_refusal(options, ordinary(TIB, TIB), "cache-size", "leave one out");
    expect_refusal(options, ordinary(TIB, TIB), "l2-cache-size", "");
    expect_refusal(options, ordinary(TIB, TIB), "refcount-cache-size", "");
}
END_TEST

START_TEST(a_part_larger_than_cache_size_is_refused)
{
    expect_refusal(options_of(1000, 1001, NONE), ordinary(TIB, TIB), "l2-cache-size (1001)",
                   "cache-size (1000)");
    expect_refusal(options_of(1000, NONE, 1001), ordinary(TIB, TIB), "refcount-cache-size (1001)",
                   " cache-size (1000)");
}
END_TEST

START_TEST(the_l2_of_the_whole_chain_counts)
{
    struct cache_geometry chain[3] = {
        ordinary(8 * GIB, 8 * GIB), /* 1 MiB of L2, 256 KiB of refcounts */
        ordinary(4 * GIB, 4 * GIB), /* half of that */
        {
            .virtual_size = 3 * 512, /* 3 clusters, 24 bytes of L2: a slice of 512 */
            .file_size = 513,        /* a block of 512 */
            .cluster_size = 512,
            .l2_entry_bytes = 8,
            .refcount_bits = 16,
        },
    };
    struct cache_sizes sizes = resolve_chain(options_of(NONE, GIB, GIB), chain, 3);

    ck_assert_uint_eq(sizes.l2_budget, MIB + 512 * KIB + 512);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB + 128 * KIB + 512);
    sizes = resolve_chain(options_of(NONE, NONE, NONE), chain, 3);
    ck_assert_uint_eq(sizes.l2_budget, MIB + 512 * KIB + 512);
    ck_assert_uint_eq(sizes.refcount_budget, 256 * KIB);
}
END_TEST

START_TEST(the_entry_size_is_never_larger_than_a_cluster)
{
    struct cache_geometry image = ordinary(TIB, TIB);
    struct cache_options options = {.l2_entry_size = given(64 * KIB)};

    ck_assert_uint_eq(resolve(options, image).l2_entry_size, 64 * KIB);
    options.l2_entry_size = given(512);
    ck_assert_uint_eq(resolve(options, image).l2_entry_size, 512);
    image.cluster_size = 1024;
    ck_assert_uint_eq(resolve(options_of(NONE, NONE, NONE), image).l2_entry_size, 1024);
}
END_TEST

START_TEST(entries_are_larger_where_many_map_all_of_the_disk_unless_told_otherwise)
{
    struct cache_options options = options_of(NONE, 128 * MIB, NONE);

    ck_assert_uint_eq(resolve(options, ordinary(TIB, TIB)).l2_entry_size, 64 * KIB);
    ck_assert_uint_eq(resolve(options, ordinary(TIB - 1, TIB)).l2_budget, 128 * MIB);
    ck_assert_uint_eq(resolve(options, ordinary(TIB + 64 * KIB, TIB)).l2_entry_size, 4 * KIB);
    ck_assert_uint_eq(resolve(options, ordinary(256 * GIB, TIB)).l2_entry_size, 4 * KIB);
    ck_assert_uint_eq(resolve(options, ordinary(257 * GIB, TIB)).l2_entry_size, 64 * KIB);
    /* Whole tables, now: one maps 512 MiB. */
    ck_assert_uint_eq(resolve(options, ordinary(257 * GIB + MIB, TIB)).l2_budget, 515 * 64 * KIB);
    options.l2_entry_size = given(4 * KIB);
    ck_assert_uint_eq(resolve(options, ordinary(TIB, TIB)).l2_entry_size, 4 * KIB);
}
END_TEST

START_TEST(entries_have_the_size_that_a_server_prefers_where_all_of_the_disk_is_mapped)
{
    struct cache_options options = options_of(NONE, NONE, NONE);
    struct cache_geometry images[] = {ordinary(GIB, GIB), ordinary(GIB, GIB)};

    images[1].preferred = 16 * KIB; /* the one behind */
    ck_assert_uint_eq(resolve_chain(options, images, 2).l2_entry_size, 16 * KIB);
    images[0].preferred = 32 * KIB;
    ck_assert_uint_eq(resolve_chain(options, images, 2).l2_entry_size, 32 * KIB);
    images[1].preferred = MIB;
    ck_assert_uint_eq(resolve_chain(options, images, 2).l2_entry_size, 64 * KIB); /* a cluster */
    images[0].cluster_size = 2 * MIB;
    ck_assert_uint_eq(resolve_chain(options, images, 2).l2_entry_size, MIB);
    images[0] = ordinary(GIB, GIB);
    images[0].preferred = 64 * KIB;
    options.l2_size = given(64 * KIB); /* half of it */
    ck_assert_uint_eq(resolve(options, images[0]).l2_entry_size, 4 * KIB);
    options = options_of(NONE, NONE, NONE);
    options.l2_entry_size = given(4 * KIB);
    ck_assert_uint_eq(resolve(options, images[0]).l2_entry_size, 4 * KIB);
}
END_TEST

static struct cache_geometry served(uint64_t virtual_size)
{
    struct cache_geometry image = ordinary(virtual_size, TIB);

    image.preferred = 64 * KIB;
    return image;
}

START_TEST(all_of_a_small_cache_may_be_dirty_where_it_maps_the_whole_disk_of_a_server)
{
    struct cache_options options = options_of(NONE, NONE, NONE);

    ck_assert_uint_eq(resolve(options, served(GIB)).l2_dirty_max, 128 * KIB); /* two entries */
    ck_assert_uint_eq(resolve(options, served(256 * GIB)).l2_dirty_max, 32 * MIB);
    ck_assert_uint_eq(resolve(options, ordinary(GIB, GIB)).l2_dirty_max, 64 * KIB); /* of none */
    options.l2_size = given(128 * MIB);
    ck_assert_uint_eq(resolve(options, served(TIB)).l2_dirty_max, 64 * MIB);
    ck_assert_uint_eq(resolve(options, served(300 * GIB)).l2_dirty_max, 32 * MIB);
    ck_assert_uint_eq(resolve(options, served(2 * TIB)).l2_dirty_max, 64 * MIB);
    options.l2_size = given(64 * KIB); /* half of what maps it */
    ck_assert_uint_eq(resolve(options, served(GIB)).l2_dirty_max, 32 * KIB);
}
END_TEST

START_TEST(an_impossible_entry_size_is_refused)
{
    static const uint64_t values[] = {0, 1, 256, 511, 513, 4095, 131072, UINT64_C(1) << 63};
    static const char *texts[] = {"0",   "1",    "256",    "511",
                                  "513", "4095", "131072", "9223372036854775808"};
    struct cache_options options = {.l2_entry_size = given(values[_i])};

    expect_refusal(options, ordinary(TIB, TIB), "l2-cache-entry-size", texts[_i]);
    expect_refusal(options, ordinary(TIB, TIB), "512", "65536"); /* the range */
}
END_TEST

START_TEST(data_cache_and_interval_are_taken_as_given)
{
    struct cache_options options = {.data_size = given(0), .clean_interval = given(0)};
    struct cache_sizes sizes = resolve(options, ordinary(TIB, TIB));

    ck_assert_uint_eq(sizes.data_budget, 0);
    ck_assert_uint_eq(sizes.clean_interval, 0);
    options.data_size = given(5 * GIB);
    options.clean_interval = given(UINT_MAX);
    sizes = resolve(options, ordinary(TIB, TIB));
    ck_assert_uint_eq(sizes.data_budget, 5 * GIB);
    ck_assert_uint_eq(sizes.clean_interval, UINT_MAX);
    options.clean_interval = given((uint64_t)UINT_MAX + 1);
    expect_refusal(options, ordinary(TIB, TIB), "cache-clean-interval", "4294967296");
}
END_TEST

START_TEST(the_l2_cache_takes_a_part_of_the_memory_within_bounds)
{
    ck_assert_uint_eq(cache_l2_default(0), 32 * MIB);
    ck_assert_uint_eq(cache_l2_default(4 * GIB), 32 * MIB);
    ck_assert_uint_eq(cache_l2_default(16 * GIB), 128 * MIB);
    ck_assert_uint_eq(cache_l2_default(UINT64_MAX), 256 * MIB);
}
END_TEST

START_TEST(the_data_cache_takes_a_part_of_the_memory_within_bounds)
{
    ck_assert_uint_eq(cache_data_default(0), UINT64_C(32) << 20);
    ck_assert_uint_eq(cache_data_default(GIB), UINT64_C(32) << 20);
    ck_assert_uint_eq(cache_data_default(4 * GIB), UINT64_C(128) << 20);
    ck_assert_uint_eq(cache_data_default(32 * GIB), GIB);
    ck_assert_uint_eq(cache_data_default(UINT64_MAX), GIB);
}
END_TEST

START_TEST(the_largest_numbers_do_not_overflow)
{
    struct cache_geometry images[128];
    struct cache_sizes sizes;
    uint64_t largest = UINT64_C(1) << 63;

    for (size_t i = 0; i < 128; i++) {
        images[i] = (struct cache_geometry){
            .virtual_size = i == 1 ? UINT64_MAX : largest,
            .file_size = i == 1 ? UINT64_MAX : largest,
            .cluster_size = 512,
            .l2_entry_bytes = 16,
            .refcount_bits = 64,
        };
    }
    ck_assert_uint_eq(cache_l2_full_size(&images[0]), UINT64_C(1) << 58);
    ck_assert_uint_eq(cache_refcount_full_size(&images[0]), UINT64_C(1) << 57);
    ck_assert_uint_eq(cache_l2_full_size(&images[1]), UINT64_C(1) << 59);
    /* All of them together map to just over 2^64 bytes: no limit then. */
    sizes = resolve_chain(options_of(NONE, largest, largest), images, 128);
    ck_assert_uint_eq(sizes.l2_budget, largest);
    ck_assert_uint_eq(sizes.refcount_budget, largest);
    sizes = resolve_chain(options_of(largest, NONE, NONE), images, 128);
    ck_assert_uint_eq(sizes.l2_budget, largest - 2048);
    ck_assert_uint_eq(sizes.refcount_budget, 2048);
    sizes = resolve_chain(options_of(UINT64_MAX - 1, NONE, NONE), images, 1);
    ck_assert_uint_eq(sizes.l2_budget, UINT64_C(1) << 58);
    ck_assert_uint_eq(sizes.refcount_budget, UINT64_C(1) << 57);
}
END_TEST

static Suite *sizes_suite(void)
{
    Suite *suite = suite_create("sizes");
    TCase *tcase = tcase_create("sizes");

    tcase_add_test(tcase, full_l2_size_follows_the_documented_formula);
    tcase_add_test(tcase, full_refcount_size_follows_the_documented_formula);
    tcase_add_test(tcase, without_options_the_documented_defaults_hold);
    tcase_add_test(tcase, no_more_is_taken_than_the_image_can_use);
    tcase_add_test(tcase, never_less_is_taken_than_works);
    tcase_add_test(tcase, one_given_size_leaves_the_other_at_its_default);
    tcase_add_test(tcase, cache_size_and_one_part_leave_the_rest_to_the_other_part);
    tcase_add_test(tcase, cache_size_alone_goes_to_l2_first_but_for_the_refcount_minimum);
    tcase_add_test(tcase, all_three_sizes_at_once_are_refused);
    tcase_add_test(tcase, a_part_larger_than_cache_size_is_refused);
    tcase_add_test(tcase, the_l2_of_the_whole_chain_counts);
    tcase_add_test(tcase, the_entry_size_is_never_larger_than_a_cluster);
    tcase_add_test(tcase, entries_are_larger_where_many_map_all_of_the_disk_unless_told_otherwise);
    tcase_add_test(tcase,
                   entries_have_the_size_that_a_server_prefers_where_all_of_the_disk_is_mapped);
    tcase_add_test(tcase,
                   all_of_a_small_cache_may_be_dirty_where_it_maps_the_whole_disk_of_a_server);
    tcase_add_loop_test(tcase, an_impossible_entry_size_is_refused, 0, 8);
    tcase_add_test(tcase, data_cache_and_interval_are_taken_as_given);
    tcase_add_test(tcase, the_l2_cache_takes_a_part_of_the_memory_within_bounds);
    tcase_add_test(tcase, the_data_cache_takes_a_part_of_the_memory_within_bounds);
    tcase_add_test(tcase, the_largest_numbers_do_not_overflow);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(sizes_suite());
}
