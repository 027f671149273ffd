/* Optimisers: parameters with their moments, stepped by one launch each.
 *
 * All that changes from step to step is a state tensor (moments, step counters, learning rate), so
 * that a captured step replays as it is and a snapshot holds everything. */
#include "autodiff/core.h"
#include "autodiff/ops/optimize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct moments {
    ad_tensor parameter, first, second, steps;
} moments;

struct ad_optimizer {
    ad_context *ctx;
    ad_optimizer *next;       // in the context's list
    moments *entries;
    int count;
    bool adam;
    ad_sgd_options sgd;
    ad_adam_options options;
    ad_tensor rate, gate;     // () f32
};

static ad_tensor state_like(ad_context *ctx, ad_tensor x, const char *what, ad_type type,
                            ad_shape shape) {
    char name[256];
    snprintf(name, sizeof name, "%.200s.%s", ad_name(ctx, x), what);
    ad_tensor zeros = ad_full(ctx, type, shape, 0);
    ad_tensor state = ad_state(ctx, name, zeros);
    ad_free(ctx, zeros);
    return state;
}

static ad_optimizer *open(ad_context *ctx, const ad_tensor *parameters, int count, double rate,
                          const char *who) {
    if (!ad_ready(ctx)) return NULL;
    ad_optimizer *o = ad_host_allocate(ctx, sizeof *o);
    moments *entries = ad_host_allocate(ctx, (size_t)(count > 0 ? count : 1) * sizeof *entries);
    if (!o || !entries) {
        ad_host_release(ctx, o), ad_host_release(ctx, entries);
        ad_raise(ctx, "out of memory for an optimiser of %d parameters", count);
        return NULL;
    }
    memset(entries, 0, (size_t)(count > 0 ? count : 1) * sizeof *entries);
    *o = (ad_optimizer){.ctx = ctx, .next = ctx->optimizers, .entries = entries, .count = count};
    ctx->optimizers = o;
    for (int i = 0; i < count; i++) {
        entries[i].parameter = parameters[i];
        ad_gradient_for(ctx, parameters[i], who); // says so where it is not a parameter
    }
    ad_tensor initial = ad_scalar(ctx, AD_F32, rate);
    o->rate = ad_state(ctx, "learning_rate", initial);
    ad_free(ctx, initial);
    return o;
}

ad_optimizer *ad_sgd(ad_context *ctx, const ad_tensor *parameters, int count,
                     const ad_sgd_options *options) {
    ad_sgd_options given = options ? *options : (ad_sgd_options){0};
    if (given.learning_rate == 0) given.learning_rate = 1e-2;
    ad_optimizer *o = open(ctx, parameters, count, given.learning_rate, "ad_sgd");
    if (!o) return NULL;
    o->sgd = given;
    for (int i = 0; i < count && given.momentum != 0; i++)
        o->entries[i].first = state_like(ctx, parameters[i], "momentum",
                                         ad_type_of(ctx, parameters[i]) == AD_F64 ? AD_F64 : AD_F32,
                                         ad_shape_of(ctx, parameters[i]));
    return o;
}

ad_optimizer *ad_adam(ad_context *ctx, const ad_tensor *parameters, int count,
                      const ad_adam_options *options) {
    ad_adam_options given = {0};
    if (options) memcpy(&given, options, sizeof given);
    if (given.learning_rate == 0) given.learning_rate = 1e-3;
    if (given.beta1 == 0) given.beta1 = 0.9;
    if (given.beta2 == 0) given.beta2 = 0.999;
    if (given.epsilon == 0) given.epsilon = 1e-8;
    ad_optimizer *o = open(ctx, parameters, count, given.learning_rate, "ad_adam");
    if (!o) return NULL;
    o->adam = true, o->options = given;
    for (int i = 0; i < count && ad_ready(ctx); i++) {
        ad_tensor p = parameters[i];
        ad_shape shape = ad_shape_of(ctx, p);
        ad_type type = ad_type_of(ctx, p) == AD_F64 ? AD_F64 : AD_F32;
        if (given.sparse && type == AD_F64) {
            ad_raise(ctx, "ad_adam: the sparse form has no f64 kernel");
            return NULL;
        }
        o->entries[i].first = state_like(ctx, p, "adam_m", type, shape);
        o->entries[i].second = state_like(ctx, p, "adam_v", type, shape);
        // The sparse form counts the steps of each row: a counter where a row's first number is.
        if (given.sparse && shape.rank > 1) shape.size[shape.rank - 1] = 1;
        o->entries[i].steps = state_like(ctx, p, "adam_steps", AD_U32,
                                         given.sparse ? shape : AD_SCALAR);
    }
    return o;
}

void ad_optimizer_step(ad_optimizer *o) {
    if (!o) return;
    ad_context *ctx = o->ctx;
    ad_tensor none[1];
    for (int i = 0; i < o->count && ad_ready(ctx); i++) {
        const moments *e = &o->entries[i];
        ad_tensor g = ad_gradient(ctx, e->parameter);
        if (o->adam)
            ad_apply(ctx, &ad_op_adam, 7, (ad_tensor[]){e->parameter, g, e->first, e->second,
                     e->steps, o->rate, o->gate}, &o->options, none);
        else
            ad_apply(ctx, &ad_op_sgd, 5, (ad_tensor[]){e->parameter, g, e->first, o->rate,
                     o->gate}, &o->sgd, none);
    }
}

