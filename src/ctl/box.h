/* SPDX-License-Identifier: MIT */
/*
 * The box (util/box.h) of commands that only read: entered before the first byte of an image is
 * looked at. What they still want of the host, the opener does (store/opener.h). Commands that
 * change something are not in one.
 */
#ifndef CTL_BOX_H
#define CTL_BOX_H

#include "ctl/command.h"
#include "store/opener.h"

#define CTL_BOX_NAMES 4

struct ctl_box {
    const char *images[CTL_BOX_NAMES];      /* as the user named them; NULL at the end */
    struct opener_new makes[CTL_BOX_NAMES]; /* files that the command makes */
    bool decrypts;                          /* keys are asked for before */
};

/*
 * To be called while there is one thread. 0; or a negative errno with a sentence, where strict was
 * asked for and something is missing, or keys cannot be read. All of `box` lives until then.
 */
int ctl_box_enter(struct ctl *ctl, const struct common_flags *flags, const struct ctl_box *box);

/* When nothing is opened any more, also where none was entered. */
void ctl_box_leave(void);

#endif
