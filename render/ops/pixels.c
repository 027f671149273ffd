/* Pixels of all images as one long list: drawing some at random, and reading their colours.
 *
 * Image i owns the pixels pixel_starts[i] ... pixel_starts[i + 1] - 1, row by row; images may
 * differ in size. A draw is a function of (seed, ordinal of the operation in the step, step, ray);
 * the step is an operand, so that a captured step draws anew whenever it has advanced. Every pixel
 * is equally likely: 64 random bits times the number of pixels, of which the upper part counts, so
 * the bias is below one part in 2^32. Masked pixels are left out by a list of the allowed ones.
 * Of many rays only the first `live` are drawn: the others get an image that does not exist, whose
 * colour and ray are zero. */
#include "render/render.h"

#include "autodiff/ops/random.h"

#include <string.h>

/* ---- sample_pixels */

enum { STARTS, STEP, ALLOWED, LIVE, SAMPLE_INPUTS };
enum { LANES = 16 };

typedef struct sample_attributes {
    int64_t rays;
    uint64_t seed;
    uint32_t ordinal, spare;
} sample_attributes;

static bool has(const ad_view *in, int inputs, int i) {
    return i < inputs && ad_view_present(&in[i]);
}

static void sample_infer(ad_infer *call) {
    const ad_view *in = call->input;
    const sample_attributes *a = call->attributes;
    if (in[STARTS].rank != 1 || in[STARTS].size[0] < 2 || in[STARTS].type != AD_U32)
        ad_infer_fail(call, "pixel starts are u32 (images + 1), of at least one image");
    else if (in[STEP].type != AD_U32 || ad_view_count(&in[STEP]) != 1)
        ad_infer_fail(call, "the step is one u32 number");
    else if (has(in, call->inputs, ALLOWED)
             && (in[ALLOWED].rank != 1 || in[ALLOWED].type != AD_U32 || in[ALLOWED].size[0] < 1))
        ad_infer_fail(call, "the allowed pixels are a u32 list of at least one");
    else if (has(in, call->inputs, LIVE)
             && (in[LIVE].type != AD_U32 || ad_view_count(&in[LIVE]) != 1))
        ad_infer_fail(call, "the count of live rays is one u32 number");
    else
        call->output[0] = (ad_view){.type = AD_U32, .rank = 2, .size = {a->rays, 2}};
}

// The image that owns a pixel: the last one that starts at or before it. Mostly all are of one
// size: then a division finds it.
static int64_t find_image(const uint32_t *starts, int64_t images, uint32_t each, uint32_t pixel) {
    int64_t low = each ? pixel / each : images, high = images - 1;
    if (low < images && starts[low] <= pixel && pixel < starts[low + 1]) return low;
    low = 0;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (starts[middle] <= pixel) low = middle;
        else high = middle - 1;
    }
    return low;
}

// 64 random bits for each of LANES rays from `ray` on.
static void draw_bits(const sample_attributes *a, uint32_t step, int64_t ray,
                      uint32_t high[LANES], uint32_t low[LANES]) {
    uint32_t above = (uint32_t)(ray >> 32); // LANES divides 2^32
    for (int i = 0; i < LANES; i++) {
        ad_random_words word = ad_random_philox((uint32_t)ray + (uint32_t)i, above, step,
                                                a->ordinal, (uint32_t)a->seed,
                                                (uint32_t)(a->seed >> 32));
        high[i] = word.x, low[i] = word.y;
    }
}

static void sample_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const sample_attributes *a = launch->attributes;
    const uint32_t *starts = in[STARTS].data;
    int64_t images = in[STARTS].size[0] - 1, live = a->rays;
    uint32_t step = *(const uint32_t *)in[STEP].data, total = starts[images];
    bool listed = has(in, launch->inputs, ALLOWED);
    const uint32_t *allowed = listed ? in[ALLOWED].data : NULL;
    uint64_t choices = listed ? (uint64_t)in[ALLOWED].size[0] : total;
    uint32_t *ids = launch->output[0].data; // (rays, 2)
    if (has(in, launch->inputs, LIVE)) live = *(const uint32_t *)in[LIVE].data;
    if (live > a->rays) live = a->rays;
    int64_t blocks = (live + LANES - 1) / LANES;
    uint32_t each = (uint32_t)(total / images);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 128)
    for (int64_t block = 0; block < blocks; block++) {
        uint32_t high[LANES], low[LANES];
        draw_bits(a, step, block * LANES, high, low);
        for (int64_t i = 0; i < LANES && block * LANES + i < live; i++) {
            // The upper 32 bits of (high 2^32 + low) choices / 2^32; never overflows.
            uint64_t pick = (high[i] * choices + (low[i] * choices >> 32)) >> 32;
            uint32_t pixel = listed ? allowed[pick] : (uint32_t)pick;
            if (pixel >= total) pixel = total ? total - 1 : 0;
            int64_t image = find_image(starts, images, each, pixel);
            uint32_t *id = ids + 2 * (block * LANES + i);
            id[0] = (uint32_t)image;
            id[1] = pixel > starts[image] ? pixel - starts[image] : 0;
        }
    }
    if (live < a->rays) memset(ids + 2 * live, 0xff, (size_t)(a->rays - live) * 8);
}

