/* The kernels of optimisers: they write parameters, moments and gradients in place.
 *
 * Adam: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; decoupled
 * decay: Loshchilov and Hutter, 2019. The sparse form (Muller et al. 2022, section 4) leaves a row
 * of a table whose gradient is exactly zero alone, moments too, and counts each row's own steps for
 * the bias correction: a hash table's rarely touched entries then neither drift nor take timid
 * first steps. Every kernel leaves the gradient zero.
 *
 * `gate` serves loss scaling: gradients are multiplied by it, and where it is 0 (an overflow was
 * seen) the step is skipped. */
#include "autodiff/ops/optimize.h"

#include "autodiff/cpu/simd.h"

#include <math.h>
#include <string.h>

enum { PIECE = 16, TABLE = 4096 };

bool ad_gate_open(const ad_view *gate, float *factor) {
    *factor = 1;
    if (ad_view_present(gate)) *factor = *(const float *)gate->data;
    return *factor != 0;
}

static void step_infer(ad_infer *call) {
    int last = call->inputs == 5 ? 2 : 3; // SGD's momentum; Adam's m and v
    for (int i = 1; i <= last; i++)
        if (ad_view_present(&call->input[i])
            && !ad_view_same_shape(&call->input[0], &call->input[i]))
            ad_infer_fail(call, "parameter, gradient and moments have one shape");
    call->workspace = ad_adam_workspace();
    call->saved_inputs = 0;
}

/* ---- SGD: parameter, gradient, momentum or null, rate, gate */

static void sgd_cpu(const ad_launch *launch) {
    const ad_sgd_options *o = launch->attributes;
    const ad_view *in = launch->input;
    int64_t n = ad_view_count(&in[0]);
    float rate = *(const float *)in[3].data, factor;
    bool open = ad_gate_open(&in[4], &factor);
    float decay = (float)o->weight_decay, momentum = (float)o->momentum;
    if (!open) {
        memset(in[1].data, 0, (size_t)n * ad_type_bytes(in[1].type));
        return;
    }
    if (in[0].type == AD_F64) {
        double *p = in[0].data, *g = in[1].data, *v = in[2].data;
        for (int64_t i = 0; i < n; i++) {
            double slope = g[i] * factor + o->weight_decay * p[i];
            if (v) slope = v[i] = o->momentum * v[i] + slope;
            p[i] -= rate * slope, g[i] = 0;
        }
        return;
    }
    float *p = in[0].data, *g = in[1].data, *v = in[2].data;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        float slope = g[i] * factor + decay * p[i];
        if (v) slope = v[i] = momentum * v[i] + slope;
        p[i] -= rate * slope, g[i] = 0;
    }
}

/* ---- Adam: parameter, gradient, m, v, steps, rate, gate */

// Entry t of the table is the step's factor sqrt(1 - beta2^t) / (1 - beta1^t), of roots
// sqrt(1 - beta2^t); entry 0 is not used. From step `end` on both are 1 to f32's last digit. Where
// that is beyond the tables (beta2 = .999: 17,329), the steps between are computed one by one.
size_t ad_adam_workspace(void) { return 2 * (TABLE + 1) * sizeof(float); }

ad_adam_rule ad_adam_rule_of(const ad_adam_options *o, float rate, float factor,
                             float *workspace) {
    ad_adam_rule rule = {.options = o, .rate = rate, .factor = factor, .table = workspace,
                         .roots = workspace + TABLE + 1};
    rule.end = -25 * log(2) / log(fmax(o->beta1, o->beta2));
    rule.saturated = rule.end > 0 && rule.end < TABLE ? (uint32_t)ceil(rule.end) : 0;
    double b1 = 1, b2 = 1;
    for (int t = 1; t <= TABLE; t++) {
        b1 *= o->beta1, b2 *= o->beta2;
        rule.roots[t] = (float)sqrt(1 - b2);
        rule.table[t] = (float)(sqrt(1 - b2) / (1 - b1));
    }
    return rule;
}

