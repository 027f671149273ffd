/* stream.h: arrays larger than the caches. Results too large to be found there again are written
 * past them, and operands are asked for ahead.
 *
 * An ordinary store first reads the line that it will overwrite. Streaming saves that read: a third
 * of the traffic of an addition. */
#ifndef ADJOINT_CPU_STREAM_H
#define ADJOINT_CPU_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { AD_STREAM_ALIGN = 64 };

// to and from: aligned to AD_STREAM_ALIGN.
static inline void ad_stream_copy(void *to, const void *from, size_t bytes) {
    size_t at = 0;
#if defined(__AVX512F__)
    for (; at + 64 <= bytes; at += 64)
        _mm512_stream_si512((__m512i *)((char *)to + at),
                            _mm512_load_si512((const char *)from + at));
#elif defined(__AVX__)
    for (; at + 32 <= bytes; at += 32)
        _mm256_stream_si256((__m256i *)((char *)to + at),
                            _mm256_load_si256((const __m256i *)((const char *)from + at)));
#elif defined(__SSE2__)
    for (; at + 16 <= bytes; at += 16)
        _mm_stream_si128((__m128i *)((char *)to + at),
                         _mm_load_si128((const __m128i *)((const char *)from + at)));
#endif
    if (at < bytes) memcpy((char *)to + at, (const char *)from + at, bytes - at);
}

// Asks for what a loop over a large array reads 16 lines later: hardware that looks ahead by
// itself stops at every page, and sees little of a loop with much arithmetic. Past the end is
// harmless.
static inline void ad_stream_ahead(const void *from) {
    __builtin_prefetch((const char *)from + 16 * 64);
}

// Before another thread reads what this one streamed.
static inline void ad_stream_end(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#endif
