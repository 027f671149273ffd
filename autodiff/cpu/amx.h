// The matrix unit of some Intel processors (AMX): products of bf16 tiles, some thirty times as fast
// as by vectors.
//
//   sums (16 rows, 16 columns) f32  +=  a (16 rows, depth) b (depth, 16 columns)
//
// Depth counts words that are bf16 pairs, 16 at a time: the layouts of tile.h. Up to four tiles of
// sums lie side by side. The products are added in the unit's own order: the last bits differ from
// those of ad_bf16v_dot.
//
// Linux lends the unit to a process that asks; AD_AMX is 1 where it can.

#ifndef AD_CPU_AMX_H
#define AD_CPU_AMX_H

#include <stdbool.h>

#include "autodiff/cpu/simd.h"

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && AD_LANES == 16
#define AD_AMX 1
#else
#define AD_AMX 0
#endif

enum { AD_AMX_SIZE = 16, AD_AMX_TILES_MAX = 4 };

// How a thread's tile registers are set: 0 to 3 are sums, 4 and 5 a and b of a whole step, 6 and 7
// of a last, shorter one.
typedef struct ad_amx {
    int rest; // words of the shorter step
} ad_amx;

// Whether this process may use the unit; asks for it if need be (a system call).
bool ad_amx_ready(void);

// Around a thread's products, where the unit is ready.
void ad_amx_begin(ad_amx *unit);
void ad_amx_end(void);

#if AD_AMX
void ad_amx_set_rest(ad_amx *unit, int rest);

// gcc's tile loads do not tell it that they read memory: what was stored must be there.
#define AD_AMX_STORED __asm__ volatile("" ::: "memory")

// Before a product of this depth is started. Setting the registers takes as long as ten tiles'
// products and clears the sums, so they stay as they are where they will do.
AD_INLINE void ad_amx_prepare(ad_amx *unit, int depth) {
    const int rest = depth % AD_AMX_SIZE;
    if (rest && rest != unit->rest) ad_amx_set_rest(unit, rest);
}

// Every row of the sums becomes `start` (tiles * 16), or zero where that is NULL.
AD_INLINE void ad_amx_start(const int tiles, const float *start) {
    if (!start) {
        _tile_zero(0);
        if (tiles > 1) _tile_zero(1);
        if (tiles > 2) _tile_zero(2);
        if (tiles > 3) _tile_zero(3);
        return;
    }
    AD_AMX_STORED;
    _tile_loadd(0, start, 0);
    if (tiles > 1) _tile_loadd(1, start + 1 * AD_AMX_SIZE, 0);
    if (tiles > 2) _tile_loadd(2, start + 2 * AD_AMX_SIZE, 0);
    if (tiles > 3) _tile_loadd(3, start + 3 * AD_AMX_SIZE, 0);
}

AD_INLINE void ad_amx_load(const int tiles, const float *from, int64_t stride) {
    AD_AMX_STORED;
    _tile_loadd(0, from, 4 * stride);
    if (tiles > 1) _tile_loadd(1, from + 1 * AD_AMX_SIZE, 4 * stride);
    if (tiles > 2) _tile_loadd(2, from + 2 * AD_AMX_SIZE, 4 * stride);
    if (tiles > 3) _tile_loadd(3, from + 3 * AD_AMX_SIZE, 4 * stride);
}

AD_INLINE void ad_amx_store(const int tiles, float *to, int64_t stride) {
    _tile_stored(0, to, 4 * stride);
    if (tiles > 1) _tile_stored(1, to + 1 * AD_AMX_SIZE, 4 * stride);
    if (tiles > 2) _tile_stored(2, to + 2 * AD_AMX_SIZE, 4 * stride);
    if (tiles > 3) _tile_stored(3, to + 3 * AD_AMX_SIZE, 4 * stride);
}

// The numbers of registers are part of the instructions, hence the macro: sums += a b, one step.
#define AD_AMX_STEP(A, B)                                           \
    do {                                                            \
        _tile_loadd(A, a, 4 * a_stride);                            \
        _tile_loadd(B, b, 4 * b_stride);                            \
        _tile_dpbf16ps(0, A, B);                                    \
        if (tiles > 1) {                                            \
            _tile_loadd(B, b + 1 * AD_AMX_SIZE, 4 * b_stride);      \
            _tile_dpbf16ps(1, A, B);                                \
        }                                                           \
        if (tiles > 2) {                                            \
            _tile_loadd(B, b + 2 * AD_AMX_SIZE, 4 * b_stride);      \
            _tile_dpbf16ps(2, A, B);                                \
        }                                                           \
        if (tiles > 3) {                                            \
            _tile_loadd(B, b + 3 * AD_AMX_SIZE, 4 * b_stride);      \
            _tile_dpbf16ps(3, A, B);                                \
        }                                                           \
    } while (0)

// sums += a b. a: (16, depth), b: (depth, tiles * 16) words.
AD_INLINE void ad_amx_multiply(const int tiles, int depth, const uint32_t *a, int64_t a_stride,
                               const uint32_t *b, int64_t b_stride) {
    AD_AMX_STORED;
    for (; depth >= AD_AMX_SIZE; depth -= AD_AMX_SIZE) {
        AD_AMX_STEP(4, 5);
        a += AD_AMX_SIZE;
        b += AD_AMX_SIZE * b_stride;
    }
    if (depth > 0) AD_AMX_STEP(6, 7);
}
#undef AD_AMX_STEP
#endif

#endif
