// One layer of a block of rows, forward or backward, tile by tile: product, then everything that
// can be done while the result is still in registers.
//
//   forward:            c = activation(a b + bias)
//   gradient of input:  c = (a b) * derivative of the activation, told by the saved activations
//
// mlp_tile.c holds the code; the two passes describe their products as an ad_mlp_product.

#ifndef AD_CPU_MLP_TILE_H
#define AD_CPU_MLP_TILE_H

#include "autodiff/cpu/amx.h"
#include "autodiff/cpu/mlp_plan.h"

typedef struct ad_mlp_product {
    ad_amx *unit; // this thread's, or NULL: by vectors
    int rows;     // of the block; the bf16 kernels compute an even number, and read up to a block
    int columns;
    int depth;         // in words
    const uint32_t *a; // (rows, depth) words
    int64_t a_stride;
    const uint32_t *b; // (depth, padded columns) words
    const float *bias; // (padded columns), or NULL
    ad_cpu_activation activation;
    float leak;
    const uint32_t *gate; // saved activations, (rows, padded columns) f32 or pairs, or NULL
    float *c;             // (rows, columns) f32, or NULL
    int64_t c_stride;
    uint16_t *halves; // bf16: the result side by side, or NULL; stride is padded columns
    uint32_t *pairs;  // bf16: the result as row pairs, or NULL; stride is padded columns
} ad_mlp_product;

void ad_mlp_multiply(bool bf16, const ad_mlp_product *product);

// Weight gradient of a block: sums (out, padded in) += a^T b, over `depth` rows or row pairs.
// a: (depth, out) words, a_stride apart; b: (depth, padded in) words, b_stride apart.
typedef struct ad_mlp_outer {
    ad_amx *unit; // this thread's, or NULL: by vectors
    int depth;
    int rows;    // out
    int columns; // padded in
    const uint32_t *a;
    int64_t a_stride;
    const uint32_t *b;
    int64_t b_stride;
    float *sums;      // with room for padded out
    uint32_t *turned; // scratch with a unit: (padded out, padded depth)
} ad_mlp_outer;

void ad_mlp_accumulate(bool bf16, const ad_mlp_outer *outer);

#endif
