/* SPDX-License-Identifier: MIT */
/* Expected values are those of the ciphers' papers, and of another library. */
#include "config.h"

#include "crypto/cipher.h"
#include "crypto/library.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR_NUMBER UINT64_C(0x123456789a)
#define SECTORS       8

static uint8_t counting_key[CIPHER_KEY_MAX];

static void unhex(const char *text, uint8_t *bytes)
{
    for (; *text != '\0'; text += 2) {
        char digits[] = {text[0], text[1], '\0'};

        *bytes++ = (uint8_t)strtoul(digits, NULL, 16);
    }
}

static void fill(uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(i % 251);
    }
}

static struct cipher *create(const char *name, const char *mode, const char *iv,
                             const char *iv_hash, const uint8_t *key, size_t key_length)
{
    const struct cipher_kind kind = {name, mode, iv, iv_hash};
    struct cipher *cipher;

    ck_assert_int_eq(cipher_create(&kind, key, key_length, &cipher), 0);
    return cipher;
}

/* --- One block, by the papers ----------------------------------------------------------- */

static const struct {
    const char *name, *key, *plain, *encrypted;
} blocks[] = {
    /* FIPS 197, appendix C */
    {"aes", "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff",
     "69c4e0d86a7b0430d8cdb78070b4c55a"},
    {"aes", "000102030405060708090a0b0c0d0e0f1011121314151617", "00112233445566778899aabbccddeeff",
     "dda97ca4864cdfe06eaf70a0ec0d7191"},
    {"aes", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
     "00112233445566778899aabbccddeeff", "8ea2b7ca516745bfeafc49904b496089"},
    /* Twofish: A 128-Bit Block Cipher, appendix B.2 */
    {"twofish", "00000000000000000000000000000000", "00000000000000000000000000000000",
     "9f589f5cf6122c32b6bfec2f2ae8c35a"},
    {"twofish", "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
     "00000000000000000000000000000000", "37527be0052334b89f0cfccae87cfa20"},
    /* Serpent, by another library */
    {"serpent", "80000000000000000000000000000000", "00000000000000000000000000000000",
     "264e5481eff42a4606abda06c0bfda3d"},
    {"serpent", "8000000000000000000000000000000000000000000000000000000000000000",
     "00000000000000000000000000000000", "a223aa1288463c0e2be38ebd825616c0"},
    /* RFC 2144, B.1 */
    {"cast5", "0123456712345678234567893456789a", "0123456789abcdef", "238b4fe5847e44b2"},
};

START_TEST(each_cipher_gives_the_block_that_its_paper_says)
{
    uint8_t key[CIPHER_KEY_MAX], bytes[16], expected[16];
    size_t length = strlen(blocks[_i].plain) / 2;
    struct cipher *cipher;

    unhex(blocks[_i].key, key);
    unhex(blocks[_i].plain, bytes);
    unhex(blocks[_i].encrypted, expected);
    cipher = create(blocks[_i].name, "ecb", "", "", key, strlen(blocks[_i].key) / 2);
    ck_assert_int_eq(cipher_encrypt(cipher, 0, bytes, bytes, length), 0);
    ck_assert_mem_eq(bytes, expected, length);
    ck_assert_int_eq(cipher_decrypt(cipher, 9, bytes, length), 0);
    unhex(blocks[_i].plain, expected);
    ck_assert_mem_eq(bytes, expected, length);
    cipher_destroy(cipher);
}
END_TEST

/* IEEE 1619, vectors 4 and 10: whole sectors, the number of which is the tweak. */
START_TEST(xts_gives_the_sectors_of_the_standard)
{
    static const char *const keys[] = {
        "2718281828459045235360287471352631415926535897932384626433832795",
        "2718281828459045235360287471352662497757247093699959574966967627"
        "3141592653589793238462643383279502884197169399375105820974944592",
    };
    static const char *const begins[] = {
        "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
        "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
    };
    static const uint64_t numbers[] = {0, 0xff};
    uint8_t key[CIPHER_KEY_MAX], bytes[CIPHER_SECTOR], expected[32];
    struct cipher *cipher;

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)i;
    }
    unhex(keys[_i], key);
    unhex(begins[_i], expected);
    cipher = create("aes", "xts", "plain64", "", key, strlen(keys[_i]) / 2);
    ck_assert_int_eq(cipher_encrypt(cipher, numbers[_i], bytes, bytes, sizeof(bytes)), 0);
    ck_assert_mem_eq(bytes, expected, sizeof(expected));
    cipher_destroy(cipher);
}
END_TEST

/* --- IVs, by another library ------------------------------------------------------------ */

