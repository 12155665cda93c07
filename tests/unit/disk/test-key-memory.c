/* SPDX-License-Identifier: MIT */
/*
 * What is left in memory: an image with LUKS is opened, read and written, and closed. All of the
 * process's memory that can be written to is looked through, as /proc/self/mem has it, for each
 * secret that there ever was (key files, what is derived of them, master keys), and for what stood
 * on the disk. What is looked for is itself kept otherwise than it is.
 */
#include "config.h"

#include "admin/create.h"
#include "crypto/library.h"
#include "crypto/secret.h"
#include "disk/image.h"
#include "disk/keys.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "memory_store.h"
#include "meta/luks_write.h"
#include "scratch.h"
#include "suite.h"
#include "util/checked.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER ((size_t)65536)
#define MASK    0x5a
#define LENGTH  16 /* bytes of each that are looked for */
#define MAX     64
#define LARGEST (UINT64_C(256) << 20) /* what a sanitizer keeps is larger */

struct wanted {
    uint8_t masked[LENGTH];
    bool is_key;
};

/* The test's one list, since secrets do not know for whom they are wiped. */
static struct {
    struct wanted each[MAX];
    size_t count;
    bool making; /* an image: stripes are encrypted where they are, and no secret any more */
    const uint8_t *destroyed; /* the secret that is just being wiped */
} list;

static void want(const uint8_t *bytes, bool is_key)
{
    struct wanted *wanted = &list.each[list.count];
    unsigned zeros = 0;

    ck_assert_uint_lt(list.count, MAX);
    for (size_t i = 0; i < LENGTH; i++) {
        wanted->masked[i] = bytes[i] ^ MASK;
        zeros += bytes[i] == 0;
    }
    wanted->is_key = is_key;
    list.count += zeros < LENGTH / 2; /* else it is no secret, but what a cipher is tried with */
}

void __real_secret_destroy(struct secret *secret);
void __wrap_secret_destroy(struct secret *secret);

void __wrap_secret_destroy(struct secret *secret)
{
    if (secret != NULL && secret->length >= LENGTH && !(list.making && secret->length > 4096)) {
        want(secret->bytes, true);
        want(secret->bytes + secret->length - LENGTH, true);
    }
    list.destroyed = secret != NULL ? secret->bytes : NULL;
    __real_secret_destroy(secret);
    ck_assert_ptr_null(list.destroyed);
}

int __real_munmap(void *address, size_t length);
int __wrap_munmap(void *address, size_t length);

/* The pages of a secret are full of zeros when they are given back. */
int __wrap_munmap(void *address, size_t length)
{
    const uint8_t *bytes = address;
    size_t zeros = 0;

    if (bytes == list.destroyed) {
        while (zeros < length && bytes[zeros] == 0) {
            zeros++;
        }
        ck_assert_msg(zeros == length, "a secret is not wiped");
        list.destroyed = NULL;
    }
    return __real_munmap(address, length);
}

/* --- Looking for them --------------------------------------------------------------------- */

struct scan {
    bool keys_only;
    int memory;
    char found[120];        /* what is, and where; empty: nothing */
    uint8_t bytes[1 << 20]; /* of the memory; not looked through itself */
    uint64_t areas, length; /* that were */
    bool first[256];        /* bytes with which one of them begins */
};

static bool is_there(const uint8_t *bytes, const struct wanted *wanted)
{
    size_t same = 0;

    while (same < LENGTH && (bytes[same] ^ MASK) == wanted->masked[same]) {
        same++;
    }
    return same == LENGTH;
}

/* The first of them that begins with these bytes; NULL for most bytes. */
static const struct wanted *find(const struct scan *scan, const uint8_t *bytes)
{
    for (size_t j = 0; scan->first[*bytes] && j < list.count; j++) {
        const struct wanted *wanted = &list.each[j];

        if ((wanted->is_key || !scan->keys_only) && is_there(bytes, wanted)) {
            return wanted;
        }
    }
    return NULL;
}

static void look_through(struct scan *scan, uint64_t address, size_t length)
{
    for (size_t i = 0; i + LENGTH <= length; i++) {
        const struct wanted *wanted = find(scan, scan->bytes + i);

        if (wanted != NULL) {
            snprintf(scan->found, sizeof(scan->found), "%s %zu of %zu is at %#" PRIx64,
                     wanted->is_key ? "key" : "plaintext", (size_t)(wanted - list.each), list.count,
                     address + i);
        }
    }
}

static struct scan *begin_scan(bool keys_only)
{
    struct scan *scan = calloc(1, sizeof(*scan));

