/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/uses.h"

#include "util/checked.h"

#include <errno.h>

/* As check_counts packs small numbers: the most frequent uses have the smallest; 0 is none. */
#define CODE_OTHER 4U

_Static_assert(CODE_OTHER + CHECK_USE_CRYPT_HEADER < 16, "a use takes four bits at most");

/* While references are counted. */
struct finding {
    const struct uses_options *options;
    struct uses *uses;
    uint32_t cluster_bits;
    bool no_memory;
};

static uint64_t code_of(enum check_use use)
{
    switch (use) {
    case CHECK_USE_DATA:
        return 1;
    case CHECK_USE_L2_TABLE:
        return 2;
    case CHECK_USE_COMPRESSED:
        return 3;
    default:
        return CODE_OTHER + (uint64_t)use;
    }
}

static enum check_use use_of(uint64_t code)
{
    static const enum check_use frequent[CODE_OTHER] = {
        [1] = CHECK_USE_DATA, [2] = CHECK_USE_L2_TABLE, [3] = CHECK_USE_COMPRESSED};

    return code < CODE_OTHER ? frequent[code] : (enum check_use)(code - CODE_OTHER);
}

bool uses_of(const struct uses *uses, uint64_t cluster, enum check_use *use)
{
    uint64_t code = check_counts_get(uses->used, cluster);

    *use = use_of(code);
    return code != 0;
}

uint64_t uses_run(const struct uses *uses, uint64_t cluster, bool *used, enum check_use *use)
{
    uint64_t code = check_counts_get(uses->used, cluster), end = cluster + 1;

    *used = code != 0;
    *use = use_of(code);
    if (code == 0) {
        return check_counts_next(uses->used, end, uses->clusters) - cluster;
    }
    while (end < uses->clusters && check_counts_get(uses->used, end) == code) {
        end++;
    }
    return end - cluster;
}

/* --- Finding them -------------------------------------------------------------------- */

/* What one entry hides another may show: that of a snapshot, say. */
static void note_hidden(struct finding *finding, uint64_t cluster, bool first, uint32_t hidden)
{
    struct check_counts *all = finding->uses->hidden;
    uint32_t before = first ? hidden : (uint32_t)check_counts_get(all, cluster);

    if ((first ? hidden != 0 : (before & hidden) != before) &&
        check_counts_set(all, cluster, before & hidden) == -ENOMEM) {
        finding->no_memory = true;
    }
}

/* Snapshots share these. */
static bool may_be_shared(enum check_use use)
{
    return use == CHECK_USE_DATA || use == CHECK_USE_COMPRESSED || use == CHECK_USE_L2_TABLE;
}

static void note_overlap(struct finding *finding, uint64_t cluster, enum check_use use)
{
    struct uses *uses = finding->uses;

    if (uses->overlaps++ == 0) {
        uses->overlap_offset = cluster << finding->cluster_bits;
        uses->overlap = use;
        (void)uses_of(uses, cluster, &uses->overlapped);
    }
}

/* Nothing but what snapshots share may have two uses, and that not two different ones. */
static void note_reference(void *context, uint64_t cluster, enum check_use use, uint32_t hidden)
{
    struct finding *finding = context;
    uint64_t before = check_counts_get(finding->uses->used, cluster);

    note_hidden(finding, cluster, before == 0, hidden);
    if (before == 0) {
        if (check_counts_set(finding->uses->used, cluster, code_of(use)) == -ENOMEM) {
            finding->no_memory = true;
        }
    } else if (before != code_of(use) || !may_be_shared(use)) {
        note_overlap(finding, cluster, use);
    }
}

static void pass_report(void *context, enum check_finding what, const char *line)
{
    const struct finding *finding = context;

    if (finding->options->report != NULL) {
        finding->options->report(finding->options->context, what, line);
    }
}

static void pass_progress(void *context, uint64_t done, uint64_t total)
{
    const struct finding *finding = context;

    if (finding->options->progress != NULL) {
        finding->options->progress(finding->options->context, done, total);
    }
}

int uses_find(const struct inspection *image, struct header *header,
              const struct uses_options *options, struct uses *uses, struct error *error)
{
    struct finding finding = {
        .options = options, .uses = uses, .cluster_bits = header->cluster_bits};
    const struct check_options check = {
        .report = pass_report,
        .progress = pass_progress,
        .reference = note_reference,
        .context = &finding,
    };
    int result;

    *uses = (struct uses){.clusters = div_round_up(image->info.size, header->cluster_size)};
    /* One more: what begins right behind the end of the file is counted, too. */
    if (check_counts_create(uses->clusters + 1, &uses->used) < 0 ||
        check_counts_create(uses->clusters + 1, &uses->hidden) < 0) {
        return -ENOMEM;
    }
    result = check_image(header, image->file, image->path, &check, &uses->found, error);
    return finding.no_memory ? -ENOMEM : result;
}

void uses_release(struct uses *uses)
{
    check_counts_destroy(uses->used);
    check_counts_destroy(uses->hidden);
}
