/* SPDX-License-Identifier: MIT */
/* The checker against qemu-img check: the same verdicts, and repairs that it finds nothing in. */
#include "config.h"

#include "check/check.h"
#include "meta/format.h"
#include "scratch.h"
#include "store/file.h"
#include "suite.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE "a.qcow2"

static const struct store_file_options writing = {.access = STORE_WRITE};

/* --- Programs ---------------------------------------------------------------------- */

/* Where every test must run (CI), they fail without the programs. */
static bool have_qemu(void)
{
    return getenv("CI") != NULL ||
           system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1") == 0;
}

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    strcat(command, " >run.log 2>&1");
    return system(command);
}

#define RUN(...) ck_assert_int_eq(run(__VA_ARGS__), 0)

struct verdict {
    int status; /* 0 clean, 2 errors, 3 leaks */
    uint64_t unreadable, errors, leaks, total, allocated, compressed, fragmented, end;
};

static uint64_t json_number(const char *json, const char *key)
{
    char quoted[64];
    const char *at;

    snprintf(quoted, sizeof(quoted), "\"%s\": ", key);
    at = strstr(json, quoted);
    return at == NULL ? 0 : strtoull(at + strlen(quoted), NULL, 10);
}

static struct verdict qemu_check(void)
{
    static const size_t room = 8192;
    struct verdict verdict;
    char *json = calloc(1, room);
    int status = system("qemu-img check --output=json " IMAGE " >check.json 2>check.log");
    FILE *file = fopen("check.json", "re");

    ck_assert(json != NULL && file != NULL && WIFEXITED(status));
    ck_assert_uint_gt(fread(json, 1, room - 1, file), 0);
    fclose(file);
    verdict = (struct verdict){
        .status = WEXITSTATUS(status),
        .unreadable = json_number(json, "check-errors"),
        .errors = json_number(json, "corruptions"),
        .leaks = json_number(json, "leaks"),
        .total = json_number(json, "total-clusters"),
        .allocated = json_number(json, "allocated-clusters"),
        .compressed = json_number(json, "compressed-clusters"),
        .fragmented = json_number(json, "fragmented-clusters"),
        .end = json_number(json, "image-end-offset"),
    };
    free(json);
    return verdict;
}

/* --- Our own ----------------------------------------------------------------------- */

static struct header *open_header(struct store *store)
{
    struct header *header;
    struct store_info info;
    struct error error = {0};

    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_msg(header_read(store, info.size, IMAGE, &header, &error) == 0, "%s", error.text);
    return header;
}

/* Checks, and clears the dirty bit where the result allows it. */
static struct check_result our_check(bool leaks, bool errors)
{
    const struct check_options options = {.repair_leaks = leaks, .repair_errors = errors};
    struct check_result result;
    struct error error = {0};
    struct store *store;
    struct header *header;

    ck_assert_msg(store_file_open(IMAGE, "image", &writing, &store, &error) == 0, "%s", error.text);
    header = open_header(store);
    ck_assert_msg(check_image(header, store, IMAGE, &options, &result, &error) == 0, "%s",
                  error.text);
    if (errors && check_is_clean(&result)) {
        ck_assert_int_eq(check_clear_dirty(header, store, IMAGE, &error), 0);
    }
    header_free(header);
    store_close(store);
    return result;
}

static void expect_same_verdict(const char *what)
{
    struct verdict theirs = qemu_check();
    struct check_result ours = our_check(false, false);

    ck_assert_msg(ours.unreadable == theirs.unreadable, "%s: unreadable", what);
    ck_assert_msg(ours.errors == theirs.errors, "%s: %" PRIu64 " errors, qemu-img: %" PRIu64, what,
                  ours.errors, theirs.errors);
    ck_assert_msg(ours.leaks == theirs.leaks, "%s: %" PRIu64 " leaks, qemu-img: %" PRIu64, what,
                  ours.leaks, theirs.leaks);
    ck_assert_msg(ours.total_clusters == theirs.total, "%s: total", what);
    ck_assert_msg(ours.allocated_clusters == theirs.allocated, "%s: allocated", what);
    ck_assert_msg(ours.compressed_clusters == theirs.compressed, "%s: compressed", what);
    ck_assert_msg(ours.fragmented_clusters == theirs.fragmented, "%s: fragmented", what);
    ck_assert_msg(ours.image_end_offset == theirs.end, "%s: end %" PRIu64 ", qemu-img: %" PRIu64,
                  what, ours.image_end_offset, theirs.end);
}

