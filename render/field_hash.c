/* The hash field: a multiresolution hash grid and two small networks (Muller et al. 2022, 5.4).
 *
 *   features = grid(point)                      (levels x features)
 *   h = density network(features)               (16), sigma = exp(h_0)
 *   colour = sigmoid(colour network(h, harmonics of the direction))
 *
 * Samples come from marching through the occupancy grid. */
#include "render/model.h"

#include <math.h>

enum { TABLE, DENSITY_1, DENSITY_2, COLOUR_1, COLOUR_2, COLOUR_3 };   // parameters
enum { OCCUPANCY_VALUE, OCCUPANCY_BITS };                             // states
enum { GEOMETRY = 16, HARMONICS_DEGREE = 4, HARMONICS = 16, RESOLUTION = 128, SWEEP = 1 << 16 };

// While training, candidates are asked for their densities piece by piece, of those rays that are
// still lit. A piece ends where the occupancy grid's values add up to `share` times the depth that
// is left until light ends; for it there is room for so many halves of the samples that are kept.
enum { PIECES = 3 };
static const struct { double share; int halves; } pieces[PIECES] = {
    {3, 3}, {8, 1}, {0, 1}}; // the last one ends with the ray

// Where so much light is left a ray ends: samples behind it carry no weight. (The viewer lets it
// end where no picture shows a difference, view.c.) While training it ends sooner: what is lost is
// less than a level of 8 bits, and as many samples serve more rays.
static const double stop_of_views = 1e-4, stop_of_training = 3e-3;

// At first longer steps: more rays share the samples, and what is fine cannot be told yet;
// at last larger batches, which cost less a sample, when gradients are mostly noise (Smith and
// others 2018, "Don't decay the learning rate, increase the batch size"). That the last two fifths
// are doubled is said in words by help, info and the report (cli/) as well.
static const render_phase phases[] = {{.end = 0.15, .stretch = 4, .growth = 1},
                                      {.end = 0.5, .stretch = 2, .growth = 1},
                                      {.end = 0.6, .stretch = 1.5, .growth = 1},
                                      {.end = 1, .stretch = 1, .growth = 2}};

static bool hash_open(render_model *model, ad_message *error) {
    ad_context *ctx = model->ctx;
    const render_settings *s = &model->settings;
    int64_t entries = render_grid_entries(&s->grid), width = s->width;
    if (!entries)
        return ad_fail(error, "the hash grid's settings are out of range: 1 to %d levels, 2^3 to "
                       "2^26 entries", RENDER_GRID_LEVELS_MAX);
    int64_t features = (int64_t)s->grid.levels * s->grid.features;
    ad_scope_begin(ctx, "hash field");
    render_model_parameter(model, "grid.table", ad_uniform(ctx, AD_F32,
                           AD_SHAPE(entries, s->grid.features), -1e-4, 1e-4));
    model->grid_count = 1;
    render_model_parameter(model, "density.0.weight", ad_he_normal(ctx, width, features));
    render_model_parameter(model, "density.1.weight", ad_xavier_normal(ctx, GEOMETRY, width));
    render_model_parameter(model, "colour.0.weight",
                           ad_he_normal(ctx, width, GEOMETRY + HARMONICS));
    render_model_parameter(model, "colour.1.weight", ad_he_normal(ctx, width, width));
    render_model_parameter(model, "colour.2.weight", ad_xavier_normal(ctx, 3, width));
    int cascades = model->domain.cascades;
    int64_t cells = render_occupancy_cells(cascades, RESOLUTION);
    int64_t words = render_occupancy_words(cascades, RESOLUTION);
    render_model_state(model, "occupancy.value", ad_zeros(ctx, cells));
    // At first every cell may hold something.
    render_model_state(model, "occupancy.bits",
                       ad_full(ctx, AD_U32, AD_SHAPE(words), 4294967295.0));
    ad_scope_end(ctx);
    return !ad_failed(ctx) || ad_fail(error, "%s", ad_error_text(ctx));
}

static ad_tensor features_of(render_model *model, ad_tensor points, ad_tensor count) {
    return render_hash_grid(model->ctx, points, model->parameters[TABLE], count,
                            &model->settings.grid); // (n, levels features)
}

