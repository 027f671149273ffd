// Vectors of 32-bit lanes, written once for every machine.
//
// A kernel says ad_f32v and means as many f32 lanes as the widest register of the machine it is
// compiled for: 16 with AVX-512, 8 with AVX2, 4 with SSE or NEON and anywhere else. The types are
// the vector extensions that GCC and Clang share, so + - * / & | ^ << >> and comparisons are
// plain C; the functions below are only what C cannot say: unaligned and partial loads and stores,
// a fused multiply-add that does not depend on compiler flags, and the product of bf16 pairs.
// Intrinsics live here, in amx.h (tiles) and in stream.h (memory past the caches).
//
// A bf16 pair is one 32-bit word that holds two bf16 numbers, the first in the low half. The
// machine instruction (AVX512_BF16) sums both products of a pair into one f32 lane; elsewhere two
// f32 multiply-adds do the same. The last bits of the two ways differ, on one machine they do not.

#ifndef AD_CPU_SIMD_H
#define AD_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define AD_SIMD_AVX512 1
#define AD_LANES 16
#define AD_VECTOR_REGISTERS 32
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define AD_SIMD_AVX2 1
#define AD_LANES 8
#define AD_VECTOR_REGISTERS 16
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define AD_SIMD_NEON 1
#define AD_LANES 4
#define AD_VECTOR_REGISTERS 32
#else
#define AD_LANES 4
#define AD_VECTOR_REGISTERS 16
#endif

#if defined(AD_SIMD_AVX512) && defined(__AVX512BF16__)
#define AD_SIMD_BF16 1
#endif

#define AD_F64_LANES (AD_LANES / 2)
#define AD_INLINE static inline __attribute__((always_inline, unused))

// Loops over the registers of a tile have constant bounds and must vanish.
#ifdef __clang__
#define AD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define AD_UNROLL _Pragma("GCC unroll 64")
#endif

typedef float ad_f32v __attribute__((vector_size(4 * AD_LANES)));
typedef int32_t ad_i32v __attribute__((vector_size(4 * AD_LANES)));
typedef uint32_t ad_u32v __attribute__((vector_size(4 * AD_LANES)));
typedef double ad_f64v __attribute__((vector_size(4 * AD_LANES)));

// The same vectors at any address, of memory of any type.
typedef ad_f32v ad_f32v_anywhere __attribute__((aligned(4), may_alias));
typedef ad_u32v ad_u32v_anywhere __attribute__((aligned(4), may_alias));
typedef ad_f64v ad_f64v_anywhere __attribute__((aligned(8), may_alias));

// ---------------------------------------------------------------- whole vectors

AD_INLINE ad_f32v ad_f32v_load(const void *from) { return *(const ad_f32v_anywhere *)from; }
AD_INLINE ad_u32v ad_u32v_load(const void *from) { return *(const ad_u32v_anywhere *)from; }
AD_INLINE ad_f64v ad_f64v_load(const void *from) { return *(const ad_f64v_anywhere *)from; }
AD_INLINE void ad_f32v_store(void *to, ad_f32v v) { *(ad_f32v_anywhere *)to = v; }
AD_INLINE void ad_u32v_store(void *to, ad_u32v v) { *(ad_u32v_anywhere *)to = v; }
AD_INLINE void ad_f64v_store(void *to, ad_f64v v) { *(ad_f64v_anywhere *)to = v; }

AD_INLINE ad_f32v ad_f32v_set(float value) {
#if defined(AD_SIMD_AVX512)
    return (ad_f32v)_mm512_set1_ps(value);
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_set1_ps(value);
#else
    return (ad_f32v){value, value, value, value};
#endif
}

AD_INLINE ad_u32v ad_u32v_set(uint32_t value) {
#if defined(AD_SIMD_AVX512)
    return (ad_u32v)_mm512_set1_epi32((int)value);
#elif defined(AD_SIMD_AVX2)
    return (ad_u32v)_mm256_set1_epi32((int)value);
#else
    return (ad_u32v){value, value, value, value};
#endif
}

AD_INLINE ad_f64v ad_f64v_set(double value) {
#if defined(AD_SIMD_AVX512)
    return (ad_f64v)_mm512_set1_pd(value);
#elif defined(AD_SIMD_AVX2)
    return (ad_f64v)_mm256_set1_pd(value);
#else
    return (ad_f64v){value, value};
#endif
}

