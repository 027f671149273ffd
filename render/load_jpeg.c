/* JPEG to 8-bit RGBA with libjpeg-turbo, turned upright as the EXIF orientation says.
 *
 * A radiance field must not learn grey blocks, so data that libjpeg would patch over with a
 * warning (an early end, a broken Huffman code, a lost marker) is a failure here; harmless
 * warnings (stray bytes between markers) are not. A progressive file may hold thousands of
 * nearly empty scans, each costing a pass over the image; more than 100 are refused.
 *
 * libjpeg reports failures by longjmp from its error manager: every call into it is made below
 * one of the setjmp points of this file, and what must survive the jump lives in `jpeg_reader`. */
#include "render/load.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { SCANS_MAX = 100 };

typedef struct jpeg_reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr manager;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char failure[JMSG_LENGTH_MAX]; /* libjpeg's words */
} jpeg_reader;

static void on_error(j_common_ptr common) {
    jpeg_reader *reader = common->client_data;
    reader->manager.format_message(common, reader->failure);
    longjmp(reader->jump, 1);
}

/* Level -1 is a warning about the data, 0 and above are traces. */
static void on_message(j_common_ptr common, int level) {
    if (level >= 0) return;
    switch (common->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC: on_error(common); break;
    default: break;
    }
}

static void on_output(j_common_ptr common) { (void)common; }

/* Called now and then while coefficients are read. */
static void on_progress(j_common_ptr common) {
    jpeg_reader *reader = common->client_data;
    if (reader->jpeg.input_scan_number <= SCANS_MAX) return;
    snprintf(reader->failure, sizeof reader->failure, "more than %d scans", SCANS_MAX);
    longjmp(reader->jump, 1);
}

/* Reads the header; may jump. */
static void read_header(jpeg_reader *reader, const uint8_t *bytes, size_t size) {
    jpeg_create_decompress(&reader->jpeg);
    reader->progress.progress_monitor = on_progress;
    reader->jpeg.progress = &reader->progress;
    jpeg_mem_src(&reader->jpeg, bytes, (unsigned long)size);
    jpeg_save_markers(&reader->jpeg, JPEG_APP0 + 1, 0xFFFF); /* EXIF */
    jpeg_read_header(&reader->jpeg, TRUE);
}

static void reader_prepare(jpeg_reader *reader) {
    memset(reader, 0, sizeof *reader);
    reader->jpeg.err = jpeg_std_error(&reader->manager);
    reader->jpeg.client_data = reader;
    reader->manager.error_exit = on_error;
    reader->manager.emit_message = on_message;
    reader->manager.output_message = on_output;
}

static bool jpeg_fail(const jpeg_reader *reader, const char *name, ad_message *error) {
    return ad_fail(error, "%s: expected a JPEG image, found damaged data: %s", name,
                   reader->failure);
}

/* As the first EXIF marker says; jumps when memory is out. */
static int exif_orientation(jpeg_reader *reader) {
    int orientation = 1;
    for (jpeg_saved_marker_ptr m = reader->jpeg.marker_list; m; m = m->next) {
        if (m->data_length < 14 || memcmp(m->data, "Exif\0\0", 6) != 0) continue;
        orientation = render_exif_orientation(m->data, m->data_length);
        break;
    }
    if (orientation == 0) {
        snprintf(reader->failure, sizeof reader->failure, "out of memory");
        longjmp(reader->jump, 1);
    }
    return orientation;
}

bool render_jpeg_probe(int *width, int *height, bool *turned, const char *name,
                       const uint8_t *bytes, size_t size, ad_message *error) {
    jpeg_reader reader;
    reader_prepare(&reader);
    if (setjmp(reader.jump)) {
        jpeg_destroy_decompress(&reader.jpeg);
        return jpeg_fail(&reader, name, error);
    }
    read_header(&reader, bytes, size);
    *turned = exif_orientation(&reader) >= 5;
    *width = (int)(*turned ? reader.jpeg.image_height : reader.jpeg.image_width);
    *height = (int)(*turned ? reader.jpeg.image_width : reader.jpeg.image_height);
    jpeg_destroy_decompress(&reader.jpeg);
    return true;
}

bool render_jpeg_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                        const render_image_options *options, ad_message *error) {
    memset(image, 0, sizeof *image);
    jpeg_reader reader;
    reader_prepare(&reader);
    if (setjmp(reader.jump)) {
        jpeg_fail(&reader, name, error);
        goto fail;
    }

    /* The size is checked before memory for pixels is asked for: an 8 x 8 block takes at least
     * one bit, and colour planes may be stored at a sixteenth of the pixels. */
    read_header(&reader, bytes, size);
    struct jpeg_decompress_struct *jpeg = &reader.jpeg;
    int orientation = exif_orientation(&reader); /* now: later markers must not change it */
    int64_t width = jpeg->image_width, height = jpeg->image_height;
    if (!render_image_size_check(name, width, height, size, 1024, options->pixels_max, error))
        goto fail;
    if (jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK) {
        ad_fail(error, "%s: expected a grey or colour JPEG, found CMYK; convert it to RGB", name);
        goto fail;
    }
    image->pixels = malloc((size_t)width * (size_t)height * 4);
    if (!image->pixels) {
        ad_fail(error, "%s: out of memory for %lld x %lld pixels", name, (long long)width,
                (long long)height);
        goto fail;
    }
    image->width = (int)width, image->height = (int)height;

    /* Rows arrive as RGBA with opaque alpha. */
    jpeg->out_color_space = JCS_EXT_RGBA;
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW row = image->pixels + (size_t)jpeg->output_scanline * (size_t)width * 4;
        jpeg_read_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_decompress(jpeg);
    if (!options->ignore_orientation
        && !render_image_orient(image, orientation, name, error))
        goto fail;
    jpeg_destroy_decompress(jpeg);
    return true;
fail:
    jpeg_destroy_decompress(&reader.jpeg);
    render_image_free(image);
    return false;
}

#define NUMBER_TEXT(number) #number
#define NUMBER(number) NUMBER_TEXT(number)
#ifdef LIBJPEG_TURBO_VERSION
const char *render_jpeg_library(void) {
    return "libjpeg-turbo " NUMBER(LIBJPEG_TURBO_VERSION);
}
#else
const char *render_jpeg_library(void) { return "libjpeg " NUMBER(JPEG_LIB_VERSION); }
#endif
