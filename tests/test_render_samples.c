/* Where samples come from, and what must hold for many of them: pixels and rays against their
 * definitions, rows of no ray, wrong offsets, any number of threads. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (1 << 24);
}

/* ---- pixels */

static const ad_tensor none;

Test(render_samples, pixels_are_drawn_uniformly) {
    enum { IMAGES = 4, RAYS = 60000 };
    static const uint32_t starts[IMAGES + 1] = {0, 10, 10, 40, 100}; // one image is empty
    static uint32_t ids[RAYS][2], again[RAYS][2];
    int counts[100] = {0};
    ad_context *ctx = ad_open(&(ad_options){.seed = 5, .threads = 2});
    ad_tensor s = ad_from(ctx, AD_U32, AD_SHAPE(IMAGES + 1), starts);
    ad_tensor out = render_sample_pixels(ctx, s, none, none, RAYS);
    cr_assert(ad_read(ctx, out, ids, sizeof ids), "%s", ad_error_text(ctx));
    for (int i = 0; i < RAYS; i++) {
        uint32_t image = ids[i][0], pixel = ids[i][1];
        cr_assert(image < IMAGES && pixel < starts[image + 1] - starts[image]);
        counts[starts[image] + pixel]++;
    }
    double chi = 0; // mean 99, deviation 14; the seed is fixed
    for (int i = 0; i < 100; i++) chi += pow(counts[i] - RAYS / 100.0, 2) / (RAYS / 100.0);
    cr_expect(chi > 50 && chi < 150, "chi-square %g of 99 degrees of freedom", chi);

    // The next operation, the next step and another seed draw otherwise; the same place repeats.
    out = render_sample_pixels(ctx, s, none, none, RAYS);
    ad_read(ctx, out, again, sizeof again);
    cr_expect(memcmp(ids, again, sizeof ids), "two operations of a step draw the same pixels");
    ad_step_advance(ctx);
    out = render_sample_pixels(ctx, s, none, none, RAYS);
    ad_read(ctx, out, again, sizeof again);
    cr_expect(memcmp(ids, again, sizeof ids), "two steps draw the same pixels");
    ad_close(ctx);
    for (uint64_t seed = 5; seed < 7; seed++) {
        ctx = ad_open(&(ad_options){.seed = seed, .threads = 1});
        s = ad_from(ctx, AD_U32, AD_SHAPE(IMAGES + 1), starts);
        ad_read(ctx, render_sample_pixels(ctx, s, none, none, RAYS), again, sizeof again);
        cr_expect((memcmp(ids, again, sizeof ids) == 0) == (seed == 5), "seed %d", (int)seed);
        ad_close(ctx);
    }
}

Test(render_samples, only_allowed_pixels_are_drawn) {
    enum { RAYS = 3000 };
    static const uint32_t starts[] = {0, 8, 20}, allowed[] = {3, 7, 8, 19, 4000000000u};
    static uint32_t ids[RAYS + 7][2];
    int counts[20] = {0};
    ad_context *ctx = ad_open(&(ad_options){.seed = 1});
    ad_tensor out = render_sample_pixels(ctx, ad_from(ctx, AD_U32, AD_SHAPE(3), starts),
                                         ad_from(ctx, AD_U32, AD_SHAPE(5), allowed),
                                         ad_scalar(ctx, AD_U32, RAYS), RAYS + 7);
    cr_assert(ad_read(ctx, out, ids, sizeof ids), "%s", ad_error_text(ctx));
    for (int i = 0; i < RAYS; i++) counts[starts[ids[i][0]] + ids[i][1]]++;
    for (int i = 0; i < 20; i++) {
        int share = i == 3 || i == 7 || i == 8 ? 600 : i == 19 ? 1200 : 0; // too large: the last
        cr_expect(abs(counts[i] - share) <= (share ? 150 : 0), "pixel %d: %d of %d", i, counts[i],
                  share);
    }
    for (int i = 0; i < 14; i++) // the rays past `live`
        cr_expect(ids[RAYS + i / 2][i % 2] == UINT32_MAX, "%u", ids[RAYS + i / 2][i % 2]);
    ad_close(ctx);
}

