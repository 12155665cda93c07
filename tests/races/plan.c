/* SPDX-License-Identifier: MIT */
/* From a seed to what a run does. */
#include "config.h"

#include "run.h"

#include "crypto/library.h"

#include "util/checked.h"

#include <inttypes.h>
#include <string.h>

static const char *const operation_names[OPERATIONS] = {
    "write",           "read",       "zero",     "punch",
    "preallocate",     "reserve",    "flush",    "seek",
    "resize",          "clean",      "snapshot", "trouble",
    "make a snapshot", "remove one", "read one", "look at a bitmap",
    "backup point",
};

static bool one_in(struct chance *chance, unsigned odds)
{
    return chance_below(chance, odds) == 0;
}

static bool is_only(const struct run *run, const char *what)
{
    return run->options->only != NULL && strcmp(run->options->only, what) == 0;
}

/* Whether the name is one of a list with commas between. */
static bool is_listed(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (; list != NULL && *list != '\0'; list += strcspn(list, ",")) {
        list += *list == ',';
        if (strcspn(list, ",") == length && strncmp(list, name, length) == 0) {
            return true;
        }
    }
    return false;
}

static const struct kind *choose_kind(struct run *run)
{
    const struct run_options *options = run->options;
    const struct kind *kind;

    do {
        kind = kind_at(chance_below(&run->chance, kinds_count()));
    } while (is_listed(options->without, kind->name) ||
             (is_only(run, "bitmaps") && !kind->bitmaps) ||
             (kind->encrypted != NULL && crypto_missing() != NULL));
    if (options->kind != NULL) {
        kind = kind_named(options->kind);
    }
    if (kind == NULL) {
        die("there is no kind '%s'", options->kind);
    }
    return kind;
}

static void choose_template(struct run *run)
{
    const struct run_options *options = run->options;
    const struct kind *kind = choose_kind(run);
    uint64_t bits = chance_next(&run->chance);
    size_t i;

    bits = kind_cluster_bits(kind, bits % kind_cluster_sizes(kind));
    for (i = 0; i < kind_cluster_sizes(kind); i++) {
        if (UINT64_C(1) << kind_cluster_bits(kind, i) == options->cluster_size) {
            bits = kind_cluster_bits(kind, i);
        }
    }
    run->plan.template = template_get(kind, (unsigned)bits);
}

/* Some runs do little of one thing, or none of it, so that others meet more often. */
static void choose_weights(struct run *run)
{
    static const unsigned usual[OPERATIONS] = {
        [OPERATION_WRITE] = 30, [OPERATION_READ] = 20,       [OPERATION_ZERO] = 6,
        [OPERATION_PUNCH] = 8,  [OPERATION_PREALLOCATE] = 6, [OPERATION_RESERVE] = 1,
        [OPERATION_FLUSH] = 6,  [OPERATION_SEEK] = 5,        [OPERATION_RESIZE] = 5,
        [OPERATION_CLEAN] = 2,  [OPERATION_SNAPSHOT] = 3,    [OPERATION_TROUBLE] = 3,
        [OPERATION_MAKE] = 4,   [OPERATION_REMOVE] = 3,      [OPERATION_READ_MADE] = 8,
        [OPERATION_LOOK] = 5,   [OPERATION_POINT] = 4,
    };
    struct plan *plan = &run->plan;

    for (size_t i = 0; i < OPERATIONS; i++) {
        plan->weights[i] = usual[i] * (unsigned)chance_below(&run->chance, 4);
    }
    plan->weights[OPERATION_WRITE] += 10;
    if (is_only(run, "preallocate")) {
        plan->weights[OPERATION_WRITE] = 60;
        plan->weights[OPERATION_PUNCH] = 15;
        plan->weights[OPERATION_PREALLOCATE] = 40;
        plan->hots = 1;
        plan->operations = 3 + plan->operations / 3;
    }
    if (is_only(run, "snapshots")) {
        plan->weights[OPERATION_WRITE] = 60;
        plan->weights[OPERATION_MAKE] = 15;
        plan->weights[OPERATION_REMOVE] = 10;
        plan->weights[OPERATION_READ_MADE] = 30;
    }
    if (is_only(run, "bitmaps")) {
        plan->weights[OPERATION_WRITE] = 60;
        plan->weights[OPERATION_LOOK] = 15;
        plan->weights[OPERATION_POINT] = 20;
    }
    if (!plan->template->kind->bitmaps) {
        plan->weights[OPERATION_LOOK] = 0;
    }
    if (!plan->points) {
        plan->weights[OPERATION_POINT] = 0;
    }
    if (!plan->makes) {
        plan->weights[OPERATION_MAKE] = 0;
        plan->weights[OPERATION_REMOVE] = 0;
        plan->weights[OPERATION_READ_MADE] = 0;
    }
    if (!plan->resizes) {
        plan->weights[OPERATION_RESIZE] = 0;
    }
    if (plan->template->kind->snapshots == 0) {
        plan->weights[OPERATION_SNAPSHOT] = 0;
    }
    if (!plan->trouble) {
        plan->weights[OPERATION_TROUBLE] = 0;
    }
    for (size_t i = 0; i < OPERATIONS; i++) {
        plan->total += plan->weights[i];
    }
}

