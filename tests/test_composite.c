/* Compositing many rays at once against its plainest form, one ray after the other in f64.
 *
 * Rays of no sample, of few, and of more than the kernels look at together; samples of no ray in
 * front and behind; rays that end early. Also offsets that are no offsets, whose rays share rows:
 * each ray is still what its rows say, whatever the number of threads. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 9000, RAYS = 700, COLUMNS = 3 };

typedef struct medium {
    float sigma[N], colour[N][COLUMNS], t[N], delta[N], dpixel[RAYS][COLUMNS];
    uint32_t offsets[RAYS + 1];
} medium;

typedef struct answer {
    float pixel[RAYS][COLUMNS], opacity[RAYS], depth[RAYS], weight[N], dsigma[N];
    float dcolour[N][COLUMNS];
} answer;

static double draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) / (1 << 24);
}

static void plain_ray(const medium *m, int ray, double stop, answer *a) {
    int64_t first = m->offsets[ray], end = m->offsets[ray + 1], last = first;
    double through[N + 1], mass = 0, far = 0, sum[COLUMNS] = {0}, behind = 0;
    if (end > N) end = N;
    for (through[0] = 1; last < end && through[last - first] >= stop; last++) {
        double kept = exp(-(double)(m->sigma[last] * m->delta[last]));
        double w = through[last - first] * (1 - kept);
        through[last - first + 1] = through[last - first] * kept;
        for (int c = 0; c < COLUMNS; c++) sum[c] += w * m->colour[last][c];
        a->weight[last] = (float)w, mass += w, far += w * m->t[last];
    }
    for (int64_t k = last; k < end; k++) {
        a->weight[k] = a->dsigma[k] = 0;
        for (int c = 0; c < COLUMNS; c++) a->dcolour[k][c] = 0;
    }
    for (int c = 0; c < COLUMNS; c++) a->pixel[ray][c] = (float)sum[c];
    a->opacity[ray] = (float)mass, a->depth[ray] = (float)far;
    for (int64_t k = last; k-- > first;) {
        double g = 0, w = a->weight[k];
        for (int c = 0; c < COLUMNS; c++) {
            g += m->dpixel[ray][c] * m->colour[k][c];
            a->dcolour[k][c] = (float)(w * m->dpixel[ray][c]);
        }
        a->dsigma[k] = (float)(m->delta[k] * (through[k - first + 1] * g - behind));
        behind += w * g;
    }
}

static void solve(const medium *m, double stop, int threads, answer *a) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    ad_tensor sigma = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(N), m->sigma));
    ad_tensor colour = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(N, COLUMNS), m->colour));
    ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(N), m->t), dx[2];
    ad_tensor delta = ad_from(ctx, AD_F32, AD_SHAPE(N), m->delta);
    ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(RAYS + 1), m->offsets);
    ad_tensor dpixel = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, COLUMNS), m->dpixel);
    // What results are written over is no number.
    ad_tensor used[12];
    for (int i = 0; i < 12; i++) used[i] = ad_zeros(ctx, i < 6 ? N : N * COLUMNS);
    for (int i = 0; i < 12; i++) ad_free(ctx, used[i]);
    render_pixels p;
    render_composite(ctx, sigma, colour, t, delta, offsets, stop, &p);
    cr_assert(ad_read(ctx, p.weight, a->weight, sizeof a->weight), "%s", ad_error_text(ctx));
    ad_read(ctx, p.colour, a->pixel, sizeof a->pixel);
    ad_read(ctx, p.opacity, a->opacity, sizeof a->opacity);
    ad_read(ctx, p.depth, a->depth, sizeof a->depth);
    ad_grad(ctx, p.colour, dpixel, 2, (ad_tensor[]){sigma, colour}, dx, 0);
    ad_read(ctx, dx[0], a->dsigma, sizeof a->dsigma);
    ad_read(ctx, dx[1], a->dcolour, sizeof a->dcolour);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

static void check(const medium *m, double stop) {
    static answer plain, one, three;
    memset(&plain, 0, sizeof plain);
    for (int ray = 0; ray < RAYS; ray++) plain_ray(m, ray, stop, &plain);
    solve(m, stop, 1, &one), solve(m, stop, 3, &three);
    cr_expect(!memcmp(&one, &three, sizeof one), "stop %g: one thread and three differ", stop);
    const float *found = (const float *)&one, *expected = (const float *)&plain;
    int wrong = 0;
    for (size_t i = 0; i < sizeof one / sizeof *found && wrong < 5; i++) {
        bool good = fabs(found[i] - expected[i]) <= 2e-5 * (1 + fabs(expected[i]));
        cr_expect(good, "stop %g: number %zu is %g, expected %g", stop, i, found[i], expected[i]);
        wrong += !good;
    }
}

static void fill(medium *m, double thickness) {
    uint64_t state = 17;
    for (int k = 0; k < N; k++) {
        m->sigma[k] = (float)(thickness * draw(&state)), m->t[k] = (float)draw(&state);
        m->delta[k] = (float)(0.1 + draw(&state));
        for (int c = 0; c < COLUMNS; c++) m->colour[k][c] = (float)draw(&state);
    }
    uint32_t at = 37;
    for (int ray = 0; ray <= RAYS; ray++) {
        m->offsets[ray] = at;
        uint32_t most = ray % 50 == 7 ? 300 : 17; // a few long ones
        at += ray % 3 ? (uint32_t)(most * draw(&state)) : 0;
        if (at > N - 41) at = N - 41;
        for (int c = 0; c < COLUMNS && ray < RAYS; c++)
            m->dpixel[ray][c] = (float)(2 * draw(&state) - 1);
    }
}

Test(composite, many_rays) {
    static medium m;
    fill(&m, 0.02), check(&m, 0), check(&m, 0.7);
    fill(&m, 2), check(&m, 0), check(&m, 1e-4), check(&m, 0.3);
}

Test(composite, rays_that_share_rows) {
    static medium m;
    fill(&m, 0.5);
    for (int ray = 3; ray + 9 < RAYS; ray += 9) m.offsets[ray] = m.offsets[ray + 9];
    check(&m, 0.3);
    m.offsets[0] = N + 5, m.offsets[5] = UINT32_MAX, m.offsets[RAYS] = 300;
    check(&m, 0.3);
}
