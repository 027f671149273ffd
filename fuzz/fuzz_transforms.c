/* Fuzz target: any text as transforms.json; every camera that comes out must be usable. */
#include "fuzz/fuzz.h"
#include "render/load.h"

#include <math.h>
#include <string.h>

int fuzz_transforms(const uint8_t *data, size_t size) {
    render_transforms transforms;
    ad_message error;
    if (!render_transforms_parse(&transforms, "fuzz.json", (const char *)data, size, &error))
        return 0;
    for (int i = 0; i < transforms.count; i++) {
        const char *name = transforms.frames[i].name;
        if (name[0] == '/' || name[0] == 0 || strncmp(name, "../", 3) == 0 ||
            strstr(name, "/../") || strcmp(name, "..") == 0)
            __builtin_trap();
        render_camera camera;
        double origin[3], direction[3];
        if (!render_transforms_camera(&camera, &transforms, i, 64, 48, &error)) continue;
        if (!(camera.fx > 0) || !(camera.fy > 0)) __builtin_trap();
        if (render_camera_ray(&camera, 0.5, 0.5, origin, direction)) {
            double length = sqrt(direction[0] * direction[0] + direction[1] * direction[1] +
                                 direction[2] * direction[2]);
            if (!(fabs(length - 1) < 1e-9)) __builtin_trap();
        }
    }
    render_transforms_free(&transforms);
    return 0;
}
