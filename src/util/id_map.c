/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/id_map.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

/* Lines of: first id inside, first id outside, how many. `outside` is `id` where there are none. */
static bool find(const char *path, uint64_t id, uint64_t *outside)
{
    FILE *map = fopen(path, "re");
    uint64_t first, first_outside, count;
    bool any = false, known = false;

    *outside = id;
    if (map == NULL) {
        return true;
    }
    while (!known &&
           fscanf(map, "%" SCNu64 " %" SCNu64 " %" SCNu64, &first, &first_outside, &count) == 3) {
        any = true;
        known = id >= first && id - first < count;
        *outside = known ? first_outside + (id - first) : id;
    }
    fclose(map);
    return known || !any;
}

static bool knows(const char *path, uint64_t id)
{
    uint64_t outside;

    return find(path, id, &outside);
}

bool id_map_knows_user(uid_t user)
{
    return knows("/proc/self/uid_map", user);
}

bool id_map_knows_group(gid_t group)
{
    return knows("/proc/self/gid_map", group);
}

bool id_map_outside(uid_t user, uid_t *outside)
{
    uint64_t found;
    bool known = find("/proc/self/uid_map", user, &found);

    *outside = (uid_t)found;
    return known;
}
