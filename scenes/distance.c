// The shapes of the still life, as signed distances.
//
// A signed distance says how far a point is from the nearest surface, negative inside; a ray may
// safely step that far, so sphere tracing (Hart 1996) finds the surface with no triangles at all.
// The primitives are the well-known closed forms (Quilez, "distance functions"); objects are their
// unions, smooth ones where clay or fruit would be smooth. Heights are above the table top.
//
// Main invariant: no value here exceeds the true distance by more than tracing's step factor takes
// back. Each object sits in a bounding ball; far from it the distance to the ball is used instead.
// That keeps a step cheap, and the margin keeps it invisible to the soft shadows.
#include "scene.h"

#pragma STDC FP_CONTRACT OFF

static const double table_height = -0.50;
static const double board_radius = 1.10;
static const double bound_margin = 0.3;
static const double step_factor = 0.85;

// Primitives -----------------------------------------------------------------------------------

static double sphere(vec3 p, vec3 centre, double radius) {
    return length3(sub(p, centre)) - radius;
}

static double ellipsoid(vec3 p, vec3 centre, vec3 radii) {
    vec3 q = sub(p, centre);
    double k0 = length3(v3(q.x / radii.x, q.y / radii.y, q.z / radii.z));
    double k1 = length3(v3(q.x / (radii.x * radii.x), q.y / (radii.y * radii.y),
                           q.z / (radii.z * radii.z)));
    return k1 > 0.0 ? k0 * (k0 - 1.0) / k1 : -fmin(radii.x, fmin(radii.y, radii.z));
}

static double rounded_box(vec3 p, vec3 half, double radius) {
    vec3 q = v3(fabs(p.x) - half.x + radius, fabs(p.y) - half.y + radius,
                fabs(p.z) - half.z + radius);
    double outside = length3(v3(fmax(q.x, 0.0), fmax(q.y, 0.0), fmax(q.z, 0.0)));
    return outside + fmin(fmax(q.x, fmax(q.y, q.z)), 0.0) - radius;
}

// A disc of the given radius between two heights.
static double cylinder(vec3 p, double radius, double low, double high, double round) {
    double a = length2(p.x, p.y) - radius + round;
    double b = fabs(p.z - 0.5 * (low + high)) - 0.5 * (high - low) + round;
    return fmin(fmax(a, b), 0.0) + length2(fmax(a, 0.0), fmax(b, 0.0)) - round;
}

// A stick from a to b whose radius goes linearly from ra to rb: stalks, twigs, spouts.
static double stick(vec3 p, vec3 a, vec3 b, double ra, double rb) {
    vec3 pa = sub(p, a), ba = sub(b, a);
    double h = clamp(dot(pa, ba) / dot(ba, ba), 0.0, 1.0);
    return length3(sub(pa, scale(ba, h))) - mix(ra, rb, h);
}

// An arc of wire in the xz plane around the origin, `half_angle` to either side of +z.
static double arc(vec3 p, double half_angle, double radius, double thickness) {
    vec3 q = v3(fabs(p.x), p.y, p.z);
    double s = sin(half_angle), c = cos(half_angle);
    double along = c * q.x > s * q.z ? q.x * s + q.z * c : length2(q.x, q.z);
    return sqrt(fmax(dot(q, q) + radius * radius - 2.0 * radius * along, 0.0)) - thickness;
}

static double ring(vec3 p, double height, double radius, double thickness) {
    return length2(length2(p.x, p.y) - radius, p.z - height) - thickness;
}

static double blend(double a, double b, double width) {
    double h = fmax(width - fabs(a - b), 0.0) / width;
    return fmin(a, b) - 0.25 * h * h * width;
}

// Objects --------------------------------------------------------------------------------------

static void nearer(scene_surface *best, double distance, scene_material material, vec3 local) {
    if (distance < best->distance)
        *best = (scene_surface){ distance, material, local };
}

