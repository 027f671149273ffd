/* Choosing samples: culling against a plain loop, long leaps through empty space against every
 * single step, and features found once used again. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (double)(1 << 24);
}

/* ---- culling */

enum { RAYS = 4000, CANDIDATES = 20 * RAYS }; // so many that threads share them

typedef struct culled {
    float t[CANDIDATES], delta[CANDIDATES];
    float next[RAYS];
    uint32_t offsets[RAYS + 1], count, rays, rows[CANDIDATES];
} culled;

static uint32_t from[RAYS + 1];
static float sigma[CANDIDATES], t[CANDIDATES], delta[CANDIDATES], behind[RAYS];
static culled got;

static void cull(double stop, int64_t capacity, uint32_t given, int threads) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    render_samples candidates = {
        .t = ad_from(ctx, AD_F32, AD_SHAPE(CANDIDATES), t),
        .delta = ad_from(ctx, AD_F32, AD_SHAPE(CANDIDATES), delta),
        .offsets = ad_from(ctx, AD_U32, AD_SHAPE(RAYS + 1), from),
        .rays = ad_scalar(ctx, AD_U32, given),
        .next = ad_from(ctx, AD_F32, AD_SHAPE(RAYS), behind)}, at;
    render_cull_options options = {.stop = stop, .capacity = capacity};
    render_culled culled;
    memset(&got, 0xff, sizeof got);
    render_cull(ctx, ad_from(ctx, AD_F32, AD_SHAPE(CANDIDATES), sigma), &candidates, &options,
                &at, &culled);
    ad_read(ctx, at.t, got.t, (size_t)capacity * 4);
    ad_read(ctx, at.delta, got.delta, (size_t)capacity * 4);
    ad_read(ctx, at.offsets, got.offsets, sizeof got.offsets);
    ad_read(ctx, at.count, &got.count, 4), ad_read(ctx, at.rays, &got.rays, 4);
    ad_read(ctx, at.next, got.next, sizeof got.next);
    ad_read(ctx, culled.rows, got.rows, (size_t)capacity * 4);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(cull, keeps_what_light_reaches) {
    uint64_t state = 5;
    for (int ray = 0; ray < RAYS; ray++) from[ray + 1] = from[ray] + (uint32_t)draw(&state, 0, 20);
    for (int ray = 0; ray < RAYS; ray++) behind[ray] = (float)ray;
    for (int i = 0; i < CANDIDATES; i++) {
        t[i] = (float)i, delta[i] = (float)draw(&state, .1, .2);
        sigma[i] = (float)exp(draw(&state, -4, 4));
    }
    const int64_t capacities[] = {CANDIDATES, 6000, CANDIDATES};
    const uint32_t givens[] = {RAYS, RAYS, 1000};
    for (int run = 0; run < 3; run++) {
        cull(1e-2, capacities[run], givens[run], run + 1);
        uint32_t kept = 0, whole = 0, dark = 0;
        bool full = false;
        for (uint32_t ray = 0; ray < RAYS; ray++) {
            double tau = 0;
            uint32_t front = 0, length = from[ray + 1] - from[ray];
            for (; front < length && exp(-tau) >= 1e-2; front++)
                tau += (double)sigma[from[ray] + front] * (double)delta[from[ray] + front];
            dark += front < length;
            cr_assert_eq(got.offsets[ray], kept, "run %d, ray %u", run, ray);
            full = full || ray >= givens[run] || kept + front > capacities[run];
            bool lit = exp(-tau) >= 1e-2 && !full; // such rays go on
            cr_assert(got.next[ray] == (lit ? behind[ray] : 1e9f), "run %d, ray %u", run, ray);
            for (uint32_t k = 0; k < front && !full; k++, kept++) {
                cr_assert_eq(got.rows[kept], from[ray] + k);
                cr_assert(got.t[kept] == t[from[ray] + k]);
                cr_assert(got.delta[kept] == delta[from[ray] + k]);
            }
            whole += !full;
        }
        cr_expect(got.count == kept && got.rays == whole && got.offsets[RAYS] == kept);
        cr_expect(kept > 100 && dark > 50 && (whole < RAYS) == (run > 0));
        for (int64_t k = kept; k < capacities[run]; k++)
            cr_assert(got.t[k] == 0 && got.delta[k] == 0 && got.rows[k] == 0);
    }
}

/* ---- pieces */

