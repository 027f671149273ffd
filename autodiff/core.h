/* core.h: the inside of a context, shared by the files of autodiff/ and by nobody else.
 *
 * Four tables make up the core. A *record* describes one tensor: shape, type, where its bytes are,
 * which node made it. A *storage* is a block of device memory that records share by counting. A
 * *node* on the tape says which operation made which records from which. A *scope* remembers how
 * long the tables were when it began, so that its end can cut them back. Handles are (slot,
 * generation, context); a record's generation goes up when it is freed, which makes every old
 * handle to it an error. */
#ifndef ADJOINT_CORE_H
#define ADJOINT_CORE_H

#include "autodiff/autodiff.h"
#include "autodiff/device.h"

#include <string.h>

enum {
    AD_RECORDS_PER_CHUNK = 1024,
    AD_NO_NODE = 0xffffffffu,
    AD_SCOPES_MAX = 64,
    AD_ERROR_BYTES = 2048
};
enum {
    AD_STORAGE_CLASSES = 200,
    AD_LAYOUTS_SHARED = 16 // a power of two
};

// What is true of a record.
enum {
    AD_REC_LIVE = 1,
    AD_REC_TRACKED = 2,    // a parameter, watched, or derived from one
    AD_REC_LEAF = 4,       // tracked and made by no node; its node field is its place on the tape
    AD_REC_PARAMETER = 8,  // a parameter or state: its storage may be written
    AD_REC_KEPT = 16,      // survives the end of its scope
    AD_REC_SEVERED = 32,   // tracked once, its history ended with a scope
    AD_REC_RELEASED = 64,  // its bytes were given back (backward pass, checkpoint, ad_free)
    AD_REC_SAVED = 128,    // a node's rule reads its bytes
    AD_REC_ON_TAPE = 256,  // a node mentions it
    AD_REC_CLOSED = 512,   // the user's handle ended before the tape's
    AD_REC_TANGENT = 1024  // of another record, which knows its slot only
};

typedef struct ad_storage {
    void *data;             // on the device
    size_t bytes;           // of its size class
    uint32_t references;
    uint32_t version;       // of a parameter or state: goes up at each write
    struct ad_storage *next_free;
    uint32_t captured;      // 1 + its number in the program being captured, or 0
    uint32_t size_class;
} ad_storage;

typedef struct ad_layout {  // shared by records of equal strides
    int64_t stride[AD_RANK_MAX]; // elements
} ad_layout;

typedef struct ad_record {  // 64 bytes
    ad_storage *storage;
    const ad_layout *layout; // NULL: contiguous from the start
    uint32_t size[AD_RANK_MAX];
    uint32_t generation;
    uint32_t node;          // that made it; AD_NO_NODE
    uint32_t tangent;       // slot of its tangent; 0
    uint32_t mark;          // of the backward pass under way
    uint16_t flags;
    uint8_t type, rank;
    union {
        uint32_t name;      // of a parameter or state: 1 + index into names
        uint32_t offset;    // of a view that has a layout: elements
    };
} ad_record;

typedef struct ad_operand {
    uint32_t slot, version;
} ad_operand;

typedef struct ad_node {
    const ad_op *op;
    uint8_t inputs, outputs;
    bool tracked;           // not only here to be run again
    uint32_t saved_inputs;  // bit masks
    uint16_t saved_outputs;
    uint16_t checkpoint;    // number of the checkpoint scope it is in; 0
    uint32_t ordinal;       // in its scope, for messages
    // then: ad_operand input[inputs]; uint32_t output[outputs]; attributes, 8-byte aligned
} ad_node;

typedef struct ad_owned {
    uint32_t slot, generation;
} ad_owned;

typedef struct ad_scope {
    const char *name;
    size_t owned, nodes;    // lengths of the tables when it began
    size_t arena_chunk, arena_used;
    uint32_t ordinal;
    int no_grad;
} ad_scope;

typedef struct ad_arena {   // nodes and layouts: bump allocation, cut back by scopes
    char **chunks;
    size_t chunk_count, chunk, used;
} ad_arena;

typedef struct ad_named {   // parameters and states, in the order they were made
    char *name;
    uint32_t slot, generation, gradient, gradient_generation;
    uint32_t storage_name;
} ad_named;

