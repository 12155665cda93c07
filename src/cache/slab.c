/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/slab.h"

#include "util/checked.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include <sys/mman.h>
#include <unistd.h>

/* Under AddressSanitizer a free block is as untouchable as freed memory is. */
#if defined(__SANITIZE_ADDRESS__)
#define SLAB_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_ASAN 1
#endif
#endif
#ifdef SLAB_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)   ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define SLAB_SIZE      ((size_t)64 << 10)
#define SLAB_ALIGNMENT ((size_t)4096)
#define MAP_WORDS      (SLAB_SIZE >> SLAB_BLOCK_BITS_MIN >> 6)

struct slab {
    struct slab *next, *previous; /* in `partial`; a full slab is in no list */
    uint8_t *memory;              /* SLAB_SIZE bytes */
    unsigned block_bits;          /* log2 of a block's size */
    unsigned used;                /* blocks */
    uint64_t free[MAP_WORDS];     /* bit i: block i is free */
};

static unsigned slab_blocks(const struct slab *slab)
{
    return (unsigned)(SLAB_SIZE >> slab->block_bits);
}

static size_t slab_block_size(const struct slab *slab)
{
    return (size_t)1 << slab->block_bits;
}

void slab_allocator_init(struct slab_allocator *allocator)
{
    *allocator = (struct slab_allocator){0};
    pthread_mutex_init(&allocator->mutex, NULL);
}

static size_t spares_unmap(struct slab_allocator *allocator)
{
    size_t unmapped = allocator->spare_bytes;

    for (size_t i = 0; i < allocator->spare_count; i++) {
        ASAN_UNPOISON_MEMORY_REGION(allocator->spares[i].data, allocator->spares[i].size);
        munmap(allocator->spares[i].data, allocator->spares[i].size);
    }
    allocator->spare_count = 0;
    allocator->spare_bytes = 0;
    return unmapped;
}

void slab_allocator_release(struct slab_allocator *allocator)
{
    spares_unmap(allocator);
    pthread_mutex_destroy(&allocator->mutex);
}

static void list_insert(struct slab_allocator *allocator, struct slab *slab)
{
    struct slab **head = &allocator->partial[slab->block_bits];

    slab->previous = NULL;
    slab->next = *head;
    if (*head != NULL) {
        (*head)->previous = slab;
    }
    *head = slab;
}

static void list_remove(struct slab_allocator *allocator, struct slab *slab)
{
    if (slab->previous != NULL) {
        slab->previous->next = slab->next;
    } else {
        allocator->partial[slab->block_bits] = slab->next;
    }
    if (slab->next != NULL) {
        slab->next->previous = slab->previous;
    }
}

static struct slab *slab_create(unsigned block_bits)
{
    struct slab *slab = calloc(1, sizeof(*slab));
    void *memory;

    if (slab == NULL) {
        return NULL;
    }
    /* malloc would leave up to a page unused between each two of them. */
    memory = mmap(NULL, SLAB_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(slab);
        return NULL;
    }
    ASAN_POISON_MEMORY_REGION(memory, SLAB_SIZE);
    slab->memory = memory;
    slab->block_bits = block_bits;
    for (unsigned i = 0; i < slab_blocks(slab); i++) {
        slab->free[i / 64] |= UINT64_C(1) << (i % 64);
    }
    return slab;
}

static void slab_destroy(struct slab *slab)
{
    ASAN_UNPOISON_MEMORY_REGION(slab->memory, SLAB_SIZE);
    munmap(slab->memory, SLAB_SIZE);
    free(slab);
}

/* Takes the first free block of a slab that has one. */
static void *slab_take(struct slab *slab)
{
    unsigned word = 0, index;
    uint8_t *data;

    while (slab->free[word] == 0) {
        word++;
    }
    index = word * 64 + (unsigned)__builtin_ctzll(slab->free[word]);
    slab->free[word] &= slab->free[word] - 1;
    slab->used++;
    data = slab->memory + ((size_t)index << slab->block_bits);
    ASAN_UNPOISON_MEMORY_REGION(data, slab_block_size(slab));
    return data;
}

static int alloc_from_slab(struct slab_allocator *allocator, unsigned block_bits,
                           struct slab_block *block)
{
    struct slab *slab;

    pthread_mutex_lock(&allocator->mutex);
    slab = allocator->partial[block_bits];
    if (slab == NULL) {
        slab = slab_create(block_bits);
        if (slab == NULL) {
            pthread_mutex_unlock(&allocator->mutex);
            return -ENOMEM;
        }
        list_insert(allocator, slab);
    }
    *block = (struct slab_block){.data = slab_take(slab), .slab = slab};
    if (slab->used == slab_blocks(slab)) {
        list_remove(allocator, slab);
    }
    pthread_mutex_unlock(&allocator->mutex);
    return 0;
}

/* The spare of that size that was freed last, or NULL. */
static void *spare_take(struct slab_allocator *allocator, size_t size)
{
    void *data = NULL;

    pthread_mutex_lock(&allocator->mutex);
    for (size_t i = allocator->spare_count; i > 0 && data == NULL; i--) {
        if (allocator->spares[i - 1].size == size) {
            data = allocator->spares[i - 1].data;
            allocator->spares[i - 1] = allocator->spares[--allocator->spare_count];
            allocator->spare_bytes -= size;
        }
    }
    pthread_mutex_unlock(&allocator->mutex);
    return data;
}

