/* The reference field: the original NeRF (Mildenhall et al. 2020, sections 4, 5 and appendix A).
 *
 *   e = positional encoding of the point in [-1, 1]^3, 10 levels            (63)
 *   h = 8 dense layers with ReLU (256), e beside h again before the sixth
 *   sigma = exp(density head(h)),  feature = linear(h)                      (1), (256)
 *   colour = sigmoid(linear(relu(linear(feature beside the direction's encoding, 4 levels))))
 *
 * Two such networks see each ray. The coarse one looks at a third of the samples, one in each equal
 * part of the ray's way through the box; the rest (64 and 128 of 192) are drawn where its weights
 * are, and the fine one looks at all of them. Both pictures have their loss. Unlike the paper's, the
 * density is an exponential, because a rectifier that starts at zero everywhere never learns.
 *
 * Rays are traced in pieces of few enough samples that the layers' outputs stay small: while
 * training in checkpoint scopes, where more than one is needed, and views a piece at a time. */
#include "render/model.h"

#include <stdio.h>

enum { DEPTH = 8, SKIP = 5, POINT_LEVELS = 10, DIRECTION_LEVELS = 4 };
enum { POINT_NUMBERS = 3 + 6 * POINT_LEVELS, DIRECTION_NUMBERS = 3 + 6 * DIRECTION_LEVELS };
enum { DENSITY = DEPTH, FEATURE, COLOUR, RGB, LAYERS }; // after the eight
enum { COARSE, FINE };
enum { PIECE_ROWS = 1 << 15, VIEW_ROWS = 1 << 14 };

// Each network's parameters: weight and bias of one layer after the other.
static const ad_tensor *network_of(const render_model *model, int which) {
    return model->parameters + which * 2 * LAYERS;
}

static bool mlp_open(render_model *model, ad_message *error) {
    static const char *const networks[] = {"coarse", "fine"};
    static const char *const heads[] = {"density", "feature", "colour", "rgb"};
    ad_context *ctx = model->ctx;
    int64_t width = model->settings.width, half = (width + 1) / 2;
    ad_scope_begin(ctx, "mlp field");
    for (int n = COARSE; n <= FINE; n++) {
        for (int l = 0; l < LAYERS; l++) {
            int64_t in = l == 0 ? POINT_NUMBERS : l == SKIP ? POINT_NUMBERS + width
                       : l == COLOUR ? width + DIRECTION_NUMBERS : l == RGB ? half : width;
            int64_t out = l == DENSITY ? 1 : l == COLOUR ? half : l == RGB ? 3 : width;
            bool relu = l < DEPTH || l == COLOUR;
            char layer[32], name[64];
            snprintf(layer, sizeof layer, "layer.%d", l);
            for (int part = 0; part < 2; part++) {
                snprintf(name, sizeof name, "%s.%s.%s", networks[n],
                         l < DEPTH ? layer : heads[l - DEPTH], part ? "bias" : "weight");
                render_model_parameter(model, name, part ? ad_zeros(ctx, out)
                                       : relu ? ad_he_normal(ctx, out, in)
                                              : ad_xavier_normal(ctx, out, in));
            }
        }
    }
    ad_scope_end(ctx);
    return !ad_failed(ctx) || ad_fail(error, "%s", ad_error_text(ctx));
}

// One layer; what went in ends here, unless the tape needs it.
static ad_tensor dense(ad_context *ctx, ad_tensor x, const ad_tensor *network, int layer,
                       bool last_use) {
    bool relu = layer < DEPTH || layer == COLOUR;
    ad_tensor y = ad_dense(ctx, x, network[2 * layer], network[2 * layer + 1],
                           relu ? AD_RELU : AD_LINEAR);
    if (last_use) ad_free(ctx, x);
    return y;
}

// points (n, 3) -> h (n, width)
static ad_tensor trunk(ad_context *ctx, const ad_tensor *network, ad_tensor points) {
    ad_tensor centred = ad_affine(ctx, points, 2, -1);
    ad_tensor encoded = render_positional_encoding(ctx, centred, POINT_LEVELS); // (n, 63)
    ad_tensor h = dense(ctx, encoded, network, 0, false);
    for (int layer = 1; layer < DEPTH; layer++) {
        if (layer == SKIP) {
            ad_tensor both = ad_concat(ctx, 2, (ad_tensor[]){encoded, h}, 1); // (n, 63 + width)
            ad_free(ctx, h), ad_free(ctx, encoded);
            h = both;
        }
        h = dense(ctx, h, network, layer, true);
    }
    return h;
}

