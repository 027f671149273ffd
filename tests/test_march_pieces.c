/* Marching piece by piece: whether a piece ends after a number of samples or where the occupancy
 * grid's values say that light will end, the pieces are the ray marched in one go. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, CELLS = N * N * N, RAYS = 3 };

static const float origins[RAYS][3] = {{-1, 0.53f, 0.47f}, {0.28f, 2, 0.66f}, {-1, 3, 0.5f}};
static const float directions[RAYS][3] = {{1, 0, 0}, {0, -1, 0}, {1, 0, 0}}; // the last one misses

// Marched on behind `from`, a few samples at a time, a ray has the samples that it has in one go:
// through steps that grow, two cascades and empty space between; through even steps, one cascade
// and blocks to leap over.
static void check_numbers(int cascades, double cone) {
    enum { MOST = 7, CAPACITY_HERE = 4096 };
    static float whole[CAPACITY_HERE], whole_delta[CAPACITY_HERE], t[RAYS * MOST];
    static float delta[RAYS * MOST];
    uint32_t offsets[RAYS + 1], at[RAYS + 1], done[RAYS] = {0};
    float from[RAYS] = {0};
    int64_t words = render_occupancy_words(cascades, N);
    uint32_t *half = calloc((size_t)words, 4); // runs of four cells, every other one
    uint32_t blocks = cascades == 1 ? 0x55555555u : ~0u; // every other one, or none is left out
    for (int64_t i = 0; i < words; i++)
        half[i] = i < cascades * CELLS / 32 ? 0x0f0f0f0fu : blocks;
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_tensor grid = ad_from(ctx, AD_U32, AD_SHAPE(words), half);
    ad_tensor o = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origins);
    ad_tensor d = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), directions);
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = cascades}, .resolution = N,
        .steps = 400, .cone_angle = cone, .capacity = CAPACITY_HERE};
    render_samples all, some;
    render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &all);
    ad_read(ctx, all.t, whole, sizeof whole), ad_read(ctx, all.offsets, offsets, sizeof offsets);
    ad_read(ctx, all.delta, whole_delta, sizeof whole_delta);
    cr_assert(offsets[1] > 3 * MOST, "only %u samples", offsets[1]);
    options.most = MOST, options.capacity = RAYS * MOST;
    for (int piece = 0; piece < 100; piece++) {
        options.from = ad_from(ctx, AD_F32, AD_SHAPE(RAYS), from);
        render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &some);
        ad_read(ctx, some.t, t, sizeof t), ad_read(ctx, some.delta, delta, sizeof delta);
        ad_read(ctx, some.offsets, at, sizeof at);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int ray = 0; ray < RAYS; ray++) {
            uint32_t left = offsets[ray + 1] - offsets[ray] - done[ray];
            cr_assert(at[ray + 1] - at[ray] == (left < MOST ? left : MOST), "ray %d, piece %d: %u "
                      "of %u samples", ray, piece, at[ray + 1] - at[ray], left);
            for (uint32_t k = at[ray]; k < at[ray + 1]; k++, done[ray]++) {
                uint32_t same = offsets[ray] + done[ray];
                cr_expect(t[k] == whole[same] && delta[k] == whole_delta[same],
                          "ray %d, sample %u: %g, not %g", ray, done[ray], (double)t[k],
                          (double)whole[same]);
                from[ray] = t[k] + 0.5f * delta[k];
            }
        }
    }
    cr_expect(done[0] == offsets[1]);
    free(half);
    ad_close(ctx);
}

Test(march, pieces_make_the_whole) {
    check_numbers(2, 1.0 / 64);
    check_numbers(1, 0);
}

// Empty blocks of the larger cube that reach into the full smaller one: no leap leads past samples.
Test(march, leaps_end_where_a_smaller_cube_begins) {
    for (int n = 8; n <= 32; n += 8) {
        int64_t cells = render_occupancy_cells(2, n), words = render_occupancy_words(2, n);
        uint32_t *bits = calloc((size_t)words, 4), found[2][RAYS + 1];
        memset(bits, 0xff, (size_t)cells / 16); // all of the smaller cube
        for (int run = 0; run < 2; run++) {
            int64_t blocks = cells / (run ? 64 : 128); // all of both cubes; the right ones
            for (int64_t b = 0; b < blocks; b++) bits[cells / 32 + b / 32] |= 1u << b % 32;
            ad_context *ctx = ad_open(&(ad_options){.threads = 1});
            render_march_options options = {
                .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 2}, .resolution = n,
                .steps = 400, .capacity = 4096};
            render_samples samples;
            render_march(ctx, ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origins),
                         ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), directions),
                         ad_from(ctx, AD_U32, AD_SHAPE(words), bits), (ad_tensor){0}, &options,
                         &samples);
            ad_read(ctx, samples.offsets, found[run], sizeof found[run]);
            cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
            ad_close(ctx);
        }
        cr_expect(found[0][1] > 100 && !memcmp(found[0], found[1], sizeof found[0]),
                  "%d cells: %u samples, without leaps %u", n, found[0][1], found[1][1]);
        free(bits);
    }
}

/* ---- pieces that end by the grid's values */

