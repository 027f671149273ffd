// Dense products: c = activation(op(a) op(b) + bias), or c += ..., for a batch of matrices.
//
// Pure functions on plain memory, row-major. No allocation: the caller brings the workspace. The
// sum over k runs in one fixed order, in blocks of fixed size, so the bits of a number of c depend
// on its row of a, its column of b and nothing else: not on threads, not on the other rows. With
// `cut` set they depend on the size of c as well.

#ifndef AD_CPU_GEMM_H
#define AD_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// At a kink the derivative is the one from below: relu'(0) = 0.
typedef enum ad_cpu_activation {
    AD_CPU_IDENTITY,
    AD_CPU_RELU,
    AD_CPU_LEAKY_RELU, // times .leak below zero; 0 < leak < 1
} ad_cpu_activation;

// Sizes are of op(a): (m, k), op(b): (k, n), c: (m, n); each may be 0. Row strides lda, ldb, ldc
// and batch strides count numbers; a row stride of 0 means densely packed, a batch stride of 0
// means the same matrix for all of the batch. Numbers are f32 or f64, as the function says.
typedef struct ad_cpu_gemm {
    bool transposed_a; // a is stored (k, m)
    bool transposed_b; // b is stored (n, k)
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    void *c;
    int64_t ldc;
    bool accumulate;  // c is added before the activation
    const void *bias; // (n), or NULL
    ad_cpu_activation activation;
    float leak;
    bool cut;      // f32: a sum of 1,024 or more may be cut into parts; not with an activation
    int64_t batch; // 0 means 1
    int64_t a_batch_stride, b_batch_stride, c_batch_stride;
} ad_cpu_gemm;

// Bytes either function works in, at a multiple of 64 bytes, for any batch, strides, transposes.
size_t ad_cpu_gemm_workspace(int64_t m, int64_t n, int64_t k, bool cut, int threads);

void ad_cpu_gemm_f32(const ad_cpu_gemm *job, int threads, void *workspace);
void ad_cpu_gemm_f64(const ad_cpu_gemm *job, int threads, void *workspace);

#endif
