// The panel kernel of the dense product; see gemm_tile.h and tile.h.

#include "autodiff/cpu/gemm_tile.h"

// A vector of a row, which may be the last one and not full.
AD_INLINE ad_f32v row_load(const float *row, const int v, const int vectors, int last) {
    if (v < vectors - 1) return ad_f32v_load(row + v * AD_LANES);
    return ad_f32v_load_partial(row + v * AD_LANES, last);
}

AD_INLINE void panel_tile(const bool transposed, const int rows, const int vectors,
                          const ad_gemm_panel *p, int row) {
    const int last = p->columns - (vectors - 1) * AD_LANES; // columns of the last vector
    float *c = p->c + row * p->c_stride;

    // The sums start at zero, what was summed before, the bias or both.
    ad_tile_sums sum;
    AD_UNROLL
    for (int v = 0; v < vectors; v++) {
        ad_f32v start = {0};
        if (p->bias) start = row_load(p->bias, v, vectors, last);
        AD_UNROLL
        for (int r = 0; r < rows; r++) {
            sum[r][v] = start;
            if (p->start)
                sum[r][v] += row_load(p->start + (row + r) * p->start_stride, v, vectors, last);
        }
    }
    const uint32_t *a = (const uint32_t *)(p->a + (transposed ? row : row * p->a_stride));
    const ad_tile_right b = {.words = (const uint32_t *)p->b, .stride = p->b_stride,
                             .partial = AD_SIMD_MASKED, .last = last};
    ad_tile_multiply(false, transposed, rows, vectors, p->depth, a, p->a_stride, b, sum);
    if (p->plus) {
        AD_UNROLL
        for (int r = 0; r < rows; r++) {
            AD_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[r][v] += row_load(c + r * p->c_stride, v, vectors, last);
        }
    }
    if (p->activation != AD_CPU_IDENTITY)
        ad_tile_activate(p->activation == AD_CPU_LEAKY_RELU, p->leak, rows, vectors, sum);
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        float *to = c + r * p->c_stride;
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (v < vectors - 1) ad_f32v_store(to + v * AD_LANES, sum[r][v]);
            else ad_f32v_store_partial(to + v * AD_LANES, sum[r][v], last);
        }
    }
}

AD_INLINE void panel_column(const bool transposed, const int vectors, const ad_gemm_panel *p) {
    const int most = ad_tile_rows(vectors);
    int row = 0;
    for (; row + most <= p->rows; row += most) panel_tile(transposed, most, vectors, p, row);
    for (; row + 4 <= p->rows; row += 4) panel_tile(transposed, 4, vectors, p, row);
    for (; row + 2 <= p->rows; row += 2) panel_tile(transposed, 2, vectors, p, row);
    if (row < p->rows) panel_tile(transposed, 1, vectors, p, row);
}

AD_INLINE void panel_any(const bool transposed, const ad_gemm_panel *p) {
    if (p->vectors == 1) panel_column(transposed, 1, p);
    else if (p->vectors == 2) panel_column(transposed, 2, p);
#if AD_VECTOR_REGISTERS >= 32
    else if (p->vectors == 3) panel_column(transposed, 3, p);
    else panel_column(transposed, 4, p);
#endif
}

void ad_gemm_multiply(const ad_gemm_panel *panel) {
    if (panel->transposed) panel_any(true, panel);
    else panel_any(false, panel);
}
