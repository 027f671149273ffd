/* Operations of the radiance field, one by one.
 *
 * Each differentiable one is checked three ways on the same random numbers: the f32 kernel against
 * the f64 composition, its derivative against the composition's, and that against central
 * differences. Then known answers. test_render_samples.c has the rest. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPERANDS = 5, VALUES = 4096 };

// Rays of 3, 0, 5 and 4 rows; the first two rows and the last two belong to none.
enum { RAYS = 4, ROWS = 16 };
static const uint32_t ray_starts[RAYS + 1] = {2, 5, 5, 10, 14};

typedef struct problem {
    const char *name;
    int operands, outputs;
    ad_shape shape[OPERANDS];
    double low, high;
    bool near_to_far;  // the third operand is t, ascending
    void (*run)(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y);
} problem;

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (1 << 24);
}

static int64_t size_of(ad_shape shape) {
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    return count;
}

static ad_tensor numbers(ad_context *ctx, ad_type type, ad_shape shape, const double *values) {
    return ad_cast(ctx, ad_from(ctx, AD_F64, shape, values), type);
}

static void read_numbers(ad_context *ctx, ad_tensor x, double *values) {
    int64_t count = ad_count(ctx, x);
    cr_assert(count <= VALUES);
    ad_tensor wide = ad_cast(ctx, x, AD_F64);
    cr_assert(ad_read(ctx, wide, values, (size_t)count * 8), "%s", ad_error_text(ctx));
}

// Outputs, then the gradients of sum over outputs of cotangent times output.
typedef struct answers {
    double y[OPERANDS][VALUES], dx[OPERANDS][VALUES], loss;
    int64_t y_count[OPERANDS];
} answers;

static void solve(const problem *p, ad_type type, int threads, double x[][VALUES], answers *a) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    // Memory that was used before, now full of NaN: whoever leaves a result unwritten is found.
    for (int64_t n = 8; n <= 2 * VALUES; n += n / 8) {
        ad_tensor used[3];
        for (int i = 0; i < 3; i++) used[i] = ad_zeros(ctx, n);
        for (int i = 0; i < 3; i++) ad_free(ctx, used[i]);
    }
    ad_tensor in[OPERANDS], y[OPERANDS], dx[OPERANDS], loss = ad_scalar(ctx, type, 0);
    for (int i = 0; i < p->operands; i++)
        in[i] = ad_watch(ctx, numbers(ctx, type, p->shape[i], x[i]));
    p->run(ctx, in, ad_from(ctx, AD_U32, AD_SHAPE(RAYS + 1), ray_starts), y);
    cr_assert(!ad_failed(ctx), "%s: %s", p->name, ad_error_text(ctx));
    uint64_t state = 99;
    for (int i = 0; i < p->outputs; i++) {
        double cotangent[VALUES];
        read_numbers(ctx, y[i], a->y[i]);
        a->y_count[i] = ad_count(ctx, y[i]);
        for (int64_t j = 0; j < a->y_count[i]; j++) cotangent[j] = draw(&state, -1, 1);
        ad_tensor weight = numbers(ctx, type, ad_shape_of(ctx, y[i]), cotangent);
        loss = ad_add(ctx, loss, ad_sum(ctx, ad_mul(ctx, y[i], weight), AD_ALL_AXES, false));
    }
    a->loss = ad_item(ctx, loss);
    ad_grad(ctx, loss, (ad_tensor){0}, p->operands, in, dx, 0);
    cr_assert(!ad_failed(ctx), "%s: %s", p->name, ad_error_text(ctx));
    for (int i = 0; i < p->operands; i++) read_numbers(ctx, dx[i], a->dx[i]);
    ad_close(ctx);
}

static void compare(const char *name, const char *what, int index, const double *found,
                    const double *expected, int64_t count, double tolerance) {
    for (int64_t j = 0; j < count; j++)
        cr_expect(fabs(found[j] - expected[j]) <= tolerance * (1 + fabs(expected[j])),
                  "%s: %s %d, element %lld: %.9g, expected %.9g", name, what, index, (long long)j,
                  found[j], expected[j]);
}

static void check(const problem *p) {
    static double x[OPERANDS][VALUES];
    static answers exact, narrow, up, down;
    uint64_t state = 5;
    for (int i = 0; i < p->operands; i++)
        for (int64_t j = 0; j < size_of(p->shape[i]); j++) {
            x[i][j] = draw(&state, p->low, p->high);
            if (p->near_to_far && i == 2) x[i][j] = 0.1 * (double)j + 0.05 * x[i][j];
        }
    solve(p, AD_F64, 1, x, &exact);
    solve(p, AD_F32, 1, x, &narrow);
    for (int i = 0; i < p->outputs; i++)
        compare(p->name, "f32 output", i, narrow.y[i], exact.y[i], exact.y_count[i], 1e-5);
    for (int i = 0; i < p->operands; i++) {
        int64_t count = size_of(p->shape[i]);
        compare(p->name, "f32 gradient of operand", i, narrow.dx[i], exact.dx[i], count, 1e-5);
        double slope[VALUES];
        for (int64_t j = 0; j < count; j++) {
            double at = x[i][j], step = 1e-6;
            x[i][j] = at + step, solve(p, AD_F64, 1, x, &up);
            x[i][j] = at - step, solve(p, AD_F64, 1, x, &down);
            x[i][j] = at, slope[j] = (up.loss - down.loss) / (2 * step);
        }
        compare(p->name, "central difference of operand", i, exact.dx[i], slope, count, 1e-7);
    }
}

/* ---- each operation */

