/* Marching and the occupancy grid, each alone: where samples lie, what is skipped, where a ray
 * ends, which cells are asked and what their answers change. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, CELLS = N * N * N, STEPS = 100, CAPACITY = 1024, RAYS = 3 };

static const float origins[RAYS][3] = {{-1, 0.53f, 0.47f}, {0.28f, 2, 0.66f}, {-1, 3, 0.5f}};
static const float directions[RAYS][3] = {{1, 0, 0}, {0, -1, 0}, {1, 0, 0}}; // the last one misses

typedef struct marched {
    float t[CAPACITY], delta[CAPACITY];
    uint32_t offsets[RAYS + 1], count, rays;
} marched;

// cell (x, y, z) is occupied where x is in [from, to)
static void fill_bits(uint32_t *bits, int from, int to) {
    ad_context *ctx = ad_open(NULL);
    int64_t words = render_occupancy_words(1, N);
    float *value = calloc(CELLS, sizeof *value);
    for (int i = 0; i < CELLS; i++) value[i] = i % N >= from && i % N < to ? 1 : 0;
    ad_tensor state = ad_state(ctx, "value", ad_from(ctx, AD_F32, AD_SHAPE(CELLS), value));
    ad_tensor grid = ad_state(ctx, "bits", ad_full(ctx, AD_U32, AD_SHAPE(words), 0));
    ad_tensor none = ad_full(ctx, AD_U32, AD_SHAPE(0), 0);
    render_occupancy_update(ctx, state, grid, none, ad_zeros(ctx, 0), 1, N, 0.01, false);
    cr_assert(ad_read(ctx, grid, bits, (size_t)words * 4), "%s", ad_error_text(ctx));
    free(value);
    ad_close(ctx);
}

static void march(const uint32_t *bits, int64_t capacity, bool jitter, marched *m) {
    ad_context *ctx = ad_open(&(ad_options){.seed = 2, .threads = 2});
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N, .steps = STEPS,
        .capacity = capacity, .jitter = jitter};
    render_samples at;
    render_march(ctx, ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origins),
                 ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), directions),
                 ad_from(ctx, AD_U32, AD_SHAPE(render_occupancy_words(1, N)), bits),
                 (ad_tensor){0}, &options, &at);
    ad_read(ctx, at.t, m->t, (size_t)capacity * 4);
    ad_read(ctx, at.delta, m->delta, (size_t)capacity * 4);
    ad_read(ctx, at.offsets, m->offsets, sizeof m->offsets);
    ad_read(ctx, at.count, &m->count, 4), ad_read(ctx, at.rays, &m->rays, 4);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

static uint32_t bits[CELLS / 32 + 8];
static marched m;

Test(march, full_rays_are_sampled_evenly) {
    double step = sqrt(3) / STEPS;
    fill_bits(bits, 0, N);
    for (int jitter = 0; jitter < 2; jitter++) {
        march(bits, CAPACITY, jitter, &m);
        cr_expect(m.rays == RAYS && m.offsets[2] == m.count && m.offsets[3] == m.count);
        for (int ray = 0; ray < 2; ray++) {
            int first = (int)m.offsets[ray], end = (int)m.offsets[ray + 1];
            cr_expect(abs(end - first - (int)(1 / step)) <= 1, "%d samples", end - first);
            for (int k = first; k < end; k++) {
                cr_expect(m.t[k] >= 1 - 1e-5f && m.t[k] < 2 && fabs(m.delta[k] - step) < 1e-6);
                if (k > first) cr_expect(fabs(m.t[k] - m.t[k - 1] - step) < 1e-5);
            }
        }
        for (uint32_t k = m.count; k < CAPACITY; k++) cr_expect(m.t[k] == 0 && m.delta[k] == 0);
    }
}

// What lies in empty cells is left out, and nothing else is.
Test(march, empty_cells_are_skipped) {
    static marched full;
    fill_bits(bits, 0, N);
    march(bits, CAPACITY, false, &full);
    fill_bits(bits, 6, 9);
    march(bits, CAPACITY, false, &m);
    uint32_t kept = 0;
    for (uint32_t k = 0; k < full.offsets[1]; k++) { // along x: cells 6, 7 and 8
        int cell = (int)floorf((full.t[k] - 1) * N);
        if (cell < 6 || cell > 8) continue;
        cr_assert(kept < m.offsets[1], "a sample in cell %d is missing", cell);
        cr_expect(fabsf(m.t[kept] - full.t[k]) < 1e-5f, "%g, not %g", (double)m.t[kept],
                  (double)full.t[k]);
        kept++;
    }
    cr_expect(kept == m.offsets[1] && kept > 5, "%u of %u samples", m.offsets[1], kept);
    cr_expect(m.offsets[2] == m.offsets[1], "the ray along y sees column 4 only, which is empty");
}

Test(march, rays_that_do_not_fit_have_no_samples) {
    fill_bits(bits, 0, N);
    march(bits, 100, false, &m);
    cr_expect(m.rays == 1 && m.count == m.offsets[1] && m.count > 50);
    cr_expect(m.offsets[2] == m.count && m.offsets[3] == m.count);
}

Test(occupancy, asked_cells_hold_their_points) {
    enum { UNIFORM = 3000, OCCUPIED = 1000 };
    static uint32_t cells[UNIFORM + OCCUPIED];
    static float points[UNIFORM + OCCUPIED][3];
    int64_t words = render_occupancy_words(2, N);
    ad_context *ctx = ad_open(&(ad_options){.seed = 4, .threads = 2});
    uint32_t *half = calloc((size_t)words, 4); // half of all cells: those with even numbers
    for (int64_t i = 0; i < words; i++) half[i] = 0x55555555u;
    ad_tensor c, p, grid = ad_from(ctx, AD_U32, AD_SHAPE(words), half);
    render_occupancy_draw(ctx, grid, 2, N, -1, UNIFORM, OCCUPIED, &c, &p);
    ad_read(ctx, c, cells, sizeof cells), ad_read(ctx, p, points, sizeof points);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    int inner = 0, odd = 0;
    double sum[3] = {0}, squares[3] = {0}; // of the places within the cells
    for (int i = 0; i < UNIFORM + OCCUPIED; i++) {
        int cascade = (int)cells[i] / CELLS, at = (int)cells[i] % CELLS;
        int index[3] = {at % N, at / N % N, at / N / N};
        double side = cascade ? 1 : 0.5; // the inner cube is half as wide
        for (int axis = 0; axis < 3; axis++) {
            double low = 0.5 - side / 2 + index[axis] * side / N;
            cr_expect(points[i][axis] >= low - 1e-6 && points[i][axis] <= low + side / N + 1e-6);
            double within = (points[i][axis] - low) * N / side;
            sum[axis] += within, squares[axis] += within * within;
        }
        if (i < UNIFORM) inner += !cascade;
        else odd += cells[i] & 1;
    }
    for (int axis = 0; axis < 3; axis++) { // uniform: moments 1/2 and 1/3, within 5 deviations
        const int all = UNIFORM + OCCUPIED;
        double mean = sum[axis] / all, square = squares[axis] / all;
        cr_expect(fabs(mean - 0.5) < 0.023 && fabs(square - 1.0 / 3) < 0.024, "axis %d: %g, %g",
                  axis, mean, square);
    }
    cr_expect(abs(inner - UNIFORM / 2) < 150, "%d of %d in the inner cube", inner, UNIFORM);
    cr_expect(odd == 0, "%d of %d asked cells are not occupied", odd, OCCUPIED);
    // Of three occupied cells each is asked about a third of the times; of none, any cell.
    static const uint32_t three[] = {5, 9, 2 * CELLS - 1};
    uint32_t seen[4] = {0};
    memset(half, 0, (size_t)words * 4);
    for (int i = 0; i < 3; i++) half[three[i] / 32] |= 1u << three[i] % 32;
    render_occupancy_draw(ctx, ad_from(ctx, AD_U32, AD_SHAPE(words), half), 2, N, -1, 0, OCCUPIED,
                          &c, &p);
    ad_read(ctx, c, cells, OCCUPIED * 4);
    for (int i = 0; i < OCCUPIED; i++)
        seen[cells[i] == three[0] ? 0 : cells[i] == three[1] ? 1 : cells[i] == three[2] ? 2 : 3]++;
    cr_expect(!seen[3] && seen[0] > 270 && seen[1] > 270 && seen[2] > 270, "%u, %u, %u, else %u",
              seen[0], seen[1], seen[2], seen[3]);
    memset(half, 0, (size_t)words * 4);
    render_occupancy_draw(ctx, ad_from(ctx, AD_U32, AD_SHAPE(words), half), 2, N, -1, 0, OCCUPIED,
                          &c, &p);
    ad_read(ctx, c, cells, OCCUPIED * 4);
    cr_expect(cells[0] != cells[1] && cells[1] != cells[2]);
    // In order from 100 on.
    render_occupancy_draw(ctx, grid, 2, N, 100, UNIFORM, 0, &c, &p);
    ad_read(ctx, c, cells, UNIFORM * 4);
    for (uint32_t i = 0; i < UNIFORM; i++) cr_expect(cells[i] == 100 + i);
    free(half);
    ad_close(ctx);
}

Test(occupancy, answers_change_the_grid) {
    static const uint32_t asked[] = {7, 70, 700};
    static const float answers[] = {50, 0, 3};
    static float value[CELLS];
    ad_context *ctx = ad_open(NULL);
    int64_t words = render_occupancy_words(1, N);
    ad_tensor v = ad_state(ctx, "value", ad_zeros(ctx, CELLS));
    ad_tensor b = ad_state(ctx, "bits", ad_full(ctx, AD_U32, AD_SHAPE(words), 4294967295.0));
    for (int round = 0; round < 2; round++) {
        render_occupancy_update(ctx, v, b, ad_from(ctx, AD_U32, AD_SHAPE(3), asked),
                                ad_from(ctx, AD_F32, AD_SHAPE(3), answers), 1, N, 0.01, true);
        ad_read(ctx, v, value, sizeof value);
        ad_read(ctx, b, bits, (size_t)words * 4);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (uint32_t i = 0; i < CELLS; i++) {
            float density = i == 7 ? 50 : i == 700 ? 3 : 0;
            cr_expect(fabsf(value[i] - density * 0.01f) < 1e-6f, "cell %u: %g", i,
                      (double)value[i]);
            cr_expect((bits[i / 32] >> i % 32 & 1) == (density > 0), "the bit of cell %u", i);
        }
    }
    // Blocks of 4 x 4 x 4: cell 7 lies in block (1, 0, 0), cell 700 (12, 11, 2) in (3, 2, 0).
    const uint32_t *blocks = bits + CELLS / 32;
    cr_expect(blocks[0] == (1u << 1 | 1u << (2 * 4 + 3)) && blocks[1] == 0, "%x", blocks[0]);
    ad_close(ctx);
}

// Two cascades, and both sides of the threshold: the smaller of 0.01 and the mean. What nobody asks
// fades, what no camera sees (negative) stays as it is, and a block is any of its 64 cells.
Test(occupancy, values_fade_below_a_threshold) {
    enum { ALL = 2 * CELLS, SPARSE = 99, UNSEEN = ALL - 7 };
    static float value[ALL], after[ALL];
    static uint32_t words[ALL / 32 + ALL / 64 / 32 + 8];
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    int64_t count = render_occupancy_words(2, N);
    ad_tensor none = ad_full(ctx, AD_U32, AD_SHAPE(0), 0);
    cr_assert(count <= (int64_t)(sizeof words / 4));
    for (int dense = 0; dense < 2; dense++) {
        for (int i = 0; i < ALL; i++)
            value[i] = dense ? (i % 3 ? 1 : i % 2 ? 0.02f : 0.005f)
                     : i % SPARSE ? 0 : i % 2 ? 1e-5f : 0.5f; // mean: 0.0025
        value[UNSEEN] = -1;
        ad_tensor v = ad_state(ctx, "value", ad_from(ctx, AD_F32, AD_SHAPE(ALL), value));
        ad_tensor b = ad_state(ctx, "bits", ad_full(ctx, AD_U32, AD_SHAPE(count), 0));
        for (int fade = 0; fade < 2; fade++) {
            render_occupancy_update(ctx, v, b, none, ad_zeros(ctx, 0), 2, N, 0.01, fade);
            ad_read(ctx, v, after, sizeof after), ad_read(ctx, b, words, (size_t)count * 4);
            cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
            static bool block[ALL / 64];
            memset(block, 0, sizeof block);
            for (int i = 0; i < ALL; i++) {
                float left = i == UNSEEN ? -1 : fade ? 0.95f * value[i] : value[i];
                bool occupied = dense ? left > 0.01f : left > 0.1f;
                cr_assert(fabsf(after[i] - left) <= 1e-6f, "cell %d: %g, not %g", i,
                          (double)after[i], (double)left);
                cr_assert((words[i / 32] >> i % 32 & 1) == occupied, "the bit of cell %d", i);
                int x = i % N / 4, y = i / N % N / 4, z = i / N / N / 4; // z: cascades too
                block[(z * (N / 4) + y) * (N / 4) + x] |= occupied;
            }
            for (int i = 0; i < ALL / 64; i++)
                cr_assert((words[ALL / 32 + i / 32] >> i % 32 & 1) == block[i], "block %d", i);
        }
    }
    ad_close(ctx);
}

// With jitter each ray begins anywhere within its first step, and elsewhere in the next step.
Test(march, jitter_is_uniform_and_new_in_each_step) {
    enum { MANY = 2000 };
    static float from[MANY][3], way[MANY][3], t[MANY * 4];
    static uint32_t offsets[MANY + 1];
    double step = sqrt(3) / STEPS, first[2][MANY];
    ad_context *ctx = ad_open(&(ad_options){.seed = 2, .threads = 2});
    for (int i = 0; i < MANY; i++) {
        from[i][0] = -1, from[i][1] = from[i][2] = 0.5f;
        way[i][0] = 1;
    }
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N, .steps = STEPS,
        .capacity = MANY * 4, .most = 4, .jitter = true};
    ad_tensor origin = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), from), grid;
    ad_tensor direction = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), way);
    grid = ad_full(ctx, AD_U32, AD_SHAPE(render_occupancy_words(1, N)), 4294967295.0);
    for (int run = 0; run < 2; run++) {
        double sum = 0, squares = 0;
        render_samples at;
        render_march(ctx, origin, direction, grid, (ad_tensor){0}, &options, &at);
        ad_read(ctx, at.t, t, sizeof t), ad_read(ctx, at.offsets, offsets, sizeof offsets);
        ad_step_advance(ctx);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int i = 0; i < MANY; i++) {
            double within = first[run][i] = (t[offsets[i]] - 1) / step;
            cr_assert(within >= -1e-3 && within < 1.001, "ray %d begins at %g", i, within);
            sum += within, squares += within * within;
        }
        cr_expect(fabs(sum / MANY - 0.5) < 0.033 && fabs(squares / MANY - 1.0 / 3) < 0.034,
                  "moments %g and %g", sum / MANY, squares / MANY);
    }
    int same = 0;
    for (int i = 0; i < MANY; i++) same += fabs(first[0][i] - first[1][i]) < 1e-3;
    cr_expect(same < 50, "%d rays begin where they did before", same);
    ad_close(ctx);
}

// Steps as the formulas have them: linear up to t = step / cone, in proportion to t behind it.
Test(march, steps_grow_with_distance) {
    static float t[CAPACITY], delta[CAPACITY];
    uint32_t count;
    double cone = 1.0 / 64, step = sqrt(3) / 400;
    ad_context *ctx = ad_open(NULL);
    int64_t words = render_occupancy_words(1, N);
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N, .steps = 400,
        .cone_angle = cone, .capacity = CAPACITY};
    render_samples at;
    render_march(ctx, ad_from(ctx, AD_F32, AD_SHAPE(1, 3), ((float[]){0.01f, 0.5f, 0.5f})),
                 ad_from(ctx, AD_F32, AD_SHAPE(1, 3), ((float[]){1, 0, 0})),
                 ad_full(ctx, AD_U32, AD_SHAPE(words), 4294967295.0), (ad_tensor){0}, &options,
                 &at);
    ad_read(ctx, at.t, t, sizeof t), ad_read(ctx, at.delta, delta, sizeof delta);
    ad_read(ctx, at.count, &count, sizeof count);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_assert(count > 80 && count < 400, "%u samples", count);
    cr_expect(fabs(t[0] - 0.5 * step) < 1e-6, "the first at %g", (double)t[0]);
    for (uint32_t k = 0; k + 1 < count; k++) {
        double next = t[k + 1] <= step / cone ? t[k] + step : t[k] * (1 + cone);
        double longest = sqrt(3) / N; // a cell's diagonal
        // Where the stretches meet, a step is between the two.
        bool meeting = t[k] < step / cone && t[k + 1] > step / cone;
        double slack = meeting ? cone * step : 2e-6;
        cr_expect(fabs(t[k + 1] - next) < slack, "sample %u: %g, not %g", k + 1, (double)t[k + 1],
                  next);
        cr_expect(fabs(delta[k] - fmin(fmax(t[k] * cone, step), longest)) < 1e-6);
    }
    ad_close(ctx);
}

/* ---- what is no ray, and what is no grid */

