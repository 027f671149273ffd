/* The harness every operation must pass: one walk over the operation lists (test_ops.c).
 *
 * An operation says by `sample` what goes with a wished shape and type; the harness chooses shapes,
 * draws the values and looks at the operation from outside only: apply it, differentiate it,
 * compare with finite differences, with another type, layout or thread count, with a replay. The
 * same checks must then catch deliberately wrong copies of its rules (harness_mutation.c). */
#ifndef ADJOINT_TESTS_HARNESS_H
#define ADJOINT_TESTS_HARNESS_H

#include "autodiff/autodiff.h"

typedef enum harness_category {
    HARNESS_AGREE,      // f32 against f64, forward and gradient
    HARNESS_INTEGER,    // i32 and u32 against f64 modulo 2^32
    HARNESS_STORAGE,    // f16 and bf16
    HARNESS_DOT,        // <J v, w> = <v, J' w>
    HARNESS_TAYLOR,     // remainders fall as h^2 and, with the Hessian term, as h^3
    HARNESS_GRADIENT,   // against central differences
    HARNESS_SECOND,     // reverse over reverse against differences of gradients
    HARNESS_MIXED,      // forward over reverse against reverse over reverse
    HARNESS_FUSED,      // the fused rule against the composition, and second order through it
    HARNESS_ZERO,       // a zero cotangent stays zero
    HARNESS_SAME,       // one tensor in two slots
    HARNESS_VIEWS,      // transposed, offset, reversed and repeated (stride 0) operands
    HARNESS_EMPTY,      // axes of size 0
    HARNESS_LARGE,      // more than 2^20 elements
    HARNESS_BITS,       // three runs, 1, 2 and 4 threads
    HARNESS_REPLAY,     // a captured step on new values
    HARNESS_MUTATION,   // wrong rules are caught
    HARNESS_CATEGORIES
} harness_category;

extern const char *const harness_names[HARNESS_CATEGORIES];

// One call of an operation: what its sample says, and values that every type can hold.
typedef struct harness_case {
    const ad_op *op;
    ad_sample sample;
    uint64_t seed;
    int64_t count[AD_INPUTS_MAX];
    double *value[AD_INPUTS_MAX];
} harness_case;

typedef struct harness {
    ad_context *ctx;
    bool quiet;                  // a mutant is being run: faults are wanted
    bool reduced;                // ADJOINT_TEST_SIZE=reduced
    harness_category category;
    long faults, checks, kinks;  // kinks: differences that straddle one
    int ran[HARNESS_CATEGORIES];
    int shown[HARNESS_CATEGORIES]; // faults printed: three a category
} harness;

/* ---- harness_case.c */

// False where the operation has no such case. harness_close frees the values.
bool harness_open(harness_case *c, const ad_op *op, ad_type type, ad_shape shape, int variant);
void harness_close(harness_case *c);
bool harness_real(ad_type type);
bool harness_same_shape(ad_shape a, ad_shape b);
bool harness_differentiable(const harness_case *c, int i);
double harness_random(uint64_t *state);                       // -1 ... 1
double harness_weight(const harness_case *c, int output, int64_t index); // of the loss
ad_tensor harness_input(ad_context *ctx, const harness_case *c, int i);
bool harness_apply(ad_context *ctx, const harness_case *c, const ad_tensor *in, ad_tensor *out);
// The sum of weights times real outputs, in their type (narrow ones in f32); null if there is none.
ad_tensor harness_loss(ad_context *ctx, const harness_case *c, const ad_tensor *out);
// The values of a tensor of any type; free(). NULL after an error.
double *harness_values(ad_context *ctx, ad_tensor x, int64_t *count);
// Inputs as leaves, the outputs and the loss of them. False after an error or without a loss.
bool harness_forward(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *out,
                     ad_tensor *loss);
// ... and the gradients of the differentiable inputs.
bool harness_gradient(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *dx,
                      unsigned flags);

// Reports |got - expected| > tolerance with operation, case, operand and index; true if near.
enum { HARNESS_PRODUCT = -1 }; // no operand: got and expected are two inner products
bool harness_near(harness *h, const harness_case *c, int operand, int64_t index, double got,
                  double expected, double tolerance);
// Two tensors within tolerance times the largest magnitude of `expected` (at least `scale`).
bool harness_close_to(harness *h, const harness_case *c, int operand, ad_tensor got,
                      ad_tensor expected, double tolerance, double scale);
// ... each element within tolerance times its own magnitude (or that of the terms it adds up, if
// sizes are given) and a part of the largest one's: HARNESS_FLOOR; and absolute.
#define HARNESS_FLOOR (1. / 64)
bool harness_close_each(harness *h, const harness_case *c, int operand, ad_tensor got,
                        ad_tensor expected, double tolerance, const double *sizes,
                        double absolute);
// An error of the context is a fault, and cleared.
bool harness_sound(harness *h, const harness_case *c);
void harness_fault(harness *h, const harness_case *c, const char *format, ...);

/* ---- harness_derivative.c */

typedef void (*harness_check)(harness *h, const harness_case *c);
void harness_check_dot(harness *h, const harness_case *c);
void harness_check_taylor(harness *h, const harness_case *c);
void harness_check_gradient(harness *h, const harness_case *c);
void harness_check_second(harness *h, const harness_case *c);
void harness_check_mixed(harness *h, const harness_case *c);
void harness_check_fused(harness *h, const harness_case *c); // an f32 case
void harness_check_zero(harness *h, const harness_case *c);
void harness_check_same(harness *h, const harness_case *c);

/* ---- harness_run.c */

void harness_check_agree(harness *h, const harness_case *c); // an f32 case
void harness_check_runs(harness *h, const harness_case *c);
void harness_check_integer(harness *h, const harness_case *c); // an i32 or u32 case
void harness_check_storage(harness *h, const harness_case *c); // an f16 or bf16 case
void harness_check_views(harness *h, const harness_case *c);
void harness_check_bits(harness *h, const harness_case *c);
void harness_check_replay(harness *h, const harness_case *c);

/* ---- test_ops.c */

// "WHAT: reason" stands in the operation's exempt text or in the list of test_ops.c.
bool harness_exempt(const ad_op *op, const char *what);

/* ---- harness_mutation.c */

typedef struct harness_count {
    long planted, caught, without_effect;
} harness_count;
// Every wrong copy of the operation's rules, over the small shapes.
void harness_mutate(harness *h, const ad_op *op, const ad_shape *shapes, int shape_count,
                    harness_count *count);

#endif
