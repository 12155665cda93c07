/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/create_values.h"

#include "meta/format.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum compat {
    COMPAT_0_10,
    COMPAT_1_1,
};

/* By the place of the words in the tables. */
enum encryption {
    ENCRYPTION_AES,
    ENCRYPTION_LUKS,
};

static const struct cipher_choice {
    const char *name; /* of LUKS */
    uint32_t key_bytes;
} cipher_choices[] = {
    {"aes", 16},     {"aes", 24},     {"aes", 32},     {"cast5", 16},   {"serpent", 16},
    {"serpent", 24}, {"serpent", 32}, {"twofish", 16}, {"twofish", 24}, {"twofish", 32},
};
#define CIPHERS                                                                          \
    "aes-128 aes-192 aes-256 cast5-128 serpent-128 serpent-192 serpent-256 twofish-128 " \
    "twofish-192 twofish-256"
#define CIPHER_DEFAULT 2 /* aes-256 */

static const char *const mode_choices[] = {"xts", "cbc", "ecb", "ctr"};
#define MODES "xts cbc ecb ctr"

static const char *const iv_choices[] = {"plain64", "plain", "essiv"};
#define IVS "plain64 plain essiv"

static const char *const hash_choices[] = {"sha256", "sha1", "sha224",   "sha384",
                                           "sha512", "md5",  "ripemd160"};
#define HASHES "sha256 sha1 sha224 sha384 sha512 md5 ripemd160"

bool create_values_encrypt(const struct create_values *values)
{
    return values->encrypt_format.set || values->encryption.value;
}

static bool asks_for_luks(const struct create_values *values)
{
    return values->encrypt_format.set && values->encrypt_format.value == ENCRYPTION_LUKS;
}

int create_values_check(const struct create_values *values, const char *path, struct error *error)
{
    const struct {
        bool given;
        const char *name;
    } of_luks[] = {
        {values->cipher.set, "encrypt.cipher-alg"},
        {values->cipher_mode.set, "encrypt.cipher-mode"},
        {values->iv.set, "encrypt.ivgen-alg"},
        {values->iv_hash.set, "encrypt.ivgen-hash-alg"},
        {values->hash.set, "encrypt.hash-alg"},
        {values->iteration_time.set, "encrypt.iter-time"},
    };

    if (values->encrypt_format.set && values->encryption.set) {
        return error_set(error, EINVAL,
                         "%s: encryption=on is an old name of encrypt.format=aes; leave out one",
                         path);
    }
    for (size_t i = 0; i < sizeof(of_luks) / sizeof(of_luks[0]); i++) {
        if (of_luks[i].given && !asks_for_luks(values)) {
            return error_set(
                error, EINVAL,
                "%s: %s is an option of LUKS; add encrypt.format=luks, or leave it out", path,
                of_luks[i].name);
        }
    }
    if (values->key_secret != NULL && !create_values_encrypt(values)) {
        return error_set(error, EINVAL,
                         "%s: encrypt.key-secret names a key, and the image would not be "
                         "encrypted; add encrypt.format=luks, or leave it out",
                         path);
    }
    return 0;
}

static void take_luks(const struct create_values *values, struct luks_wish *wish)
{
    const struct cipher_choice *cipher =
        &cipher_choices[values->cipher.set ? values->cipher.value : CIPHER_DEFAULT];

    *wish = (struct luks_wish){
        .kind =
            {
                .name = cipher->name,
                .mode = mode_choices[values->cipher_mode.value],
                .iv = iv_choices[values->iv.value],
                .iv_hash = hash_choices[values->iv_hash.value],
            },
        .hash = hash_choices[values->hash.value],
        .key_bytes = cipher->key_bytes,
        .iteration_time = values->iteration_time.set ? (uint32_t)values->iteration_time.value
                                                     : LUKS_ITER_TIME_DEFAULT,
    };
    if (strcmp(wish->kind.mode, "xts") == 0) {
        wish->key_bytes *= 2;
    }
}