static const struct {
    const char *mode, *iv, *iv_hash, *begin;
    size_t key_length;
} ivs[] = {
    {"cbc", "plain64", "", "e836cb47c79aa0a6550ea8d2121fc7280b531af816d689b2c4d35b07a54674f4", 32},
    {"cbc", "plain", "", "86d24c1e594acb6c64d57ae7f4a9d638296df2fcd4a9ab4ae3eb9adf66d96851", 32},
    {"cbc", "essiv", "sha256", "97be7e93b5e5a78d4148c8997838ac2cc781fba654e8b016d20fe12968e7eb34",
     32},
    {"ctr", "plain64", "", "1265a36628e813e760cd7a82869600e578b1c6c15b5bff16a35b21f817f3349c", 32},
    {"xts", "plain64", "", "1ad4aaecba8050a2cdaaa7327fec9bf450bf671c1fb491a77a01bb3517f343cc", 64},
};

START_TEST(the_iv_is_made_of_the_sectors_number)
{
    struct cipher *cipher =
        create("aes", ivs[_i].mode, ivs[_i].iv, ivs[_i].iv_hash, counting_key, ivs[_i].key_length);
    uint8_t bytes[CIPHER_SECTOR], expected[32];

    fill(bytes, sizeof(bytes));
    unhex(ivs[_i].begin, expected);
    ck_assert_int_eq(cipher_encrypt(cipher, SECTOR_NUMBER, bytes, bytes, sizeof(bytes)), 0);
    ck_assert_mem_eq(bytes, expected, sizeof(expected));
    cipher_destroy(cipher);
}
END_TEST

/* --- All combinations ------------------------------------------------------------------- */

static void check_round_trip(struct cipher *cipher, bool alike)
{
    uint8_t plain[SECTORS * CIPHER_SECTOR], bytes[sizeof(plain)], one[CIPHER_SECTOR];

    memset(plain, 0x5a, sizeof(plain));
    ck_assert_int_eq(cipher_encrypt(cipher, 7, plain, bytes, sizeof(plain)), 0);
    ck_assert_int_eq(plain[0], 0x5a);
    ck_assert_mem_ne(bytes, plain, sizeof(one));
    /* The sectors of a run are those that each is alone, and no two are alike. */
    ck_assert_int_eq(cipher_encrypt(cipher, 8, plain, one, sizeof(one)), 0);
    ck_assert_mem_eq(bytes + sizeof(one), one, sizeof(one));
    ck_assert_int_eq(memcmp(bytes, one, sizeof(one)) == 0, alike);
    /* What is encrypted where it is, is the same. */
    ck_assert_int_eq(cipher_encrypt(cipher, 7, plain, plain, sizeof(plain)), 0);
    ck_assert_mem_eq(bytes, plain, sizeof(plain));
    ck_assert_int_eq(cipher_decrypt(cipher, 7, bytes, sizeof(bytes)), 0);
    memset(plain, 0x5a, sizeof(plain));
    ck_assert_mem_eq(bytes, plain, sizeof(plain));
}

START_TEST(whatever_is_encrypted_is_decrypted_by_the_same)
{
    static const char *const modes[] = {"xts", "cbc", "ecb", "ctr"};
    static const char *const kinds[] = {"plain", "plain64", "essiv"};
    static const struct {
        const char *name;
        size_t key_length;
    } names[] = {{"aes", 16},     {"aes", 24},     {"aes", 32},     {"serpent", 16},
                 {"serpent", 24}, {"serpent", 32}, {"twofish", 16}, {"twofish", 32}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (size_t mode = 0; mode < 4; mode++) {
            for (size_t iv = 0; iv < 3; iv++) {
                struct cipher *cipher =
                    create(names[i].name, modes[mode], kinds[iv], iv == 2 ? "sha256" : "",
                           counting_key, names[i].key_length * (mode == 0 ? 2 : 1));

                check_round_trip(cipher, mode == 2);
                cipher_destroy(cipher);
            }
        }
    }
}
END_TEST

static const struct {
    const char *name, *mode, *iv, *iv_hash;
    size_t key_length;
} unknown[] = {
    {"aes", "xts", "plain64", "", 33},
    {"aes", "xts", "plain64", "", 16},
    {"aes", "cbc", "plain64", "", 64},
    {"aes", "cbc", "plain64", "", 0},
    {"aes", "cbc", "", "", 32},
    {"aes", "gcm", "plain64", "", 32},
    {"aes", "cbc", "random", "", 32},
    {"aes", "cbc", "essiv", "", 32},
    {"aes", "cbc", "essiv", "sha1", 32},
    {"aes", "cbc", "essiv", "sha3", 32},
    {"cast5", "xts", "plain64", "", 32},
    {"cast5", "cbc", "essiv", "sha256", 16},
    {"", "cbc", "plain64", "", 32},
    {"AES", "cbc", "plain64", "", 32},
    {"twofish", "cbc", "plain64", "", 24},
    {"rot13", "cbc", "plain64", "", 16},
};

