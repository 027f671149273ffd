/* device.h: what a device must do for the core. The CPU device is autodiff/cpu/device.c.
 *
 * Memory is handed out as addresses that the core never dereferences: a view's `data` is an
 * address on the device (a pointer on the CPU, a buffer device address on Vulkan). Launches may be
 * queued; they take effect in order. `read` waits for what was queued before it. */
#ifndef ADJOINT_DEVICE_H
#define ADJOINT_DEVICE_H

#include "autodiff/autodiff.h"

typedef struct ad_device {
    const char *name;             // "cpu (AVX-512, 2 threads)"
    void *state;
    ad_context *ctx;
    void *(*allocate)(struct ad_device *device, size_t bytes); // NULL when memory is lacking
    void (*release)(struct ad_device *device, void *memory);
    bool (*write)(struct ad_device *device, void *to, const void *from, size_t bytes);
    bool (*read)(struct ad_device *device, void *to, const void *from, size_t bytes);
    bool (*fill)(struct ad_device *device, void *to, int byte, size_t bytes);
    bool (*launch)(struct ad_device *device, const ad_launch *launch);
    void (*close)(struct ad_device *device);
} ad_device;

bool ad_cpu_open(ad_device *device, ad_context *ctx, int threads);

#endif
