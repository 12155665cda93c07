/* SPDX-License-Identifier: MIT */
/* Chains of files in a directory of their own, opened and refused. */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "disk/image.h"
#include "disk/view.h"
#include "meta/format.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK 8192 /* bytes of each disk */

static struct builder_options options_for(const char *backing_file, const char *backing_format)
{
    struct builder_options options = builder_defaults();

    options.cluster_bits = 12;
    options.virtual_size = DISK;
    options.backing_file = backing_file;
    options.backing_format = backing_format;
    return options;
}

/* Writes an image whose first cluster begins with the text, or that has nothing of its own. */
static void make(const char *path, const char *text, const char *backing_file,
                 const char *backing_format)
{
    struct builder_options options = options_for(backing_file, backing_format);
    struct builder *builder = builder_create(&options);

    if (text != NULL) {
        builder_data(builder, 0, text, strlen(text));
    }
    builder_file(builder, path);
    builder_destroy(builder);
}

static void make_raw(const char *path, const char *text)
{
    uint8_t bytes[DISK] = {0};

    memcpy(bytes, text, strlen(text));
    scratch_file(path, bytes, sizeof(bytes));
}

static const struct image_options plain = {.access = STORE_READ};
static const struct image_options probed_allowed = {.access = STORE_READ, .allow_probed = true};