struct ad_context {
    ad_options options;
    ad_device device;
    // records
    ad_record **chunks;
    size_t chunk_count;
    uint32_t *free_slots;
    size_t free_count, free_capacity, slots_used;
    ad_owned *owned;
    size_t owned_count, owned_capacity;
    ad_named *names;
    size_t name_count, name_capacity;
    // storage
    ad_storage *storage_free;
    void **storage_blocks;
    size_t storage_block_count, storage_block_used;
    ad_storage *cache[AD_STORAGE_CLASSES]; // released, by size class
    size_t live_bytes, cached_bytes, peak_bytes;
    // tape
    ad_node **nodes;
    size_t node_count, node_capacity;
    ad_arena arena;
    const ad_layout *layouts[AD_LAYOUTS_SHARED]; // the youngest of each hash; cleared by scope ends
    ad_scope scopes[AD_SCOPES_MAX];
    int scope_count;
    int no_grad;            // depth
    int quiet;              // > 0: inside a rule: no new tangents
    int force_record;       // > 0: checkpoint scopes record everything
    uint32_t checkpoint, checkpoint_count;
    size_t checkpoint_node, checkpoint_owned;
    uint32_t backward_depth;
    uint32_t spare, spent;  // slots: a cotangent that ends with its rule; the one its last reader
                            // may write over (ad_spend). 0: none
    size_t dual_count, closed_count;
    int checkpoint_scope;   // scope_count when it began
    // error
    bool failed;
    volatile int cancelled;
    char error[AD_ERROR_BYTES];
    // the rest
    uint32_t random_ordinal;
    ad_tensor step;
    uint64_t launches;
    double flops;
    ad_program *capture;    // under way, or NULL
    ad_optimizer *optimizers;
};

/* ---- views */
static inline bool ad_view_contiguous(const ad_view *view) {
    int64_t stride = 1;
    for (int i = view->rank - 1; i >= 0; i--) {
        if (view->size[i] != 1 && view->stride[i] != stride) return false;
        stride *= view->size[i];
    }
    return true;
}
static inline void ad_view_make_contiguous(ad_view *view) {
    int64_t stride = 1;
    for (int i = view->rank - 1; i >= 0; i--) view->stride[i] = stride, stride *= view->size[i];
}
static inline bool ad_type_is_narrow(ad_type type) { return type == AD_F16 || type == AD_BF16; }

/* ---- context.c */
void ad_raise_op(ad_context *ctx, const ad_op *op, const char *format, ...);
static inline bool ad_ready(const ad_context *ctx) {
    return ctx && !ctx->failed && !ctx->cancelled;
}

/* ---- memory.c */
void *ad_host_allocate(ad_context *ctx, size_t bytes); // through the options' hooks; may be NULL
void ad_host_release(ad_context *ctx, void *memory);
// Grows *array to at least `need` elements; false (and an error) when memory is lacking.
bool ad_host_grow(ad_context *ctx, void *array, size_t *capacity, size_t need, size_t element);
static inline bool ad_host_reserve(ad_context *ctx, void *array, size_t *capacity, size_t need,
                                   size_t element) {
    return need <= *capacity || ad_host_grow(ctx, array, capacity, need, element);
}
ad_storage *ad_storage_allocate(ad_context *ctx, size_t bytes);
void ad_storage_release(ad_context *ctx, ad_storage *storage); // one reference less
void *ad_arena_allocate(ad_context *ctx, size_t bytes);
// These strides, zeros past the rank, for as long as the scope lives; NULL and an error.
const ad_layout *ad_layout_share(ad_context *ctx, const int64_t *stride);
void ad_memory_close(ad_context *ctx);

/* ---- tensor.c, and what every operation does several times */
static inline ad_record *ad_record_at(const ad_context *ctx, uint32_t slot) {
    return &ctx->chunks[slot / AD_RECORDS_PER_CHUNK][slot % AD_RECORDS_PER_CHUNK];
}
static inline ad_tensor ad_handle(ad_context *ctx, uint32_t slot) {
    return (ad_tensor){slot, ad_record_at(ctx, slot)->generation, ctx};
}
ad_tensor ad_gradient_for(ad_context *ctx, ad_tensor parameter, const char *who); // ad_gradient
void ad_record_refuse(ad_context *ctx, ad_tensor x, const char *who); // says what is wrong with x
// The record of a handle that is good; NULL and an error.
static inline ad_record *ad_record_of(ad_context *ctx, ad_tensor x, const char *who) {
    if (ad_ready(ctx) && x.slot && x.context == ctx && x.slot < ctx->slots_used) {
        ad_record *record = ad_record_at(ctx, x.slot);
        if (record->generation == x.generation
            && !(record->flags & (AD_REC_CLOSED | AD_REC_RELEASED)))
            return record;
    }
    ad_record_refuse(ctx, x, who);
    return NULL;
}
// A new record in the current scope, without bytes; NULL and an error. size: rank entries.
ad_record *ad_record_new(ad_context *ctx, ad_type type, int rank, const int64_t *size,
                         uint32_t *slot);
