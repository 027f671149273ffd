/* Tensors: handles, records, values in and out, parameters and states.
 *
 * A handle is checked at each use: its context, that its slot's generation still agrees, and that
 * its bytes were not given back. Records are owned by the scope that was innermost when they were
 * made; parameters and states by the root scope. */
#include "autodiff/core.h"

#include <stdio.h>
#include <string.h>

size_t ad_type_bytes(ad_type type) {
    static const size_t bytes[AD_TYPES] = {4, 8, 2, 2, 4, 4};
    return (unsigned)type < AD_TYPES ? bytes[type] : 0;
}

const char *ad_type_name(ad_type type) {
    static const char *const names[AD_TYPES] = {"f32", "f64", "f16", "bf16", "i32", "u32"};
    return (unsigned)type < AD_TYPES ? names[type] : "no type";
}

bool ad_is_null(ad_tensor x) { return x.slot == 0; }

bool ad_is_tracked(ad_context *ctx, ad_tensor x) {
    if (!ad_ready(ctx) || !x.slot || x.context != ctx || x.slot >= ctx->slots_used) return false;
    return ad_record_at(ctx, x.slot)->flags & AD_REC_TRACKED && !ctx->no_grad;
}

void ad_record_refuse(ad_context *ctx, ad_tensor x, const char *who) {
    if (!ad_ready(ctx)) return;
    if (!x.slot) {
        ad_raise(ctx, "%s: the tensor is null", who);
    } else if (x.context != ctx) {
        ad_raise(ctx, "%s: the tensor belongs to another context", who);
    } else if (x.slot >= ctx->slots_used || ad_record_at(ctx, x.slot)->generation != x.generation
               || ad_record_at(ctx, x.slot)->flags & AD_REC_CLOSED) {
        ad_raise(ctx, "%s: the handle is stale: its scope has ended or it was freed", who);
    } else {
        ad_raise(ctx, "%s: the tensor's values were given back by a backward pass or a checkpoint "
                 "scope: pass AD_GRAD_KEEP, or ad_keep it", who);
    }
}

// Puts one more slot on the list of free ones.
static bool slot_make(ad_context *ctx) {
    if (!ad_host_reserve(ctx, &ctx->free_slots, &ctx->free_capacity, ctx->slots_used + 2,
                         sizeof *ctx->free_slots))
        return false;
    if (ctx->slots_used == ctx->chunk_count * AD_RECORDS_PER_CHUNK) {
        size_t capacity = ctx->chunk_count;
        if (!ad_host_grow(ctx, &ctx->chunks, &capacity, ctx->chunk_count + 1,
                          sizeof *ctx->chunks))
            return false;
        ad_record *chunk = ad_host_allocate(ctx, AD_RECORDS_PER_CHUNK * sizeof *chunk);
        if (!chunk) {
            ad_raise(ctx, "out of memory for the tensor table");
            return false;
        }
        memset(chunk, 0, AD_RECORDS_PER_CHUNK * sizeof *chunk);
        ctx->chunks[ctx->chunk_count++] = chunk;
        if (ctx->slots_used == 0) ctx->slots_used = 1; // slot 0 is the null tensor
    }
    ctx->free_slots[ctx->free_count++] = (uint32_t)ctx->slots_used++;
    return true;
}

ad_record *ad_record_new(ad_context *ctx, ad_type type, int rank, const int64_t *size,
                         uint32_t *slot_made) {
    if (!ad_host_reserve(ctx, &ctx->owned, &ctx->owned_capacity, ctx->owned_count + 1,
                         sizeof *ctx->owned)
        || (!ctx->free_count && !slot_make(ctx)))
        return NULL;
    uint32_t slot = *slot_made = ctx->free_slots[--ctx->free_count];
    ad_record *record = ad_record_at(ctx, slot);
    uint32_t generation = record->generation ? record->generation : 1;
    *record = (ad_record){.generation = generation, .node = AD_NO_NODE, .flags = AD_REC_LIVE,
                          .type = (uint8_t)type, .rank = (uint8_t)rank};
    for (int i = 0; i < rank; i++) record->size[i] = (uint32_t)size[i];
    ctx->owned[ctx->owned_count++] = (ad_owned){slot, generation};
    return record;
}