// Offsets that fall, and that lead past the end: what lies inside is joined, nothing else is read.
Test(cull, pieces_with_wrong_offsets_stay_inside) {
    const float number[4] = {1, 2, 3, 4};
    const uint32_t row[4] = {0, 1, 2, 3}, starts[2][3] = {{3, 2, 9}, {0, 2, 2}};
    const uint32_t expected[4] = {4, 5, 2, 3}, expected_starts[3] = {0, 2, 4};
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    ad_tensor joined, x = ad_from(ctx, AD_F32, AD_SHAPE(4), number);
    render_piece piece[2];
    render_samples at;
    for (int i = 0; i < 2; i++)
        piece[i] = (render_piece){
            {.t = x, .delta = x, .offsets = ad_from(ctx, AD_U32, AD_SHAPE(3), starts[i]),
             .rays = ad_scalar(ctx, AD_U32, 2)}, ad_from(ctx, AD_U32, AD_SHAPE(4), row), 4};
    render_join_samples(ctx, 2, piece, 4, &at, &joined);
    uint32_t rows_read[4], offsets[3];
    float t_read[4];
    ad_read(ctx, joined, rows_read, sizeof rows_read), ad_read(ctx, at.t, t_read, sizeof t_read);
    ad_read(ctx, at.offsets, offsets, sizeof offsets);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_expect(!memcmp(rows_read, expected, sizeof expected));
    cr_expect(!memcmp(offsets, expected_starts, sizeof offsets));
    cr_expect(!memcmp(t_read, number, sizeof number));
    piece[1].samples.offsets = ad_zeros(ctx, 3); // f32
    cr_expect(!render_join_samples(ctx, 2, piece, 4, &at, &joined) && ad_failed(ctx));
    ad_close(ctx);
}

// A jittered ray in three pieces has the samples of the same ray in one, wherever it is cut and
// whether light ends in the first piece, in another or in none.
Test(cull, pieces_join_to_the_whole) {
    enum { MANY = 500, N = 16, CAPACITY = 1 << 16, PIECES = 3 };
    static float origin[MANY][3], way[MANY][3], t_of[2][CAPACITY], delta_of[2][CAPACITY];
    static uint32_t offsets[2][MANY + 1], counts[2][2], rows[CAPACITY];
    static float candidate[PIECES][CAPACITY], place[PIECES][CAPACITY][3], joined_at[CAPACITY][3];
    uint64_t state = 8;
    for (int i = 0; i < MANY; i++) {
        double length = 0;
        for (int axis = 0; axis < 3; axis++) {
            origin[i][axis] = (float)draw(&state, -1, 2);
            way[i][axis] = (float)draw(&state, 0, 1) - origin[i][axis];
            length += way[i][axis] * way[i][axis];
        }
        for (int axis = 0; axis < 3; axis++) way[i][axis] /= (float)sqrt(length);
    }
    for (int most = 5; most < 20; most += 7) {
        ad_context *ctx = ad_open(&(ad_options){.threads = 2, .seed = 6});
        ad_tensor o = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), origin);
        ad_tensor d = ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), way);
        ad_tensor full = ad_full(ctx, AD_U32, AD_SHAPE(render_occupancy_words(1, N)),
                                 4294967295.0);
        uint32_t number = 0;
        render_march_options march = {
            .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N,
            .steps = 100, .capacity = CAPACITY, .jitter = true, .draw = &number};
        render_cull_options options = {.stop = 1e-2, .capacity = CAPACITY};
        render_samples at[2];
        render_piece piece[PIECES];
        ad_tensor next = {0}, tau = {0}, joined;
        for (int run = 0; run <= PIECES; run++) { // the pieces, then the whole
            bool whole = run == PIECES;
            render_samples found, kept;
            render_culled culled;
            march.most = run < 2 ? most : 0;
            march.from = whole ? (ad_tensor){0} : next;
            options.tau = whole ? (ad_tensor){0} : tau;
            render_march(ctx, o, d, full, (ad_tensor){0}, &march, &found);
            ad_tensor points = render_points(ctx, o, d, found.t, found.offsets);
            // Fog that is thick where x is large.
            ad_tensor x = ad_slice(ctx, points, 1, 0, 1, 1);
            ad_tensor fog = ad_affine(ctx, ad_reshape(ctx, x, AD_SHAPE(CAPACITY)), 15, 0);
            render_cull(ctx, fog, &found, &options, &kept, &culled);
            next = kept.next, tau = culled.tau;
            if (whole) at[0] = kept;
            else piece[run] = (render_piece){kept, culled.rows, CAPACITY};
            if (whole) continue;
            ad_read(ctx, found.t, candidate[run], sizeof candidate[run]);
            ad_read(ctx, points, place[run], sizeof place[run]);
        }
        render_join_samples(ctx, PIECES, piece, CAPACITY, &at[1], &joined);
        for (int run = 0; run < 2; run++) {
            ad_read(ctx, at[run].t, t_of[run], sizeof t_of[run]);
            ad_read(ctx, at[run].delta, delta_of[run], sizeof delta_of[run]);
            ad_read(ctx, at[run].offsets, offsets[run], sizeof offsets[run]);
            ad_read(ctx, at[run].count, &counts[run][0], 4);
            ad_read(ctx, at[run].rays, &counts[run][1], 4);
        }
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        cr_expect(counts[0][0] == counts[1][0] && counts[0][0] > 10000 && counts[1][1] == MANY);
        cr_expect(!memcmp(offsets[0], offsets[1], sizeof offsets[0]), "pieces of %d", most);
        cr_expect(!memcmp(t_of[0], t_of[1], sizeof t_of[0]), "pieces of %d", most);
        cr_expect(!memcmp(delta_of[0], delta_of[1], sizeof delta_of[0]), "pieces of %d", most);
        // A sample's row leads to the candidate with its t, in the piece that it came from; its
        // point has the same bits.
        uint32_t from_piece[PIECES] = {0};
        ad_read(ctx, joined, rows, sizeof rows);
        ad_tensor points = render_points(ctx, o, d, at[1].t, at[1].offsets);
        ad_read(ctx, points, joined_at, sizeof joined_at);
        for (uint32_t k = 0; k < counts[1][0]; k++) {
            uint32_t of = rows[k] / CAPACITY;
            cr_assert(of < PIECES && candidate[of][rows[k] % CAPACITY] == t_of[1][k]);
            cr_assert(!memcmp(place[of][rows[k] % CAPACITY], joined_at[k], sizeof *joined_at));
            from_piece[of]++;
        }
        for (int i = 0; i < PIECES; i++)
            cr_expect(from_piece[i] > 500, "%u of piece %d", from_piece[i], i);
        ad_close(ctx);
    }
}

