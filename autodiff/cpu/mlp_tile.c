// The products of the fused multilayer perceptron; see mlp_tile.h and tile.h.
//
// Each function below exists once for every tile shape, by inlining with constant sizes: first
// the tile, then a column of tiles over all rows, then the choice of the column's width.

#include "autodiff/cpu/mlp_tile.h"

#include <assert.h>

#include "autodiff/cpu/tile.h"

// ---------------------------------------------------------------- forward, gradient of the input

// Chain rule through the activation: the saved activation is positive where its argument was.
AD_INLINE ad_f32v gated(ad_i32v positive, ad_f32v v, const ad_mlp_product *p) {
    if (p->activation == AD_CPU_RELU) return (ad_f32v)((ad_i32v)v & positive);
    return ad_f32v_select(positive, v, v * ad_f32v_set(p->leak));
}

// Asks for the next block's saved activations on the way, a line at a time: asked for all at once,
// they would wait for each other.
AD_INLINE void layer_gate(const bool bf16, const int rows, const int vectors,
                          const ad_mlp_product *p, int row, int column, ad_tile_sums sum) {
    const int64_t stride = ad_mlp_padded(p->columns), block = AD_MLP_BLOCK / (bf16 ? 2 : 1);
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            int64_t at = (row + r) / (bf16 ? 2 : 1) * stride + column + v * AD_LANES;
            if (!bf16 || r % 2 == 0) __builtin_prefetch(p->gate + at + block * stride, 0, 2);
            ad_i32v saved = (ad_i32v)ad_u32v_load(p->gate + at);
            ad_i32v positive;
            if (!bf16) positive = (ad_i32v)((ad_f32v)saved > 0.0f);
            else if (r % 2) positive = (ad_i32v)(saved > 0xffff);
            else positive = (ad_i32v)((ad_i32v)((ad_u32v)saved << 16) > 0);
            sum[r][v] = gated(positive, sum[r][v], p);
        }
    }
}

// The f32 result. Neither padded columns nor a padded last row leave the registers.
AD_INLINE void layer_store(const int rows, const int vectors, const ad_mlp_product *p, int row,
                           int column, ad_tile_sums sum) {
    const int last = p->columns - column - (vectors - 1) * AD_LANES; // columns of the last vector
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        if (row + r >= p->rows) break;
        float *to = p->c + (row + r) * p->c_stride + column;
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (v < vectors - 1 || last >= AD_LANES) ad_f32v_store(to + v * AD_LANES, sum[r][v]);
            else ad_f32v_store_partial(to + v * AD_LANES, sum[r][v], last);
        }
    }
}

// What follows the product: rows x vectors of the result, from (row, column) on.
AD_INLINE void layer_finish(const bool bf16, const int rows, const int vectors,
                            const ad_mlp_product *p, int row, int column, ad_tile_sums sum) {
    const int64_t padded = ad_mlp_padded(p->columns);
    if (p->gate) layer_gate(bf16, rows, vectors, p, row, column, sum);
    else if (p->activation != AD_CPU_IDENTITY)
        ad_tile_activate(p->activation == AD_CPU_LEAKY_RELU, p->leak, rows, vectors, sum);

    if (p->c) layer_store(rows, vectors, p, row, column, sum);
    if (!bf16) return;
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            int64_t at = (row + r) * padded + column + v * AD_LANES;
            if (p->halves) ad_bf16v_store(p->halves + at, sum[r][v]);
        }
    }
    AD_UNROLL
    for (int r = 0; r + 1 < rows; r += 2) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            int64_t at = (row + r) / 2 * padded + column + v * AD_LANES;
            if (p->pairs) ad_u32v_store(p->pairs + at, ad_bf16v_pair(sum[r][v], sum[r + 1][v]));
        }
    }
}

