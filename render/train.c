/* The trainer: pixels in, one optimiser step at a time.
 *
 * A step is: draw random pixels, cast their rays, trace them through the field, compare with the
 * pictures over a background, walk back, let Adam write the parameters, and from time to time let
 * the field learn where space is empty. It is captured when a phase of the schedule begins and
 * replayed from then on: everything else that changes (random step, ray count, learning rate) is a
 * state on the device. The number of rays follows the number of samples the last step found along
 * them. */
#include "render/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the next step's ray count: an operation that writes a state */

typedef struct adapt_attributes {
    int64_t capacity, rays_max;
} adapt_attributes;

static void adapt_infer(ad_infer *call) { (void)call; }

// live (state), samples, rays traced whole: aim at 95 % of the capacity, half-way each step.
static void adapt_cpu(const ad_launch *launch) {
    const adapt_attributes *a = launch->attributes;
    uint32_t *live = launch->input[0].data;
    int64_t samples = *(const uint32_t *)launch->input[1].data;
    int64_t rays = *(const uint32_t *)launch->input[2].data;
    if (rays < 1) rays = 1;
    if (samples < 1) samples = 1;
    int64_t goal = a->capacity * 95 / 100 * rays / samples;
    int64_t next = (*live + goal) / 2;
    if (next > 4 * (int64_t)*live) next = 4 * (int64_t)*live;
    if (next < 64) next = 64;
    *live = (uint32_t)(next < a->rays_max ? next : a->rays_max);
}

static const ad_op op_adapt = {
    .name = "adapt_rays", .inputs_min = 3, .inputs_max = 3, .writes = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL, .attribute_bytes = sizeof(adapt_attributes),
    .infer = adapt_infer, .cpu = adapt_cpu};

/* ---- one step on the tape */

// Errors up to here count as squares, larger ones linearly.
static const double huber_delta = 0.1;

// What rays saw against the pictures over a background.
static ad_tensor compare(render_trainer *t, const render_pixels *pixels, ad_tensor picture,
                         ad_tensor background, ad_tensor rays, ad_tensor *squares) {
    double delta = t->model->settings.squared_loss ? 0 : huber_delta;
    ad_tensor loss;
    render_pixel_loss(t->ctx, pixels->colour, pixels->opacity, picture, background, rays, delta,
                      &loss, squares);
    return loss;
}

// Opacity is either 0 or 1: the mean of -o log o over the live rays pushes it there.
static ad_tensor opacity_loss(ad_context *ctx, ad_tensor opacity, ad_tensor live) {
    ad_tensor number = ad_range(ctx, AD_U32, ad_count(ctx, opacity));
    ad_tensor valid = ad_cast(ctx, ad_less(ctx, number, live), AD_F32); // (rays)
    ad_tensor count = ad_cast(ctx, ad_maximum(ctx, live, ad_scalar(ctx, AD_U32, 1)), AD_F32);
    ad_tensor o = ad_clamp(ctx, opacity, 1e-5, 1 - 1e-5);
    ad_tensor entropy = ad_neg(ctx, ad_mul(ctx, ad_mul(ctx, o, ad_log(ctx, o)), valid));
    return ad_div(ctx, ad_sum(ctx, entropy, AD_ALL_AXES, false), count);
}

static void note_step(render_trainer *t, const render_traced *traced, ad_tensor loss,
                      ad_tensor squares, ad_tensor rays) {
    ad_context *ctx = t->ctx;
    ad_tensor one = ad_ones(ctx, 1);
    ad_tensor parts[] = {ad_reshape(ctx, loss, AD_SHAPE(1)), ad_reshape(ctx, squares, AD_SHAPE(1)),
                         one};
    ad_accumulate(ctx, t->sums, ad_concat(ctx, 3, parts, 0));
    // Samples that reached the composite: those with a weight.
    ad_tensor weight = traced->pixels.weight;
    ad_tensor seen = ad_greater(ctx, weight, ad_scalar(ctx, AD_F32, 0));
    ad_tensor counts[] = {
        ad_reshape(ctx, ad_sum(ctx, seen, AD_ALL_AXES, false), AD_SHAPE(1)),
        ad_reshape(ctx, rays, AD_SHAPE(1))};
    ad_accumulate(ctx, t->counts, ad_concat(ctx, 2, counts, 0));
}

