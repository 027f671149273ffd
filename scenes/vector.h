// Vectors of three doubles, by value: points and directions in scene units, colours in linear RGB.
// Everything here is one line long, so that the scene reads like the formulas it comes from.
#ifndef SCENES_VECTOR_H
#define SCENES_VECTOR_H

#include <math.h>

typedef struct vec3 {
    double x, y, z;
} vec3;

static inline vec3 v3(double x, double y, double z) { return (vec3){ x, y, z }; }
static inline vec3 add(vec3 a, vec3 b) { return v3(a.x + b.x, a.y + b.y, a.z + b.z); }
static inline vec3 sub(vec3 a, vec3 b) { return v3(a.x - b.x, a.y - b.y, a.z - b.z); }
static inline vec3 mul(vec3 a, vec3 b) { return v3(a.x * b.x, a.y * b.y, a.z * b.z); }
static inline vec3 scale(vec3 a, double s) { return v3(a.x * s, a.y * s, a.z * s); }
static inline double dot(vec3 a, vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static inline double length3(vec3 a) { return sqrt(dot(a, a)); }
static inline double length2(double x, double y) { return sqrt(x * x + y * y); }
static inline vec3 unit(vec3 a) { return scale(a, 1.0 / length3(a)); }
static inline vec3 cross(vec3 a, vec3 b) {
    return v3(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}

static inline double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static inline double mix(double a, double b, double t) { return a + (b - a) * t; }
static inline vec3 mix3(vec3 a, vec3 b, double t) { return add(scale(a, 1.0 - t), scale(b, t)); }

// 0 below `low`, 1 above `high`, a cubic in between.
static inline double smooth_step(double low, double high, double x) {
    double t = clamp((x - low) / (high - low), 0.0, 1.0);
    return t * t * (3.0 - 2.0 * t);
}

// Turn about the z axis; every object has its own heading on the table.
static inline vec3 turn(vec3 p, double angle) {
    double c = cos(angle), s = sin(angle);
    return v3(c * p.x + s * p.y, c * p.y - s * p.x, p.z);
}

#endif
