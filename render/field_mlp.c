/* The reference field: the original NeRF (Mildenhall et al. 2020, sections 4, 5 and appendix A).
 *
 *   e = positional encoding of the point in [-1, 1]^3, 10 levels            (63)
 *   h = 8 dense layers with ReLU (256), e beside h again before the sixth
 *   sigma = exp(density head(h)),  feature = linear(h)                      (1), (256)
 *   colour = sigmoid(linear(relu(linear(feature beside the direction's encoding, 4 levels))))
 *
 * Two such networks see each ray. The coarse one looks at a third of the samples, one in each
 * equal part of the ray's way through the box; the rest (64 and 128 of 192) are drawn where its
 * weights are, and the fine one looks at all of them. Both pictures have their loss. Unlike the
 * paper's, the density is an exponential, because a rectifier that starts at zero never learns.
 *
 * Rays are traced in pieces of few enough samples (settings.batch) that the layers' outputs stay
 * small: while training in checkpoint scopes, where more than one is needed, and views a piece at a
 * time. Fast waves start with small weights; see `smoothed`. */
#include "render/model.h"

#include <math.h>
#include <stdio.h>

enum { DEPTH = 8, SKIP = 5, POINT_LEVELS = 10, DIRECTION_LEVELS = 4 };
enum { POINT_NUMBERS = 3 + 6 * POINT_LEVELS, DIRECTION_NUMBERS = 3 + 6 * DIRECTION_LEVELS };
enum { DENSITY = DEPTH, FEATURE, COLOUR, RGB, LAYERS }; // after the eight
// A layer that reads two things side by side is the sum of two products: the second one's weights
// come after all layers. So nothing is laid side by side, and directions cost rays, not samples.
enum { SKIP_WEIGHT = 2 * LAYERS, DIRECTION_WEIGHT, PARAMETERS };
enum { COARSE, FINE };
enum { MLP_WIDTH_MAX = 256, VIEW_ROWS = 1 << 14 };

// Each network's parameters: weight and bias of one layer after the other.
static const ad_tensor *network_of(const render_model *model, int which) {
    return model->parameters + which * PARAMETERS;
}

// Waves count the less the faster they are, one over their frequency, at the same sum of squares.
// All alike, a point's neighbours tell nothing of it, and the first hundred steps teach nothing.
static ad_tensor smoothed(ad_context *ctx, ad_tensor weight, int64_t first) {
    float scale[MLP_WIDTH_MAX + POINT_NUMBERS];
    double squares = 0;
    int64_t all = ad_shape_of(ctx, weight).size[1];
    for (int i = 0; i < POINT_NUMBERS; i++) {
        double share = i < 3 ? 1 : 1.0 / (1 << (i - 3) / 6); // a sine and a cosine an axis
        scale[first + i] = (float)share;
        squares += share * share;
    }
    for (int64_t i = 0; i < all; i++)
        scale[i] = i < first ? 1 : scale[i] * (float)sqrt(POINT_NUMBERS / squares);
    return ad_mul(ctx, weight, ad_from(ctx, AD_F32, AD_SHAPE(1, all), scale));
}

// Weights (out, in) and those of what is read beside them (out, beside), drawn as one matrix.
static void open_network(render_model *model, const char *network) {
    static const char *const heads[] = {"density", "feature", "colour", "rgb"};
    ad_context *ctx = model->ctx;
    int64_t width = model->settings.width, half = (width + 1) / 2;
    ad_tensor beside[2] = {{0}};
    for (int l = 0; l < LAYERS; l++) {
        int64_t in = l == 0 ? POINT_NUMBERS : l == RGB ? half : width;
        int64_t out = l == DENSITY ? 1 : l == COLOUR ? half : l == RGB ? 3 : width;
        int64_t all = in + (l == SKIP ? POINT_NUMBERS : l == COLOUR ? DIRECTION_NUMBERS : 0);
        ad_tensor weight = l < DEPTH || l == COLOUR ? ad_he_normal(ctx, out, all)
                                                    : ad_xavier_normal(ctx, out, all);
        if (l == 0 || l == SKIP) weight = smoothed(ctx, weight, all - POINT_NUMBERS);
        if (all > in) {
            beside[l == COLOUR] = ad_slice(ctx, weight, 1, in, all, 1);
            weight = ad_slice(ctx, weight, 1, 0, in, 1);
        }
        char layer[32], name[64];
        snprintf(layer, sizeof layer, "layer.%d", l);
        const char *part = l < DEPTH ? layer : heads[l - DEPTH];
        snprintf(name, sizeof name, "%s.%s.weight", network, part);
        render_model_parameter(model, name, ad_contiguous(ctx, weight));
        snprintf(name, sizeof name, "%s.%s.bias", network, part);
        render_model_parameter(model, name, ad_zeros(ctx, out));
    }
    char name[64];
    snprintf(name, sizeof name, "%s.layer.%d.encoding.weight", network, SKIP);
    render_model_parameter(model, name, ad_contiguous(ctx, beside[0]));
    snprintf(name, sizeof name, "%s.colour.direction.weight", network);
    render_model_parameter(model, name, ad_contiguous(ctx, beside[1]));
}