// Walks back from the loss and lets the optimisers write. Where the field says which features of
// which points it used, their cotangents are spent on the table at once.
static void descend(render_trainer *t, const render_traced *traced, ad_tensor loss) {
    ad_context *ctx = t->ctx;
    const render_model *model = t->model;
    int tables = model->grid_count, nets = model->parameter_count - tables;
    if (!traced->features.slot) {
        ad_grad_add(ctx, loss, model->parameter_count, model->parameters, 0);
        if (t->grid_adam) ad_optimizer_step(t->grid_adam);
    } else {
        ad_tensor wanted[MODEL_PARAMETERS_MAX + 1], slopes[MODEL_PARAMETERS_MAX + 1];
        for (int i = 0; i < nets; i++) wanted[i] = model->parameters[tables + i];
        wanted[nets] = traced->features;
        ad_grad(ctx, loss, (ad_tensor){0}, nets + 1, wanted, slopes, AD_GRAD_RELEASE);
        for (int i = 0; i < nets; i++)
            ad_accumulate(ctx, ad_gradient(ctx, wanted[i]), slopes[i]);
        render_hash_grid_step(ctx, t->grid_adam, traced->points, model->parameters[0],
                              traced->count, slopes[nets], &model->settings.grid);
    }
    if (t->net_adam) ad_optimizer_step(t->net_adam);
}

static void train_step(render_trainer *t) {
    ad_context *ctx = t->ctx;
    render_model *model = t->model;
    const render_settings *s = &model->settings;
    const int64_t rays = s->rays * t->phase->growth;
    const render_tracing how = {.live = t->live, .capacity = s->batch * t->phase->growth,
                                .training = true, .stretch = t->phase->stretch};
    ad_tensor origins, directions, squares;
    render_traced traced = {0};
    ad_scope_begin(ctx, "step");
    ad_tensor ids = render_sample_pixels(ctx, t->starts, t->allowed, t->live, rays);
    ad_tensor picture = render_fetch_pixels(ctx, t->pixels, t->starts, ids); // (rays, 4)
    render_camera_rays(ctx, t->cameras, (ad_tensor){0}, ids, &origins, &directions);
    model->field->trace(model, origins, directions, &how, &traced);

    // Rays past the count that was traced whole have no say.
    ad_tensor whole = traced.rays.slot ? traced.rays : t->live;
    ad_tensor background = s->random_background
        ? ad_uniform(ctx, AD_F32, AD_SHAPE(rays, 3), 0, 1)
        : ad_from(ctx, AD_F32, AD_SHAPE(1, 3), model->scene.background);
    ad_tensor loss = compare(t, &traced.pixels, picture, background, whole, &squares);
    ad_tensor total = loss;
    if (traced.coarse.colour.slot) {
        ad_tensor unused;
        total = ad_add(ctx, total, compare(t, &traced.coarse, picture, background, whole,
                                           &unused));
    }
    if (traced.extra_loss.slot) total = ad_add(ctx, total, traced.extra_loss);
    if (s->opacity_loss > 0)
        total = ad_add(ctx, total, ad_affine(ctx, opacity_loss(ctx, traced.pixels.opacity, whole),
                                             s->opacity_loss, 0));
    ad_no_grad_begin(ctx); // before the backward pass gives the weights back
    note_step(t, &traced, loss, squares, whole);
    ad_no_grad_end(ctx);
    descend(t, &traced, total);

    ad_no_grad_begin(ctx);
    if (traced.count.slot) {
        adapt_attributes a = {how.capacity, rays};
        ad_tensor none[1];
        ad_apply(ctx, &op_adapt, 3, (ad_tensor[]){t->live, traced.count, traced.rays}, &a, none);
    }
    ad_no_grad_end(ctx);
    ad_step_advance(ctx);
    ad_scope_end(ctx);
}

// The phase at this share of the schedule. A step captured in another one is of no use any more.
static void enter_phase(render_trainer *t, double progress) {
    static const render_phase plain = {.end = 1, .growth = 1};
    const render_phase *phase = t->model->field->phases ? t->model->field->phases : &plain;
    while (progress >= phase->end && phase->end < 1) phase++;
    if (t->phase == phase) return;
    ad_program_free(t->program);
    t->program = NULL, t->phase = phase;
}

/* ---- public */