    ck_assert_ptr_nonnull(scan);
    scan->keys_only = keys_only;
    for (size_t j = 0; j < list.count; j++) {
        scan->first[list.each[j].masked[0] ^ MASK] = true;
    }
    return scan;
}

static void look_at_area(struct scan *scan, uint64_t begin, uint64_t end)
{
    uint64_t own = (uintptr_t)scan;

    while (begin < end) {
        size_t part = min_u64(end - begin, sizeof(scan->bytes));
        ssize_t count;

        if (begin < own + sizeof(*scan) && own < begin + part) {
            if (begin >= own) {
                begin = own + sizeof(*scan);
                continue;
            }
            part = own - begin;
        }
        count = pread(scan->memory, scan->bytes, part, (off_t)begin);
        if (count <= 0) {
            return;
        }
        look_through(scan, begin, (size_t)count);
        scan->length += (uint64_t)count;
        if ((size_t)count < part || begin + part == end || part <= LENGTH) {
            begin += (uint64_t)count;
        } else {
            begin += (uint64_t)count - (LENGTH - 1); /* one may lie across */
        }
    }
    scan->areas++;
}

/* In all that can be written to, or only in what a core would hold. */
static bool finds(bool dumped_only, bool keys_only, char found[120])
{
    struct scan *scan = begin_scan(keys_only);
    FILE *maps = fopen("/proc/self/smaps", "re");
    uint64_t begin = 0, end = 0, from, to;
    char line[512], rights[8];
    bool writable = false;

    ck_assert_ptr_nonnull(maps);
    scan->memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(scan->memory, 0);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, rights) == 3) {
            begin = from;
            end = to;
            writable = rights[0] == 'r' && rights[1] == 'w' && to - from <= LARGEST;
        } else if (strncmp(line, "VmFlags:", 8) == 0 && writable &&
                   !(dumped_only && strstr(line, " dd") != NULL)) {
            look_at_area(scan, begin, end);
        }
    }
    ck_assert_uint_gt(scan->areas, 3);
    ck_assert_uint_gt(scan->length, 100000);
    close(scan->memory);
    fclose(maps);
    memcpy(found, scan->found, sizeof(scan->found));
    explicit_bzero(scan, sizeof(*scan));
    free(scan);
    return found[0] != '\0';
}

static void expect_nothing(bool dumped_only, bool keys_only)
{
    char found[120];

    ck_assert_msg(!finds(dumped_only, keys_only, found), "%s", found);
}

/* --- An image -------------------------------------------------------------------------------- */

/* What stands on the disk: nothing like it is anywhere else. */
static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static void make_key_file(void)
{
    uint8_t key[40];

    fill(key, sizeof(key), 99);
    want(key, true);
    scratch_file("key", key, sizeof(key));
    explicit_bzero(key, sizeof(key));
}

static struct keys *open_keys(void)
{
    struct error error = {0};
    struct keys *keys;

    ck_assert_msg(keys_open("key\n", 0, &keys, &error) == 0, "%s", error.text);
    return keys;
}

static void make_image(void)
{
    struct create_parameters parameters = {
        .size = 16 * CLUSTER,
        .version = 3,
        .cluster_size = CREATE_CLUSTER_SIZE_DEFAULT,
        .refcount_bits = CREATE_REFCOUNT_BITS_DEFAULT,
        .crypt_method = 2,
        .luks = {.kind = {"aes", "cbc", "essiv", "sha256"},
                 .hash = "sha256",
                 .key_bytes = 32,
                 .iteration_time = 10},
    };
    struct create_target target = {.name = "a.qcow2", .file = memory_store_create(0)};
    struct keys *keys = open_keys();
    const struct secret *secret;
    struct create_plan plan;
    struct error error = {0};
    struct cipher *cipher;
    uint8_t *area;

    ck_assert_int_eq(keys_new(keys, "a.qcow2", "it", &secret, &error), 0);
    list.making = true;
    ck_assert_msg(luks_make(&parameters.luks, secret, "a.qcow2", &area, &cipher, &error) == 0, "%s",
                  error.text);
    cipher_destroy(cipher);
    list.making = false;
    keys_close(keys);
    ck_assert_msg(create_plan_make(&parameters, "a.qcow2", &plan, &error) == 0, "%s", error.text);
    target.crypt_header = area;
    ck_assert_msg(create_write(&plan, &target, &error) == 0, "%s", error.text);
    scratch_file("a.qcow2", memory_store_data(target.file), memory_store_size(target.file));
    create_plan_release(&plan);
    store_close(target.file);
    free(area);
}

struct opened {
    struct log log;
    struct image *image;
    struct view *view;
    struct writer *writer;
};

