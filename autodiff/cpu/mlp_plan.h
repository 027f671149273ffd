// How the fused multilayer perceptron lies in memory: padded widths, packed weights, scratch.
//
// Widths are padded to whole vectors; padded columns are zero all the way through. In bf16 a
// block of activations exists in two layouts, because a product sums over neighbouring pairs:
//   side by side  (rows, width) bf16: pairs along the width, for the products over the width
//   pairs         (rows / 2, width) words: pairs of rows, for the weight gradients over the rows
// What the forward pass saves is f32 (rows, width), or in bf16 the pairs, which serve the weight
// gradient as they are and tell the sign of every activation.

#ifndef AD_CPU_MLP_PLAN_H
#define AD_CPU_MLP_PLAN_H

#include "autodiff/cpu/mlp.h"
#include "autodiff/cpu/simd.h"

enum {
    AD_MLP_BLOCK = 96,        // rows that go through all layers together: full tiles of 6, 8, 12
    AD_MLP_SPAN = 8,          // blocks of a forward task, at most
    AD_MLP_OWNERS_MAX = 64,   // partial sums of the weight gradients
    AD_MLP_OWNER_ROWS = 480,  // and the least rows of each
    AD_MLP_SCRATCH_BLOCKS = 4 // blocks of widest activations that a thread works in
};

AD_INLINE int ad_mlp_padded(int width) { return (width + AD_LANES - 1) / AD_LANES * AD_LANES; }
AD_INLINE size_t ad_mlp_aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
AD_INLINE int64_t ad_mlp_stride(int64_t stride, int width) { return stride ? stride : width; }

// Steps of a product over `count` numbers: words of f32, or of bf16 pairs.
AD_INLINE int ad_mlp_depth(const ad_cpu_mlp *mlp, int count) {
    return mlp->bf16 ? (count + 1) / 2 : count;
}

int ad_mlp_widest(const ad_cpu_mlp *mlp);
double ad_mlp_products(const ad_cpu_mlp *mlp);

// Word offset of hidden layer `layer` (0 = the first) in the saved activations.
size_t ad_mlp_saved_offset(const ad_cpu_mlp *mlp, int64_t rows, int layer);

// Words of a packed weight, and packing: (depth of in, padded out) for the forward pass, and for
// the backward pass (depth of out, padded in).
size_t ad_mlp_packed_words(const ad_cpu_mlp *mlp, int layer, bool backward);
void ad_mlp_pack_forward(const ad_cpu_mlp *mlp, int layer, const float *weight, uint32_t *packed);
void ad_mlp_pack_backward(const ad_cpu_mlp *mlp, int layer, const float *weight, uint32_t *packed);

// Rows of f32 as bf16 side by side and as row pairs, either may be NULL; a missing last row of an
// odd number is zero.
void ad_mlp_round_rows(const float *from, int64_t stride, int rows, int width, uint16_t *halves,
                       uint32_t *pairs);

// Where a layer begins in an owner's partial sums, in words: weights (padded out, padded in), then
// biases; `layers` gives the end. The number of owners depends on nothing but rows and network.
size_t ad_mlp_sums_offset(const ad_cpu_mlp *mlp, int layer);
int ad_mlp_owners(const ad_cpu_mlp *mlp, int64_t rows);

// Threads worth starting: none for less than about 20 microseconds of work, and at most as many as
// rows are shared out to (row_tasks.h).
int ad_mlp_threads(double products, int threads);

#endif
