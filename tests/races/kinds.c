/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "kinds.h"

#include "history.h"

#include "crash/tools.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kind kinds[] = {
    {.name = "version-2", .options = ",compat=0.10", .content = CONTENT_FILLED},
    {.name = "version-3", .options = "", .content = CONTENT_FILLED},
    {.name = "extended", .options = "", .content = CONTENT_FILLED, .extended = true},
    {.name = "lazy", .options = ",lazy_refcounts=on", .content = CONTENT_EMPTY, .lazy = true},
    {.name = "metadata", .options = ",preallocation=metadata", .content = CONTENT_EMPTY},
    {.name = "narrow-refcounts", .options = ",refcount_bits=1", .content = CONTENT_FILLED},
    {.name = "narrow-2", .options = ",refcount_bits=2", .content = CONTENT_FILLED},
    {.name = "snapshots", .options = "", .content = CONTENT_FILLED, .snapshots = 2},
    {.name = "snapshots-2",
     .options = ",compat=0.10",
     .content = CONTENT_FILLED,
     .snapshots = 2,
     .fixed = true},
    {.name = "snapshots-extended",
     .options = "",
     .content = CONTENT_FILLED,
     .snapshots = 2,
     .extended = true},
    {.name = "compressed", .options = "", .content = CONTENT_COMPRESSED},
    {.name = "compressed-snapshot", .options = "", .content = CONTENT_COMPRESSED, .snapshots = 1},
    {.name = "compressing", .options = "", .content = CONTENT_FILLED, .compresses = true},
    {.name = "compressing-narrow",
     .options = ",refcount_bits=2",
     .content = CONTENT_EMPTY,
     .compresses = true},
    {.name = "compressing-on-chain",
     .options = "",
     .content = CONTENT_ON_CHAIN,
     .compresses = true},
    {.name = "compressing-extended",
     .options = "",
     .content = CONTENT_EMPTY,
     .compresses = true,
     .extended = true},
    {.name = "data-file", .options = "", .content = CONTENT_DATA_FILE, .data_file = true},
    {.name = "raw-data-file",
     .options = ",data_file_raw=on",
     .content = CONTENT_DATA_FILE,
     .data_file = true,
     .raw_data_file = true},
    {.name = "on-raw", .options = "", .content = CONTENT_ON_RAW},
    {.name = "on-short", .options = "", .content = CONTENT_ON_SHORT},
    {.name = "on-long", .options = "", .content = CONTENT_ON_LONG},
    {.name = "on-long-2", .options = ",compat=0.10", .content = CONTENT_ON_LONG},
    {.name = "on-chain", .options = "", .content = CONTENT_ON_CHAIN},
    {.name = "extended-on-raw", .options = "", .content = CONTENT_ON_RAW, .extended = true},
    {.name = "encrypted", .options = "", .content = CONTENT_EMPTY, .encrypted = "cbc"},
    {.name = "encrypted-on-raw", .options = "", .content = CONTENT_ON_RAW, .encrypted = "xts"},
    {.name = "encrypted-extended",
     .options = "",
     .content = CONTENT_ON_CHAIN,
     .extended = true,
     .encrypted = "cbc"},
    {.name = "encrypted-data-file",
     .options = "",
     .content = CONTENT_EMPTY,
     .data_file = true,
     .encrypted = "xts"},
    {.name = "extended-on-chain", .options = "", .content = CONTENT_ON_CHAIN, .extended = true},
    {.name = "bitmaps", .options = "", .content = CONTENT_FILLED, .bitmaps = true},
    {.name = "bitmaps-extended",
     .options = "",
     .content = CONTENT_ON_CHAIN,
     .bitmaps = true,
     .extended = true},
    {.name = "bitmaps-compressing",
     .options = "",
     .content = CONTENT_EMPTY,
     .bitmaps = true,
     .compresses = true},
    {.name = "bitmaps-data-file",
     .options = ",data_file_raw=on",
     .content = CONTENT_DATA_FILE,
     .bitmaps = true,
     .data_file = true,
     .raw_data_file = true},
};

const struct races_bitmap races_bitmaps[RACES_BITMAPS] = {
    {.name = "sector", .granularity = "512"},
    {.name = "page", .granularity = "4096"},
    {.name = "huge", .granularity = "2147483648"},
    {.name = "still", .granularity = "512", .disabled = true},
};

static const unsigned usual_bits[] = {9, 12, 16}, extended_bits[] = {14, 16};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

size_t kinds_count(void)
{
    return COUNT(kinds);
}

const struct kind *kind_at(size_t index)
{
    return &kinds[index];
}

const struct kind *kind_named(const char *name)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

