// Backward pass of the fused multilayer perceptron, from dy to the gradients of x, weights and
// biases, again a block of 96 rows through all layers at a time. With dz the gradient of a
// layer's sums before its activation:
//
//   dW_l += dz_l^T h_l,    db_l += sum over rows of dz_l,    dz_(l-1) = (dz_l W_l) * activation'
//
// The sums over rows are what could depend on threads. The rows are therefore cut into at most 64
// contiguous runs whose number depends on nothing but the job; each run is summed by one owner,
// in order, into its own partial sums, and at the end these are added in the order of owners.

#include "autodiff/cpu/mlp_tile.h"
#include "autodiff/cpu/row_tasks.h"

typedef struct backward_pass {
    const ad_cpu_mlp *mlp;
    const ad_cpu_mlp_backward_job *job;
    int64_t x_stride, dy_stride, dx_stride;
    const uint32_t *packed[AD_CPU_MLP_LAYERS_MAX];
    const uint32_t *saved[AD_CPU_MLP_LAYERS_MAX]; // by hidden layer
    int lowest;      // the lowest layer with any gradient below or at it
    int owners;
    float *sums;     // (owners, sums_words)
    size_t sums_words;
    uint32_t *scratch;
    size_t block;    // words of a scratch block
} backward_pass;

static float *wanted(float *const *table, int layer) { return table ? table[layer] : NULL; }

static void backward_prepare(backward_pass *pass) {
    const ad_cpu_mlp *mlp = pass->mlp;
    const ad_cpu_mlp_backward_job *job = pass->job;
    uint32_t *at = job->workspace;
    pass->lowest = 0;
    if (!job->dx)
        while (pass->lowest < mlp->layers && !wanted(job->dweights, pass->lowest) &&
               !wanted(job->dbiases, pass->lowest))
            pass->lowest++;
    for (int l = 0; l < mlp->layers; l++) {
        pass->saved[l] = (const uint32_t *)job->saved + ad_mlp_saved_offset(mlp, job->rows, l);
        if (l < pass->lowest || (l == pass->lowest && !(l == 0 && job->dx))) continue;
        ad_mlp_pack_backward(mlp, l, job->weights[l], at);
        pass->packed[l] = at;
        at += ad_mlp_packed_words(mlp, l, true);
    }
    pass->owners = ad_mlp_owners(mlp, job->rows);
    pass->sums_words = ad_mlp_sums_offset(mlp, mlp->layers);
    pass->sums = (float *)at;
    pass->scratch = at + (size_t)pass->owners * pass->sums_words;
    pass->block = (size_t)AD_MLP_BLOCK * (size_t)ad_mlp_widest(mlp);
}

// sums += the sum of the block's rows.
static void add_rows(const ad_cpu_mlp *mlp, const uint32_t *dz, int64_t stride, int depth, int out,
                     float *sums) {
    const ad_u32v ones = ad_u32v_set(0x3f803f80u);
    for (int o = 0; o < out; o += AD_LANES) {
        const int count = out - o < AD_LANES ? out - o : AD_LANES;
        ad_f32v sum = ad_f32v_load(sums + o);
        for (int r = 0; r < depth; r++) {
            const uint32_t *from = dz + r * stride + o;
            if (mlp->bf16) sum = ad_bf16v_dot(ad_u32v_load(from), ones, sum);
            else if (count == AD_LANES) sum += ad_f32v_load(from);
            else sum += ad_f32v_load_partial(from, count);
        }
        ad_f32v_store(sums + o, sum);
    }
}

// The network's input as the weight gradient reads it: padded columns are there and zero.
static const uint32_t *backward_input(const backward_pass *pass, int64_t first, int rows,
                                      uint32_t *scratch, int64_t *stride) {
    const int in = pass->mlp->width[0], padded = ad_mlp_padded(in);
    const float *x = pass->job->x + first * pass->x_stride;
    *stride = padded;
    if (pass->mlp->bf16) {
        ad_mlp_round_rows(x, pass->x_stride, rows, in, NULL, scratch);
    } else if (in == padded) {
        *stride = pass->x_stride;
        return (const uint32_t *)x;
    } else {
        memset(scratch, 0, (size_t)rows * (size_t)padded * sizeof(float));
        for (int r = 0; r < rows; r++)
            memcpy(scratch + r * padded, x + r * pass->x_stride, (size_t)in * sizeof(float));
    }
    return scratch;
}