void ad_drop_bytes(ad_context *ctx, ad_record *record) {
    if (record->storage) ad_storage_release(ctx, record->storage);
    record->storage = NULL;
    record->flags |= AD_REC_RELEASED;
}

void ad_record_free(ad_context *ctx, uint32_t slot) {
    ad_record *record = ad_record_at(ctx, slot);
    if (record->storage) ad_storage_release(ctx, record->storage);
    if (record->tangent) ctx->dual_count--;
    if (record->flags & AD_REC_CLOSED) ctx->closed_count--;
    uint32_t generation = record->generation + 1;
    *record = (ad_record){.generation = generation ? generation : 1};
    // The list of free slots was grown when the slot was made.
    ctx->free_slots[ctx->free_count++] = slot;
}

void ad_owned_cut(ad_context *ctx, size_t length) {
    // Kept records move down into the parent's part of the list; the others end.
    size_t kept = length;
    for (size_t i = length; i < ctx->owned_count; i++) {
        ad_owned owned = ctx->owned[i];
        ad_record *record = ad_record_at(ctx, owned.slot);
        if (record->generation != owned.generation) continue;
        if (record->flags & AD_REC_KEPT) {
            if (record->flags & AD_REC_TRACKED && !(record->flags & AD_REC_PARAMETER))
                record->flags |= AD_REC_SEVERED;
            record->flags &= (uint16_t)~(AD_REC_KEPT | AD_REC_TRACKED * !(record->flags
                                         & AD_REC_PARAMETER) | AD_REC_ON_TAPE | AD_REC_SAVED);
            if (!(record->flags & AD_REC_PARAMETER)) record->node = AD_NO_NODE;
            if (record->tangent) ctx->dual_count--;
            record->tangent = 0;
            ctx->owned[kept++] = owned;
        } else {
            ad_record_free(ctx, owned.slot);
        }
    }
    ctx->owned_count = kept;
}

void ad_owned_compact(ad_context *ctx, size_t length) {
    size_t live = length;
    for (size_t i = length; i < ctx->owned_count; i++) {
        ad_owned owned = ctx->owned[i];
        if (ad_record_at(ctx, owned.slot)->generation == owned.generation)
            ctx->owned[live++] = owned;
    }
    ctx->owned_count = live;
}

ad_tensor ad_alias(ad_context *ctx, ad_tensor x) {
    ad_record *old = ad_record_of(ctx, x, "alias");
    if (!old) return (ad_tensor){0};
    int64_t size[AD_RANK_MAX];
    for (int i = 0; i < old->rank; i++) size[i] = old->size[i];
    uint32_t slot;
    ad_record *record = ad_record_new(ctx, old->type, old->rank, size, &slot);
    if (!record) return (ad_tensor){0};
    record->storage = old->storage;
    record->storage->references++;
    if (old->layout) record->layout = old->layout, record->offset = old->offset;
    record->tangent = old->tangent;
    if (record->tangent) ctx->dual_count++;
    return ad_handle(ctx, slot);
}

/* ---- scopes and tensors */

ad_tensor ad_keep(ad_context *ctx, ad_tensor x) {
    ad_record *record = ad_record_of(ctx, x, "ad_keep");
    if (!record) return (ad_tensor){0};
    if (record->layout && !ctx->checkpoint) { // a view's layout ends with the scope
        x = ad_contiguous(ctx, x);
        record = ad_record_of(ctx, x, "ad_keep");
        if (!record) return (ad_tensor){0};
    }
    record->flags |= AD_REC_KEPT;
    return x;
}

// The innermost scope's list ends with a live record again.
static void owned_trim(ad_context *ctx) {
    size_t start = ctx->scopes[ctx->scope_count - 1].owned;
    while (ctx->owned_count > start) {
        ad_owned last = ctx->owned[ctx->owned_count - 1];
        if (ad_record_at(ctx, last.slot)->generation == last.generation) break;
        ctx->owned_count--;
    }
}

