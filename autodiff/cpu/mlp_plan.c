// Sizes and packing for the fused multilayer perceptron; see mlp_plan.h.

#include "autodiff/cpu/mlp_plan.h"

#include "autodiff/cpu/row_tasks.h"

int ad_mlp_widest(const ad_cpu_mlp *mlp) {
    int widest = 0;
    for (int l = 0; l <= mlp->layers; l++)
        if (mlp->width[l] > widest) widest = mlp->width[l];
    return ad_mlp_padded(widest);
}

// Multiply-adds a row.
double ad_mlp_products(const ad_cpu_mlp *mlp) {
    double products = 0;
    for (int l = 0; l < mlp->layers; l++)
        products += (double)ad_mlp_padded(mlp->width[l]) * ad_mlp_padded(mlp->width[l + 1]);
    return products;
}

int ad_mlp_threads(double products, int threads) {
    int useful = (int)(products / 1e6) + 1;
    if (useful > AD_ROW_TASKS_THREADS) useful = AD_ROW_TASKS_THREADS;
    return threads < useful ? (threads < 1 ? 1 : threads) : useful;
}

// ---------------------------------------------------------------- saved activations

size_t ad_mlp_saved_offset(const ad_cpu_mlp *mlp, int64_t rows, int layer) {
    size_t words = 0, rows_or_pairs = (size_t)ad_mlp_depth(mlp, 2) == 1 ? (size_t)(rows + 1) / 2
                                                                       : (size_t)rows;
    for (int l = 0; l < layer; l++)
        words += ad_mlp_aligned(rows_or_pairs * (size_t)ad_mlp_padded(mlp->width[l + 1]) * 4) / 4;
    return words;
}

size_t ad_cpu_mlp_saved_bytes(const ad_cpu_mlp *mlp, int64_t rows) {
    return 4 * ad_mlp_saved_offset(mlp, rows, mlp->layers - 1);
}

// ---------------------------------------------------------------- workspace

size_t ad_mlp_packed_words(const ad_cpu_mlp *mlp, int layer, bool backward) {
    int in = mlp->width[layer], out = mlp->width[layer + 1];
    int depth = ad_mlp_depth(mlp, backward ? out : in);
    return ad_mlp_aligned((size_t)depth * (size_t)ad_mlp_padded(backward ? in : out) * 4) / 4;
}

size_t ad_mlp_sums_offset(const ad_cpu_mlp *mlp, int layer) {
    size_t words = 0;
    for (int l = 0; l < layer; l++) {
        const size_t out = (size_t)ad_mlp_padded(mlp->width[l + 1]);
        words += ad_mlp_aligned(4 * out * (size_t)ad_mlp_padded(mlp->width[l])) / 4;
        words += ad_mlp_aligned(4 * out) / 4;
    }
    return words;
}

int ad_mlp_owners(const ad_cpu_mlp *mlp, int64_t rows) {
    // At most 16 MB of partial sums, but for very wide networks at least 8 owners.
    size_t bytes = 4 * ad_mlp_sums_offset(mlp, mlp->layers);
    int64_t most = (int64_t)((size_t)16 * 1024 * 1024 / bytes);
    most = most < 8 ? 8 : most > AD_MLP_OWNERS_MAX ? AD_MLP_OWNERS_MAX : most;
    int64_t owners = rows / AD_MLP_OWNER_ROWS;
    return (int)(owners < 1 ? 1 : owners > most ? most : owners);
}

size_t ad_cpu_mlp_workspace(const ad_cpu_mlp *mlp, int64_t rows, int threads, bool backward) {
    size_t words = 0;
    for (int l = 0; l < mlp->layers; l++) {
        words += ad_mlp_packed_words(mlp, l, backward);
        words += ad_mlp_aligned(4 * (size_t)ad_mlp_padded(mlp->width[l + 1])) / 4;
    }
    if (backward)
        words += (size_t)ad_mlp_owners(mlp, rows) * ad_mlp_sums_offset(mlp, mlp->layers);
    size_t block = (size_t)AD_MLP_BLOCK * (size_t)ad_mlp_widest(mlp);
    words += (size_t)(threads < 1 ? 1 : threads) * AD_MLP_SCRATCH_BLOCKS * block;
    return 4 * words;
}

// ---------------------------------------------------------------- packing

// (out, in) row-major becomes (in, padded out), or (in / 2, padded out) pairs along in.
void ad_mlp_pack_forward(const ad_cpu_mlp *mlp, int layer, const float *weight, uint32_t *packed) {
    const int in = mlp->width[layer], out = mlp->width[layer + 1], padded = ad_mlp_padded(out);
    if (!mlp->bf16) {
        ad_u32_transpose((const uint32_t *)weight, in, out, in, packed, padded);
        return;
    }
    // A vector's worth of output rows is rounded side by side, then turned pair by pair.
    _Alignas(64) uint16_t halves[AD_LANES * (AD_CPU_MLP_WIDTH_MAX + AD_LANES)];
    const int stride = ad_mlp_padded(in);
    for (int o = 0; o < out; o += AD_LANES) {
        const int rows = out - o < AD_LANES ? out - o : AD_LANES;
        ad_mlp_round_rows(weight + (size_t)o * (size_t)in, in, rows, in, halves, NULL);
        ad_u32_transpose((const uint32_t *)(const void *)halves, stride / 2, rows, (in + 1) / 2,
                         packed + o, padded);
    }
}

// (out, in) row-major becomes (out, padded in), or (out / 2, padded in) pairs along out.
void ad_mlp_pack_backward(const ad_cpu_mlp *mlp, int layer, const float *weight, uint32_t *packed) {
    int in = mlp->width[layer], out = mlp->width[layer + 1], padded = ad_mlp_padded(in);
    if (mlp->bf16) {
        ad_mlp_round_rows(weight, in, out, in, NULL, packed);
        return;
    }
    for (int o = 0; o < out; o++) {
        float *row = (float *)packed + (size_t)o * (size_t)padded;
        memcpy(row, weight + (size_t)o * (size_t)in, (size_t)in * sizeof(float));
        for (int k = in; k < padded; k++) row[k] = 0;
    }
}

void ad_mlp_round_rows(const float *from, int64_t stride, int rows, int width, uint16_t *halves,
                       uint32_t *pairs) {
    enum { AHEAD = 16 }; // rows, whose lines are asked for
    const int padded = ad_mlp_padded(width);
    for (int r = 0; r < rows; r += 2) {
        const float *row = from + r * stride;
        for (int k = 0; k < padded; k += AD_LANES) {
            int count = width - k < AD_LANES ? width - k : AD_LANES;
            ad_f32v low, high = {0};
            __builtin_prefetch(row + k + AHEAD * stride);
            __builtin_prefetch(row + k + (AHEAD + 1) * stride);
            if (count == AD_LANES) {
                low = ad_f32v_load(row + k);
                if (r + 1 < rows) high = ad_f32v_load(row + stride + k);
            } else {
                low = ad_f32v_load_partial(row + k, count);
                if (r + 1 < rows) high = ad_f32v_load_partial(row + stride + k, count);
            }
            if (halves) {
                ad_bf16v_store(halves + r * padded + k, low);
                ad_bf16v_store(halves + (r + 1) * padded + k, high);
            }
            if (pairs) ad_u32v_store(pairs + r / 2 * padded + k, ad_bf16v_pair(low, high));
        }
    }
}
