/* Numbers as colours, for people to look at; whoever measures takes the .npy files.

   Depth goes through Mikhailov's turbo map (2019), whose many hues show small steps, and errors
   through van der Walt and Smith's inferno (2015), whose lightness grows with the value, so that an
   error twice as large also looks larger. Both are kept as 17 colours with straight lines between
   them, at most 0.026 off the originals. */
#include <math.h>
#include <stdlib.h>

#include "render/render.h"

enum { COLOURS = 17, BINS = 1024 };

static const uint8_t turbo[COLOURS][3] = {
    { 48, 18, 59 },   { 64, 64, 161 },  { 70, 107, 227 }, { 65, 147, 254 }, { 40, 187, 235 },
    { 23, 220, 194 }, { 50, 241, 151 }, { 109, 253, 98 }, { 164, 252, 59 }, { 205, 235, 52 },
    { 237, 207, 57 }, { 253, 171, 51 }, { 250, 125, 32 }, { 234, 80, 13 },  { 208, 47, 4 },
    { 169, 21, 1 },   { 122, 4, 2 },
};

static const uint8_t inferno[COLOURS][3] = {
    { 0, 0, 3 },       { 10, 7, 35 },     { 32, 12, 74 },  { 60, 9, 101 },   { 87, 15, 109 },
    { 112, 25, 110 },  { 137, 34, 105 },  { 163, 43, 97 }, { 187, 55, 84 },  { 209, 70, 67 },
    { 228, 90, 49 },   { 241, 114, 29 },  { 249, 142, 8 }, { 251, 172, 16 }, { 248, 203, 52 },
    { 241, 233, 104 }, { 252, 254, 164 },
};

/* A number in [0, 1] (outside: the nearest end) as a colour. */
static void map_colour(uint8_t rgb[3], const uint8_t map[COLOURS][3], float value) {
    float clamped = value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f;
    float place = clamped * (float)(COLOURS - 1);
    int below = (int)place < COLOURS - 2 ? (int)place : COLOURS - 2;
    float share = place - (float)below;
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)((1.0f - share) * map[below][c] + share * map[below + 1][c] + 0.5f);
}

/* What is not there fades to white. */
static void fade(uint8_t rgb[3], float opacity) {
    float share = opacity > 0.0f ? (opacity < 1.0f ? opacity : 1.0f) : 0.0f;
    for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(share * rgb[c] + (1.0f - share) * 255.0f + 0.5f);
}

/* Depth counts where it is finite and at least half of the light is stopped. */
static bool depth_counts(const float *depth, const float *opacity, size_t i) {
    return isfinite(depth[i]) && (!opacity || opacity[i] >= 0.5f);
}

void render_depth_range(float range[2], const float *depth, const float *opacity, size_t count) {
    size_t bins[BINS] = { 0 }, counted = 0, passed = 0;
    float least = INFINITY, most = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (!depth_counts(depth, opacity, i)) continue;
        least = fminf(least, depth[i]);
        most = fmaxf(most, depth[i]);
        counted++;
    }
    range[0] = counted ? least : 0.0f;
    range[1] = counted ? most : 1.0f;
    if (counted == 0 || !(most > least)) return;

    // A histogram between the extremes gives the percentiles well enough for colours.
    float scale = (float)BINS / (most - least);
    for (size_t i = 0; i < count; i++) {
        if (!depth_counts(depth, opacity, i)) continue;
        int bin = (int)((depth[i] - least) * scale);
        bins[bin < BINS ? bin : BINS - 1]++;
    }
    size_t margin = counted / 100;
    for (int bin = 0; bin < BINS; bin++) {
        if (passed <= margin) range[0] = least + (float)bin / scale;
        if (passed < counted - margin) range[1] = least + (float)(bin + 1) / scale;
        passed += bins[bin];
    }
}

void render_colour_depth(uint8_t *rgb, const float *depth, const float *opacity, size_t count,
                         const float *range) {
    float found[2];
    if (!range) {
        render_depth_range(found, depth, opacity, count);
        range = found;
    }
    float span = range[1] > range[0] ? range[1] - range[0] : 1.0f;
    for (size_t i = 0; i < count; i++) {
        bool there = isfinite(depth[i]);
        map_colour(rgb + 3 * i, turbo, there ? (range[1] - depth[i]) / span : 0.0f);
        fade(rgb + 3 * i, !there ? 0.0f : opacity ? opacity[i] : 1.0f);
    }
}

void render_colour_normal(uint8_t *rgb, const float *normal, const float *opacity, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const float *n = normal + 3 * i;
        float length = sqrtf(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
        bool there = isfinite(length) && length > 0.0f;
        for (int c = 0; c < 3; c++)
            rgb[3 * i + (size_t)c] =
                there ? (uint8_t)((0.5f + 0.5f * n[c] / length) * 255.0f + 0.5f) : 255;
        fade(rgb + 3 * i, !there ? 0.0f : opacity ? opacity[i] : 1.0f);
    }
}

void render_colour_error(uint8_t *rgb, const uint8_t *image, const uint8_t *target, size_t count,
                         int channels, double brightest) {
    float scale = 1.0f / (255.0f * (float)channels * (float)(brightest > 0 ? brightest : 0.2));
    for (size_t i = 0; i < count; i++) {
        int sum = 0;
        for (size_t c = 0; c < (size_t)channels; c++)
            sum += abs(image[i * (size_t)channels + c] - target[i * (size_t)channels + c]);
        map_colour(rgb + 3 * i, inferno, (float)sum * scale);
    }
}