/* ---- leaps */

// A few occupied cells in a large empty cube: every sample of the march through a full grid that
// lies in one of them must be there, and no other.
Test(march, leaps_miss_nothing) {
    enum { N = 64, CELLS = N * N * N, MANY = 3000, STEPS = 300, CAPACITY = MANY * STEPS * 2 };
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    uint64_t state = 11;
    float(*origin)[3] = malloc(MANY * sizeof *origin), (*way)[3] = malloc(MANY * sizeof *way);
    float *value = calloc(CELLS, sizeof *value), *found[2];
    uint32_t *offsets[2];
    for (int i = 0; i < 90; i++) value[(int)draw(&state, 0, CELLS)] = 1;
    value[0] = value[CELLS - 1] = 1;
    for (int i = 0; i < MANY; i++) {
        double length = 0;
        for (int axis = 0; axis < 3; axis++) {
            origin[i][axis] = (float)draw(&state, i % 2 ? -1 : 0, i % 2 ? 2 : 1);
            way[i][axis] = (float)(draw(&state, 0, 1) - origin[i][axis]); // to a point inside
            length += way[i][axis] * way[i][axis];
        }
        for (int axis = 0; axis < 3; axis++) way[i][axis] /= (float)sqrt(length);
    }
    ad_tensor grid = ad_state(ctx, "bits",
                              ad_full(ctx, AD_U32, AD_SHAPE(render_occupancy_words(1, N)), 0));
    ad_tensor none = ad_full(ctx, AD_U32, AD_SHAPE(0), 0);
    for (int run = 0; run < 2; run++) {
        ad_tensor values = run ? ad_from(ctx, AD_F32, AD_SHAPE(CELLS), value)
                               : ad_full(ctx, AD_F32, AD_SHAPE(CELLS), 1);
        ad_tensor held = ad_state(ctx, "value", values);
        render_occupancy_update(ctx, held, grid, none, ad_zeros(ctx, 0), 1, N, 0.01, false);
        render_march_options options = {
            .domain = {.scale = 1, .high = {1, 1, 1}, .cascades = 1}, .resolution = N,
            .steps = STEPS, .capacity = CAPACITY};
        render_samples at;
        render_march(ctx, ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), origin),
                     ad_from(ctx, AD_F32, AD_SHAPE(MANY, 3), way), grid, (ad_tensor){0}, &options,
                     &at);
        found[run] = malloc(CAPACITY * sizeof(float));
        offsets[run] = malloc((MANY + 1) * sizeof(uint32_t));
        ad_read(ctx, at.t, found[run], CAPACITY * sizeof(float));
        ad_read(ctx, at.offsets, offsets[run], (MANY + 1) * sizeof(uint32_t));
    }
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    int inside = 0;
    for (int ray = 0; ray < MANY; ray++) {
        uint32_t next = offsets[1][ray], end = offsets[1][ray + 1];
        for (uint32_t k = offsets[0][ray]; k < offsets[0][ray + 1]; k++) {
            bool near_edge = false;
            int cell[3];
            for (int axis = 0; axis < 3; axis++) {
                float at = (origin[ray][axis] + found[0][k] * way[ray][axis]) * N;
                cell[axis] = at < 0 ? 0 : at >= N ? N - 1 : (int)at;
                near_edge |= fabsf(at - roundf(at)) < 1e-3f;
            }
            bool there = next < end && fabsf(found[1][next] - found[0][k]) < 1e-6f;
            bool occupied = value[(cell[2] * N + cell[1]) * N + cell[0]] > 0;
            cr_assert(near_edge || there == occupied, "ray %d, t %g: occupied %d, found %d", ray,
                      (double)found[0][k], occupied, there);
            next += there, inside += there;
        }
        cr_assert_eq(next, end, "ray %d has samples of its own", ray);
    }
    cr_expect(inside > 100, "%d samples in occupied cells", inside);
    for (int run = 0; run < 2; run++) free(found[run]), free(offsets[run]);
    free(origin), free(way), free(value);
    ad_close(ctx);
}

