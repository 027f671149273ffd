/* Counter-based random numbers: the published vectors, then moments and a chi-square test. */
#include "autodiff/ops/random.h"

#include <criterion/criterion.h>

/* Known answers of philox4x32-10 from the Random123 distribution (kat_vectors). */
Test(random, philox_known_answers) {
    static const uint32_t rows[3][10] = {
        // counter (4), key (2), result (4)
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *r = rows[i];
        ad_random_words words = ad_random_philox(r[0], r[1], r[2], r[3], r[4], r[5]);
        cr_expect(words.x == r[6] && words.y == r[7] && words.z == r[8] && words.w == r[9],
                  "row %d: found %08x %08x %08x %08x", i, words.x, words.y, words.z, words.w);
    }
}

Test(random, uniform_ends) {
    cr_expect(ad_random_uniform(0) == 0.0f);
    cr_expect(ad_random_uniform(UINT32_MAX) == 1.0f - 0x1p-24f);
    cr_expect(ad_random_uniform_open(0) == 0x1p-24f);
    cr_expect(ad_random_uniform_open(UINT32_MAX) == 1.0f - 0x1p-24f);
}

#define DRAWS 1048576
#define CELLS 256

/* Chi-square over 256 cells has mean 255 and deviation 22.6; the seeds are fixed, so no flake. */
static double chi_square(const int *counts, double total) {
    double sum = 0;
    for (int i = 0; i < CELLS; i++) {
        double excess = counts[i] - total / CELLS;
        sum += excess * excess / (total / CELLS);
    }
    return sum;
}

Test(random, uniform_moments_and_chi_square) {
    int counts[CELLS] = {0}, pair_counts[CELLS] = {0};
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        ad_random_words words = ad_random_philox(i, 0, 0, 0, 1, 2);
        float u = ad_random_uniform(words.x), v = ad_random_uniform_open(words.w);
        sum += (double)u;
        squares += (double)u * (double)u;
        counts[(int)(u * CELLS)]++;
        pair_counts[(int)(u * 16) * 16 + (int)(v * 16)]++;
    }
    cr_expect_float_eq(sum / DRAWS, 0.5, 4 * 0.2887 / 1024, "mean %g", sum / DRAWS);
    cr_expect_float_eq(squares / DRAWS, 1.0 / 3, 4 * 0.2981 / 1024, "square %g", squares / DRAWS);
    double single = chi_square(counts, DRAWS), pairs = chi_square(pair_counts, DRAWS);
    cr_expect(single > 165 && single < 345, "chi-square %g, expected 255 +- 90", single);
    cr_expect(pairs > 165 && pairs < 345, "chi-square of pairs %g, expected 255 +- 90", pairs);
}

Test(random, normal_moments_and_chi_square) {
    int counts[CELLS] = {0};
    double moments[5] = {0}, product = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        ad_random_words words = ad_random_philox(0, i, 7, 0, 3, 4);
        ad_random_pair pair = ad_random_normal(words.x, words.y);
        cr_assert(fabsf(pair.first) < 5.78f && fabsf(pair.second) < 5.78f);
        double power = 1, x = (double)(i % 2 ? pair.first : pair.second);
        for (int m = 0; m < 5; m++, power *= x)
            moments[m] += power / DRAWS;
        product += (double)pair.first * (double)pair.second / DRAWS;
        // The distribution function makes uniform numbers of normal ones.
        int cell = (int)(0.5 * erfc(-x * 0.70710678118654752) * CELLS);
        counts[cell < CELLS ? cell : CELLS - 1]++;
    }
    cr_expect_float_eq(moments[1], 0, 4 * 1.0 / 1024, "mean %g", moments[1]);
    cr_expect_float_eq(moments[2], 1, 4 * 1.414 / 1024, "variance %g", moments[2]);
    cr_expect_float_eq(moments[3], 0, 4 * 3.873 / 1024, "third moment %g", moments[3]);
    cr_expect_float_eq(moments[4], 3, 4 * 9.798 / 1024, "fourth moment %g", moments[4]);
    cr_expect_float_eq(product, 0, 4 * 1.0 / 1024, "covariance %g", product);
    double found = chi_square(counts, DRAWS);
    cr_expect(found > 165 && found < 345, "chi-square %g, expected 255 +- 90", found);
}
