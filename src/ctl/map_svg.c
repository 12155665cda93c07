/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/map_svg.h"

#include "util/checked.h"
#include "util/printable.h"
#include "util/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Lengths are in units of the drawing: pixels, at its own size. */
#define PAGE_WIDTH   1048
#define MARGIN       24
#define LEFT         96 /* of the bar, the grid and the plot; labels stand before it */
#define WIDTH        (PICTURE_ACROSS * CELL_PITCH)
#define BAR_TOP      84
#define BAR_HEIGHT   18
#define BAR_PART_MIN 2

#define LEGEND_TOP     (BAR_TOP + BAR_HEIGHT + 18)
#define LEGEND_COLUMNS 4
#define LEGEND_HEIGHT  38

#define CELL_PITCH      14
#define CELL_SIDE       13
#define CELL_KINDS_MAX  4   /* of the kinds of a cell, only the largest are drawn and told */
#define CELL_HEIGHT_MIN 2.5 /* what is there at all can be seen */

#define DOT           4
#define PLOT_HEIGHT   (PLOT_ROWS * DOT)
#define ROW_BAR_WIDTH 24

#define NAME_SHOWN_MAX 56  /* bytes */
#define PATH_SHOWN_MAX 400 /* bytes */

/* Colours that stay apart for those who do not see all of them (Okabe and Ito). */
static const char style[] =
    "<style>\n"
    "svg{font-family:system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;font-size:13px}\n"
    ".page{fill:#fff}.text{fill:#1b2026}.soft{fill:#5b6570}.line{stroke:#c9d0d8;fill:none}\n"
    ".name{font-size:21px;font-weight:600}.head{font-size:15px;font-weight:600}\n"
    ".small{font-size:11px}.over{fill:transparent}\n"
    ".over path:hover,.over rect:hover{stroke:#1b2026;stroke-width:1.5}\n"
    ".k0{fill:#0072b2}.k1{fill:#cc79a7}.k2{fill:#e69f00}.k3{fill:#009e73}.k4{fill:#66c2a0}\n"
    ".k5{fill:#b3e0cf}.k6{fill:#d55e00}.k7{fill:url(#reserved)}.k8{fill:#a9b3be}\n"
    ".k9{fill:#e9edf1}.r0{fill:#e9edf1}.r1{stroke:#8593a1}\n"
    "@media (prefers-color-scheme:dark){\n"
    ".page{fill:#15191e}.text{fill:#e8ebee}.soft{fill:#9aa5b1}.line{stroke:#3d4650}\n"
    ".over path:hover,.over rect:hover{stroke:#fff}\n"
    ".k0{fill:#3f9fdc}.k1{fill:#d88fb8}.k2{fill:#eab03d}.k3{fill:#12b78a}.k4{fill:#0f8465}\n"
    ".k5{fill:#0d5743}.k6{fill:#ea6a1c}.k8{fill:#66717d}.k9{fill:#272e35}\n"
    ".r0{fill:#272e35}.r1{stroke:#74818e}\n"
    "}\n"
    "</style>\n"
    "<defs><pattern id=\"reserved\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">"
    "<rect class=\"r0\" width=\"4\" height=\"4\"/>"
    "<path class=\"r1\" d=\"M-1 1l2-2M0 4l4-4M3 5l2-2\"/></pattern></defs>\n";

static const char *const kind_names[PICTURE_KINDS] = {
    [PICTURE_DATA] = "data",
    [PICTURE_SHARED] = "shared with snapshots",
    [PICTURE_COMPRESSED] = "compressed",
    [PICTURE_BACKING_1] = "in the backing image",
    [PICTURE_BACKING_2] = "two images down",
    [PICTURE_BACKING_3] = "further down",
    [PICTURE_DAMAGED] = "damaged: cannot be mapped",
    [PICTURE_RESERVED] = "zeros, with space kept",
    [PICTURE_ZERO] = "zeros",
    [PICTURE_NOTHING] = "not allocated",
};

/* --- text ------------------------------------------------------------------------ */

