/* Encodings of directions and points: real spherical harmonics, and sines of growing frequency.
 *
 * Spherical harmonics Y_lm of unit vectors up to degree 4 (l = 0 ... 3), in the order and with the
 * signs of tiny-cuda-nn and Sloan, "Efficient Spherical Harmonic Evaluation", 2013: l by l, m from
 * -l to l. They are polynomials, so vectors that are not of unit length are no error. They serve
 * rays, of which there are far fewer than samples; the derivative goes through the composition.
 *
 * The positional encoding of Mildenhall et al., "NeRF", 2020, section 5.1, is composed of public
 * operations. */
#include "render/render.h"

#include "autodiff/ops/axes.h"

#include <math.h>

enum { DEGREE_MAX = 4, TERMS_MAX = DEGREE_MAX * DEGREE_MAX, LEVELS_MAX = 16 };

// Y_00 ... of each band, as factors of the polynomials below.
#define Y0 0.28209479177387814 // sqrt(1 / 4 pi)
#define Y1 0.48860251190291992 // sqrt(3 / 4 pi)
#define Y2A 1.0925484305920790 // sqrt(15 / 4 pi)
#define Y2B 0.94617469575756002 // sqrt(5 / 16 pi) 3
#define Y2C 0.31539156525252001 // sqrt(5 / 16 pi)
#define Y2D 0.54627421529603953 // sqrt(15 / 16 pi)
#define Y3A 0.59004358992664351 // sqrt(35 / 32 pi)
#define Y3B 2.8906114426405540 // sqrt(105 / 4 pi)
#define Y3C 0.45704579946446573 // sqrt(21 / 32 pi)
#define Y3D 0.37317633259011540 // sqrt(7 / 16 pi)
#define Y3E 1.4453057213202770 // sqrt(105 / 16 pi)

typedef struct harmonics_attributes {
    int64_t degree;
} harmonics_attributes;

static void harmonics_infer(ad_infer *call) {
    const ad_view *d = &call->input[0];
    int64_t degree = ((const harmonics_attributes *)call->attributes)->degree;
    char text[160];
    ad_view_text(d, text, sizeof text);
    if (d->rank != 2 || d->size[1] != 3 || !ad_type_is_real(d->type))
        ad_infer_fail(call, "directions are real (n, 3), not %s", text);
    else
        call->output[0] = (ad_view){.type = d->type, .rank = 2,
                                    .size = {d->size[0], degree * degree}};
    call->saved_outputs = 0;
}

static inline void harmonics(const float *d, float *y) {
    float x = d[0], v = d[1], z = d[2]; // v: the y of the formulas
    float xx = x * x, yy = v * v, zz = z * z, xy = x * v, yz = v * z, xz = x * z;
    y[0] = (float)Y0;
    y[1] = (float)-Y1 * v;
    y[2] = (float)Y1 * z;
    y[3] = (float)-Y1 * x;
    y[4] = (float)Y2A * xy;
    y[5] = (float)-Y2A * yz;
    y[6] = (float)Y2B * zz - (float)Y2C;
    y[7] = (float)-Y2A * xz;
    y[8] = (float)Y2D * (xx - yy);
    y[9] = (float)-Y3A * v * (3 * xx - yy);
    y[10] = (float)Y3B * xy * z;
    y[11] = (float)Y3C * v * (1 - 5 * zz);
    y[12] = (float)Y3D * z * (5 * zz - 3);
    y[13] = (float)Y3C * x * (1 - 5 * zz);
    y[14] = (float)Y3E * z * (xx - yy);
    y[15] = (float)-Y3A * x * (xx - 3 * yy);
}

static void harmonics_cpu(const ad_launch *launch) {
    const float *d = launch->input[0].data; // (n, 3)
    float *y = launch->output[0].data;      // (n, degree^2)
    int64_t n = launch->input[0].size[0], terms = launch->output[0].size[1];
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 4096)
    for (int64_t i = 0; i < n; i++) {
        float all[TERMS_MAX];
        harmonics(d + 3 * i, terms == TERMS_MAX ? y + i * TERMS_MAX : all);
        for (int64_t term = 0; term < terms && terms < TERMS_MAX; term++)
            y[i * terms + term] = all[term];
    }
}

static ad_tensor times(ad_context *ctx, double factor, ad_tensor a, ad_tensor b) {
    return ad_affine(ctx, ad_mul(ctx, a, b), factor, 0);
}