static ad_tensor density_of(render_model *model, ad_tensor features, ad_tensor count) {
    ad_context *ctx = model->ctx;
    const ad_tensor *p = model->parameters;
    ad_mlp_options options = {.bf16 = model->settings.bf16};
    // Of the network's outputs the first alone is the density.
    ad_tensor weights[] = {p[DENSITY_1], ad_slice(ctx, p[DENSITY_2], 0, 0, 1, 1)};
    return render_density(ctx, ad_mlp(ctx, features, 2, weights, NULL, count, &options));
}

static ad_tensor hash_density(render_model *model, ad_tensor points, ad_tensor count) {
    return density_of(model, features_of(model, points, count), count);
}

// Steps are so many times as long as the settings have them; those that grow with distance end at
// the same length, a cell's diagonal.
static render_march_options marching(const render_model *model, double stretch, int64_t capacity) {
    const int steps = (int)(model->settings.march_steps / stretch);
    return (render_march_options){
        .domain = model->domain, .resolution = RESOLUTION, .steps = steps < 1 ? 1 : steps,
        .cone_angle = model->cone_angle * stretch, .near_distance = model->near_distance,
        .capacity = capacity};
}

// Samples with their features (n, levels features) to pixels.
static void shade(render_model *model, ad_tensor directions, ad_tensor features,
                  const render_samples *at, double stop, render_traced *traced) {
    ad_context *ctx = model->ctx;
    const ad_tensor *p = model->parameters;
    ad_mlp_options options = {.bf16 = model->settings.bf16};
    ad_tensor h = ad_mlp(ctx, features, 2, &p[DENSITY_1], NULL, at->count, &options); // (n, 16)
    ad_tensor harmonics = render_spherical_harmonics(ctx, directions, HARMONICS_DEGREE);
    ad_tensor sigma, input;
    render_density_beside(ctx, h, harmonics, at->offsets, &sigma, &input); // (n), (n, 32)
    ad_tensor raw = ad_mlp(ctx, input, 3, &p[COLOUR_1], NULL, at->count, &options);
    render_composite(ctx, sigma, ad_sigmoid(ctx, raw), at->t, at->delta, at->offsets, stop,
                     &traced->pixels);
    traced->rays = at->rays, traced->count = at->count, traced->samples = *at;
}

// Asks the next candidates of each ray for their densities and keeps those that light reaches;
// march and cull then know where to go on. features: (candidates, levels features).
static void find_piece(render_model *model, ad_tensor origins, ad_tensor directions,
                       ad_tensor live, render_march_options *march, render_cull_options *cull,
                       render_piece *piece, ad_tensor *features) {
    ad_context *ctx = model->ctx;
    render_samples candidates;
    render_culled culled;
    render_march(ctx, origins, directions, model->states[OCCUPANCY_BITS], live, march,
                 &candidates);
    ad_tensor points = render_points(ctx, origins, directions, candidates.t, candidates.offsets);
    *features = features_of(model, points, candidates.count);
    render_cull(ctx, density_of(model, *features, candidates.count), &candidates, cull,
                &piece->samples, &culled);
    piece->rows = culled.rows, piece->candidates = march->capacity;
    march->from = piece->samples.next, march->tau = cull->tau = culled.tau;
}

