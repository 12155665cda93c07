/* SPDX-License-Identifier: MIT */
/* What qcow2fs prints of itself on standard output, which the caller flushes. */
#ifndef FUSE_HELP_H
#define FUSE_HELP_H

/* --help: the command line, examples, and all mount options. */
void help_print(void);

/* --version: the versions, and what was built in. */
void help_print_version(void);

#endif
