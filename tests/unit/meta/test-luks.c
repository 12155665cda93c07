/* SPDX-License-Identifier: MIT */
/* The LUKS header, and its key slots: what is right opens, and what is hostile is refused. */
#include "config.h"

#include "crypto/keyslot.h"
#include "crypto/library.h"
#include "memory_log.h"
#include "memory_store.h"
#include "meta/luks.h"
#include "meta/luks_write.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AREA       UINT64_C(65536) /* where the header's area begins in the file */
#define LENGTH     UINT64_C(65536)
#define KEY_BYTES  32
#define STRIPES    50
#define ITERATIONS 10
#define SLOT_BYTES 4096

struct fixture {
    struct store *store;
    uint8_t *header;
};

static const uint8_t master_key[KEY_BYTES] = "the key of the disk, 32 bytes..";

static struct secret *passphrase(const char *text)
{
    struct secret *secret;

    ck_assert_int_eq(secret_copy(text, strlen(text), &secret), 0);
    return secret;
}

/* --- Key derivation and stripes, by another library ---------------------------------------- */

static void check_hex(const uint8_t *bytes, const char *expected)
{
    char text[2 * CIPHER_KEY_MAX + 1];
    size_t length = strlen(expected) / 2;

    for (size_t i = 0; i < length; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    ck_assert_str_eq(text, expected);
}

START_TEST(pbkdf2_gives_what_another_library_gives)
{
    static const struct {
        const char *hash, *passphrase, *key;
        uint32_t iterations;
    } cases[] = {
        {"sha1", "passphrase",
         "bbec92b9efcf55182d0172f4d1897770a797579d28ebc7d7e4a64355c91aaf9816356bb22e234dd2", 1000},
        {"sha256", "passphrase",
         "8dc79d6e47442ff3b672691bdf7e9e5d5cb7aa431aaea60a48c1ec4c98bb3bd4a186ba55f7af54c6", 1000},
        {"sha512", "passphrase",
         "fda79ecf95fb5e2221a4e21bff354892369876e343a51b1ed33a201860688b1ce97f7486c275751b", 1000},
        {"ripemd160", "passphrase",
         "889492199b48fbb44cfc93b6d075e7f7b8fec106c1baa5a3c37b34c1d706cf0823e3968b1135568c", 1000},
        {"sha256", "", "4164afc25050ca132ca38197afee64dced8cb642e2be722d093e1ec30e95684e", 7},
    };
    uint8_t salt[KEYSLOT_SALT_LENGTH], key[CIPHER_KEY_MAX];
    struct secret *secret = passphrase(cases[_i].passphrase);

    for (size_t i = 0; i < sizeof(salt); i++) {
        salt[i] = (uint8_t)i;
    }
    ck_assert_int_eq(keyslot_derive(cases[_i].hash, secret, salt, cases[_i].iterations, key,
                                    strlen(cases[_i].key) / 2),
                     0);
    check_hex(key, cases[_i].key);
    secret_destroy(secret);
}
END_TEST

START_TEST(stripes_come_to_the_key)
{
    uint8_t split[24 * 3], key[24];

    for (size_t i = 0; i < sizeof(split); i++) {
        split[i] = (uint8_t)(i * 7 + 3);
    }
    ck_assert_int_eq(keyslot_merge("sha1", split, sizeof(key), 3, key), 0);
    check_hex(key, "c324d16e38216630ac2bcbba701504ce5d42bc7f0c647f39");
    ck_assert_int_eq(keyslot_merge("sha99", split, sizeof(key), 3, key), -ENOTSUP);
}
END_TEST

START_TEST(a_key_that_was_split_needs_every_stripe)
{
    uint8_t split[KEY_BYTES * STRIPES], key[KEY_BYTES];

    ck_assert_int_eq(keyslot_split("sha512", master_key, KEY_BYTES, STRIPES, split), 0);
    ck_assert_int_eq(keyslot_merge("sha512", split, KEY_BYTES, STRIPES, key), 0);
    ck_assert_mem_eq(key, master_key, KEY_BYTES);
    split[_i * KEY_BYTES + 5] ^= 1;
    ck_assert_int_eq(keyslot_merge("sha512", split, KEY_BYTES, STRIPES, key), 0);
    ck_assert_mem_ne(key, master_key, KEY_BYTES);
    ck_assert_int_eq(keyslot_split("sha512", master_key, KEY_BYTES, 1, split), 0);
    ck_assert_mem_eq(split, master_key, KEY_BYTES);
}
END_TEST

/* --- A header of our own --------------------------------------------------------------------- */

static uint8_t *slot_of(const struct fixture *fixture, size_t slot)
{
    return fixture->header + LUKS_KEY_SLOTS + slot * LUKS_SLOT_LENGTH;
}

static void put_slot(const struct fixture *fixture, size_t slot, const char *text)
{
    const struct cipher_kind kind = {"aes", "cbc", "plain64", ""};
    uint64_t offset = SLOT_BYTES * (slot + 1);
    struct secret *secret = passphrase(text);
    uint8_t key[KEY_BYTES], *material = fixture->header + offset;
    struct cipher *cipher;

    store_be32(slot_of(fixture, slot) + LUKS_SLOT_STATE, LUKS_SLOT_ACTIVE);
    store_be32(slot_of(fixture, slot) + LUKS_SLOT_ITERATIONS, ITERATIONS);
    store_be32(slot_of(fixture, slot) + LUKS_SLOT_KEY_OFFSET, (uint32_t)(offset / 512));
    store_be32(slot_of(fixture, slot) + LUKS_SLOT_STRIPES, STRIPES);
    memset(slot_of(fixture, slot) + LUKS_SLOT_SALT, 0x33, LUKS_SALT_LENGTH);
    ck_assert_int_eq(keyslot_derive("sha256", secret, slot_of(fixture, slot) + LUKS_SLOT_SALT,
                                    ITERATIONS, key, sizeof(key)),
                     0);
    ck_assert_int_eq(keyslot_split("sha256", master_key, KEY_BYTES, STRIPES, material), 0);
    ck_assert_int_eq(cipher_create(&kind, key, sizeof(key), &cipher), 0);
    ck_assert_int_eq(cipher_encrypt(cipher, 0, material, material, KEY_BYTES * STRIPES), 0);
    cipher_destroy(cipher);
    secret_destroy(secret);
}

static void put_text(uint8_t *field, const char *text)
{
    memset(field, 0, LUKS_TEXT_LENGTH);
    memcpy(field, text, strlen(text));
}

/* "one" opens slot 0, "two" slot 5. */
static void setup(struct fixture *fixture)
{
    struct secret *secret;

    fixture->store = memory_store_create(AREA + LENGTH);
    fixture->header = memory_store_data(fixture->store) + AREA;
    memcpy(fixture->header, LUKS_MAGIC, strlen(LUKS_MAGIC));
    store_be16(fixture->header + LUKS_VERSION, 1);
    put_text(fixture->header + LUKS_CIPHER_NAME, "aes");
    put_text(fixture->header + LUKS_CIPHER_MODE, "cbc-plain64");
    put_text(fixture->header + LUKS_HASH, "sha256");
    store_be32(fixture->header + LUKS_KEY_BYTES, KEY_BYTES);
    store_be32(fixture->header + LUKS_MASTER_KEY_ITERATIONS, ITERATIONS);
    memset(fixture->header + LUKS_SALT, 0x44, LUKS_SALT_LENGTH);
    ck_assert_int_eq(secret_copy(master_key, KEY_BYTES, &secret), 0);
    ck_assert_int_eq(keyslot_derive("sha256", secret, fixture->header + LUKS_SALT, ITERATIONS,
                                    fixture->header + LUKS_DIGEST, LUKS_DIGEST_LENGTH),
                     0);
    secret_destroy(secret);
    put_slot(fixture, 0, "one");
    put_slot(fixture, 5, "two");
}

static int unlock(const struct fixture *fixture, const char *text, uint32_t iterations_max,
                  size_t *slot, struct error *error)
{
    struct luks luks;
    const struct luks_lock lock = {fixture->store, AREA, LENGTH, "image", &luks, iterations_max};
    struct secret *secret = passphrase(text);
    struct cipher *cipher = NULL;
    uint8_t bytes[CIPHER_SECTOR] = {0}, expected[CIPHER_SECTOR] = {0};
    int result;

    *error = (struct error){0};
    ck_assert_int_eq(luks_read(fixture->store, AREA, LENGTH, "image", &luks, error), 0);
    result = luks_unlock(&lock, secret, &cipher, slot, error);
    ck_assert_int_eq(result == 0, cipher != NULL);
    if (result == 0) {
        const struct cipher_kind kind = {"aes", "cbc", "plain64", ""};
        struct cipher *own;

        ck_assert_int_eq(cipher_create(&kind, master_key, KEY_BYTES, &own), 0);
        ck_assert_int_eq(cipher_encrypt(cipher, 3, bytes, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(cipher_encrypt(own, 3, expected, expected, sizeof(bytes)), 0);
        ck_assert_mem_eq(bytes, expected, sizeof(bytes));
        cipher_destroy(own);
    }
    cipher_destroy(cipher);
    secret_destroy(secret);
    return result;
}

START_TEST(a_passphrase_opens_its_own_slot)
{
    struct fixture fixture;
    struct error error;
    size_t slot = 99;

    setup(&fixture);
    ck_assert_int_eq(unlock(&fixture, "one", 100, &slot, &error), 0);
    ck_assert_uint_eq(slot, 0);
    ck_assert_int_eq(unlock(&fixture, "two", 100, &slot, &error), 0);
    ck_assert_uint_eq(slot, 5);
    ck_assert_int_eq(unlock(&fixture, "three", 100, &slot, &error), -EKEYREJECTED);
    ck_assert_int_eq(error.code, 0);
    ck_assert_int_eq(unlock(&fixture, "", 100, &slot, &error), -EKEYREJECTED);
    store_close(fixture.store);
}
END_TEST

START_TEST(a_slot_that_is_damaged_leaves_the_others)
{
    struct fixture fixture;
    struct error error;
    size_t slot = 99;

    setup(&fixture);
    store_be32(slot_of(&fixture, 0) + LUKS_SLOT_STRIPES, UINT32_MAX);
    ck_assert_int_eq(unlock(&fixture, "one", 100, &slot, &error), -EKEYREJECTED);
    ck_assert_int_eq(unlock(&fixture, "two", 100, &slot, &error), 0);
    store_be32(slot_of(&fixture, 5) + LUKS_SLOT_STATE, 0);
    ck_assert_int_eq(unlock(&fixture, "two", 100, &slot, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "stripes"));
    store_be32(slot_of(&fixture, 0) + LUKS_SLOT_STATE, 0);
    ck_assert_int_eq(unlock(&fixture, "two", 100, &slot, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "erased"));
    store_close(fixture.store);
}
END_TEST

/* Fields of slot 0, the only one then, or of the header. */
static const struct {
    bool of_slot;
    size_t field;
    uint32_t value;
    const char *word;
} hostile[] = {
    {true, LUKS_SLOT_ITERATIONS, 0, "no iteration"},
    {true, LUKS_SLOT_ITERATIONS, 101, "more iterations"},
    {true, LUKS_SLOT_ITERATIONS, UINT32_MAX, "more iterations"},
    {true, LUKS_SLOT_STRIPES, 0, "stripes"},
    {true, LUKS_SLOT_STRIPES, LUKS_STRIPES_MAX + 1, "stripes"},
    {true, LUKS_SLOT_STRIPES, UINT32_MAX, "stripes"},
    {true, LUKS_SLOT_KEY_OFFSET, 0, "in the header itself"},
    {true, LUKS_SLOT_KEY_OFFSET, 1, "in the header itself"},
    {true, LUKS_SLOT_KEY_OFFSET, LENGTH / 512, "within"},
    {true, LUKS_SLOT_KEY_OFFSET, LENGTH / 512 - 1, "within"},
    {true, LUKS_SLOT_KEY_OFFSET, UINT32_MAX, "within"},
    {false, LUKS_KEY_BYTES, 0, "impossible"},
    {false, LUKS_KEY_BYTES, CIPHER_KEY_MAX + 1, "impossible"},
    {false, LUKS_KEY_BYTES, UINT32_MAX, "impossible"},
    {false, LUKS_KEY_BYTES, 33, "libgcrypt"},
    {false, LUKS_MASTER_KEY_ITERATIONS, 0, "impossible"},
    {false, LUKS_MASTER_KEY_ITERATIONS, 101, "key-iterations-max"},
    {false, LUKS_MASTER_KEY_ITERATIONS, UINT32_MAX, "key-iterations-max"},
};

START_TEST(what_is_hostile_is_refused)
{
    struct fixture fixture;
    struct error error;
    size_t slot;
    int result;

    setup(&fixture);
    store_be32(slot_of(&fixture, 5) + LUKS_SLOT_STATE, 0);
    store_be32((hostile[_i].of_slot ? slot_of(&fixture, 0) : fixture.header) + hostile[_i].field,
               hostile[_i].value);
    result = unlock(&fixture, "one", 100, &slot, &error);
    ck_assert(result == -EINVAL || result == -ENOTSUP);
    ck_assert_int_eq(strncmp(error.text, "image: ", 7), 0);
    ck_assert_msg(strstr(error.text, hostile[_i].word) != NULL, "%s", error.text);
    store_close(fixture.store);
}
END_TEST

START_TEST(a_header_asks_for_no_more_than_some_slots_may)
{
    struct fixture fixture;
    struct error error;
    struct luks luks;
    struct luks_lock lock = {NULL, AREA, LENGTH, "image", &luks, 100};
    char skipped[200];
    size_t slot;

    setup(&fixture);
    for (size_t i = 0; i < 5; i++) {
        memmove(slot_of(&fixture, i), slot_of(&fixture, 0), LUKS_SLOT_LENGTH);
        store_be32(slot_of(&fixture, i) + LUKS_SLOT_ITERATIONS, 100);
    }
    ck_assert_int_eq(unlock(&fixture, "two", 100, &slot, &error), -EKEYREJECTED);
    ck_assert_int_eq(unlock(&fixture, "two", 1000, &slot, &error), 0);
    ck_assert_int_eq(unlock(&fixture, "two", UINT32_MAX, &slot, &error), 0);
    lock.file = fixture.store;
    ck_assert_int_eq(luks_read(fixture.store, AREA, LENGTH, "image", &luks, &error), 0);
    luks_tell_skipped(&lock, skipped, sizeof(skipped));
    ck_assert_ptr_nonnull(strstr(skipped, "was not tried"));
    lock.iterations_max = 1000;
    luks_tell_skipped(&lock, skipped, sizeof(skipped));
    ck_assert_str_eq(skipped, "");
    store_close(fixture.store);
}
END_TEST

START_TEST(names_that_are_not_known_are_told)
{
    static const struct {
        size_t field;
        const char *text;
    } names[] = {{LUKS_CIPHER_NAME, "rot13"},
                 {LUKS_CIPHER_MODE, "cbc-benbi"},
                 {LUKS_CIPHER_MODE, "cbc"},
                 {LUKS_CIPHER_MODE, "abcdefghijklmnopqrstuvwxyz-12345"},
                 {LUKS_HASH, "sha99"}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct fixture fixture;
        struct error error;
        size_t slot;

        setup(&fixture);
        put_text(fixture.header + names[i].field, names[i].text);
        ck_assert_int_eq(unlock(&fixture, "one", 100, &slot, &error), -ENOTSUP);
        ck_assert_ptr_nonnull(strstr(error.text, names[i].text));
        store_close(fixture.store);
    }
}
END_TEST

START_TEST(slots_that_overlap_are_found)
{
    struct luks luks = {.key_bytes = KEY_BYTES};

    luks.slots[0] = (struct luks_slot){.active = true, .key_offset = 4096, .stripes = STRIPES};
    luks.slots[5] = (struct luks_slot){.active = true, .key_offset = 8192, .stripes = STRIPES};
    ck_assert_uint_eq(luks_slot_overlap(&luks, 0), LUKS_SLOTS);
    luks.slots[5].key_offset = luks.slots[0].key_offset + KEY_BYTES * STRIPES;
    ck_assert_uint_eq(luks_slot_overlap(&luks, 0), LUKS_SLOTS);
    luks.slots[5].key_offset--;
    ck_assert_uint_eq(luks_slot_overlap(&luks, 0), 5);
    ck_assert_uint_eq(luks_slot_overlap(&luks, 5), 0);
    luks.slots[5].active = false;
    ck_assert_uint_eq(luks_slot_overlap(&luks, 0), LUKS_SLOTS);
}
END_TEST

/* What luks_faults() tells, one a line, errors with a "!". */
static void collect(void *context, bool is_error, uint64_t at, const char *text)
{
    char *told = context;

    ck_assert_uint_lt(at, LUKS_LENGTH);
    ck_assert_uint_lt(strlen(told) + strlen(text), 2000);
    strcat(strcat(strcat(told, is_error ? "!" : ""), text), "\n");
}

static const char *faults(const struct luks *luks, char *told)
{
    *told = '\0';
    luks_faults(luks, LENGTH, collect, told);
    return told;
}

/* Nothing is wrong with it. */
static struct luks sound(void)
{
    struct luks luks = {
        .key_bytes = KEY_BYTES,
        .master_key_iterations = LUKS_ITERATIONS_MIN,
        .payload_offset = LENGTH,
    };

    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        luks.slots[i] = (struct luks_slot){
            .active = i % 5 == 0,
            .state = i % 5 == 0 ? LUKS_SLOT_ACTIVE : LUKS_SLOT_DEAD,
            .iterations = i % 5 == 0 ? LUKS_ITERATIONS_MIN : 0,
            .key_offset = SLOT_BYTES * (i + 1),
            .stripes = SLOT_BYTES / KEY_BYTES,
        };
    }
    return luks;
}

START_TEST(what_is_wrong_with_a_header_is_told)
{
    struct luks luks = sound();
    char told[4096];

    ck_assert_str_eq(faults(&luks, told), "");
    luks.master_key_iterations = luks.slots[5].iterations = LUKS_ITERATIONS_MIN - 1;
    luks.slots[1].iterations = 1; /* not in use */
    luks.slots[2].state = 7;
    ck_assert_str_eq(faults(&luks, told),
                     "the digest of its master key has 999 iterations, fewer than the 1000 of any "
                     "program that makes such headers\n"
                     "key slot 2 has the unknown state 0x00000007, and is not in use\n"
                     "key slot 5 has 999 iterations, fewer than 1000: its passphrase is guessed "
                     "quickly; exchange it with qcow2ctl amend\n");
    luks.master_key_iterations = luks.slots[0].iterations = 0;
    luks.slots[5].iterations = LUKS_ITERATIONS_MAX + 1;
    faults(&luks, told);
    ck_assert_ptr_nonnull(strstr(told, "!the digest of its master key has no iteration"));
    ck_assert_ptr_nonnull(strstr(told, "!key slot 0 cannot be used: it asks for no iteration"));
    ck_assert_ptr_nonnull(strstr(told, "\nkey slot 5 has 50000001 iterations: only key-iter"));
    luks = sound();
    luks.key_bytes = CIPHER_KEY_MAX + 1;
    ck_assert_ptr_nonnull(strstr(faults(&luks, told), "!a master key of "));
    luks = sound();
    luks.slots[0].active = luks.slots[5].active = false;
    ck_assert_str_eq(faults(&luks, told),
                     "no key slot is in use: all its keys were erased, and nobody can read it any "
                     "more\n");
}
END_TEST

START_TEST(slots_that_reach_into_something_else_are_told)
{
    struct luks luks = sound();
    char told[4096];

    luks.slots[5].key_offset = luks.slots[0].key_offset + SLOT_BYTES - 512;
    faults(&luks, told);
    ck_assert_ptr_nonnull(strstr(told, "!key slots 0 and 5 overlap: their key material begins at "
                                       "bytes 4096 and 7680\n"));
    ck_assert_ptr_nonnull(strstr(told, "key slots 5 and 1 overlap: their key material begins at "
                                       "bytes 7680 and 8192; the second is not in use"));
    ck_assert_ptr_null(strstr(told, "!key slots 5 and 1"));
    luks = sound();
    luks.payload_offset = LUKS_LENGTH - 80;
    ck_assert_str_eq(faults(&luks, told),
                     "!its payload would begin at byte 512, inside the header of 592 bytes\n");
    luks.payload_offset = luks.slots[5].key_offset + SLOT_BYTES - 512;
    faults(&luks, told);
    ck_assert_ptr_nonnull(strstr(told, "its payload would begin at byte 28160, inside its area"));
    ck_assert_ptr_nonnull(strstr(told, "!key slot 5, of bytes 24576 to 28672, overlaps the pay"));
    ck_assert_ptr_null(strstr(told, "key slot 0"));
    luks = sound();
    luks.slots[0].key_offset = 512;
    ck_assert_ptr_nonnull(strstr(faults(&luks, told), "!key slot 0 cannot be used: its key mat"));
}
END_TEST

START_TEST(what_cannot_be_read_is_told)
{
    struct fixture fixture;
    struct error error;
    size_t slot;

    setup(&fixture);
    memory_store_fail_reads(fixture.store, AREA + SLOT_BYTES, 512, EIO);
    ck_assert_int_eq(unlock(&fixture, "one", 100, &slot, &error), -EIO);
    ck_assert_ptr_nonnull(strstr(error.text, "key slot 0"));
    store_close(fixture.store);
}
END_TEST

/* --- Changing slots, and power cuts ---------------------------------------------------------- */

#define CUTS   16 /* states of each moment */
#define SECTOR 512
#define FILLED 6 /* the slot whose entry lies in two sectors of the header */

struct changes {
    struct store *store;
    struct luks luks;
    struct luks_edit edit;
    uint64_t length;
};

static void make_header(struct changes *changes)
{
    const struct luks_wish wish = {
        .kind = {.name = "aes", .mode = "cbc", .iv = "plain64", .iv_hash = ""},
        .hash = "sha256",
        .key_bytes = 16,
    };
    struct secret *one = passphrase("one");
    struct error error = {0};
    struct cipher *cipher;
    uint8_t *area;

    ck_assert_int_eq(luks_make(&wish, one, "image", &area, &cipher, &error), 0);
    cipher_destroy(cipher);
    secret_destroy(one);
    changes->length = luks_area_length(16);
    changes->store = memory_store_create(AREA + changes->length);
    ck_assert_int_eq(store_write(changes->store, AREA, area, changes->length), 0);
    free(area);
    ck_assert_int_eq(
        luks_read(changes->store, AREA, changes->length, "image", &changes->luks, &error), 0);
    changes->edit = (struct luks_edit){.file = changes->store,
                                       .offset = AREA,
                                       .length = changes->length,
                                       .name = "image",
                                       .luks = &changes->luks};
}

/* The slot that it opens, or a negative errno; `key` may be NULL. */
static int opens(struct store *store, uint64_t length, const char *text, struct secret **key)
{
    struct secret *secret = passphrase(text), *found;
    struct error error = {0};
    struct luks luks;
    size_t slot;
    int result = luks_read(store, AREA, length, "image", &luks, &error);
    const struct luks_lock lock = {.file = store,
                                   .offset = AREA,
                                   .length = length,
                                   .name = "image",
                                   .luks = &luks,
                                   .iterations_max = UINT32_MAX};

    ck_assert_int_eq(result, 0);
    result = luks_unlock_key(&lock, secret, &found, &slot, &error);
    secret_destroy(secret);
    if (key != NULL) {
        *key = found;
    } else {
        secret_destroy(found);
    }
    return result == 0 ? (int)slot : result == -EINVAL ? -EKEYREJECTED : result;
}

/* Of an entry each sector may have arrived, or not. */
static void write_some(struct store *store, const struct memory_log_entry *entry)
{
    uint64_t at = entry->offset, end = entry->offset + entry->length;

    while (at < end) {
        uint64_t next = (at / SECTOR + 1) * SECTOR;
        uint64_t part = (next < end ? next : end) - at;

        if (rand() % 2 == 0) {
            memcpy(memory_store_data(store) + at,
                   (const uint8_t *)entry->data + (at - entry->offset), part);
        }
        at += part;
    }
}

/* What a power cut before entry `at` of the log could leave. */
static struct store *cut(struct memory_log *log, const struct changes *changes,
                         const uint8_t *before, size_t at)
{
    struct store *store = memory_store_from(before, AREA + changes->length);
    size_t synced = 0;

    for (size_t i = 0; i < at; i++) {
        synced = memory_log_at(log, i)->kind == MEMORY_LOG_SYNC ? i + 1 : synced;
    }
    memory_log_replay(log, 0, synced, changes->store, store);
    for (size_t i = synced; i < at; i++) {
        write_some(store, memory_log_at(log, i));
    }
    return store;
}

/* In every state `kept` opens the disk, and a slot that says that it is in use does, too. */
static void check_cuts(struct memory_log *log, const struct changes *changes, const uint8_t *before,
                       const char *kept, const char *other)
{
    srand(17);
    for (size_t at = 0; at <= memory_log_count(log); at++) {
        for (int i = 0; i < CUTS; i++) {
            struct store *store = cut(log, changes, before, at);
            struct error error = {0};
            struct luks luks;

            ck_assert_msg(opens(store, changes->length, kept, NULL) >= 0, "entry %zu", at);
            ck_assert_int_eq(luks_read(store, AREA, changes->length, "image", &luks, &error), 0);
            if (luks.slots[FILLED].active) {
                ck_assert_int_eq(opens(store, changes->length, other, NULL), FILLED);
            }
            store_close(store);
        }
    }
}

static uint8_t *copy_of(const struct changes *changes)
{
    uint8_t *copy = malloc(AREA + changes->length);

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, memory_store_data(changes->store), AREA + changes->length);
    return copy;
}

START_TEST(a_power_cut_while_a_slot_is_filled_or_emptied_leaves_a_key)
{
    struct memory_log *log = memory_log_create(), *erased = memory_log_create();
    struct secret *two = passphrase("two"), *key;
    struct changes changes;
    struct error error = {0};
    uint8_t *before;

    make_header(&changes);
    before = copy_of(&changes);
    ck_assert_int_eq(opens(changes.store, changes.length, "one", &key), 0);
    memory_store_set_log(changes.store, log);
    ck_assert_int_eq(luks_check_slot(&changes.edit, FILLED, &error), 0);
    ck_assert_int_eq(luks_fill_slot(&changes.edit, FILLED, key, two, 0, &error), 0);
    ck_assert_int_eq(opens(changes.store, changes.length, "two", NULL), FILLED);
    ck_assert_uint_eq(luks_usable_slots(&changes.edit), 2);
    check_cuts(log, &changes, before, "one", "two");
    free(before);
    before = copy_of(&changes);
    memory_store_set_log(changes.store, erased);
    ck_assert_int_eq(luks_empty_slot(&changes.edit, 0, &error), 0);
    ck_assert_int_eq(opens(changes.store, changes.length, "one", NULL), -EKEYREJECTED);
    ck_assert_uint_eq(luks_usable_slots(&changes.edit), 1);
    check_cuts(erased, &changes, before, "two", "two");
    /* Nothing of its stripes is left, and that is stable. */
    for (uint64_t at = 4096; at < 4096 + 64000; at += 64) {
        ck_assert_int_ne(
            memcmp(before + AREA + at, memory_store_data(changes.store) + AREA + at, 64), 0);
    }
    ck_assert_int_eq(memory_log_at(erased, memory_log_count(erased) - 1)->kind, MEMORY_LOG_SYNC);
    free(before);
    secret_destroy(key);
    secret_destroy(two);
    store_close(changes.store);
    memory_log_destroy(log);
    memory_log_destroy(erased);
}
END_TEST

START_TEST(a_slot_whose_bytes_are_anothers_is_not_changed)
{
    struct changes changes;
    struct error error = {0};

    make_header(&changes);
    changes.luks.slots[1].key_offset = changes.luks.slots[0].key_offset + 512;
    ck_assert_int_eq(luks_check_slot(&changes.edit, 1, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "slot 0"));
    changes.luks.slots[1].key_offset = 0; /* the header */
    ck_assert_int_eq(luks_check_slot(&changes.edit, 1, &error), -EINVAL);
    changes.luks.slots[1].key_offset = changes.length - 512; /* past the end */
    ck_assert_int_eq(luks_check_slot(&changes.edit, 1, &error), -EINVAL);
    ck_assert_int_eq(luks_check_slot(&changes.edit, 2, &error), 0);
    store_close(changes.store);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("luks");
    TCase *tcase = tcase_create("luks");

    tcase_add_test(tcase, slots_that_overlap_are_found);
    tcase_add_test(tcase, what_is_wrong_with_a_header_is_told);
    tcase_add_test(tcase, slots_that_reach_into_something_else_are_told);
    if (crypto_missing() == NULL) {
        tcase_add_loop_test(tcase, pbkdf2_gives_what_another_library_gives, 0, 5);
        tcase_add_test(tcase, stripes_come_to_the_key);
        tcase_add_loop_test(tcase, a_key_that_was_split_needs_every_stripe, 0, STRIPES);
        tcase_add_test(tcase, a_passphrase_opens_its_own_slot);
        tcase_add_test(tcase, a_slot_that_is_damaged_leaves_the_others);
        tcase_add_test(tcase, a_header_asks_for_no_more_than_some_slots_may);
        tcase_add_loop_test(tcase, what_is_hostile_is_refused, 0,
                            (int)(sizeof(hostile) / sizeof(hostile[0])));
        tcase_add_test(tcase, names_that_are_not_known_are_told);
        tcase_add_test(tcase, what_cannot_be_read_is_told);
        tcase_add_test(tcase, a_power_cut_while_a_slot_is_filled_or_emptied_leaves_a_key);
        tcase_add_test(tcase, a_slot_whose_bytes_are_anothers_is_not_changed);
    }
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
