/* SPDX-License-Identifier: MIT */
/* What is known of images and chains that cannot be opened. */
#include "config.h"

#include "admin/inspect.h"
#include "builder.h"
#include "meta/format.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void make(const char *path, const char *backing, const char *format)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;

    options.backing_file = backing;
    options.backing_format = format;
    builder = builder_create(&options);
    builder_file(builder, path);
    builder_destroy(builder);
}

static struct inspection *inspect(const char *path)
{
    struct inspection *inspection;
    struct error error = {0};

    ck_assert_msg(inspect_open(path, &(struct inspect_options){.access = STORE_READ}, &inspection,
                               &error) == 0,
                  "%s", error.text);
    return inspection;
}

/* That many images are known, and the last has one problem with the text (none: NULL). */
static void expect_chain(size_t images, int code, const char *text)
{
    struct inspection *inspection = inspect("a.qcow2"), *last = inspection;
    size_t count = 1;

    while (last->backing != NULL) {
        ck_assert_uint_eq(last->problem_count, 0);
        last = last->backing;
        count++;
    }
    ck_assert_uint_eq(count, images);
    ck_assert_uint_eq(last->problem_count, text != NULL);
    ck_assert_uint_eq(inspect_problem_count(inspection), text != NULL);
    if (text != NULL) {
        ck_assert_int_eq(last->problems[0].code, code);
        ck_assert_int_eq(last->problems[0].subject, INSPECT_BACKING_FILE);
        ck_assert_msg(strstr(last->problems[0].text, text) != NULL, "no '%s' in: %s", text,
                      last->problems[0].text);
        ck_assert_ptr_eq(inspect_problem(inspection), last->problems[0].text);
    }
    inspect_close(inspection);
}

START_TEST(a_chain_is_known_to_its_end)
{
    scratch_file("c.raw", "abc", 3);
    make("b.qcow2", "c.raw", "raw");
    make("a.qcow2", "b.qcow2", "qcow2");
    expect_chain(3, 0, NULL);
}
END_TEST

START_TEST(a_chain_is_known_up_to_the_file_that_is_missing)
{
    make("a.qcow2", "b.qcow2", "qcow2");
    unlink("b.qcow2");
    expect_chain(1, ENOENT, "b.qcow2: no such backing file");
    make("b.qcow2", "gone.raw", "raw");
    expect_chain(2, ENOENT, "gone.raw: no such backing file");
}
END_TEST

START_TEST(a_cycle_ends)
{
    make("a.qcow2", "b.qcow2", "qcow2");
    make("b.qcow2", "a.qcow2", "qcow2");
    expect_chain(2, ELOOP, "cycle");
    make("a.qcow2", "a.qcow2", "qcow2");
    expect_chain(1, ELOOP, "cycle");
}
END_TEST

START_TEST(no_file_is_opened_that_only_a_guess_leads_to)
{
    scratch_file("c.raw", "abc", 3);
    make("b.qcow2", "c.raw", "raw");
    make("a.qcow2", "b.qcow2", NULL);
    expect_chain(2, EACCES, "trap");
    make("b.qcow2", NULL, NULL);
    expect_chain(2, 0, NULL);
}
END_TEST

START_TEST(what_is_behind_must_be_what_is_recorded)
{
    scratch_file("b.qcow2", "abc", 3);
    make("a.qcow2", "b.qcow2", "qcow2");
    expect_chain(1, EINVAL, "is not a qcow2 image");
    make("a.qcow2", "b.qcow2", "vmdk");
    expect_chain(1, ENOTSUP, "'vmdk'");
    make("a.qcow2", "nbd:unix:/x", "raw");
    expect_chain(1, ENOTSUP, "nbd:");
}
END_TEST

START_TEST(what_is_no_qcow2_image_is_refused)
{
    struct inspection *inspection;
    struct error error = {0};

    scratch_file("a.qcow2", "abc", 3);
    ck_assert_int_eq(inspect_open("a.qcow2", &(struct inspect_options){.access = STORE_READ},
                                  &inspection, &error),
                     -EINVAL);
    ck_assert_ptr_null(inspection);
    ck_assert_ptr_nonnull(strstr(error.text, "a.qcow2: is not a qcow2 image"));
    ck_assert_int_eq(
        inspect_open("gone", &(struct inspect_options){.access = STORE_READ}, &inspection, &error),
        -ENOENT);
    ck_assert_int_eq(
        inspect_open(".", &(struct inspect_options){.access = STORE_READ}, &inspection, &error),
        -EISDIR);
}
END_TEST

START_TEST(a_data_file_is_looked_at)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct inspection *inspection;

    options.external_data_file = true;
    options.data_file = "data.raw";
    builder = builder_create(&options);
    builder_file(builder, "a.qcow2");
    builder_destroy(builder);
    unlink("data.raw");
    inspection = inspect("a.qcow2");
    ck_assert(!inspection->data_file_found);
    ck_assert_uint_eq(inspection->problem_count, 1);
    ck_assert_int_eq(inspection->problems[0].subject, INSPECT_DATA_FILE);
    inspect_close(inspection);
    scratch_file("data.raw", "abc", 3);
    inspection = inspect("a.qcow2");
    ck_assert(inspection->data_file_found);
    ck_assert_uint_eq(inspection->data_file_info.size, 3);
    ck_assert_uint_eq(inspection->problem_count, 0);
    inspect_close(inspection);
}
END_TEST

