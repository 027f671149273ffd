/* optimize.h: the operations that write parameters, for optimizer.c, and the sparse Adam step for
 * kernels that form a table's gradient piece by piece and spend it while it is in the cache. */
#ifndef ADJOINT_OPS_OPTIMIZE_H
#define ADJOINT_OPS_OPTIMIZE_H

#include "autodiff/autodiff.h"

extern const ad_op ad_op_sgd, ad_op_adam, ad_op_ema, ad_op_clip;
extern const ad_op ad_op_gate_begin, ad_op_gate_check, ad_op_scale_update;

// What an optimiser of ad_adam keeps for one of its parameters. False, with the context's error
// raised, where it is not one of its, or not the sparse form.
typedef struct ad_adam_parts {
    ad_tensor first, second, steps, rate, gate; // gate: may be null
    ad_adam_options options;
} ad_adam_parts;
bool ad_adam_sparse_parts(ad_optimizer *o, ad_tensor parameter, ad_adam_parts *parts);

// A step's constants; the tables lie in a workspace of ad_adam_workspace() bytes.
typedef struct ad_adam_rule {
    const ad_adam_options *options;
    float rate, factor;    // factor: of the gradient
    float *table, *roots;
    double end;            // from this step on all factors are 1
    uint32_t saturated;    // the same where the tables reach that far, else 0
} ad_adam_rule;
size_t ad_adam_workspace(void);
ad_adam_rule ad_adam_rule_of(const ad_adam_options *options, float rate, float factor,
                             float *workspace);
// One step of rows of `width` numbers; where a row's gradient is zero nothing moves. Leaves g zero.
void ad_adam_sparse_rows(const ad_adam_rule *rule, int64_t rows, int64_t width, uint32_t *counter,
                         float *p, float *g, float *m, float *v);
bool ad_gate_open(const ad_view *gate, float *factor); // false: this step is skipped

#endif