void create_values_take(const struct create_values *values, struct create_parameters *parameters)
{
    parameters->version = values->compat.set && values->compat.value == COMPAT_0_10 ? 2 : 3;
    parameters->cluster_size =
        values->cluster_size.set ? values->cluster_size.value : CREATE_CLUSTER_SIZE_DEFAULT;
    parameters->refcount_bits =
        values->refcount_bits.set ? values->refcount_bits.value : CREATE_REFCOUNT_BITS_DEFAULT;
    parameters->lazy_refcounts = values->lazy_refcounts.value;
    parameters->extended_l2 = values->extended_l2.value;
    parameters->compression_type = (uint8_t)values->compression_type.value;
    parameters->preallocation = (enum preallocation)values->preallocation.value;
    parameters->data_file = values->data_file;
    parameters->data_file_raw = values->data_file_raw.value;
    parameters->backing_file = values->backing_file;
    parameters->backing_format = values->backing_format;
    if (asks_for_luks(values)) {
        parameters->crypt_method = CRYPT_LUKS;
        take_luks(values, &parameters->luks);
    } else if (create_values_encrypt(values)) {
        parameters->crypt_method = CRYPT_AES;
    }
}

bool create_values_given(const struct create_values *values)
{
    static const struct create_values none;

    return memcmp(values, &none, sizeof(none)) != 0;
}

void create_values_hint(const struct create_values *values, const char *path, struct new_file *file,
                        struct log *log)
{
    const struct new_file_hints hints = {
        .nocow = values->nocow.value,
        .extent_size_hint = (uint32_t)values->extent_size_hint.value,
    };
    int result = new_file_hint(file, &hints);

    /* Without them a file is as good. */
    if (result < 0) {
        log_line(log, LOG_LEVEL_WARNING, "%s: is made without %s: the host's file system says: %s",
                 path, hints.nocow ? "nocow" : "extent_size_hint", strerror(-result));
    }
}

int create_check_device(const char *path, struct store *store, uint64_t needed, struct error *error)
{
    char has[SIZE_TEXT_MAX], needs[SIZE_TEXT_MAX];
    struct store_info info;
    int result = store_info(store, &info);

    if (result == 0 && info.size >= needed) {
        return 0;
    }
    return error_set(error, result < 0 ? -result : ENOSPC,
                     "%s: this device has %s (%" PRIu64 " bytes), and %s (%" PRIu64 " bytes) are "
                     "needed; use a larger device, or a smaller size",
                     path, size_format(result == 0 ? info.size : 0, has),
                     result == 0 ? info.size : 0, size_format(needed, needs), needed);
}

#define FIELD(member) offsetof(struct create_values, member)

#define ENCRYPT(option, member, words, first, sentence)                                 \
    {                                                                                   \
        .name = "encrypt." option, .type = OPTION_CHOICE, .field = FIELD(member),       \
        .choices = words, .value_name = "NAME", .default_text = first, .help = sentence \
    }