/* --- Images ------------------------------------------------------------------------ */

struct layout {
    const char *options; /* of qemu-img create -o */
    const char *size;
    const char *writes; /* of qemu-io */
    bool snapshots, bitmaps;
};

#define WRITES     "-c 'write -P 1 0 300k' -c 'write -P 2 900k 64k' -c 'write -z 128k 64k' "
#define COMPRESSED WRITES "-c 'write -c -P 3 512k 64k' -c 'write -c -P 4 576k 64k' "

static const struct layout layouts[] = {
    {"cluster_size=512", "1M", WRITES, true, false},
    {"cluster_size=512,refcount_bits=64", "1M", WRITES, false, false},
    {"cluster_size=4k", "2M", WRITES, true, true},
    {"cluster_size=64k", "1G", COMPRESSED, true, true},
    {"cluster_size=2M", "1G", WRITES, true, false},
    {"compat=0.10", "16M", WRITES, true, false},
    {"refcount_bits=1", "16M", WRITES, false, false},
    {"refcount_bits=2,cluster_size=1k", "4M", WRITES, true, false},
    {"refcount_bits=4", "16M", COMPRESSED, true, false},
    {"refcount_bits=8", "16M", COMPRESSED, true, false},
    {"refcount_bits=32,cluster_size=1k", "4M", WRITES, true, false},
    {"refcount_bits=64", "16M", COMPRESSED, true, true},
    {"extended_l2=on", "64M", COMPRESSED, true, false},
    {"extended_l2=on,cluster_size=16k", "64M", "-c 'write -P 1 4k 2k' -c 'write -z 8k 1k' ", true,
     true},
    {"data_file=a.data", "16M", WRITES "-c 'write -z 0 64k' ", false, false},
    {"preallocation=metadata,lazy_refcounts=on", "64M", WRITES, false, false},
    {"preallocation=falloc,cluster_size=1k", "1M", WRITES, true, false},
};

#define LAYOUTS ((int)(sizeof(layouts) / sizeof(layouts[0])))

static void make_image(const struct layout *layout)
{
    RUN("qemu-img create -f qcow2 -o %s base.qcow2 %s", layout->options, layout->size);
    RUN("qemu-io -f qcow2 %s base.qcow2", layout->writes);
    if (layout->snapshots) {
        RUN("qemu-img snapshot -c first base.qcow2");
        RUN("qemu-io -f qcow2 -c 'write -P 7 64k 100k' -c 'discard 900k 64k' base.qcow2");
        RUN("qemu-img snapshot -c second base.qcow2");
        RUN("qemu-io -f qcow2 -c 'write -P 8 96k 10k' base.qcow2");
    }
    if (layout->bitmaps) {
        RUN("qemu-img bitmap --add base.qcow2 one");
        RUN("qemu-img bitmap --add -g 512 base.qcow2 two");
        RUN("qemu-io -f qcow2 -c 'write -P 9 200k 10k' base.qcow2");
    }
    RUN("qemu-img convert -O raw base.qcow2 before.raw");
    if (layout->snapshots) {
        RUN("qemu-img convert -l first -O raw base.qcow2 first.raw");
    }
}

/* A repair gives most images back to the byte, and with that the verdict that there was on them. */
static bool is_the_sound_one(void)
{
    return run("cmp -s base.qcow2 " IMAGE) == 0;
}

static void expect_same_content(const struct layout *layout, const char *what)
{
    ck_assert_msg(run("qemu-img compare -f qcow2 -F raw " IMAGE " before.raw") == 0, "%s", what);
    if (layout->snapshots) {
        ck_assert_msg(run("qemu-img convert -l first -O raw " IMAGE " after.raw") == 0, "%s", what);
        ck_assert_msg(run("cmp first.raw after.raw") == 0, "%s", what);
    }
}

/* --- Damages ----------------------------------------------------------------------- */

/* The image while single bytes of it are changed. */
struct patient {
    int fd;
    uint64_t cluster_size, size;
    uint64_t table, table_bytes; /* refcount table */
    uint64_t l1;
    uint32_t l1_entries, l2_entry_bytes;
    unsigned random;
};

static uint64_t get(const struct patient *patient, uint64_t offset)
{
    uint8_t raw[8];

    ck_assert_int_eq(pread(patient->fd, raw, 8, (off_t)offset), 8);
    return load_be64(raw);
}

