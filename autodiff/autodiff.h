/* adjoint/autodiff.h: the shared autodiff core, as a cheat sheet. Reads in pipeline order:
 * context, tensors, operations, gradients, programs, optimisers, your own operation.
 *
 *     ad_context *ctx = ad_open(&(ad_options){ .seed = 1 });
 *     ad_tensor w = ad_parameter(ctx, "w", ad_he_normal(ctx, 64, 4));       // (64, 4)
 *     ad_tensor b = ad_parameter(ctx, "b", ad_zeros(ctx, 64));              // (64)
 *     ad_tensor parameters[] = { w, b };
 *     ad_optimizer *adam = ad_adam(ctx, parameters, 2, &(ad_adam_options){ 0 });
 *     for (int step = 0; step < 1000 && !ad_failed(ctx); step++) {
 *         ad_scope_begin(ctx, "step");
 *         ad_tensor y = ad_relu(ctx, ad_linear(ctx, x, w, b));              // (batch, 64)
 *         ad_grad_add(ctx, ad_mse(ctx, y, target), 2, parameters, 0);
 *         ad_optimizer_step(adam);
 *         ad_scope_end(ctx);
 *     }
 *     if (ad_failed(ctx)) fprintf(stderr, "%s\n", ad_error_text(ctx));
 *     ad_close(ctx);
 *
 * A context is used by one thread at a time; different contexts share nothing. Every function
 * accepts the null tensor and a failed context and then does nothing, so one ad_failed() at the
 * end of a step is enough. Nothing here aborts, exits or prints. */
#ifndef ADJOINT_AUTODIFF_H
#define ADJOINT_AUTODIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { AD_RANK_MAX = 6, AD_INPUTS_MAX = 24, AD_OUTPUTS_MAX = 8 };

typedef struct ad_context ad_context;     // one device, its memory, tape, random stream and error
typedef struct ad_program ad_program;     // a captured step
typedef struct ad_optimizer ad_optimizer; // parameters, their moments and a learning rate
typedef struct ad_op ad_op;               // an operation is a value: see the end of this file

// A handle; {0} is the null tensor. A stale or foreign handle is an error, never a crash.
typedef struct ad_tensor {
    uint32_t slot, generation;
    ad_context *context;
} ad_tensor;

typedef enum ad_type { AD_F32, AD_F64, AD_F16, AD_BF16, AD_I32, AD_U32, AD_TYPES } ad_type;

typedef struct ad_shape {
    int rank;                             // 0 ... AD_RANK_MAX; rank 0 is a scalar
    int64_t size[AD_RANK_MAX];            // each 0 ... 2^31-1, row-major
} ad_shape;

// A failure of the outside world (a file, memory, user input) in one sentence; ad_fail formats it
// into error->text (error may be NULL) and returns false.
typedef struct ad_message { char text[1024]; } ad_message;
bool ad_fail(ad_message *error, const char *format, ...);

/* ---- context -------------------------------------------------------------------------------- */
typedef struct ad_options {
    const char *device;                   // "auto" (default) or "cpu"
    int threads;                          // 0: all cores
    uint64_t seed;                        // of the random stream
    size_t memory_limit;                  // bytes of tensor data; 0: none
    bool check_numbers;                   // find the first operation that makes a NaN or infinity
    bool poison;                          // fill freed memory with NaN patterns (debugging)
    void (*on_error)(void *user, const char *text); // runs at the failing call
    void *(*allocate)(void *user, size_t bytes);    // NULL: aligned malloc; 64-byte aligned
    void (*release)(void *user, void *memory);
    void *user;
} ad_options;

// NULL options: the defaults. NULL only for lack of memory; an unknown device: a failed context.
ad_context *ad_open(const ad_options *options);
void ad_close(ad_context *ctx);                 // NULL is fine
bool ad_failed(const ad_context *ctx);          // the first error sticks; later calls do nothing
const char *ad_error_text(const ad_context *ctx); // "" after none; lasts until ad_error_clear
void ad_error_clear(ad_context *ctx);
void ad_raise(ad_context *ctx, const char *format, ...); // for code built on top of the core
void ad_cancel(ad_context *ctx);                // from any thread or signal: next call fails
int ad_threads(const ad_context *ctx);
const char *ad_device_name(const ad_context *ctx);
const char *ad_build_text(void);                // compiler, SIMD width, OpenMP

