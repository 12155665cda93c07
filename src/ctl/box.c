/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/box.h"

#include "crypto/library.h"
#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "store/nbd.h"
#include "store/nbdkit.h"
#include "util/box.h"
#include "util/memory.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* What is found out of the host's files when it is first wanted. */
static int look_before(struct ctl *ctl, const struct common_flags *flags, bool decrypts)
{
    tzset();
    (void)memory_size();
    if (decrypts && crypto_missing() == NULL) {
        (void)crypto_begin(); /* who has to decrypt says it */
    }
    return !decrypts || ctl_keys(ctl, flags) != NULL ? 0 : -ctl->error.code;
}

static int start_opener(struct ctl *ctl, const struct common_flags *flags,
                        const struct ctl_box *box)
{
    enum image_follow follow = ctl_names(flags).follow;
    const struct opener_policy policy = {
        .given = box->images,
        .makes = box->makes,
        .follows = follow != IMAGE_FOLLOW_NONE,
        .beneath = follow == IMAGE_FOLLOW_BESIDE,
        .trusts = flags->trust_names.value,
    };
    sigset_t before;
    int r;

    interrupt_hold(&before); /* for ever in the opener: it ends with this process, and not before */
    r = opener_start(&policy);
    interrupt_release(&before);
    return r == 0 ? 0
                  : error_set(&ctl->error, -r,
                              "%s: the process that opens files for this one cannot be started: "
                              "%s; --sandbox=off does without",
                              box->images[0], strerror(-r));
}

/* Whether servers may be asked: then files are read for that, wherever they are. */
static bool needs_network(const struct common_flags *flags, const struct ctl_box *box)
{
    bool needs = ctl_names(flags).follow == IMAGE_FOLLOW_ALL;

    for (const char *const *image = box->images; *image != NULL; image++) {
        needs = needs || (store_nbd_is_address(*image) && !nbdkit_is_address(*image));
    }
    return needs;
}

/* What cannot be done from within for images that are on servers. *local: one is nbdkit's. */
static int prepare_servers(struct ctl *ctl, const struct ctl_box *box, bool *local)
{
    int r = 0;

    *local = false;
    for (const char *const *image = box->images; r == 0 && *image != NULL; image++) {
        if (store_nbd_is_address(*image)) {
            r = store_nbd_prepare(*image, &ctl->error);
        }
        *local = *local || nbdkit_is_address(*image);
    }
    return r;
}

int ctl_box_enter(struct ctl *ctl, const struct common_flags *flags, const struct ctl_box *box)
{
    static const char *const all[] = {"/", NULL};
    struct box_needs needs = {.opener = true, .terminal = true};
    struct box entered;
    const char *missing;
    int r;

    if (flags->sandbox.value == CTL_SANDBOX_OFF) {
        return 0;
    }
    r = look_before(ctl, flags, box->decrypts);
    if (r == 0) {
        r = prepare_servers(ctl, box, &needs.local_server);
    }
    if (r == 0) {
        r = start_opener(ctl, flags, box);
    }
    if (r < 0) {
        return r;
    }
    memory_map_code();
    memory_map_heap();
    needs.network = needs_network(flags, box);
    needs.read = needs.network ? all : NULL;
    box_enter(&needs, NULL, &entered);
    missing = box_missing(&entered);
    if (missing != NULL && flags->sandbox.value == CTL_SANDBOX_STRICT) {
        return error_set(&ctl->error, EPERM, "--sandbox=strict: %s; --sandbox=on does without",
                         missing);
    }
    return 0;
}

void ctl_box_leave(void)
{
    opener_stop();
    nbdkit_stop();
}