enum { MANY = 300, CAPACITY = MANY * 400 };

static float origin[MANY][3], way[MANY][3], value[2 * CELLS], tau[MANY], next[MANY];
static float t[CAPACITY], delta[CAPACITY], piece_t[CAPACITY], piece_delta[CAPACITY];
static uint32_t offsets[MANY + 1], at[MANY + 1], done[MANY];

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (double)(1 << 24);
}

// What the grid expects of a sample: the value of its cell, of the smallest cube around it whose
// cells are no smaller than half its step, in proportion to the step; negative counts as nothing.
static double expected_depth(const float *o, const float *d, uint32_t k, int cascades,
                             double step) {
    double p[3], far = 0, half = ldexp(0.5, 1 - cascades);
    int cascade = 0;
    for (int axis = 0; axis < 3; axis++) {
        p[axis] = (double)o[axis] + (double)t[k] * (double)d[axis];
        far = fmax(far, fabs(p[axis] - 0.5));
    }
    for (; cascade + 1 < cascades && (far > half || (double)delta[k] > 4 * half / N); cascade++)
        half *= 2;
    int64_t number = cascade;
    for (int axis = 2; axis >= 0; axis--) {
        double cell = (p[axis] - 0.5 + half) * N / (2 * half);
        number = number * N + (cell < 0 ? 0 : cell >= N ? N - 1 : (int)cell);
    }
    return value[number] > 0 ? (double)value[number] * (double)delta[k] / step : 0;
}

static void make_scene(uint64_t state) {
    for (int i = 0; i < MANY; i++) {
        double length = 0;
        for (int axis = 0; axis < 3; axis++) {
            origin[i][axis] = (float)draw(&state, -1, 2);
            way[i][axis] = (float)draw(&state, 0.1, 0.9) - origin[i][axis];
            length += way[i][axis] * way[i][axis];
        }
        for (int axis = 0; axis < 3; axis++) way[i][axis] /= (float)sqrt(length);
        tau[i] = (float)draw(&state, 0, 5);
    }
    for (int i = 0; i < 2 * CELLS; i++) value[i] = (float)exp(draw(&state, -4, 1));
    for (int i = 0; i < 2 * CELLS; i += 5) value[i] = -1;
}

