/* NumPy's .npy files, version 1.0 of the format, f32: a magic, the length of a header, the header
   (a Python dictionary padded so that the data starts at a multiple of 64), then the values as they
   lie in memory. Depth is written so, because a picture of it cannot be measured. */
#include <stdio.h>
#include <string.h>

#include "autodiff/file.h"
#include "render/render.h"

bool render_npy_write(const char *path, const float *values, int height, int width, int channels,
                      ad_message *error) {
    char front[128];
    char axis[16] = "";
    if (height < 0 || width < 0 || channels < 0)
        return ad_fail(error, "%s: an array of %d x %d x %d cannot be written", path, height, width,
                       channels);
    if (channels > 0) snprintf(axis, sizeof axis, ", %d", channels);

    // Ten bytes, then the dictionary, spaces and a newline up to the end of `front`.
    memset(front, ' ', sizeof front);
    memcpy(front, "\x93NUMPY\1\0", 8);
    front[8] = sizeof front - 10;
    front[9] = 0;
    int used = snprintf(front + 10, sizeof front - 10,
                        "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d%s), }", height,
                        width, axis);
    front[10 + used] = ' ';
    front[sizeof front - 1] = '\n';

    ad_file file;
    size_t count = (size_t)height * (size_t)width * (size_t)(channels ? channels : 1);
    if (!ad_file_begin(&file, path, error)) return false;
    if (!ad_file_write(&file, front, sizeof front, error) ||
        !ad_file_write(&file, values, count * sizeof *values, error)) {
        ad_file_discard(&file);
        return false;
    }
    return ad_file_commit(&file, false, error);
}