/* Any bytes as text of XML, cut to `max` bytes; what XML cannot hold becomes ?. */
static void put_text(FILE *out, const char *text, size_t max)
{
    size_t length = strnlen(text, max + 1);
    const char *end = length > max ? "\xe2\x80\xa6" : "";
    char *shown;

    length = length > max ? printable_cut(text, max) : length;
    shown = strndup(text, length);
    if (shown == NULL) {
        return;
    }
    printable_clean(shown);
    for (size_t i = 0; shown[i] != '\0'; i++) {
        static const char special[] = "&<>\"'";
        const char *found = strchr(special, shown[i]);

        if (found != NULL) {
            fprintf(out, "&#%d;", *found);
        } else if (strncmp(shown + i, "\xef\xbf\xbe", 3) == 0 ||
                   strncmp(shown + i, "\xef\xbf\xbf", 3) == 0) {
            fputc('?', out); /* U+FFFE and U+FFFF are no characters of XML */
            i += 2;
        } else {
            fputc(shown[i], out);
        }
    }
    fputs(end, out);
    free(shown);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

static void put_size(FILE *out, uint64_t bytes)
{
    char text[SIZE_TEXT_MAX];

    fputs(size_format(bytes, text), out);
}

/* "37 %"; never 0 % of what is there, nor 100 % of what is not all. */
static void put_percent(FILE *out, uint64_t part, uint64_t whole)
{
    double percent = whole > 0 ? 100.0 * (double)part / (double)whole : 0;

    if (part > 0 && percent < 1) {
        fputs("&lt; 1 %", out);
    } else if (part < whole && percent > 99) {
        fputs("&gt; 99 %", out);
    } else {
        fprintf(out, "%.0f %%", percent);
    }
}

static void begin_text(FILE *out, int x, int y, const char *classes)
{
    fprintf(out, "<text class=\"%s\" x=\"%d\" y=\"%d\">", classes, x, y);
}

/* What is said about it stands behind it, up to </tspan></text>. */
static void begin_heading(FILE *out, int y, const char *heading)
{
    begin_text(out, MARGIN, y, "text");
    fprintf(out, "<tspan class=\"head\">%s</tspan><tspan class=\"soft\" dx=\"12\">", heading);
}

/* Divides `length` in proportion, but gives each at least `least`, at the cost of the largest. */
static void divide(const uint64_t amounts[PICTURE_KINDS], double length, double least,
                   double parts[PICTURE_KINDS])
{
    double rest = length, sum = 0;
    int largest = 0;

    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        sum += (double)amounts[kind];
        largest = amounts[kind] > amounts[largest] ? kind : largest;
    }
    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        double part = amounts[kind] > 0 ? length * (double)amounts[kind] / sum : 0;

        parts[kind] = amounts[kind] > 0 && part < least ? least : part;
        rest -= parts[kind];
    }
    parts[largest] += rest;
}

/* --- title, bar and legend --------------------------------------------------------- */

static unsigned chain_length(const struct image *image)
{
    unsigned length = 0;

    for (; image != NULL; image = image->backing) {
        length++;
    }
    return length;
}

static void put_facts(const struct svg_subject *subject, FILE *out)
{
    const struct image *image = subject->image;
    unsigned length = chain_length(image);

    if (subject->snapshot != NULL) {
        fputs("snapshot ", out);
        put_text(out, subject->snapshot->name, NAME_SHOWN_MAX);
        fputs(" &#183; ", out);
    }
    put_size(out, subject->disk_size);
    fputs(" disk &#183; clusters of ", out);
    put_size(out, image->header->cluster_size);
    if (image->header->extended_l2) {
        fputs(" in 32 parts", out);
    }
    if (image->snapshots->count > 0) {
        fprintf(out, " &#183; %zu snapshot%s", image->snapshots->count,
                image->snapshots->count == 1 ? "" : "s");
    }
    if (length > 1) {
        fprintf(out, " &#183; chain of %u images", length);
    }
    if (image->data_file_path != NULL) {
        fputs(" &#183; external data file", out);
    }
    fputs(" &#183; takes ", out);
    put_size(out, subject->allocated);
    fputs(" on the host", out);
}