static void run_points(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    y[0] = render_points(ctx, x[0], x[1], x[2], offsets);
}

Test(render_ops, points) {
    check(&(problem){"points", 3, 1, {AD_SHAPE(RAYS, 3), AD_SHAPE(RAYS, 3), AD_SHAPE(ROWS)}, -1, 1,
                     false, run_points});
}

static void run_beside(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    y[0] = render_beside_ray(ctx, x[0], x[1], offsets);
}

Test(render_ops, beside_ray) {
    check(&(problem){"beside_ray", 2, 1, {AD_SHAPE(ROWS, 3), AD_SHAPE(RAYS, 5)}, -1, 1, false,
                     run_beside});
    check(&(problem){"beside_ray 16 + 16", 2, 1, {AD_SHAPE(ROWS, 16), AD_SHAPE(RAYS, 16)}, -1, 1,
                     false, run_beside});
}

static void run_mask(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    y[0] = render_mask_rows(ctx, x[0], ad_scalar(ctx, AD_U32, 7));
    y[1] = render_mask_rows(ctx, x[0], (ad_tensor){0});
    y[2] = render_mask_rows(ctx, x[1], ad_scalar(ctx, AD_U32, 100));
}

Test(render_ops, mask_rows) {
    check(&(problem){"mask_rows", 2, 3, {AD_SHAPE(ROWS, 3), AD_SHAPE(ROWS)}, -1, 1, false,
                     run_mask});
}

static void run_density(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    y[0] = render_density(ctx, x[0]), y[1] = render_density(ctx, x[1]);
}

Test(render_ops, density) {
    check(&(problem){"density", 2, 2, {AD_SHAPE(ROWS, 3), AD_SHAPE(37, 16)}, -3, 2, false,
                     run_density});
}

// Beyond 15 the slope stays e^15, in the kernel and in the composition, also at second order.
static void run_density_beside(ad_context *ctx, const ad_tensor *x, ad_tensor offsets,
                               ad_tensor *y) {
    render_density_beside(ctx, x[0], x[1], offsets, &y[0], &y[1]); // the field's widths
    render_density_beside(ctx, x[2], x[3], offsets, &y[2], &y[3]);
}

Test(render_ops, density_beside) {
    check(&(problem){"density_beside", 4, 4,
                     {AD_SHAPE(ROWS, 16), AD_SHAPE(RAYS, 16), AD_SHAPE(ROWS, 5), AD_SHAPE(RAYS, 2)},
                     -2, 2, false, run_density_beside});
}