// True when the ball around an object is too far to matter; its distance then stands in.
static bool beyond(scene_surface *best, vec3 p, vec3 centre, double radius) {
    double distance = sphere(p, centre, radius);
    if (distance <= bound_margin)
        return distance >= best->distance;
    nearer(best, distance, SCENE_NOTHING, p);
    return true;
}

static void board(scene_surface *best, vec3 p) {
    double slab = cylinder(p, board_radius, -0.09, 0.0, 0.035);
    double foot = cylinder(p, 0.70, -0.16, -0.07, 0.02);
    nearer(best, blend(slab, foot, 0.06), SCENE_BOARD, p);
}

static void cloth(scene_surface *best, vec3 p) {
    vec3 q = turn(sub(p, v3(0.10, -0.30, 0.0)), 0.40);
    double fold = 0.009 * sin(7.0 * q.x + 2.0 * q.y) * sin(5.0 * q.y - 1.0);
    q.z -= 0.012 + fold;
    nearer(best, rounded_box(q, v3(0.56, 0.50, 0.010), 0.008), SCENE_CLOTH, q);
}

// A round enamel kettle: body, lid with a knob, a spout, and a wire bail with a wooden grip.
static void kettle(scene_surface *best, vec3 p) {
    vec3 q = turn(sub(p, v3(-0.27, 0.30, 0.0)), 3.05);
    if (beyond(best, q, v3(0.08, 0.0, 0.42), 0.68))
        return;

    double body = ellipsoid(q, v3(0.0, 0.0, 0.30), v3(0.41, 0.41, 0.29));
    body = blend(body, cylinder(q, 0.27, 0.0, 0.05, 0.02), 0.05);
    vec3 root = v3(0.30, 0.0, 0.22), bend = v3(0.50, 0.0, 0.34), mouth = v3(0.63, 0.0, 0.56);
    double spout = blend(stick(q, root, bend, 0.100, 0.062), stick(q, bend, mouth, 0.062, 0.040),
                         0.06);
    spout = fmax(spout, -stick(q, v3(0.60, 0.0, 0.51), v3(0.67, 0.0, 0.64), 0.022, 0.040));
    nearer(best, blend(body, spout, 0.09), SCENE_ENAMEL, q);

    double lid = ellipsoid(q, v3(0.0, 0.0, 0.555), v3(0.215, 0.215, 0.065));
    lid = fmin(lid, ring(q, 0.555, 0.215, 0.014));
    nearer(best, lid, SCENE_ENAMEL, q);
    double knob = blend(sphere(q, v3(0.0, 0.0, 0.675), 0.045),
                        cylinder(q, 0.022, 0.60, 0.67, 0.005), 0.03);
    nearer(best, knob, SCENE_GRIP, q);

    vec3 wire = sub(q, v3(0.0, 0.0, 0.50));
    double bail = arc(wire, 1.75, 0.40, 0.0155);
    double ears = fmin(stick(q, v3(0.32, 0.0, 0.42), v3(0.40, 0.0, 0.435), 0.026, 0.026),
                       stick(q, v3(-0.32, 0.0, 0.42), v3(-0.40, 0.0, 0.435), 0.026, 0.026));
    nearer(best, fmin(bail, ears), SCENE_WIRE, q);
    nearer(best, arc(wire, 0.42, 0.40, 0.034), SCENE_GRIP, wire);
}