static void draw_title(const struct picture *picture, const struct svg_subject *subject, FILE *out)
{
    uint64_t whole = picture->end - picture->start;

    fputs("<title>", out);
    put_text(out, subject->image->path, PATH_SHOWN_MAX);
    fputs("</title>\n", out);
    begin_text(out, MARGIN, 38, "text name");
    put_text(out, base_name(subject->image->path), NAME_SHOWN_MAX);
    fprintf(out, "</text>\n<text class=\"text name\" text-anchor=\"end\" x=\"%d\" y=\"38\">",
            PAGE_WIDTH - MARGIN);
    put_percent(out, picture_data(picture), whole);
    fputs(" has data</text>\n", out);
    begin_text(out, MARGIN, 62, "soft");
    put_facts(subject, out);
    fputs("</text>\n", out);
    if (whole < subject->disk_size) {
        fprintf(out, "<text class=\"soft\" text-anchor=\"end\" x=\"%d\" y=\"62\">",
                PAGE_WIDTH - MARGIN);
        fprintf(out, "shown: 0x%" PRIx64 " to 0x%" PRIx64 "</text>\n", picture->start,
                picture->end);
    }
}

static void draw_bar(const struct picture *picture, FILE *out)
{
    uint64_t whole = picture->end - picture->start;
    double parts[PICTURE_KINDS], x = MARGIN;

    divide(picture->totals, PAGE_WIDTH - 2 * MARGIN, BAR_PART_MIN, parts);
    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        uint64_t amount = picture->totals[kind];

        if (amount == 0) {
            continue;
        }
        fprintf(out,
                "<rect class=\"k%d\" x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\">"
                "<title>%s: ",
                kind, x, BAR_TOP, parts[kind], BAR_HEIGHT, kind_names[kind]);
        put_size(out, amount);
        fputs(", ", out);
        put_percent(out, amount, whole);
        fputs("</title></rect>\n", out);
        x += parts[kind];
    }
}

static int legend_entries(const struct picture *picture)
{
    int entries = 0;

    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        entries += picture->totals[kind] > 0;
    }
    return entries;
}

static int legend_height(const struct picture *picture)
{
    return (legend_entries(picture) + LEGEND_COLUMNS - 1) / LEGEND_COLUMNS * LEGEND_HEIGHT;
}

static void draw_legend(const struct picture *picture, FILE *out)
{
    int entry = 0;

    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        int x = MARGIN + entry % LEGEND_COLUMNS * (PAGE_WIDTH - 2 * MARGIN) / LEGEND_COLUMNS;
        int y = LEGEND_TOP + entry / LEGEND_COLUMNS * LEGEND_HEIGHT;

        if (picture->totals[kind] == 0) {
            continue;
        }
        fprintf(out, "<rect class=\"k%d\" x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" rx=\"2\"/>",
                kind, x, y);
        begin_text(out, x + 22, y + 12, "text");
        fprintf(out, "%s</text>", kind_names[kind]);
        begin_text(out, x + 22, y + 28, "soft");
        put_size(out, picture->totals[kind]);
        fputs(", ", out);
        put_percent(out, picture->totals[kind], picture->end - picture->start);
        fputs("</text>\n", out);
        entry++;
    }
}

/* --- the grid ------------------------------------------------------------------------ */

/* Keeps the largest kinds of a cell, in their order; what is left out is the least. */
static void keep_largest(const uint64_t amounts[PICTURE_KINDS], uint64_t kept[PICTURE_KINDS])
{
    memset(kept, 0, PICTURE_KINDS * sizeof(*kept));
    for (int round = 0; round < CELL_KINDS_MAX; round++) {
        int largest = 0;

        for (int kind = 1; kind < PICTURE_KINDS; kind++) {
            if (amounts[kind] - kept[kind] > amounts[largest] - kept[largest]) {
                largest = kind;
            }
        }
        kept[largest] = amounts[largest];
    }
}

static int cell_x(size_t cell)
{
    return LEFT + (int)(cell % PICTURE_ACROSS) * CELL_PITCH;
}

static int cell_y(size_t cell)
{
    return (int)(cell / PICTURE_ACROSS) * CELL_PITCH;
}

/* One path for each kind: its parts of all cells. Kinds are stacked from the bottom. */
static void draw_cells(const struct picture *picture, FILE *out)
{
    for (int drawn = 0; drawn < PICTURE_KINDS; drawn++) {
        if (picture->totals[drawn] == 0) {
            continue;
        }
        fprintf(out, "<path class=\"k%d\" d=\"", drawn);
        for (size_t cell = 0; cell < picture->cell_count; cell++) {
            double heights[PICTURE_KINDS], y = cell_y(cell) + CELL_SIDE;
            uint64_t kept[PICTURE_KINDS];

            keep_largest(picture->cells[cell], kept);
            if (kept[drawn] == 0) {
                continue;
            }
            divide(kept, CELL_SIDE, CELL_HEIGHT_MIN, heights);
            for (int kind = 0; kind <= drawn; kind++) {
                y -= heights[kind];
            }
            fprintf(out, "M%d %.1fh%dv%.1fh-%dz", cell_x(cell), y, CELL_SIDE, heights[drawn],
                    CELL_SIDE);
        }
        fputs("\"/>\n", out);
    }
}

