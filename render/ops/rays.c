/* Rays through pixels, and small movements of the cameras they come from.
 *
 * camera_rays computes what render_camera_ray defines (camera.c has the formulas): the pixel's
 * centre back through the lens, turned and moved by the camera's pose. In f64 it calls that very
 * function; in f32 it inverts the distortion by the same method, and falls back to the undistorted
 * direction where that finds nothing. A ray of an image that does not exist is zero.
 *
 * A camera's movement is a twist (w, v) in se(3), applied on the left of its pose, in the unit
 * cube: exp(twist) = [R V v; 0 1] with K the matrix of the cross product with w, s = |w|^2 and
 *   R = 1 + A K + B K^2,  V = 1 + B K + C K^2,
 *   A = sin |w| / |w|,  B = (1 - cos |w|) / s,  C = (|w| - sin |w|) / |w|^3.
 * A, B, C are power series in s without a kink at 0, where every optimisation starts: 14 terms are
 * exact to rounding up to half a turn. This part is public operations, hence differentiable. */
#include "render/render.h"

#include "autodiff/ops/math.h"

#include <math.h>
#include <string.h>

enum { CAMERAS, IDS, INPUTS };
enum { ORIGIN, DIRECTION, OUTPUTS };
enum { FX = 12, FY, CX, CY, LENS_K, LENS_P = 20, MODEL = 22, WIDTH, HEIGHT }; // in a camera's row
enum { NEWTON_STEPS = 50, SERIES_TERMS = 14 }; // three steps are usual

static void rays_infer(ad_infer *call) {
    const ad_view *cameras = &call->input[CAMERAS], *ids = &call->input[IDS];
    char text[160];
    ad_view_text(cameras, text, sizeof text);
    if (cameras->rank != 2 || cameras->size[1] != RENDER_CAMERA_NUMBERS
        || (cameras->type != AD_F32 && cameras->type != AD_F64))
        ad_infer_fail(call, "cameras are (images, %d), not %s", RENDER_CAMERA_NUMBERS, text);
    else if (ids->rank != 2 || ids->size[1] != 2 || ids->type != AD_U32)
        ad_infer_fail(call, "ids are u32 (rays, 2): image and pixel");
    for (int i = 0; i < OUTPUTS; i++)
        call->output[i] = (ad_view){.type = cameras->type, .rank = 2, .size = {ids->size[0], 3}};
}

/* ---- the lens in f32 */
/* The same steps as camera.c takes, to the rounding of f32: until the residual falls no more. */

// (x', y') of Brown's model, and its Jacobian xx, xy = yx, yy.
static void brown_distort(const float *k, const float *p, float x, float y, float out[2],
                          float jacobian[3]) {
    float r2 = x * x + y * y;
    float d = 1 + r2 * (k[0] + r2 * (k[1] + r2 * (k[2] + r2 * k[3])));
    float slope = k[0] + r2 * (2 * k[1] + r2 * (3 * k[2] + r2 * 4 * k[3]));
    out[0] = x * d + 2 * p[0] * x * y + p[1] * (r2 + 2 * x * x);
    out[1] = y * d + 2 * p[1] * x * y + p[0] * (r2 + 2 * y * y);
    jacobian[0] = d + 2 * x * x * slope + 2 * p[0] * y + 6 * p[1] * x;
    jacobian[1] = 2 * x * y * slope + 2 * p[0] * x + 2 * p[1] * y;
    jacobian[2] = d + 2 * y * y * slope + 2 * p[1] * x + 6 * p[0] * y;
}

