/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/bitmaps_internal.h"
#include "disk/tracking_internal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES  (BITS_PAGE_WORDS * sizeof(uint64_t))
#define SMALL_WORDS UINT64_C(32768) /* up to here all of it counts */

/* What each large one counts from the beginning: it is a mapping of its own, of which a process has
   some 65,000, and an image may have as many bitmaps. */
#define LARGE_BYTES UINT64_C(131072)

/* --- Memory ---------------------------------------------------------------------------------- */

static bool take(_Atomic int64_t *memory, uint64_t bytes)
{
    if (atomic_fetch_sub_explicit(memory, (int64_t)bytes, memory_order_relaxed) >= (int64_t)bytes) {
        return true;
    }
    atomic_fetch_add_explicit(memory, (int64_t)bytes, memory_order_relaxed);
    return false;
}

static uint64_t array_bytes(uint64_t words)
{
    return sizeof(struct bits) + words * sizeof(uint64_t);
}

static uint64_t map_words(uint64_t words)
{
    return div_round_up(words, BITS_PAGE_WORDS * WORD_BITS);
}

/* Bytes that it counts while nothing is set. */
static uint64_t at_first(uint64_t words)
{
    return words > SMALL_WORDS ? LARGE_BYTES + map_words(words) * sizeof(uint64_t)
                               : words * sizeof(uint64_t);
}

/* No page of it exists before it is written, and then none beside it does. */
static struct bits *create_large(uint64_t words)
{
    size_t length = in_memory(array_bytes(words));
    struct bits *bits = mmap(NULL, length, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (bits == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(bits, length, MADV_NOHUGEPAGE);
    bits->touched = calloc(in_memory(map_words(words)), sizeof(uint64_t));
    if (bits->touched == NULL) {
        munmap(bits, length);
        return NULL;
    }
    return bits;
}

struct bits *bits_create(_Atomic int64_t *memory, uint64_t words)
{
    bool is_large = words > SMALL_WORDS;
    uint64_t bytes = at_first(words);
    struct bits *bits = NULL;

    if (take(memory, bytes)) {
        bits = is_large ? create_large(words) : calloc(1, in_memory(array_bytes(words)));
        if (bits == NULL) {
            atomic_fetch_add_explicit(memory, (int64_t)bytes, memory_order_relaxed);
        } else {
            bits->words = words;
        }
    }
    return bits;
}

uint64_t bits_taken(const struct bits *bits)
{
    uint64_t pages = 0;

    for (uint64_t i = 0; bits->touched != NULL && i < map_words(bits->words); i++) {
        uint64_t touched = atomic_load_explicit(&bits->touched[i], memory_order_relaxed);

        pages += (uint64_t)__builtin_popcountll(touched);
    }
    return at_first(bits->words) + pages * PAGE_BYTES;
}

void bits_free(struct bits *bits)
{
    if (bits == NULL) {
        return;
    }
    if (bits->touched == NULL) {
        free(bits);
        return;
    }
    free(bits->touched);
    munmap(bits, in_memory(array_bytes(bits->words)));
}

/* Before a bit is set in a word: its page counts from now on. Who comes second gives back what he
   took, so nobody waits. */
static bool touch(struct bits *bits, _Atomic int64_t *memory, uint64_t index)
{
    uint64_t page = index / BITS_PAGE_WORDS, bit = UINT64_C(1) << page % WORD_BITS;
    _Atomic uint64_t *touched;

    if (bits->touched == NULL) {
        return true;
    }
    touched = &bits->touched[page / WORD_BITS];
    if ((atomic_load_explicit(touched, memory_order_relaxed) & bit) != 0) {
        return true;
    }
    if (!take(memory, PAGE_BYTES)) {
        return false;
    }
    if ((atomic_fetch_or_explicit(touched, bit, memory_order_relaxed) & bit) != 0) {
        atomic_fetch_add_explicit(memory, (int64_t)PAGE_BYTES, memory_order_relaxed);
    }
    return true;
}

/* --- Setting --------------------------------------------------------------------------------- */

/* Acquire and release: who finds a bit set knows that its page is touched, as who looks after him
   has to. */
bool bits_add_word(struct bits *bits, _Atomic int64_t *memory, uint64_t index, uint64_t word)
{
    if ((atomic_load_explicit(&bits->word[index], memory_order_acquire) & word) == word) {
        return true;
    }
    if (!touch(bits, memory, index)) {
        return false;
    }
    atomic_fetch_or_explicit(&bits->word[index], word, memory_order_release);
    return true;
}

bool bits_set(struct bits *bits, _Atomic int64_t *memory, uint64_t first, uint64_t last)
{
    uint64_t last_word = last / WORD_BITS;

    for (uint64_t i = first / WORD_BITS; i <= last_word && i < bits->words; i++) {
        uint64_t mask = UINT64_MAX;

        if (i == first / WORD_BITS) {
            mask <<= first % WORD_BITS;
        }
        if (i == last_word) {
            mask &= UINT64_MAX >> (WORD_BITS - 1 - last % WORD_BITS);
        }
        if (!bits_add_word(bits, memory, i, mask)) {
            return false;
        }
    }
    return true;
}

/* --- Loading --------------------------------------------------------------------------------- */

int bits_read_cluster(struct store *file, size_t size, uint64_t entry, void *cluster)
{
    if ((entry & ENTRY_HOST_OFFSET_MASK) != 0) {
        return store_read(file, entry & ENTRY_HOST_OFFSET_MASK, cluster, size);
    }
    memset(cluster, (entry & BITMAP_TABLE_ENTRY_ALL_ONES) != 0 ? 0xff : 0, size);
    return 0;
}

int bits_load(const struct image *image, const struct tracked *tracked, struct bits *bits,
              _Atomic int64_t *memory)
{
    size_t size = in_memory(image->header->cluster_size);
    uint64_t words = size / sizeof(uint64_t), *cluster = malloc(size);
    int result = cluster == NULL ? -ENOMEM : 0;

    for (uint64_t i = 0; result == 0 && i < tracked->bitmap->table_entries; i++) {
        if (tracked->table[i] == 0) {
            continue;
        }
        result = bits_read_cluster(image->file, size, tracked->table[i], cluster);
        for (uint64_t at = 0; result == 0 && at < words && i * words + at < bits->words; at++) {
            if (!bits_add_word(bits, memory, i * words + at, le64toh(cluster[at]))) {
                result = -ENOMEM;
            }
        }
    }
    free(cluster);
    return result;
}
