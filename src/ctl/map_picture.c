/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/map_picture.h"

#include "util/checked.h"

#include <string.h>

#define CELL_SIZE_MIN UINT64_C(512)

void picture_begin(struct picture *picture, uint64_t start, uint64_t end, bool has_snapshots,
                   uint64_t file_size)
{
    memset(picture, 0, sizeof(*picture));
    picture->start = start;
    picture->end = end;
    picture->has_snapshots = has_snapshots;
    picture->file_size = max_u64(file_size, 1);
    picture->cell_size = CELL_SIZE_MIN;
    while (div_round_up(end - start, picture->cell_size) > PICTURE_CELLS_MAX) {
        picture->cell_size *= 2;
    }
    picture->cell_count = in_memory(div_round_up(end - start, picture->cell_size));
}

static enum picture_kind kind_of(const struct picture *picture, const struct map_extent *extent)
{
    if (!extent->data || extent->zero) {
        return extent->depth == 0 && extent->has_offset ? PICTURE_RESERVED
               : extent->present                        ? PICTURE_ZERO
                                                        : PICTURE_NOTHING;
    }
    if (extent->depth > 0) {
        return PICTURE_BACKING_1 + (enum picture_kind)min_u64(extent->depth - 1, 2);
    }
    if (extent->compressed) {
        return PICTURE_COMPRESSED;
    }
    return picture->has_snapshots && !extent->exclusive ? PICTURE_SHARED : PICTURE_DATA;
}

static void count(struct picture *picture, enum picture_kind kind, uint64_t start, uint64_t length)
{
    picture->totals[kind] += length;
    start -= picture->start;
    while (length > 0) {
        uint64_t cell = start / picture->cell_size;
        uint64_t piece = min_u64(length, (cell + 1) * picture->cell_size - start);

        picture->cells[cell][kind] += piece;
        start += piece;
        length -= piece;
    }
}

/* --- disk against file ----------------------------------------------------------- */

/* In which of `parts` equal parts of `whole` the offset lies. */
static size_t part_of(uint64_t offset, uint64_t whole, size_t parts)
{
    size_t part = (size_t)((double)offset / (double)whole * (double)parts);

    return part < parts ? part : parts - 1;
}

static void count_rows(struct picture *picture, uint64_t offset, uint64_t length)
{
    uint64_t row_size = div_round_up(picture->file_size, PLOT_ROWS);

    while (length > 0) {
        uint64_t row = min_u64(offset / row_size, PLOT_ROWS - 1);
        uint64_t row_end = row == PLOT_ROWS - 1 ? UINT64_MAX : (row + 1) * row_size;
        uint64_t piece = min_u64(length, row_end - offset);

        picture->rows[row] += piece;
        offset += piece;
        length -= piece;
    }
}

/* Marks what the line from the extent's first byte to its last passes. */
static void plot_line(struct picture *picture, const struct map_extent *extent,
                      uint64_t host_length, unsigned char bit)
{
    uint64_t whole = picture->end - picture->start;
    uint64_t start = extent->start - picture->start;
    size_t first = part_of(start, whole, PLOT_COLUMNS);
    size_t last = part_of(start + extent->length - 1, whole, PLOT_COLUMNS);

    for (size_t column = first; column <= last; column++) {
        double slice = (double)host_length / (double)(last - first + 1);
        uint64_t from = extent->offset + (uint64_t)(slice * (double)(column - first));
        uint64_t to = extent->offset + (uint64_t)(slice * (double)(column - first + 1));
        size_t low = part_of(from, picture->file_size, PLOT_ROWS);
        size_t high = part_of(to > from ? to - 1 : from, picture->file_size, PLOT_ROWS);

        for (size_t row = low; row <= high; row++) {
            picture->plot[row][column] |= bit;
        }
    }
}

/* Compressed clusters share sectors: the next may begin where the last one's sector is not over. */
static void count_run(struct picture *picture, uint64_t offset, uint64_t length)
{
    if (picture->runs == 0 || offset < picture->run_start || offset > picture->run_end) {
        picture->runs++;
    }
    picture->run_start = offset;
    picture->run_end = offset + length;
    picture->run_bytes += length;
}

static void plot(struct picture *picture, enum picture_kind kind, const struct map_extent *extent)
{
    uint64_t length = extent->compressed ? extent->compressed_size : extent->length;

    if (kind <= PICTURE_COMPRESSED) {
        plot_line(picture, extent, length, (unsigned char)(1U << kind));
        count_rows(picture, extent->offset, length);
        count_run(picture, extent->offset, length);
    }
}

void picture_add(struct picture *picture, const struct map_extent *extent)
{
    enum picture_kind kind = kind_of(picture, extent);

    count(picture, kind, extent->start, extent->length);
    plot(picture, kind, extent);
}

void picture_add_damage(struct picture *picture, uint64_t start, uint64_t length)
{
    count(picture, PICTURE_DAMAGED, start, length);
}

uint64_t picture_data(const struct picture *picture)
{
    uint64_t sum = 0;

    for (int kind = PICTURE_DATA; kind <= PICTURE_BACKING_3; kind++) {
        sum += picture->totals[kind];
    }
    return sum;
}