static bool mlp_open(render_model *model, ad_message *error) {
    ad_context *ctx = model->ctx;
    ad_scope_begin(ctx, "mlp field");
    open_network(model, "coarse");
    open_network(model, "fine");
    ad_scope_end(ctx);
    return !ad_failed(ctx) || ad_fail(error, "%s", ad_error_text(ctx));
}

// Layers first ... first + count - 1, with ReLU between them, in one kernel.
static ad_tensor layers(ad_context *ctx, ad_tensor x, const ad_tensor *network, int first,
                        int count, bool bf16) {
    ad_tensor weight[DEPTH], bias[DEPTH];
    for (int i = 0; i < count; i++) {
        weight[i] = network[2 * (first + i)];
        bias[i] = network[2 * (first + i) + 1];
    }
    return ad_mlp(ctx, x, count, weight, bias, (ad_tensor){0}, &(ad_mlp_options){.bf16 = bf16});
}

// A head of one or three numbers: too narrow for the kernel above.
static ad_tensor head(ad_context *ctx, ad_tensor x, const ad_tensor *network, int layer) {
    return ad_linear(ctx, x, network[2 * layer], network[2 * layer + 1]);
}

// relu(x) or relu(x + y); what went in ends here, unless the tape needs it.
static ad_tensor rectified(ad_context *ctx, ad_tensor x, ad_tensor y) {
    ad_tensor sum = y.slot ? ad_add(ctx, x, y) : x, rectified = ad_relu(ctx, sum);
    ad_free(ctx, x);
    if (y.slot) ad_free(ctx, y), ad_free(ctx, sum);
    return rectified;
}

// points (n, 3) -> h (n, width)
static ad_tensor trunk(ad_context *ctx, const ad_tensor *network, ad_tensor points, bool bf16) {
    ad_tensor centred = ad_affine(ctx, points, 2, -1);
    ad_tensor encoded = render_positional_encoding(ctx, centred, POINT_LEVELS); // (n, 63)
    ad_tensor beside = ad_mlp(ctx, encoded, 1, &network[SKIP_WEIGHT], NULL, (ad_tensor){0},
                              &(ad_mlp_options){.bf16 = bf16});
    ad_tensor h = layers(ctx, encoded, network, 0, SKIP + 1, bf16);
    ad_free(ctx, encoded);
    h = rectified(ctx, h, beside);
    ad_tensor last = layers(ctx, h, network, SKIP + 1, DEPTH - SKIP - 1, bf16);
    ad_free(ctx, h);
    return rectified(ctx, last, (ad_tensor){0});
}

static ad_tensor mlp_density(render_model *model, ad_tensor points, ad_tensor count) {
    const ad_tensor *network = network_of(model, FINE);
    ad_context *ctx = model->ctx;
    ad_tensor h = trunk(ctx, network, points, model->settings.bf16);
    ad_tensor sigma = render_density(ctx, head(ctx, h, network, DENSITY));
    ad_free(ctx, h);
    if (!count.slot) return sigma;
    return render_mask_rows(ctx, sigma, count);
}