/* What the pointer shows over a cell: where it is, and what is in it. */
static void put_cell_title(const struct picture *picture, size_t cell, FILE *out)
{
    uint64_t start = picture->start + cell * picture->cell_size;
    uint64_t end = min_u64(start + picture->cell_size, picture->end);
    uint64_t kept[PICTURE_KINDS];

    keep_largest(picture->cells[cell], kept);
    fprintf(out, "<title>0x%" PRIx64 " to 0x%" PRIx64 ", at ", start, end);
    put_size(out, start);
    for (int kind = 0; kind < PICTURE_KINDS; kind++) {
        if (kept[kind] > 0) {
            fprintf(out, "\n%s ", kind_names[kind]);
            put_percent(out, kept[kind], end - start);
        }
    }
    fputs("</title>", out);
}

static void draw_row_labels(const struct picture *picture, FILE *out)
{
    fputs("<g class=\"soft small\" text-anchor=\"end\">\n", out);
    for (size_t cell = 0; cell < picture->cell_count; cell += PICTURE_ACROSS) {
        fprintf(out, "<text x=\"%d\" y=\"%d\">", LEFT - 8, cell_y(cell) + 11);
        put_size(out, picture->start + cell * picture->cell_size);
        fputs("</text>\n", out);
    }
    fputs("</g>\n", out);
}

static int grid_height(const struct picture *picture)
{
    return (int)div_round_up(picture->cell_count, PICTURE_ACROSS) * CELL_PITCH;
}

static void draw_grid(const struct picture *picture, int top, FILE *out)
{
    begin_heading(out, top - 12, "The disk");
    fputs("from the top left, row by row; each square is ", out);
    put_size(out, picture->cell_size);
    fprintf(out, "</tspan></text>\n<g transform=\"translate(0 %d)\">\n", top);
    draw_row_labels(picture, out);
    draw_cells(picture, out);
    fputs("<g class=\"over\">\n", out);
    for (size_t cell = 0; cell < picture->cell_count; cell++) {
        fprintf(out, "<path d=\"M%d %dh%dv%dh-%dz\">", cell_x(cell), cell_y(cell), CELL_SIDE,
                CELL_SIDE, CELL_SIDE);
        put_cell_title(picture, cell, out);
        fputs("</path>\n", out);
    }
    fputs("</g>\n</g>\n", out);
}

/* --- the order of the disk against that of the file ------------------------------------ */

/* Where several kinds meet, the first of them is shown. */
static int dot_kind(const struct picture *picture, size_t row, size_t column)
{
    unsigned set = picture->plot[row][column];

    return set == 0 ? PICTURE_KINDS : __builtin_ctz(set);
}

/* The dots of one kind, those side by side as one. */
static void draw_dots(const struct picture *picture, int kind, FILE *out)
{
    if (picture->totals[kind] == 0) {
        return;
    }
    fprintf(out, "<path class=\"k%d\" d=\"", kind);
    for (size_t row = 0; row < PLOT_ROWS; row++) {
        for (size_t column = 0, end; column < PLOT_COLUMNS; column = end) {
            end = column + 1;
            if (dot_kind(picture, row, column) != kind) {
                continue;
            }
            while (end < PLOT_COLUMNS && dot_kind(picture, row, end) == kind) {
                end++;
            }
            fprintf(out, "M%zu %zuh%zuv%dh-%zuz", column * DOT, (PLOT_ROWS - 1 - row) * DOT,
                    (end - column) * DOT, DOT, (end - column) * DOT);
        }
    }
    fputs("\"/>\n", out);
}

