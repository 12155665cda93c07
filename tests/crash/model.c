/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "model.h"

#include "tools.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC UINT32_C(0x5354414d)

static const uint8_t zeros[SECTOR];

/* --- Stamps -------------------------------------------------------------------------------- */

struct stamp {
    uint32_t magic, sector, generation, mixed;
};

static struct stamp stamp_of(uint64_t sector, uint32_t generation)
{
    uint32_t number = (uint32_t)sector;

    return (struct stamp){MAGIC, number, generation, (number * 2654435761U) ^ ~generation};
}

static void stamp_sector(uint8_t *content, uint64_t sector, uint32_t generation)
{
    const struct stamp stamp = stamp_of(sector, generation);
    size_t at;

    for (at = 0; at < SECTOR; at += sizeof(stamp)) {
        memcpy(content + at, &stamp, sizeof(stamp));
    }
}

void describe_sector(const uint8_t *content, char *text, size_t size)
{
    struct stamp stamp, other;

    memcpy(&stamp, content, sizeof(stamp));
    memcpy(&other, content + SECTOR - sizeof(other), sizeof(other));
    if (memcmp(content, zeros, SECTOR) == 0) {
        snprintf(text, size, "zeros");
    } else if (stamp.magic == MAGIC || other.magic == MAGIC) {
        snprintf(text, size, "begins with the stamp of sector %u, generation %u, ends with %u, %u",
                 stamp.sector, stamp.generation, other.sector, other.generation);
    } else {
        snprintf(text, size, "no stamp: %02x %02x %02x %02x %02x %02x %02x %02x ...", content[0],
                 content[1], content[2], content[3], content[4], content[5], content[6],
                 content[7]);
    }
}

bool is_stamped(const uint8_t *content, uint64_t length)
{
    uint64_t at;

    for (at = 0; at + sizeof(struct stamp) <= length; at += sizeof(struct stamp)) {
        uint32_t magic;

        memcpy(&magic, content + at, sizeof(magic));
        if (magic == MAGIC) {
            return true;
        }
    }
    return false;
}

/* --- Its life ------------------------------------------------------------------------------ */

void model_init(struct model *model, struct crash_log *log, const uint8_t *base, uint64_t size,
                uint64_t most)
{
    most = max_u64(most, size);
    *model = (struct model){.log = log, .sectors = div_round_up(most, SECTOR)};
    pthread_mutex_init(&model->mutex, NULL);
    model->base = grab(model->sectors * SECTOR);
    memcpy(model->base, base, size);
    model->newest = grab(model->sectors * sizeof(*model->newest));
    model->sizes = room(NULL, 0, &model->size_capacity, sizeof(*model->sizes));
    model->sizes[model->size_count++] = (struct size_version){.size = size};
}

void model_release(struct model *model)
{
    size_t i;

    for (i = 0; i < model->version_count; i++) {
        free(model->versions[i].content);
    }
    for (i = 0; i < model->snapshot_count; i++) {
        free(model->snapshots[i].bytes);
    }
    bitmap_states_release(&model->bitmaps);
    free(model->versions);
    free(model->sizes);
    free(model->flushes);
    free(model->newest);
    free(model->base);
    pthread_mutex_destroy(&model->mutex);
}

/* --- Requests ------------------------------------------------------------------------------ */

static const uint8_t *content_of(const struct model *model, uint64_t sector, size_t version)
{
    const uint8_t *content;

    if (version == 0) {
        return model->base + sector * SECTOR;
    }
    content = model->versions[version - 1].content;
    return content != NULL ? content : zeros;
}

static struct version *add_version(struct model *model, uint64_t sector, size_t born)
{
    struct version *version;

    model->versions = room(model->versions, model->version_count, &model->version_capacity,
                           sizeof(*model->versions));
    version = &model->versions[model->version_count++];
    *version = (struct version){.born = born, .done = NEVER, .older = model->newest[sector]};
    model->newest[sector] = model->version_count;
    return version;
}

/* The part [from, to) of the sector becomes a stamp, also in `data`, or zeros. */
static void change_sector(struct model *model, uint64_t sector, size_t born, uint64_t from,
                          uint64_t to, uint8_t *data)
{
    const uint8_t *old = content_of(model, sector, model->newest[sector]);
    uint8_t whole[SECTOR] = {0};
    struct version *version = add_version(model, sector, born);

    if (data != NULL) {
        stamp_sector(whole, sector, model->generation);
        memcpy(data, whole + from, to - from);
    } else if (from == 0 && to == SECTOR) {
        return;
    }
    version->content = grab(SECTOR);
    memcpy(version->content, old, SECTOR);
    memcpy(version->content + from, whole + from, to - from);
}