static void hash_trace(render_model *model, ad_tensor origins, ad_tensor directions,
                       const render_tracing *how, render_traced *traced) {
    ad_context *ctx = model->ctx;
    const render_settings *s = &model->settings;
    const int64_t capacity = how->capacity;
    const double stop = how->training ? stop_of_training : stop_of_views;
    const double stretch = how->stretch > 0 ? how->stretch : 1;
    render_march_options march = marching(model, stretch, capacity);
    render_cull_options cull = {.stop = stop, .capacity = capacity};
    render_piece piece[PIECES];
    render_samples at;
    ad_tensor known[PIECES], rows, live = how->live;
    uint32_t draw = 0;
    march.jitter = how->training, march.draw = &draw, march.stop = stop;
    // Densities alone say how far light gets; only what it reaches is worth the rest.
    ad_no_grad_begin(ctx);
    for (int i = 0; i < PIECES; i++) {
        march.capacity = (pieces[i].halves * capacity + 1) / 2;
        march.share = pieces[i].share / stretch; // values are of steps as long as usual
        march.value = pieces[i].share > 0 ? model->states[OCCUPANCY_VALUE] : (ad_tensor){0};
        find_piece(model, origins, directions, live, &march, &cull, &piece[i], &known[i]);
        live = piece[i].samples.rays;
    }
    render_join_samples(ctx, PIECES, piece, capacity, &at, &rows);
    ad_no_grad_end(ctx);
    ad_tensor points = render_points(ctx, origins, directions, at.t, at.offsets);
    ad_tensor features = render_hash_grid_known(ctx, points, model->parameters[TABLE], at.count,
                                                PIECES, known, rows, &s->grid);
    shade(model, directions, features, &at, stop, traced);
    traced->points = points, traced->features = features;
    if (!how->training || s->distortion_loss <= 0) return;
    ad_tensor spread = render_distortion(ctx, traced->pixels.weight, at.t, at.delta, at.offsets);
    ad_tensor rays = ad_cast(ctx, ad_maximum(ctx, at.rays, ad_scalar(ctx, AD_U32, 1)), AD_F32);
    traced->extra_loss = ad_affine(ctx, ad_div(ctx, ad_sum(ctx, spread, AD_ALL_AXES, false), rays),
                                   s->distortion_loss, 0);
}

// Few samples, most of them seen: culling would cost more than it saves.
static void hash_look(render_model *model, ad_tensor origins, ad_tensor directions,
                      ad_tensor from, int most, render_traced *traced) {
    int64_t capacity = ad_count(model->ctx, from) * most; // there is room for every sample
    render_march_options march = marching(model, 1, capacity > 0 ? capacity : 1);
    render_samples at;
    march.from = from, march.most = most;
    render_march(model->ctx, origins, directions, model->states[OCCUPANCY_BITS], (ad_tensor){0},
                 &march, &at);
    ad_tensor points = render_points(model->ctx, origins, directions, at.t, at.offsets);
    shade(model, directions, features_of(model, points, at.count), &at, stop_of_views, traced);
}

// Asks the field for the density in some cells and updates the grid with the answers.
static void ask(render_model *model, int64_t start, int64_t uniform, int64_t occupied,
                bool fade) {
    ad_context *ctx = model->ctx;
    const ad_tensor *states = model->states;
    int cascades = model->domain.cascades;
    int steps = model->settings.march_steps;
    ad_tensor cells, points;
    ad_scope_begin(ctx, "occupancy");
    ad_no_grad_begin(ctx);
    render_occupancy_draw(ctx, states[OCCUPANCY_BITS], cascades, RESOLUTION, start, uniform,
                          occupied, &cells, &points);
    ad_tensor sigma = hash_density(model, points, (ad_tensor){0});
    render_occupancy_update(ctx, states[OCCUPANCY_VALUE], states[OCCUPANCY_BITS], cells, sigma,
                            cascades, RESOLUTION,
                            sqrt(3.0) / steps * ldexp(1, 1 - cascades), fade);
    ad_step_advance(ctx);
    ad_no_grad_end(ctx);
    ad_scope_end(ctx);
}

static void hash_update(render_model *model, int64_t step) {
    int64_t cells = render_occupancy_cells(model->domain.cascades, RESOLUTION);
    if (step >= 32 && (step & (step - 1)) == 0) { // every cell
        for (int64_t start = 0; start < cells; start += SWEEP)
            ask(model, start, cells - start < SWEEP ? cells - start : SWEEP, 0, start == 0);
    } else if (step > 32 && (step % 16 == 0 || (step < 256 && step % 8 == 0))) {
        ask(model, -1, SWEEP / 2, SWEEP / 2, true);
    }
}

const render_field render_field_hash = {
    .name = "hash", .phases = phases, .open = hash_open, .trace = hash_trace, .look = hash_look,
    .density = hash_density, .update = hash_update};
