/* reduce.h: reducing a packed tensor over any set of its axes. */
#ifndef ADJOINT_CPU_REDUCE_H
#define ADJOINT_CPU_REDUCE_H

#include "autodiff/autodiff.h"
#include "autodiff/ops/reduce.def"

#define REDUCE(with, id, start, element, combination) id,
typedef enum ad_reduction { AD_REDUCTIONS(REDUCE, , , , , ) AD_REDUCTION_COUNT } ad_reduction;
#undef REDUCE

// Bytes of scratch that ad_cpu_reduce needs.
size_t ad_cpu_reduce_workspace(const ad_view *x, unsigned axes);
// y: the elements of x that remain, in order. Both packed; f32, f64, i32 or u32.
void ad_cpu_reduce(ad_reduction op, const ad_view *x, unsigned axes, void *y, void *workspace,
                   int threads);

#endif