// Rays with a number that is not finite have no samples, those beside them have theirs; a ray that
// leads nowhere, or far with every step, ends all the same.
static void check_odd_rays(int cascades, double cone, uint32_t word) {
    enum { ODD = 12, ROOM = ODD * 2048 };
    static float t[ROOM];
    const float nan = NAN, inf = INFINITY, far = 3e38f;
    const float from[ODD][3] = {{-1, 0.53f, 0.47f}, {nan, 0.5f, 0.5f}, {-1, inf, 0.5f},
                                {-1, 0.5f, -inf}, {-1, 0.53f, 0.47f}, {-1, 0.53f, 0.47f},
                                {-1, 0.53f, 0.47f}, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f},
                                {far, -far, far}, {0.3f, 0.5f, 0.5f}, {-1, 0.53f, 0.47f}};
    const float way[ODD][3] = {{1, 0, 0}, {1, 0, 0}, {1, 0, 0}, {1, 0, 0}, {nan, 0, 0},
                               {1, inf, 0}, {1, 0, -inf}, {0, 0, 0}, {far, far, -far},
                               {-far, far, -far}, {1e-30f, 0, 1e-12f}, {1, 0, 0}};
    uint32_t offsets[ODD + 1];
    int64_t words = render_occupancy_words(cascades, N);
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    render_march_options options = {
        .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = cascades}, .resolution = N,
        .steps = STEPS, .cone_angle = cone, .capacity = ROOM};
    render_samples at;
    ad_tensor o = ad_from(ctx, AD_F32, AD_SHAPE(ODD, 3), from);
    ad_tensor d = ad_from(ctx, AD_F32, AD_SHAPE(ODD, 3), way);
    ad_tensor grid = ad_full(ctx, AD_U32, AD_SHAPE(words), word);
    render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &at);
    ad_read(ctx, at.offsets, offsets, sizeof offsets), ad_read(ctx, at.t, t, sizeof t);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    uint32_t first = offsets[1], last = offsets[ODD] - offsets[ODD - 1];
    cr_expect(first == last && (word ? first > 10 : first == 0), "%u and %u samples", first, last);
    for (int ray = 1; ray < 7; ray++)
        cr_expect(offsets[ray + 1] == offsets[ray], "ray %d has samples", ray);
    for (uint32_t k = 0; k < offsets[ODD]; k++) cr_assert(isfinite(t[k]), "sample %u", k);
    // Nor is there anything in front of a camera whose near plane is nowhere.
    options.near_distance = nan;
    render_march(ctx, o, d, grid, (ad_tensor){0}, &options, &at);
    ad_read(ctx, at.offsets, offsets, sizeof offsets);
    cr_expect(!ad_failed(ctx) && offsets[ODD] == 0, "%u samples", offsets[ODD]);
    ad_close(ctx);
}

