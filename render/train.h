/* train.h: the inside of a trainer, for train.c and snapshot.c. */
#ifndef ADJOINT_RENDER_TRAIN_H
#define ADJOINT_RENDER_TRAIN_H

#include "render/model.h"

struct render_trainer {
    ad_context *ctx;
    render_model *model;
    ad_tensor pixels, starts, allowed, cameras; // pictures on the device; allowed: null = all
    ad_tensor live;            // () u32: rays of the next step
    ad_tensor sums, counts;    // since the last collection: loss, squares, steps; samples, rays
    ad_optimizer *grid_adam, *net_adam;
    const render_phase *phase; // of the schedule; NULL before the first step
    ad_program *program;       // a step of this phase; NULL before its first here
    int64_t step;
    double sum[3];             // collected, not yet read
    uint64_t samples, rays;
    double rate;
};

void render_trainer_collect(render_trainer *trainer);
bool render_trainer_masks(render_trainer *trainer, const render_dataset *dataset, uint64_t pixels,
                          ad_message *error);

#endif
