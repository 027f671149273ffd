// The reference field (the original NeRF at full size) on a scene at a quarter of its size: how
// long it trains until it reaches 20 dB on views that it never saw; that must take less than 15
// minutes. Settings are those of `--field mlp`, bf16 where the machine has it. One JSON line at
// each look and at the end.
//
//     bench_field_mlp [folder, default scenes/still_life] [seconds, default 300] [rays]

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/machine.h"
#include "render/render.h"

enum { VIEWS = 4, DOWNSCALE = 4, THREADS = 2 };
static const double goal = 20;

typedef struct attempt {
    double limit, start, looking; // seconds; looking does not count
    double reached;               // seconds of training until the goal, or 0
} attempt;

static double trained(const attempt *a) { return bench_now() - a->start - a->looking; }

static bool look(attempt *a, render_model *model, const render_dataset *dataset,
                 const render_scene *scene, const render_progress *progress, ad_message *error) {
    const render_settings *settings = render_model_settings(model);
    render_score score;
    double seconds = trained(a), before = bench_now();
    if (!render_evaluate(model, dataset, dataset->held_out, VIEWS, scene->background, NULL, NULL,
                         &score, error))
        return false;
    a->looking += bench_now() - before;
    if (!a->reached && score.psnr >= goal) a->reached = seconds;
    printf("{\"bench\":\"field_mlp\",\"threads\":%d,\"width\":%d,\"height\":%d,\"views\":%d,"
           "\"parameters\":%lld,\"precision\":\"%s\",\"rays\":%lld,\"step\":%lld,"
           "\"seconds\":%.1f,\"train_psnr\":%.2f,"
           "\"psnr\":%.2f,\"goal\":%.0f,\"seconds_to_goal\":%.1f,\"seconds_a_view\":%.2f}\n",
           THREADS, score.width, score.height, score.images,
           (long long)render_model_parameters(model), settings->bf16 ? "bf16" : "f32",
           (long long)settings->rays,
           (long long)progress->step, seconds, progress->psnr, score.psnr, goal, a->reached,
           score.images ? score.seconds / score.images : 0);
    fflush(stdout);
    return true;
}

static bool run(attempt *a, render_model *model, render_trainer *trainer,
                const render_dataset *dataset, const render_scene *scene, ad_message *error) {
    render_progress progress = {0};
    double next = 30; // views cost as much as dozens of steps: look seldom
    a->start = bench_now();
    while (trained(a) < a->limit) {
        if (!render_trainer_step(trainer, trained(a) / a->limit, error)) return false;
        if (trained(a) < next || trained(a) >= a->limit) continue;
        render_trainer_read(trainer, &progress);
        next = 1.5 * trained(a);
        if (!look(a, model, dataset, scene, &progress, error)) return false;
    }
    render_trainer_read(trainer, &progress);
    return look(a, model, dataset, scene, &progress, error);
}

int main(int count, char **arguments) {
    attempt a = {.limit = count > 2 ? atof(arguments[2]) : 300};
    render_dataset dataset = {0};
    render_scene scene;
    ad_message error = {{0}};
    bool good = render_dataset_load(&dataset, count > 1 ? arguments[1] : "scenes/still_life",
                                    &(render_dataset_options){.downscale = DOWNSCALE, .threads = 2},
                                    &error);
    if (good) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 1, .threads = THREADS});
        render_settings settings = {.field = "mlp", .rays = count > 3 ? atol(arguments[3]) : 0,
                                    .bf16 = strstr(ad_build_text(), "bf16") != NULL};
        render_scene_guess(&scene, &dataset);
        render_model *model = render_model_open(ctx, &settings, &scene, 1, &error);
        render_trainer *trainer = model ? render_trainer_open(model, &dataset, &error) : NULL;
        good = trainer && run(&a, model, trainer, &dataset, &scene, &error);
        ad_memory memory = ad_memory_read(ctx);
        if (good) printf("{\"bench\":\"field_mlp\",\"peak_bytes\":%zu}\n", memory.peak_bytes);
        render_trainer_close(trainer);
        render_model_close(model);
        ad_close(ctx);
    }
    render_dataset_free(&dataset);
    if (!good) fprintf(stderr, "%s\n", error.text);
    return good ? 0 : 1;
}