static void put(const struct patient *patient, uint64_t offset, uint64_t value)
{
    uint8_t raw[8];

    store_be64(raw, value);
    ck_assert_int_eq(pwrite(patient->fd, raw, 8, (off_t)offset), 8);
}

static void open_patient(struct patient *patient)
{
    struct error error = {0};
    struct store *store;
    struct header *header;
    struct stat status;

    ck_assert_int_eq(store_file_open(IMAGE, "image", &writing, &store, &error), 0);
    header = open_header(store);
    *patient = (struct patient){
        .fd = open(IMAGE, O_RDWR | O_CLOEXEC),
        .cluster_size = header->cluster_size,
        .table = header->refcount_table_offset,
        .table_bytes = header->refcount_table_clusters * header->cluster_size,
        .l1 = header->l1_offset,
        .l1_entries = header->l1_entries,
        .l2_entry_bytes = header->l2_entry_bytes,
        .random = 1,
    };
    header_free(header);
    store_close(store);
    ck_assert_int_eq(fstat(patient->fd, &status), 0);
    patient->size = (uint64_t)status.st_size;
}

static uint8_t zeroed(struct patient *patient, uint8_t byte)
{
    (void)patient;
    (void)byte;
    return 0;
}

static uint8_t randomised(struct patient *patient, uint8_t byte)
{
    (void)byte;
    return (uint8_t)rand_r(&patient->random);
}

/* Some higher, some lower, most as they were. */
static uint8_t nudged(struct patient *patient, uint8_t byte)
{
    unsigned random = (unsigned)rand_r(&patient->random) >> 8;

    return random % 16 == 0 ? (uint8_t)(byte ^ (random >> 4)) : byte;
}

static uint8_t raised(struct patient *patient, uint8_t byte)
{
    (void)patient;
    return (uint8_t)(byte | 0x0f);
}

static void change_blocks(struct patient *patient, uint8_t (*change)(struct patient *, uint8_t))
{
    uint8_t *block = malloc(patient->cluster_size);

    for (uint64_t at = 0; at < patient->table_bytes; at += 8) {
        uint64_t offset = get(patient, patient->table + at);
        ssize_t length;

        if (offset == 0) {
            continue;
        }
        length = pread(patient->fd, block, patient->cluster_size, (off_t)offset);
        for (ssize_t i = 0; i < length; i++) {
            block[i] = change(patient, block[i]);
        }
        ck_assert_int_eq(pwrite(patient->fd, block, (size_t)length, (off_t)offset), length);
    }
    free(block);
}

static void zero_counts(struct patient *patient)
{
    change_blocks(patient, zeroed);
}

static void randomise_counts(struct patient *patient)
{
    change_blocks(patient, randomised);
}

static void nudge_counts(struct patient *patient)
{
    change_blocks(patient, nudged);
}

static void raise_counts(struct patient *patient)
{
    change_blocks(patient, raised);
}

static void flip_copied(struct patient *patient)
{
    for (uint64_t i = 0; i < patient->l1_entries; i++) {
        uint64_t entry = get(patient, patient->l1 + i * 8), table = l1_entry_table(entry);

        if (table == 0) {
            continue;
        }
        for (uint64_t at = 0; at < patient->cluster_size; at += patient->l2_entry_bytes) {
            uint64_t l2_entry = get(patient, table + at);

            if (l2_entry_host_offset(l2_entry) != 0 && !l2_entry_is_compressed(l2_entry) &&
                rand_r(&patient->random) % 2 == 0) {
                put(patient, table + at, l2_entry ^ ENTRY_COPIED);
            }
        }
        put(patient, patient->l1 + i * 8, entry ^ ENTRY_COPIED);
    }
}

static void mark_dirty(struct patient *patient)
{
    uint64_t features;

    nudge_counts(patient);
    if ((get(patient, 0) & UINT32_MAX) < 3) {
        return; /* version 2 */
    }
    features = get(patient, HEADER_INCOMPATIBLE_FEATURES);
    put(patient, HEADER_INCOMPATIBLE_FEATURES, features | INCOMPATIBLE_DIRTY);
}

static void lose_a_block(struct patient *patient)
{
    put(patient, patient->table, 0);
}

static void reserved_bits_in_the_table(struct patient *patient)
{
    put(patient, patient->table, get(patient, patient->table) | 0x10);
}

static void block_on_l1_table(struct patient *patient)
{
    put(patient, patient->table, patient->l1);
}

static void block_twice(struct patient *patient)
{
    put(patient, patient->table + 8, get(patient, patient->table));
}

