// The micro-kernel under every dense product that vectors compute (the matrix unit's is in amx.h):
// a tile of the result, at most 12 rows by 4 vectors, stays in registers while the common dimension
// runs by.
//
//   sum[r][v] += a[r, k] * b[k, v]     for k = 0 .. depth - 1
//
// Each step loads `vectors` vectors of b and one number of a for every row, spread over all lanes.
// Everything is counted in 32-bit words: an f32, or a pair of bf16 that are neighbours along the
// common dimension. rows, vectors, bf16 and transposed are constants at every call, so that after
// inlining nothing is left but loads and multiply-adds. One order of summation for all tile
// sizes: which tile a row falls in does not change its bits.

#ifndef AD_CPU_TILE_H
#define AD_CPU_TILE_H

#include <stdbool.h>

#include "autodiff/cpu/simd.h"

enum {
    AD_TILE_ROWS_MAX = 12,
    AD_TILE_VECTORS_MAX = AD_VECTOR_REGISTERS >= 32 ? 4 : 2,
};

// Rows of the largest tile that fits the registers, for a tile so many vectors wide.
AD_INLINE int ad_tile_rows(int vectors) {
    if (AD_VECTOR_REGISTERS < 32) return vectors == 1 ? 8 : 6;
    return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
}

// How wide the next tile is when `vectors` vectors are left: 5 goes as 3 + 2, not 4 + 1.
AD_INLINE int ad_tile_vectors(int vectors) {
    if (vectors <= AD_TILE_VECTORS_MAX) return vectors;
    return vectors == AD_TILE_VECTORS_MAX + 1 ? (vectors + 1) / 2 : AD_TILE_VECTORS_MAX;
}

typedef ad_f32v ad_tile_sums[AD_TILE_ROWS_MAX][AD_TILE_VECTORS_MAX];

// How b is read: whole vectors, or of the last vector of a row the first `last` lanes only.
typedef struct ad_tile_right {
    const uint32_t *words;
    int64_t stride;
    bool partial; // a constant at every call
    int last;
} ad_tile_right;

// a[r, k] is at a + r * a_stride + k, or at a + k * a_stride + r if transposed;
// b[k, v] is at b.words + k * b.stride + v * lanes.
AD_INLINE void ad_tile_multiply(const bool bf16, const bool transposed, const int rows,
                                const int vectors, int64_t depth, const uint32_t *a,
                                int64_t a_stride, const ad_tile_right b, ad_tile_sums sum) {
    const uint32_t *from = b.words;
    const uint32_t *a_row[AD_TILE_ROWS_MAX];
    AD_UNROLL
    for (int r = 0; r < rows; r++) a_row[r] = transposed ? a : a + r * a_stride;

    for (int64_t k = 0; k < depth; k++) {
        ad_u32v right[AD_TILE_VECTORS_MAX];
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            const uint32_t *at = from + v * AD_LANES;
            right[v] = b.partial && v == vectors - 1 ? (ad_u32v)ad_f32v_load_partial(at, b.last)
                                                     : ad_u32v_load(at);
        }
        from += b.stride;
        AD_UNROLL
        for (int r = 0; r < rows; r++) {
            ad_u32v left = ad_u32v_set(transposed ? a[r] : a_row[r][k]);
            AD_UNROLL
            for (int v = 0; v < vectors; v++) {
                sum[r][v] = bf16 ? ad_bf16v_dot(left, right[v], sum[r][v])
                                 : ad_f32v_fma((ad_f32v)left, (ad_f32v)right[v], sum[r][v]);
            }
        }
        if (transposed) a += a_stride;
    }
}

// relu, or leaky relu, of all of a tile.
AD_INLINE void ad_tile_activate(bool leaky, float leak, const int rows, const int vectors,
                                ad_tile_sums sum) {
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            const ad_f32v z = sum[r][v];
            sum[r][v] = leaky ? ad_f32v_select((ad_i32v)(z > 0.0f), z, z * ad_f32v_set(leak))
                              : ad_f32v_relu(z);
        }
    }
}

#endif