// Solves x' = u, y' = v. Steps that do not bring the residual down are halved.
static bool brown_undistort(const float *k, const float *p, float u, float v, float *x, float *y) {
    float at[2], j[3], size = 1 + fabsf(u) + fabsf(v);
    *x = u, *y = v;
    brown_distort(k, p, u, v, at, j);
    float residual = fabsf(at[0] - u) + fabsf(at[1] - v);
    for (int step = 0; step < NEWTON_STEPS && residual > 1e-7f * size; step++) {
        float determinant = j[0] * j[2] - j[1] * j[1], ex = at[0] - u, ey = at[1] - v;
        if (!(determinant > 0)) return false;
        float dx = (j[2] * ex - j[1] * ey) / determinant;
        float dy = (j[0] * ey - j[1] * ex) / determinant;
        float scale = 1, tried = residual, tried_at[2] = {0}, tried_j[3] = {0};
        for (; scale > 1e-3f; scale *= 0.5f) {
            brown_distort(k, p, *x - scale * dx, *y - scale * dy, tried_at, tried_j);
            tried = fabsf(tried_at[0] - u) + fabsf(tried_at[1] - v);
            if (tried < residual || residual <= 1e-6f * size) break;
        }
        if (!(tried < residual)) break; // rounding level, or stuck beside a fold
        *x -= scale * dx, *y -= scale * dy;
        residual = tried, at[0] = tried_at[0], at[1] = tried_at[1];
        for (int i = 0; i < 3; i++) j[i] = tried_j[i];
    }
    return residual <= 1e-5f * size && j[0] * j[2] - j[1] * j[1] > 0 && j[0] + j[2] > 0;
}

// Solves t' = target of Kannala and Brandt's model.
static bool fisheye_undistort(const float *k, float target, float *t) {
    const float pi = 3.14159265f;
    float best = INFINITY, size = 1 + target;
    *t = target < pi ? target : pi;
    for (int step = 0; step < NEWTON_STEPS; step++) {
        float t2 = *t * *t;
        float at = *t * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))));
        float slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])));
        float residual = fabsf(at - target);
        if (!(slope > 0) || !(*t >= 0 && *t <= pi)) return false;
        if (!(residual < best)) break;
        best = residual;
        if (best <= 1e-7f * size) break;
        *t -= (at - target) / slope;
    }
    return best <= 1e-5f * size;
}

static void ray_f32(const float *row, uint32_t pixel, float *origin, float *direction) {
    // The pixel's centre on the plane at distance 1, still distorted.
    uint32_t width = row[WIDTH] >= 1 ? (uint32_t)row[WIDTH] : 1;
    float u = ((float)(pixel % width) + 0.5f - row[CX]) / row[FX];
    float v = ((float)(pixel / width) + 0.5f - row[CY]) / row[FY];
    float x = u, y = v, z = 1;
    const float *k = row + LENS_K, *p = row + LENS_P;
    if (row[MODEL] != 0) {
        float radius = sqrtf(u * u + v * v), t;
        if (!fisheye_undistort(k, radius, &t)) t = radius < 3 ? radius : 3;
        float share = radius > 0 ? ad_math_sin(t) / radius : 1;
        x *= share, y *= share, z = ad_math_cos(t);
    } else if (k[0] != 0 || k[1] != 0 || k[2] != 0 || k[3] != 0 || p[0] != 0 || p[1] != 0) {
        if (!brown_undistort(k, p, u, v, &x, &y)) x = u, y = v;
    }
    // To OpenGL axes (y up, z backward), a unit vector, turned into the world.
    float scale = 1 / sqrtf(x * x + y * y + z * z);
    x *= scale, y *= -scale, z *= -scale;
    for (int i = 0; i < 3; i++) {
        direction[i] = row[4 * i] * x + row[4 * i + 1] * y + row[4 * i + 2] * z;
        origin[i] = row[4 * i + 3];
    }
}

static void ray_f64(const double *row, uint32_t pixel, double *origin, double *direction) {
    render_camera camera = {.fx = row[FX], .fy = row[FY], .cx = row[CX], .cy = row[CY],
                            .model = row[MODEL] != 0 ? RENDER_CAMERA_FISHEYE
                                                     : RENDER_CAMERA_OPENCV};
    for (int i = 0; i < 12; i++) camera.pose[i / 4][i % 4] = row[i];
    for (int i = 0; i < 4; i++) camera.k[i] = row[LENS_K + i];
    for (int i = 0; i < 2; i++) camera.p[i] = row[LENS_P + i];
    uint32_t width = row[WIDTH] >= 1 ? (uint32_t)row[WIDTH] : 1;
    render_camera_ray(&camera, pixel % width + 0.5, pixel / width + 0.5, origin, direction);
}