bool render_trainer_step(render_trainer *t, double progress, ad_message *error) {
    ad_context *ctx = t->ctx;
    const render_settings *s = &t->model->settings;
    enter_phase(t, progress);
    ad_schedule schedule = {.kind = AD_COSINE, .rate = s->learning_rate,
                            .rate_end = s->learning_rate_end, .warmup = 0.005};
    float rate = (float)(ad_schedule_rate(&schedule, progress) * t->phase->growth);
    if (t->step == 0 && rate == 0) rate = (float)(s->learning_rate * 0.1);
    t->rate = rate;
    if (t->grid_adam) ad_write(ctx, ad_optimizer_rate(t->grid_adam), &rate, sizeof rate);
    if (t->net_adam) ad_write(ctx, ad_optimizer_rate(t->net_adam), &rate, sizeof rate);
    if (!t->program) {
        ad_capture_begin(ctx);
        train_step(t);
        t->program = ad_capture_end(ctx);
    } else {
        ad_replay(t->program);
    }
    t->step++;
    if (t->model->field->update) t->model->field->update(t->model, t->step);
    return !ad_failed(ctx) || ad_fail(error, "%s", ad_error_text(ctx));
}

// Adds what the device counted since the last call to the totals.
void render_trainer_collect(render_trainer *t) {
    ad_context *ctx = t->ctx;
    float sums[3];
    uint32_t counts[2];
    static const float no_sums[3] = {0};
    static const uint32_t no_counts[2] = {0};
    if (!ad_read(ctx, t->sums, sums, sizeof sums)
        || !ad_read(ctx, t->counts, counts, sizeof counts))
        return;
    for (int i = 0; i < 3; i++) t->sum[i] += sums[i];
    t->samples += counts[0], t->rays += counts[1];
    ad_write(ctx, t->sums, no_sums, sizeof no_sums);
    ad_write(ctx, t->counts, no_counts, sizeof no_counts);
}

void render_trainer_read(render_trainer *t, render_progress *progress) {
    render_trainer_collect(t);
    double steps = t->sum[2] > 0 ? t->sum[2] : 1;
    *progress = (render_progress){
        .step = t->step, .loss = t->sum[0] / steps, .psnr = -10 * log10(t->sum[1] / steps),
        .samples = t->samples, .rays = t->rays, .occupied = render_model_occupied(t->model),
        .learning_rate = t->rate};
    t->sum[0] = t->sum[1] = t->sum[2] = 0;
}

// Pictures of the train split as one u32 a pixel; their bytes leave the dataset.
static bool upload(render_trainer *t, render_dataset *dataset, ad_message *error) {
    ad_context *ctx = t->ctx;
    int images = 0;
    uint64_t pixels = 0;
    for (int i = 0; i < dataset->count; i++) {
        const render_frame *frame = &dataset->frames[i];
        if (frame->split != RENDER_TRAIN) continue;
        pixels += (uint64_t)frame->image.width * (uint64_t)frame->image.height, images++;
    }
    if (images < 1 || pixels < 1 || pixels > INT32_MAX)
        return ad_fail(error, "%s: %llu pixels in %d training images: expected 1 to 2^31; "
                       "--downscale makes them fewer", dataset->folder,
                       (unsigned long long)pixels, images);
    uint32_t *starts = malloc(((size_t)images + 1) * sizeof *starts);
    float *rows = malloc((size_t)images * RENDER_CAMERA_NUMBERS * sizeof *rows);
    render_camera *cameras = malloc((size_t)images * sizeof *cameras);
    bool good = starts && rows && cameras;
    ad_scope_begin(ctx, "pictures");
    if (good)
        t->pixels = ad_state(ctx, "pictures",
                             ad_full(ctx, AD_U32, AD_SHAPE((int64_t)pixels), 0));
    ad_scope_end(ctx);
    uint64_t at = 0;
    int image = 0;
    for (int i = 0; i < dataset->count && good && !ad_failed(ctx); i++) {
        render_frame *frame = &dataset->frames[i];
        if (frame->split != RENDER_TRAIN) continue;
        size_t count = (size_t)frame->image.width * (size_t)frame->image.height;
        starts[image] = (uint32_t)at, cameras[image++] = frame->camera;
        ad_write_part(ctx, t->pixels, at * 4, frame->image.pixels, count * 4);
        at += count;
    }
    if (good) starts[images] = (uint32_t)at;
    good = good && render_cameras_pack(cameras, images, &t->model->domain, rows);
    ad_scope_begin(ctx, "cameras");
    if (good) {
        t->starts = ad_state(ctx, "picture_starts",
                             ad_from(ctx, AD_U32, AD_SHAPE(images + 1), starts));
        t->cameras = ad_state(ctx, "cameras", ad_from(ctx, AD_F32,
                              AD_SHAPE(images, RENDER_CAMERA_NUMBERS), rows));
    }
    ad_scope_end(ctx);
    good = good && (!dataset->has_mask || render_trainer_masks(t, dataset, pixels, error));
    for (int i = 0; i < dataset->count && good; i++)
        if (dataset->frames[i].split == RENDER_TRAIN) render_image_free(&dataset->frames[i].image);
    free(starts), free(rows), free(cameras);
    if (ad_failed(ctx)) return ad_fail(error, "%s", ad_error_text(ctx));
    return good || ad_fail(error, "out of memory for the training images");
}