// A captured step draws anew each time the step has advanced, the same as eager steps.
Test(render_samples, replay_draws_as_eager_steps_do) {
    static const uint32_t starts[] = {0, 1000};
    uint32_t eager[4][64][2], replayed[64][2];
    for (int run = 0; run < 2; run++) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 9});
        ad_tensor s = ad_from(ctx, AD_U32, AD_SHAPE(2), starts), out;
        ad_step_tensor(ctx);
        if (run == 0) {
            for (int step = 0; step < 4; step++) {
                out = render_sample_pixels(ctx, s, none, none, 64);
                ad_read(ctx, out, eager[step], sizeof eager[step]);
                ad_step_advance(ctx);
            }
        } else {
            ad_capture_begin(ctx);
            out = render_sample_pixels(ctx, s, none, none, 64);
            ad_step_advance(ctx);
            ad_program *program = ad_capture_end(ctx);
            cr_assert(program, "%s", ad_error_text(ctx));
            for (int step = 0; step < 4; step++) {
                if (step) ad_replay(program);
                ad_read(ctx, out, replayed, sizeof replayed);
                cr_expect(!memcmp(replayed, eager[step], sizeof replayed), "step %d", step);
            }
            ad_program_free(program);
        }
        cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
        ad_close(ctx);
    }
}

Test(render_samples, pixels_are_fetched) {
    static const uint32_t pixels[] = {0xff0080ffu, 0, 0x33ffffffu, 0x01020304u, 0x7f7f7f7fu};
    static const uint32_t starts[] = {0, 1, 4};
    static const uint32_t ids[][2] = {{0, 0}, {1, 1}, {1, 2}, {1, 9}, {2, 0}, {0xffffffffu, 3}};
    static const float expected[6][4] = {
        {255, 128, 0, 255}, {255, 255, 255, 51}, {4, 3, 2, 1}, {0}, {0}, {0}};
    float found[6][4];
    ad_context *ctx = ad_open(NULL);
    ad_tensor out = render_fetch_pixels(ctx, ad_from(ctx, AD_U32, AD_SHAPE(5), pixels),
                                        ad_from(ctx, AD_U32, AD_SHAPE(3), starts),
                                        ad_from(ctx, AD_U32, AD_SHAPE(6, 2), ids));
    cr_assert(ad_read(ctx, out, found, sizeof found), "%s", ad_error_text(ctx));
    for (int i = 0; i < 24; i++)
        cr_expect(found[i / 4][i % 4] == expected[i / 4][i % 4] / 255.0f, "ray %d: %g", i / 4,
                  (double)found[i / 4][i % 4]);
    ad_close(ctx);
}

/* ---- rays */

enum { LENSES = 4, WIDTH = 64, HEIGHT = 48 };

// A pinhole, a phone's lens, one with everything, a fisheye; each turned and moved.
static void make_cameras(render_camera cameras[LENSES]) {
    for (int i = 0; i < LENSES; i++) {
        double a = 0.7 * i + 0.3, b = 0.4 * i - 0.5;
        double ca = cos(a), sa = sin(a), cb = cos(b), sb = sin(b);
        const double turn[3][3] = {{ca, -sa * cb, sa * sb}, {sa, ca * cb, -ca * sb}, {0, sb, cb}};
        cameras[i] = (render_camera){.fx = 50 + 3 * i, .fy = 51, .cx = 31.3, .cy = 24.9,
                                     .width = WIDTH, .height = HEIGHT};
        for (int r = 0; r < 3; r++) {
            memcpy(cameras[i].pose[r], turn[r], sizeof turn[r]);
            cameras[i].pose[r][3] = 1.5 * r - i;
        }
    }
    memcpy(cameras[1].k, (double[]){0.05, -0.02, 0, 0}, sizeof cameras[1].k);
    memcpy(cameras[2].k, (double[]){-0.11, 0.03, 0.004, -0.001}, sizeof cameras[2].k);
    memcpy(cameras[2].p, (double[]){0.003, -0.002}, sizeof cameras[2].p);
    memcpy(cameras[3].k, (double[]){0.04, -0.01, 0.002, 0.0005}, sizeof cameras[3].k);
    cameras[3].model = RENDER_CAMERA_FISHEYE;
}