const struct option_spec create_values[] = {
    {.name = "compat",
     .type = OPTION_CHOICE,
     .field = FIELD(compat),
     .choices = "0.10=v2 1.1=v3",
     .value_name = "LEVEL",
     .default_text = "1.1",
     .help = "version of the format: 0.10 (also v2) for programs before QEMU 1.1, 1.1 (also v3) "
             "for all that is below"},
    {.name = "cluster_size",
     .type = OPTION_SIZE,
     .field = FIELD(cluster_size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .default_text = "64k",
     .help = "size of a cluster, a power of two from 512 to 2M"},
    {.name = "refcount_bits",
     .type = OPTION_UINT,
     .field = FIELD(refcount_bits),
     .max = UINT32_MAX,
     .value_name = "N",
     .default_text = "16",
     .help = "width of a cluster's reference count: 1, 2, 4, 8, 16, 32 or 64"},
    {.name = "lazy_refcounts",
     .type = OPTION_BOOL,
     .field = FIELD(lazy_refcounts),
     .value_name = "on|off",
     .default_text = "off",
     .help = "write reference counts late; after a crash they must be repaired"},
    {.name = "extended_l2",
     .type = OPTION_BOOL,
     .field = FIELD(extended_l2),
     .value_name = "on|off",
     .default_text = "off",
     .help = "allocate subclusters, 32 in a cluster, which has 16k at least"},
    {.name = "compression_type",
     .type = OPTION_CHOICE,
     .field = FIELD(compression_type),
     .choices = "zlib zstd",
     .value_name = "TYPE",
     .default_text = "zlib",
     .help = "how clusters are compressed that a program compresses: zlib or zstd"},
    {.name = "preallocation",
     .type = OPTION_CHOICE,
     .field = FIELD(preallocation),
     .choices = "off metadata falloc full",
     .value_name = "MODE",
     .default_text = "off",
     .help = "metadata gives each cluster its place in the file, falloc reserves the host's space, "
             "full writes it; with a backing file only together with extended_l2"},
    {.name = "nocow",
     .type = OPTION_BOOL,
     .field = FIELD(nocow),
     .value_name = "on|off",
     .default_text = "off",
     .help = "on btrfs, write the file in place: faster, but without checksums"},
    {.name = "extent_size_hint",
     .type = OPTION_SIZE,
     .field = FIELD(extent_size_hint),
     .max = UINT32_MAX,
     .value_name = "SIZE",
     .default_text = "0: what the file system does",
     .help = "on xfs, give the file space in pieces of this size"},
    {.name = "data_file",
     .type = OPTION_STRING,
     .field = FIELD(data_file),
     .value_name = "FILE",
     .help = "keep the guest's data in this file, and only the tables in IMAGE; it is made"},
    {.name = "data_file_raw",
     .type = OPTION_BOOL,
     .field = FIELD(data_file_raw),
     .value_name = "on|off",
     .default_text = "off",
     .help = "keep the data file valid as a raw image of the disk; one that exists is taken with "
             "what it holds, unless --force"},
    {.name = "backing_file",
     .type = OPTION_STRING,
     .field = FIELD(backing_file),
     .value_name = "FILE",
     .help = "the same as -b"},
    {.name = "backing_fmt",
     .type = OPTION_STRING,
     .field = FIELD(backing_format),
     .value_name = "FMT",
     .help = "the same as -F"},
    {.name = "size",
     .type = OPTION_SIZE,
     .field = FIELD(size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "the same as SIZE behind IMAGE"},
    {.name = "encryption", .type = OPTION_BOOL, .field = FIELD(encryption)},
    ENCRYPT("format", encrypt_format, "aes luks", "not encrypted",
            "encrypt the disk: luks, or aes, which is old and weak, for programs that know no "
            "other; with the key of --key-file (of convert: --new-key-file)"),
    {.name = "encrypt.key-secret",
     .type = OPTION_STRING,
     .field = FIELD(key_secret),
     .value_name = "ID",
     .help = "the key is that of --object secret,id=ID,file=FILE, as of qemu-img"},
    ENCRYPT("cipher-alg", cipher, CIPHERS, "aes-256", "with LUKS: the cipher"),
    ENCRYPT("cipher-mode", cipher_mode, MODES, "xts", "with LUKS: the mode of the cipher"),
    ENCRYPT("ivgen-alg", iv, IVS, "plain64",
            "with LUKS: how a sector's initialization vector is made"),
    ENCRYPT("ivgen-hash-alg", iv_hash, HASHES, "sha256", "with LUKS: the hash for essiv"),
    ENCRYPT("hash-alg", hash, HASHES, "sha256", "with LUKS: the hash of the key derivation"),
    {.name = "encrypt.iter-time",
     .type = OPTION_UINT,
     .field = FIELD(iteration_time),
     .max = UINT32_MAX,
     .value_name = "MS",
     .default_text = "2000",
     .help = "with LUKS: how long the key derivation shall take on this machine, in milliseconds"},
    {.name = NULL},
};
