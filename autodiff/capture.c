/* Capture and replay: one step as a list of launches with a memory plan.
 *
 * While a step is captured it also runs, and each launch is written down with, for every operand,
 * which storage it lies in. A storage that was there before, or is still alive at the end, belongs
 * to somebody and is held; one that was made and ended inside is only a stretch of time between
 * its first and last launch, and all such stretches share one block: each gets the lowest offset
 * free of those that overlap it in time. Replay runs the list again: the same kernels on operands
 * at other addresses, hence the same bits as the eager step. */
#include "autodiff/core.h"

#include <string.h>

typedef struct program_storage {
    ad_storage *held;         // NULL: planned
    size_t bytes, offset;
    uint32_t first, last;     // launches
    bool closed;              // ended inside the capture
    bool written;             // by a launch, and held: its version goes up with each replay
} program_storage;

typedef struct program_launch {
    ad_launch launch;         // its views and attributes lie in `memory`
    uint32_t *storage;        // of each input, each output and the workspace; UINT32_MAX: none
    int64_t *offset;          // bytes into it
} program_launch;

struct ad_program {
    ad_context *ctx;
    program_launch *launches;
    size_t launch_count, launch_capacity;
    program_storage *storages;
    size_t storage_count, storage_capacity;
    ad_storage *block;
    size_t block_bytes;
};

void ad_capture_begin(ad_context *ctx) {
    if (!ad_ready(ctx)) return;
    if (ctx->capture) {
        ad_raise(ctx, "ad_capture_begin: a step is being captured already");
        return;
    }
    // The random step is a state, and those cannot be made inside.
    if (!ad_step_tensor(ctx).slot) return;
    ctx->capture = ad_host_allocate(ctx, sizeof *ctx->capture);
    if (!ctx->capture) {
        ad_raise(ctx, "out of memory for a captured step");
        return;
    }
    *ctx->capture = (ad_program){.ctx = ctx};
    ctx->random_ordinal = 0;
}

// The program's number for a storage; holds it if it was not made by this launch.
static bool number_storage(ad_context *ctx, ad_program *p, ad_storage *storage, bool made,
                           uint32_t *number) {
    *number = UINT32_MAX;
    if (!storage) return true;
    if (!storage->captured) {
        if (!ad_host_grow(ctx, &p->storages, &p->storage_capacity, p->storage_count + 1,
                          sizeof *p->storages))
            return false;
        p->storages[p->storage_count++] = (program_storage){
            .held = made ? NULL : storage, .bytes = storage->bytes,
            .first = (uint32_t)p->launch_count};
        if (!made) storage->references++;
        storage->captured = (uint32_t)p->storage_count;
    }
    *number = storage->captured - 1;
    p->storages[*number].last = (uint32_t)p->launch_count;
    return true;
}

bool ad_capture_launch(ad_context *ctx, const ad_launch *launch,
                       ad_storage *const *input_storage, ad_storage *const *output_storage) {
    ad_program *p = ctx->capture;
    if (!ad_host_grow(ctx, &p->launches, &p->launch_capacity, p->launch_count + 1,
                      sizeof *p->launches))
        return false;
    // One block for the copy: views, storage numbers, offsets, attributes.
    size_t operands = (size_t)launch->inputs + (size_t)launch->outputs + 1;
    size_t bytes = operands * (sizeof(ad_view) + 8 + 4) + 16 + launch->op->attribute_bytes;
    char *memory = ad_host_allocate(ctx, bytes);
    if (!memory) {
        ad_raise(ctx, "out of memory for a captured step");
        return false;
    }
    program_launch *copy = &p->launches[p->launch_count];
    ad_view *view = (ad_view *)memory;
    copy->launch = *launch;
    copy->launch.input = view, copy->launch.output = view + launch->inputs;
    copy->offset = (int64_t *)(view + operands);
    copy->launch.attributes = launch->op->attribute_bytes ? copy->offset + operands : NULL;
    copy->storage = (uint32_t *)((char *)(copy->offset + operands)
                                 + (launch->op->attribute_bytes + 7) / 8 * 8);
    if (launch->op->attribute_bytes)
        memcpy(copy->offset + operands, launch->attributes, launch->op->attribute_bytes);
    memcpy(view, launch->input, (size_t)launch->inputs * sizeof *view);
    memcpy(view + launch->inputs, launch->output, (size_t)launch->outputs * sizeof *view);
    p->launch_count++;
    for (size_t i = 0; i < operands; i++) {
        bool input = i < (size_t)launch->inputs;
        ad_storage *storage = input ? input_storage[i] : output_storage[i - (size_t)launch->inputs];
        p->launch_count--; // the number this launch gets
        bool good = number_storage(ctx, p, storage, !input, &copy->storage[i]);
        p->launch_count++;
        if (!good) return false;
        char *data = i + 1 < operands ? view[i].data : launch->workspace;
        copy->offset[i] = storage && data ? data - (char *)storage->data : 0;
    }
    return true;
}