/* How much of each part of the file the disk uses; the rest is for other things. */
static void draw_row_bars(const struct picture *picture, FILE *out)
{
    uint64_t row_size = div_round_up(picture->file_size, PLOT_ROWS);

    fprintf(out, "<rect class=\"k9\" x=\"%d\" y=\"0\" width=\"%d\" height=\"%d\"/>\n", WIDTH + 8,
            ROW_BAR_WIDTH, PLOT_HEIGHT);
    for (size_t row = 0; row < PLOT_ROWS; row++) {
        uint64_t start = row * row_size, used = min_u64(picture->rows[row], row_size);

        if (start >= picture->file_size) {
            break;
        }
        fprintf(out,
                "<rect class=\"k8\" x=\"%d\" y=\"%zu\" width=\"%.1f\" height=\"%d\"><title>"
                "0x%" PRIx64 " of the file: ",
                WIDTH + 8, (PLOT_ROWS - 1 - row) * DOT,
                ROW_BAR_WIDTH * (double)used / (double)row_size, DOT, start);
        put_percent(out, used, min_u64(row_size, picture->file_size - start));
        fputs(" is data of the disk</title></rect>\n", out);
    }
}

static void draw_axes(const struct picture *picture, FILE *out)
{
    fprintf(out, "<rect class=\"line\" x=\"-.5\" y=\"-.5\" width=\"%d\" height=\"%d\"/>\n",
            WIDTH + 1, PLOT_HEIGHT + 1);
    fputs("<g class=\"soft small\" text-anchor=\"end\">\n", out);
    for (unsigned quarter = 0; quarter <= 4; quarter += 2) {
        fprintf(out, "<text x=\"-8\" y=\"%d\">", PLOT_HEIGHT - PLOT_HEIGHT * (int)quarter / 4 + 4);
        put_size(out, picture->file_size / 4 * quarter + picture->file_size % 4 * quarter / 4);
        fputs("</text>\n", out);
    }
    fputs("</g>\n<g class=\"soft small\" text-anchor=\"middle\">\n", out);
    for (unsigned quarter = 0; quarter <= 4; quarter++) {
        uint64_t whole = picture->end - picture->start;

        fprintf(out, "<text x=\"%d\" y=\"%d\"%s>", WIDTH * (int)quarter / 4, PLOT_HEIGHT + 16,
                quarter == 4 ? " text-anchor=\"end\"" : "");
        put_size(out, picture->start + whole / 4 * quarter + whole % 4 * quarter / 4);
        fputs("</text>\n", out);
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\">used</text>\n</g>\n", WIDTH + 8 + ROW_BAR_WIDTH / 2,
            PLOT_HEIGHT + 16);
}

static void put_runs(const struct picture *picture, FILE *out)
{
    if (picture->runs == 0) {
        fputs("No data of the disk is in this file.", out);
        return;
    }
    if (picture->runs == 1) {
        fputs("Whoever reads the disk in its order reads the file in one piece.", out);
        return;
    }
    fprintf(out, "Whoever reads the disk in its order reads the file in %" PRIu64 " pieces, of ",
            picture->runs);
    put_size(out, picture->run_bytes / picture->runs);
    fputs(" on average.", out);
}

static void draw_plot(const struct picture *picture, bool has_data_file, int top, FILE *out)
{
    begin_heading(out, top - 32,
                  has_data_file ? "Its order in the data file" : "Its order in the file");
    fputs("disk from left to right, file from bottom to top: what lies in order is one rising "
          "line</tspan></text>\n",
          out);
    begin_text(out, MARGIN, top - 13, "soft");
    put_runs(picture, out);
    fprintf(out, "</text>\n<g transform=\"translate(%d %d)\">\n", LEFT, top);
    for (int kind = 0; kind <= PICTURE_COMPRESSED; kind++) {
        draw_dots(picture, kind, out);
    }
    draw_row_bars(picture, out);
    draw_axes(picture, out);
    fputs("</g>\n", out);
}

/* --- all of it -------------------------------------------------------------------------- */

void map_svg_draw(const struct picture *picture, const struct svg_subject *subject, FILE *out)
{
    int grid_top = LEGEND_TOP + legend_height(picture) + 42;
    int plot_top = grid_top + grid_height(picture) + 62;
    int height = plot_top + PLOT_HEIGHT + 40;

    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n%s"
            "<rect class=\"page\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n",
            PAGE_WIDTH, height, PAGE_WIDTH, height, style, PAGE_WIDTH, height);
    draw_title(picture, subject, out);
    draw_bar(picture, out);
    draw_legend(picture, out);
    draw_grid(picture, grid_top, out);
    draw_plot(picture, subject->image->data_file_path != NULL, plot_top, out);
    fputs("</svg>\n", out);
}