// One block: dz comes as words to broadcast over rows (`dz`: f32, or bf16 pairs of columns) and,
// in bf16, as `dz_pairs` of rows for the sums over rows. Scratch: two blocks that hold the dz of
// odd and of even layers, in bf16 each as halves and pairs, one for x and one for turned pairs.
static void backward_block(const backward_pass *pass, int64_t first, int rows, ad_amx *unit,
                           float *sums, uint32_t *scratch) {
    const ad_cpu_mlp *mlp = pass->mlp;
    const ad_cpu_mlp_backward_job *job = pass->job;
    const int depth = ad_mlp_depth(mlp, rows);
    uint32_t *halves[2] = {scratch, scratch + pass->block};
    uint32_t *pairs[2] = {scratch + pass->block / 2, scratch + pass->block + pass->block / 2};

    int out = mlp->width[mlp->layers];
    const float *dy = job->dy + first * pass->dy_stride;
    const uint32_t *dz = (const uint32_t *)dy, *dz_pairs = dz;
    int64_t dz_stride = pass->dy_stride, pairs_stride = dz_stride;
    if (mlp->bf16) {
        const int at = mlp->layers % 2;
        ad_mlp_round_rows(dy, pass->dy_stride, rows, out, (uint16_t *)halves[at], pairs[at]);
        dz = halves[at], dz_pairs = pairs[at];
        dz_stride = ad_mlp_padded(out) / 2, pairs_stride = ad_mlp_padded(out);
    }
    for (int l = mlp->layers - 1; l >= pass->lowest; l--) {
        const int in = mlp->width[l], padded = ad_mlp_padded(in);
        out = mlp->width[l + 1];
        float *layer_sums = sums + ad_mlp_sums_offset(mlp, l);
        float *bias_sums = layer_sums + ad_mlp_padded(out) * padded;
        if (wanted(job->dbiases, l)) add_rows(mlp, dz_pairs, pairs_stride, depth, out, bias_sums);

        if (wanted(job->dweights, l)) {
            ad_mlp_outer outer = {.unit = unit, .depth = depth, .rows = out, .columns = padded,
                                  .a = dz_pairs, .a_stride = pairs_stride, .b_stride = padded,
                                  .sums = layer_sums, .turned = scratch + 3 * pass->block};
            if (l > 0) outer.b = pass->saved[l - 1] + first / (mlp->bf16 ? 2 : 1) * padded;
            else outer.b = backward_input(pass, first, rows, scratch + 2 * pass->block,
                                          &outer.b_stride);
            ad_mlp_accumulate(mlp->bf16, &outer);
        }
        if (!pass->packed[l]) continue;

        // The gradient of the layer's input: of x, or of the layer below through its activation.
        const bool through = l > 0 && mlp->hidden_activation != AD_CPU_IDENTITY;
        ad_mlp_product product = {
            .unit = unit, .rows = rows, .columns = in, .depth = ad_mlp_depth(mlp, out), .a = dz,
            .a_stride = dz_stride, .b = pass->packed[l], .leak = mlp->leak,
            .activation = through ? mlp->hidden_activation : AD_CPU_IDENTITY,
            .gate = through ? pass->saved[l - 1] + first / (mlp->bf16 ? 2 : 1) * padded : NULL};
        if (l == 0) {
            product.c = job->dx + first * pass->dx_stride;
            product.c_stride = pass->dx_stride;
        } else if (mlp->bf16) {
            product.halves = pass->packed[l - 1] ? (uint16_t *)halves[l % 2] : NULL;
            product.pairs = pairs[l % 2];
        } else {
            product.c = (float *)halves[l % 2];
            product.c_stride = product.columns = padded;
        }
        ad_mlp_multiply(mlp->bf16, &product);
        dz = halves[l % 2], dz_stride = mlp->bf16 ? padded / 2 : padded;
        dz_pairs = mlp->bf16 ? pairs[l % 2] : dz, pairs_stride = padded;
    }
}

