/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/slab.h"
#include "suite.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#define BLOCKS 300

static size_t alignment_of(size_t size)
{
    return size < 4096 ? size : 4096;
}

static struct slab_block block_make(struct slab_allocator *allocator, size_t size, uint8_t stamp)
{
    struct slab_block block;

    ck_assert_int_eq(slab_alloc(allocator, size, &block), 0);
    ck_assert_uint_eq((uintptr_t)block.data % alignment_of(size), 0);
    memset(block.data, stamp, size);
    return block;
}

static void expect_stamp(const struct slab_block *block, size_t size, uint8_t stamp)
{
    const uint8_t *data = block->data;

    ck_assert_uint_eq(data[0], stamp);
    ck_assert_int_eq(memcmp(data, data + 1, size - 1), 0);
}

START_TEST(blocks_of_every_size_are_aligned_and_apart)
{
    struct slab_allocator allocator;
    struct slab_block blocks[BLOCKS];

    slab_allocator_init(&allocator);
    for (size_t size = 512; size <= (size_t)256 << 10; size *= 2) {
        for (unsigned i = 0; i < BLOCKS; i++) {
            blocks[i] = block_make(&allocator, size, (uint8_t)i);
        }
        for (unsigned i = 0; i < BLOCKS; i++) {
            expect_stamp(&blocks[i], size, (uint8_t)i);
            slab_free(&allocator, &blocks[i]);
        }
    }
    slab_allocator_release(&allocator);
}
END_TEST

static int compare_addresses(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t)((const struct slab_block *)a)->data;
    uintptr_t right = (uintptr_t)((const struct slab_block *)b)->data;

    return (left > right) - (left < right);
}

START_TEST(small_blocks_lie_side_by_side)
{
    struct slab_allocator allocator;
    struct slab_block blocks[BLOCKS];
    unsigned neighbours = 0;

    slab_allocator_init(&allocator);
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = block_make(&allocator, 4096, 0);
    }
    qsort(blocks, BLOCKS, sizeof(blocks[0]), compare_addresses);
    for (unsigned i = 1; i < BLOCKS; i++) {
        neighbours += (uintptr_t)blocks[i].data - (uintptr_t)blocks[i - 1].data == 4096;
    }
    ck_assert_uint_ge(neighbours, BLOCKS - BLOCKS / 16 - 2);
    for (unsigned i = 0; i < BLOCKS; i++) {
        slab_free(&allocator, &blocks[i]);
    }
    slab_allocator_release(&allocator);
}
END_TEST

START_TEST(blocks_keep_their_bytes_while_others_come_go_and_are_trimmed)
{
    static const size_t sizes[] = {512, 4096, 32768, 65536, 3000, 100};
    struct slab_allocator allocator;
    struct slab_block blocks[BLOCKS] = {{0}};
    size_t size_of[BLOCKS] = {0};
    uint32_t state = 1;

    slab_allocator_init(&allocator);
    for (unsigned round = 0; round < 20000; round++) {
        unsigned i;

        state = state * 1664525 + 1013904223;
        i = (state >> 8) % BLOCKS;
        if (blocks[i].data != NULL) {
            expect_stamp(&blocks[i], 1, (uint8_t)i);
            expect_stamp(&(struct slab_block){.data = (uint8_t *)blocks[i].data + size_of[i] - 1},
                         1, (uint8_t)i);
            slab_free(&allocator, &blocks[i]);
            blocks[i].data = NULL;
        } else {
            size_of[i] = sizes[(state >> 24) % (sizeof(sizes) / sizeof(sizes[0]))];
            ck_assert_int_eq(slab_alloc(&allocator, size_of[i], &blocks[i]), 0);
            memset(blocks[i].data, (int)(i & 0xff), size_of[i]);
        }
        if (round % 1000 == 0) {
            slab_trim(&allocator);
        }
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (blocks[i].data != NULL) {
            expect_stamp(&blocks[i], size_of[i], (uint8_t)i);
            slab_free(&allocator, &blocks[i]);
        }
    }
    slab_allocator_release(&allocator);
}
END_TEST

START_TEST(trimming_gives_back_free_blocks_of_slabs_in_use)
{
    struct slab_allocator allocator;
    struct slab_block blocks[16];

    slab_allocator_init(&allocator);
    ck_assert_uint_eq(slab_trim(&allocator), 0);
    for (unsigned i = 0; i < 16; i++) {
        blocks[i] = block_make(&allocator, 4096, (uint8_t)i);
    }
    ck_assert_uint_eq(slab_trim(&allocator), 0);
    for (unsigned i = 1; i < 16; i++) {
        slab_free(&allocator, &blocks[i]);
    }
    /* Of the 15 free blocks; the slab's ends may share a large page with foreign memory. */
    ck_assert_uint_le(slab_trim(&allocator), 15 * 4096);
    if (sysconf(_SC_PAGESIZE) == 4096) {
        ck_assert_uint_eq(slab_trim(&allocator), 15 * 4096);
    }
    expect_stamp(&blocks[0], 4096, 0);
    slab_free(&allocator, &blocks[0]);
    ck_assert_uint_eq(slab_trim(&allocator), 0);
    slab_allocator_release(&allocator);
}
END_TEST

static Suite *slab_suite(void)
{
    Suite *suite = suite_create("slab");
    TCase *tcase = tcase_create("slab");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, blocks_of_every_size_are_aligned_and_apart);
    tcase_add_test(tcase, small_blocks_lie_side_by_side);
    tcase_add_test(tcase, blocks_keep_their_bytes_while_others_come_go_and_are_trimmed);
    tcase_add_test(tcase, trimming_gives_back_free_blocks_of_slabs_in_use);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(slab_suite());
}