void ad_scope_begin(ad_context *ctx, const char *name); // name: a string that outlives the scope
void ad_scope_end(ad_context *ctx);       // frees what was made inside, and its part of the tape
ad_tensor ad_keep(ad_context *ctx, ad_tensor x); // x survives this scope's end, without its history
void ad_free(ad_context *ctx, ad_tensor x);      // ends one early; the tape keeps what it needs
void ad_no_grad_begin(ad_context *ctx);
void ad_no_grad_end(ad_context *ctx);

typedef struct ad_memory {
    size_t live_bytes, peak_bytes, cached_bytes; // tensor data
    size_t tape_bytes, tensor_count, node_count;
    uint64_t launches;                           // kernels run so far
    double flops;                                // as the operations' cost functions count them
} ad_memory;
ad_memory ad_memory_read(const ad_context *ctx);
void ad_memory_peak_reset(ad_context *ctx);
void ad_memory_text(const ad_context *ctx, char *text, size_t bytes); // who holds what, by scope

/* ---- tensors -------------------------------------------------------------------------------- */
static inline ad_shape ad_shape_make(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e,
                                     int64_t f) {
    ad_shape s;
    s.size[0] = a, s.size[1] = b, s.size[2] = c, s.size[3] = d, s.size[4] = e, s.size[5] = f;
    for (s.rank = 0; s.rank < AD_RANK_MAX && s.size[s.rank] != -1;) s.rank++;
    return s;
}
#define AD_SHAPE_TAKE(a, b, c, d, e, f, ...) ad_shape_make(a, b, c, d, e, f)
#define AD_SHAPE(...) AD_SHAPE_TAKE(__VA_ARGS__, -1, -1, -1, -1, -1, -1, -1) // AD_SHAPE(64, 4)
#define AD_SCALAR ad_shape_make(-1, -1, -1, -1, -1, -1)

ad_tensor ad_from(ad_context *ctx, ad_type type, ad_shape shape, const void *data); // copies
ad_tensor ad_full(ad_context *ctx, ad_type type, ad_shape shape, double value);
ad_tensor ad_scalar(ad_context *ctx, ad_type type, double value);        // ()
ad_tensor ad_range(ad_context *ctx, ad_type type, int64_t count);        // 0, 1, ... (count)
#define ad_zeros(ctx, ...) ad_full(ctx, AD_F32, AD_SHAPE(__VA_ARGS__), 0.0)
#define ad_ones(ctx, ...) ad_full(ctx, AD_F32, AD_SHAPE(__VA_ARGS__), 1.0)
ad_tensor ad_zeros_like(ad_context *ctx, ad_tensor x);

bool ad_read(ad_context *ctx, ad_tensor x, void *data, size_t bytes); // waits; bytes must agree
double ad_item(ad_context *ctx, ad_tensor x);    // the value of one element; 0 after an error
bool ad_write(ad_context *ctx, ad_tensor state, const void *data, size_t bytes); // state only
bool ad_write_part(ad_context *ctx, ad_tensor state, size_t offset, const void *data,
                   size_t bytes);                                     // offset in bytes
ad_shape ad_shape_of(ad_context *ctx, ad_tensor x);
ad_type ad_type_of(ad_context *ctx, ad_tensor x);
int64_t ad_count(ad_context *ctx, ad_tensor x);  // elements
bool ad_is_null(ad_tensor x);
size_t ad_type_bytes(ad_type type);
const char *ad_type_name(ad_type type);          // "f32"

// Parameters and states are the only tensors that are ever written. They live in the root scope.
// Names need not be unique here, but in a file they must (adjoint/save.h).
ad_tensor ad_parameter(ad_context *ctx, const char *name, ad_tensor initial); // copies both
ad_tensor ad_state(ad_context *ctx, const char *name, ad_tensor initial);
ad_tensor ad_gradient(ad_context *ctx, ad_tensor parameter); // its buffer: a state, zero at first
const char *ad_name(ad_context *ctx, ad_tensor x); // "" where it has none; lasts until ad_close
void ad_assign(ad_context *ctx, ad_tensor state, ad_tensor value);     // on the device
void ad_accumulate(ad_context *ctx, ad_tensor state, ad_tensor value); // state += value

