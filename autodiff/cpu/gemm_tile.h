// A panel of c: all rows of a block against at most four vectors of columns. The kernel of gemm.c.

#ifndef AD_CPU_GEMM_TILE_H
#define AD_CPU_GEMM_TILE_H

#include "autodiff/cpu/gemm.h"
#include "autodiff/cpu/tile.h"

typedef struct ad_gemm_panel {
    bool transposed; // a is (depth, rows)
    int rows, columns;
    int vectors; // that hold the columns; the last may not be full
    int64_t depth;
    const float *a;
    int64_t a_stride;
    const float *b; // (depth, columns); without masked loads whole vectors are read
    int64_t b_stride;
    float *c;
    int64_t c_stride;
    const float *start; // what the sums go on from, which may be c, or NULL
    int64_t start_stride;
    bool plus;          // what c holds is added to the finished sums
    const float *bias;  // (columns), or NULL
    ad_cpu_activation activation;
    float leak;
} ad_gemm_panel;

void ad_gemm_multiply(const ad_gemm_panel *panel);

#endif