bool ad_adam_sparse_parts(ad_optimizer *o, ad_tensor parameter, ad_adam_parts *parts) {
    *parts = (ad_adam_parts){0};
    if (!o) return false;
    for (int i = 0; i < o->count && o->adam && o->options.sparse; i++) {
        const moments *e = &o->entries[i];
        if (e->parameter.slot != parameter.slot
            || e->parameter.generation != parameter.generation)
            continue;
        *parts = (ad_adam_parts){e->first, e->second, e->steps, o->rate, o->gate, o->options};
        return true;
    }
    ad_raise(o->ctx, "expected an optimiser of ad_adam, sparse, that has the parameter");
    return false;
}

ad_tensor ad_optimizer_rate(ad_optimizer *o) { return o ? o->rate : (ad_tensor){0}; }

int ad_optimizer_states(ad_optimizer *o, int most, ad_tensor *states) {
    int count = 0;
    for (int i = 0; o && i < o->count; i++) {
        const ad_tensor each[] = {o->entries[i].first, o->entries[i].second, o->entries[i].steps};
        for (int j = 0; j < 3; j++) {
            if (!each[j].slot) continue;
            if (count < most) states[count] = each[j];
            count++;
        }
    }
    return count;
}

void ad_optimizer_free(ad_optimizer *o) {
    if (!o) return;
    ad_context *ctx = o->ctx;
    for (ad_optimizer **at = &ctx->optimizers; *at; at = &(*at)->next)
        if (*at == o) {
            *at = o->next;
            break;
        }
    ad_tensor states[2] = {o->rate, o->gate};
    for (int i = 0; i < 2; i++) ad_free(ctx, states[i]);
    for (int i = 0; i < o->count; i++) {
        ad_free(ctx, o->entries[i].first);
        ad_free(ctx, o->entries[i].second);
        ad_free(ctx, o->entries[i].steps);
    }
    ad_host_release(ctx, o->entries);
    ad_host_release(ctx, o);
}

void ad_optimizers_close(ad_context *ctx) {
    while (ctx->optimizers) ad_optimizer_free(ctx->optimizers);
}

void ad_ema_update(ad_context *ctx, ad_tensor average, ad_tensor value, double decay) {
    ad_tensor none[1];
    ad_apply(ctx, &ad_op_ema, 2, (ad_tensor[]){average, value}, &decay, none);
}

ad_tensor ad_clip_norm(ad_context *ctx, int count, const ad_tensor *parameters, double most) {
    ad_tensor squares = {0}, none[1];
    ad_no_grad_begin(ctx);
    for (int i = 0; i < count; i++) {
        ad_tensor g = ad_gradient_for(ctx, parameters[i], "ad_clip_norm");
        ad_tensor square = ad_sum(ctx, ad_square(ctx, g), AD_ALL_AXES, false);
        squares = i ? ad_add(ctx, squares, square) : square;
    }
    ad_tensor norm = ad_sqrt(ctx, squares);
    for (int i = 0; i < count; i++)
        ad_apply(ctx, &ad_op_clip, 2, (ad_tensor[]){ad_gradient(ctx, parameters[i]), norm}, &most,
                 none);
    ad_no_grad_end(ctx);
    return norm;
}

/* ---- loss scaling */

ad_tensor ad_loss_scale_open(ad_context *ctx, double initial) {
    float values[2] = {(float)(initial > 0 ? initial : 65536), 0};
    ad_tensor start = ad_from(ctx, AD_F32, AD_SHAPE(2), values);
    ad_tensor scale = ad_state(ctx, "loss_scale", start);
    ad_free(ctx, start);
    return scale;
}

ad_tensor ad_loss_scale(ad_context *ctx, ad_tensor scale) {
    return ad_reshape(ctx, ad_slice(ctx, scale, 0, 0, 1, 1), AD_SCALAR);
}

void ad_loss_scale_step(ad_optimizer *o, ad_tensor scale) {
    if (!o || !ad_ready(o->ctx)) return;
    ad_context *ctx = o->ctx;
    ad_tensor none[1];
    if (!o->gate.slot) {
        ad_tensor one = ad_scalar(ctx, AD_F32, 1);
        o->gate = ad_state(ctx, "loss_scale_gate", one);
        ad_free(ctx, one);
    }
    ad_apply(ctx, &ad_op_gate_begin, 2, (ad_tensor[]){o->gate, scale}, NULL, none);
    for (int i = 0; i < o->count; i++)
        ad_apply(ctx, &ad_op_gate_check, 2,
                 (ad_tensor[]){o->gate, ad_gradient(ctx, o->entries[i].parameter)}, NULL, none);
    ad_optimizer_step(o);
    ad_apply(ctx, &ad_op_scale_update, 2, (ad_tensor[]){scale, o->gate}, NULL, none);
}

/* ---- schedules */

double ad_schedule_rate(const ad_schedule *s, double progress) {
    progress = progress < 0 ? 0 : progress > 1 ? 1 : progress;
    double rise = s->warmup > 0 && progress < s->warmup ? progress / s->warmup : 1;
    double rate = s->rate, end = s->rate_end;
    double share = s->warmup < 1 && progress > s->warmup
                 ? (progress - s->warmup) / (1 - s->warmup) : 0;
    switch (s->kind) {
    case AD_COSINE:
        rate = end + (rate - end) * 0.5 * (1 + cos(3.14159265358979323846 * share));
        break;
    case AD_EXPONENTIAL: rate = end > 0 ? rate * pow(end / rate, share) : rate; break;
    case AD_STEPS:
        for (int i = 0; i < 4; i++)
            if (s->step_at[i] > 0 && progress >= s->step_at[i]) rate *= s->step_factor;
        break;
    case AD_CONSTANT: break;
    }
    return rate * rise;
}