static void correction_at(const ad_adam_rule *rule, uint32_t t, float *correction, float *root) {
    if (t <= TABLE) {
        *correction = rule->table[t], *root = rule->roots[t];
        return;
    }
    double b1 = t < rule->end ? pow(rule->options->beta1, t) : 0;
    double b2 = t < rule->end ? pow(rule->options->beta2, t) : 0;
    *root = (float)sqrt(1 - b2), *correction = (float)(sqrt(1 - b2) / (1 - b1));
}

// What a step of Adam needs to know about each number of a piece.
typedef struct adam_steps {
    float correction[PIECE], root[PIECE]; // of the number's own step counter
    uint32_t touched[PIECE];              // all ones, or zero: leave it alone
} adam_steps;

// One step of n <= PIECE numbers.
AD_INLINE void adam_piece(const ad_adam_options *o, int n, float rate, float factor,
                          const adam_steps *steps, float *p, float *g, float *m, float *v) {
    float b1 = (float)o->beta1, b2 = (float)o->beta2, eps = (float)o->epsilon;
    float decay = (float)o->weight_decay, l2 = o->decoupled ? 0 : decay;
    float shrink = o->decoupled ? 1 - rate * decay : 1;
    for (int i = 0; i < n; i++) {
        float slope = g[i] * factor + l2 * p[i];
        float mean = b1 * m[i] + (1 - b1) * slope, square = b2 * v[i] + (1 - b2) * slope * slope;
        // mhat / (sqrt(vhat) + eps) = correction m / (sqrt(v) + eps sqrt(1 - beta2^t))
        float moved = shrink * p[i] - rate * steps->correction[i] * mean
                                          / (sqrtf(square) + eps * steps->root[i]);
        m[i] = steps->touched[i] ? mean : m[i];
        v[i] = steps->touched[i] ? square : v[i];
        p[i] = steps->touched[i] ? moved : p[i];
        g[i] = 0;
    }
}

static void same_steps(float correction, float root, adam_steps *steps) {
    for (int i = 0; i < PIECE; i++)
        steps->correction[i] = correction, steps->root[i] = root, steps->touched[i] = ~0u;
}

// -0 is 0.
static inline bool any_not_zero(const float *g, int64_t n) {
    uint32_t any = 0, bits;
    for (int64_t i = 0; i < n; i++) memcpy(&bits, g + i, 4), any |= bits << 1;
    return any != 0;
}

// Those of the rows that have left the tables.
static void late_corrections(const ad_adam_rule *rule, int rows, const uint32_t *touched,
                             const uint32_t *counter, float *correction, float *root) {
    for (int row = 0; row < rows; row++)
        if (touched[row] && counter[row] > TABLE)
            correction_at(rule, counter[row], &correction[row], &root[row]);
}

// One step of `rows` <= PIECE rows of `width` <= PIECE numbers: the rows' counters first, then
// their numbers, PIECE at a time.
AD_INLINE void adam_rows(const ad_adam_rule *rule, int rows, int width, uint32_t *counter,
                         float *p, float *g, float *m, float *v) {
    const float *table = rule->table, *roots = rule->roots;
    float correction[PIECE], root[PIECE];
    uint32_t touched[PIECE], latest = 0;
    adam_steps steps;
    for (int row = 0; row < rows; row++) {
        uint32_t any = 0, bits;
        for (int i = 0; i < width; i++) memcpy(&bits, g + row * width + i, 4), any |= bits << 1;
        touched[row] = any ? ~0u : 0; // -0 is 0
        uint32_t t = counter[row] -= touched[row];
        latest = t > latest ? t : latest;
        t = t < 1 ? 1 : t > TABLE ? TABLE : t;
        correction[row] = table[t], root[row] = roots[t];
    }
    if (latest > TABLE && rule->end > TABLE)
        late_corrections(rule, rows, touched, counter, correction, root);
    for (int at = 0; at < rows * width; at += PIECE) {
        int count = rows * width - at < PIECE ? rows * width - at : PIECE;
        for (int i = 0; i < count; i++) {
            int row = (at + i) / width;
            steps.correction[i] = correction[row], steps.root[i] = root[row];
            steps.touched[i] = touched[row];
        }
        adam_piece(rule->options, count, rule->rate, rule->factor, &steps, p + at, g + at, m + at,
                   v + at);
    }
}