Test(render_ops, density_beyond_its_limit) {
    for (int type = AD_F32; type <= AD_F64; type++) {
        ad_context *ctx = ad_open(NULL);
        const double h[] = {14.5, 15, 16, 20};
        ad_tensor x = ad_watch(ctx, numbers(ctx, (ad_type)type, AD_SHAPE(4, 1), h)), dx, ddx;
        ad_tensor y = render_density(ctx, x);
        ad_grad(ctx, ad_sum(ctx, y, AD_ALL_AXES, false), (ad_tensor){0}, 1, &x, &dx,
                AD_GRAD_RECORD);
        ad_grad(ctx, ad_sum(ctx, dx, AD_ALL_AXES, false), (ad_tensor){0}, 1, &x, &ddx, 0);
        double value[4], slope[4], bend[4];
        read_numbers(ctx, y, value), read_numbers(ctx, dx, slope), read_numbers(ctx, ddx, bend);
        for (int i = 0; i < 4; i++) {
            double limit = exp(h[i] < 15 ? h[i] : 15);
            cr_expect(fabs(value[i] / exp(h[i]) - 1) < 1e-6, "density %g", value[i]);
            cr_expect(fabs(slope[i] / limit - 1) < 1e-6, "slope %g at %g", slope[i], h[i]);
        }
        cr_expect(fabs(bend[0] / exp(14.5) - 1) < 1e-6 && bend[2] == 0 && bend[3] == 0,
                  "second derivative %g %g %g", bend[0], bend[2], bend[3]);
        ad_grad(ctx, ad_sum(ctx, y, AD_ALL_AXES, false), (ad_tensor){0}, 1, &x, &dx, 0);
        read_numbers(ctx, dx, slope); // this time by the kernel, in f32
        cr_expect(fabs(slope[3] / exp(15) - 1) < 1e-6, "slope %g at 20", slope[3]);
        ad_tensor rows, none = ad_from(ctx, AD_U32, AD_SHAPE(1), ray_starts); // no rays
        render_density_beside(ctx, x, ad_full(ctx, (ad_type)type, AD_SHAPE(0, 1), 0), none, &y,
                              &rows);
        ad_grad(ctx, ad_sum(ctx, y, AD_ALL_AXES, false), (ad_tensor){0}, 1, &x, &dx, 0);
        read_numbers(ctx, dx, slope);
        cr_expect(fabs(slope[3] / exp(15) - 1) < 1e-6, "density_beside: %g at 20", slope[3]);
        cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
        ad_close(ctx);
    }
}

static void run_harmonics(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    for (int degree = 1; degree <= 4; degree++)
        y[degree - 1] = render_spherical_harmonics(ctx, x[0], degree);
}

Test(render_ops, spherical_harmonics) {
    check(&(problem){"spherical_harmonics", 1, 4, {AD_SHAPE(9, 3)}, -1, 1, false, run_harmonics});
}

// Orthonormal on the sphere: a 16 x 16 product rule integrates polynomials of degree 6 exactly
// enough (midpoints in the angle, Gauss's points replaced by many midpoints in the height).
Test(render_ops, spherical_harmonics_are_orthonormal) {
    enum { AROUND = 16, UP = 128, POINTS = AROUND * UP };
    static float d[POINTS][3], y[POINTS][16];
    for (int i = 0; i < POINTS; i++) {
        double angle = 2 * acos(-1) * (i % AROUND + 0.5) / AROUND;
        double z = 2 * (i / AROUND + 0.5) / UP - 1, r = sqrt(1 - z * z);
        d[i][0] = (float)(r * cos(angle)), d[i][1] = (float)(r * sin(angle)), d[i][2] = (float)z;
    }
    ad_context *ctx = ad_open(NULL);
    ad_tensor out = render_spherical_harmonics(ctx, ad_from(ctx, AD_F32, AD_SHAPE(POINTS, 3), d),
                                               4);
    cr_assert(ad_read(ctx, out, y, sizeof y), "%s", ad_error_text(ctx));
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++) {
            double sum = 0;
            for (int i = 0; i < POINTS; i++) sum += (double)y[i][a] * (double)y[i][b];
            sum *= 4 * acos(-1) / POINTS;
            cr_expect(fabs(sum - (a == b)) < 2e-3, "<Y%d, Y%d> = %g", a, b, sum);
        }
    ad_close(ctx);
}

