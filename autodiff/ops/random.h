/* Counter-based random numbers, in the common subset of C17 and GLSL 450 (see math.h).
 *
 * Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
 * (SC 2011): four words of counter and two of key go through ten rounds of multiplications, and out
 * come four random words. There is no state: the number for an element is a function of its index
 * (and of seed, operation and step), so that any number of threads, a GPU and a second pass over
 * the same step get the same ones. The words and the uniform numbers are the same bits everywhere;
 * normal ones go through math.h and a square root.
 *
 * One word makes one uniform number, two make two normal ones. */
#ifndef AD_OPS_RANDOM_H
#define AD_OPS_RANDOM_H

#include "autodiff/ops/math.h"

AD_STRUCT(ad_random_words) { AD_UINT x; AD_UINT y; AD_UINT z; AD_UINT w; };

/* The upper 32 bits of a * b. */
AD_INLINE AD_UINT ad_random_multiply_high(AD_UINT a, AD_UINT b) {
#if defined(__STDC__) || defined(__cplusplus)
    return (uint32_t)(((uint64_t)a * b) >> 32);
#else
    uint high, low;
    umulExtended(a, b, high, low);
    return high;
#endif
}

AD_INLINE ad_random_words ad_random_philox(AD_UINT counter0, AD_UINT counter1, AD_UINT counter2,
                                           AD_UINT counter3, AD_UINT key0, AD_UINT key1) {
    AD_UINT x = counter0, y = counter1, z = counter2, w = counter3;
    for (int round = 0; round < 10; round++) {
        AD_UINT high0 = ad_random_multiply_high(0xd2511f53u, x), low0 = 0xd2511f53u * x;
        AD_UINT high1 = ad_random_multiply_high(0xcd9e8d57u, z), low1 = 0xcd9e8d57u * z;
        x = high1 ^ y ^ key0;
        y = low1;
        z = high0 ^ w ^ key1;
        w = low0;
        // The keys walk by the golden ratio and by sqrt(3) - 1.
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    ad_random_words words;
    words.x = x;
    words.y = y;
    words.z = z;
    words.w = w;
    return words;
}

/* Uniform in [0, 1): the top 24 bits, every value a multiple of 2^-24. */
AD_INLINE AD_FLOAT ad_random_uniform(AD_UINT word) {
    return AD_TO_FLOAT(AD_TO_INT(word >> 8)) * 5.9604644775390625e-08f;
}

/* Uniform in (0, 1): odd multiples of 2^-24, so neither 0 nor 1 and symmetric about 1/2. */
AD_INLINE AD_FLOAT ad_random_uniform_open(AD_UINT word) {
    return AD_TO_FLOAT(AD_TO_INT(((word >> 9) << 1) | 1u)) * 5.9604644775390625e-08f;
}

/* Two independent standard normal numbers by Box and Muller, none beyond 5.77 in magnitude. */
AD_STRUCT(ad_random_pair) { AD_FLOAT first; AD_FLOAT second; };
AD_INLINE ad_random_pair ad_random_normal(AD_UINT word0, AD_UINT word1) {
    AD_FLOAT radius = AD_SQRT(-2.0f * ad_math_log(ad_random_uniform_open(word0)));
    AD_FLOAT angle = 6.28318531f * ad_random_uniform(word1);
    ad_random_pair pair;
    pair.first = radius * ad_math_cos(angle);
    pair.second = radius * ad_math_sin(angle);
    return pair;
}

#endif
