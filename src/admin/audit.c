/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/audit.h"

#include "admin/audit_internal.h"
#include "meta/extension.h"
#include "meta/feature.h"
#include "meta/format.h"
#include "util/printable.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEXT_MAX 2048

/* --- Findings ------------------------------------------------------------------------ */

static void add(struct audit *audit, const struct audit_finding *finding,
                const struct inspection *image, const char *format, va_list arguments)
    __attribute__((format(printf, 4, 0)));

static void add(struct audit *audit, const struct audit_finding *finding,
                const struct inspection *image, const char *format, va_list arguments)
{
    struct audit_finding *findings =
        reallocarray(audit->findings, audit->count + 1, sizeof(*findings));
    char text[TEXT_MAX];
    struct audit_finding *added;

    if (findings == NULL) {
        audit->incomplete = true;
        return;
    }
    audit->findings = findings;
    printable_format(text, sizeof(text), format, arguments);
    added = &findings[audit->count];
    *added = *finding;
    added->file = strdup(image->path);
    added->text = strdup(text);
    if (added->file == NULL || added->text == NULL) {
        free(added->file);
        free(added->text);
        audit->incomplete = true;
        return;
    }
    audit->count++;
}

void audit_add(struct audit *audit, enum audit_grade grade, const char *code,
               const struct inspection *image, const char *format, ...)
{
    const struct audit_finding finding = {.grade = grade, .code = code};
    va_list arguments;

    va_start(arguments, format);
    add(audit, &finding, image, format, arguments);
    va_end(arguments);
}

void audit_add_at(struct audit *audit, enum audit_grade grade, const char *code,
                  const struct inspection *image, uint64_t offset, const char *format, ...)
{
    const struct audit_finding finding = {
        .grade = grade, .code = code, .has_offset = true, .offset = offset};
    va_list arguments;

    va_start(arguments, format);
    add(audit, &finding, image, format, arguments);
    va_end(arguments);
}

const char *audit_grade_name(enum audit_grade grade)
{
    static const char *const names[] = {
        [AUDIT_NOTE] = "note",
        [AUDIT_WARNING] = "warning",
        [AUDIT_DANGER] = "danger",
    };

    return names[grade];
}

/* --- Problems ------------------------------------------------------------------------ */

static bool is_told_otherwise(const struct inspection *image, const struct inspect_problem *problem)
{
    const struct header *header = image->header;

    switch (problem->subject) {
    case HEADER_PART_FEATURES:
        return (header->incompatible_features & ~INCOMPATIBLE_KNOWN) != 0;
    default:
        return false;
    }
}

static const char *problem_code(const struct inspect_problem *problem)
{
    bool missing = problem->code == ENOENT;

    switch (problem->subject) {
    case INSPECT_SNAPSHOTS:
        return "snapshot-table";
    case INSPECT_BITMAPS:
        return "bitmap-directory";
    case HEADER_PART_CRYPT_HEADER:
    case INSPECT_ENCRYPTION_HEADER:
        return "encryption-header";
    case INSPECT_DATA_FILE:
        return missing ? "data-file-missing" : "data-file-unusable";
    case INSPECT_BACKING_FILE:
        return missing ? "backing-file-missing" : "backing-file-unusable";
    default:
        return "header";
    }
}

/* What keeps the image from being opened. The file's name is told with each finding anyway. */
static void find_problems(struct audit *audit, const struct inspection *image)
{
    for (size_t i = 0; i < image->problem_count; i++) {
        const struct inspect_problem *problem = &image->problems[i];
        size_t length = strlen(image->path);
        const char *text = problem->text;

        if (is_told_otherwise(image, problem)) {
            continue;
        }
        if (strncmp(text, image->path, length) == 0 && strncmp(text + length, ": ", 2) == 0) {
            text += length + 2;
        }
        audit_add(audit, AUDIT_DANGER, problem_code(problem), image, "%s", text);
    }
}

/* --- The header ---------------------------------------------------------------------- */