Test(march, what_is_no_ray_has_no_samples) {
    for (int full = 0; full < 2; full++) {
        check_odd_rays(1, 0, full ? ~0u : 0);
        check_odd_rays(2, 1.0 / 64, full ? ~0u : 0);
    }
}

// What would be read as other bits than it is, or past its end, is an error.
Test(march, operands_of_another_kind_are_errors) {
    enum { GOOD, WIDE, GRID, SHORT, LIVE, NO_LIVE, MANY_LIVE, CASES };
    static const char *const word[] = {"", "f32 (rays, 3)", "u32, not f32", "130 u32, not u32 (129",
                                       "one u32", "one u32", "one u32"};
    int64_t words = render_occupancy_words(1, N);
    for (int i = 0; i < CASES; i++) {
        ad_context *ctx = ad_open(NULL);
        render_march_options options = {
            .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N,
            .steps = STEPS, .capacity = CAPACITY};
        render_samples at;
        ad_tensor o = ad_zeros(ctx, RAYS, 3), d = ad_cast(ctx, o, i == WIDE ? AD_F64 : AD_F32);
        ad_tensor grid = ad_full(ctx, i == GRID ? AD_F32 : AD_U32,
                                 AD_SHAPE(i == SHORT ? words - 1 : words), 1);
        ad_tensor live = ad_full(ctx, i == LIVE ? AD_F32 : AD_U32,
                                 AD_SHAPE(i == NO_LIVE ? 0 : i == MANY_LIVE ? 2 : 1), RAYS);
        bool good = render_march(ctx, o, d, grid, live, &options, &at);
        cr_expect(good == (i == GOOD) && ad_failed(ctx) == (i != GOOD), "case %d", i);
        cr_expect(i == GOOD || strstr(ad_error_text(ctx), word[i]), "case %d: %s", i,
                  ad_error_text(ctx));
        ad_close(ctx);
    }
}