struct model_request model_write(struct model *model, uint64_t offset, uint64_t length,
                                 uint8_t *data)
{
    struct model_request request = {0};
    uint64_t end = offset + length;
    size_t born = crash_log_mark(model->log, data != NULL ? "write" : "zero");

    pthread_mutex_lock(&model->mutex);
    model->generation++;
    request.first = model->version_count;
    while (offset < end) {
        uint64_t sector = offset / SECTOR, next = min_u64(end, (sector + 1) * SECTOR);

        if (sector >= model->sectors) {
            die("the model has no sector %llu", (unsigned long long)sector);
        }
        change_sector(model, sector, born, offset % SECTOR, next - sector * SECTOR, data);
        data = data != NULL ? data + (next - offset) : NULL;
        offset = next;
    }
    request.count = model->version_count - request.first;
    pthread_mutex_unlock(&model->mutex);
    return request;
}

struct model_request model_resize(struct model *model, uint64_t old, uint64_t size)
{
    struct model_request request = {0};
    uint64_t sector;
    size_t born = crash_log_mark(model->log, "resize");

    pthread_mutex_lock(&model->mutex);
    model->sizes =
        room(model->sizes, model->size_count, &model->size_capacity, sizeof(*model->sizes));
    model->sizes[model->size_count++] = (struct size_version){size, born, NEVER};
    request.first_size = model->size_count;
    request.first = model->version_count;
    for (sector = div_round_up(min_u64(size, old), SECTOR); sector < model->sectors; sector++) {
        add_version(model, sector, born)->after_size = model->size_count;
    }
    request.count = model->version_count - request.first;
    pthread_mutex_unlock(&model->mutex);
    return request;
}

void model_keep_size(struct model *model, uint64_t size)
{
    size_t now = crash_log_mark(model->log, "size");

    pthread_mutex_lock(&model->mutex);
    model->sizes =
        room(model->sizes, model->size_count, &model->size_capacity, sizeof(*model->sizes));
    model->sizes[model->size_count++] = (struct size_version){size, now, now};
    pthread_mutex_unlock(&model->mutex);
}

uint64_t model_least_size(const struct model *model, uint64_t size)
{
    for (size_t i = 0; i < model->size_count; i++) {
        size = min_u64(size, model->sizes[i].size);
    }
    return size;
}

struct model_request model_replace(struct model *model, const uint8_t *bytes, uint64_t size)
{
    struct model_request request = {0};
    size_t born = crash_log_mark(model->log, "replace");

    pthread_mutex_lock(&model->mutex);
    request.first = model->version_count;
    for (uint64_t sector = 0; sector < size / SECTOR; sector++) {
        struct version *version = add_version(model, sector, born);

        version->content = grab(SECTOR);
        memcpy(version->content, bytes + sector * SECTOR, SECTOR);
    }
    request.count = model->version_count - request.first;
    pthread_mutex_unlock(&model->mutex);
    return request;
}

size_t model_snapshot(struct model *model, uint8_t *bytes, uint64_t size)
{
    struct model_snapshot *snapshot = &model->snapshots[model->snapshot_count];

    if (model->snapshot_count == MODEL_SNAPSHOTS) {
        die("the model has no room for a further snapshot");
    }
    *snapshot = (struct model_snapshot){
        .bytes = bytes,
        .size = size,
        .born = crash_log_mark(model->log, "snapshot"),
        .made = NEVER,
        .dying = NEVER,
        .removed = NEVER,
    };
    snprintf(snapshot->name, sizeof(snapshot->name), "run-%zu", model->snapshot_count);
    return model->snapshot_count++;
}

void model_snapshot_made(struct model *model, size_t index, int result)
{
    size_t now = crash_log_mark(model->log, result == 0 ? "done" : "failed");

    model->snapshots[index].made = result == 0 ? now : NEVER;
}

void model_snapshot_dies(struct model *model, size_t index)
{
    size_t now = crash_log_mark(model->log, "remove snapshot");

    /* One that failed may have removed it for a moment. */
    model->snapshots[index].dying = min_u64(model->snapshots[index].dying, now);
}

void model_snapshot_removed(struct model *model, size_t index, int result)
{
    size_t now = crash_log_mark(model->log, result == 0 ? "done" : "failed");

    model->snapshots[index].removed = result == 0 ? now : NEVER;
}

