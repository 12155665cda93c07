/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "check/check.h"

#include <errno.h>
#include <inttypes.h>

/* Forwards the progress of the check. */
static void report_progress(void *context, uint64_t done, uint64_t total)
{
    const struct writer_options *options = context;

    if (options->progress != NULL) {
        options->progress(options->progress_context, done, total);
    }
}

static int repair(struct writer *writer, struct check_result *result, struct error *error)
{
    struct image *image = writer->image;
    const struct check_options options = {
        .repair_leaks = true,
        .repair_errors = true,
        .progress = report_progress,
        .context = &writer->options,
    };
    int status = check_image(image->header, image->file, image->path, &options, result, error);

    if (status < 0) {
        return status;
    }
    if (!check_is_clean(result)) {
        return error_set(error, EROFS,
                         "%s: is marked dirty, and %" PRIu64
                         " of its errors cannot be repaired; mount it with -o ro and copy what can "
                         "be read",
                         image->path, result->errors - result->fixed_errors + result->unreadable);
    }
    /* COPIED bits may have been corrected. */
    return mapping_reload(image->active, image->path, error);
}

int writer_repair(struct writer *writer, struct error *error)
{
    struct image *image = writer->image;
    struct check_result result;
    int status;

    if ((image->header->incompatible_features & INCOMPATIBLE_DIRTY) == 0) {
        return 0;
    }
    if (writer->options.no_repair) {
        return error_set(error, EUCLEAN,
                         "%s: is marked dirty: it was not closed properly, and its refcounts must "
                         "be repaired before it can be written; leave out repair=off, or mount it "
                         "with -o ro",
                         image->path);
    }
    status = repair(writer, &result, error);
    if (status == 0) {
        status = check_clear_dirty(image->header, image->file, image->path, error);
    }
    if (status == 0) {
        log_line(image->log, LOG_LEVEL_INFO,
                 "%s: was not closed properly; its refcounts were repaired: %" PRIu64
                 " errors, %" PRIu64 " leaked clusters",
                 image->path, result.fixed_errors, result.fixed_leaks);
    }
    return status;
}