// One branch: a bent stem in two sticks, a side shoot, berries and leaves.
static void branch(scene_surface *best, vec3 p, double heading, double lean, double height) {
    vec3 q = turn(p, heading);
    vec3 low = v3(0.0, 0.0, 0.36), knee = v3(0.40 * lean, 0.03, 0.36 + 0.55 * height);
    vec3 tip = v3(lean, -0.02, 0.36 + height);
    vec3 fork = mix3(low, knee, 0.85), shoot = add(fork, v3(0.16, 0.10, 0.17));
    double stem = fmin(stick(q, low, knee, 0.018, 0.014), stick(q, knee, tip, 0.014, 0.010));
    nearer(best, fmin(stem, stick(q, fork, shoot, 0.012, 0.010)), SCENE_TWIG, q);

    double berry = fmin(sphere(q, tip, 0.042), sphere(q, shoot, 0.040));
    vec3 middle = mix3(knee, tip, 0.55);
    berry = fmin(berry, sphere(q, add(middle, v3(0.055, 0.03, 0.01)), 0.036));
    nearer(best, berry, SCENE_BERRY, q);

    vec3 blade = turn(sub(q, add(knee, v3(-0.07, -0.06, 0.05))), 0.7);
    blade.z -= 0.5 * blade.x;
    double leaf = ellipsoid(blade, v3(0.0, 0.0, 0.0), v3(0.105, 0.042, 0.012));
    vec3 other = turn(sub(q, add(middle, v3(-0.06, 0.06, 0.02))), -0.8);
    other.z += 0.4 * other.x;
    leaf = fmin(leaf, ellipsoid(other, v3(0.0, 0.0, 0.0), v3(0.090, 0.036, 0.012)));
    nearer(best, 0.8 * leaf, SCENE_LEAF, blade);
}

static void vase(scene_surface *best, vec3 p) {
    vec3 q = sub(p, v3(0.47, 0.43, 0.0));
    if (beyond(best, q, v3(0.0, 0.0, 0.72), 0.83))
        return;
    double body = blend(ellipsoid(q, v3(0.0, 0.0, 0.20), v3(0.205, 0.205, 0.21)),
                        stick(q, v3(0.0, 0.0, 0.25), v3(0.0, 0.0, 0.50), 0.10, 0.072), 0.14);
    body = blend(body, ring(q, 0.545, 0.078, 0.022), 0.05);
    body = fmax(body, -cylinder(q, 0.056, 0.30, 0.80, 0.0));
    body = fmax(body, -q.z);
    nearer(best, body, SCENE_VASE, q);
    branch(best, q, 0.3, 0.24, 1.02);
    branch(best, q, 2.5, 0.30, 0.80);
    branch(best, q, 4.5, 0.27, 0.66);
}

static void cup(scene_surface *best, vec3 p) {
    vec3 q = turn(sub(p, v3(0.56, -0.24, 0.022)), -0.9);
    if (beyond(best, q, v3(0.02, 0.0, 0.12), 0.32))
        return;
    double radius = length2(q.x, q.y);

    double saucer = cylinder(q, 0.16, 0.0, 0.025, 0.010);
    double rim = length2(fmax(fabs(radius - 0.21) - 0.055, 0.0),
                         q.z - 0.025 - 0.35 * fmax(radius - 0.155, 0.0)) - 0.012;
    nearer(best, fmin(saucer, 0.9 * rim), SCENE_CUP, v3(q.x, q.y, -1.0));

    double wall = 0.115 + 0.075 * sqrt(clamp((q.z - 0.01) / 0.25, 0.0, 1.0));
    double outside = fmax((radius - wall) * 0.8, fmax(0.02 - q.z, q.z - 0.27));
    double bowl = fmax(outside, -fmax((radius - wall + 0.022) * 0.8, 0.045 - q.z)) - 0.004;
    vec3 ear = sub(q, v3(0.195, 0.0, 0.155));
    double handle = length2(length2(ear.x, ear.z * 0.85) - 0.068, ear.y) - 0.0165;
    handle = fmax(handle, wall - 0.012 - radius);
    nearer(best, blend(bowl, handle, 0.02), SCENE_CUP, q);
    nearer(best, cylinder(q, wall - 0.015, 0.05, 0.215, 0.0), SCENE_TEA, q);
}

static void book(scene_surface *best, vec3 p) {
    vec3 q = turn(sub(p, v3(-0.56, -0.46, 0.0)), -0.45);
    if (beyond(best, q, v3(0.0, 0.0, 0.06), 0.40))
        return;
    vec3 lid = v3(q.x, q.y, fabs(q.z - 0.065) - 0.056);
    double cover = rounded_box(lid, v3(0.30, 0.215, 0.010), 0.005);
    vec3 spine = sub(q, v3(-0.292, 0.0, 0.065));
    cover = fmin(cover, rounded_box(spine, v3(0.010, 0.215, 0.064), 0.008));
    nearer(best, cover, SCENE_COVER, q);
    nearer(best, rounded_box(sub(q, v3(-0.01, 0.0, 0.065)), v3(0.285, 0.20, 0.056), 0.002),
           SCENE_PAGES, q);
}