static const double box_min[3] = {-3, -2, -1}, box_max[3] = {1, 1, 2};

Test(render_samples, domain_scales_the_box_into_the_unit_cube) {
    render_domain d;
    cr_assert(render_domain_make(box_min, box_max, 2, &d));
    cr_expect(d.scale == 0.25 && d.centre[0] == -1 && d.centre[1] == -0.5 && d.centre[2] == 0.5);
    cr_expect(d.low[0] == 0 && d.high[0] == 1 && d.low[1] == 0.125 && d.high[2] == 0.875);
    cr_expect(d.cascades == 2);
    cr_expect(!render_domain_make(box_max, box_min, 1, &d), "an inverted box");
    cr_expect(!render_domain_make(box_min, (double[]){1, NAN, 2}, 1, &d), "not a number");
    cr_expect(!render_domain_make(box_min, box_max, 0, &d), "no cascades");
}

Test(render_samples, rays_follow_their_definition) {
    enum { RAYS = LENSES * WIDTH * HEIGHT };
    static uint32_t ids[RAYS][2];
    static float origins[RAYS][3], directions[RAYS][3], rows[LENSES * RENDER_CAMERA_NUMBERS];
    render_camera cameras[LENSES];
    render_domain domain;
    make_cameras(cameras);
    render_domain_make(box_min, box_max, 1, &domain);
    cr_assert(render_cameras_pack(cameras, LENSES, &domain, rows));
    for (uint32_t i = 0; i < RAYS; i++) ids[i][0] = i % LENSES, ids[i][1] = i / LENSES;
    ad_context *ctx = ad_open(NULL);
    ad_tensor packed = ad_from(ctx, AD_F32, AD_SHAPE(LENSES, RENDER_CAMERA_NUMBERS), rows);
    ad_tensor o, d, id = ad_from(ctx, AD_U32, AD_SHAPE(RAYS, 2), ids);
    cr_assert(render_camera_rays(ctx, packed, (ad_tensor){0}, id, &o, &d), "%s",
              ad_error_text(ctx));
    ad_read(ctx, o, origins, sizeof origins), ad_read(ctx, d, directions, sizeof directions);
    double worst = 0;
    for (int i = 0; i < RAYS; i++) {
        double from[3], along[3], px = ids[i][1] % WIDTH + 0.5, py = ids[i][1] / WIDTH + 0.5;
        cr_assert(render_camera_ray(&cameras[ids[i][0]], px, py, from, along));
        for (int c = 0; c < 3; c++) {
            double cube = (from[c] - domain.centre[c]) * domain.scale + 0.5;
            worst = fmax(worst, fabs((double)origins[i][c] - cube));
            worst = fmax(worst, fabs((double)directions[i][c] - along[c]));
        }
    }
    cr_expect(worst < 2e-6, "largest difference %g", worst);

    // In f64 it is the definition itself; rays of an image that is not there are zero.
    double exact[6];
    uint32_t two[4] = {LENSES - 1, 1234, UINT32_MAX, 0};
    id = ad_from(ctx, AD_U32, AD_SHAPE(2, 2), two);
    render_camera_rays(ctx, ad_cast(ctx, packed, AD_F64), (ad_tensor){0}, id, &o, &d);
    cr_assert(ad_read(ctx, d, exact, sizeof exact), "%s", ad_error_text(ctx));
    for (int c = 0; c < 3; c++) {
        cr_expect(fabs(exact[c] - (double)directions[1234 * LENSES + LENSES - 1][c]) < 2e-6);
        cr_expect(exact[3 + c] == 0);
    }
    render_camera_rays(ctx, packed, none, id, &o, &d);
    cr_assert(ad_read(ctx, d, directions, 24), "%s", ad_error_text(ctx));
    for (int c = 0; c < 3; c++) cr_expect(directions[1][c] == 0 && directions[0][c] != 0);
    ad_close(ctx);
}

