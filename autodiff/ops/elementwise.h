/* elementwise.h: what the files of the elementwise family share. Not installed.
 *
 * An operation of the family is a row of facts: a kernel body for each type (in f32 a second one
 * for results that go past the caches), one derivative rule per operand, and what the test harness
 * may feed it. Everything else (broadcasting, the strided walk, both derivative modes,
 * samples) is the same for all and lives in elementwise_family.c. The rows are made from the lines
 * of elementwise.def. */
#ifndef ADJOINT_OPS_ELEMENTWISE_H
#define ADJOINT_OPS_ELEMENTWISE_H

#include "autodiff/core.h"
#include "autodiff/cpu/loop.h"
#include "autodiff/cpu/stream.h"

enum { AD_STREAM_LINE = AD_STREAM_ALIGN / sizeof(float) }; // numbers

// What a derivative rule reads: operands (bit i) and the result.
enum { AD_READS_NOTHING = 0, AD_READS_A = 1, AD_READS_B = 2, AD_READS_C = 4, AD_READS_Y = 128,
       AD_READS_T_ONCE = 256 }; // and t once at most: it may be written over

typedef struct ad_elementwise {
    ad_loop_body body[AD_TYPES]; // data[0]: the result, contiguous; NULL: not for this type
    ad_loop_body stream;         // the same in f32 past the caches, or NULL; the result aligned to
                                 // AD_STREAM_ALIGN, operands contiguous, but one a single value
    // The slope with respect to one operand times t: a cotangent in reverse mode, a tangent of that
    // operand in forward mode. Null: zero everywhere.
    ad_tensor (*rule)(ad_context *ctx, int operand, ad_tensor t, const ad_tensor *x, ad_tensor y,
                      const double *attributes);
    unsigned reads;
    bool makes_mask;             // the result is u32 0 or 1
    bool takes_mask;             // operand 0 is u32
    double flops;                // for an element
    double low[3], high[3], kink; // domains of the operands, for samples
    double attributes[2];        // for samples
} ad_elementwise;

// A loop of a streaming body: a cache line at a time from registers to memory, where AHEAD asks for
// the operands' lines to come.
#define AD_STREAM_LOOP(AHEAD, LOAD, VALUE)                                                        \
    int64_t at = 0;                                                                               \
    for (; at + AD_STREAM_LINE <= n; at += AD_STREAM_LINE) {                                      \
        _Alignas(AD_STREAM_ALIGN) float line[AD_STREAM_LINE];                                     \
        AHEAD;                                                                                    \
        _Pragma("omp simd") for (int64_t i = at; i < at + AD_STREAM_LINE; i++) {                  \
            LOAD;                                                                                 \
            line[i - at] = VALUE;                                                                 \
        }                                                                                         \
        ad_stream_copy(out + at, line, sizeof line);                                              \
    }                                                                                             \
    for (int64_t i = at; i < n; i++) {                                                            \
        LOAD;                                                                                     \
        out[i] = VALUE;                                                                           \
    }                                                                                             \
    ad_stream_end();

void ad_elementwise_infer(ad_infer *call, const ad_elementwise *e);
void ad_elementwise_run(const ad_launch *launch, const ad_elementwise *e);
void ad_elementwise_vjp(ad_vjp *call, const ad_elementwise *e);
void ad_elementwise_jvp(ad_jvp *call, const ad_elementwise *e);

// An operand that is repeated counts as often as it is read, a mask as its values' type.
static inline void ad_elementwise_cost(const ad_infer *call, const ad_elementwise *e,
                                       double *flops, double *bytes) {
    double count = (double)call->count;
    ad_type type = call->input[call->inputs - 1].type;
    *flops = e->flops * count;
    *bytes = count * (call->inputs + 1) * (ad_type_is_narrow(type) ? 2 : type == AD_F64 ? 8 : 4);
}
// Variants of several operands: 0 same shape, 1 the right one a scalar, 2 the right one a row,
// 3 axes of size 1 on either side, 4 the left one a scalar; 5 to 9 the same with domains swapped,
// where they lie apart.
bool ad_elementwise_sample(ad_sample *s, const ad_op *op, const ad_elementwise *e);

// The operation's constant from its row of facts.
#define AD_ELEMENTWISE_OP(NAME, OPERANDS, FLAGS, ATTRIBUTES, EXEMPT)                              \
    extern const ad_op ad_op_##NAME;                                                              \
    static void NAME##_infer(ad_infer *call) { ad_elementwise_infer(call, &NAME##_facts); }       \
    static void NAME##_cpu(const ad_launch *launch) { ad_elementwise_run(launch, &NAME##_facts); } \
    static void NAME##_vjp(ad_vjp *call) { ad_elementwise_vjp(call, &NAME##_facts); }             \
    static void NAME##_jvp(ad_jvp *call) { ad_elementwise_jvp(call, &NAME##_facts); }             \
    static void NAME##_cost(const ad_infer *call, double *flops, double *bytes) {                 \
        ad_elementwise_cost(call, &NAME##_facts, flops, bytes);                                   \
    }                                                                                             \
    static bool NAME##_sample(ad_sample *s) {                                                     \
        return ad_elementwise_sample(s, &ad_op_##NAME, &NAME##_facts);                            \
    }                                                                                             \
    const ad_op ad_op_##NAME = {                                                                  \
        .name = #NAME, .inputs_min = OPERANDS, .inputs_max = OPERANDS, .outputs = 1,              \
        .flags = AD_OP_STRIDED | AD_OP_IN_PLACE | (FLAGS),                                        \
        .attribute_bytes = (ATTRIBUTES) * sizeof(double),                                         \
        .infer = NAME##_infer, .cpu = NAME##_cpu, .vjp = NAME##_vjp, .jvp = NAME##_jvp,           \
        .cost = NAME##_cost, .sample = NAME##_sample, .exempt = EXEMPT};

#endif