ad_tensor render_sample_pixels(ad_context *ctx, ad_tensor pixel_starts, ad_tensor allowed,
                               ad_tensor live, int64_t rays) {
    sample_attributes attributes = {.rays = rays, .seed = ad_seed(ctx),
                                    .ordinal = ad_random_ordinal(ctx)};
    return ad_apply1(ctx, &render_op_sample_pixels, SAMPLE_INPUTS,
                     (ad_tensor[]){pixel_starts, ad_step_tensor(ctx), allowed, live},
                     &attributes);
}

static bool sample_sample(ad_sample *s) {
    if (s->variant > 2 || s->shape.rank != 1 || s->shape.size[0] < 2) return false;
    s->inputs = 2 + s->variant;
    for (int i = 0; i < s->inputs; i++) {
        s->input[i].type = AD_U32, s->input[i].constant = true;
        s->input[i].shape = i == STEP || i == LIVE ? AD_SCALAR : s->shape;
        s->input[i].low = 0, s->input[i].high = 1000, s->input[i].sorted = i == STARTS;
    }
    *(sample_attributes *)s->attributes.bytes = (sample_attributes){.rays = 64, .seed = 7};
    return true;
}

const ad_op render_op_sample_pixels = {
    .name = "sample_pixels", .inputs_min = 2, .inputs_max = SAMPLE_INPUTS, .outputs = 1,
    .optional = 1u << ALLOWED | 1u << LIVE, .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM,
    .attribute_bytes = sizeof(sample_attributes), .infer = sample_infer, .cpu = sample_cpu,
    .sample = sample_sample};

/* ---- fetch_pixels */

enum { PIXELS, FETCH_STARTS, IDS, FETCH_INPUTS };

static void fetch_infer(ad_infer *call) {
    const ad_view *in = call->input;
    if (in[PIXELS].rank != 1 || in[PIXELS].type != AD_U32)
        ad_infer_fail(call, "pixels are u32 (total), four bytes RGBA each");
    else if (in[FETCH_STARTS].rank != 1 || in[FETCH_STARTS].size[0] < 1
             || in[FETCH_STARTS].type != AD_U32)
        ad_infer_fail(call, "pixel starts are u32 (images + 1)");
    else if (in[IDS].rank != 2 || in[IDS].size[1] != 2 || in[IDS].type != AD_U32)
        ad_infer_fail(call, "ids are u32 (rays, 2): image and pixel");
    else
        call->output[0] = (ad_view){.type = AD_F32, .rank = 2, .size = {in[IDS].size[0], 4}};
}

static void fetch_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const uint32_t *pixels = in[PIXELS].data, *starts = in[FETCH_STARTS].data;
    const uint32_t *ids = in[IDS].data;
    float *out = launch->output[0].data; // (rays, 4)
    int64_t rays = in[IDS].size[0], images = in[FETCH_STARTS].size[0] - 1;
    uint64_t total = (uint64_t)in[PIXELS].size[0];
    // In turns: the rays that are there come first.
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (rays > 4096)
    for (int64_t ray = 0; ray < rays; ray++) {
        uint32_t image = ids[2 * ray], word = 0;
        // A pixel that is not there is transparent black.
        uint64_t at = image < images ? (uint64_t)starts[image] + ids[2 * ray + 1] : total;
        if (at < total) word = pixels[at];
        for (int c = 0; c < 4; c++) out[4 * ray + c] = (float)(word >> 8 * c & 255) / 255.0f;
    }
}

ad_tensor render_fetch_pixels(ad_context *ctx, ad_tensor pixels, ad_tensor pixel_starts,
                              ad_tensor ids) {
    return ad_apply1(ctx, &render_op_fetch_pixels, FETCH_INPUTS,
                     (ad_tensor[]){pixels, pixel_starts, ids}, NULL);
}

static bool fetch_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 1 || s->shape.size[0] < 1) return false;
    s->inputs = FETCH_INPUTS;
    for (int i = 0; i < FETCH_INPUTS; i++) {
        s->input[i].type = AD_U32, s->input[i].constant = true;
        s->input[i].shape = s->shape, s->input[i].low = 0;
        s->input[i].high = (double)s->shape.size[0];
    }
    s->input[PIXELS].high = 4294967295.0;
    s->input[FETCH_STARTS].sorted = true;
    s->input[IDS].shape = AD_SHAPE(s->shape.size[0], 2);
    return true;
}

const ad_op render_op_fetch_pixels = {
    .name = "fetch_pixels", .inputs_min = FETCH_INPUTS, .inputs_max = FETCH_INPUTS, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .infer = fetch_infer, .cpu = fetch_cpu, .sample = fetch_sample};