static struct image *open_with(const char *path, const struct image_options *options)
{
    struct error error = {0};
    struct image *image;
    int result = image_open(path, options, NULL, &image, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    return image;
}

static size_t chain_length(const struct image *image)
{
    size_t length = 0;

    for (; image != NULL; image = image->backing) {
        ck_assert_uint_eq(image->number, length);
        length++;
    }
    return length;
}

/* Opens the chain, reads the beginning of the disk, closes it. */
static void expect_reads(const char *path, const struct image_options *options, size_t length,
                         const char *text)
{
    struct image *image = open_with(path, options);
    const struct cache_options cache = {0};
    struct error error = {0};
    char buffer[32] = "";
    struct view *view;

    ck_assert_uint_eq(chain_length(image), length);
    ck_assert_int_eq(image_attach_cache(image, &cache, &error), 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    ck_assert_int_eq(view_read(view, 0, buffer, strlen(text) + 1), 0);
    ck_assert_str_eq(buffer, text);
    view_close(view);
    image_close(image);
}

/* The sentence must begin with `name` and hold each text. */
static void expect_refused(const char *path, const struct image_options *options, int code,
                           const char *name, const char *text, const char *other)
{
    struct error error = {0};
    struct image *image;

    ck_assert_int_eq(image_open(path, options, NULL, &image, &error), -code);
    ck_assert_ptr_null(image);
    ck_assert_int_eq(error.code, code);
    ck_assert_msg(strncmp(error.text, name, strlen(name)) == 0, "%s", error.text);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s: no '%s'", error.text, text);
    ck_assert_msg(strstr(error.text, other) != NULL, "%s: no '%s'", error.text, other);
}

/* --- One image ---------------------------------------------------------------------------- */

START_TEST(an_image_without_a_backing_file_is_opened)
{
    struct image *image;
    uint64_t allocated;

    make("a.qcow2", "alone", NULL, NULL);
    expect_reads("a.qcow2", &plain, 1, "alone");
    image = open_with("./a.qcow2", &plain);
    ck_assert_str_eq(image->path, "./a.qcow2");
    ck_assert_uint_eq(image->virtual_size, DISK);
    ck_assert_ptr_eq(image->data_file, image->file);
    ck_assert_int_eq(image_allocated(image, &allocated), 0);
    ck_assert_uint_gt(allocated, 0);
    image_close(image);
    image_close(NULL);
}
END_TEST

START_TEST(what_is_no_qcow2_image_is_named)
{
    make_raw("a.vmdk", "KDMV");
    expect_refused("a.vmdk", &plain, EINVAL, "a.vmdk: ", "a VMDK image", "qemu-img convert");
    make_raw("a.gz", "\x1f\x8b");
    expect_refused("a.gz", &plain, EINVAL, "a.gz: ", "gzip", "check the file name");
    make_raw("fs.raw", "hsqs");
    expect_refused("fs.raw", &plain, EINVAL, "fs.raw: ", "squashfs", "needs no qcow2fs");
    make_raw("short", "QFI\xfb");
    ck_assert_int_eq(truncate("short", 40), 0);
    expect_refused("short", &plain, EINVAL, "short: ", "too short", "40 bytes");
    expect_refused("missing", &plain, ENOENT, "missing: ", "image", "");
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    expect_refused("dir", &plain, EISDIR, "dir: ", "directory", "");
}
END_TEST

START_TEST(a_corrupt_mark_and_a_cut_off_end_are_warned_of)
{
    struct builder_options options = options_for(NULL, NULL);
    struct builder *builder;
    struct log_lines lines;
    struct error error = {0};
    struct image *image;

    options.incompatible_features = INCOMPATIBLE_CORRUPT;
    options.more_l1_entries = 1;
    builder = builder_create(&options);
    builder_set_l1_entry(builder, 1, 0x7fff0000);
    builder_file(builder, "a.qcow2");
    builder_destroy(builder);
    log_lines_init(&lines);
    ck_assert_int_eq(image_open("a.qcow2", &plain, &lines.log, &image, &error), 0);
    ck_assert_ptr_nonnull(strstr(lines.text, "a.qcow2: is marked corrupt"));
    ck_assert_ptr_nonnull(strstr(lines.text, "a.qcow2: was cut off"));
    image_close(image);
    log_release(&lines.log);
}
END_TEST

/* `_i`: which 128 bytes. Whatever one bit of them says, opening and reading end, and leave nothing
 * behind. */
START_TEST(no_flipped_bit_of_header_and_tables_is_a_danger)
{
    struct builder_options options = options_for(NULL, NULL);
    uint8_t cluster[512], buffer[4096];
    struct builder *builder;
    size_t size;
    uint8_t *bytes;

    options.cluster_bits = 9;
    builder = builder_create(&options);
    builder_pattern(cluster, sizeof(cluster), 1);
    builder_data(builder, 0, cluster, sizeof(cluster));
    builder_compressed(builder, 512, cluster, 0);
    builder_zero(builder, 1024, true);
    bytes = builder_finish(builder, &size);
    for (size_t bit = (size_t)_i * 1024; bit < ((size_t)_i + 1) * 1024; bit++) {
        struct log_lines lines;
        struct error error = {0};
        struct image *image;

        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        scratch_file("flipped", bytes, size);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        log_lines_init(&lines);
        if (image_open("flipped", &plain, &lines.log, &image, &error) == 0) {
            struct view *view;

            assemble_cache(image, 0);
            ck_assert_int_eq(view_open_active(image, &view), 0);
            (void)view_read(view, 0, buffer, sizeof(buffer));
            view_close(view);
            image_close(image);
        } else {
            ck_assert_int_eq(strncmp(error.text, "flipped: ", 9), 0);
        }
        log_release(&lines.log);
    }
    builder_destroy(builder);
}
END_TEST

/* --- Chains --------------------------------------------------------------------------------- */

START_TEST(backing_files_are_found_by_every_kind_of_name)
{
    char path[4096 + 32], directory[4096];

    ck_assert_ptr_nonnull(getcwd(directory, sizeof(directory)));
    ck_assert_int_eq(mkdir("sub", 0755), 0);
    make("sub/base.qcow2", "base", NULL, NULL);
    make("sub/relative.qcow2", NULL, "base.qcow2", "qcow2");
    expect_reads("sub/relative.qcow2", &plain, 2, "base");
    make("up.qcow2", NULL, "sub/../sub/base.qcow2", "qcow2");
    expect_reads("up.qcow2", &plain, 2, "base");
    make("sub/file.qcow2", NULL, "file:base.qcow2", "qcow2");
    expect_reads("sub/file.qcow2", &plain, 2, "base");
    snprintf(path, sizeof(path), "%s/sub/base.qcow2", directory);
    make("absolute.qcow2", NULL, path, "qcow2");
    expect_reads("absolute.qcow2", &plain, 2, "base");
    snprintf(path, sizeof(path), "file:%s/sub/base.qcow2", directory);
    make("absolute.qcow2", NULL, path, "qcow2");
    expect_reads("absolute.qcow2", &plain, 2, "base");
}
END_TEST

START_TEST(recorded_formats_are_believed)
{
    make_raw("base.raw", "raw bytes");
    make("a.qcow2", NULL, "base.raw", "raw");
    expect_reads("a.qcow2", &plain, 2, "raw bytes");
    make("b.qcow2", NULL, "base.raw", "file");
    expect_reads("b.qcow2", &plain, 2, "raw bytes");
    /* What a guest wrote into its raw disk is data, whatever it looks like. */
    make("inner.qcow2", "trap", NULL, NULL);
    make("c.qcow2", NULL, "inner.qcow2", "raw");
    expect_reads("c.qcow2", &plain, 2, "QFI\xfb");
    make("d.qcow2", NULL, "base.raw", "qcow2");
    expect_refused("d.qcow2", &plain, EINVAL, "base.raw: ", "not a qcow2 image", "backing_fmt=raw");
}
END_TEST

START_TEST(formats_that_cannot_be_read_are_refused_by_their_name)
{
    make_raw("base", "x");
    make("a.qcow2", NULL, "base", "vmdk");
    expect_refused("a.qcow2", &plain, ENOTSUP, "a.qcow2: ", "'vmdk'", "base");
}
END_TEST

START_TEST(a_backing_file_of_no_recorded_format_is_probed)
{
    make_raw("base.raw", "raw bytes");
    make("a.qcow2", NULL, "base.raw", NULL);
    expect_reads("a.qcow2", &plain, 2, "raw bytes");
    make("base.qcow2", "base", NULL, NULL);
    make("b.qcow2", NULL, "base.qcow2", NULL);
    expect_reads("b.qcow2", &plain, 2, "base");
    make_raw("base.vmdk", "KDMV");
    make("c.qcow2", NULL, "base.vmdk", NULL);
    expect_refused("c.qcow2", &plain, ENOTSUP, "c.qcow2: ", "base.vmdk", "a VMDK image");
    expect_refused("c.qcow2", &probed_allowed, ENOTSUP, "c.qcow2: ", "base.vmdk",
                   "backing_fmt=raw");
}
END_TEST

START_TEST(a_probed_backing_file_may_name_others_only_when_allowed)
{
    make_raw("secret", "secret");
    make("probed.qcow2", NULL, "secret", "raw");
    make("a.qcow2", NULL, "probed.qcow2", NULL);
    expect_refused("a.qcow2", &plain, EACCES, "probed.qcow2: ", "a backing file of its own",
                   "allow-probed-backing");
    expect_reads("a.qcow2", &probed_allowed, 3, "secret");
    make("b.qcow2", NULL, "probed.qcow2", "qcow2");
    expect_reads("b.qcow2", &plain, 3, "secret");
}
END_TEST

START_TEST(a_probed_backing_file_may_name_a_data_file_only_when_allowed)
{
    struct builder_options options = options_for(NULL, NULL);
    struct builder *builder;

    options.external_data_file = true;
    options.data_file = "secret";
    builder = builder_create(&options);
    builder_data(builder, 0, NULL, 0);
    builder_file(builder, "probed.qcow2");
    builder_destroy(builder);
    make_raw("secret", "secret");
    make("a.qcow2", NULL, "probed.qcow2", NULL);
    expect_refused("a.qcow2", &plain, EACCES, "probed.qcow2: ", "a data file of its own",
                   "allow-probed-backing");
    expect_reads("a.qcow2", &probed_allowed, 2, "secret");
}
END_TEST

START_TEST(names_of_no_files_are_refused)
{
    make("a.qcow2", NULL, "https://host/disk", "raw");
    expect_refused("a.qcow2", &plain, ENOTSUP, "a.qcow2: ", "'https://host/disk'", "'https:'");
    make("a.qcow2", NULL, "nbd://host/disk", "raw");
    expect_refused("a.qcow2", &plain, EACCES, "a.qcow2: ", "'nbd://host/disk'", "follow=all");
    make("a.qcow2", NULL, "json:{\"file\":{}}", "qcow2");
    expect_refused("a.qcow2", &plain, ENOTSUP, "a.qcow2: ", "json:", "");
}
END_TEST

START_TEST(a_backing_file_that_cannot_be_opened_is_named_with_its_overlay)
{
    make("a.qcow2", NULL, "missing", "qcow2");
    expect_refused("a.qcow2", &plain, ENOENT, "a.qcow2: ", "missing", "backing file");
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    make("a.qcow2", NULL, "dir", "raw");
    expect_refused("a.qcow2", &plain, EISDIR, "a.qcow2: ", "dir", "directory");
}
END_TEST

START_TEST(a_cycle_is_refused)
{
    make("self.qcow2", NULL, "self.qcow2", "qcow2");
    expect_refused("self.qcow2", &plain, ELOOP, "self.qcow2: ", "cycle", "that image again");
    make("a.qcow2", NULL, "b.qcow2", "qcow2");
    make("b.qcow2", NULL, "c.qcow2", "qcow2");
    make("c.qcow2", NULL, "link.qcow2", "qcow2");
    ck_assert_int_eq(symlink("a.qcow2", "link.qcow2"), 0);
    expect_refused("a.qcow2", &plain, ELOOP, "c.qcow2: ", "link.qcow2", "a.qcow2 again");
}
END_TEST

START_TEST(a_chain_of_300_is_opened_and_read)
{
    char name[32], backing[32];

    make("0.qcow2", "the last of 300", NULL, NULL);
    for (int i = 1; i < 300; i++) {
        snprintf(name, sizeof(name), "%d.qcow2", i);
        snprintf(backing, sizeof(backing), "%d.qcow2", i - 1);
        make(name, NULL, backing, "qcow2");
    }
    expect_reads("299.qcow2", &plain, 300, "the last of 300");
}
END_TEST

START_TEST(a_damaged_image_in_the_middle_closes_the_chain_again)
{
    make("a.qcow2", NULL, "b.qcow2", "qcow2");
    make("b.qcow2", NULL, "c.qcow2", "qcow2");
    make("c.qcow2", "c", NULL, NULL);
    ck_assert_int_eq(truncate("c.qcow2", 100), 0);
    expect_refused("a.qcow2", &plain, EINVAL, "c.qcow2: ", "", "");
    /* Nothing is left locked. */
    make("b.qcow2", "b", NULL, NULL);
    expect_reads("a.qcow2", &plain, 2, "b");
}
END_TEST

/* --- Data files ------------------------------------------------------------------------------- */

static void make_with_data_file(const char *path, const char *data_file)
{
    struct builder_options options = options_for(NULL, NULL);
    struct builder *builder;

    options.external_data_file = true;
    options.data_file = data_file;
    builder = builder_create(&options);
    builder_data(builder, 0, NULL, 0);
    builder_file(builder, path);
    builder_destroy(builder);
}

START_TEST(a_data_file_is_found_beside_the_image)
{
    struct image *image;

    ck_assert_int_eq(mkdir("sub", 0755), 0);
    make_with_data_file("sub/a.qcow2", "a.raw");
    make_raw("sub/a.raw", "the data");
    expect_reads("sub/a.qcow2", &plain, 1, "the data");
    image = open_with("sub/a.qcow2", &plain);
    ck_assert_str_eq(image->data_file_path, "sub/a.raw");
    ck_assert_ptr_ne(image->data_file, image->file);
    image_close(image);
}
END_TEST

START_TEST(a_data_file_in_the_current_directory_alone_is_taken)
{
    ck_assert_int_eq(mkdir("sub", 0755), 0);
    make_with_data_file("sub/a.qcow2", "a.raw");
    make_raw("a.raw", "here");
    expect_reads("sub/a.qcow2", &plain, 1, "here");
    make_raw("sub/a.raw", "there");
    expect_refused("sub/a.qcow2", &plain, EINVAL, "sub/a.qcow2: ", "sub/a.raw or ./a.raw",
                   "two different files");
}
END_TEST

START_TEST(a_missing_or_unnamed_data_file_is_refused)
{
    make_with_data_file("a.qcow2", "missing.raw");
    expect_refused("a.qcow2", &plain, ENOENT, "a.qcow2: ", "missing.raw", "data file");
    make_with_data_file("b.qcow2", NULL);
    expect_refused("b.qcow2", &plain, EINVAL, "b.qcow2: ", "does not name it", "data-file=");
}
END_TEST

START_TEST(a_data_file_given_by_the_user_counts_before_the_recorded_one)
{
    const struct image_options options = {.access = STORE_READ, .data_file = "other.raw"};

    make_with_data_file("a.qcow2", "a.raw");
    make_with_data_file("b.qcow2", NULL);
    make_raw("a.raw", "recorded");
    make_raw("other.raw", "given");
    expect_reads("a.qcow2", &options, 1, "given");
    expect_reads("b.qcow2", &options, 1, "given");
    /* It is the active image's alone. */
    make("over.qcow2", NULL, "a.qcow2", "qcow2");
    expect_reads("over.qcow2", &options, 2, "recorded");
}
END_TEST

START_TEST(a_data_file_that_is_too_short_is_warned_of_and_reads_as_zeros)
{
    struct log_lines lines;
    struct error error = {0};
    struct image *image;
    char buffer[8] = "xxxxxxx";
    struct view *view;

    make_with_data_file("a.qcow2", "a.raw");
    scratch_file("a.raw", "abc", 3);
    log_lines_init(&lines);
    ck_assert_int_eq(image_open("a.qcow2", &plain, &lines.log, &image, &error), 0);
    ck_assert_ptr_nonnull(strstr(lines.text, "a.raw has 3 bytes"));
    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    ck_assert_int_eq(view_read(view, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, "abc\0\0\0\0\0", 8);
    view_close(view);
    image_close(image);
    log_release(&lines.log);
}
END_TEST

/* --- The cache -----------------------------------------------------------------------------------
 */

START_TEST(every_image_of_the_chain_gets_the_one_cache)
{
    const struct cache_options options = {.data_size = {true, 1 << 20}};
    struct error error = {0};
    struct image *image;

    make_raw("base.raw", "x");
    make("mid.qcow2", NULL, "base.raw", "raw");
    make("a.qcow2", NULL, "mid.qcow2", "qcow2");
    image = open_with("a.qcow2", &plain);
    ck_assert_int_eq(image_attach_cache(image, &options, &error), 0);
    ck_assert_ptr_nonnull(image->cache);
    ck_assert_ptr_eq(image->backing->cache, image->cache);
    ck_assert_ptr_eq(image->backing->backing->cache, image->cache);
    ck_assert_uint_eq(image->cache->sizes.data_budget, 1 << 20);
    image_close(image);
}
END_TEST

START_TEST(impossible_cache_options_are_refused_and_the_image_can_be_closed)
{
    const struct cache_options options = {.l2_entry_size = {true, 1000}};
    struct error error = {0};
    struct image *image;

    make("a.qcow2", NULL, NULL, NULL);
    image = open_with("a.qcow2", &plain);
    ck_assert_int_eq(image_attach_cache(image, &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "1000"));
    image_close(image);
}
END_TEST

static void add_chains(TCase *tcase)
{
    tcase_add_test(tcase, backing_files_are_found_by_every_kind_of_name);
    tcase_add_test(tcase, recorded_formats_are_believed);
    tcase_add_test(tcase, formats_that_cannot_be_read_are_refused_by_their_name);
    tcase_add_test(tcase, a_backing_file_of_no_recorded_format_is_probed);
    tcase_add_test(tcase, a_probed_backing_file_may_name_others_only_when_allowed);
    tcase_add_test(tcase, a_probed_backing_file_may_name_a_data_file_only_when_allowed);
    tcase_add_test(tcase, names_of_no_files_are_refused);
    tcase_add_test(tcase, a_backing_file_that_cannot_be_opened_is_named_with_its_overlay);
    tcase_add_test(tcase, a_cycle_is_refused);
    tcase_add_test(tcase, a_chain_of_300_is_opened_and_read);
    tcase_add_test(tcase, a_damaged_image_in_the_middle_closes_the_chain_again);
}

int main(void)
{
    Suite *suite = suite_create("image");
    TCase *one = tcase_create("one image"), *chains = tcase_create("chains");
    TCase *data_files = tcase_create("data files");

    tcase_add_checked_fixture(one, scratch_enter, scratch_leave);
    tcase_add_test(one, an_image_without_a_backing_file_is_opened);
    tcase_add_test(one, what_is_no_qcow2_image_is_named);
    tcase_add_test(one, a_corrupt_mark_and_a_cut_off_end_are_warned_of);
    tcase_add_loop_test(one, no_flipped_bit_of_header_and_tables_is_a_danger, 0, 12);
    tcase_add_test(one, every_image_of_the_chain_gets_the_one_cache);
    tcase_add_test(one, impossible_cache_options_are_refused_and_the_image_can_be_closed);
    suite_add_tcase(suite, one);
    tcase_add_checked_fixture(chains, scratch_enter, scratch_leave);
    add_chains(chains);
    suite_add_tcase(suite, chains);
    tcase_add_checked_fixture(data_files, scratch_enter, scratch_leave);
    tcase_add_test(data_files, a_data_file_is_found_beside_the_image);
    tcase_add_test(data_files, a_data_file_in_the_current_directory_alone_is_taken);
    tcase_add_test(data_files, a_missing_or_unnamed_data_file_is_refused);
    tcase_add_test(data_files, a_data_file_given_by_the_user_counts_before_the_recorded_one);
    tcase_add_test(data_files, a_data_file_that_is_too_short_is_warned_of_and_reads_as_zeros);
    suite_add_tcase(suite, data_files);
    return suite_main(suite);
}