static void rays_cpu(const ad_launch *launch) {
    const ad_view *cameras = &launch->input[CAMERAS];
    const uint32_t *ids = launch->input[IDS].data;
    char *origins = launch->output[ORIGIN].data, *directions = launch->output[DIRECTION].data;
    int64_t rays = launch->input[IDS].size[0], images = cameras->size[0];
    bool f64 = cameras->type == AD_F64;
    size_t row = 3 * (f64 ? 8 : 4);
    // In turns: the rays that are there come first.
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (rays > 1024)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t image = ids[2 * ray];
        uint32_t pixel = ids[2 * ray + 1];
        void *o = origins + (size_t)ray * row, *d = directions + (size_t)ray * row;
        if (image >= images) {
            memset(o, 0, row), memset(d, 0, row);
        } else if (f64) {
            ray_f64((double *)cameras->data + image * RENDER_CAMERA_NUMBERS, pixel, o, d);
        } else {
            ray_f32((float *)cameras->data + image * RENDER_CAMERA_NUMBERS, pixel, o, d);
        }
    }
}

/* ---- movement */

// a (..., m, k) b (..., k, n): the matrices are tiny, and one for each image.
static ad_tensor product(ad_context *ctx, ad_tensor a, ad_tensor b) {
    ad_shape left = ad_shape_of(ctx, a), right = ad_shape_of(ctx, b);
    int k = left.rank - 1;
    if (ad_failed(ctx)) return (ad_tensor){0};
    left.size[left.rank++] = 1;                                     // (..., m, k, 1)
    right.size[right.rank] = right.size[right.rank - 1], right.rank++;
    right.size[right.rank - 2] = right.size[right.rank - 3];
    right.size[right.rank - 3] = 1;                                 // (..., 1, k, n)
    ad_tensor terms = ad_mul(ctx, ad_reshape(ctx, a, left), ad_reshape(ctx, b, right));
    return ad_sum(ctx, terms, AD_AXIS(k), false);
}

// 1/first! - s/(first+2)! + s^2/(first+4)! - ...
static ad_tensor series(ad_context *ctx, ad_tensor s, int first) {
    ad_tensor sum = {0};
    for (int term = SERIES_TERMS; term >= 0; term--) {
        double factor = term % 2 ? -1 : 1;
        for (int i = 2; i <= first + 2 * term; i++) factor /= i;
        sum = ad_is_null(sum) ? ad_affine(ctx, s, 0, factor)
                              : ad_affine(ctx, ad_mul(ctx, sum, s), 1, factor);
    }
    return sum;
}