struct model_request model_flush(struct model *model)
{
    return (struct model_request){.flush = true, .begun = crash_log_mark(model->log, "flush")};
}

void model_done(struct model *model, const struct model_request *request, int result)
{
    size_t done = crash_log_mark(model->log, result == 0 ? "done" : "failed"), i;

    if (result < 0) {
        return;
    }
    pthread_mutex_lock(&model->mutex);
    for (i = request->first; i < request->first + request->count; i++) {
        model->versions[i].done = done;
    }
    if (request->first_size != 0) {
        model->sizes[request->first_size - 1].done = done;
    }
    if (request->flush) {
        model->flushes = room(model->flushes, model->flush_count, &model->flush_capacity,
                              sizeof(*model->flushes));
        model->flushes[model->flush_count++] = (struct flush){request->begun, done};
    }
    pthread_mutex_unlock(&model->mutex);
}

void model_lose(struct model *model)
{
    const struct moment now = model_moment(model, SIZE_MAX);
    size_t i;

    for (i = 0; i < model->version_count; i++) {
        if (model->versions[i].done >= now.flushed) {
            model->versions[i].done = NEVER;
        }
    }
}

/* --- After a crash
 * --------------------------------------------------------------------------------- */

struct moment model_moment(const struct model *model, size_t crash)
{
    struct moment moment = {.crash = crash};
    size_t i;

    for (i = 0; i < model->flush_count; i++) {
        if (model->flushes[i].done < crash) {
            moment.flushed = max_u64(moment.flushed, model->flushes[i].begun);
        }
    }
    return moment;
}

/* Index + 1 of the earliest possible size that is the one found; 0 where it cannot be. */
static size_t find_size(const struct model *model, const struct moment *moment, uint64_t size)
{
    size_t i, found = 0;

    for (i = model->size_count; i > 0; i--) {
        const struct size_version *version = &model->sizes[i - 1];

        if (version->born >= moment->crash) {
            continue;
        }
        if (version->size == size) {
            found = i;
        }
        if (version->done < moment->flushed) {
            break;
        }
    }
    return found;
}

static bool is_possible(const struct model *model, const struct moment *moment, uint64_t sector,
                        size_t size_index, const uint8_t *content)
{
    size_t index = model->newest[sector];

    while (index != 0) {
        const struct version *version = &model->versions[index - 1];

        if (version->born < moment->crash) {
            if (memcmp(content, content_of(model, sector, index), SECTOR) == 0) {
                return true;
            }
            if (version->done < moment->flushed ||
                (version->after_size != 0 && version->after_size < size_index &&
                 version->done != NEVER)) {
                return false;
            }
        }
        index = version->older;
    }
    return memcmp(content, content_of(model, sector, 0), SECTOR) == 0;
}

/* What the sector could have shown, for people. */
static void describe_possible(const struct model *model, const struct moment *moment,
                              uint64_t sector, char *text, size_t size)
{
    size_t index = model->newest[sector], used = 0;
    char one[128];

    text[0] = '\0';
    for (;;) {
        const struct version *version = index != 0 ? &model->versions[index - 1] : NULL;

        if (version == NULL || version->born < moment->crash) {
            describe_sector(content_of(model, sector, index), one, sizeof(one));
            used += (size_t)snprintf(text + used, size - used, "; %s%s", one,
                                     index == 0 ? " (at first)" : "");
            if (used >= size || version == NULL || version->done < moment->flushed) {
                return;
            }
        }
        index = version->older;
    }
}

const char *model_check(const struct model *model, const struct moment *moment, const uint8_t *disk,
                        uint64_t size, char *text, size_t text_size)
{
    size_t size_index = find_size(model, moment, size);
    char found[128], possible[1024];
    uint64_t sector;

    if (size_index == 0) {
        snprintf(text, text_size, "the disk has %llu bytes, which it may not have",
                 (unsigned long long)size);
        return text;
    }
    for (sector = 0; sector < size / SECTOR; sector++) {
        if (!is_possible(model, moment, sector, size_index, disk + sector * SECTOR)) {
            describe_sector(disk + sector * SECTOR, found, sizeof(found));
            describe_possible(model, moment, sector, possible, sizeof(possible));
            snprintf(text, text_size, "guest sector %llu: %s; it may show%s",
                     (unsigned long long)sector, found, possible);
            return text;
        }
    }
    return NULL;
}
