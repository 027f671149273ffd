/* Memory: storages by size class, and the arena that nodes and layouts are bumped from.
 *
 * A storage's size is rounded up to a class (four steps a power of two, so at most a quarter is
 * lost), and a released one waits in its class's list for the next tensor of like size: a training
 * loop of equal steps asks the system for memory in its first step only. When a limit is set and
 * would be passed, or the system has no more, waiting storages are given back first; only then is
 * it an error. */
#include "autodiff/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STORAGES_PER_BLOCK = 512, ARENA_CHUNK_BYTES = 1 << 16 };

void *ad_host_allocate(ad_context *ctx, size_t bytes) {
    if (ctx->options.allocate) return ctx->options.allocate(ctx->options.user, bytes);
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

void ad_host_release(ad_context *ctx, void *memory) {
    if (!memory) return;
    if (ctx->options.release) ctx->options.release(ctx->options.user, memory);
    else if (!ctx->options.allocate) free(memory);
}

bool ad_host_grow(ad_context *ctx, void *array, size_t *capacity, size_t need, size_t element) {
    if (need <= *capacity) return true;
    size_t larger = *capacity ? *capacity * 2 : 64;
    while (larger < need) larger *= 2;
    void *fresh = ad_host_allocate(ctx, larger * element), *old = *(void **)array;
    if (!fresh) {
        ad_raise(ctx, "out of memory: %zu bytes for the core's tables", larger * element);
        return false;
    }
    if (old) memcpy(fresh, old, *capacity * element);
    ad_host_release(ctx, old);
    *(void **)array = fresh, *capacity = larger;
    return true;
}

// The class of a size and its bytes: 64, 80, 96, 112, 128, 160, ...
static int class_of(size_t bytes, size_t *rounded) {
    if (bytes <= 64) {
        *rounded = 64;
        return 0;
    }
    // A quarter of the power of two below is 1 << shift, and 4 to 7 quarters are full.
    int shift = 61 - __builtin_clzll(bytes - 1);
    size_t quarters = (bytes - 1) >> shift;
    *rounded = (quarters + 1) << shift;
    return 4 * (shift - 4) + (int)quarters - 3;
}

static void give_back(ad_context *ctx, ad_storage *storage) {
    ctx->device.release(&ctx->device, storage->data);
    ctx->cached_bytes -= storage->bytes;
    storage->data = NULL;
    storage->next_free = ctx->storage_free, ctx->storage_free = storage;
}

// Returns waiting storages to the system until `bytes` more would fit, the largest first.
static void trim(ad_context *ctx, size_t bytes) {
    size_t freed = 0;
    for (int class = AD_STORAGE_CLASSES - 1; class >= 0 && freed < bytes; class--)
        while (ctx->cache[class] && freed < bytes) {
            ad_storage *storage = ctx->cache[class];
            ctx->cache[class] = storage->next_free;
            freed += storage->bytes;
            give_back(ctx, storage);
        }
}

static ad_storage *storage_header(ad_context *ctx) {
    if (!ctx->storage_free) {
        size_t capacity = ctx->storage_block_count; // exact growth: blocks are few
        void **blocks = ad_host_allocate(ctx, (capacity + 1) * sizeof *blocks);
        ad_storage *block = blocks ? ad_host_allocate(ctx, STORAGES_PER_BLOCK * sizeof *block)
                                   : NULL;
        if (!block) {
            ad_host_release(ctx, blocks);
            return NULL;
        }
        if (capacity) memcpy(blocks, ctx->storage_blocks, capacity * sizeof *blocks);
        ad_host_release(ctx, ctx->storage_blocks);
        ctx->storage_blocks = blocks;
        ctx->storage_blocks[ctx->storage_block_count++] = block;
        for (int i = STORAGES_PER_BLOCK - 1; i >= 0; i--)
            block[i].next_free = ctx->storage_free, ctx->storage_free = &block[i];
    }
    ad_storage *storage = ctx->storage_free;
    ctx->storage_free = storage->next_free;
    return storage;
}

// A storage from the device: within the limit, and asking twice at most.
static ad_storage *storage_fresh(ad_context *ctx, int class, size_t bytes) {
    size_t limit = ctx->options.memory_limit;
    if (class >= AD_STORAGE_CLASSES) {
        ad_raise(ctx, "a tensor of %zu bytes is too large", bytes);
        return NULL;
    }
    if (limit && ctx->live_bytes + ctx->cached_bytes + bytes > limit)
        trim(ctx, ctx->live_bytes + ctx->cached_bytes + bytes - limit);
    if (limit && ctx->live_bytes + bytes > limit) {
        ad_raise(ctx, "out of memory: %zu bytes wanted, %zu of the limit of %zu are in use",
                 bytes, ctx->live_bytes, limit);
        return NULL;
    }
    ad_storage *storage = storage_header(ctx);
    if (!storage) {
        ad_raise(ctx, "out of memory for the core's tables");
        return NULL;
    }
    storage->data = ctx->device.allocate(&ctx->device, bytes);
    if (!storage->data) {
        trim(ctx, SIZE_MAX);
        storage->data = ctx->device.allocate(&ctx->device, bytes);
    }
    if (!storage->data) {
        storage->next_free = ctx->storage_free, ctx->storage_free = storage;
        ad_raise(ctx, "out of memory: %zu bytes wanted, %zu in use", bytes, ctx->live_bytes);
        return NULL;
    }
    storage->bytes = bytes, storage->size_class = (uint32_t)class;
    return storage;
}

ad_storage *ad_storage_allocate(ad_context *ctx, size_t bytes) {
    size_t rounded;
    int class = class_of(bytes, &rounded);
    ad_storage *storage = class < AD_STORAGE_CLASSES ? ctx->cache[class] : NULL;
    if (storage) {
        ctx->cache[class] = storage->next_free;
        ctx->cached_bytes -= rounded;
    } else {
        storage = storage_fresh(ctx, class, rounded);
        if (!storage) return NULL;
    }
    ctx->live_bytes += rounded;
    if (ctx->live_bytes > ctx->peak_bytes) ctx->peak_bytes = ctx->live_bytes;
    storage->references = 1, storage->version = 0, storage->captured = 0;
    return storage;
}

void ad_storage_release(ad_context *ctx, ad_storage *storage) {
    if (!storage || --storage->references) return;
    if (storage->captured) {
        // A program's plan decides where these bytes end up.
        ad_capture_storage_gone(ctx, storage);
    }
    if (ctx->options.poison) ctx->device.fill(&ctx->device, storage->data, 0xff, storage->bytes);
    ctx->live_bytes -= storage->bytes;
    ctx->cached_bytes += storage->bytes;
    storage->next_free = ctx->cache[storage->size_class];
    ctx->cache[storage->size_class] = storage;
}

// Goes on to the next chunk, which may have to be made.
static bool arena_grow(ad_context *ctx, size_t bytes) {
    ad_arena *arena = &ctx->arena;
    if (bytes > ARENA_CHUNK_BYTES) {
        ad_raise(ctx, "an operation's record of %zu bytes is too large", bytes);
        return false;
    }
    if (arena->chunk < arena->chunk_count) arena->chunk++, arena->used = 0;
    if (arena->chunk >= arena->chunk_count) {
        size_t capacity = arena->chunk_count;
        if (!capacity || (capacity & (capacity - 1)) == 0) {
            // The table of chunks doubles at powers of two.
            size_t larger = capacity ? capacity : 0, need = capacity ? capacity * 2 : 1;
            if (!ad_host_grow(ctx, &arena->chunks, &larger, need, sizeof *arena->chunks))
                return false;
        }
        char *chunk = ad_host_allocate(ctx, ARENA_CHUNK_BYTES);
        if (!chunk) {
            ad_raise(ctx, "out of memory for the tape");
            return false;
        }
        arena->chunks[arena->chunk_count++] = chunk;
    }
    return true;
}

void *ad_arena_allocate(ad_context *ctx, size_t bytes) {
    ad_arena *arena = &ctx->arena;
    bytes = (bytes + 7) & ~(size_t)7;
    bool room = arena->chunk < arena->chunk_count && arena->used + bytes <= ARENA_CHUNK_BYTES;
    if (!room && !arena_grow(ctx, bytes)) return NULL;
    void *memory = arena->chunks[arena->chunk] + arena->used;
    arena->used += bytes;
    return memory;
}

const ad_layout *ad_layout_share(ad_context *ctx, const int64_t *stride) {
    uint64_t hash = 0;
    for (int i = 0; i < AD_RANK_MAX; i++)
        hash = (hash ^ (uint64_t)stride[i]) * 0x9e3779b97f4a7c15u;
    const ad_layout **known = &ctx->layouts[hash >> 32 & (AD_LAYOUTS_SHARED - 1)];
    if (*known && !memcmp((*known)->stride, stride, sizeof (*known)->stride)) return *known;
    ad_layout *layout = ad_arena_allocate(ctx, sizeof *layout);
    if (!layout) return NULL;
    memcpy(layout->stride, stride, sizeof layout->stride);
    return *known = layout;
}

void ad_memory_close(ad_context *ctx) {
    // Everything that has bytes is either referenced by a record or waiting in a class.
    for (size_t slot = 1; slot < ctx->slots_used; slot++) {
        ad_record *record = ad_record_at(ctx, (uint32_t)slot);
        if (record->flags & AD_REC_LIVE && record->storage) {
            ad_storage_release(ctx, record->storage);
            record->storage = NULL;
        }
    }
    trim(ctx, SIZE_MAX);
    for (size_t i = 0; i < ctx->name_count; i++) ad_host_release(ctx, ctx->names[i].name);
    for (size_t i = 0; i < ctx->chunk_count; i++) ad_host_release(ctx, ctx->chunks[i]);
    for (size_t i = 0; i < ctx->storage_block_count; i++)
        ad_host_release(ctx, ctx->storage_blocks[i]);
    for (size_t i = 0; i < ctx->arena.chunk_count; i++) ad_host_release(ctx, ctx->arena.chunks[i]);
    void *tables[] = {ctx->chunks, ctx->free_slots, ctx->owned, ctx->names, ctx->storage_blocks,
                      ctx->nodes, ctx->arena.chunks};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) ad_host_release(ctx, tables[i]);
}

