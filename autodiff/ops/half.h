/* half.h: f16 and bf16 as bits, rounded to nearest even. */
#ifndef ADJOINT_OPS_HALF_H
#define ADJOINT_OPS_HALF_H

#include <stdint.h>
#include <string.h>

static inline float ad_from_bf16(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static inline uint16_t ad_to_bf16(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    uint32_t rounded = (word + 0x7fffu + (word >> 16 & 1)) >> 16;
    return (uint16_t)((word & 0x7fffffffu) > 0x7f800000u ? word >> 16 | 0x40 : rounded);
}

static inline float ad_from_half(uint16_t bits) {
    // Normal numbers and infinities by shifting; subnormal ones by a subtraction.
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, word = (uint32_t)(bits & 0x7fff) << 13;
    float value, magic;
    uint32_t exponent = word & 0x0f800000u;
    word += 112u << 23;
    if (exponent == 0x0f800000u) word += 112u << 23;
    if (exponent == 0) {
        uint32_t least = 113u << 23;
        word += 1u << 23;
        memcpy(&value, &word, 4), memcpy(&magic, &least, 4);
        value -= magic;
        memcpy(&word, &value, 4);
    }
    word |= sign;
    memcpy(&value, &word, 4);
    return value;
}

static inline uint16_t ad_to_half(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    uint16_t sign = (uint16_t)(word >> 16 & 0x8000);
    word &= 0x7fffffffu;
    if (word > 0x7f800000u) return sign | 0x7e00; // NaN
    if (word >= 0x477ff000u) return sign | 0x7c00; // rounds to infinity
    if (word < 0x38800000u) { // subnormal: let the addition round
        float small, half = 0.5f;
        uint32_t bits;
        memcpy(&small, &word, 4);
        small += half;
        memcpy(&bits, &small, 4);
        return sign | (uint16_t)(bits - 0x3f000000u);
    }
    word += 0xc8000fffu + (word >> 13 & 1);
    return sign | (uint16_t)(word >> 13);
}

#endif