AD_INLINE void layer_tile(const bool bf16, const int rows, const int vectors,
                          const ad_mlp_product *p, int row, int column) {
    ad_tile_sums sum;
    AD_UNROLL
    for (int v = 0; v < vectors; v++) {
        ad_f32v start = {0};
        if (p->bias) start = ad_f32v_load(p->bias + column + v * AD_LANES);
        AD_UNROLL
        for (int r = 0; r < rows; r++) sum[r][v] = start;
    }
    ad_tile_multiply(bf16, false, rows, vectors, p->depth, p->a + row * p->a_stride, p->a_stride,
                     (ad_tile_right){.words = p->b + column, .stride = ad_mlp_padded(p->columns)},
                     sum);
    layer_finish(bf16, rows, vectors, p, row, column, sum);
}

AD_INLINE void layer_column(const bool bf16, const int vectors, const ad_mlp_product *p,
                            int column) {
    const int most = ad_tile_rows(vectors);
    const int rows = bf16 ? (p->rows + 1) / 2 * 2 : p->rows;
    int row = 0;
    for (; row + most <= rows; row += most) layer_tile(bf16, most, vectors, p, row, column);
    for (; row + 4 <= rows; row += 4) layer_tile(bf16, 4, vectors, p, row, column);
    for (; row + 2 <= rows; row += 2) layer_tile(bf16, 2, vectors, p, row, column);
    if (!bf16 && row < rows) layer_tile(bf16, 1, vectors, p, row, column);
}

AD_INLINE void layer_columns(const bool bf16, const ad_mlp_product *p) {
    const int padded = ad_mlp_padded(p->columns);
    for (int column = 0, vectors; column < padded; column += vectors * AD_LANES) {
        vectors = ad_tile_vectors((padded - column) / AD_LANES);
        if (vectors == 1) layer_column(bf16, 1, p, column);
        else if (vectors == 2) layer_column(bf16, 2, p, column);
#if AD_VECTOR_REGISTERS >= 32
        else if (vectors == 3) layer_column(bf16, 3, p, column);
        else layer_column(bf16, 4, p, column);
#endif
    }
}

#if AD_AMX
// Tiles of the matrix unit: their sums go by way of memory, and on from there two rows at a time.
AD_INLINE void layer_column_amx(const int tiles, const ad_mlp_product *p, int column) {
    _Alignas(64) float block[AD_AMX_SIZE][AD_AMX_TILES_MAX * AD_AMX_SIZE];
    for (int row = 0; row < p->rows; row += AD_AMX_SIZE) {
        ad_amx_start(tiles, p->bias ? p->bias + column : NULL);
        ad_amx_multiply(tiles, p->depth, p->a + row * p->a_stride, p->a_stride, p->b + column,
                        ad_mlp_padded(p->columns));
        ad_amx_store(tiles, block[0], AD_AMX_TILES_MAX * AD_AMX_SIZE);
        for (int r = 0; r < AD_AMX_SIZE && row + r < p->rows; r += 2) {
            ad_tile_sums sum;
            AD_UNROLL
            for (int v = 0; v < tiles; v++) {
                sum[0][v] = ad_f32v_load(block[r] + v * AD_LANES);
                sum[1][v] = ad_f32v_load(block[r + 1] + v * AD_LANES);
            }
            layer_finish(true, 2, tiles, p, row + r, column, sum);
        }
    }
}

AD_INLINE void layer_columns_amx(const ad_mlp_product *p) {
    const int padded = ad_mlp_padded(p->columns);
    ad_amx_prepare(p->unit, p->depth);
    for (int column = 0, tiles; column < padded; column += tiles * AD_AMX_SIZE) {
        tiles = ad_tile_vectors((padded - column) / AD_AMX_SIZE);
        if (tiles == 1) layer_column_amx(1, p, column);
        else if (tiles == 2) layer_column_amx(2, p, column);
        else if (tiles == 3) layer_column_amx(3, p, column);
        else layer_column_amx(4, p, column);
    }
}
#endif