void ad_capture_storage_gone(ad_context *ctx, ad_storage *storage) {
    if (!ctx->capture) return;
    ctx->capture->storages[storage->captured - 1].closed = true;
    storage->captured = 0;
}

// Lowest free offset for each stretch of time, the largest storages first placed in order made.
static void plan(ad_program *p) {
    for (size_t i = 0; i < p->storage_count; i++) {
        program_storage *s = &p->storages[i];
        if (s->held) continue;
        size_t offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t j = 0; j < i; j++) {
                const program_storage *t = &p->storages[j];
                bool together = !t->held && t->first <= s->last && s->first <= t->last;
                if (together && offset < t->offset + t->bytes && t->offset < offset + s->bytes)
                    offset = t->offset + (t->bytes + 63) / 64 * 64, moved = true;
            }
        }
        s->offset = offset;
        if (offset + s->bytes > p->block_bytes) p->block_bytes = offset + s->bytes;
    }
}

ad_program *ad_capture_end(ad_context *ctx) {
    if (!ctx || !ctx->capture) {
        ad_raise(ctx, "ad_capture_end without ad_capture_begin");
        return NULL;
    }
    ad_program *p = ctx->capture;
    ctx->capture = NULL;
    // What is alive belongs to a tensor: hold it. `captured` numbers end with the capture.
    for (size_t slot = 1; slot < ctx->slots_used; slot++) {
        const ad_record *record = ad_record_at(ctx, (uint32_t)slot);
        ad_storage *storage = record->flags & AD_REC_LIVE ? record->storage : NULL;
        if (!storage || !storage->captured) continue;
        program_storage *s = &p->storages[storage->captured - 1];
        if (!s->held) s->held = storage, storage->references++;
    }
    for (size_t i = 0; i < p->storage_count; i++)
        if (p->storages[i].held) p->storages[i].held->captured = 0;
    if (ctx->failed) {
        ad_program_free(p);
        return NULL;
    }
    plan(p);
    if (p->block_bytes) p->block = ad_storage_allocate(ctx, p->block_bytes);
    if (p->block_bytes && !p->block) {
        ad_program_free(p);
        return NULL;
    }
    // Addresses are final: put them into the views, and note what replays will overwrite.
    for (size_t i = 0; i < p->launch_count; i++) {
        program_launch *l = &p->launches[i];
        size_t operands = (size_t)l->launch.inputs + (size_t)l->launch.outputs + 1;
        for (size_t j = 0; j < operands; j++) {
            if (l->storage[j] == UINT32_MAX) continue;
            program_storage *s = &p->storages[l->storage[j]];
            bool output = j >= (size_t)l->launch.inputs;
            s->written |= s->held && (output || l->launch.op->writes >> j & 1);
            char *data = s->held ? s->held->data : (char *)p->block->data + s->offset;
            data += l->offset[j];
            if (j + 1 == operands) l->launch.workspace = data;
            else ((ad_view *)l->launch.input)[j].data = data;
        }
    }
    return p;
}

bool ad_replay(ad_program *p) {
    if (!p || !ad_ready(p->ctx)) return false;
    ad_context *ctx = p->ctx;
    for (size_t i = 0; i < p->storage_count; i++)
        if (p->storages[i].written) p->storages[i].held->version++;
    for (size_t i = 0; i < p->launch_count; i++) {
        const program_launch *l = &p->launches[i];
        if (!ctx->device.launch(&ctx->device, &l->launch)) {
            ad_raise_op(ctx, l->launch.op, "launch %zu of the captured step could not be run", i);
            return false;
        }
        if (ctx->cancelled) return false;
    }
    ctx->launches += p->launch_count;
    return true;
}

void ad_program_free(ad_program *p) {
    if (!p) return;
    ad_context *ctx = p->ctx;
    for (size_t i = 0; i < p->storage_count; i++)
        if (p->storages[i].held) ad_storage_release(ctx, p->storages[i].held);
    for (size_t i = 0; i < p->launch_count; i++)
        ad_host_release(ctx, (void *)p->launches[i].launch.input);
    if (p->block) ad_storage_release(ctx, p->block);
    ad_host_release(ctx, p->launches);
    ad_host_release(ctx, p->storages);
    ad_host_release(ctx, p);
}

size_t ad_program_launches(const ad_program *p) { return p ? p->launch_count : 0; }
size_t ad_program_bytes(const ad_program *p) { return p ? p->block_bytes : 0; }
