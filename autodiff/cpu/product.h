/* product.h: c = act(op(a) op(b) + bias) on views, each with any strides and leading axes that are
 * broadcast.
 *
 * One call of gemm.h, or several where the leading axes of the operands do not melt into one batch
 * with one stride. An operand is read where it lies if its rows or its columns are dense, so a
 * transposed view costs nothing; any other layout is packed into the workspace first. */
#ifndef ADJOINT_CPU_PRODUCT_H
#define ADJOINT_CPU_PRODUCT_H

#include "autodiff/autodiff.h"

// A vector (n) in the place of a or c is one row. All of one type, f32 or f64; c is contiguous.
typedef struct ad_product {
    const ad_view *a, *b, *bias, *c; // bias (n) may be NULL
    bool transposed_a, transposed_b;
    bool relu;
} ad_product;

size_t ad_product_workspace(const ad_product *product, int threads); // needs no data
void ad_product_run(const ad_product *product, int threads, void *workspace);

#endif