static bool spare_keep(struct slab_allocator *allocator, void *data, size_t size)
{
    bool kept;

    pthread_mutex_lock(&allocator->mutex);
    kept = allocator->spare_count < SLAB_SPARES_MAX &&
           allocator->spare_bytes + size <= SLAB_SPARE_BYTES;
    if (kept) {
        /* Poisoned under the mutex: from here on it may be another thread's. */
        ASAN_POISON_MEMORY_REGION(data, size);
        allocator->spares[allocator->spare_count++] = (struct slab_spare){data, size};
        allocator->spare_bytes += size;
    }
    pthread_mutex_unlock(&allocator->mutex);
    return kept;
}

static int alloc_mapped(struct slab_allocator *allocator, size_t size, struct slab_block *block)
{
    void *data = spare_take(allocator, size);

    if (data == NULL) {
        /* All of it is about to be filled: one call is cheaper than a fault for each page. */
        data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                    -1, 0);
        if (data == MAP_FAILED) {
            return -ENOMEM;
        }
    }
    ASAN_UNPOISON_MEMORY_REGION(data, size);
    *block = (struct slab_block){.data = data, .mapped = size};
    return 0;
}

static void free_mapped(struct slab_allocator *allocator, const struct slab_block *block)
{
    if (!spare_keep(allocator, block->data, block->mapped)) {
        munmap(block->data, block->mapped);
    }
}

static int alloc_from_malloc(size_t size, struct slab_block *block)
{
    size_t alignment = SLAB_ALIGNMENT;

    while (alignment > size && alignment > sizeof(void *)) {
        alignment /= 2;
    }
    *block = (struct slab_block){0};
    return posix_memalign(&block->data, alignment, size) == 0 ? 0 : -ENOMEM;
}

int slab_alloc(struct slab_allocator *allocator, size_t size, struct slab_block *block)
{
    unsigned bits = (unsigned)__builtin_ctzll(size);

    if (is_power_of_two(size) && bits >= SLAB_BLOCK_BITS_MIN && bits <= SLAB_BLOCK_BITS_MAX) {
        return alloc_from_slab(allocator, bits, block);
    }
    if (is_power_of_two(size) && bits > SLAB_BLOCK_BITS_MAX) {
        return alloc_mapped(allocator, size, block);
    }
    return alloc_from_malloc(size, block);
}

void slab_free(struct slab_allocator *allocator, const struct slab_block *block)
{
    struct slab *slab = block->slab;
    size_t index;

    if (block->mapped > 0) {
        free_mapped(allocator, block);
        return;
    }
    if (slab == NULL) {
        free(block->data);
        return;
    }
    pthread_mutex_lock(&allocator->mutex);
    ASAN_POISON_MEMORY_REGION(block->data, slab_block_size(slab));
    index = (size_t)((uint8_t *)block->data - slab->memory) >> slab->block_bits;
    slab->free[index / 64] |= UINT64_C(1) << (index % 64);
    if (slab->used == slab_blocks(slab)) {
        list_insert(allocator, slab);
    }
    slab->used--;
    if (slab->used == 0) {
        list_remove(allocator, slab);
        slab_destroy(slab);
    }
    pthread_mutex_unlock(&allocator->mutex);
}

/* Of a slab's memory, the whole pages in [start, end) are handed back; returns their bytes. */
static size_t trim_range(const struct slab *slab, size_t start, size_t end, size_t page)
{
    /* A block may be a part of a page. */
    uintptr_t base = (uintptr_t)slab->memory;
    uintptr_t first = (base + start + page - 1) & ~(uintptr_t)(page - 1);
    uintptr_t last = (base + end) & ~(uintptr_t)(page - 1);

    if (first >= last || madvise((void *)first, last - first, MADV_DONTNEED) != 0) {
        return 0;
    }
    return last - first;
}

static size_t slab_trim_one(const struct slab *slab, size_t page)
{
    unsigned blocks = slab_blocks(slab), start = 0;
    size_t trimmed = 0;

    while (start < blocks) {
        unsigned end = start;

        while (end < blocks && (slab->free[end / 64] >> (end % 64) & 1) != 0) {
            end++;
        }
        if (end > start) {
            trimmed += trim_range(slab, (size_t)start << slab->block_bits,
                                  (size_t)end << slab->block_bits, page);
        }
        start = end + 1;
    }
    return trimmed;
}

size_t slab_trim(struct slab_allocator *allocator)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t trimmed = 0;

    pthread_mutex_lock(&allocator->mutex);
    trimmed += spares_unmap(allocator);
    for (unsigned bits = SLAB_BLOCK_BITS_MIN; bits <= SLAB_BLOCK_BITS_MAX; bits++) {
        const struct slab *slab;

        for (slab = allocator->partial[bits]; slab != NULL; slab = slab->next) {
            trimmed += slab_trim_one(slab, page);
        }
    }
    pthread_mutex_unlock(&allocator->mutex);
    return trimmed;
}