// points (n, 3), encoded directions (rays, 27) -> sigma (n), colour (n, 3)
static void shade(ad_context *ctx, const ad_tensor *network, ad_tensor points,
                  ad_tensor directions, ad_tensor offsets, bool bf16, ad_tensor *sigma,
                  ad_tensor *colour) {
    ad_tensor h = trunk(ctx, network, points, bf16);
    *sigma = render_density(ctx, head(ctx, h, network, DENSITY));
    ad_tensor feature = layers(ctx, h, network, FEATURE, 1, bf16);
    ad_free(ctx, h);
    ad_tensor from_point = layers(ctx, feature, network, COLOUR, 1, bf16); // (n, width / 2)
    ad_free(ctx, feature);
    ad_tensor turned = ad_linear(ctx, directions, network[DIRECTION_WEIGHT], (ad_tensor){0});
    ad_tensor hidden = rectified(ctx, from_point, ad_segment_repeat(ctx, turned, offsets,
                                                                    ad_count(ctx, *sigma)));
    *colour = ad_sigmoid(ctx, head(ctx, hidden, network, RGB));
    ad_free(ctx, hidden);
}

// All samples of the rays, `each` a ray, through one network to pixels: in pieces of whole rays and
// at most `piece` samples.
static void shade_rays(render_model *model, int which, ad_tensor origins, ad_tensor directions,
                       const render_samples *at, int64_t each, int64_t piece,
                       render_pixels *pixels) {
    ad_context *ctx = model->ctx;
    const ad_tensor *network = network_of(model, which);
    ad_tensor points = render_points(ctx, origins, directions, at->t, at->offsets);
    ad_tensor encoded = render_positional_encoding(ctx, directions, DIRECTION_LEVELS);
    ad_tensor sigma = {0}, colour = {0};
    bool bf16 = model->settings.bf16;
    int64_t rows = ad_count(ctx, at->t), rays = rows / each;
    int64_t step = piece > each ? piece / each : 1;
    if (rays <= step) {
        shade(ctx, network, points, encoded, at->offsets, bf16, &sigma, &colour);
    } else {
        for (int64_t ray = 0; ray < rays && !ad_failed(ctx); ray += step) {
            int64_t stop = ray + step < rays ? ray + step : rays;
            ad_tensor s, c;
            ad_checkpoint_begin(ctx);
            // Rays have equally many samples: every piece starts like the first.
            shade(ctx, network, ad_slice(ctx, points, 0, ray * each, stop * each, 1),
                  ad_slice(ctx, encoded, 0, ray, stop, 1),
                  ad_slice(ctx, at->offsets, 0, 0, stop - ray + 1, 1), bf16, &s, &c);
            ad_keep(ctx, s), ad_keep(ctx, c);
            ad_checkpoint_end(ctx);
            sigma = ray ? ad_concat(ctx, 2, (ad_tensor[]){sigma, s}, 0) : s;
            colour = ray ? ad_concat(ctx, 2, (ad_tensor[]){colour, c}, 0) : c;
        }
    }
    render_composite(ctx, sigma, colour, at->t, at->delta, at->offsets, 0, pixels);
}

// Always traces all rays, with all their samples: rays of equally many need no fitting.
static void mlp_trace(render_model *model, ad_tensor origins, ad_tensor directions,
                      const render_tracing *how, render_traced *traced) {
    ad_context *ctx = model->ctx;
    const bool training = how->training;
    int all = model->settings.march_steps, few = all / 3 < 3 ? 3 : all / 3;
    int more = all > few ? all - few : 0;
    int64_t most = how->capacity < VIEW_ROWS ? how->capacity : VIEW_ROWS;
    int64_t rays = most / (few + more);
    // A view's rays are few as it is, and leave nothing on the tape.
    int64_t piece = training ? model->settings.batch : INT64_MAX;
    render_samples coarse, fine;
    if (!training) ad_no_grad_begin(ctx);
    render_stratified(ctx, origins, directions, &model->domain, model->near_distance, few,
                      training ? 0 : rays > 0 ? rays : 1, training, &coarse);
    shade_rays(model, COARSE, origins, directions, &coarse, few, piece, &traced->coarse);
    render_importance(ctx, &coarse, traced->coarse.weight, few, more, training, &fine);
    shade_rays(model, FINE, origins, directions, &fine, few + more, piece,
               &traced->pixels);
    traced->samples = fine;
    if (!training) {
        traced->rays = fine.rays, traced->count = fine.count;
        ad_no_grad_end(ctx);
    }
}

const render_field render_field_mlp = {.name = "mlp", .open = mlp_open, .trace = mlp_trace,
                                       .density = mlp_density};
