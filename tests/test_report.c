/* The report and the progress bar: what people see of a run. The page is checked as text: it
   contains its pictures, opens nothing else, runs nothing, closes what it opens, and escapes every
   name. */
#define _DEFAULT_SOURCE 1
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/progress.h"
#include "render/report.h"
#include "tests/fixtures.h"

static fixture_folder folder;

static void folder_make(void) { fixture_make(&folder); }
static void folder_remove(void) { fixture_remove(&folder); }
static const char *in_folder(const char *name) { return fixture_path(&folder, name); }

TestSuite(report, .init = folder_make, .fini = folder_remove);

/* ---- the report ---- */

static const char *count_of(const char *text, const char *part, int *count) {
    *count = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) ++*count;
    return text;
}

Test(report, page) {
    static uint8_t large[700 * 1200 * 3], small[12 * 9 * 3];
    enum { POINTS = 5000 };
    static double x[POINTS], loss[POINTS], psnr[POINTS];
    for (int i = 0; i < POINTS; i++) {
        x[i] = i, loss[i] = i % 7 == 3 ? NAN : 1.0 / (i + 1), psnr[i] = 20 + i * 0.001;
        if (i % 11 == 0) psnr[i] = INFINITY;
    }
    loss[9] = 0, loss[10] = -1;
    const render_row rows[] = { { "<b>name</b>", "a & \"b\" 'c' \xff\x01" }, { NULL, NULL } };
    const render_report_view views[] = {
        { "<script>", 700, 1200, large, large, large, large, 31.256, 0.95432 },
        { NULL, 12, 9, NULL, small, NULL, NULL, NAN, NAN },
        { "same", 12, 9, small, small, NULL, NULL, INFINITY, 1 },
    };
    render_report report = {
        .title = "t</title><script>alert(1)</script>",
        .summary = "s",
        .protocol = "p",
        .picture = small,
        .picture_width = 12,
        .picture_height = 9,
        .highlights = rows,
        .highlight_count = 2,
        .loss = { x, loss, POINTS },
        .psnr = { x, psnr, POINTS },
        .psnr_held_out = { x, psnr, 12 },
        .views = views,
        .view_count = 3,
        .settings = rows,
        .setting_count = 2,
        .command = "adjoint <x>",
    };
    ad_message error = { "" };
    size_t length;
    int pictures, scripts, links, opened, closed;
    const char *path = in_folder("report.html");
    cr_assert(render_report_write(&report, path, &error), "%s", error.text);
    char *html = (char *)fixture_read(path, &length);
    cr_expect_eq(strlen(html), length, "a NUL in the page");

    // Self-contained: seven pictures inside (top, 5 + 1, and target, result, error of "same").
    count_of(html, "<img ", &pictures);
    count_of(html, "src=\"data:image/png;base64,iVBORw0KGgo", &opened);
    cr_expect_eq(pictures, 1 + 5 + 1 + 3, "%d pictures", pictures);
    cr_expect_eq(opened, pictures);
    count_of(html, "http", &links);
    count_of(html, "<script", &scripts);
    cr_expect(links == 0 && scripts == 0, "%d links, %d scripts", links, scripts);
    cr_expect(strstr(html, "width=350 height=600"), "1,200 pixels were not halved");

    // Names are text, whatever they hold; figures are there; gaps break no path.
    cr_expect(strstr(html, "&lt;script&gt;") && strstr(html, "&lt;b&gt;name&lt;/b&gt;"));
    cr_expect(strstr(html, "a &amp; &quot;b&quot; &#39;c&#39; \xef\xbf\xbd\xef\xbf\xbd"));
    cr_expect(strstr(html, "PSNR 31.26 dB &middot; SSIM 0.9543 &middot; 700 &times; 1200"));
    cr_expect(strstr(html, "identical"));
    for (char *at = html; (at = strstr(at, "d=\"M")); at++)
        for (char *c = at + 3; *c != '"'; c++)
            cr_assert(strchr("MLHV -.0123456789", *c), "a path with '%.20s'", c);
    static const char *const elements[] = { "figure", "section", "table", "div", "svg", "main" };
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
        char tag[16];
        snprintf(tag, sizeof tag, "</%s>", elements[i]);
        count_of(html, tag, &closed);
        snprintf(tag, sizeof tag, "<%s", elements[i]);
        count_of(html, tag, &opened);
        cr_expect_eq(opened, closed, "<%s> %d, closed %d", elements[i], opened, closed);
    }
    free(html);

    // An empty report is a page, too; a place that cannot be written is a sentence.
    cr_expect(render_report_write(&(render_report){ 0 }, in_folder("empty.html"), &error), "%s",
              error.text);
    fixture_text(&folder, "no", "a file where a folder is wanted");
    cr_expect_not(render_report_write(&report, in_folder("no/report.html"), &error));
    cr_expect(strstr(error.text, "no/report.html.part: cannot be created"), "%s", error.text);
}

