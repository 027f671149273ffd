/* The occupancy grid against its plainest form: one cell after the other, one bit after the other.
 *
 * Sizes whose rows of bits are whole words, and whose rows are only whole bytes; several cascades;
 * grids whose share of the mean lies above the threshold and below; answers that repeat, that are
 * no numbers and that are for no cell. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWERS = 3001, DRAWS = 5000 };

static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

// What an update does, as its formulas have it.
static void plain_update(int n, int cascades, float step, bool fade, const uint32_t *cell,
                         const float *density, float *value, uint32_t *bits) {
    int64_t cells = render_occupancy_cells(cascades, n), words = cells / 32, m = n / 4;
    double sum = 0;
    for (int64_t i = 0; i < cells; i++)
        if (fade && value[i] > 0) value[i] *= 0.95f;
    for (int i = 0; i < ANSWERS; i++) {
        if (cell[i] >= cells || value[cell[i]] < 0) continue;
        float alpha = density[i] * step;
        if (!(alpha < 1e10f)) alpha = 1e10f;
        if (alpha > value[cell[i]]) value[cell[i]] = alpha;
    }
    for (int64_t i = 0; i < cells; i++) sum += value[i] > 0 ? value[i] : 0;
    double share = 0.3 * sum / (double)cells, threshold = share < 0.01 ? share : 0.01f;
    memset(bits, 0, (size_t)render_occupancy_words(cascades, n) * 4);
    for (int64_t i = 0; i < cells; i++) {
        if (!(value[i] > threshold)) continue;
        int64_t x = i % n / 4, y = i / n % n / 4, z = i / n / n / 4, block = (z * m + y) * m + x;
        bits[i / 32] |= 1u << i % 32;
        bits[words + block / 32] |= 1u << block % 32;
    }
}

static void check_update(int n, int cascades, float scale, bool fade, int threads) {
    int64_t cells = render_occupancy_cells(cascades, n);
    int64_t words = render_occupancy_words(cascades, n);
    float *value = malloc((size_t)cells * 8), *found = value + cells, density[ANSWERS];
    uint32_t *bits = malloc((size_t)words * 8), *got = bits + words, cell[ANSWERS];
    uint64_t state = (uint64_t)(n + cascades);
    for (int64_t i = 0; i < cells; i++) { // a few occupied regions, the rest thin, some ruled out
        bool full = i / 50 % 40 == 0;
        value[i] = draw(&state) % 10 == 0 ? -1
                 : (float)(draw(&state) >> 8) * 0x1p-24f * scale * (full ? 1 : 0.001f);
    }
    for (int i = 0; i < ANSWERS; i++) {
        cell[i] = draw(&state) % (uint32_t)(cells / 4 + 100); // often the same
        density[i] = (float)(draw(&state) >> 8) * 0x1p-24f * scale;
    }
    cell[7] = (uint32_t)cells, cell[8] = UINT32_MAX, density[9] = NAN, density[10] = INFINITY;
    density[11] = -1;
    if (scale < 0.02f) density[9] = density[10] = 0; // or the mean is no longer small
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    ad_tensor v = ad_state(ctx, "value", ad_from(ctx, AD_F32, AD_SHAPE(cells), value));
    ad_tensor b = ad_state(ctx, "bits", ad_full(ctx, AD_U32, AD_SHAPE(words), 4294967295.0));
    render_occupancy_update(ctx, v, b, ad_from(ctx, AD_U32, AD_SHAPE(ANSWERS), cell),
                            ad_from(ctx, AD_F32, AD_SHAPE(ANSWERS), density), cascades, n, 0.5,
                            fade);
    cr_assert(ad_read(ctx, v, found, (size_t)cells * 4) && ad_read(ctx, b, got, (size_t)words * 4),
              "%s", ad_error_text(ctx));
    plain_update(n, cascades, 0.5f, fade, cell, density, value, bits);
    cr_expect(!memcmp(value, found, (size_t)cells * 4), "values of %d cells, %d cascades", n,
              cascades);
    for (int64_t w = 0; w < words; w++)
        cr_expect(bits[w] == got[w], "%d cells, %d cascades, word %lld of %lld: %08x, expected "
                  "%08x", n, cascades, (long long)w, (long long)words, got[w], bits[w]);
    ad_close(ctx);
    free(value), free(bits);
}

Test(occupancy, updates_as_its_plainest_form) {
    const int sizes[][2] = {{8, 1}, {32, 1}, {40, 2}, {64, 1}, {24, 3}};
    for (int i = 0; i < 5; i++)
        for (int threads = 1; threads <= 3; threads += 2)
            for (int fade = 0; fade < 2; fade++) {
                check_update(sizes[i][0], sizes[i][1], 4, fade, threads);
                check_update(sizes[i][0], sizes[i][1], 0.01f, fade, threads);
            }
}

// With so many occupied cells, scattered, every one is drawn and no other; points lie inside.
static void check_draws(int n, int cascades, int occupied) {
    int64_t cells = render_occupancy_cells(cascades, n);
    int64_t words = render_occupancy_words(cascades, n);
    uint32_t *bits = calloc((size_t)words, 4), *drawn = calloc((size_t)cells, 4), cell[DRAWS];
    float point[DRAWS][3];
    uint64_t state = (uint64_t)occupied;
    for (int left = occupied; left;) {
        uint32_t i = draw(&state) % (uint32_t)cells;
        if (left > occupied / 2) i = i % 300 + 70; // half of them in one place
        if (bits[i / 32] >> i % 32 & 1) continue;
        bits[i / 32] |= 1u << i % 32, left--;
    }
    ad_context *ctx = ad_open(&(ad_options){.seed = 3});
    ad_tensor c, p;
    render_occupancy_draw(ctx, ad_from(ctx, AD_U32, AD_SHAPE(words), bits), cascades, n, -1, 0,
                          DRAWS, &c, &p);
    cr_assert(ad_read(ctx, c, cell, sizeof cell) && ad_read(ctx, p, point, sizeof point), "%s",
              ad_error_text(ctx));
    for (int i = 0; i < DRAWS; i++) {
        cr_assert(cell[i] < cells && bits[cell[i] / 32] >> cell[i] % 32 & 1,
                  "%d occupied: cell %u is not", occupied, cell[i]);
        drawn[cell[i]]++;
        double side = ldexp(1, (int)(cell[i] / (uint32_t)(n * n * n)) + 1 - cascades);
        uint32_t rest = cell[i];
        for (int axis = 0; axis < 3; axis++, rest /= (uint32_t)n) {
            double at = (point[i][axis] - 0.5 + side / 2) / side * n - rest % (uint32_t)n;
            cr_expect(at > -1e-4 && at < 1 + 1e-4, "cell %u, axis %d: %g", cell[i], axis, at);
        }
    }
    int seen = 0;
    for (int64_t i = 0; i < cells; i++) seen += drawn[i] > 0;
    cr_expect(seen == occupied, "%d of %d occupied cells were drawn", seen, occupied);
    ad_close(ctx);
    free(bits), free(drawn);
}

Test(occupancy, draws_every_occupied_cell) {
    const int occupied[] = {1, 2, 31, 32, 33, 64, 65, 257};
    for (int i = 0; i < 8; i++) check_draws(32, 1, occupied[i]), check_draws(24, 2, occupied[i]);
}