// The numbers of the pixels that masks leave in.
bool render_trainer_masks(render_trainer *t, const render_dataset *dataset, uint64_t pixels,
                          ad_message *error) {
    uint32_t *allowed = malloc((size_t)pixels * sizeof *allowed);
    uint64_t count = 0, at = 0;
    if (!allowed) return ad_fail(error, "out of memory for the masks");
    for (int i = 0; i < dataset->count; i++) {
        const render_image *image = &dataset->frames[i].image;
        if (dataset->frames[i].split != RENDER_TRAIN) continue;
        uint64_t size = (uint64_t)image->width * (uint64_t)image->height;
        for (uint64_t j = 0; j < size; j++)
            if (!image->mask || image->mask[j]) allowed[count++] = (uint32_t)(at + j);
        at += size;
    }
    if (count) {
        ad_scope_begin(t->ctx, "masks");
        t->allowed = ad_state(t->ctx, "allowed_pixels",
                              ad_from(t->ctx, AD_U32, AD_SHAPE((int64_t)count), allowed));
        ad_scope_end(t->ctx);
    }
    free(allowed);
    return count || ad_fail(error, "%s: the masks leave no pixel to train on", dataset->folder);
}

render_trainer *render_trainer_open(render_model *model, render_dataset *dataset,
                                    ad_message *error) {
    ad_context *ctx = model->ctx;
    render_trainer *t = calloc(1, sizeof *t);
    if (!t) {
        ad_fail(error, "out of memory for a trainer");
        return NULL;
    }
    t->ctx = ctx, t->model = model;
    if (!upload(t, dataset, error)) {
        render_trainer_close(t);
        return NULL;
    }
    ad_scope_begin(ctx, "trainer");
    t->live = ad_state(ctx, "live_rays", ad_full(ctx, AD_U32, AD_SCALAR,
                       model->field->update && model->settings.rays > 64 ? 64
                                                           : (double)model->settings.rays));
    t->sums = ad_state(ctx, "sums", ad_zeros(ctx, 3));
    t->counts = ad_state(ctx, "counts", ad_full(ctx, AD_U32, AD_SHAPE(2), 0));
    // Tables: only what was touched moves. Networks: every number, a little decay.
    ad_adam_options sparse = {.learning_rate = model->settings.learning_rate, .beta2 = 0.99,
                              .epsilon = 1e-15, .sparse = true};
    ad_adam_options dense = {.learning_rate = model->settings.learning_rate, .beta2 = 0.99,
                             .epsilon = 1e-15, .weight_decay = 1e-6};
    int tables = model->grid_count, nets = model->parameter_count - tables;
    if (tables) t->grid_adam = ad_adam(ctx, model->parameters, tables, &sparse);
    if (nets) t->net_adam = ad_adam(ctx, model->parameters + tables, nets, &dense);
    ad_scope_end(ctx);
    if (ad_failed(ctx)) {
        ad_fail(error, "%s", ad_error_text(ctx));
        render_trainer_close(t);
        return NULL;
    }
    return t;
}

void render_trainer_close(render_trainer *t) {
    if (!t) return;
    ad_program_free(t->program);
    ad_optimizer_free(t->grid_adam), ad_optimizer_free(t->net_adam);
    ad_tensor states[] = {t->pixels, t->starts, t->allowed, t->cameras,
                          t->live,   t->sums,   t->counts};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) ad_free(t->ctx, states[i]);
    free(t);
}
