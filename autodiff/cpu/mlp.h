// Small fused multilayer perceptrons: the forward and the backward pass of a whole network for a
// block of rows at a time, so that activations stay in the nearest caches.
//
//   h_0 = x,   z_l = h_l W_l^T + b_l,   h_(l+1) = activation(z_l) of all but the last,   y = z_last
//
// Pure functions on plain memory; they do not allocate, and they do not keep anything. Results
// have the same bits for any number of threads. Rows are independent in the forward pass and in
// dx: their bits do not depend on how many other rows there are.
//
// With bf16 set, inputs, weights, hidden activations and gradients of activations are rounded to
// bf16 before they are multiplied; sums, y, dx and the gradients of the weights are f32.
// With amx set the last bits differ from those without.

#ifndef AD_CPU_MLP_H
#define AD_CPU_MLP_H

#include "autodiff/cpu/gemm.h"

enum { AD_CPU_MLP_LAYERS_MAX = 16, AD_CPU_MLP_WIDTH_MAX = 256 };

typedef struct ad_cpu_mlp {
    int layers;                           // 1 .. AD_CPU_MLP_LAYERS_MAX
    int width[AD_CPU_MLP_LAYERS_MAX + 1]; // in, hidden ..., out; each 1 .. AD_CPU_MLP_WIDTH_MAX
    bool has_bias;
    bool bf16;
    bool amx; // products of bf16 in the matrix unit; only where ad_amx_ready says so
    ad_cpu_activation hidden_activation;
    float leak;
} ad_cpu_mlp;

// Bytes that the forward pass keeps for the backward pass, and bytes either of them works in.
// Both memories start at a multiple of 64 bytes.
size_t ad_cpu_mlp_saved_bytes(const ad_cpu_mlp *mlp, int64_t rows);
size_t ad_cpu_mlp_workspace(const ad_cpu_mlp *mlp, int64_t rows, int threads, bool backward);

// Rows of x, y, dy and dx start `stride` numbers apart; 0 means that they follow one another.

// weights[l]: (width[l + 1], width[l]), biases[l]: (width[l + 1]); biases may be NULL without
// has_bias. saved may be NULL when no backward pass follows; otherwise the backward pass must be
// called with the same rows.
typedef struct ad_cpu_mlp_forward_job {
    int64_t rows;
    const float *x; // (rows, in)
    int64_t x_stride;
    const float *const *weights;
    const float *const *biases;
    float *y; // (rows, out)
    int64_t y_stride;
    void *saved;
    void *workspace;
} ad_cpu_mlp_forward_job;

void ad_cpu_mlp_forward(const ad_cpu_mlp *mlp, int threads, const ad_cpu_mlp_forward_job *job);

// Gradients that are not wanted are NULL: dx, an entry of dweights or dbiases, or these tables.
// accumulate adds to dweights and dbiases instead of overwriting them; dx is always overwritten.
typedef struct ad_cpu_mlp_backward_job {
    int64_t rows;
    const float *x; // (rows, in)
    int64_t x_stride;
    const float *const *weights;
    const void *saved;
    const float *dy; // (rows, out)
    int64_t dy_stride;
    float *dx; // (rows, in)
    int64_t dx_stride;
    float *const *dweights;
    float *const *dbiases;
    bool accumulate;
    void *workspace;
} ad_cpu_mlp_backward_job;

void ad_cpu_mlp_backward(const ad_cpu_mlp *mlp, int threads, const ad_cpu_mlp_backward_job *job);

#endif