void ad_mlp_multiply(bool bf16, const ad_mlp_product *product) {
    assert(bf16 || !product->unit);
#if AD_AMX
    if (product->unit) {
        layer_columns_amx(product);
        return;
    }
#endif
    if (bf16) layer_columns(true, product);
    else layer_columns(false, product);
}

// ---------------------------------------------------------------- gradient of the weights

AD_INLINE void outer_tile(const bool bf16, const int rows, const int vectors, const ad_mlp_outer *p,
                          int row, int column) {
    float *to = p->sums + (int64_t)row * p->columns + column;
    ad_tile_sums sum;
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[r][v] = ad_f32v_load(to + (int64_t)r * p->columns + v * AD_LANES);
    }
    ad_tile_multiply(bf16, true, rows, vectors, p->depth, p->a + row, p->a_stride,
                     (ad_tile_right){.words = p->b + column, .stride = p->b_stride}, sum);
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++)
            ad_f32v_store(to + (int64_t)r * p->columns + v * AD_LANES, sum[r][v]);
    }
}

AD_INLINE void outer_column(const bool bf16, const int vectors, const ad_mlp_outer *p, int column) {
    const int most = ad_tile_rows(vectors);
    int row = 0;
    for (; row + most <= p->rows; row += most) outer_tile(bf16, most, vectors, p, row, column);
    for (; row + 4 <= p->rows; row += 4) outer_tile(bf16, 4, vectors, p, row, column);
    for (; row + 2 <= p->rows; row += 2) outer_tile(bf16, 2, vectors, p, row, column);
    if (row < p->rows) outer_tile(bf16, 1, vectors, p, row, column);
}

AD_INLINE void outer_columns(const bool bf16, const ad_mlp_outer *p) {
    for (int column = 0, vectors; column < p->columns; column += vectors * AD_LANES) {
        vectors = ad_tile_vectors((p->columns - column) / AD_LANES);
        if (vectors == 1) outer_column(bf16, 1, p, column);
        else if (vectors == 2) outer_column(bf16, 2, p, column);
#if AD_VECTOR_REGISTERS >= 32
        else if (vectors == 3) outer_column(bf16, 3, p, column);
        else outer_column(bf16, 4, p, column);
#endif
    }
}

#if AD_AMX
AD_INLINE void outer_tile_amx(const int tiles, const ad_mlp_outer *p, const uint32_t *a,
                              int64_t a_stride, const uint32_t *b, float *sums) {
    ad_amx_load(tiles, sums, p->columns);
    ad_amx_multiply(tiles, p->depth, a, a_stride, b, p->b_stride);
    ad_amx_store(tiles, sums, p->columns);
}

// The unit wants rows of a side by side: a is turned first.
AD_INLINE void outer_columns_amx(const ad_mlp_outer *p) {
    const int stride = ad_mlp_padded(p->depth);
    ad_u32_transpose(p->a, p->a_stride, p->depth, p->rows, p->turned, stride);
    ad_amx_prepare(p->unit, p->depth);
    for (int column = 0, tiles; column < p->columns; column += tiles * AD_AMX_SIZE) {
        tiles = ad_tile_vectors((p->columns - column) / AD_AMX_SIZE);
        for (int row = 0; row < p->rows; row += AD_AMX_SIZE) {
            float *sums = p->sums + (int64_t)row * p->columns + column;
            const uint32_t *a = p->turned + row * stride, *b = p->b + column;
            if (tiles == 1) outer_tile_amx(1, p, a, stride, b, sums);
            else if (tiles == 2) outer_tile_amx(2, p, a, stride, b, sums);
            else if (tiles == 3) outer_tile_amx(3, p, a, stride, b, sums);
            else outer_tile_amx(4, p, a, stride, b, sums);
        }
    }
}
#endif

void ad_mlp_accumulate(bool bf16, const ad_mlp_outer *outer) {
    assert(bf16 || !outer->unit);
#if AD_AMX
    if (outer->unit) {
        outer_columns_amx(outer);
        return;
    }
#endif
    if (bf16) outer_columns(true, outer);
    else outer_columns(false, outer);
}