static void backward_owner(const backward_pass *pass, int64_t owner, ad_amx *unit,
                           uint32_t *scratch) {
    const int64_t rows = pass->job->rows, blocks = (rows + AD_MLP_BLOCK - 1) / AD_MLP_BLOCK;
    const int64_t end = (owner + 1) * blocks / pass->owners;
    float *sums = pass->sums + (size_t)owner * pass->sums_words;
    memset(sums, 0, pass->sums_words * sizeof(float));
    for (int64_t b = owner * blocks / pass->owners; b < end; b++) {
        const int64_t first = b * AD_MLP_BLOCK, left = rows - first;
        backward_block(pass, first, left < AD_MLP_BLOCK ? (int)left : AD_MLP_BLOCK, unit, sums,
                       scratch);
    }
}

// to (+)= the owners' sums of `count` numbers, owner by owner.
static void add_owners(const backward_pass *pass, const float *sums, int count, float *to) {
    for (int i = 0; i < count; i += AD_LANES) {
        const int now = count - i < AD_LANES ? count - i : AD_LANES;
        ad_f32v sum = ad_f32v_load(sums + i);
        for (int owner = 1; owner < pass->owners; owner++)
            sum += ad_f32v_load(sums + (size_t)owner * pass->sums_words + i);
        if (pass->job->accumulate) sum += ad_f32v_load_partial(to + i, now);
        ad_f32v_store_partial(to + i, sum, now);
    }
}

// Row `row` of the layer's weight gradient, and with row 0 all of its bias gradient.
static void backward_finish(const backward_pass *pass, int layer, int row) {
    const size_t in = (size_t)pass->mlp->width[layer], out = (size_t)pass->mlp->width[layer + 1];
    const size_t padded = (size_t)ad_mlp_padded((int)in), at = (size_t)row;
    const float *sums = pass->sums + ad_mlp_sums_offset(pass->mlp, layer);
    float *dweight = wanted(pass->job->dweights, layer), *dbias = wanted(pass->job->dbiases, layer);
    if (dweight) add_owners(pass, sums + at * padded, (int)in, dweight + at * in);
    if (dbias && row == 0)
        add_owners(pass, sums + (size_t)ad_mlp_padded((int)out) * padded, (int)out, dbias);
}

void ad_cpu_mlp_backward(const ad_cpu_mlp *mlp, int threads, const ad_cpu_mlp_backward_job *job) {
    backward_pass pass = {.mlp = mlp, .job = job};
    pass.x_stride = ad_mlp_stride(job->x_stride, mlp->width[0]);
    pass.dx_stride = ad_mlp_stride(job->dx_stride, mlp->width[0]);
    pass.dy_stride = ad_mlp_stride(job->dy_stride, mlp->width[mlp->layers]);
    backward_prepare(&pass);

    threads = ad_mlp_threads(2 * (double)job->rows * ad_mlp_products(mlp), threads);
    ad_row_tasks tasks; // of an owner each
    ad_row_tasks_begin(&tasks, pass.owners, 1, threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        uint32_t *scratch = pass.scratch + (size_t)t * AD_MLP_SCRATCH_BLOCKS * pass.block;
        ad_amx unit;
        if (mlp->amx) ad_amx_begin(&unit);
        for (int64_t owner; ad_row_tasks_take(&tasks, t, &owner) > 0;)
            backward_owner(&pass, owner, mlp->amx ? &unit : NULL, scratch);
        if (mlp->amx) ad_amx_end();
    }
    for (int l = pass.lowest; l < mlp->layers; l++) {
        const int out = mlp->width[l + 1];
        const double work = (double)pass.owners * out * ad_mlp_padded(mlp->width[l]);
        const int useful = ad_mlp_threads(work, threads);
        (void)useful; // read by the pragma only
#pragma omp parallel for num_threads(useful) schedule(static) if (useful > 1)
        for (int row = 0; row < out; row++) backward_finish(&pass, l, row);
    }
}