static void table_of_garbage(struct patient *patient)
{
    nudge_counts(patient);
    put(patient, patient->table + 8, UINT64_C(0x4141414141414141));
}

static void block_past_the_end(struct patient *patient)
{
    uint64_t end = (patient->size / patient->cluster_size + 5) * patient->cluster_size;

    put(patient, patient->table + patient->table_bytes - 8, end);
}

static void damage(void (*how)(struct patient *))
{
    struct patient patient;

    RUN("cp base.qcow2 " IMAGE);
    open_patient(&patient);
    how(&patient);
    ck_assert_int_eq(close(patient.fd), 0);
}

static const struct {
    const char *what;
    void (*how)(struct patient *patient);
    bool other_verdict; /* qemu-img counts this another way, but must see it */
} damages[] = {
    {"zero counts", zero_counts, false},
    {"random counts", randomise_counts, false},
    {"nudged counts", nudge_counts, false},
    {"raised counts", raise_counts, false},
    {"flipped COPIED bits", flip_copied, false},
    {"dirty", mark_dirty, false},
    {"no first block", lose_a_block, false},
    {"reserved bits", reserved_bits_in_the_table, true},
    {"block on the L1 table", block_on_l1_table, true},
    {"block twice", block_twice, false},
    {"garbage in the table", table_of_garbage, true},
    {"block past the end", block_past_the_end, true},
};

#define DAMAGES (sizeof(damages) / sizeof(damages[0]))

/* --- What is tested of an image ---------------------------------------------------- */

static void is_found_in_order(const struct layout *layout)
{
    RUN("cp base.qcow2 " IMAGE);
    expect_same_verdict(layout->options);
    ck_assert_int_eq(qemu_check().status, 0);
}

static void is_repaired(const struct layout *layout)
{
    for (size_t i = 0; i < DAMAGES; i++) {
        struct check_result result;
        char what[128];

        snprintf(what, sizeof(what), "%s, %s", layout->options, damages[i].what);
        damage(damages[i].how);
        if (!damages[i].other_verdict) {
            expect_same_verdict(what);
        } else {
            ck_assert_msg(our_check(false, false).errors > 0 && qemu_check().status != 0, "%s",
                          what);
        }
        result = our_check(true, true);
        ck_assert_msg(check_is_clean(&result) && result.leaks == result.fixed_leaks,
                      "%s: %" PRIu64 " of %" PRIu64 " errors, %" PRIu64 " of %" PRIu64 " leaks",
                      what, result.fixed_errors, result.errors, result.fixed_leaks, result.leaks);
        if (!is_the_sound_one()) {
            expect_same_verdict(what);
            expect_same_content(layout, what);
        }
        result = our_check(false, false);
        ck_assert_msg(check_is_clean(&result) && result.leaks == 0, "%s: something is left", what);
    }
}

static void has_its_leaks_alone_repaired(const struct layout *layout)
{
    struct check_result result;

    damage(raise_counts);
    result = our_check(true, false);
    ck_assert_uint_eq(result.fixed_leaks, result.leaks);
    ck_assert_uint_eq(result.fixed_errors, 0);
    ck_assert_uint_eq(our_check(false, false).leaks, 0);
    ck_assert_uint_eq(qemu_check().leaks, 0);
    expect_same_content(layout, "leaks");
}

static void has_its_errors_alone_repaired(const struct layout *layout)
{
    struct check_result result;

    damage(nudge_counts);
    result = our_check(false, true);
    ck_assert_uint_eq(result.fixed_errors, result.errors);
    ck_assert_uint_eq(result.fixed_leaks, 0);
    ck_assert_uint_eq(our_check(false, false).errors, 0);
    expect_same_verdict("leaks are left");
    expect_same_content(layout, "errors");
}

/* --- Tests ------------------------------------------------------------------------- */

/* They are slow to make, so that one of a layout serves them all. */
START_TEST(images_of_qemu_get_its_verdict_damaged_or_not_and_are_repaired)
{
    const struct layout *layout = &layouts[_i];

    make_image(layout);
    is_found_in_order(layout);
    is_repaired(layout);
    has_its_leaks_alone_repaired(layout);
    has_its_errors_alone_repaired(layout);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("check-qemu");
    TCase *tcase = tcase_create("check-qemu");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_set_timeout(tcase, 300);
    if (have_qemu()) {
        tcase_add_loop_test(tcase, images_of_qemu_get_its_verdict_damaged_or_not_and_are_repaired,
                            0, LAYOUTS);
    }
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