size_t kind_cluster_sizes(const struct kind *kind)
{
    return kind->extended ? COUNT(extended_bits) : COUNT(usual_bits);
}

unsigned kind_cluster_bits(const struct kind *kind, size_t index)
{
    return kind->extended ? extended_bits[index] : usual_bits[index];
}

/* --- Making ------------------------------------------------------------------------------------
 */

/* Small, so that threads meet; no whole number of clusters. */
static uint64_t size_of_disk(unsigned cluster_bits)
{
    switch (cluster_bits) {
    case 9:
        return (UINT64_C(128) << 10) + 512;
    case 12:
        return (UINT64_C(384) << 10) + 1536;
    default:
        return (UINT64_C(12) << cluster_bits) + 4608;
    }
}

static char *path_in(const char *directory, const char *name)
{
    char *path = grab(strlen(directory) + strlen(name) + 2);

    sprintf(path, "%s/%s", directory, name);
    return path;
}

static void run_qemu_img(const char *const *arguments)
{
    int status = run_program(arguments);

    if (status != 0) {
        die("%s %s ended with status %d", arguments[0], arguments[1], status);
    }
}

/* A raw file of holes, and of data that says where it is. */
static void make_source(const char *path, uint64_t size, uint64_t number)
{
    struct chance chance = chance_from(number, 20, size);
    uint64_t grains = div_round_up(size, GRAIN), at = 0;
    uint8_t *bytes = grab(grains * GRAIN);

    while (at < grains) {
        uint64_t length = min_u64(1 + chance_below(&chance, grains / 12), grains - at);

        if (chance_below(&chance, 2) == 0) {
            grains_fill(bytes + at * GRAIN, at, length, number);
        }
        at += length;
    }
    write_file(path, bytes, size);
    free(bytes);
}

struct making {
    struct template *template;
    char options[256];
    char *source;
};

/* qemu-img convert [-c] -o options FROM TO */
static void convert(const struct making *making, const char *from, const char *to, bool compress)
{
    run_qemu_img((const char *const[]){"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o",
                                       making->options, from, to, compress ? "-c" : NULL, NULL});
}

static void create(const struct making *making, const char *path, uint64_t size,
                   const char *backing, const char *format)
{
    char options[512], bytes[32];

    snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)size);
    snprintf(options, sizeof(options), backing != NULL ? "%s,backing_file=%s,backing_fmt=%s" : "%s",
             making->options, backing, format);
    run_qemu_img((const char *const[]){"qemu-img", "create", "-f", "qcow2", "-o", options, path,
                                       bytes, NULL});
}

/* Overwrites the disk, whatever it is, with a raw file of its size. */
static void overwrite(const struct making *making, uint64_t number)
{
    make_source(making->source, making->template->disk_size, number);
    run_qemu_img((const char *const[]){"qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2",
                                       making->source, making->template->path, NULL});
}

static void add_backing(struct template *template, const char *path, bool raw)
{
    size_t i = template->backing_count++;

    template->backing[i].bytes = read_file(path, &template->backing[i].size);
    template->backing_is_raw[i] = raw;
}

static void make_on_raw(struct making *making, uint64_t backing_size)
{
    make_source(making->source, backing_size, 1);
    add_backing(making->template, making->source, true);
    create(making, making->template->path, making->template->disk_size, "source.raw", "raw");
}

static void make_on_chain(struct making *making)
{
    struct template *template = making->template;
    char *base = path_in(template->directory, "base.qcow2");
    char *middle = path_in(template->directory, "middle.qcow2");
    struct making plain = {.template = template, .options = "cluster_size=4096"};

    convert(&plain, making->source, base, true);
    create(&plain, middle, template->disk_size, "base.qcow2", "qcow2");
    /* Something in the middle, and holes that show the base. */
    run_qemu_img((const char *const[]){"qemu-io", "-f", "qcow2", "-c", "write -P 5 8k 20k", "-c",
                                       "write -z 40k 12k", middle, NULL});
    add_backing(template, middle, false);
    add_backing(template, base, false);
    create(making, template->path, template->disk_size, "middle.qcow2", "qcow2");
    free(base);
    free(middle);
}

