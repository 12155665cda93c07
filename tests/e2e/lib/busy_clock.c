/* SPDX-License-Identifier: MIT */
/*
 * For LD_PRELOAD of qemu-img: what getrusage() says of time is that each call took two seconds of
 * the processor. QEMU measures so how many iterations an encryption header shall have, for some
 * seconds each time; this way it is content with the first measurement, and makes few.
 */
#include <string.h>
#include <sys/resource.h>

int getrusage(__rusage_who_t who, struct rusage *usage)
{
    static _Thread_local long seconds;

    (void)who;
    memset(usage, 0, sizeof(*usage));
    seconds += 2;
    usage->ru_utime.tv_sec = seconds;
    return 0;
}
