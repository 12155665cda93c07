/* SPDX-License-Identifier: MIT */
/* What both programs do before anything else. For their main() alone. */
#ifndef PROCESS_H
#define PROCESS_H

/*
 * Opens the standard descriptors that are closed: a file that is opened later
 * must not become 0, 1 or 2, where who prints would write into it. 0 or a negative errno.
 */
int process_hold_standard_descriptors(void);

/* A long chain takes more descriptors than most shells allow at first. */
void process_raise_descriptor_limit(void);

#endif