void ad_free(ad_context *ctx, ad_tensor x) {
    if (!ctx || !x.slot || x.context != ctx || x.slot >= ctx->slots_used) return;
    ad_record *record = ad_record_at(ctx, x.slot);
    if (record->generation != x.generation || record->flags & AD_REC_CLOSED) return;
    bool on_tape = record->flags & AD_REC_ON_TAPE && ctx->node_count > 0;
    bool tangent = record->flags & AD_REC_TANGENT && ctx->dual_count > 0;
    if (on_tape || tangent) {
        // The tape still names it: end the handle, and the bytes too unless a rule reads them.
        record->flags |= AD_REC_CLOSED;
        ctx->closed_count++;
        if (!tangent && !(record->flags & AD_REC_SAVED)) ad_drop_bytes(ctx, record);
    } else {
        ad_record_free(ctx, x.slot);
        owned_trim(ctx);
    }
}

void ad_closed_sweep(ad_context *ctx) {
    for (size_t i = 0; i < ctx->owned_count && ctx->closed_count; i++) {
        ad_owned owned = ctx->owned[i];
        const ad_record *record = ad_record_at(ctx, owned.slot);
        if (record->generation == owned.generation && record->flags & AD_REC_CLOSED
            && !(record->flags & AD_REC_TANGENT && ctx->dual_count))
            ad_record_free(ctx, owned.slot);
    }
    owned_trim(ctx);
}

/* ---- values in and out */

static bool shape_valid(ad_context *ctx, ad_type type, ad_shape shape, const char *who) {
    if ((unsigned)type >= AD_TYPES) {
        ad_raise(ctx, "%s: no such type: %d", who, (int)type);
        return false;
    }
    if (shape.rank < 0 || shape.rank > AD_RANK_MAX) {
        ad_raise(ctx, "%s: the rank must be 0 to %d, not %d", who, AD_RANK_MAX, shape.rank);
        return false;
    }
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.size[i] < 0 || shape.size[i] > INT32_MAX
            || (shape.size[i] && count > INT64_MAX / 16 / shape.size[i])) {
            ad_raise(ctx, "%s: axis %d has the size %lld", who, i, (long long)shape.size[i]);
            return false;
        }
        count *= shape.size[i];
    }
    return true;
}

ad_tensor ad_from(ad_context *ctx, ad_type type, ad_shape shape, const void *data) {
    if (!ad_ready(ctx) || !shape_valid(ctx, type, shape, "ad_from")) return (ad_tensor){0};
    uint32_t slot;
    ad_record *record = ad_record_new(ctx, type, shape.rank, shape.size, &slot);
    if (!record || !ad_record_allocate(ctx, record)) return (ad_tensor){0};
    size_t bytes = (size_t)ad_record_count(record) * ad_type_bytes(type);
    if (!data && bytes) {
        ad_raise(ctx, "ad_from: no data");
        return (ad_tensor){0};
    }
    if (bytes) ctx->device.write(&ctx->device, record->storage->data, data, bytes);
    return ad_handle(ctx, slot);
}

ad_tensor ad_scalar(ad_context *ctx, ad_type type, double value) {
    return ad_full(ctx, type, AD_SCALAR, value);
}

ad_tensor ad_zeros_like(ad_context *ctx, ad_tensor x) {
    ad_record *record = ad_record_of(ctx, x, "ad_zeros_like");
    if (!record) return (ad_tensor){0};
    return ad_full(ctx, (ad_type)record->type, ad_shape_of(ctx, x), 0.0);
}