static void ignore(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void open_image(struct opened *opened)
{
    const struct cache_options cache = {0};
    const struct writer_options writer = {0};
    struct image_options options = {.access = STORE_WRITE, .keys = open_keys()};
    struct error error = {0};

    log_init(&opened->log, ignore, NULL);
    ck_assert_msg(image_open("a.qcow2", &options, &opened->log, &opened->image, &error) == 0, "%s",
                  error.text);
    keys_close(options.keys);
    ck_assert_int_eq(image_attach_cache(opened->image, &cache, &error), 0);
    ck_assert_int_eq(view_open_active(opened->image, &opened->view), 0);
    ck_assert_msg(writer_open(opened->image, &writer, &opened->writer, &error) == 0, "%s",
                  error.text);
}

static void close_image(struct opened *opened)
{
    view_close(opened->view);
    ck_assert_int_eq(writer_close(opened->writer), 0);
    image_close(opened->image);
    log_release(&opened->log);
}

/* In one buffer, which is the test's to wipe: a whole cluster, parts of sectors, a copy. */
static void write_and_read(struct opened *opened)
{
    uint8_t *bytes = malloc(CLUSTER);

    ck_assert_ptr_nonnull(bytes);
    fill(bytes, CLUSTER, 1);
    for (size_t i = 0; i < 4; i++) {
        want(bytes + i * 16384, false);
        want(bytes + i * 16384 + 256, false);
    }
    ck_assert_int_eq(writer_write(opened->writer, 0, bytes, CLUSTER), 0);
    ck_assert_int_eq(writer_write(opened->writer, CLUSTER + 700, bytes, 20000), 0);
    ck_assert_int_eq(writer_write(opened->writer, CLUSTER + 100, bytes, 100), 0);
    ck_assert_int_eq(writer_write(opened->writer, 3 * CLUSTER + 300, bytes, 100), 0);
    ck_assert_int_eq(writer_flush(opened->writer), 0);
    ck_assert_int_eq(view_read(opened->view, 40, bytes, 3000), 0);
    ck_assert_int_eq(view_read(opened->view, CLUSTER + 90, bytes, 200), 0);
    ck_assert_int_eq(view_read(opened->view, 0, bytes, CLUSTER), 0);
    ck_assert(is_there(bytes, &list.each[list.count - 8]));
    explicit_bzero(bytes, CLUSTER);
    free(bytes);
}

START_TEST(no_key_and_nothing_of_the_disk_is_left_in_memory_once_it_is_closed)
{
    struct opened opened;

    make_key_file();
    make_image();
    open_image(&opened);
    ck_assert_uint_gt(list.count, 6);
    expect_nothing(true, true); /* while it is open, in what a core would hold */
    write_and_read(&opened);
    expect_nothing(true, true);
    close_image(&opened);
    expect_nothing(false, false);
}
END_TEST

static void expect_absent(const char *name)
{
    struct scan *scan = begin_scan(false);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t count;
    uint64_t at = 0;

    ck_assert_int_ge(file, 0);
    while ((count = pread(file, scan->bytes, sizeof(scan->bytes), (off_t)at)) > 0) {
        look_through(scan, at, (size_t)count);
        at += count == sizeof(scan->bytes) ? (uint64_t)count - LENGTH : (uint64_t)count;
    }
    ck_assert_uint_gt(at, 4 * CLUSTER);
    ck_assert_msg(scan->found[0] == '\0', "%s", scan->found);
    close(file);
    free(scan);
}

START_TEST(no_key_and_nothing_of_the_disk_is_in_the_file)
{
    struct opened opened;

    make_key_file();
    make_image();
    open_image(&opened);
    write_and_read(&opened);
    close_image(&opened);
    expect_absent("a.qcow2");
}
END_TEST

/* That it finds what is there. */
START_TEST(a_secret_that_is_not_wiped_is_found)
{
    uint8_t *bytes = malloc(CLUSTER);
    char found[120];

    ck_assert_ptr_nonnull(bytes);
    fill(bytes, CLUSTER, 5);
    want(bytes + 5000, true);
    ck_assert(finds(false, false, found));
    ck_assert(finds(true, true, found));
    explicit_bzero(bytes, CLUSTER);
    expect_nothing(false, false);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("key-memory");
    TCase *left = tcase_create("what is left");

    tcase_add_unchecked_fixture(left, scratch_enter, scratch_leave);
    if (crypto_missing() == NULL) {
        tcase_add_test(left, no_key_and_nothing_of_the_disk_is_left_in_memory_once_it_is_closed);
        tcase_add_test(left, no_key_and_nothing_of_the_disk_is_in_the_file);
    }
    tcase_add_test(left, a_secret_that_is_not_wiped_is_found);
    suite_add_tcase(suite, left);
    return suite_main(suite);
}