// increments (images, 6) -> the upper three rows of exp(twist): R, then V v: (images, 12)
static ad_tensor movements(ad_context *ctx, ad_tensor increments) {
    static const float cross[3][9] = {{0, 0, 0, 0, 0, -1, 0, 1, 0},
                                      {0, 0, 1, 0, 0, 0, -1, 0, 0},
                                      {0, -1, 0, 1, 0, 0, 0, 0, 0}};
    static const float one[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    ad_type type = ad_type_of(ctx, increments);
    int64_t images = ad_shape_of(ctx, increments).size[0];
    ad_tensor w = ad_slice(ctx, increments, 1, 0, 3, 1), v = ad_slice(ctx, increments, 1, 3, 6, 1);
    ad_tensor generator = ad_cast(ctx, ad_from(ctx, AD_F32, AD_SHAPE(3, 9), cross), type);
    ad_tensor unit = ad_cast(ctx, ad_from(ctx, AD_F32, AD_SHAPE(1, 3, 3), one), type);
    ad_tensor k = ad_reshape(ctx, product(ctx, w, generator), AD_SHAPE(images, 3, 3));
    ad_tensor kk = product(ctx, k, k);
    ad_tensor s = ad_sum(ctx, ad_square(ctx, w), AD_AXIS(1), false);
    s = ad_reshape(ctx, s, AD_SHAPE(images, 1, 1));
    ad_tensor a = series(ctx, s, 1), b = series(ctx, s, 2), c = series(ctx, s, 3);
    ad_tensor turn = ad_add(ctx, ad_mul(ctx, a, k), ad_mul(ctx, b, kk));
    ad_tensor bend = ad_add(ctx, ad_mul(ctx, b, k), ad_mul(ctx, c, kk));
    turn = ad_add(ctx, unit, turn), bend = ad_add(ctx, unit, bend);
    ad_tensor shift = product(ctx, bend, ad_reshape(ctx, v, AD_SHAPE(images, 3, 1)));
    ad_tensor parts[] = {ad_reshape(ctx, turn, AD_SHAPE(images, 9)),
                         ad_reshape(ctx, shift, AD_SHAPE(images, 3))};
    return ad_concat(ctx, 2, parts, 1);
}

// Each ray's vector turned by its camera's R: (rays, 3); shifted by V v too where it is a point.
static ad_tensor move(ad_context *ctx, ad_tensor rows, ad_tensor vector, bool point) {
    ad_tensor part[3], out[3];
    for (int j = 0; j < 3; j++) part[j] = ad_slice(ctx, vector, 1, j, j + 1, 1);
    for (int i = 0; i < 3; i++) {
        out[i] = point ? ad_slice(ctx, rows, 1, 9 + i, 10 + i, 1) : (ad_tensor){0};
        for (int j = 0; j < 3; j++) {
            ad_tensor factor = ad_slice(ctx, rows, 1, 3 * i + j, 3 * i + j + 1, 1);
            ad_tensor term = ad_mul(ctx, factor, part[j]);
            out[i] = ad_is_null(out[i]) ? term : ad_add(ctx, out[i], term);
        }
    }
    return ad_concat(ctx, 3, out, 1);
}

/* ---- public */

bool render_camera_rays(ad_context *ctx, ad_tensor cameras, ad_tensor increments, ad_tensor ids,
                        ad_tensor *origins, ad_tensor *directions) {
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_camera_rays, INPUTS, (ad_tensor[]){cameras, ids}, NULL,
                         out);
    *origins = out[ORIGIN], *directions = out[DIRECTION];
    if (!good || ad_is_null(increments)) return good;
    ad_shape shape = ad_shape_of(ctx, increments);
    int64_t images = ad_shape_of(ctx, cameras).size[0], rays = ad_shape_of(ctx, ids).size[0];
    if (shape.rank != 2 || shape.size[0] != images || shape.size[1] != 6) {
        ad_raise(ctx, "camera_rays: increments are (%lld, 6), one twist an image",
                 (long long)images);
        return false;
    }
    ad_tensor image = ad_reshape(ctx, ad_slice(ctx, ids, 1, 0, 1, 1), AD_SHAPE(rays));
    ad_tensor rows = ad_gather(ctx, movements(ctx, increments), image, 0); // (rays, 12)
    *origins = move(ctx, rows, out[ORIGIN], true);
    *directions = move(ctx, rows, out[DIRECTION], false);
    return !ad_failed(ctx);
}

static void rays_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 40.0 * (double)call->input[IDS].size[0];
    *bytes = 32.0 * (double)call->input[IDS].size[0];
}

static bool rays_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 1 || s->shape.size[0] < 1) return false;
    if (s->type != AD_F32 && s->type != AD_F64) return false;
    s->inputs = INPUTS;
    s->input[CAMERAS].type = s->type;
    int64_t images = s->shape.size[0] < 64 ? s->shape.size[0] : 64;
    s->input[CAMERAS].shape = AD_SHAPE(images, RENDER_CAMERA_NUMBERS);
    s->input[CAMERAS].low = 2, s->input[CAMERAS].high = 3; // a lens without folds
    s->input[IDS].type = AD_U32, s->input[IDS].shape = AD_SHAPE(s->shape.size[0], 2);
    s->input[IDS].low = 0, s->input[IDS].high = (double)images;
    s->input[CAMERAS].constant = s->input[IDS].constant = true;
    return true;
}

const ad_op render_op_camera_rays = {
    .name = "camera_rays", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .flags = AD_OP_NO_GRADIENT, .infer = rays_infer, .cpu = rays_cpu, .cost = rays_cost,
    .sample = rays_sample};