static void find_states(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;

    if ((header->incompatible_features & INCOMPATIBLE_DIRTY) != 0) {
        audit_add_at(audit, AUDIT_WARNING, "dirty", image, HEADER_INCOMPATIBLE_FEATURES,
                     "is marked dirty: whoever wrote to it last did not close it, and its "
                     "refcounts cannot be relied on");
    }
    if ((header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0) {
        audit_add_at(audit, AUDIT_DANGER, "corrupt", image, HEADER_INCOMPATIBLE_FEATURES,
                     "is marked corrupt: a program that wrote to it found its tables damaged");
    }
    if (header->version == 2) {
        audit_add_at(audit, AUDIT_NOTE, "version-2", image, HEADER_VERSION,
                     "is of version 2 (compat 0.10): it has no feature bits, so that nothing "
                     "tells whether it was closed cleanly");
    }
}

static void find_unknown_feature(struct audit *audit, const struct inspection *image,
                                 const struct inspect_feature *feature)
{
    static const struct {
        enum audit_grade grade;
        const char *code, *meaning;
        uint64_t offset;
    } kinds[] = {
        [FEATURE_TYPE_INCOMPATIBLE] = {AUDIT_DANGER, "unknown-incompatible-feature",
                                       "its clusters may mean something else than they seem to",
                                       HEADER_INCOMPATIBLE_FEATURES},
        [FEATURE_TYPE_COMPATIBLE] = {AUDIT_NOTE, "unknown-compatible-feature", "it can be ignored",
                                     HEADER_COMPATIBLE_FEATURES},
        [FEATURE_TYPE_AUTOCLEAR] = {AUDIT_WARNING, "unknown-autoclear-feature",
                                    "something that it belongs to is lost when the image is "
                                    "written to",
                                    HEADER_AUTOCLEAR_FEATURES},
    };

    audit_add_at(audit, kinds[feature->type].grade, kinds[feature->type].code, image,
                 kinds[feature->type].offset, "has the unknown %s feature bit %u (%s%s%s): %s",
                 feature_type_name(feature->type), feature->bit,
                 feature->name[0] != '\0' ? "'" : "",
                 feature->name[0] != '\0' ? feature->name : "no name",
                 feature->name[0] != '\0' ? "'" : "", kinds[feature->type].meaning);
}

static void find_features(struct audit *audit, const struct inspection *image)
{
    for (size_t i = 0; i < image->feature_count; i++) {
        const struct inspect_feature *feature = &image->features[i];

        if (!feature->known) {
            find_unknown_feature(audit, image, feature);
        } else if (feature->type == FEATURE_TYPE_AUTOCLEAR) {
            audit_add_at(audit, AUDIT_NOTE, "autoclear-feature", image, HEADER_AUTOCLEAR_FEATURES,
                         "has the autoclear feature bit %u ('%s'): no program that does not know "
                         "it has written to the image",
                         feature->bit, feature->name);
        }
    }
}

static void find_extensions(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;
    bool stale = (header->autoclear_features & AUTOCLEAR_BITMAPS) == 0;
    size_t unknown = 0;

    for (size_t i = 0; i < image->extension_count; i++) {
        const struct inspect_extension *extension = &image->extensions[i];

        if (extension->type == EXTENSION_BITMAPS && stale) {
            audit_add_at(audit, AUDIT_NOTE, "stale-bitmaps", image, extension->offset,
                         "has bitmaps, but a program that does not know them has written to it "
                         "since: they mean nothing any more");
        }
        if (extension_name(extension->type) == NULL && unknown++ < AUDIT_LIST_MAX) {
            audit_add_at(audit, AUDIT_NOTE, "unknown-extension", image, extension->offset,
                         "has a header extension of the unknown type 0x%08" PRIx32 " (%" PRIu32
                         " bytes)",
                         extension->type, extension->length);
        }
    }
    if (header->unknown_extensions > AUDIT_LIST_MAX) {
        audit_add(audit, AUDIT_NOTE, "unknown-extension", image,
                  "has %" PRIu64 " header extensions of unknown types in all",
                  header->unknown_extensions);
    }
}

struct telling_fault {
    struct audit *audit;
    const struct inspection *image;
};

static void tell_fault(void *context, bool is_error, uint64_t at, const char *text)
{
    const struct telling_fault *telling = context;

    audit_add_at(telling->audit, is_error ? AUDIT_DANGER : AUDIT_WARNING,
                 is_error ? "encryption-header-damaged" : "encryption-header-odd", telling->image,
                 telling->image->header->crypt_header_offset + at, "its LUKS header: %s", text);
}

static void find_encryption(struct audit *audit, const struct inspection *image)
{
    struct telling_fault telling = {audit, image};

    switch (image->header->crypt_method) {
    case CRYPT_NONE:
        break;
    case CRYPT_AES:
        audit_add_at(audit, AUDIT_WARNING, "encrypted", image, HEADER_CRYPT_METHOD,
                     "is encrypted with AES (crypt_method 1), a method known to be weak: equal "
                     "passwords and disks give equal bytes");
        break;
    case CRYPT_LUKS:
        audit_add_at(audit, AUDIT_WARNING, "encrypted", image, HEADER_CRYPT_METHOD,
                     "is encrypted with LUKS (crypt_method 2)%s%s%s%s",
                     image->luks != NULL ? ": " : "",
                     image->luks != NULL ? image->luks->cipher : "",
                     image->luks != NULL ? ", " : "", image->luks != NULL ? image->luks->mode : "");
        if (image->luks != NULL) {
            luks_faults(image->luks, image->header->crypt_header_length, tell_fault, &telling);
        }
        break;
    default:
        break; /* a problem of the header */
    }
}

/* --- Snapshots and bitmaps ----------------------------------------------------------- */

static void find_snapshot(struct audit *audit, const struct inspection *image,
                          const struct snapshot *snapshot)
{
    time_t when = snapshot->date_sec;
    char date[64] = "?", disk[SIZE_TEXT_MAX], state[SIZE_TEXT_MAX];
    struct error error = {0};
    struct tm parts;

    if (gmtime_r(&when, &parts) != NULL) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &parts);
    }
    audit_add_at(audit, AUDIT_NOTE, "snapshot", image, snapshot->l1_offset,
                 "snapshot '%s' (id %s) keeps the state of a disk of %s of %s, which the disk "
                 "itself does not show",
                 snapshot->name, snapshot->id, size_format(snapshot->disk_size, disk), date);
    if (snapshot->vm_state_size > 0) {
        audit_add_at(audit, AUDIT_WARNING, "vm-state", image, snapshot->l1_offset,
                     "snapshot '%s' (id %s) keeps the memory of the running machine (%s), with "
                     "whatever secrets that held",
                     snapshot->name, snapshot->id, size_format(snapshot->vm_state_size, state));
    }
    if (inspect_has_geometry(image) &&
        snapshot_validate(image->header, snapshot, image->path, &error) < 0) {
        audit_add_at(audit, AUDIT_DANGER, "snapshot-damaged", image, snapshot->l1_offset, "%s",
                     error.text);
    }
}