static void run_positional(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    y[0] = render_positional_encoding(ctx, x[0], 2);
}

Test(render_ops, positional_encoding) {
    check(&(problem){"positional_encoding", 1, 1, {AD_SHAPE(7, 3)}, -1, 1, false, run_positional});
    ad_context *ctx = ad_open(NULL);
    const float x[2] = {0.25f, -0.125f};
    float y[10];
    ad_tensor out = render_positional_encoding(ctx, ad_from(ctx, AD_F32, AD_SHAPE(1, 2), x), 2);
    cr_assert(ad_read(ctx, out, y, sizeof y), "%s", ad_error_text(ctx));
    const double a = acos(-1) / 4, expected[10] = {
        0.25, -0.125, sin(a), -sin(a / 2), cos(a), cos(a / 2), 1, -sin(a), 0, cos(a)};
    for (int i = 0; i < 10; i++)
        cr_expect(fabs((double)y[i] - expected[i]) < 1e-6, "element %d: %g, expected %g", i,
                  (double)y[i], expected[i]);
    ad_close(ctx);
}

static void run_distortion(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    y[0] = render_distortion(ctx, x[0], x[2], x[1], offsets);
}

Test(render_ops, distortion) {
    problem p = {"distortion", 3, 1, {AD_SHAPE(ROWS), AD_SHAPE(ROWS), AD_SHAPE(ROWS)}, 0.1, 1, true,
                 run_distortion};
    check(&p);
    // Equation 15 itself, over all pairs.
    static double x[OPERANDS][VALUES];
    static answers a;
    uint64_t state = 8;
    for (int j = 0; j < ROWS; j++)
        x[0][j] = draw(&state, 0, 1), x[1][j] = draw(&state, 0, 1), x[2][j] = 0.3 * j;
    solve(&p, AD_F32, 1, x, &a);
    for (int ray = 0; ray < RAYS; ray++) {
        double sum = 0;
        for (uint32_t i = ray_starts[ray]; i < ray_starts[ray + 1]; i++) {
            sum += x[0][i] * x[0][i] * x[1][i] / 3;
            for (uint32_t j = ray_starts[ray]; j < ray_starts[ray + 1]; j++)
                sum += x[0][i] * x[0][j] * fabs(x[2][i] - x[2][j]);
        }
        cr_expect(fabs(a.y[0][ray] - sum) < 1e-5, "ray %d: %g, expected %g", ray, a.y[0][ray], sum);
    }
}

static void run_pixel_loss(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    ad_tensor rays = ad_scalar(ctx, AD_U32, ROWS - 3);
    render_pixel_loss(ctx, x[0], x[1], x[2], x[3], rays, 0.3, &y[0], &y[1]);
    render_pixel_loss(ctx, x[0], x[1], x[2], x[4], rays, 0, &y[2], &y[3]);
}

Test(render_ops, pixel_loss) {
    check(&(problem){"pixel_loss", 5, 4,
                     {AD_SHAPE(ROWS, 3), AD_SHAPE(ROWS), AD_SHAPE(ROWS, 4), AD_SHAPE(ROWS, 3),
                      AD_SHAPE(1, 3)}, 0, 1, false, run_pixel_loss});
}