static void harmonics_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    int degree = (int)((const harmonics_attributes *)call->attributes)->degree;
    ad_tensor d = call->input[0], y[TERMS_MAX]; // (n, 3), each (n, 1)
    ad_tensor x = ad_slice(ctx, d, 1, 0, 1, 1), v = ad_slice(ctx, d, 1, 1, 2, 1);
    ad_tensor z = ad_slice(ctx, d, 1, 2, 3, 1);
    y[0] = ad_affine(ctx, x, 0, Y0);
    if (degree > 1) {
        y[1] = ad_affine(ctx, v, -Y1, 0);
        y[2] = ad_affine(ctx, z, Y1, 0);
        y[3] = ad_affine(ctx, x, -Y1, 0);
    }
    if (degree > 2) {
        ad_tensor xx = ad_square(ctx, x), yy = ad_square(ctx, v), zz = ad_square(ctx, z);
        ad_tensor xy = ad_mul(ctx, x, v), difference = ad_sub(ctx, xx, yy);
        ad_tensor band = ad_affine(ctx, zz, -5, 1); // 1 - 5 z^2
        y[4] = ad_affine(ctx, xy, Y2A, 0);
        y[5] = times(ctx, -Y2A, v, z);
        y[6] = ad_affine(ctx, zz, Y2B, -Y2C);
        y[7] = times(ctx, -Y2A, x, z);
        y[8] = ad_affine(ctx, difference, Y2D, 0);
        y[9] = times(ctx, -Y3A, v, ad_sub(ctx, ad_affine(ctx, xx, 3, 0), yy));
        y[10] = times(ctx, Y3B, xy, z);
        y[11] = times(ctx, Y3C, v, band);
        y[12] = times(ctx, Y3D, z, ad_affine(ctx, zz, 5, -3));
        y[13] = times(ctx, Y3C, x, band);
        y[14] = times(ctx, Y3E, z, difference);
        y[15] = times(ctx, -Y3A, x, ad_sub(ctx, xx, ad_affine(ctx, yy, 3, 0)));
    }
    output[0] = ad_concat(ctx, degree * degree, y, 1);
}

ad_tensor render_spherical_harmonics(ad_context *ctx, ad_tensor directions, int degree) {
    harmonics_attributes attributes = {degree};
    if (degree < 1 || degree > DEGREE_MAX) {
        ad_raise(ctx, "spherical_harmonics: the degree is 1 to %d, not %d", DEGREE_MAX, degree);
        return (ad_tensor){0};
    }
    return ad_apply1(ctx, &render_op_spherical_harmonics, 1, &directions, &attributes);
}

static void harmonics_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 50.0 * (double)call->input[0].size[0];
    *bytes = 76.0 * (double)call->input[0].size[0];
}

static bool harmonics_sample(ad_sample *s) {
    if (s->variant >= DEGREE_MAX || s->shape.rank < 1 || !ad_type_is_real(s->type)) return false;
    int64_t n = 1;
    for (int i = 0; i < s->shape.rank; i++) n *= s->shape.size[i];
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = AD_SHAPE(n, 3);
    s->input[0].low = -1, s->input[0].high = 1;
    *(harmonics_attributes *)s->attributes.bytes = (harmonics_attributes){DEGREE_MAX - s->variant};
    return true;
}

const ad_op render_op_spherical_harmonics = {
    .name = "spherical_harmonics", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .attribute_bytes = sizeof(harmonics_attributes), .infer = harmonics_infer,
    .cpu = harmonics_cpu, .compose = harmonics_compose, .cost = harmonics_cost,
    .sample = harmonics_sample};

/* ---- positional encoding */

ad_tensor render_positional_encoding(ad_context *ctx, ad_tensor x, int levels) {
    if (ad_failed(ctx)) return (ad_tensor){0};
    if (levels < 0 || levels > LEVELS_MAX) {
        ad_raise(ctx, "positional_encoding: 0 to %d levels, not %d", LEVELS_MAX, levels);
        return (ad_tensor){0};
    }
    ad_shape shape = ad_shape_of(ctx, x); // (n, d)
    if (ad_failed(ctx) || shape.rank != 2) {
        ad_raise(ctx, "positional_encoding: points are (n, d), not of rank %d", shape.rank);
        return (ad_tensor){0};
    }
    if (!levels) return x;
    // All angles 2^l pi x at once, (n, levels, d); then sine and cosine beside each other.
    float frequency[LEVELS_MAX];
    for (int l = 0; l < levels; l++) frequency[l] = (float)(1 << l);
    ad_tensor power = ad_cast(ctx, ad_from(ctx, AD_F32, AD_SHAPE(levels, 1), frequency),
                              ad_type_of(ctx, x));
    ad_tensor turns = ad_reshape(ctx, ad_affine(ctx, x, 3.14159265358979323846, 0),
                                 AD_SHAPE(shape.size[0], 1, shape.size[1]));
    ad_tensor angle = ad_mul(ctx, turns, power);
    ad_tensor pair[] = {ad_sin(ctx, angle), ad_cos(ctx, angle)};
    ad_tensor waves = ad_concat(ctx, 2, pair, 2); // (n, levels, 2 d)
    waves = ad_reshape(ctx, waves, AD_SHAPE(shape.size[0], 2 * levels * shape.size[1]));
    return ad_concat(ctx, 2, (ad_tensor[]){x, waves}, 1);
}