/* ---- operations: elementwise, with broadcasting as in NumPy ---------------------------------- */
/* Operands have one type; nothing is promoted silently (ad_cast). Comparisons give u32 0 or 1.
 * At ties and kinks: relu, abs and leaky_relu have slope 0, 0 and the leak at 0; maximum and
 * minimum give half to each side of a tie; max and min along an axis share equally among ties;
 * pow(0, 0) = 1 with slope 0 in the base; sqrt has slope 0 at 0 where the cotangent is 0; floor,
 * ceil, round and mod's divisor count have slope 0; clamp has slope 1 inside and on its bounds. */
ad_tensor ad_add(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_sub(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_mul(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_div(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_pow(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_mod(ad_context *ctx, ad_tensor a, ad_tensor b);     // a - b floor(a / b)
ad_tensor ad_minimum(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_maximum(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_affine(ad_context *ctx, ad_tensor x, double scale, double offset); // scale x + offset
ad_tensor ad_neg(ad_context *ctx, ad_tensor x);
ad_tensor ad_exp(ad_context *ctx, ad_tensor x);
ad_tensor ad_expm1(ad_context *ctx, ad_tensor x);
ad_tensor ad_log(ad_context *ctx, ad_tensor x);
ad_tensor ad_log1p(ad_context *ctx, ad_tensor x);
ad_tensor ad_sqrt(ad_context *ctx, ad_tensor x);
ad_tensor ad_rsqrt(ad_context *ctx, ad_tensor x);
ad_tensor ad_square(ad_context *ctx, ad_tensor x);
ad_tensor ad_reciprocal(ad_context *ctx, ad_tensor x);
ad_tensor ad_abs(ad_context *ctx, ad_tensor x);
ad_tensor ad_sign(ad_context *ctx, ad_tensor x);                 // -1, 0, 1
ad_tensor ad_sin(ad_context *ctx, ad_tensor x);
ad_tensor ad_cos(ad_context *ctx, ad_tensor x);
ad_tensor ad_tanh(ad_context *ctx, ad_tensor x);
ad_tensor ad_erf(ad_context *ctx, ad_tensor x);
ad_tensor ad_sigmoid(ad_context *ctx, ad_tensor x);
ad_tensor ad_softplus(ad_context *ctx, ad_tensor x);             // finite at any x
ad_tensor ad_relu(ad_context *ctx, ad_tensor x);
ad_tensor ad_leaky_relu(ad_context *ctx, ad_tensor x, double slope);
ad_tensor ad_elu(ad_context *ctx, ad_tensor x, double alpha);
ad_tensor ad_gelu(ad_context *ctx, ad_tensor x);                 // the exact one, with erf
ad_tensor ad_silu(ad_context *ctx, ad_tensor x);
ad_tensor ad_clamp(ad_context *ctx, ad_tensor x, double low, double high);
ad_tensor ad_floor(ad_context *ctx, ad_tensor x);
ad_tensor ad_ceil(ad_context *ctx, ad_tensor x);
ad_tensor ad_round(ad_context *ctx, ad_tensor x);                // half to even
ad_tensor ad_where(ad_context *ctx, ad_tensor mask, ad_tensor a, ad_tensor b); // u32 mask
ad_tensor ad_equal(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_less(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_less_equal(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_greater(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_isfinite(ad_context *ctx, ad_tensor x);
ad_tensor ad_bit_and(ad_context *ctx, ad_tensor a, ad_tensor b); // i32, u32
ad_tensor ad_bit_or(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_bit_xor(ad_context *ctx, ad_tensor a, ad_tensor b);
ad_tensor ad_shift_left(ad_context *ctx, ad_tensor a, ad_tensor b);  // by 32 or more: 0
ad_tensor ad_shift_right(ad_context *ctx, ad_tensor a, ad_tensor b); // logical for u32
ad_tensor ad_cast(ad_context *ctx, ad_tensor x, ad_type type);   // float to integer truncates
ad_tensor ad_stop_gradient(ad_context *ctx, ad_tensor x);

/* ---- operations: reductions and scans -------------------------------------------------------- */
/* axes: a bit mask of axes (AD_AXIS(0) | AD_AXIS(2)), counted from the front, AD_ALL_AXES for all;
 * keep: leave size-1 axes. Everywhere `int axis` may be negative: -1 is the last.
 * Sums over an empty axis are 0, products 1, max -inf; argmax over one is an error. */
#define AD_AXIS(axis) (1u << (axis))
#define AD_ALL_AXES 0xffffffffu

ad_tensor ad_sum(ad_context *ctx, ad_tensor x, unsigned axes, bool keep);
ad_tensor ad_mean(ad_context *ctx, ad_tensor x, unsigned axes, bool keep);
ad_tensor ad_max(ad_context *ctx, ad_tensor x, unsigned axes, bool keep);
ad_tensor ad_min(ad_context *ctx, ad_tensor x, unsigned axes, bool keep);
ad_tensor ad_prod(ad_context *ctx, ad_tensor x, unsigned axes, bool keep); // exact with zeros
ad_tensor ad_any(ad_context *ctx, ad_tensor mask, unsigned axes, bool keep);
ad_tensor ad_all(ad_context *ctx, ad_tensor mask, unsigned axes, bool keep);
ad_tensor ad_logsumexp(ad_context *ctx, ad_tensor x, unsigned axes, bool keep);
ad_tensor ad_norm(ad_context *ctx, ad_tensor x, unsigned axes, bool keep); // slope 0 at 0
ad_tensor ad_softmax(ad_context *ctx, ad_tensor x, int axis);
ad_tensor ad_argmax(ad_context *ctx, ad_tensor x, int axis);     // i32; the first among ties
ad_tensor ad_argmin(ad_context *ctx, ad_tensor x, int axis);
ad_tensor ad_cumsum(ad_context *ctx, ad_tensor x, int axis, bool exclusive, bool reverse);
ad_tensor ad_cumprod(ad_context *ctx, ad_tensor x, int axis, bool exclusive, bool reverse);
// Segments: offsets (segments + 1) u32 rows into axis 0 of x; rows outside every segment are dead.
ad_tensor ad_segment_sum(ad_context *ctx, ad_tensor x, ad_tensor offsets); // (segments, ...)
ad_tensor ad_segment_max(ad_context *ctx, ad_tensor x, ad_tensor offsets); // empty: -inf
ad_tensor ad_segment_cumsum(ad_context *ctx, ad_tensor x, ad_tensor offsets, bool exclusive,
                            bool reverse);
ad_tensor ad_segment_repeat(ad_context *ctx, ad_tensor x, ad_tensor offsets,
                            int64_t rows);                       // (rows, ...): x of the segment

/* ---- operations: products -------------------------------------------------------------------- */
typedef enum ad_activation { AD_LINEAR, AD_RELU } ad_activation;
// (..., m, k) x (..., k, n) -> (..., m, n), leading axes broadcast; a flag reads it transposed.
ad_tensor ad_matmul(ad_context *ctx, ad_tensor a, ad_tensor b, bool transpose_a, bool transpose_b);
// x (..., in), weight (out, in), bias (out) or null -> activation(x W' + b) (..., out)
ad_tensor ad_linear(ad_context *ctx, ad_tensor x, ad_tensor weight, ad_tensor bias);
ad_tensor ad_dense(ad_context *ctx, ad_tensor x, ad_tensor weight, ad_tensor bias,
                   ad_activation activation);
// A small network in one kernel: x (rows, in); weights[i] (out_i, in_i), biases may be NULL; ReLU
// between layers, linear at the end; count () u32 or null: rows past it are dead (left zero).
typedef struct ad_mlp_options { bool bf16; } ad_mlp_options; // bf16 operands with f32 sums
ad_tensor ad_mlp(ad_context *ctx, ad_tensor x, int layers, const ad_tensor *weights,
                 const ad_tensor *biases, ad_tensor count, const ad_mlp_options *options);

/* ---- operations: shape and selection --------------------------------------------------------- */
// Views where they cost nothing.
ad_tensor ad_reshape(ad_context *ctx, ad_tensor x, ad_shape shape);
ad_tensor ad_permute(ad_context *ctx, ad_tensor x, const int *axes); // rank of x, none negative
ad_tensor ad_transpose(ad_context *ctx, ad_tensor x);                // the last two axes
ad_tensor ad_broadcast(ad_context *ctx, ad_tensor x, ad_shape shape);
ad_tensor ad_slice(ad_context *ctx, ad_tensor x, int axis, int64_t start, int64_t stop,
                   int64_t step); // not 0; places count from the front; backwards may stop at -1
ad_tensor ad_pad(ad_context *ctx, ad_tensor x, int axis, int64_t before, int64_t after,
                 double value);
ad_tensor ad_concat(ad_context *ctx, int count, const ad_tensor *x, int axis);
// index (n), i32 or u32 -> the shape of x with size n at the axis
ad_tensor ad_gather(ad_context *ctx, ad_tensor x, ad_tensor index, int axis);
ad_tensor ad_scatter_add(ad_context *ctx, ad_tensor x, ad_tensor index, int axis,
                         int64_t size);           // out[index[i]] += x[i], deterministic
// mask (n) u32 -> positions (n) u32 of the set ones in order, then n; count () u32
void ad_compact(ad_context *ctx, ad_tensor mask, ad_tensor *positions, ad_tensor *count);
void ad_sort(ad_context *ctx, ad_tensor x, int axis, bool descending, ad_tensor *values,
             ad_tensor *order);                   // stable; NaN last; order i32
ad_tensor ad_one_hot(ad_context *ctx, ad_tensor index, int64_t classes, ad_type type);
ad_tensor ad_contiguous(ad_context *ctx, ad_tensor x);

/* ---- operations: random, counter-based: f(seed, ordinal in the step, step, index) ------------ */
ad_tensor ad_uniform(ad_context *ctx, ad_type type, ad_shape shape, double low, double high);
ad_tensor ad_normal(ad_context *ctx, ad_type type, ad_shape shape, double mean, double deviation);
ad_tensor ad_dropout(ad_context *ctx, ad_tensor x, double rate);
ad_tensor ad_step_tensor(ad_context *ctx);        // () u32 state
void ad_step_advance(ad_context *ctx);            // step + 1 on the device; ordinals restart at 0
uint32_t ad_random_ordinal(ad_context *ctx);      // for operations of your own: the next ordinal
uint64_t ad_seed(const ad_context *ctx);

/* ---- losses and initialisers ----------------------------------------------------------------- */
ad_tensor ad_mse(ad_context *ctx, ad_tensor y, ad_tensor target);              // mean of squares
ad_tensor ad_huber(ad_context *ctx, ad_tensor y, ad_tensor target, double delta);
ad_tensor ad_cross_entropy(ad_context *ctx, ad_tensor logits, ad_tensor labels); // (n, c), i32 (n)
ad_tensor ad_logistic_loss(ad_context *ctx, ad_tensor logits, ad_tensor labels); // 0 or 1, mean
ad_tensor ad_he_normal_shape(ad_context *ctx, ad_shape shape);     // fan-in: product past axis 0
ad_tensor ad_xavier_normal_shape(ad_context *ctx, ad_shape shape); // var 2 / (in + out)
#define ad_he_normal(ctx, ...) ad_he_normal_shape(ctx, AD_SHAPE(__VA_ARGS__))
#define ad_xavier_normal(ctx, ...) ad_xavier_normal_shape(ctx, AD_SHAPE(__VA_ARGS__))

/* ---- gradients ------------------------------------------------------------------------------- */
/* An operation is recorded if and only if an operand is a parameter, is watched, or derives from
 * one. There is no hidden .grad field. */
enum {
    AD_GRAD_RECORD = 1,  // the gradient is itself recorded: differentiate it again
    AD_GRAD_RELEASE = 2, // ad_grad: free intermediates on the way; y stays readable
    AD_GRAD_KEEP = 4     // ad_grad_add: do not
};
ad_tensor ad_watch(ad_context *ctx, ad_tensor x); // the same values as a leaf of the tape
// dxs[i] = (dy/dxs[i])' dy, of xs[i]'s shape (zeros where y does not depend on it); dy null: 1 for
// a scalar y. xs: parameters, watched tensors, or anything on the tape.
bool ad_grad(ad_context *ctx, ad_tensor y, ad_tensor dy, int n, const ad_tensor *xs,
             ad_tensor *dxs, unsigned flags);
// Adds dy/dparameter to each ad_gradient(parameter); y a scalar. Consumes the tape below y: what
// was made on the way can no longer be read (y can), unless by ad_keep before or AD_GRAD_KEEP.
bool ad_grad_add(ad_context *ctx, ad_tensor y, int n, const ad_tensor *parameters, unsigned flags);

ad_tensor ad_dual(ad_context *ctx, ad_tensor x, ad_tensor tangent); // x with a tangent
ad_tensor ad_tangent(ad_context *ctx, ad_tensor y);                 // null where y has none

typedef ad_tensor (*ad_function)(ad_context *ctx, ad_tensor x, void *user); // x any, returns any
ad_tensor ad_jacobian(ad_context *ctx, ad_function f, void *user, ad_tensor x); // (|y|, |x|)
ad_tensor ad_hessian(ad_context *ctx, ad_function f, void *user, ad_tensor x);  // (|x|, |x|)
ad_tensor ad_hvp(ad_context *ctx, ad_function f, void *user, ad_tensor x, ad_tensor v);

// Implicit differentiation: y = step(y, x) is found by repeating the step from start and enters the
// tape as one node, with all modes. The step must contract near y, and depend on tensors with
// gradients through x only; it and user must live as long as the tape. Not within a capture.
typedef ad_tensor (*ad_fixed_step)(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user);
typedef struct ad_fixed_point_options {
    double tolerance;    // of a change, by 1 + max |y| (slopes: max); 0: 1e-14 in f64, else 1e-6
    int steps;           // more are an error; 0: 1,000
} ad_fixed_point_options;
ad_tensor ad_fixed_point(ad_context *ctx, ad_fixed_step step, void *user, ad_tensor start, int n,
                         const ad_tensor *x, const ad_fixed_point_options *options);

// What is made inside and not kept (ad_keep) is dropped at the end and made again, bitwise equal,
// when a backward pass needs it. Checkpoint scopes do not nest.
void ad_checkpoint_begin(ad_context *ctx);
void ad_checkpoint_end(ad_context *ctx);

/* ---- capture and replay ---------------------------------------------------------------------- */
/* Between begin and end operations run as usual and are written down. Reading a value inside is an
 * error, and so is writing one from the host. After the end, tensors made inside that are still
 * alive hold what the last run computed; a rule that saved what an earlier one did is refused. */
void ad_capture_begin(ad_context *ctx);
ad_program *ad_capture_end(ad_context *ctx);      // NULL after an error
bool ad_replay(ad_program *program);
void ad_program_free(ad_program *program);        // before its context is closed
size_t ad_program_launches(const ad_program *program);
size_t ad_program_bytes(const ad_program *program); // planned memory, shared by lifetimes

/* ---- optimisers ------------------------------------------------------------------------------ */
/* A step reads ad_gradient(parameter), writes the parameter and leaves the gradient zero. The
 * learning rate is a state tensor, so that a captured step can change it. */
typedef struct ad_sgd_options {
    double learning_rate, momentum, weight_decay; // 0: 1e-2, none, none
} ad_sgd_options;
typedef struct ad_adam_options {
    double learning_rate, beta1, beta2, epsilon;  // 0 is the default: 1e-3, 0.9, 0.999, 1e-8
    double weight_decay;                          // L2 on the gradient; with decoupled: AdamW
    bool decoupled;
    bool sparse; // rows of gradient exactly zero are left alone; own step counters; not for f64
} ad_adam_options;
ad_optimizer *ad_sgd(ad_context *ctx, const ad_tensor *parameters, int count,
                     const ad_sgd_options *options);
ad_optimizer *ad_adam(ad_context *ctx, const ad_tensor *parameters, int count,
                      const ad_adam_options *options);
void ad_optimizer_step(ad_optimizer *optimizer);
ad_tensor ad_optimizer_rate(ad_optimizer *optimizer);         // () f32 state: the learning rate
int ad_optimizer_states(ad_optimizer *optimizer, int most, ad_tensor *states); // for snapshots
// Owned by the context (freed by ad_close); this frees one early.
void ad_optimizer_free(ad_optimizer *optimizer);
void ad_ema_update(ad_context *ctx, ad_tensor average, ad_tensor value, double decay);
// Scales every gradient by min(1, most / (norm + 1e-6)), decided on the device; returns the norm.
ad_tensor ad_clip_norm(ad_context *ctx, int count, const ad_tensor *parameters, double most);
typedef enum ad_schedule_kind { AD_CONSTANT, AD_COSINE, AD_EXPONENTIAL, AD_STEPS } ad_schedule_kind;
typedef struct ad_schedule {
    ad_schedule_kind kind;
    double rate, rate_end, warmup;                // warmup: share of the whole, 0 ... 1
    double step_at[4], step_factor;               // AD_STEPS: shares and the factor at each
} ad_schedule;
double ad_schedule_rate(const ad_schedule *schedule, double progress); // progress 0 ... 1
// Loss scaling for f16: multiply the loss by ad_loss_scale, then step through it; an overflow
// skips the step and halves the scale, 2,000 good steps double it, all on the device.
ad_tensor ad_loss_scale_open(ad_context *ctx, double initial);         // (2) f32 state
ad_tensor ad_loss_scale(ad_context *ctx, ad_tensor scale);             // () the factor
void ad_loss_scale_step(ad_optimizer *optimizer, ad_tensor scale);

/* ---- your own operation ---------------------------------------------------------------------- */
/* An operation is a constant of this type; the built-in ones are defined exactly so. See
 * examples/custom_operation.c and docs/operations.md. */

// A tensor as a kernel sees it. In infer, data is NULL. An absent optional operand has rank -1.
typedef struct ad_view {
    void *data;                           // on the operation's device
    ad_type type;
    int rank;
    int64_t size[AD_RANK_MAX];
    int64_t stride[AD_RANK_MAX];          // in elements; 0 where broadcast
} ad_view;

typedef struct ad_infer {
    ad_context *ctx;                      // for ad_infer_fail only
    const ad_op *op;
    const void *attributes;
    int inputs, outputs;                  // outputs starts as op->outputs and may be lowered
    const ad_view *input;
    ad_view *output;                      // to fill: type, rank, size
    int64_t view_offset;                  // AD_OP_VIEW: fill with output[0].stride, in elements
    size_t workspace;                     // to fill: bytes of scratch for the kernel
    uint32_t saved_inputs, saved_outputs; // to narrow: what the rules read (all at first)
    int64_t count;                        // for cost, after infer: the elements of output 0
} ad_infer;

typedef struct ad_launch {
    const ad_op *op;
    const void *attributes;
    int inputs, outputs, threads;
    const ad_view *input;                 // contiguous unless the op has AD_OP_STRIDED
    const ad_view *output;                // contiguous
    void *workspace;
} ad_launch;

// What both derivative rules receive. A null cotangent or tangent stands for zero.
typedef struct ad_vjp {
    ad_context *ctx;
    const ad_op *op;
    const void *attributes;
    int inputs, outputs;
    const ad_tensor *input, *output;
    const ad_tensor *dy;                  // one for each output
    uint32_t wanted;                      // bit i: input i wants its gradient; compute no other
    ad_tensor *dx;                        // to fill where wanted; null stands for zero
    // vjp_fused only: where target[i] is not null the rule may add to that state itself
    // (an operation with AD_OP_STATEFUL) and set bit i of done.
    const ad_tensor *target;
    uint32_t done;
} ad_vjp;

typedef struct ad_jvp {
    ad_context *ctx;
    const ad_op *op;
    const void *attributes;
    int inputs, outputs;
    const ad_tensor *input, *output;
    const ad_tensor *dx;                  // one for each input
    ad_tensor *dy;                        // to fill, one for each output
} ad_jvp;

// What the test harness asks: it wishes a shape and a type for the main operand, the operation
// says what goes with it. Return false where the operation has no such case.
typedef struct ad_sample {
    ad_shape shape;
    ad_type type;
    int variant;                          // 0, 1, ...: other attributes; false ends the count
    int inputs;
    struct {
        ad_type type;
        ad_shape shape;
        double low, high;                 // values are drawn between (integers: both included)
        double kink;                      // values keep 0.05 away from multiples of this; 0: none
        bool constant;                    // not differentiated
        bool sorted;                      // ascending along axis 0 (offsets: from 0 to size)
        bool distinct;                    // no two closer than 0.05 along the last axis
    } input[AD_INPUTS_MAX];
    union {
        double align;
        char bytes[512];
    } attributes;
} ad_sample;

enum {
    AD_OP_LINEAR = 1,       // linear in all its float inputs together: jvp = the operation itself
    AD_OP_NO_GRADIENT = 2,  // outputs have no derivative (comparisons, indices): never recorded
    AD_OP_INEXACT = 4,      // the rule is not the derivative on purpose (straight-through)
    AD_OP_RANDOM = 8, AD_OP_STATEFUL = 16, // stateful: writes the inputs named in op->writes
    AD_OP_VIEW = 32,        // output 0 is a view of input 0: no kernel runs
    AD_OP_STRIDED = 64,     // the kernel reads strided inputs itself
    AD_OP_STORAGE = 128     // the kernel reads and writes f16 and bf16 itself (casts, copies)
};

struct ad_op {
    const char *name;
    int inputs_min, inputs_max, outputs;
    uint32_t flags, optional, writes;     // optional, writes: bit masks of inputs
    size_t attribute_bytes;
    void (*infer)(ad_infer *call);        // shapes and types, or ad_infer_fail
    void (*cpu)(const ad_launch *launch); // f32, f64, i32, u32; same bits for any thread count
    const char *vulkan;                   // name of the GLSL twin
    void (*compose)(ad_context *ctx, const ad_vjp *call, ad_tensor *output); // NULL: a primitive
    void (*vjp)(ad_vjp *call);            // in public operations
    void (*vjp_fused)(ad_vjp *call);      // first order only; tested against compose
    void (*jvp)(ad_jvp *call);            // in public operations
    void (*cost)(const ad_infer *call, double *flops, double *bytes);
    bool (*sample)(ad_sample *sample);
    const char *exempt;                   // named exemptions from harness categories, with reasons
};

// Runs an operation. outputs: op->outputs handles. False (and null outputs) after an error.
bool ad_apply(ad_context *ctx, const ad_op *op, int inputs, const ad_tensor *input,
              const void *attributes, ad_tensor *output);
ad_tensor ad_apply1(ad_context *ctx, const ad_op *op, int inputs, const ad_tensor *input,
                    const void *attributes);               // for one output
void ad_infer_fail(ad_infer *call, const char *format, ...); // the sentence after "matmul: "
bool ad_is_tracked(ad_context *ctx, ad_tensor x); // an operation on x would be recorded
ad_tensor ad_sum_to(ad_context *ctx, ad_tensor x, ad_shape shape); // undoes a broadcast
// For rules: t d and t / d, but 0 where t is 0, however steep d; and t where x > 0, else 0.
ad_tensor ad_chain_mul(ad_context *ctx, ad_tensor t, ad_tensor d);
ad_tensor ad_chain_div(ad_context *ctx, ad_tensor t, ad_tensor d);
ad_tensor ad_gate(ad_context *ctx, ad_tensor t, ad_tensor x);
int64_t ad_view_count(const ad_view *view);
bool ad_view_present(const ad_view *view);
bool ad_view_same_shape(const ad_view *a, const ad_view *b);
void ad_view_text(const ad_view *view, char *text, size_t bytes);  // "f32 (64, 4)"

#ifdef __cplusplus
}
#endif
#endif