ad_memory ad_memory_read(const ad_context *ctx) {
    if (!ctx) return (ad_memory){0};
    size_t tape = ctx->arena.chunk * ARENA_CHUNK_BYTES + ctx->arena.used;
    return (ad_memory){.live_bytes = ctx->live_bytes, .peak_bytes = ctx->peak_bytes,
                       .cached_bytes = ctx->cached_bytes, .tape_bytes = tape,
                       .tensor_count = ctx->slots_used ? ctx->slots_used - 1 - ctx->free_count : 0,
                       .node_count = ctx->node_count, .launches = ctx->launches,
                       .flops = ctx->flops};
}

void ad_memory_peak_reset(ad_context *ctx) {
    if (ctx) ctx->peak_bytes = ctx->live_bytes;
}

void ad_memory_text(const ad_context *ctx, char *text, size_t bytes) {
    if (!ctx || !bytes) return;
    // A record's bytes count for the innermost scope that owned it when it was made.
    size_t used = (size_t)snprintf(text, bytes, "%zu bytes in tensors, %zu at the peak",
                                   ctx->live_bytes, ctx->peak_bytes);
    for (int i = 0; i < ctx->scope_count && used < bytes; i++) {
        size_t end = i + 1 < ctx->scope_count ? ctx->scopes[i + 1].owned : ctx->owned_count;
        size_t held = 0;
        for (size_t j = ctx->scopes[i].owned; j < end; j++) {
            const ad_record *record = ad_record_at(ctx, ctx->owned[j].slot);
            if (record->generation == ctx->owned[j].generation && record->storage)
                held += record->storage->bytes / record->storage->references;
        }
        used += (size_t)snprintf(text + used, bytes - used, "; %s %zu", ctx->scopes[i].name, held);
    }
}