static ad_tensor mlp_density(render_model *model, ad_tensor points, ad_tensor count) {
    const ad_tensor *network = network_of(model, FINE);
    ad_context *ctx = model->ctx;
    ad_tensor h = trunk(ctx, network, points);
    ad_tensor sigma = render_density(ctx, dense(ctx, h, network, DENSITY, true));
    if (!count.slot) return sigma;
    return render_mask_rows(ctx, sigma, count);
}

// points (n, 3), encoded directions (rays, 27) -> sigma (n), colour (n, 3)
static void shade(ad_context *ctx, const ad_tensor *network, ad_tensor points,
                  ad_tensor directions, ad_tensor offsets, ad_tensor *sigma, ad_tensor *colour) {
    ad_tensor h = trunk(ctx, network, points);
    *sigma = render_density(ctx, dense(ctx, h, network, DENSITY, false));
    ad_tensor feature = dense(ctx, h, network, FEATURE, true);
    ad_tensor input = render_beside_ray(ctx, feature, directions, offsets); // (n, width + 27)
    ad_free(ctx, feature);
    ad_tensor hidden = dense(ctx, input, network, COLOUR, true); // (n, width / 2)
    *colour = ad_sigmoid(ctx, dense(ctx, hidden, network, RGB, true));
}

// All samples of the rays, `each` a ray, through one network to pixels.
static void shade_rays(render_model *model, int which, ad_tensor origins, ad_tensor directions,
                       const render_samples *at, int64_t each, render_pixels *pixels) {
    ad_context *ctx = model->ctx;
    const ad_tensor *network = network_of(model, which);
    ad_tensor points = render_points(ctx, origins, directions, at->t, at->offsets);
    ad_tensor encoded = render_positional_encoding(ctx, directions, DIRECTION_LEVELS);
    ad_tensor sigma = {0}, colour = {0};
    int64_t rows = ad_count(ctx, at->t), rays = each ? rows / each : 0, step = PIECE_ROWS / each;
    if (rows <= PIECE_ROWS) {
        shade(ctx, network, points, encoded, at->offsets, &sigma, &colour);
    } else {
        for (int64_t ray = 0; ray < rays && !ad_failed(ctx); ray += step) {
            int64_t stop = ray + step < rays ? ray + step : rays;
            ad_tensor s, c;
            ad_checkpoint_begin(ctx);
            // Rays have equally many samples: every piece starts like the first.
            shade(ctx, network, ad_slice(ctx, points, 0, ray * each, stop * each, 1),
                  ad_slice(ctx, encoded, 0, ray, stop, 1),
                  ad_slice(ctx, at->offsets, 0, 0, stop - ray + 1, 1), &s, &c);
            ad_keep(ctx, s), ad_keep(ctx, c);
            ad_checkpoint_end(ctx);
            sigma = ray ? ad_concat(ctx, 2, (ad_tensor[]){sigma, s}, 0) : s;
            colour = ray ? ad_concat(ctx, 2, (ad_tensor[]){colour, c}, 0) : c;
        }
    }
    render_composite(ctx, sigma, colour, at->t, at->delta, at->offsets, 0, pixels);
}

static void mlp_trace(render_model *model, ad_tensor origins, ad_tensor directions,
                      ad_tensor live, int64_t capacity, bool training, render_traced *traced) {
    ad_context *ctx = model->ctx;
    int all = model->settings.march_steps, few = all / 3 < 3 ? 3 : all / 3;
    int more = all > few ? all - few : 0;
    int64_t most = capacity < VIEW_ROWS ? capacity : VIEW_ROWS, rays = most / (few + more);
    render_samples coarse, fine;
    (void)live; // always all of them: rays of equally many samples need no fitting
    if (!training) ad_no_grad_begin(ctx);
    render_stratified(ctx, origins, directions, &model->domain, model->near_distance, few,
                      training ? 0 : rays > 0 ? rays : 1, training, &coarse);
    shade_rays(model, COARSE, origins, directions, &coarse, few, &traced->coarse);
    render_importance(ctx, &coarse, traced->coarse.weight, few, more, training, &fine);
    shade_rays(model, FINE, origins, directions, &fine, few + more, &traced->pixels);
    traced->samples = fine;
    if (!training) {
        traced->rays = fine.rays, traced->count = fine.count;
        ad_no_grad_end(ctx);
    }
}

const render_field render_field_mlp = {.name = "mlp", .open = mlp_open, .trace = mlp_trace,
                                       .density = mlp_density};