// Each ray's next piece ends behind the sample with which the values exceed their share; `next`
// leads to the rest, and says where there is none.
static void check_values(int cascades, double cone, double share, int most) {
    double step = sqrt(3) / 300 * ldexp(1, 1 - cascades), depth = log(100);
    int64_t words = render_occupancy_words(cascades, N);
    uint32_t *bits = calloc((size_t)words, 4), number = 0;
    for (int64_t i = 0; i < words; i++) bits[i] = i < cascades * CELLS / 32 ? 0xf00ff0ffu : ~0u;
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = cascades}, .resolution = N,
        .steps = 300, .cone_angle = cone, .capacity = CAPACITY, .jitter = true, .draw = &number};
    render_samples some;
    ad_context *ctx = NULL;
    ad_tensor o = {0}, d = {0}, grid = {0};
    for (int threads = 1; threads <= 3; threads += 2) { // the whole by one, the pieces by three
        if (ctx) ad_close(ctx);
        ctx = ad_open(&(ad_options){.threads = threads, .seed = 7});
        o = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), origin);
        d = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), way);
        grid = ad_from(ctx, AD_U32, AD_SHAPE(words), bits);
        if (threads > 1) continue;
        render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &some);
        ad_read(ctx, some.t, t, sizeof t), ad_read(ctx, some.delta, delta, sizeof delta);
        ad_read(ctx, some.offsets, offsets, sizeof offsets);
        ad_read(ctx, some.next, next, sizeof next);
        for (int i = 0; i < MANY; i++) cr_assert(next[i] == 1e9f);
    }
    options.value = ad_from(ctx, AD_F32, AD_SHAPE(cascades * CELLS), value);
    options.tau = ad_from(ctx, AD_F32, AD_SHAPE(MANY), tau);
    options.stop = 0.01, options.share = share, options.most = most;
    memset(done, 0, sizeof done);
    int ended = 0, full = 0, left = 1;
    for (int piece = 0; left; piece++) {
        cr_assert_lt(piece, 500);
        render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &some);
        ad_read(ctx, some.t, piece_t, sizeof t), ad_read(ctx, some.delta, piece_delta, sizeof t);
        ad_read(ctx, some.offsets, at, sizeof at), ad_read(ctx, some.next, next, sizeof next);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        options.from = some.next;
        left = 0;
        for (int ray = 0; ray < MANY; ray++) {
            uint32_t first = offsets[ray] + done[ray], end = offsets[ray + 1], k = first;
            double sum = 0, budget = share * (depth - (double)tau[ray]);
            bool over = false;
            for (; k < end && !over && (!most || k - first < (uint32_t)most); k++) {
                sum += expected_depth(origin[ray], way[ray], k, cascades, step);
                over = sum > budget;
            }
            bool stopped = over || (most && k - first == (uint32_t)most);
            cr_assert_eq(at[ray + 1] - at[ray], k - first, "ray %d, piece %d: %u, not %u", ray,
                         piece, at[ray + 1] - at[ray], k - first);
            cr_assert(!memcmp(piece_t + at[ray], t + first, (k - first) * sizeof *t));
            cr_assert(!memcmp(piece_delta + at[ray], delta + first, (k - first) * sizeof *t));
            float behind = stopped ? t[k - 1] + 0.5f * delta[k - 1] : 1e9f;
            cr_assert_float_eq(next[ray], behind, 1e-6f * behind, "ray %d", ray);
            ended += over, full += stopped && !over, left += stopped, done[ray] += k - first;
        }
    }
    for (int ray = 0; ray < MANY; ray++)
        cr_assert_eq(done[ray], offsets[ray + 1] - offsets[ray], "ray %d", ray);
    cr_expect(ended > MANY && (!most || full > MANY), "%d by value, %d by number", ended, full);
    free(bits);
    ad_close(ctx);
}

Test(march, pieces_end_where_light_is_expected_to) {
    make_scene(4);
    check_values(1, 0, 1.5, 0);
    check_values(1, 0, 1, 7);
    check_values(2, 1.0 / 64, 1.5, 0);
    check_values(2, 1.0 / 64, 1, 7);
}

static bool march_some(ad_context *ctx, render_march_options *options, render_samples *samples) {
    options->domain = (render_domain){.scale = 1, .high = {1, 1, 1}, .cascades = 1};
    options->resolution = N, options->steps = 100;
    return render_march(ctx, ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origins),
                        ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), directions),
                        ad_full(ctx, AD_U32, AD_SHAPE(render_occupancy_words(1, N)), 4294967295.0),
                        (ad_tensor){0}, options, samples);
}

// A ray that ends with its 50th sample goes on from there, unless it did not fit.
Test(march, rays_that_do_not_fit_lead_nowhere) {
    for (int64_t capacity = 60; capacity <= 100; capacity += 40) {
        float behind[RAYS];
        ad_context *ctx = ad_open(NULL);
        render_march_options options = {.capacity = capacity, .most = 50};
        render_samples samples;
        march_some(ctx, &options, &samples);
        ad_read(ctx, samples.next, behind, sizeof behind);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        cr_expect(behind[0] < 2 && behind[2] == 1e9f);
        cr_expect((behind[1] == 1e9f) == (capacity == 60), "%g", (double)behind[1]);
        ad_close(ctx);
    }
}

Test(march, values_of_another_kind_are_errors) {
    enum { GOOD, TYPE, SHORT, TAU, SHARE, CASES };
    static const char *const word[] = {"", "values are f32", "values are f32", "tau is f32",
                                       "a share"};
    for (int i = 0; i < CASES; i++) {
        ad_context *ctx = ad_open(NULL);
        render_march_options options = {
            .capacity = 200, .stop = 0.01, .share = i == SHARE ? 0 : 1,
            .value = ad_full(ctx, i == TYPE ? AD_U32 : AD_F32,
                             AD_SHAPE(i == SHORT ? CELLS - 1 : CELLS), 0),
            .tau = ad_full(ctx, AD_F32, AD_SHAPE(i == TAU ? RAYS - 1 : RAYS), 0)};
        render_samples samples;
        bool good = march_some(ctx, &options, &samples);
        cr_expect(good == (i == GOOD) && ad_failed(ctx) == (i != GOOD), "case %d", i);
        cr_expect(i == GOOD || strstr(ad_error_text(ctx), word[i]), "case %d: %s", i,
                  ad_error_text(ctx));
        ad_close(ctx);
    }
}
