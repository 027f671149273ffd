/* The scene box, the unit cube it is scaled into, and cameras as rows of numbers in that cube.
 *
 * The cube is centred on the box and as long as its longest side, so the scaling is the same along
 * every axis and angles stay what they are. */
#include "render/render.h"

#include <math.h>

enum { CASCADES_MAX = 8 };

bool render_domain_make(const double box_min[3], const double box_max[3], int cascades,
                        render_domain *domain) {
    *domain = (render_domain){.cascades = cascades};
    double longest = 0;
    for (int i = 0; i < 3; i++) {
        double side = box_max[i] - box_min[i];
        if (!isfinite(box_min[i]) || !isfinite(box_max[i]) || !(side > 0)) return false;
        domain->centre[i] = box_min[i] + side / 2;
        if (side > longest) longest = side;
    }
    domain->scale = 1 / longest;
    for (int i = 0; i < 3; i++) {
        domain->low[i] = (box_min[i] - domain->centre[i]) * domain->scale + 0.5;
        domain->high[i] = (box_max[i] - domain->centre[i]) * domain->scale + 0.5;
    }
    return isfinite(domain->scale) && cascades >= 1 && cascades <= CASCADES_MAX;
}

bool render_cameras_pack(const render_camera *cameras, int count, const render_domain *domain,
                         float *rows) {
    bool finite = true;
    for (int c = 0; c < count; c++) {
        const render_camera *camera = &cameras[c];
        float *row = rows + (size_t)c * RENDER_CAMERA_NUMBERS;
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 3; j++) *row++ = (float)camera->pose[i][j];
            *row++ = (float)((camera->pose[i][3] - domain->centre[i]) * domain->scale + 0.5);
        }
        *row++ = (float)camera->fx, *row++ = (float)camera->fy;
        *row++ = (float)camera->cx, *row++ = (float)camera->cy;
        for (int i = 0; i < 4; i++) *row++ = (float)camera->k[i];
        for (int i = 0; i < 2; i++) *row++ = (float)camera->p[i];
        *row++ = camera->model == RENDER_CAMERA_FISHEYE;
        *row++ = (float)camera->width, *row++ = (float)camera->height;
        *row++ = 0;
        for (int i = 1; i <= RENDER_CAMERA_NUMBERS; i++) finite &= isfinite(row[-i]) != 0;
    }
    return finite;
}