// The same for PIECE rows of four numbers, a hash table's, in vectors.
AD_INLINE void adam_quads(const ad_adam_rule *rule, uint32_t *counter, float *p, float *g,
                          float *m, float *v) {
    enum { ROWS = AD_LANES / 4 };
    const ad_adam_options *o = rule->options;
    float b1 = (float)o->beta1, b2 = (float)o->beta2, decay = (float)o->weight_decay;
    ad_f32v keep1 = ad_f32v_set(b1), take1 = ad_f32v_set(1 - b1), keep2 = ad_f32v_set(b2);
    ad_f32v take2 = ad_f32v_set(1 - b2), factor = ad_f32v_set(rule->factor);
    ad_f32v l2 = ad_f32v_set(o->decoupled ? 0 : decay), eps = ad_f32v_set((float)o->epsilon);
    ad_f32v shrink = ad_f32v_set(o->decoupled ? 1 - rule->rate * decay : 1);
    ad_f32v rate = ad_f32v_set(rule->rate);
    uint32_t most = rule->saturated;
    for (int at = 0; at < 4 * PIECE; at += AD_LANES) {
        ad_f32v slope = ad_f32v_load(g + at), x = ad_f32v_load(p + at);
        ad_f32v mean = ad_f32v_load(m + at), square = ad_f32v_load(v + at);
        ad_i32v touched = (ad_i32v)(ad_u32v_or_quads((ad_u32v)slope << 1) != 0); // -0 is 0
        uint32_t rows[AD_LANES], t[ROWS];
        ad_u32v_store(rows, (ad_u32v)touched);
        for (int row = 0; row < ROWS; row++) {
            uint32_t count = counter[at / 4 + row] -= rows[4 * row];
            t[row] = count < 1 ? 1 : count < most ? count : most;
        }
        slope = slope * factor + l2 * x;
        ad_f32v m1 = keep1 * mean + take1 * slope, v1 = keep2 * square + take2 * slope * slope;
        ad_f32v step = rate * ad_f32v_quads(rule->table, t) * m1
                     / (ad_f32v_sqrt(v1) + eps * ad_f32v_quads(rule->roots, t));
        ad_f32v_store(p + at, ad_f32v_select(touched, shrink * x - step, x));
        ad_f32v_store(m + at, ad_f32v_select(touched, m1, mean));
        ad_f32v_store(v + at, ad_f32v_select(touched, v1, square));
        ad_f32v_store(g + at, ad_f32v_set(0));
    }
}

// And for fewer rows: a row's bits do not depend on its neighbours.
static void adam_few_quads(const ad_adam_rule *rule, int rows, uint32_t *counter, float *p,
                           float *g, float *m, float *v) {
    float *from[] = {p, g, m, v}, piece[4][4 * PIECE] = {{0}};
    uint32_t counters[PIECE] = {0};
    size_t bytes = (size_t)rows * 4 * sizeof(float);
    for (int i = 0; i < 4; i++) memcpy(piece[i], from[i], bytes);
    memcpy(counters, counter, (size_t)rows * sizeof *counters);
    adam_quads(rule, counters, piece[0], piece[1], piece[2], piece[3]);
    for (int i = 0; i < 4; i++) memcpy(from[i], piece[i], bytes);
    memcpy(counter, counters, (size_t)rows * sizeof *counters);
}