// origins and directions of all rays, weighted and summed, under the given twists.
static double weigh_rays(const double twists[LENSES][6], double slopes[LENSES][6], ad_type type) {
    enum { RAYS = 9 };
    static const uint32_t ids[RAYS][2] = {{0, 5}, {1, 700}, {2, 3000}, {3, 90}, {1, 1},
                                          {1, 2000}, {0, 3000}, {2, 0}, {3, 1500}};
    float rows[LENSES * RENDER_CAMERA_NUMBERS];
    render_camera cameras[LENSES];
    render_domain domain;
    make_cameras(cameras);
    render_domain_make(box_min, box_max, 1, &domain);
    render_cameras_pack(cameras, LENSES, &domain, rows);
    ad_context *ctx = ad_open(NULL);
    ad_tensor packed = ad_from(ctx, AD_F32, AD_SHAPE(LENSES, RENDER_CAMERA_NUMBERS), rows);
    ad_tensor x = ad_watch(ctx, ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(LENSES, 6), twists),
                                        type)), dx, o, d;
    render_camera_rays(ctx, ad_cast(ctx, packed, type), x,
                       ad_from(ctx, AD_U32, AD_SHAPE(RAYS, 2), ids), &o, &d);
    ad_tensor both = ad_concat(ctx, 2, (ad_tensor[]){o, d}, 1); // (RAYS, 6)
    ad_tensor weight = ad_sin(ctx, ad_reshape(ctx, ad_range(ctx, type, RAYS * 6),
                                              AD_SHAPE(RAYS, 6)));
    ad_tensor sum = ad_sum(ctx, ad_mul(ctx, both, weight), AD_ALL_AXES, false);
    double value = ad_item(ctx, sum);
    if (slopes) {
        ad_grad(ctx, sum, (ad_tensor){0}, 1, &x, &dx, 0);
        ad_read(ctx, ad_cast(ctx, dx, AD_F64), slopes, sizeof(double[LENSES][6]));
    }
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
    return value;
}

Test(render_samples, camera_movements_are_differentiable) {
    for (int kind = 0; kind < 2; kind++) { // at rest, and after sizeable movements
        double twists[LENSES][6], slopes[LENSES][6], narrow[LENSES][6];
        uint64_t state = 2;
        for (int i = 0; i < LENSES * 6; i++)
            twists[i / 6][i % 6] = kind ? draw(&state, -1, 1) : 0;
        weigh_rays(twists, slopes, AD_F64), weigh_rays(twists, narrow, AD_F32);
        for (int i = 0; i < LENSES * 6; i++) {
            double *x = &twists[i / 6][i % 6], at = *x, step = 1e-5;
            *x = at + step;
            double up = weigh_rays(twists, NULL, AD_F64);
            *x = at - step;
            double slope = (up - weigh_rays(twists, NULL, AD_F64)) / (2 * step);
            *x = at;
            cr_expect(fabs(slopes[i / 6][i % 6] - slope) < 1e-8, "twist %d: %.12g, measured %.12g",
                      i, slopes[i / 6][i % 6], slope);
            cr_expect(fabs(narrow[i / 6][i % 6] - slope) < 1e-4, "f32, twist %d", i);
        }
    }
}

