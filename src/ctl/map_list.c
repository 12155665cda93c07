/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/map_list.h"

#include "util/printable.h"

#include <inttypes.h>

void map_list_begin(struct map_list *list, FILE *out, bool json)
{
    *list = (struct map_list){.out = out, .json = json};
    if (json) {
        fputc('[', out);
    } else {
        fprintf(out, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
}

/* Compressed clusters lie anywhere; neither qemu-img nor this says where. */
static bool names_offset(const struct map_extent *extent)
{
    return extent->has_offset && !extent->compressed;
}

/* Whether `next`, right behind `last`, goes on with it. */
static bool continues(const struct map_extent *last, const struct map_extent *next)
{
    return last->depth == next->depth && last->present == next->present &&
           last->zero == next->zero && last->data == next->data &&
           last->compressed == next->compressed && names_offset(last) == names_offset(next) &&
           (!names_offset(last) || last->offset + last->length == next->offset);
}

static const char *word(bool value)
{
    return value ? "true" : "false";
}

static void print_json(struct map_list *list)
{
    const struct map_extent *extent = &list->last;

    fprintf(list->out,
            "%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, "
            "\"present\": %s, \"zero\": %s, \"data\": %s, \"compressed\": %s",
            list->began ? ",\n" : "", extent->start, extent->length, extent->depth,
            word(extent->present), word(extent->zero), word(extent->data),
            word(extent->compressed));
    if (names_offset(extent)) {
        fprintf(list->out, ", \"offset\": %" PRIu64, extent->offset);
    }
    fputc('}', list->out);
    list->began = true;
}

/* The table names only what is to be read somewhere. */
static void print_row(struct map_list *list)
{
    const struct map_extent *extent = &list->last;
    char offset[24] = "compressed";

    if (!extent->data || extent->zero) {
        return;
    }
    if (names_offset(extent)) {
        snprintf(offset, sizeof(offset), "%#" PRIx64, extent->offset);
    }
    printable_line(list->out, "%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s", extent->start,
                   extent->length, offset, extent->path);
}

static void print_last(struct map_list *list)
{
    if (list->last.length == 0) {
        return;
    }
    if (list->json) {
        print_json(list);
    } else {
        print_row(list);
    }
}

void map_list_add(struct map_list *list, const struct map_extent *extent)
{
    if (list->last.length > 0 && continues(&list->last, extent)) {
        list->last.length += extent->length;
        return;
    }
    print_last(list);
    list->last = *extent;
}

void map_list_end(struct map_list *list)
{
    print_last(list);
    if (list->json) {
        fputs("]\n", list->out);
    }
}

void map_list_break(struct map_list *list)
{
    print_last(list);
    if (list->json) {
        fputc('\n', list->out);
    }
}
