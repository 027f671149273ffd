// Materials and light: what a ray sees where it meets a surface.
//
// One warm window to the upper left lights the table (soft shadow by the narrowest gap a shadow
// ray passes, after Quilez), a cool sky fills it, the table throws a little warm light back, and
// ambient occlusion darkens corners. Glazed things also mirror the room by Schlick's Fresnel term,
// window panes included; that and the highlights are what depends on the view. Textures are
// functions of the point in its object's own frame, their stripes at least two or three pixels of
// a 160 x 160 picture wide.
//
// All of it is a pure function of the ray: no random numbers, so the same ray gives the same bits.
#include "scene.h"

#pragma STDC FP_CONTRACT OFF

static const double pi = 3.14159265358979323846;

// How a point of a surface answers light.
typedef struct finish {
    vec3 albedo;
    double mirror;    // reflectance at normal incidence; 0 = no mirror image
    double sheen;     // strength of the blurred highlight
    double sharpness; // its Blinn-Phong exponent
} finish;

// Colours are picked by eye in display values and then made linear.
static vec3 paint(int hex) {
    double r = (hex >> 16 & 255) / 255.0, g = (hex >> 8 & 255) / 255.0, b = (hex & 255) / 255.0;
    return v3(pow(r, 2.2), pow(g, 2.2), pow(b, 2.2));
}

// Smooth noise in [0, 1]: hashed values on the integer lattice, blended by cubics.
static double lattice(int x, int y) {
    unsigned h = (unsigned)x * 0x8da6b343u ^ (unsigned)y * 0xd8163841u;
    h = (h ^ h >> 15) * 0x2c1b3c6du;
    h = (h ^ h >> 12) * 0x297a2d39u;
    return (h ^ h >> 15) / 4294967295.0;
}

static double noise(double x, double y) {
    double fx = floor(x), fy = floor(y);
    double u = smooth_step(0.0, 1.0, x - fx), v = smooth_step(0.0, 1.0, y - fy);
    int i = (int)fx, j = (int)fy;
    return mix(mix(lattice(i, j), lattice(i + 1, j), u),
               mix(lattice(i, j + 1), lattice(i + 1, j + 1), u), v);
}

// 1 inside a stripe of the given share of each period, 0 outside, with soft edges.
static double stripes(double x, double share) {
    double centre = fabs(x - floor(x) - 0.5);
    return 1.0 - smooth_step(0.5 * share - 0.04, 0.5 * share + 0.04, centre);
}

// Textures --------------------------------------------------------------------------------------

// Planks with year rings cut lengthwise, and a dark gap between one plank and the next.
static vec3 wood(vec3 p) {
    double plank = floor(p.x / 0.32 + 0.5), across = p.x - 0.32 * plank;
    double y = p.y + 1.7 * plank;
    double ring = 9.0 * across + 2.6 * noise(1.3 * y, 5.0 * plank) + noise(2.5 * across, 2.0 * y);
    double grain = 0.5 + 0.5 * sin(2.0 * pi * ring);
    vec3 colour = mix3(paint(0xc48f5e), paint(0x8a5530), 0.85 * grain * grain);
    colour = scale(colour, 0.80 + 0.25 * lattice((int)plank, 7) + 0.15 * noise(14.0 * across, y));
    double gap = smooth_step(0.150, 0.158, fabs(across));
    return scale(colour, 1.0 - 0.65 * gap);
}

// Gingham: white where neither thread is coloured, half where one is, full where both are.
static vec3 gingham(vec3 p) {
    vec3 white = paint(0xf4eee2), half = paint(0xd98480), full = paint(0xb03434);
    double a = stripes(p.x / 0.16, 0.5), b = stripes(p.y / 0.16, 0.5);
    double hem = smooth_step(0.515, 0.525, fabs(p.x)) + smooth_step(0.455, 0.465, fabs(p.y));
    vec3 colour = mix3(mix3(white, half, a), mix3(half, full, a), b);
    return mix3(colour, white, clamp(hem, 0.0, 1.0));
}