// A known movement, half a turn about z: (x, y, z) -> (-x, -y, z) + V v with
// V = [sin a / a, -(1 - cos a) / a, 0; (1 - cos a) / a, sin a / a, 0; 0, 0, 1] at a = pi.
Test(render_samples, a_twist_is_a_screw) {
    const float twist[6] = {0, 0, 3.14159265f, 0.5f, 0, 0.25f};
    float rows[LENSES * RENDER_CAMERA_NUMBERS], before[2][3], after[2][3];
    const uint32_t ids[2] = {0, 99};
    render_camera cameras[LENSES];
    render_domain domain;
    make_cameras(cameras);
    render_domain_make(box_min, box_max, 1, &domain);
    render_cameras_pack(cameras, 1, &domain, rows);
    ad_context *ctx = ad_open(NULL);
    ad_tensor camera = ad_from(ctx, AD_F32, AD_SHAPE(1, RENDER_CAMERA_NUMBERS), rows), o, d;
    ad_tensor id = ad_from(ctx, AD_U32, AD_SHAPE(1, 2), ids);
    for (int moved = 0; moved < 2; moved++) {
        ad_tensor x = moved ? ad_from(ctx, AD_F32, AD_SHAPE(1, 6), twist) : (ad_tensor){0};
        render_camera_rays(ctx, camera, x, id, &o, &d);
        ad_read(ctx, o, moved ? after[0] : before[0], 12);
        ad_read(ctx, d, moved ? after[1] : before[1], 12);
    }
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < 3; c++) {
            float shift = i ? 0 : c == 1 ? 0.318309886f : c == 2 ? 0.25f : 0;
            float expected = (c < 2 ? -before[i][c] : before[i][c]) + shift;
            cr_expect(fabsf(after[i][c] - expected) < 2e-6f, "%d %d: %g, expected %g", i, c,
                      (double)after[i][c], (double)expected);
        }
    ad_close(ctx);
}

/* ---- hostile offsets, thread counts */

// Whatever the offsets hold, nothing outside the rows is touched and the bits do not depend on
// the thread count; guarded by the sanitizers and by comparing 1 with 3 threads.
Test(render_samples, wrong_offsets_and_thread_counts) {
    enum { N = 40000, R = 3000 };
    static float points[2][3 * N], beside[2][8 * N], weight[2][N], slope[2][N], lost[2][R];
    static float values[5 * N], as_one[8 * N];
    static uint32_t offsets[R + 1];
    uint64_t state = 3;
    for (int i = 0; i < 5 * N; i++) values[i] = (float)draw(&state, 0.1, 1);
    for (int kind = 0; kind < 3; kind++) {
        for (int i = 0; i <= R; i++) {
            if (kind == 0) offsets[i] = (uint32_t)(7 + 13 * i);              // right
            if (kind == 1) offsets[i] = (uint32_t)draw(&state, 0, 2 * N);    // in no order
            if (kind == 2) offsets[i] = i % 2 ? UINT32_MAX : (uint32_t)i;
        }
        for (int run = 0; run < 2; run++) {
            ad_context *ctx = ad_open(&(ad_options){.threads = run ? 3 : 1});
            ad_tensor o = ad_from(ctx, AD_U32, AD_SHAPE(R + 1), offsets), dsigma, sigmas, wide;
            ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(N), values);
            ad_tensor rays = ad_from(ctx, AD_F32, AD_SHAPE(R, 3), values);
            ad_tensor rows = ad_from(ctx, AD_F32, AD_SHAPE(N, 5), values);
            ad_tensor rgb = ad_from(ctx, AD_F32, AD_SHAPE(N, 3), values);
            ad_tensor sigma = ad_watch(ctx, t);
            render_pixels p;
            render_composite(ctx, sigma, rgb, t, t, o, 1e-4, &p);
            ad_grad(ctx, ad_sum(ctx, p.depth, AD_ALL_AXES, false), (ad_tensor){0}, 1, &sigma,
                    &dsigma, AD_GRAD_RELEASE);
            ad_read(ctx, dsigma, slope[run], sizeof slope[run]);
            ad_tensor at = render_points(ctx, rays, rays, t, o);
            ad_read(ctx, at, points[run], sizeof points[run]);
            ad_read(ctx, render_beside_ray(ctx, rows, rays, o), beside[run], sizeof beside[run]);
            render_density_beside(ctx, rows, rays, o, &sigmas, &wide);
            ad_read(ctx, wide, as_one, sizeof as_one);
            cr_expect(!memcmp(as_one, beside[run], sizeof as_one), "density_beside, %d", kind);
            ad_read(ctx, render_distortion(ctx, t, t, t, o), lost[run], sizeof lost[run]);
            render_composite(ctx, t, rgb, t, t, o, 1e-4, &p);
            ad_read(ctx, p.weight, weight[run], sizeof weight[run]);
            cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
            ad_close(ctx);
        }
        cr_expect(!memcmp(points[0], points[1], sizeof points[0]), "points, offsets %d", kind);
        cr_expect(!memcmp(beside[0], beside[1], sizeof beside[0]), "beside_ray, offsets %d", kind);
        cr_expect(!memcmp(weight[0], weight[1], sizeof weight[0]), "weights, offsets %d", kind);
        cr_expect(!memcmp(slope[0], slope[1], sizeof slope[0]), "d density, offsets %d", kind);
        cr_expect(!memcmp(lost[0], lost[1], sizeof lost[0]), "distortion, offsets %d", kind);
        if (kind) continue;
        for (int k = 0; k < N; k++) { // rows of no ray
            bool live = k >= 7 && k < 7 + 13 * R;
            cr_assert((points[0][3 * k] != 0) == live && (weight[0][k] == 0 || live), "row %d", k);
            cr_assert((beside[0][8 * k + 7] != 0) == live && beside[0][8 * k] != 0, "row %d", k);
            cr_assert(slope[0][k] == 0 || live, "row %d", k);
        }
    }
}