void ad_record_free(ad_context *ctx, uint32_t slot);
// Another record of the same bytes and tangent, made by no node.
ad_tensor ad_alias(ad_context *ctx, ad_tensor x);
void ad_owned_cut(ad_context *ctx, size_t length); // frees what was made since, but the kept
void ad_owned_compact(ad_context *ctx, size_t length); // forgets what was made since and has ended
void ad_closed_sweep(ad_context *ctx);             // frees what only an empty tape had named
static inline bool ad_record_same_shape(const ad_record *a, const ad_record *b) {
    bool same = a->rank == b->rank;
    for (int i = 0; i < a->rank && same; i++) same = a->size[i] == b->size[i];
    return same;
}
static inline int64_t ad_record_count(const ad_record *record) {
    int64_t count = 1;
    for (int i = 0; i < record->rank; i++) count *= record->size[i];
    return count;
}
static inline void ad_record_view(const ad_record *record, ad_view *view) {
    view->type = (ad_type)record->type;
    view->rank = record->rank;
    view->data = record->storage ? record->storage->data : NULL;
    int64_t stride = 1;
    for (int i = view->rank - 1; i >= 0; i--) {
        view->size[i] = record->size[i];
        view->stride[i] = stride, stride *= record->size[i];
    }
    if (!record->layout) return;
    if (view->data) view->data = (char *)view->data + record->offset * ad_type_bytes(view->type);
    memcpy(view->stride, record->layout->stride, sizeof view->stride);
}
static inline bool ad_record_allocate(ad_context *ctx, ad_record *record) {
    size_t element = record->type == AD_F64 ? 8 : ad_type_is_narrow((ad_type)record->type) ? 2 : 4;
    record->storage = ad_storage_allocate(ctx, (size_t)ad_record_count(record) * element);
    return record->storage;
}
void ad_drop_bytes(ad_context *ctx, ad_record *record);

/* ---- launch.c */
// Packs, widens and rounds where the kernel cannot read or write a view as it is; the plain one
// is for where it can.
// Both fill in threads and workspace.
bool ad_run(ad_context *ctx, ad_launch *launch, size_t workspace,
            ad_storage *const *input_storage, ad_storage *const *output_storage);
bool ad_run_plain(ad_context *ctx, ad_launch *launch, size_t workspace,
                  ad_storage *const *input_storage, ad_storage *const *output_storage);

/* ---- apply.c */
bool ad_node_rerun(ad_context *ctx, ad_node *node); // fills outputs whose bytes were dropped

/* ---- tape.c */
static inline ad_operand *ad_node_inputs(ad_node *node) { return (ad_operand *)(node + 1); }
static inline uint32_t *ad_node_outputs(ad_node *node) {
    return (uint32_t *)(ad_node_inputs(node) + node->inputs);
}
static inline size_t ad_node_bytes(int inputs, int outputs) { // without its attributes
    size_t bytes = sizeof(ad_node) + (size_t)inputs * sizeof(ad_operand)
                 + (size_t)outputs * sizeof(uint32_t);
    return (bytes + 7) & ~(size_t)7;
}
static inline void *ad_node_attributes(ad_node *node) {
    return (char *)node + ad_node_bytes(node->inputs, node->outputs);
}
// output: slots, as many as the rule says.
bool ad_tape_record(ad_context *ctx, const ad_infer *rule, const ad_tensor *input,
                    const uint32_t *output, bool tracked);

/* ---- gradient.c */
bool ad_grad_many(ad_context *ctx, int ys, const ad_tensor *y, const ad_tensor *dy, int n,
                  const ad_tensor *xs, ad_tensor *dxs, bool accumulate, unsigned flags);

enum { AD_OP_IN_PLACE = 1 << 30 }; // a flag: the kernel may write its result over input 0
// In a rule: the next operation is the last that reads t. If it can (AD_OP_IN_PLACE), and t is a
// cotangent that nobody else needs, it writes its result there instead of into fresh memory.
static inline void ad_spend(ad_context *ctx, ad_tensor t) {
    ctx->spent = t.slot == ctx->spare ? t.slot : 0;
}

/* ---- checkpoint.c */
bool ad_checkpoint_restore(ad_context *ctx, uint32_t checkpoint, size_t last);

/* ---- capture.c */
bool ad_capture_launch(ad_context *ctx, const ad_launch *launch,
                       ad_storage *const *input_storage, ad_storage *const *output_storage);
void ad_capture_storage_gone(ad_context *ctx, ad_storage *storage);

/* ---- optimizer.c */
void ad_optimizers_close(ad_context *ctx);

// Operations that the core itself launches.
extern const ad_op ad_op_copy, ad_op_cast, ad_op_add, ad_op_identity, ad_op_assign;
extern const ad_op ad_op_accumulate;

#endif