START_TEST(what_is_not_known_is_refused)
{
    const struct cipher_kind kind = {unknown[_i].name, unknown[_i].mode, unknown[_i].iv,
                                     unknown[_i].iv_hash};
    struct cipher *cipher;

    ck_assert_int_eq(cipher_create(&kind, counting_key, unknown[_i].key_length, &cipher), -ENOTSUP);
    ck_assert_ptr_null(cipher);
}
END_TEST

START_TEST(a_part_of_a_block_is_refused)
{
    struct cipher *cipher = create("aes", "cbc", "plain64", "", counting_key, 32);
    uint8_t bytes[CIPHER_SECTOR] = {0};

    ck_assert_int_eq(cipher_encrypt(cipher, 0, bytes, bytes, 511), -EINVAL);
    ck_assert_int_eq(cipher_decrypt(cipher, 0, bytes, 8), -EINVAL);
    ck_assert_int_eq(cipher_decrypt(cipher, 0, bytes, 0), 0);
    cipher_destroy(cipher);
    cipher_destroy(NULL);
}
END_TEST

START_TEST(two_keys_by_chance_are_not_the_same)
{
    struct cipher *one, *other;
    uint8_t a[CIPHER_SECTOR] = {0}, b[CIPHER_SECTOR] = {0};

    ck_assert_int_eq(cipher_create_random(&one), 0);
    ck_assert_int_eq(cipher_create_random(&other), 0);
    ck_assert_int_eq(cipher_encrypt(one, 0, a, a, sizeof(a)), 0);
    ck_assert_int_eq(cipher_encrypt(other, 0, b, b, sizeof(b)), 0);
    ck_assert_mem_ne(a, b, sizeof(a));
    cipher_destroy(one);
    cipher_destroy(other);
}
END_TEST

/* --- Threads ---------------------------------------------------------------------------- */

static void *work(void *context)
{
    struct cipher *cipher = context;
    uint8_t bytes[SECTORS * CIPHER_SECTOR], plain[sizeof(bytes)];

    fill(plain, sizeof(plain));
    for (uint64_t i = 0; i < 500; i++) {
        ck_assert_int_eq(cipher_encrypt(cipher, i, plain, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(cipher_decrypt(cipher, i, bytes, sizeof(bytes)), 0);
        ck_assert_mem_eq(bytes, plain, sizeof(plain));
    }
    return NULL;
}

START_TEST(threads_share_a_cipher)
{
    struct cipher *cipher = create("aes", "cbc", "essiv", "sha256", counting_key, 32);
    pthread_t threads[8];

    for (size_t i = 0; i < 8; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, cipher), 0);
    }
    for (size_t i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    cipher_destroy(cipher);
}
END_TEST

START_TEST(a_build_without_the_library_says_which)
{
    const struct cipher_kind kind = {"aes", "cbc", "plain64", ""};
    struct cipher *cipher;

    ck_assert_str_eq(crypto_missing(), "libgcrypt");
    ck_assert_int_eq(cipher_create(&kind, counting_key, 32, &cipher), -ENOSYS);
    ck_assert_int_eq(cipher_create_random(&cipher), -ENOSYS);
    ck_assert(!crypto_knows_hash("sha256"));
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

int main(void)
{
    Suite *suite = suite_create("cipher");
    TCase *tcase = tcase_create("cipher");

    for (size_t i = 0; i < sizeof(counting_key); i++) {
        counting_key[i] = (uint8_t)i;
    }
    if (crypto_missing() != NULL) {
        tcase_add_test(tcase, a_build_without_the_library_says_which);
    } else {
        tcase_add_loop_test(tcase, each_cipher_gives_the_block_that_its_paper_says, 0,
                            COUNT(blocks));
        tcase_add_loop_test(tcase, xts_gives_the_sectors_of_the_standard, 0, 2);
        tcase_add_loop_test(tcase, the_iv_is_made_of_the_sectors_number, 0, COUNT(ivs));
        tcase_add_test(tcase, whatever_is_encrypted_is_decrypted_by_the_same);
        tcase_add_loop_test(tcase, what_is_not_known_is_refused, 0, COUNT(unknown));
        tcase_add_test(tcase, a_part_of_a_block_is_refused);
        tcase_add_test(tcase, two_keys_by_chance_are_not_the_same);
        tcase_add_test(tcase, threads_share_a_cipher);
    }
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
