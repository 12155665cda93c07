/* SPDX-License-Identifier: MIT */
/*
 * The image's host as a server has it (store/nbd): of a size that does not change, and behind what
 * reads ahead and what keeps in a file of this machine what was read. The file is kept: who opens
 * the host again, at the end or as a crash left it, goes on with it.
 */
#ifndef RACES_REMOTE_H
#define RACES_REMOTE_H

#include "run.h"

/* `host` is one of run->hosts, or of a crash of it. NULL with a sentence. */
struct store *remote_store(const struct run *run, struct host *host, struct error *error);

/* The file is as it was before any run. */
void remote_forget(const struct run *run);

/* Right after hosts_crash(), of the crash of that number: what of the file is there then. */
void remote_crash(const struct run *run, size_t number);

/* Somebody takes its space back while it is in use: whoever reads must not notice. */
void remote_cut_off(const struct run *run, struct chance *chance);

#endif