// Teal enamel with a cream belt of dots, thinner lines above and below it.
static vec3 enamel(vec3 p) {
    vec3 teal = paint(0x1f7a86), cream = paint(0xf4e6c6);
    double turns = 14.0 * atan2(p.y, p.x) / (2.0 * pi) + 0.5;
    double along = (turns - floor(turns) - 0.5) * 0.184, up = p.z - 0.30;
    double dot_mask = 1.0 - smooth_step(0.046, 0.056, length2(along, up));
    double line = 1.0 - smooth_step(0.010, 0.016, fabs(fabs(up) - 0.105));
    double body = 1.0 - smooth_step(0.415, 0.43, length2(p.x, p.y));
    double rim = 1.0 - smooth_step(0.012, 0.016, length2(length2(p.x, p.y) - 0.22, p.z - 0.56));
    double mask = fmax(rim, body * fmax(dot_mask, line));
    return mix3(teal, cream, mask);
}

static vec3 glaze(vec3 p) {
    double angle = atan2(p.y, p.x) / (2.0 * pi);
    double wave = 0.030 * fabs(2.0 * (8.0 * angle - floor(8.0 * angle)) - 1.0);
    double zigzag = 1.0 - smooth_step(0.016, 0.024, fabs(p.z - 0.19 - wave));
    double bands = fmax(1.0 - smooth_step(0.012, 0.018, fabs(p.z - 0.125)),
                        1.0 - smooth_step(0.012, 0.018, fabs(p.z - 0.285)));
    double top = smooth_step(0.475, 0.485, p.z);
    return mix3(paint(0xefe4d2), paint(0xb5573a), fmax(top, fmax(zigzag, bands)));
}

static vec3 china(vec3 p) {
    vec3 white = paint(0xf3f1ec), blue = paint(0x2d4f9e);
    if (p.z < -0.5) { // the saucer: one blue line around its rim
        double line = 1.0 - smooth_step(0.014, 0.022, fabs(length2(p.x, p.y) - 0.225));
        return mix3(white, blue, line);
    }
    double outside = smooth_step(0.006, 0.010, length2(p.x, p.y) - 0.105 -
                                                   0.075 * sqrt(clamp(p.z / 0.26, 0.0, 1.0)));
    double blue_mask = stripes(10.0 * atan2(p.y, p.x) / (2.0 * pi), 0.45);
    double belt = smooth_step(0.035, 0.045, p.z) * (1.0 - smooth_step(0.20, 0.21, p.z));
    return mix3(white, blue, outside * belt * blue_mask);
}

// Blue cloth, a gilt frame, and the sign this project is about: a gilt nabla.
static vec3 cover(vec3 p) {
    vec3 cloth = paint(0x2f3f73), gilt = paint(0xe3b04b);
    if (p.z < 0.115 || p.x < -0.275)
        return cloth;
    double frame = fmax(fabs(p.x - 0.012) - 0.247, fabs(p.y) - 0.175);
    double border = 1.0 - smooth_step(0.008, 0.012, fabs(frame));
    // Read with the spine on the left: a triangle on its tip, drawn as a line around its inside.
    double slant = 0.894 * fabs(p.x - 0.012) - 0.447 * p.y - 0.045, top = p.y - 0.095;
    double sign = 1.0 - smooth_step(0.016, 0.022, fabs(fmax(slant, top)));
    return mix3(cloth, gilt, fmax(border, sign));
}

static vec3 apple(vec3 p) {
    double angle = atan2(p.y, p.x);
    double streak = noise(4.0 * cos(angle) + 20.0, 4.0 * sin(angle) + 3.0 * p.z) - 0.5;
    double blush = smooth_step(-0.75, 0.35, cos(angle + 1.2) + 1.1 * streak + 1.5 * p.z);
    vec3 colour = mix3(paint(0xe0b84a), paint(0xb3202a), blush);
    double navel = smooth_step(0.075, 0.02, length2(p.x, p.y)) * (p.z > 0.0);
    return mix3(colour, paint(0x9a9a3c), 0.8 * navel);
}

