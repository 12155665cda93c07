/* SPDX-License-Identifier: MIT */
/* The LUKS header of an encrypted image: what meta/luks.h finds wrong with it, as findings. */
#include "config.h"

#include "check/check.h"
#include "meta/format.h"
#include "meta/luks.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct telling {
    const struct check_options *options;
    uint64_t errors;
};

static void report(struct telling *telling, enum check_finding finding, const char *text)
{
    char line[ERROR_TEXT_MAX + 32];

    telling->errors += finding == CHECK_ERROR;
    if (telling->options->report != NULL) {
        snprintf(line, sizeof(line), "encryption header: %s", text);
        printable_clean(line);
        telling->options->report(telling->options->context, finding, line);
    }
}

static void tell(void *context, bool is_error, uint64_t at, const char *text)
{
    (void)at;
    report(context, is_error ? CHECK_ERROR : CHECK_NOTE, text);
}

void check_encryption(const struct header *header, struct store *file, const char *name,
                      const struct check_options *options, uint64_t *errors, uint64_t *unreadable)
{
    struct telling telling = {.options = options};
    struct error error = {0};
    struct luks luks;
    const char *text = error.text;
    int result;

    *errors = *unreadable = 0;
    if (header->crypt_method != CRYPT_LUKS) {
        return;
    }
    result = luks_read(file, header->crypt_header_offset, header->crypt_header_length, name, &luks,
                       &error);
    if (result == 0) {
        luks_faults(&luks, header->crypt_header_length, tell, &telling);
    } else {
        if (strncmp(text, name, strlen(name)) == 0 && strncmp(text + strlen(name), ": ", 2) == 0) {
            text += strlen(name) + 2;
        }
        *unreadable = result != -EINVAL;
        report(&telling, result == -EINVAL ? CHECK_ERROR : CHECK_UNREADABLE, text);
    }
    *errors = telling.errors;
}
