/* Pictures turned upright as their EXIF data says, which cameras write when they are held on their
 * side. JPEG keeps it in a marker, PNG in a chunk; both are read with libexif. */
#include "render/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libexif/exif-data.h>

/* Tag 0x0112. libexif leaves out what it finds no memory for, and only errno tells. */
int render_exif_orientation(const uint8_t *bytes, size_t size) {
    int orientation = 1;
    errno = 0;
    ExifData *data = exif_data_new_from_data(bytes, (unsigned)size);
    ExifEntry *entry = data ? exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION)
                            : NULL;
    if (entry && entry->format == EXIF_FORMAT_SHORT && entry->components >= 1 && entry->size >= 2)
        orientation = exif_get_short(entry->data, exif_data_get_byte_order(data));
    if (data) exif_data_unref(data);
    if (errno == ENOMEM) return 0;
    return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

/* Turns the pixels upright. From the EXIF standard: the orientation tells where row 0 and column
 * 0 of the stored picture belong; 5 to 8 exchange rows and columns. */
bool render_image_orient(render_image *image, int orientation, const char *name,
                         ad_message *error) {
    if (orientation == 1) return true;
    bool exchange = orientation >= 5;
    bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    int width = exchange ? image->height : image->width;
    int height = exchange ? image->width : image->height;
    uint8_t *turned = malloc((size_t)width * (size_t)height * 4);
    if (!turned) return ad_fail(error, "%s: out of memory for %d x %d pixels", name, width, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int from_x = exchange ? y : x, from_y = exchange ? x : y; /* in the stored picture */
            if (flip_x) from_x = image->width - 1 - from_x;
            if (flip_y) from_y = image->height - 1 - from_y;
            memcpy(turned + ((size_t)y * (size_t)width + (size_t)x) * 4,
                   image->pixels + ((size_t)from_y * (size_t)image->width + (size_t)from_x) * 4, 4);
        }
    free(image->pixels);
    image->pixels = turned, image->width = width, image->height = height;
    return true;
}