// a * b + c, rounded once where the machine can.
AD_INLINE ad_f32v ad_f32v_fma(ad_f32v a, ad_f32v b, ad_f32v c) {
#if defined(AD_SIMD_AVX512)
    return (ad_f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(AD_SIMD_NEON)
    return (ad_f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

AD_INLINE ad_f64v ad_f64v_fma(ad_f64v a, ad_f64v b, ad_f64v c) {
#if defined(AD_SIMD_AVX512)
    return (ad_f64v)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(AD_SIMD_AVX2)
    return (ad_f64v)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(AD_SIMD_NEON)
    return (ad_f64v)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

// Lanes where mask is all ones from a, the others from b.
AD_INLINE ad_f32v ad_f32v_select(ad_i32v mask, ad_f32v a, ad_f32v b) {
    return (ad_f32v)(((ad_i32v)a & mask) | ((ad_i32v)b & ~mask));
}

// The larger one; v itself where v is not a number.
AD_INLINE ad_f32v ad_f32v_relu(ad_f32v v) {
#if defined(AD_SIMD_AVX512)
    return (ad_f32v)_mm512_max_ps(_mm512_setzero_ps(), (__m512)v);
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_max_ps(_mm256_setzero_ps(), (__m256)v);
#else
    return ad_f32v_select((ad_i32v)(v <= 0.0f), v - v, v);
#endif
}

// ---------------------------------------------------------------- partial vectors
// count is 1 .. lanes; missing lanes load as zero and are not stored. No byte past is touched.
// With AD_SIMD_MASKED they cost no more than whole ones, in a loop that does not change the count.

#if defined(AD_SIMD_AVX512) || defined(AD_SIMD_AVX2)
#define AD_SIMD_MASKED 1
#else
#define AD_SIMD_MASKED 0
#endif

#if defined(AD_SIMD_AVX2)
AD_INLINE __m256i ad_i32v_below(int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}
#endif

AD_INLINE ad_f32v ad_f32v_load_partial(const void *from, int count) {
#if defined(AD_SIMD_AVX512)
    return (ad_f32v)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_maskload_ps(from, ad_i32v_below(count));
#else
    ad_f32v v = {0};
    memcpy(&v, from, (size_t)count * sizeof(float));
    return v;
#endif
}

AD_INLINE void ad_f32v_store_partial(void *to, ad_f32v v, int count) {
#if defined(AD_SIMD_AVX512)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#elif defined(AD_SIMD_AVX2)
    _mm256_maskstore_ps(to, ad_i32v_below(count), (__m256)v);
#else
    memcpy(to, &v, (size_t)count * sizeof(float));
#endif
}

AD_INLINE ad_f64v ad_f64v_load_partial(const void *from, int count) {
    ad_f64v v = {0};
    memcpy(&v, from, (size_t)count * sizeof(double));
    return v;
}

AD_INLINE void ad_f64v_store_partial(void *to, ad_f64v v, int count) {
    memcpy(to, &v, (size_t)count * sizeof(double));
}

// ---------------------------------------------------------------- rows of four
// A vector holds AD_LANES / 4 rows of four lanes.

// Lanes 4 r ... 4 r + 3 are table[at[r]].
AD_INLINE ad_f32v ad_f32v_quads(const float *table, const uint32_t *at) {
#if defined(AD_SIMD_AVX512)
    __m128 each = _mm_setr_ps(table[at[0]], table[at[1]], table[at[2]], table[at[3]]);
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return (ad_f32v)_mm512_permutexvar_ps(lane, _mm512_castps128_ps512(each));
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_setr_m128(_mm_set1_ps(table[at[0]]), _mm_set1_ps(table[at[1]]));
#else
    return ad_f32v_set(table[at[0]]);
#endif
}

// All lanes of a row become the row's lanes or'ed together.
AD_INLINE ad_u32v ad_u32v_or_quads(ad_u32v v) {
#if AD_LANES == 16
    v |= __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v |= __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
#elif AD_LANES == 8
    v |= __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    v |= __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
#else
    v |= __builtin_shufflevector(v, v, 1, 0, 3, 2);
    v |= __builtin_shufflevector(v, v, 2, 3, 0, 1);
#endif
    return v;
}

AD_INLINE ad_f32v ad_f32v_sqrt(ad_f32v v) {
#if defined(AD_SIMD_AVX512)
    return (ad_f32v)_mm512_sqrt_ps((__m512)v);
#elif defined(AD_SIMD_AVX2)
    return (ad_f32v)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < AD_LANES; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// ---------------------------------------------------------------- transposition

// The words of a and b in turn, first and second half.
AD_INLINE ad_u32v ad_u32v_interleave_low(ad_u32v a, ad_u32v b) {
#if AD_LANES == 16
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif AD_LANES == 8
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

AD_INLINE ad_u32v ad_u32v_interleave_high(ad_u32v a, ad_u32v b) {
#if AD_LANES == 16
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
#elif AD_LANES == 8
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// A square of words, in place: as many perfect shuffles as lanes has bits.
AD_INLINE void ad_u32v_transpose(ad_u32v square[AD_LANES]) {
    AD_UNROLL
    for (int round = 1; round < AD_LANES; round *= 2) {
        ad_u32v next[AD_LANES];
        AD_UNROLL
        for (int i = 0; i < AD_LANES / 2; i++) {
            next[2 * i] = ad_u32v_interleave_low(square[i], square[i + AD_LANES / 2]);
            next[2 * i + 1] = ad_u32v_interleave_high(square[i], square[i + AD_LANES / 2]);
        }
        AD_UNROLL
        for (int i = 0; i < AD_LANES; i++) square[i] = next[i];
    }
}

// to (columns, padded rows) = from (rows, columns) transposed; rows are padded with zeros up to
// whole vectors, and columns of `to` are to_stride words apart.
AD_INLINE void ad_u32_transpose(const uint32_t *from, int64_t from_stride, int64_t rows,
                                int64_t columns, uint32_t *to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += AD_LANES) {
        const int high = rows - r < AD_LANES ? (int)(rows - r) : AD_LANES;
        for (int64_t c = 0; c < columns; c += AD_LANES) {
            const int wide = columns - c < AD_LANES ? (int)(columns - c) : AD_LANES;
            const uint32_t *corner = from + r * from_stride + c;
            ad_u32v square[AD_LANES];
            if (high == AD_LANES && wide == AD_LANES) {
                AD_UNROLL
                for (int i = 0; i < AD_LANES; i++)
                    square[i] = ad_u32v_load(corner + i * from_stride);
            } else {
                for (int i = 0; i < AD_LANES; i++)
                    square[i] = i < high
                                    ? (ad_u32v)ad_f32v_load_partial(corner + i * from_stride, wide)
                                    : ad_u32v_set(0);
            }
            ad_u32v_transpose(square);
            if (wide == AD_LANES) {
                AD_UNROLL
                for (int i = 0; i < AD_LANES; i++)
                    ad_u32v_store(to + (c + i) * to_stride + r, square[i]);
            } else {
                for (int i = 0; i < wide; i++)
                    ad_u32v_store(to + (c + i) * to_stride + r, square[i]);
            }
        }
    }
}

// ---------------------------------------------------------------- bf16

// Nearest bf16, ties to even, as the low half of each lane; not-a-number stays one.
AD_INLINE ad_u32v ad_bf16v_round(ad_f32v v) {
    ad_u32v bits = (ad_u32v)v;
    ad_u32v rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    ad_u32v quiet = (bits >> 16) | 0x40u;
    ad_u32v nan = (ad_u32v)(v != v);
    return (quiet & nan) | (rounded & ~nan);
}

// One word a lane: low in the low half, high in the high half.
AD_INLINE ad_u32v ad_bf16v_pair(ad_f32v low, ad_f32v high) {
#if defined(AD_SIMD_BF16)
    // The low lanes land in words 0 .. 15, the high lanes in 16 .. 31; then they are interleaved.
    const __m512i order = (__m512i)(ad_u32v){
        0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006,
        0x00170007, 0x00180008, 0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d,
        0x001e000e, 0x001f000f};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (ad_u32v)_mm512_permutexvar_epi16(order, both);
#else
    return ad_bf16v_round(low) | ad_bf16v_round(high) << 16;
#endif
}

// As many bf16 numbers side by side as there are lanes.
AD_INLINE void ad_bf16v_store(uint16_t *to, ad_f32v v) {
#if defined(AD_SIMD_BF16)
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    ad_u32v rounded = ad_bf16v_round(v);
    for (int lane = 0; lane < AD_LANES; lane++) to[lane] = (uint16_t)rounded[lane];
#endif
}

// sum + a.low * b.low + a.high * b.high in every lane.
AD_INLINE ad_f32v ad_bf16v_dot(ad_u32v a, ad_u32v b, ad_f32v sum) {
#if defined(AD_SIMD_BF16)
    return (ad_f32v)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum = ad_f32v_fma((ad_f32v)(a << 16), (ad_f32v)(b << 16), sum);
    return ad_f32v_fma((ad_f32v)(a & 0xffff0000u), (ad_f32v)(b & 0xffff0000u), sum);
#endif
}

// The same rounding for one number.
AD_INLINE uint16_t ad_bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

AD_INLINE float ad_bf16_value(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