void ad_adam_sparse_rows(const ad_adam_rule *rule, int64_t rows, int64_t width, uint32_t *counter,
                         float *p, float *g, float *m, float *v) {
    int64_t group = width <= PIECE ? PIECE : 1;
    bool quads = width == 4 && rule->saturated;
    for (int64_t first = 0; first < rows; first += group) {
        int count = rows - first < group ? (int)(rows - first) : (int)group;
        int64_t at = first * width;
        if (!any_not_zero(g + at, count * width)) continue;
        if (quads && count == PIECE) {
            adam_quads(rule, counter + first, p + at, g + at, m + at, v + at);
        } else if (quads) {
            adam_few_quads(rule, count, counter + first, p + at, g + at, m + at, v + at);
        } else if (width <= PIECE) {
            adam_rows(rule, count, (int)width, counter + first, p + at, g + at, m + at, v + at);
        } else {
            adam_steps steps;
            float correction, root;
            correction_at(rule, ++counter[first], &correction, &root);
            same_steps(correction, root, &steps);
            for (int64_t end = at + width; at < end; at += PIECE)
                adam_piece(rule->options, end - at < PIECE ? (int)(end - at) : PIECE, rule->rate,
                           rule->factor, &steps, p + at, g + at, m + at, v + at);
        }
    }
}

// An entry is a row: all numbers along the last axis, or one number of a vector.
static void adam_sparse(const ad_launch *launch, const ad_adam_options *o, int64_t n, float rate,
                        float factor) {
    const ad_view *in = launch->input;
    float *p = in[0].data, *g = in[1].data, *m = in[2].data, *v = in[3].data;
    uint32_t *counter = in[4].data;
    const ad_adam_rule rule = ad_adam_rule_of(o, rate, factor, launch->workspace);
    int64_t width = in[0].rank > 1 ? in[0].size[in[0].rank - 1] : 1, rows = width ? n / width : 0;
    int64_t part = width <= PIECE ? 4096 : 256; // whole groups
#pragma omp parallel for num_threads(launch->threads) schedule(dynamic, 1) if (n > 65536)
    for (int64_t first = 0; first < rows; first += part) {
        int64_t count = rows - first < part ? rows - first : part, at = first * width;
        ad_adam_sparse_rows(&rule, count, width, counter + first, p + at, g + at, m + at, v + at);
    }
}

static void adam_cpu(const ad_launch *launch) {
    const ad_adam_options *o = launch->attributes;
    const ad_view *in = launch->input;
    int64_t n = ad_view_count(&in[0]);
    float rate = *(const float *)in[5].data, factor;
    if (!ad_gate_open(&in[6], &factor)) {
        memset(in[1].data, 0, (size_t)n * ad_type_bytes(in[1].type));
        return;
    }
    if (o->sparse) {
        adam_sparse(launch, o, n, rate, factor);
        return;
    }
    uint32_t t = ++*(uint32_t *)in[4].data;
    double b1 = 1 - pow(o->beta1, t), b2 = 1 - pow(o->beta2, t);
    if (in[0].type == AD_F64) {
        double *p = in[0].data, *g = in[1].data, *m = in[2].data, *v = in[3].data;
        for (int64_t i = 0; i < n; i++) {
            double slope = g[i] * factor + (o->decoupled ? 0 : o->weight_decay * p[i]);
            m[i] = o->beta1 * m[i] + (1 - o->beta1) * slope;
            v[i] = o->beta2 * v[i] + (1 - o->beta2) * slope * slope;
            if (o->decoupled) p[i] -= rate * o->weight_decay * p[i];
            p[i] -= rate * (m[i] / b1) / (sqrt(v[i] / b2) + o->epsilon), g[i] = 0;
        }
        return;
    }
    float *p = in[0].data, *g = in[1].data, *m = in[2].data, *v = in[3].data;
    adam_steps steps;
    same_steps((float)(sqrt(b2) / b1), (float)sqrt(b2), &steps);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 65536)
    for (int64_t piece = 0; piece < (n + PIECE - 1) / PIECE; piece++) {
        int64_t at = piece * PIECE;
        adam_piece(o, n - at < PIECE ? (int)(n - at) : PIECE, rate, factor, &steps,
                   p + at, g + at, m + at, v + at);
    }
}

/* ---- averages, clipping, loss scale */

static void ema_cpu(const ad_launch *launch) {
    float *average = launch->input[0].data, decay = (float)*(const double *)launch->attributes;
    const float *value = launch->input[1].data;
    int64_t n = ad_view_count(&launch->input[0]);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) average[i] += (1 - decay) * (value[i] - average[i]);
}