Test(report, base64_decodes_to_the_picture) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static uint8_t pixels[12 * 3 * 3];
    bool remainders[3] = { false };
    for (int i = 0; i < 108; i++) pixels[i] = (uint8_t)(i * i * 37 >> 2);
    for (int width = 1; width <= 12; width++) {
        int height = 1 + width % 3;
        render_report report = { .picture = pixels,
                                 .picture_width = width,
                                 .picture_height = height };
        uint8_t *png, decoded[3000];
        size_t png_count, length, count = 0;
        cr_assert(render_report_write(&report, in_folder("a.html"), NULL));
        cr_assert(render_png_encode(&png, &png_count, pixels, width, height, 3, NULL));
        char *html = (char *)fixture_read(in_folder("a.html"), &length);
        const char *at = strstr(html, "base64,") + strlen("base64,");
        size_t padded = strcspn(at, "\""), bits = 0, held = 0;
        for (size_t i = 0; i < padded && at[i] != '='; i++) {
            held = held << 6 | (size_t)(strchr(digits, at[i]) - digits), bits += 6;
            if (bits >= 8) decoded[count++] = (uint8_t)(held >> (bits -= 8));
        }
        cr_expect_eq(padded, (png_count + 2) / 3 * 4, "padded to whole groups of four");
        cr_assert_eq(count, png_count, "%zu bytes, %zu encoded", count, png_count);
        cr_expect_arr_eq(decoded, png, count);
        remainders[png_count % 3] = true;
        free(png);
        free(html);
    }
    cr_expect(remainders[0] && remainders[1] && remainders[2], "not every padding was met");
}

Test(report, chart_of_extremes) {
    // Whatever comes in, the drawing ends, and stays a drawing.
    static const double values[] = { 5e-324, 1e308, -1e308, 0, 1, NAN, INFINITY };
    for (size_t i = 0; i < 7; i++)
        for (size_t k = 0; k < 7; k++)
            for (int logarithmic = 0; logarithmic < 2; logarithmic++) {
                ad_text html = { 0 };
                const render_curve curve = { (double[]){ values[i], values[k] },
                                             (double[]){ values[k], values[i] }, 2 };
                const char *name = "a";
                render_report_chart(&html, "t", "step", logarithmic, &curve, &name, 1);
                cr_assert_not(html.failed);
                cr_expect_lt(html.count, 20000u, "%zu bytes", html.count);
                cr_expect(strstr(html.bytes, "</figure>"));
                ad_text_free(&html);
            }
}

/* ---- progress ---- */

/* What the updates print, from a clock that the test turns. */
static const char *progress_prints(bool terminal, int columns, bool unicode) {
    static char text[1 << 16];
    memset(text, 0, sizeof text);
    FILE *stream = fmemopen(text, sizeof text, "w");
    cli_progress progress;
    cli_progress_begin(&progress, stream, false);
    progress.terminal = terminal, progress.unicode = unicode, progress.columns = columns;
    cli_progress_state state = { .loss = 0.0123, .psnr = 29.1, .samples_per_second = 2.41e6 };
    for (int i = 0; i <= 100; i++) { // resumed at one half, 10 s for the other half
        state.seconds = i * 0.1;
        state.share = 0.5 + 0.005 * i;
        state.step = 8000 + 80 * i;
        cli_progress_update(&progress, &state);
        cli_progress_update(&progress, &state);
    }
    cli_progress_end(&progress, &state);
    cli_progress_update(&progress, &state); // after the end: nothing
    fclose(stream);
    return text;
}

Test(progress, lines) {
    cr_expect_str_eq(
        progress_prints(false, 0, false),
        "0:05  75%  step 12,000  loss 0.0123  PSNR 29.10 dB  2.41 M samples/s  0:05 left\n"
        "0:10  100%  step 16,000  loss 0.0123  PSNR 29.10 dB  2.41 M samples/s\n"); // once
}

Test(progress, bar) {
    // Every drawing fits one line less one cell, and the bar is gone at the end.
    for (int columns = 1; columns <= 140; columns += 3) {
        const char *text = progress_prints(true, columns, true);
        const char *last = NULL;
        for (const char *at = strchr(text, '\r'); at; at = strchr(at + 1, '\r')) {
            int cells = 0;
            last = at;
            for (const char *c = at + 1; *c && *c != '\033'; c++) cells += (*c & 0xc0) != 0x80;
            cr_expect_lt(cells, columns > 1 ? columns : 2, "%d cells of %d", cells, columns);
        }
        cr_assert_not_null(last);
        cr_expect_eq(strncmp(last, "\r\033[K0:10  100%", 14), 0, "%.30s", last);
    }
    const char *ascii = progress_prints(true, 60, false);
    cr_expect(strstr(ascii, "\r 75% "), "%s", ascii);
    cr_expect(strstr(ascii, "PSNR 29.10 dB  0:05 left\033[K"));
    for (const char *c = ascii; *c; c++) cr_assert((unsigned char)*c < 128);
}