static void make_content(struct making *making)
{
    struct template *template = making->template;
    uint64_t size = template->disk_size;

    switch (template->kind->content) {
    case CONTENT_EMPTY:
        create(making, template->path, size, NULL, NULL);
        break;
    case CONTENT_FILLED:
        convert(making, making->source, template->path, false);
        break;
    case CONTENT_COMPRESSED:
        convert(making, making->source, template->path, true);
        break;
    case CONTENT_DATA_FILE:
        create(making, template->path, size, NULL, NULL);
        overwrite(making, 1);
        break;
    case CONTENT_ON_RAW:
        make_on_raw(making, size);
        break;
    case CONTENT_ON_SHORT:
        make_on_raw(making, round_down(size * 2 / 3, 512));
        break;
    case CONTENT_ON_LONG:
        make_on_raw(making, round_down(size * 3 / 2, 512));
        break;
    case CONTENT_ON_CHAIN:
        make_on_chain(making);
        break;
    }
}

static void make_snapshot(struct making *making, unsigned number)
{
    static const char *const names[] = {"first", "second"};
    struct template *template = making->template;
    char *raw = path_in(template->directory, "snapshot.raw");

    run_qemu_img(
        (const char *const[]){"qemu-img", "snapshot", "-c", names[number], template->path, NULL});
    run_qemu_img((const char *const[]){"qemu-img", "convert", "-f", "qcow2", "-O", "raw",
                                       template->path, raw, NULL});
    template->snapshots[number].bytes = read_file(raw, &template->snapshots[number].size);
    free(raw);
}

/* All are empty: what the template's disk holds was there before. */
static void make_bitmaps(const struct template *template)
{
    for (size_t i = 0; i < RACES_BITMAPS; i++) {
        const struct races_bitmap *bitmap = &races_bitmaps[i];

        run_qemu_img((const char *const[]){"qemu-img", "bitmap", "--add", "-g", bitmap->granularity,
                                           template->path, bitmap->name,
                                           bitmap->disabled ? "--disable" : NULL, NULL});
    }
}

static void make_options(struct making *making)
{
    const struct template *template = making->template;
    const struct kind *kind = template->kind;

    snprintf(making->options, sizeof(making->options), "cluster_size=%u%s%s%s%s",
             1u << template->cluster_bits, kind->options, kind->extended ? ",extended_l2=on" : "",
             kind->data_file ? ",data_file=" : "", kind->data_file ? template->data_path : "");
}

static struct template *make(const struct kind *kind, unsigned cluster_bits)
{
    struct template *template = grab(sizeof(*template));
    struct making making = {.template = template};
    char *raw;

    *template = (struct template){
        .kind = kind,
        .cluster_bits = cluster_bits,
        .disk_size = size_of_disk(cluster_bits),
        .directory = scratch_make(),
    };
    template->path = path_in(template->directory, "image.qcow2");
    template->data_path = path_in(template->directory, "data.raw");
    making.source = path_in(template->directory, "source.raw");
    make_options(&making);
    make_source(making.source, template->disk_size, 1);
    make_content(&making);
    for (unsigned i = 0; i < kind->snapshots; i++) {
        make_snapshot(&making, i);
        if (i == 0 && kind->content == CONTENT_FILLED) {
            overwrite(&making, 2);
        }
    }
    if (kind->bitmaps) {
        make_bitmaps(template);
    }
    template->image.bytes = read_file(template->path, &template->image.size);
    if (kind->data_file) {
        template->data.bytes = read_file(template->data_path, &template->data.size);
    }
    raw = path_in(template->directory, "contents.raw");
    run_qemu_img((const char *const[]){"qemu-img", "convert", "-f", "qcow2", "-O", "raw",
                                       template->path, raw, NULL});
    template->contents.bytes = read_file(raw, &template->contents.size);
    free(raw);
    free(making.source);
    return template;
}

/* --- Keeping --------------------------------------------------------------------------------- */

static struct {
    struct template **templates;
    size_t count, capacity;
} kept;

const struct template *template_get(const struct kind *kind, unsigned cluster_bits)
{
    for (size_t i = 0; i < kept.count; i++) {
        if (kept.templates[i]->kind == kind && kept.templates[i]->cluster_bits == cluster_bits) {
            return kept.templates[i];
        }
    }
    kept.templates = room(kept.templates, kept.count, &kept.capacity, sizeof(struct template *));
    kept.templates[kept.count] = make(kind, cluster_bits);
    return kept.templates[kept.count++];
}

void templates_release(void)
{
    for (size_t i = 0; i < kept.count; i++) {
        struct template *template = kept.templates[i];

        scratch_remove(template->directory);
        free(template->path);
        free(template->data_path);
        free(template->image.bytes);
        free(template->data.bytes);
        free(template->contents.bytes);
        for (size_t j = 0; j < TEMPLATE_BACKING; j++) {
            free(template->backing[j].bytes);
        }
        for (size_t j = 0; j < TEMPLATE_SNAPSHOTS; j++) {
            free(template->snapshots[j].bytes);
        }
        free(template);
    }
    free(kept.templates);
}