/* ---- features found before */

Test(hash_grid, known_features_are_as_good_as_new_ones) {
    enum { ALL = 5000, SOME = 1234, WIDTH = 8 };
    const render_grid_options grid = {.levels = 2, .features = 4, .log2_entries = 10, .n_min = 4,
                                      .n_max = 32};
    static float place[ALL][3], chosen[SOME][3], y[2][SOME * WIDTH];
    static float dx[2][SOME * 3], dtable[2][2048 * 4];
    static uint32_t rows[SOME];
    uint64_t state = 3;
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    int64_t entries = render_grid_entries(&grid);
    cr_assert(entries <= 2048);
    for (int i = 0; i < ALL; i++)
        for (int axis = 0; axis < 3; axis++) place[i][axis] = (float)draw(&state, 0, 1);
    for (int i = 0; i < SOME; i++) {
        rows[i] = (uint32_t)draw(&state, 0, ALL);
        memcpy(chosen[i], place[rows[i]], sizeof chosen[i]);
    }
    ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(SOME, 3), chosen)), d[2];
    ad_tensor table = ad_watch(ctx, ad_uniform(ctx, AD_F32, AD_SHAPE(entries, 4), -1, 1));
    ad_tensor leaf[] = {x, table}, count = ad_scalar(ctx, AD_U32, SOME - 34);
    ad_tensor dy = ad_uniform(ctx, AD_F32, AD_SHAPE(SOME, WIDTH), -1, 1);
    ad_no_grad_begin(ctx);
    ad_tensor known = render_hash_grid(ctx, ad_from(ctx, AD_F32, AD_SHAPE(ALL, 3), place), table,
                                       (ad_tensor){0}, &grid);
    ad_tensor part[] = {ad_slice(ctx, known, 0, 0, 2000, 1), ad_slice(ctx, known, 0, 2000, 2500, 1),
                        ad_slice(ctx, known, 0, 2500, ALL, 1)};
    ad_no_grad_end(ctx);
    for (int run = 0; run < 2; run++) {
        ad_tensor f = run ? render_hash_grid_known(ctx, x, table, count, 3, part,
                                                   ad_from(ctx, AD_U32, AD_SHAPE(SOME), rows),
                                                   &grid)
                          : render_hash_grid(ctx, x, table, count, &grid);
        ad_grad(ctx, f, dy, 2, leaf, d, 0);
        ad_read(ctx, f, y[run], sizeof y[run]), ad_read(ctx, d[0], dx[run], sizeof dx[run]);
        ad_read(ctx, d[1], dtable[run], (size_t)entries * 16);
    }
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_expect(!memcmp(y[0], y[1], sizeof y[0]) && y[1][5] != 0, "values");
    cr_expect(!memcmp(dx[0], dx[1], sizeof dx[0]) && dx[1][5] != 0, "d points");
    cr_expect(!memcmp(dtable[0], dtable[1], sizeof dtable[0]), "d table");
    // Values that are not the grid's are copied as they are; rows beyond them are refused.
    ad_tensor ones = ad_ones(ctx, ALL * WIDTH);
    ad_tensor wide = ad_reshape(ctx, ones, AD_SHAPE(ALL, WIDTH));
    ad_tensor f = render_hash_grid_known(ctx, x, table, (ad_tensor){0}, 1, &wide,
                                         ad_from(ctx, AD_U32, AD_SHAPE(SOME), rows), &grid);
    ad_read(ctx, f, y[0], sizeof y[0]);
    for (int i = 0; i < SOME * WIDTH; i++) cr_assert(y[0][i] == 1);
    cr_expect(ad_is_null(render_hash_grid_known(ctx, x, table, count, 1, &ones,
                                                ad_from(ctx, AD_U32, AD_SHAPE(SOME), rows),
                                                &grid)));
    cr_expect(ad_failed(ctx));
    ad_close(ctx);
}