static vec3 pear(vec3 p) {
    double angle = atan2(p.y, p.x);
    double speckle = smooth_step(0.62, 0.80, noise(9.0 * cos(angle) + 40.0,
                                                   9.0 * sin(angle) + 28.0 * p.z));
    vec3 colour = mix3(paint(0xa7b23e), paint(0xd2c050), smooth_step(0.1, 0.45, p.z));
    double sunny = smooth_step(0.3, 1.0, cos(angle - 0.4));
    colour = mix3(colour, paint(0xc4703a), 0.45 * sunny);
    return mix3(colour, paint(0x7d6a2a), 0.35 * speckle);
}

static finish finish_of(scene_surface s) {
    vec3 p = s.local;
    switch (s.material) {
    case SCENE_BOARD: return (finish){ wood(p), 0.0, 0.10, 20.0 };
    case SCENE_CLOTH: return (finish){ gingham(p), 0.0, 0.0, 1.0 };
    case SCENE_ENAMEL: return (finish){ enamel(p), 0.06, 0.25, 90.0 };
    case SCENE_WIRE: return (finish){ paint(0x55565a), 0.0, 0.9, 40.0 };
    case SCENE_GRIP: return (finish){ paint(0x8a4b24), 0.0, 0.25, 30.0 };
    case SCENE_VASE: return (finish){ glaze(p), 0.0, 0.12, 16.0 };
    case SCENE_TWIG: return (finish){ paint(0x5b4030), 0.0, 0.0, 1.0 };
    case SCENE_BERRY: return (finish){ paint(0xd2362a), 0.0, 0.5, 50.0 };
    case SCENE_LEAF: return (finish){ paint(0x6b8f47), 0.0, 0.12, 20.0 };
    case SCENE_CUP: return (finish){ china(p), 0.035, 0.2, 90.0 };
    case SCENE_TEA: return (finish){ paint(0x9a4a12), 0.03, 0.0, 1.0 };
    case SCENE_COVER: return (finish){ cover(p), 0.0, 0.10, 14.0 };
    case SCENE_PAGES: return (finish){ paint(0xeadfc4), 0.0, 0.0, 1.0 };
    case SCENE_APPLE: return (finish){ apple(p), 0.0, 0.35, 45.0 };
    case SCENE_LEMON: return (finish){ paint(0xeec52f), 0.0, 0.18, 18.0 };
    case SCENE_PEAR: return (finish){ pear(p), 0.0, 0.18, 22.0 };
    case SCENE_NOTHING:
    case SCENE_MATERIALS: break;
    }
    return (finish){ v3(0.5, 0.5, 0.5), 0.0, 0.0, 1.0 };
}

// Light -----------------------------------------------------------------------------------------

static vec3 window_direction(void) { return unit(v3(-0.62, -0.50, 0.78)); }

// The room as a mirror sees it: walls from warm to cool, and a window of four panes.
static vec3 room(vec3 d) {
    vec3 wall = mix3(v3(0.30, 0.25, 0.20), v3(0.62, 0.70, 0.82), smooth_step(-0.4, 0.9, d.z));
    vec3 w = window_direction();
    double facing = dot(d, w);
    if (facing <= 0.1)
        return wall;
    vec3 aside = unit(cross(v3(0.0, 0.0, 1.0), w)), upward = cross(w, aside);
    double x = fabs(dot(d, aside) / facing), y = fabs(dot(d, upward) / facing);
    double pane = (1.0 - smooth_step(0.36, 0.42, x)) * (1.0 - smooth_step(0.46, 0.52, y)) *
                  smooth_step(0.02, 0.06, x) * smooth_step(0.02, 0.06, y);
    return add(wall, scale(v3(9.0, 8.4, 7.4), pane));
}

