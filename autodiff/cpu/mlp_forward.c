// Forward pass of the fused multilayer perceptron: blocks of 96 rows go through all layers.
//
// The result of a layer goes where the next one reads it: f32 straight into the saved activations
// (or one of two scratch blocks when nothing is saved), bf16 side by side into scratch and, in the
// same epilogue, as row pairs into the saved activations. Blocks are independent, so any thread
// may take any block.

#include "autodiff/cpu/mlp_tile.h"
#include "autodiff/cpu/row_tasks.h"

typedef struct forward_pass {
    const ad_cpu_mlp *mlp;
    const ad_cpu_mlp_forward_job *job;
    int64_t x_stride, y_stride;
    const uint32_t *packed[AD_CPU_MLP_LAYERS_MAX];
    const float *bias[AD_CPU_MLP_LAYERS_MAX]; // padded, or NULL
    uint32_t *saved[AD_CPU_MLP_LAYERS_MAX];   // by hidden layer, or NULL
    uint32_t *scratch;
    size_t block; // words of a scratch block
} forward_pass;

// Packs weights and biases at the start of the workspace; scratch is what follows.
static void forward_prepare(forward_pass *pass) {
    const ad_cpu_mlp *mlp = pass->mlp;
    uint32_t *at = pass->job->workspace;
    for (int l = 0; l < mlp->layers; l++) {
        const size_t out = (size_t)mlp->width[l + 1], padded = (size_t)ad_mlp_padded((int)out);
        ad_mlp_pack_forward(mlp, l, pass->job->weights[l], at);
        pass->packed[l] = at;
        at += ad_mlp_packed_words(mlp, l, false);
        if (mlp->has_bias) {
            memcpy(at, pass->job->biases[l], out * sizeof(float));
            memset(at + out, 0, (padded - out) * sizeof(float));
            pass->bias[l] = (const float *)at;
        }
        at += ad_mlp_aligned(4 * padded) / 4;
        if (pass->job->saved && l + 1 < mlp->layers)
            pass->saved[l] = (uint32_t *)pass->job->saved +
                             ad_mlp_saved_offset(mlp, pass->job->rows, l);
    }
    pass->scratch = at;
    pass->block = (size_t)AD_MLP_BLOCK * (size_t)ad_mlp_widest(mlp);
}

static void forward_block(const forward_pass *pass, int64_t first, int rows, ad_amx *unit,
                          uint32_t *scratch) {
    const ad_cpu_mlp *mlp = pass->mlp;
    const float *x = pass->job->x + first * pass->x_stride;
    const uint32_t *input = (const uint32_t *)x; // of the layer, (rows, depth) words
    int64_t input_stride = pass->x_stride;
    if (mlp->bf16) {
        uint32_t *halves = scratch + 2 * pass->block;
        ad_mlp_round_rows(x, pass->x_stride, rows, mlp->width[0], (uint16_t *)halves, NULL);
        input = halves;
        input_stride = ad_mlp_padded(mlp->width[0]) / 2;
    }
    for (int l = 0; l < mlp->layers; l++) {
        const int out = mlp->width[l + 1], padded = ad_mlp_padded(out);
        const bool last = l + 1 == mlp->layers;
        uint32_t *saved = pass->saved[l] ? pass->saved[l] + first / (mlp->bf16 ? 2 : 1) * padded
                                         : NULL;
        uint32_t *output = scratch + (size_t)(l % 2) * pass->block;
        ad_mlp_product product = {
            .unit = unit, .rows = rows, .columns = out,
            .depth = ad_mlp_depth(mlp, mlp->width[l]), .a = input, .a_stride = input_stride,
            .b = pass->packed[l], .bias = pass->bias[l],
            .activation = last ? AD_CPU_IDENTITY : mlp->hidden_activation, .leak = mlp->leak};
        if (last) {
            product.c = pass->job->y + first * pass->y_stride;
            product.c_stride = pass->y_stride;
        } else if (mlp->bf16) {
            product.halves = (uint16_t *)output;
            product.pairs = saved;
        } else {
            // Padded columns are zero here, and stored as well: the weight gradient reads them.
            if (saved) output = saved;
            product.c = (float *)output;
            product.c_stride = product.columns = padded;
        }
        ad_mlp_multiply(mlp->bf16, &product);
        input = output;
        input_stride = mlp->bf16 ? padded / 2 : padded;
    }
}

void ad_cpu_mlp_forward(const ad_cpu_mlp *mlp, int threads, const ad_cpu_mlp_forward_job *job) {
    if (job->rows <= 0) return;
    forward_pass pass = {.mlp = mlp, .job = job};
    pass.x_stride = ad_mlp_stride(job->x_stride, mlp->width[0]);
    pass.y_stride = ad_mlp_stride(job->y_stride, mlp->width[mlp->layers]);
    forward_prepare(&pass);

    threads = ad_mlp_threads((double)job->rows * ad_mlp_products(mlp), threads);
    // Threads that are done help others; tasks shrink until every thread has some.
    int span = AD_MLP_SPAN;
    while (span > 1 && (int64_t)span * AD_MLP_BLOCK * threads * 2 > job->rows) span /= 2;
    ad_row_tasks tasks;
    ad_row_tasks_begin(&tasks, job->rows, span * AD_MLP_BLOCK, threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        uint32_t *scratch = pass.scratch + (size_t)t * AD_MLP_SCRATCH_BLOCKS * pass.block;
        ad_amx unit;
        if (mlp->amx) ad_amx_begin(&unit);
        for (int64_t first, rows; (rows = ad_row_tasks_take(&tasks, t, &first)) > 0;)
            for (int64_t at = 0; at < rows; at += AD_MLP_BLOCK)
                forward_block(&pass, first + at,
                              rows - at < AD_MLP_BLOCK ? (int)(rows - at) : AD_MLP_BLOCK,
                              mlp->amx ? &unit : NULL, scratch);
        if (mlp->amx) ad_amx_end();
    }
}