bool ad_read(ad_context *ctx, ad_tensor x, void *data, size_t bytes) {
    ad_record *record = ad_record_of(ctx, x, "ad_read");
    if (!record) return false;
    if (ctx->capture) {
        ad_raise(ctx, "ad_read: a value cannot be read while a step is captured: read it after "
                 "ad_capture_end or ad_replay");
        return false;
    }
    size_t have = (size_t)ad_record_count(record) * ad_type_bytes(record->type);
    if (bytes != have) {
        ad_raise(ctx, "ad_read: the tensor has %zu bytes, %zu were asked for", have, bytes);
        return false;
    }
    if (!have) return true;
    if (!record->layout)
        return ctx->device.read(&ctx->device, data, record->storage->data, bytes);
    // A view is packed first; the packed copy ends here.
    size_t mark = ctx->owned_count;
    ad_no_grad_begin(ctx);
    ad_tensor packed = ad_contiguous(ctx, x);
    ad_no_grad_end(ctx);
    record = ad_record_of(ctx, packed, "ad_read");
    bool good = record && ctx->device.read(&ctx->device, data, record->storage->data, bytes);
    ad_owned_cut(ctx, mark);
    return good;
}

double ad_item(ad_context *ctx, ad_tensor x) {
    ad_record *record = ad_record_of(ctx, x, "ad_item");
    if (!record) return 0;
    if (ad_record_count(record) != 1) {
        ad_raise(ctx, "ad_item: the tensor has %lld elements, not one",
                 (long long)ad_record_count(record));
        return 0;
    }
    ad_type type = (ad_type)record->type;
    if (type == AD_F16 || type == AD_BF16) {
        size_t mark = ctx->owned_count;
        ad_no_grad_begin(ctx);
        double value = ad_item(ctx, ad_cast(ctx, x, AD_F32));
        ad_no_grad_end(ctx);
        ad_owned_cut(ctx, mark);
        return value;
    }
    union { float f; double d; int32_t i; uint32_t u; } value = {0};
    if (!ad_read(ctx, x, &value, ad_type_bytes(type))) return 0;
    return type == AD_F32 ? value.f : type == AD_F64 ? value.d
         : type == AD_I32 ? (double)value.i : value.u;
}

bool ad_write_part(ad_context *ctx, ad_tensor state, size_t offset, const void *data,
                   size_t bytes) {
    ad_record *record = ad_record_of(ctx, state, "ad_write");
    if (!record) return false;
    size_t have = (size_t)ad_record_count(record) * ad_type_bytes(record->type);
    if (!(record->flags & AD_REC_PARAMETER)) {
        ad_raise(ctx, "ad_write: only parameters and states are written; tensors do not change");
    } else if (offset > have || bytes > have - offset) {
        ad_raise(ctx, "ad_write: the tensor has %zu bytes, %zu were given for offset %zu", have,
                 bytes, offset);
    } else if (ctx->capture) {
        ad_raise(ctx, "ad_write: a host value cannot be part of a captured step: write before it");
    } else {
        record->storage->version++;
        return !bytes || ctx->device.write(&ctx->device, (char *)record->storage->data + offset,
                                           data, bytes);
    }
    return false;
}

bool ad_write(ad_context *ctx, ad_tensor state, const void *data, size_t bytes) {
    ad_record *record = ad_record_of(ctx, state, "ad_write");
    if (!record) return false;
    size_t have = (size_t)ad_record_count(record) * ad_type_bytes(record->type);
    if (bytes == have) return ad_write_part(ctx, state, 0, data, bytes);
    ad_raise(ctx, "ad_write: the tensor has %zu bytes, %zu were given", have, bytes);
    return false;
}

ad_shape ad_shape_of(ad_context *ctx, ad_tensor x) {
    ad_shape shape = {0};
    ad_record *record = x.slot && x.context == ctx && ctx && x.slot < ctx->slots_used
                      ? ad_record_at(ctx, x.slot) : NULL;
    if (!record || record->generation != x.generation) {
        ad_record_of(ctx, x, "ad_shape_of");
        return shape;
    }
    shape.rank = record->rank;
    for (int i = 0; i < shape.rank; i++) shape.size[i] = record->size[i];
    return shape;
}

ad_type ad_type_of(ad_context *ctx, ad_tensor x) {
    ad_record *record = ad_record_of(ctx, x, "ad_type_of");
    return record ? (ad_type)record->type : AD_F32;
}

int64_t ad_count(ad_context *ctx, ad_tensor x) {
    ad_shape shape = ad_shape_of(ctx, x);
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    return count;
}