// Share of the window that is seen: 1 in the light, 0 in the core of a shadow.
static double window_seen(vec3 p, vec3 n) {
    vec3 origin = add(p, scale(n, 2e-3)), direction = window_direction();
    double seen = 1.0, t = 0.004;
    for (int step = 0; step < 120 && t < 2.4 && seen > 0.0; step++) {
        double gap = scene_nearest(add(origin, scale(direction, t))).distance;
        if (gap < 1e-4)
            return 0.0;
        seen = fmin(seen, 7.0 * gap / t);
        t += clamp(gap, 0.004, 0.12);
    }
    return smooth_step(0.0, 1.0, seen);
}

// How open the half space above a surface is: distances shorter than the step mean company.
static double openness(vec3 p, vec3 n) {
    double closed = 0.0, weight = 1.0;
    for (int k = 1; k <= 5; k++) {
        double reach = 0.012 + 0.045 * k;
        closed += weight * fmax(reach - scene_nearest(add(p, scale(n, reach))).distance, 0.0);
        weight *= 0.72;
    }
    return clamp(1.0 - 2.3 * closed, 0.0, 1.0);
}

static vec3 lit(vec3 p, vec3 n, vec3 view, finish f, double seen, double open) {
    vec3 sun = window_direction();
    double key = fmax(dot(n, sun), 0.0) * seen;
    double sky = 0.5 + 0.5 * n.z;
    double fill = fmax(dot(n, unit(v3(0.8, 0.35, 0.35))), 0.0);
    double bounce = clamp(0.6 - 0.6 * n.z, 0.0, 1.0) * smooth_step(0.5, -0.6, p.z);

    vec3 light = scale(v3(2.30, 2.08, 1.78), key);
    light = add(light, scale(v3(0.50, 0.55, 0.63), sky * open));
    light = add(light, scale(v3(0.46, 0.43, 0.43), fill * (0.3 + 0.7 * open)));
    light = add(light, scale(v3(0.32, 0.23, 0.16), bounce * open));
    vec3 colour = mul(f.albedo, light);

    vec3 half = unit(add(sun, view));
    double highlight = f.sheen * pow(fmax(dot(n, half), 0.0), f.sharpness) * seen;
    return add(colour, scale(v3(1.0, 0.94, 0.85), highlight));
}

vec3 scene_radiance(vec3 origin, vec3 direction, double t, scene_surface surface) {
    vec3 p = add(origin, scale(direction, t)), n = scene_normal(p), view = scale(direction, -1.0);
    finish f = finish_of(surface);
    double open = openness(p, n);
    vec3 colour = lit(p, n, view, f, window_seen(p, n), open);
    if (f.mirror <= 0.0)
        return colour;

    // Glazed: one mirror ray, which sees the other objects lit but not mirroring in their turn.
    double facing = clamp(dot(n, view), 0.0, 1.0);
    double fresnel = f.mirror + (1.0 - f.mirror) * 0.75 * pow(1.0 - facing, 5.0);
    vec3 bounced = unit(add(direction, scale(n, 2.0 * facing)));
    vec3 start = add(p, scale(n, 1e-3)), image;
    scene_surface other;
    double distance = 0.0;
    if (scene_trace(start, bounced, &distance, &other)) {
        vec3 q = add(start, scale(bounced, distance)), m = scene_normal(q);
        image = lit(q, m, scale(bounced, -1.0), finish_of(other), window_seen(q, m),
                    openness(q, m));
    } else {
        image = scale(room(bounced), 0.4 + 0.6 * open);
    }
    return mix3(colour, image, fresnel);
}

// A film curve (Hable's, as published) and the sRGB transfer function.
static double film(double x) {
    return (x * (0.15 * x + 0.05) + 0.004) / (x * (0.15 * x + 0.50) + 0.06) - 0.02 / 0.30;
}

static double develop(double x) {
    double y = clamp(film(2.6 * x) / film(9.0), 0.0, 1.0);
    return y <= 0.0031308 ? 12.92 * y : 1.055 * pow(y, 1.0 / 2.4) - 0.055;
}

vec3 scene_develop(vec3 radiance) {
    return v3(develop(radiance.x), develop(radiance.y), develop(radiance.z));
}