static void ema_infer(ad_infer *call) {
    if (!ad_view_same_shape(&call->input[0], &call->input[1]) || call->input[0].type == AD_F64)
        ad_infer_fail(call, "average and value are f32 of one shape");
}

// gradient, norm: the bits of the gradient do not change below the bound.
static void clip_cpu(const ad_launch *launch) {
    const ad_view *g = &launch->input[0], *norm = &launch->input[1];
    double most = *(const double *)launch->attributes;
    double length = norm->type == AD_F64 ? *(double *)norm->data : *(float *)norm->data;
    double factor = most / (length + 1e-6);
    int64_t n = ad_view_count(g);
    if (!(factor < 1)) return;
    for (int64_t i = 0; i < n; i++) {
        if (g->type == AD_F64) ((double *)g->data)[i] *= factor;
        else ((float *)g->data)[i] *= (float)factor;
    }
}

static void any_infer(ad_infer *call) { call->saved_inputs = 0; }

// gate, scale: the gate opens to 1 / scale.
static void gate_begin_cpu(const ad_launch *launch) {
    *(float *)launch->input[0].data = 1 / *(const float *)launch->input[1].data;
}

// gate, gradient: a number that is not finite closes the gate.
static void gate_check_cpu(const ad_launch *launch) {
    const ad_view *g = &launch->input[1];
    int64_t n = ad_view_count(g), bad = 0;
    for (int64_t i = 0; i < n; i++) {
        double value = g->type == AD_F64 ? ((double *)g->data)[i] : (double)((float *)g->data)[i];
        bad += !isfinite(value);
    }
    if (bad) *(float *)launch->input[0].data = 0;
}

// scale (scale, good steps), gate: Micikevicius et al., "Mixed Precision Training", 2018.
static void scale_update_cpu(const ad_launch *launch) {
    float *scale = launch->input[0].data;
    bool open = *(const float *)launch->input[1].data != 0;
    if (!open) scale[0] *= 0.5f, scale[1] = 0;
    else if (++scale[1] >= 2000) scale[0] *= 2, scale[1] = 0;
}

#define WRITER AD_OP_NO_GRADIENT | AD_OP_STATEFUL

const ad_op ad_op_sgd = {
    .name = "sgd", .inputs_min = 5, .inputs_max = 5, .optional = 1u << 2 | 1u << 4, .writes = 7,
    .flags = WRITER, .attribute_bytes = sizeof(ad_sgd_options), .infer = step_infer,
    .cpu = sgd_cpu};
const ad_op ad_op_adam = {
    .name = "adam", .inputs_min = 7, .inputs_max = 7, .optional = 1u << 6, .writes = 31,
    .flags = WRITER, .attribute_bytes = sizeof(ad_adam_options), .infer = step_infer,
    .cpu = adam_cpu};
const ad_op ad_op_ema = {
    .name = "ema", .inputs_min = 2, .inputs_max = 2, .writes = 1, .flags = WRITER,
    .attribute_bytes = sizeof(double), .infer = ema_infer, .cpu = ema_cpu};
const ad_op ad_op_clip = {
    .name = "clip_norm", .inputs_min = 2, .inputs_max = 2, .writes = 1, .flags = WRITER,
    .attribute_bytes = sizeof(double), .infer = any_infer, .cpu = clip_cpu};
const ad_op ad_op_gate_begin = {
    .name = "loss_scale_gate", .inputs_min = 2, .inputs_max = 2, .writes = 1, .flags = WRITER,
    .infer = any_infer, .cpu = gate_begin_cpu};
const ad_op ad_op_gate_check = {
    .name = "loss_scale_check", .inputs_min = 2, .inputs_max = 2, .writes = 1, .flags = WRITER,
    .infer = any_infer, .cpu = gate_check_cpu};
const ad_op ad_op_scale_update = {
    .name = "loss_scale_update", .inputs_min = 2, .inputs_max = 2, .writes = 1, .flags = WRITER,
    .infer = any_infer, .cpu = scale_update_cpu};