Test(render_samples, grid_and_density_at_any_thread_count) {
    enum { N = 20000 };
    static float points[3 * N], y[3][8 * N], dx[3][3 * N], dtable[3][4096 * 8], sigma[3][N];
    const render_grid_options grid = {.levels = 2, .features = 4, .log2_entries = 12, .n_min = 8,
                                      .n_max = 64};
    int64_t entries = render_grid_entries(&grid);
    uint64_t state = 17;
    cr_assert(entries * 4 <= 4096 * 8);
    for (int i = 0; i < 3 * N; i++) points[i] = (float)draw(&state, -0.1, 1.1);
    for (int run = 0; run < 3; run++) {
        ad_context *ctx = ad_open(&(ad_options){.threads = run == 2 ? 7 : run + 1});
        ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(N, 3), points)), d[2];
        ad_tensor step = ad_reshape(ctx, ad_range(ctx, AD_F32, entries * 4), AD_SHAPE(entries, 4));
        ad_tensor table = ad_watch(ctx, ad_sin(ctx, step)), leaf[] = {x, table};
        ad_tensor f = render_hash_grid(ctx, x, table, ad_scalar(ctx, AD_U32, N - 100), &grid);
        ad_tensor s = render_density(ctx, f);
        ad_read(ctx, f, y[run], sizeof y[run]), ad_read(ctx, s, sigma[run], sizeof sigma[run]);
        ad_tensor sum = ad_sum(ctx, ad_mul(ctx, f, f), AD_ALL_AXES, false);
        ad_grad(ctx, ad_add(ctx, sum, ad_sum(ctx, s, AD_ALL_AXES, false)), (ad_tensor){0}, 2, leaf,
                d, 0);
        ad_read(ctx, d[0], dx[run], sizeof dx[run]);
        ad_read(ctx, d[1], dtable[run], (size_t)entries * 16);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        ad_close(ctx);
        cr_expect(!memcmp(y[0], y[run], sizeof y[0]) && !memcmp(dx[0], dx[run], sizeof dx[0]));
        cr_expect(!memcmp(dtable[0], dtable[run], sizeof dtable[0]), "table, run %d", run);
        cr_expect(!memcmp(sigma[0], sigma[run], sizeof sigma[0]), "density, run %d", run);
    }
    for (int i = 0; i < 8 * 100; i++) cr_assert(y[0][8 * (N - 100) + i] == 0, "dead rows are zero");
    for (int i = 0; i < 3 * 100; i++) cr_assert(dx[0][3 * (N - 100) + i] == 0, "no gradient");
}