static void fruit(scene_surface *best, vec3 p) {
    if (beyond(best, p, v3(0.06, -0.46, 0.20), 0.52))
        return;
    // The apple is a ball pushed in at both ends: a circle, turned about an axis inside it.
    vec3 a = sub(p, v3(-0.06, -0.60, 0.185));
    double waist = 0.082 + 0.020 * clamp(a.z / 0.15, -1.0, 1.0);
    nearer(best, 0.95 * (length2(length2(a.x, a.y) - waist, a.z) - 0.130), SCENE_APPLE, a);
    nearer(best, stick(a, v3(0.0, 0.0, 0.08), v3(0.035, 0.02, 0.215), 0.012, 0.016), SCENE_TWIG, a);

    vec3 l = turn(sub(p, v3(0.30, -0.63, 0.145)), 0.5);
    double lemon = ellipsoid(l, v3(0.0, 0.0, 0.0), v3(0.165, 0.122, 0.122));
    lemon = blend(lemon, stick(l, v3(-0.13, 0.0, 0.0), v3(0.195, 0.0, 0.0), 0.02, 0.022), 0.09);
    nearer(best, lemon, SCENE_LEMON, l);

    vec3 r = sub(p, v3(0.16, -0.25, 0.025));
    double pear = blend(ellipsoid(r, v3(0.0, 0.0, 0.150), v3(0.165, 0.165, 0.150)),
                        sphere(r, v3(0.015, 0.0, 0.350), 0.072), 0.22);
    nearer(best, pear, SCENE_PEAR, r);
    nearer(best, stick(r, v3(0.015, 0.0, 0.40), v3(-0.02, 0.03, 0.52), 0.011, 0.015), SCENE_TWIG,
           r);
}

scene_surface scene_nearest(vec3 point) {
    vec3 p = v3(point.x, point.y, point.z - table_height);
    scene_surface best = { 1e9, SCENE_NOTHING, p };
    board(&best, p);
    cloth(&best, p);
    kettle(&best, p);
    cup(&best, p);
    book(&best, p);
    fruit(&best, p);
    vase(&best, p);
    return best;
}

// The gradient of the distance is the normal; four taps on a tetrahedron cancel the even terms.
vec3 scene_normal(vec3 point) {
    const double h = 1e-5;
    static const double corner[4][3] = { { 1, -1, -1 }, { -1, -1, 1 }, { -1, 1, -1 }, { 1, 1, 1 } };
    vec3 sum = v3(0.0, 0.0, 0.0);
    for (int k = 0; k < 4; k++) {
        vec3 e = v3(corner[k][0], corner[k][1], corner[k][2]);
        sum = add(sum, scale(e, scene_nearest(add(point, scale(e, h))).distance));
    }
    return unit(sum);
}

bool scene_trace(vec3 origin, vec3 direction, double *t, scene_surface *surface) {
    // The ball around the whole scene gives the interval; most of the background ends here.
    vec3 centre = v3(0.0, 0.0, 0.05);
    double radius = 1.42;
    vec3 to = sub(origin, centre);
    double b = dot(to, direction), inside = b * b - dot(to, to) + radius * radius;
    if (inside <= 0.0 || -b + sqrt(inside) <= 0.0)
        return false;
    double far = -b + sqrt(inside);
    *t = fmax(*t, -b - sqrt(inside));

    for (int step = 0; step < 400 && *t < far; step++) {
        *surface = scene_nearest(add(origin, scale(direction, *t)));
        if (surface->distance < 1e-6)
            return true;
        *t += step_factor * surface->distance;
    }
    return false;
}
