/* optimize.h: the operations that write parameters, for optimizer.c. */
#ifndef ADJOINT_OPS_OPTIMIZE_H
#define ADJOINT_OPS_OPTIMIZE_H

#include "autodiff/autodiff.h"

extern const ad_op ad_op_sgd, ad_op_adam, ad_op_ema, ad_op_clip;
extern const ad_op ad_op_gate_begin, ad_op_gate_check, ad_op_scale_update;

#endif