// A clear ray before an opaque pixel, one that hides its background, and one that does not count.
Test(render_ops, pixel_loss_known_answers) {
    ad_context *ctx = ad_open(NULL);
    const float rgb[9] = {0, 0, 0, 0.5f, 0.25f, 1, NAN, INFINITY, 3}, alpha[3] = {0, 1, NAN};
    const float picture[12] = {1, 0.5f, 0, 1, 0.5f, 0.5f, 0.5f, 0.5f, 1, 1, 1, 1};
    const float white[3] = {1, 1, 1};
    ad_tensor colour = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(3, 3), rgb));
    ad_tensor opacity = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(3), alpha));
    ad_tensor loss, squares, dx[2], rays = ad_scalar(ctx, AD_U32, 2);
    render_pixel_loss(ctx, colour, opacity, ad_from(ctx, AD_F32, AD_SHAPE(3, 4), picture),
                      ad_from(ctx, AD_F32, AD_SHAPE(1, 3), white), rays, 0.25, &loss, &squares);
    // Errors are 0, 1/2, 1 and -1/4, -1/2, 1/4; Huber of them 0, 3/16, 7/16, 1/16, 3/16, 1/16.
    cr_expect(fabs(ad_item(ctx, loss) - 15.0 / 16 / 6) < 1e-7, "%g", ad_item(ctx, loss));
    cr_expect(fabs(ad_item(ctx, squares) - 1.625 / 6) < 1e-7, "%g", ad_item(ctx, squares));
    ad_grad(ctx, loss, (ad_tensor){0}, 2, (ad_tensor[]){colour, opacity}, dx, 0);
    const double slopes[9] = {0, 1 / 12., 1 / 12., -1 / 12., -1 / 12., 1 / 12., 0, 0, 0};
    const double seen[3] = {-1 / 6., 1 / 12., 0};
    double found[VALUES];
    read_numbers(ctx, dx[0], found);
    compare("pixel_loss", "d colour", 0, found, slopes, 9, 1e-7);
    read_numbers(ctx, dx[1], found);
    compare("pixel_loss", "d opacity", 0, found, seen, 3, 1e-7);
    ad_close(ctx);
}

static void run_composite(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    render_pixels pixels;
    render_composite(ctx, x[0], x[1], x[2], x[3], offsets, 0, &pixels);
    y[0] = pixels.colour, y[1] = pixels.opacity, y[2] = pixels.depth, y[3] = pixels.weight;
}

Test(render_ops, composite) {
    check(&(problem){"composite", 4, 4,
                     {AD_SHAPE(ROWS), AD_SHAPE(ROWS, 3), AD_SHAPE(ROWS), AD_SHAPE(ROWS)}, 0.1, 2,
                     false, run_composite});
}

static void run_composite_stop(ad_context *ctx, const ad_tensor *x, ad_tensor offsets,
                               ad_tensor *y) {
    render_pixels pixels;
    render_composite(ctx, x[0], x[1], x[2], x[3], offsets, 0.2, &pixels);
    y[0] = pixels.colour, y[1] = pixels.opacity, y[2] = pixels.depth, y[3] = pixels.weight;
}

Test(render_ops, composite_that_ends_early) {
    check(&(problem){"composite, stop", 4, 4,
                     {AD_SHAPE(ROWS), AD_SHAPE(ROWS, 3), AD_SHAPE(ROWS), AD_SHAPE(ROWS)}, 0.5, 2,
                     false, run_composite_stop});
}