static void choose_places(struct run *run)
{
    struct plan *plan = &run->plan;
    uint64_t disk = div_round_up(plan->template->disk_size, GRAIN);
    uint64_t cluster = (UINT64_C(1) << plan->template->cluster_bits) / GRAIN;

    plan->grains = disk * 3 / 4 * 2; /* whole sectors */
    plan->hots = 1 + (unsigned)chance_below(&run->chance, 3);
    for (unsigned i = 0; i < plan->hots; i++) {
        plan->hot[i] = chance_below(&run->chance, disk);
    }
    if (plan->resizes || plan->growable) {
        plan->hot[0] = disk; /* where the disk ends */
    }
    plan->spread =
        cluster * (1 + chance_below(&run->chance, 3)) / (1 + chance_below(&run->chance, 4));
    plan->longest_range = max_u64(2, cluster * (1 + chance_below(&run->chance, 5)) / 2);
}

/*
 * Of version 2, an image with snapshots keeps its size; and as it has no dirty bit, what a crash or
 * a failure leaves of a change may have COPIED bits that a check finds wrong.
 */
static void choose_snapshots(struct run *run)
{
    struct plan *plan = &run->plan;
    const struct kind *kind = plan->template->kind;
    bool makes = one_in(&run->chance, 3) || is_only(run, "snapshots");

    plan->makes = makes && !kind->data_file;
    plan->points = kind->bitmaps && !kind->data_file;
    if (plan->makes && strstr(kind->options, "compat=0.10") != NULL) {
        plan->growable = plan->resizes = false;
        plan->trouble = plan->syncs_fail = false;
        plan->crashes = 0;
    }
}

void plan_make(struct run *run)
{
    struct chance *chance = &run->chance;
    struct plan *plan = &run->plan;
    const struct kind *kind;

    *chance = chance_from(run->options->seed, 30, 0);
    choose_template(run);
    kind = plan->template->kind;
    plan->threads = 2 + (unsigned)chance_below(chance, 5);
    plan->operations = 4 + (unsigned)chance_below(chance, 24);
    if (run->options->free) {
        plan->often = 8 + (unsigned)chance_below(chance, 120);
        plan->longest = UINT32_C(1) << (4 + chance_below(chance, 6)); /* microseconds */
        plan->operations *= 2;
    } else {
        plan->often = UINT32_C(1) << (1 + chance_below(chance, 6));
        plan->longest = UINT32_C(1) << chance_below(chance, 11); /* points */
    }
    plan->tiny_caches = one_in(chance, 2);
    plan->lazy = kind->lazy || (strstr(kind->options, "compat=0.10") == NULL && one_in(chance, 5));
    plan->discard = one_in(chance, 2);
    plan->growable = !kind->fixed && (one_in(chance, 3) || is_only(run, "grow"));
    plan->resizes = !kind->fixed && one_in(chance, 3);
    plan->write_through = one_in(chance, 10);
    plan->fills = one_in(chance, 3);
    plan->starts_threads = kind->content == CONTENT_COMPRESSED ||
                           kind->content == CONTENT_ON_CHAIN || one_in(chance, 4);
    plan->trouble = one_in(chance, 4) && !run->options->calm;
    plan->syncs_fail = plan->trouble && one_in(chance, 4);
    plan->crashes = one_in(chance, 2) ? 1 + (unsigned)chance_below(chance, CRASHES_MAX) : 0;
    choose_snapshots(run);
    if (run->options->steady) {
        plan->growable = plan->resizes = false;
    }
    choose_places(run);
    choose_weights(run);
    plan->remote = one_in(chance, 6) || is_only(run, "remote");
}

void plan_tell(const struct run *run, FILE *out)
{
    const struct plan *plan = &run->plan;

    fprintf(out,
            "  kind %s, clusters of %u bytes, disk of %" PRIu64 " bytes; %u threads, %u operations "
            "each; a pause at one of %u points, of %u%s%s%s%s%s%s%s%s%s%s%s%s\n ",
            plan->template->kind->name, 1u << plan->template->cluster_bits,
            plan->template->disk_size, plan->threads, plan->operations, plan->often, plan->longest,
            plan->tiny_caches ? ", tiny caches" : "", plan->lazy ? ", lazy" : "",
            plan->discard ? ", discard" : "", plan->growable ? ", growable" : "",
            plan->resizes ? ", resizes" : "", plan->write_through ? ", write-through" : "",
            plan->fills ? ", fills" : "", plan->trouble ? ", trouble" : "",
            plan->syncs_fail ? ", syncs fail" : "", plan->makes ? ", makes snapshots" : "",
            plan->points ? ", makes backup points" : "", plan->remote ? ", remote" : "");
    for (size_t i = 0; i < OPERATIONS; i++) {
        if (plan->weights[i] > 0) {
            fprintf(out, " %s %u", operation_names[i], plan->weights[i]);
        }
    }
    fputc('\n', out);
}