static void find_snapshots(struct audit *audit, const struct inspection *image)
{
    size_t count = image->snapshots != NULL ? image->snapshots->count : 0;

    for (size_t i = 0; i < count && i < AUDIT_LIST_MAX; i++) {
        find_snapshot(audit, image, &image->snapshots->snapshots[i]);
    }
    count += image->snapshots_unlisted;
    if (count > AUDIT_LIST_MAX) {
        audit_add(audit, AUDIT_NOTE, "snapshot", image, "has %zu snapshots in all", count);
    }
}

static void find_bitmaps(struct audit *audit, const struct inspection *image)
{
    size_t count = image->bitmaps != NULL ? image->bitmaps->count : 0;

    for (size_t i = 0; i < count && i < AUDIT_LIST_MAX; i++) {
        const struct bitmap *bitmap = &image->bitmaps->bitmaps[i];
        bool in_use = (bitmap->flags & BITMAP_FLAG_IN_USE) != 0;

        audit_add_at(audit, in_use ? AUDIT_WARNING : AUDIT_NOTE,
                     in_use ? "bitmap-in-use" : "bitmap", image, bitmap->table_offset,
                     in_use ? "bitmap '%s' is marked in use: it was not saved, and does not tell "
                              "what was written"
                            : "bitmap '%s' records which parts of the disk were written",
                     bitmap->name);
    }
    count += image->bitmaps_unlisted;
    if (count > AUDIT_LIST_MAX) {
        audit_add(audit, AUDIT_NOTE, "bitmap", image, "has %zu bitmaps in all", count);
    }
}

/* --- All of it ----------------------------------------------------------------------- */

static void audit_one(struct audit *audit, const struct inspection *image)
{
    find_problems(audit, image);
    audit_names(audit, image);
    if (image->header == NULL || inspect_part_failed(image, HEADER_PART_START)) {
        return;
    }
    find_states(audit, image);
    find_features(audit, image);
    find_extensions(audit, image);
    find_encryption(audit, image);
    find_snapshots(audit, image);
    find_bitmaps(audit, image);
}

/* The gravest first, otherwise in the order in which they were found. */
static void sort_findings(struct audit *audit)
{
    struct audit_finding *sorted = calloc(audit->count + 1, sizeof(*sorted));
    size_t count = 0;

    if (sorted == NULL) {
        audit->incomplete = true;
        return;
    }
    for (int grade = AUDIT_DANGER; grade >= AUDIT_NOTE; grade--) {
        for (size_t i = 0; i < audit->count; i++) {
            if ((int)audit->findings[i].grade == grade) {
                sorted[count++] = audit->findings[i];
            }
        }
    }
    free(audit->findings);
    audit->findings = sorted;
}

int audit_image(const struct inspection *inspection, const struct audit_options *options,
                struct audit **audit)
{
    const struct inspection *image;
    struct audit *made = calloc(1, sizeof(*made));

    *audit = NULL;
    if (made == NULL) {
        return -ENOMEM;
    }
    for (image = inspection; image != NULL; image = image->backing) {
        audit_one(made, image);
    }
    audit_slack(made, inspection);
    audit_clusters(made, inspection, options);
    sort_findings(made);
    if (made->incomplete) {
        audit_free(made);
        return -ENOMEM;
    }
    *audit = made;
    return 0;
}

void audit_free(struct audit *audit)
{
    if (audit == NULL) {
        return;
    }
    for (size_t i = 0; i < audit->count; i++) {
        free(audit->findings[i].file);
        free(audit->findings[i].text);
    }
    free(audit->findings);
    free(audit);
}