// The compositing row of the known answers: four samples, then a uniform medium of depth 1.
Test(render_ops, composite_known_answers) {
    for (int type = AD_F32; type <= AD_F64; type++) {
        double tolerance = type == AD_F64 ? 5e-8 : 2e-7; // the answers have 7 to 8 digits
        ad_context *ctx = ad_open(NULL);
        const double rho[] = {0.5, 1, 2, 4}, c[] = {0.1, 0.9, 0.3, 0.7};
        const double delta[] = {0.25, 0.25, 0.25, 0.25};
        double rgb[12];
        for (int i = 0; i < 12; i++) rgb[i] = c[i / 3];
        const uint32_t starts[] = {0, 4};
        ad_tensor sigma = ad_watch(ctx, numbers(ctx, (ad_type)type, AD_SHAPE(4), rho)), dsigma;
        ad_tensor lengths = numbers(ctx, (ad_type)type, AD_SHAPE(4), delta);
        ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(2), starts);
        render_pixels p;
        render_composite(ctx, sigma, numbers(ctx, (ad_type)type, AD_SHAPE(4, 3), rgb), lengths,
                         lengths, offsets, 0, &p);
        ad_tensor red = ad_sum(ctx, ad_slice(ctx, p.colour, 1, 0, 1, 1), AD_ALL_AXES, false);
        ad_grad(ctx, red, (ad_tensor){0}, 1, &sigma, &dsigma, 0);
        double colour[3], opacity[1], w[4], slope[4];
        read_numbers(ctx, p.colour, colour), read_numbers(ctx, p.opacity, opacity);
        read_numbers(ctx, p.weight, w), read_numbers(ctx, dsigma, slope);
        const double weights[] = {0.1175031, 0.1952076, 0.2704273, 0.2635070};
        const double slopes[] = {-0.08825507, 0.08824431, -0.01484908, 0.02683712};
        compare("known answer", "weight", 0, w, weights, 4, tolerance);
        compare("known answer", "d density", 0, slope, slopes, 4, tolerance);
        for (int i = 0; i < 3; i++) cr_expect(fabs(colour[i] - 0.453020285873046) < tolerance);
        cr_expect(fabs(opacity[0] + 0.1533550 - 1) < tolerance, "opacity %.9g", opacity[0]);

        // 100 samples of rho = 1 along a length of 1: C = 1 - 1/e, dC/drho of all = 1/e.
        double many[100], grey[300], one = 0, total = 0;
        const uint32_t all[] = {0, 100};
        for (int i = 0; i < 300; i++) grey[i] = 1, many[i / 3] = 1;
        sigma = ad_watch(ctx, numbers(ctx, (ad_type)type, AD_SHAPE(100), many));
        for (int i = 0; i < 100; i++) many[i] = 0.01;
        lengths = numbers(ctx, (ad_type)type, AD_SHAPE(100), many);
        render_composite(ctx, sigma, numbers(ctx, (ad_type)type, AD_SHAPE(100, 3), grey), lengths,
                         lengths, ad_from(ctx, AD_U32, AD_SHAPE(2), all), 0, &p);
        red = ad_sum(ctx, ad_slice(ctx, p.colour, 1, 0, 1, 1), AD_ALL_AXES, false);
        ad_grad(ctx, red, (ad_tensor){0}, 1, &sigma, &dsigma, 0);
        read_numbers(ctx, dsigma, many), one = ad_item(ctx, red);
        for (int i = 0; i < 100; i++) total += many[i];
        cr_expect(fabs(one - 0.632120559) < 5 * tolerance, "uniform: %.9g", one);
        cr_expect(fabs(total - 0.367879441) < 5 * tolerance, "its slope: %.9g", total);
        ad_close(ctx);
    }
}

static const render_grid_options small_grid = {.levels = 3, .features = 4, .log2_entries = 5,
                                               .n_min = 2, .n_max = 7};
static const render_grid_options pair_grid = {.levels = 2, .features = 2, .log2_entries = 6,
                                              .n_min = 3, .n_max = 5};

static void run_grid(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    y[0] = render_hash_grid(ctx, x[0], x[1], (ad_tensor){0}, &small_grid);
    y[1] = render_hash_grid(ctx, x[0], x[1], ad_scalar(ctx, AD_U32, 11), &small_grid);
}

static void run_pair_grid(ad_context *ctx, const ad_tensor *x, ad_tensor offsets, ad_tensor *y) {
    (void)offsets;
    y[0] = render_hash_grid(ctx, x[0], x[1], (ad_tensor){0}, &pair_grid);
}

Test(render_ops, hash_grid) {
    int64_t entries = render_grid_entries(&small_grid);
    check(&(problem){"hash_grid", 2, 2, {AD_SHAPE(19, 3), AD_SHAPE(entries, 4)}, 0.02, 0.98, false,
                     run_grid});
    entries = render_grid_entries(&pair_grid);
    check(&(problem){"hash_grid of pairs", 2, 1, {AD_SHAPE(19, 3), AD_SHAPE(entries, 2)}, 0.02,
                     0.98, false, run_pair_grid});
}
