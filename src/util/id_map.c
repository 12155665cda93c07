/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/id_map.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

/* Lines of: first id inside, first id outside, how many. */
static bool knows(const char *path, uint64_t id)
{
    FILE *map = fopen(path, "re");
    uint64_t inside, outside, count;
    bool any = false, known = false;

    if (map == NULL) {
        return true;
    }
    while (fscanf(map, "%" SCNu64 " %" SCNu64 " %" SCNu64, &inside, &outside, &count) == 3) {
        any = true;
        known |= id >= inside && id - inside < count;
    }
    fclose(map);
    return known || !any;
}

bool id_map_knows_user(uid_t user)
{
    return knows("/proc/self/uid_map", user);
}

bool id_map_knows_group(gid_t group)
{
    return knows("/proc/self/gid_map", group);
}