START_TEST(snapshots_are_known_up_to_the_one_that_is_damaged)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct builder_snapshot snapshot = {
        .id = "1", .name = "one", .disk_size = 1 << 20, .extra_data_size = 16};
    struct inspection *inspection;
    uint8_t *bytes;
    uint64_t table;
    size_t size;

    snapshot.l1 = builder_add_l1(builder, 1);
    builder_snapshot(builder, &snapshot);
    builder_snapshot(builder, &snapshot);
    bytes = builder_finish(builder, &size);
    table = load_be64(bytes + HEADER_SNAPSHOTS_OFFSET);
    store_be32(bytes + table + 64 + SNAPSHOT_EXTRA_DATA_SIZE, UINT32_MAX);
    scratch_file("a.qcow2", bytes, size);
    builder_destroy(builder);
    inspection = inspect("a.qcow2");
    ck_assert_uint_eq(inspection->snapshots->count, 1);
    ck_assert(!inspection->snapshots_whole);
    ck_assert_str_eq(inspection->snapshots->snapshots[0].name, "one");
    ck_assert_uint_eq(inspection->problem_count, 1);
    ck_assert_int_eq(inspection->problems[0].subject, INSPECT_SNAPSHOTS);
    inspect_close(inspection);
}
END_TEST

static void put_text(uint8_t *field, const char *text)
{
    memcpy(field, text, strlen(text));
}

/* An image with a LUKS header, whose magic bytes are these. */
static void make_encrypted(const char *magic)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    uint64_t at = builder_allocate(builder, 1);
    uint8_t pointer[CRYPT_HEADER_LENGTH_END];
    uint8_t *bytes;
    size_t size;

    store_be64(pointer + CRYPT_HEADER_OFFSET, at);
    store_be64(pointer + CRYPT_HEADER_LENGTH, LUKS_LENGTH);
    builder_extension(builder, EXTENSION_ENCRYPTION, pointer, sizeof(pointer));
    bytes = builder_finish(builder, &size);
    store_be32(bytes + HEADER_CRYPT_METHOD, CRYPT_LUKS);
    memcpy(bytes + at, magic, 6);
    store_be16(bytes + at + LUKS_VERSION, 1);
    put_text(bytes + at + LUKS_CIPHER_NAME, "serpent");
    put_text(bytes + at + LUKS_CIPHER_MODE, "cbc-essiv:sha256");
    put_text(bytes + at + LUKS_HASH, "sha512");
    store_be32(bytes + at + LUKS_KEY_BYTES, 32);
    store_be32(bytes + at + LUKS_PAYLOAD_OFFSET, 4040);
    store_be32(bytes + at + LUKS_KEY_SLOTS + 2 * LUKS_SLOT_LENGTH, LUKS_SLOT_ACTIVE);
    scratch_file("a.qcow2", bytes, size);
    builder_destroy(builder);
}

START_TEST(a_luks_header_tells_how_the_disk_is_encrypted)
{
    struct inspection *inspection;

    make_encrypted(LUKS_MAGIC);
    inspection = inspect("a.qcow2");
    ck_assert_ptr_nonnull(inspection->luks);
    ck_assert_str_eq(inspection->luks->cipher, "serpent-256");
    ck_assert_str_eq(inspection->luks->mode, "cbc");
    ck_assert_str_eq(inspection->luks->iv, "essiv");
    ck_assert_str_eq(inspection->luks->iv_hash, "sha256");
    ck_assert_str_eq(inspection->luks->hash, "sha512");
    ck_assert_uint_eq(inspection->luks->payload_offset, 4040 * 512);
    ck_assert(inspection->luks->slots[2].active && !inspection->luks->slots[1].active);
    inspect_close(inspection);
}
END_TEST

START_TEST(a_luks_header_that_is_none_is_a_problem)
{
    struct inspection *inspection;

    make_encrypted("SKULXX");
    inspection = inspect("a.qcow2");
    ck_assert_ptr_null(inspection->luks);
    ck_assert_uint_eq(inspection->problem_count, 1);
    ck_assert_int_eq(inspection->problems[0].subject, INSPECT_ENCRYPTION_HEADER);
    inspect_close(inspection);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("inspection");
    TCase *tcase = tcase_create("inspection");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, a_chain_is_known_to_its_end);
    tcase_add_test(tcase, a_chain_is_known_up_to_the_file_that_is_missing);
    tcase_add_test(tcase, a_cycle_ends);
    tcase_add_test(tcase, no_file_is_opened_that_only_a_guess_leads_to);
    tcase_add_test(tcase, what_is_behind_must_be_what_is_recorded);
    tcase_add_test(tcase, what_is_no_qcow2_image_is_refused);
    tcase_add_test(tcase, a_data_file_is_looked_at);
    tcase_add_test(tcase, snapshots_are_known_up_to_the_one_that_is_damaged);
    tcase_add_test(tcase, a_luks_header_tells_how_the_disk_is_encrypted);
    tcase_add_test(tcase, a_luks_header_that_is_none_is_a_problem);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