Test(occupancy, operands_of_another_kind_are_errors) {
    enum { GOOD, GRID, SHORT, SIZE, NEGATIVE, VALUE, CELLS_WIDE, DENSITY, UPDATE_GRID, TABLE,
           UPDATE_SIZE, CASES };
    int64_t words = render_occupancy_words(1, N);
    for (int i = 0; i < CASES; i++) {
        ad_context *ctx = ad_open(NULL);
        bool update = i >= VALUE;
        ad_tensor c, p, grid = ad_full(ctx, i == GRID || i == UPDATE_GRID ? AD_F32 : AD_U32,
                                       AD_SHAPE(i == SHORT ? words - 1 : words), 0);
        if (!update || i == VALUE) {
            bool good = render_occupancy_draw(ctx, grid, i == SIZE ? 0 : 1, N, -1,
                                              i == NEGATIVE ? -1 : 3, 2, &c, &p);
            cr_expect(good == (i == GOOD || i == VALUE), "case %d", i);
        }
        ad_tensor value = ad_full(ctx, i == VALUE ? AD_U32 : AD_F32, AD_SHAPE(CELLS), 0);
        ad_shape shape = i == TABLE ? AD_SHAPE(3, 1) : AD_SHAPE(3);
        ad_tensor cells = ad_full(ctx, i == CELLS_WIDE ? AD_I32 : AD_U32, shape, 0);
        ad_tensor sigma = ad_full(ctx, i == DENSITY ? AD_F64 : AD_F32, shape, 0);
        if (update || i == GOOD)
            render_occupancy_update(ctx, ad_state(ctx, "value", value), ad_state(ctx, "bits", grid),
                                    cells, sigma, 1, i == UPDATE_SIZE ? 12 : N, 0.01, false);
        const char *text = ad_error_text(ctx);
        cr_expect(ad_failed(ctx) == (i != GOOD), "case %d", i);
        cr_expect(i == GOOD || strstr(text, update ? "occupancy_update" : "occupancy_cells"),
                  "case %d: %s", i, text);
        ad_close(ctx);
    }
}
