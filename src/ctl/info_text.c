/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/info_text.h"

#include "codec/codec.h"
#include "meta/extension.h"
#include "meta/feature.h"
#include "meta/format.h"
#include "util/printable.h"
#include "util/size.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NSEC_PER_SEC UINT64_C(1000000000)

/* --- Lines --------------------------------------------------------------------------- */

/* "label:               value" */
static void row(FILE *out, const char *label, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void row(FILE *out, const char *label, const char *format, ...)
{
    va_list arguments;

    fprintf(out, "%s:%*s", label, (int)(strlen(label) < 19 ? 19 - strlen(label) : 1), "");
    va_start(arguments, format);
    printable_vline(out, format, arguments);
    va_end(arguments);
}

static void size_row(FILE *out, const char *label, uint64_t bytes)
{
    char text[SIZE_TEXT_MAX];

    row(out, label, "%s (%" PRIu64 " bytes)", size_format(bytes, text), bytes);
}

static const char *yes_or_no(bool value)
{
    return value ? "yes" : "no";
}

/* --- The image ----------------------------------------------------------------------- */

static void print_encryption(const struct inspection *inspection, FILE *out)
{
    const struct luks *luks = inspection->luks;
    unsigned active = 0;

    switch (inspection->header->crypt_method) {
    case CRYPT_NONE:
        break;
    case CRYPT_AES:
        row(out, "encryption", "AES (crypt_method 1)");
        break;
    case CRYPT_LUKS:
        for (size_t i = 0; luks != NULL && i < LUKS_SLOTS; i++) {
            active += luks->slots[i].active;
        }
        if (luks != NULL) {
            row(out, "encryption", "LUKS: %s, %s-%s, %s; %u of %d key slots in use; UUID %s",
                luks->cipher, luks->mode, luks->iv, luks->hash, active, LUKS_SLOTS, luks->uuid);
        } else {
            row(out, "encryption", "LUKS (crypt_method 2)");
        }
        break;
    default:
        row(out, "encryption", "unknown (crypt_method %" PRIu32 ")",
            inspection->header->crypt_method);
    }
}

static void print_state(const struct header *header, FILE *out)
{
    bool dirty = (header->incompatible_features & INCOMPATIBLE_DIRTY) != 0;
    bool corrupt = (header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0;

    if (header->version == 2) {
        row(out, "state", "not recorded (version 2 has no flags)");
        return;
    }
    row(out, "state", "%s%s%s%s", dirty ? "dirty: was not closed" : "",
        dirty && corrupt ? "; " : "", corrupt ? "corrupt" : "",
        dirty || corrupt ? "" : "not marked dirty or corrupt");
}

static void print_geometry(const struct inspection *inspection, FILE *out)
{
    const struct header *header = inspection->header;
    const char *compression = compression_type_name(header->compression_type);
    char text[SIZE_TEXT_MAX];

    if (inspect_has_geometry(inspection)) {
        size_row(out, "cluster size", header->cluster_size);
    }
    if (header->extended_l2) {
        row(out, "extended L2", "yes, subclusters of %s",
            size_format(UINT64_C(1) << header->subcluster_bits, text));
    }
    row(out, "compression", "%s", compression != NULL ? compression : "unknown");
    if (header->refcount_order <= REFCOUNT_ORDER_MAX) {
        row(out, "refcounts", "%u bits%s", 1U << header->refcount_order,
            (header->compatible_features & COMPATIBLE_LAZY_REFCOUNTS) != 0 ? ", lazy" : "");
    }
    print_encryption(inspection, out);
    print_state(header, out);
}

static void print_files(const struct inspection *inspection, FILE *out)
{
    const struct header *header = inspection->header;
    char text[SIZE_TEXT_MAX];

    if (header->external_data_file) {
        row(out, "data file", "%s", header->data_file != NULL ? header->data_file : "not named");
        row(out, "data file is raw", "%s",
            yes_or_no((header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0));
    }
    if (inspection->data_file_found) {
        row(out, "data file path", "%s (%s on disk)", inspection->data_file_path,
            size_format(inspection->data_file_info.allocated, text));
    }
    if (header->backing_file != NULL) {
        row(out, "backing file", "%s", header->backing_file);
        if (inspection->backing_path != NULL &&
            strcmp(inspection->backing_path, header->backing_file) != 0) {
            row(out, "backing file path", "%s", inspection->backing_path);
        }
        row(out, "backing format", "%s",
            header->backing_format != NULL ? header->backing_format : "not recorded");
    }
}

/* --- Lists --------------------------------------------------------------------------- */

static void print_features(const struct inspection *inspection, FILE *out)
{
    if (inspection->feature_count > 0) {
        fputs("features:\n", out);
    }
    for (size_t i = 0; i < inspection->feature_count; i++) {
        const struct inspect_feature *feature = &inspection->features[i];

        printable_line(out, "    %-14s%s, bit %u%s", feature_type_name(feature->type),
                       feature->name[0] != '\0' ? feature->name : "unnamed", feature->bit,
                       feature->known ? "" : " (unknown)");
    }
}

static void print_extensions(const struct inspection *inspection, FILE *out)
{
    if (inspection->extension_count > 0) {
        fputs("header extensions:\n", out);
    }
    for (size_t i = 0; i < inspection->extension_count; i++) {
        const struct inspect_extension *extension = &inspection->extensions[i];
        const char *name = extension_name(extension->type);

        printable_line(out, "    0x%08" PRIx32 "    %-20s  %6" PRIu32 " bytes at offset %" PRIu64,
                       extension->type, name != NULL ? name : "(unknown)", extension->length,
                       extension->offset);
    }
    if (inspection->extensions_total > inspection->extension_count) {
        printable_line(out, "    and %zu more",
                       inspection->extensions_total - inspection->extension_count);
    }
}

/* "00:01:23.456" */
static void format_clock(uint64_t nsec, char text[32])
{
    uint64_t seconds = nsec / NSEC_PER_SEC;

    snprintf(text, 32, "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64, seconds / 3600,
             seconds / 60 % 60, seconds % 60, nsec % NSEC_PER_SEC / 1000000);
}

/* Of a long chain not all is listed. */
static void print_unlisted(const struct inspection *inspection, const char *what, size_t count,
                           FILE *out)
{
    if (count > 0) {
        printable_line(out, "%s: %zu more, which are not listed here; see qcow2ctl info %s", what,
                       count, inspection->path);
    }
}

void info_text_snapshots(const struct snapshot_table *table, const char *indent, FILE *out)
{
    if (table->count == 0) {
        return;
    }
    fprintf(out, "%s%-6s%-21s%12s%12s  %-15s%s\n", indent, "ID", "DATE", "VM STATE", "DISK",
            "VM CLOCK", "NAME");
    for (size_t i = 0; i < table->count; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        time_t when = snapshot->date_sec;
        char date[64] = "?", clock[32], state[SIZE_TEXT_MAX], disk[SIZE_TEXT_MAX];
        struct tm parts;

        if (localtime_r(&when, &parts) != NULL) {
            strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &parts);
        }
        format_clock(snapshot->vm_clock_nsec, clock);
        printable_line(out, "%s%-6s%-21s%12s%12s  %-15s%s", indent, snapshot->id, date,
                       size_format(snapshot->vm_state_size, state),
                       size_format(snapshot->disk_size, disk), clock, snapshot->name);
    }
}

static void print_snapshots(const struct inspection *inspection, FILE *out)
{
    if (inspection->snapshots != NULL && inspection->snapshots->count > 0) {
        fputs("snapshots:\n", out);
        info_text_snapshots(inspection->snapshots, "    ", out);
    }
}

static void print_bitmaps(const struct inspection *inspection, FILE *out)
{
    const struct bitmap_directory *directory = inspection->bitmaps;

    if (directory == NULL || directory->count == 0) {
        return;
    }
    fprintf(out, "bitmaps:\n    %-14s%-18s%s\n", "GRANULARITY", "FLAGS", "NAME");
    for (size_t i = 0; i < directory->count; i++) {
        const struct bitmap *bitmap = &directory->bitmaps[i];
        bool in_use = (bitmap->flags & BITMAP_FLAG_IN_USE) != 0;
        bool is_auto = (bitmap->flags & BITMAP_FLAG_AUTO) != 0;
        char size[SIZE_TEXT_MAX], flags[32];

        snprintf(flags, sizeof(flags), "%s%s%s", in_use ? "in-use" : "",
                 in_use && is_auto ? ", " : "", is_auto ? "auto" : "");
        printable_line(out, "    %-14s%-18s%s", size_format(bitmap->granularity, size), flags,
                       bitmap->name);
    }
}

static void print_cache(const struct inspection *inspection, FILE *out)
{
    struct info_cache sizes;
    char full[SIZE_TEXT_MAX], unasked[SIZE_TEXT_MAX], covers[SIZE_TEXT_MAX];

    if (!info_cache_sizes(inspection, &sizes)) {
        return;
    }
    fputs("cache sizes:\n", out);
    printable_line(out,
                   "    l2-cache-size=%" PRIu64
                   " (%s) covers the whole disk; unasked it is %s, for %s of it",
                   sizes.l2_full, size_format(sizes.l2_full, full),
                   size_format(sizes.l2_default, unasked), size_format(sizes.l2_covers, covers));
    printable_line(
        out,
        "    refcount-cache-size=%" PRIu64 " (%s) covers the whole file; unasked it is %s, for %s "
        "of it",
        sizes.refcount_full, size_format(sizes.refcount_full, full),
        size_format(sizes.refcount_default, unasked), size_format(sizes.refcount_covers, covers));
}

static void print_fragmentation(const struct info_fragmentation *fragmentation, FILE *out)
{
    const struct check_result *clusters = &fragmentation->clusters;
    double total = clusters->total_clusters > 0 ? (double)clusters->total_clusters : 1;
    double allocated = clusters->allocated_clusters > 0 ? (double)clusters->allocated_clusters : 1;

    fputs("fragmentation:\n", out);
    printable_line(out, "    allocated     %" PRIu64 " of %" PRIu64 " clusters (%.2f %%)",
                   clusters->allocated_clusters, clusters->total_clusters,
                   100.0 * (double)clusters->allocated_clusters / total);
    printable_line(out, "    compressed    %" PRIu64 " of these (%.2f %%)",
                   clusters->compressed_clusters,
                   100.0 * (double)clusters->compressed_clusters / allocated);
    printable_line(out, "    fragmented    %" PRIu64 " of these (%.2f %%)",
                   clusters->fragmented_clusters,
                   100.0 * (double)clusters->fragmented_clusters / allocated);
    printable_line(out, "    image end     offset %" PRIu64, clusters->image_end_offset);
    printable_line(out, "    host file     %" PRIu64 " pieces of data between holes",
                   fragmentation->host_extents);
}

/* --- Findings ------------------------------------------------------------------------ */

static void print_problems(const struct inspection *inspection, FILE *out)
{
    if (inspection->problem_count > 0) {
        fputs("problems:\n", out);
    }
    for (size_t i = 0; i < inspection->problem_count; i++) {
        printable_line(out, "    %s", inspection->problems[i].text);
    }
}

static void print_audit(const struct inspection *inspection, const struct audit *audit, FILE *out)
{
    size_t counts[AUDIT_DANGER + 1] = {0};

    for (size_t i = 0; i < audit->count; i++) {
        counts[audit->findings[i].grade]++;
    }
    fprintf(out, "audit: %zu danger, %zu warning, %zu note\n", counts[AUDIT_DANGER],
            counts[AUDIT_WARNING], counts[AUDIT_NOTE]);
    for (size_t i = 0; i < audit->count; i++) {
        const struct audit_finding *finding = &audit->findings[i];
        bool is_behind = strcmp(finding->file, inspection->path) != 0;
        char offset[48] = "";

        if (finding->has_offset) {
            snprintf(offset, sizeof(offset), ", at offset 0x%" PRIx64, finding->offset);
        }
        printable_line(out, "    %-8s %s%s", audit_grade_name(finding->grade), finding->code,
                       offset);
        printable_line(out, "             %s%s%s", is_behind ? finding->file : "",
                       is_behind ? ": " : "", finding->text);
    }
}

/* --- All of it ----------------------------------------------------------------------- */

static void print_chain(const struct inspection *inspection, FILE *out)
{
    unsigned number = 0;

    if (inspection->backing != NULL) {
        fputs("backing chain:\n", out);
    }
    for (inspection = inspection->backing; inspection != NULL; inspection = inspection->backing) {
        char text[SIZE_TEXT_MAX];

        printable_line(out, "    %-4u%-7s%-10s%s", ++number,
                       inspection->format == IMAGE_QCOW2 ? "qcow2" : "raw",
                       size_format(inspection->virtual_size, text), inspection->path);
    }
}

static void print_qcow2(const struct inspection *inspection, FILE *out)
{
    print_geometry(inspection, out);
    print_files(inspection, out);
    print_features(inspection, out);
    print_extensions(inspection, out);
    print_snapshots(inspection, out);
    print_unlisted(inspection, "snapshots", inspection->snapshots_unlisted, out);
    print_bitmaps(inspection, out);
    print_unlisted(inspection, "bitmaps", inspection->bitmaps_unlisted, out);
    print_cache(inspection, out);
}

void info_text(const struct inspection *inspection, const struct info_extras *extras, bool is_top,
               FILE *out)
{
    bool is_qcow2 = inspection->format == IMAGE_QCOW2;
    bool is_known = is_qcow2 && !inspect_part_failed(inspection, HEADER_PART_START);

    row(out, "image", "%s", inspection->path);
    if (is_known) {
        row(out, "format", "qcow2, version %" PRIu32 " (compat %s)", inspection->header->version,
            inspection->header->version == 2 ? "0.10" : "1.1");
    } else {
        row(out, "format", "%s", is_qcow2 ? "qcow2" : "raw");
    }
    if (is_known || !is_qcow2) {
        size_row(out, "virtual size", inspection->virtual_size);
    }
    size_row(out, "disk size", inspection->info.allocated);
    size_row(out, "file length", inspection->info.size);
    if (is_known) {
        print_qcow2(inspection, out);
    }
    if (extras != NULL && extras->fragmentation != NULL) {
        print_fragmentation(extras->fragmentation, out);
    }
    if (is_top) {
        print_chain(inspection, out);
    }
    if (extras != NULL && extras->audit != NULL) {
        print_audit(inspection, extras->audit, out);
    } else {
        print_problems(inspection, out);
    }
}
