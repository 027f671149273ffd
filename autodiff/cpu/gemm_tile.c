// The panel kernel of the dense product; see gemm_tile.h and tile.h.

#include "autodiff/cpu/gemm_tile.h"

// Where the sums start: c, or zero, and the bias.
AD_INLINE void panel_start(const int rows, const int vectors, const ad_gemm_panel *p, int row,
                           ad_tile_sums sum) {
    const int last = p->columns - (vectors - 1) * AD_LANES; // columns of the last vector
    AD_UNROLL
    for (int v = 0; v < vectors; v++) {
        const bool whole = v < vectors - 1 || last == AD_LANES;
        ad_f32v bias = {0};
        if (p->bias)
            bias = whole ? ad_f32v_load(p->bias + v * AD_LANES)
                         : ad_f32v_load_partial(p->bias + v * AD_LANES, last);
        AD_UNROLL
        for (int r = 0; r < rows; r++) {
            sum[r][v] = bias;
            const float *from = p->c + (row + r) * p->c_stride + v * AD_LANES;
            if (p->add) sum[r][v] += whole ? ad_f32v_load(from) : ad_f32v_load_partial(from, last);
        }
    }
}

AD_INLINE void panel_finish(const int rows, const int vectors, const ad_gemm_panel *p, int row,
                            ad_tile_sums sum) {
    const int last = p->columns - (vectors - 1) * AD_LANES;
    if (p->activation != AD_CPU_IDENTITY)
        ad_tile_activate(p->activation == AD_CPU_LEAKY_RELU, p->leak, rows, vectors, sum);
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        float *to = p->c + (row + r) * p->c_stride;
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (v < vectors - 1 || last == AD_LANES) ad_f32v_store(to + v * AD_LANES, sum[r][v]);
            else ad_f32v_store_partial(to + v * AD_LANES, sum[r][v], last);
        }
    }
}

AD_INLINE void panel_tile(const bool transposed, const int rows, const int vectors,
                          const ad_gemm_panel *p, int row) {
    ad_tile_sums sum;
    const float *a = p->a + (transposed ? row : row * p->a_stride);
    panel_start(rows, vectors, p, row, sum);
    ad_tile_multiply(false, transposed, rows, vectors, p->depth, (const uint32_t *)a, p->a_stride,
                     (const uint32_t *)p->b, p->b_stride, sum);
    panel_finish(rows, vectors, p, row, sum);
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
