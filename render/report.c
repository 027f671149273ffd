/* report.html: one page on one run, to be read by whoever made it, or sent to somebody. It is a
   single file: pictures are embedded as base64 PNG, curves as SVG, so it can be opened from a
   phone's downloads, offline, years later. There is no script in it.

   From top to bottom: what came out (a line, a picture, a few figures), how training went (curves),
   held-out views beside what was rendered (with error, depth and normals), then settings, machine
   and timings for whoever wants to repeat it. Large photos are shrunk to a readable size first; the
   error map is made from the full ones. Names come from files and users: all text is escaped. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/file.h"
#include "render/report.h"

enum { PICTURE_SIDE_MAX = 640 };

void render_report_escape(ad_text *html, const char *string) {
    size_t left = string ? strlen(string) : 0;
    while (left > 0 && !html->failed) {
        int length = ad_utf8_length(string, left);
        unsigned char c = (unsigned char)*string;
        if (length == 0 || c == 0x7f || (c < 0x20 && c != '\n' && c != '\t'))
            ad_text_string(html, "\xef\xbf\xbd");
        else if (c == '<')
            ad_text_string(html, "&lt;");
        else if (c == '>')
            ad_text_string(html, "&gt;");
        else if (c == '&')
            ad_text_string(html, "&amp;");
        else if (c == '"')
            ad_text_string(html, "&quot;");
        else if (c == '\'')
            ad_text_string(html, "&#39;");
        else
            ad_text_add(html, string, (size_t)length);
        size_t step = length ? (size_t)length : 1;
        string += step;
        left -= step;
    }
}

static void base64(ad_text *html, const uint8_t *bytes, size_t count) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < count; i += 3) {
        uint32_t three = (uint32_t)bytes[i] << 16;
        if (i + 1 < count) three |= (uint32_t)bytes[i + 1] << 8;
        if (i + 2 < count) three |= bytes[i + 2];
        char four[4] = { digits[three >> 18], digits[three >> 12 & 63],
                         i + 1 < count ? digits[three >> 6 & 63] : '=',
                         i + 2 < count ? digits[three & 63] : '=' };
        ad_text_add(html, four, 4);
    }
}

/* Means over blocks of factor x factor pixels; what is left over at the edges is dropped. */
static void shrink(uint8_t *out, const uint8_t *rgb, int width, int height, int factor) {
    int out_width = width / factor, out_height = height / factor;
    for (int y = 0; y < out_height; y++)
        for (int x = 0; x < out_width; x++)
            for (int c = 0; c < 3; c++) {
                int64_t sum = 0;
                for (int dy = 0; dy < factor; dy++)
                    for (int dx = 0; dx < factor; dx++)
                        sum += rgb[((int64_t)(y * factor + dy) * width + x * factor + dx) * 3 + c];
                int64_t area = (int64_t)factor * factor;
                out[((int64_t)y * out_width + x) * 3 + c] = (uint8_t)((sum + area / 2) / area);
            }
}

/* An <img>; false with a sentence when memory ran out. */
static bool add_picture(ad_text *html, const uint8_t *rgb, int width, int height, const char *name,
                        ad_message *error) {
    int side = width > height ? width : height, least = width < height ? width : height;
    int factor = (side + PICTURE_SIDE_MAX - 1) / PICTURE_SIDE_MAX;
    if (factor > least) factor = least; // a strip keeps at least one row
    if (factor < 1) return ad_fail(error, "a picture of %d x %d pixels", width, height);
    int out_width = width / factor, out_height = height / factor;
    uint8_t *small = malloc((size_t)out_width * (size_t)out_height * 3), *png = NULL;
    size_t count = 0;
    bool done = small || ad_fail(error, "out of memory");
    if (done) {
        shrink(small, rgb, width, height, factor);
        done = render_png_encode(&png, &count, small, out_width, out_height, 3, error);
    }
    if (done) {
        ad_text_format(html, "<img width=%d height=%d alt=\"", out_width, out_height);
        render_report_escape(html, name);
        ad_text_string(html, "\" src=\"data:image/png;base64,");
        base64(html, png, count);
        ad_text_string(html, "\">");
    }
    free(png);
    free(small);
    return done;
}

static bool add_figure(ad_text *html, const uint8_t *rgb, int width, int height,
                       const char *caption, ad_message *error) {
    if (!rgb) return true;
    ad_text_string(html, "<figure>");
    bool done = add_picture(html, rgb, width, height, caption, error);
    ad_text_string(html, "<figcaption>");
    render_report_escape(html, caption);
    ad_text_string(html, "</figcaption></figure>\n");
    return done;
}

static bool add_top(ad_text *html, const render_report *report, ad_message *error) {
    ad_text_string(html,
                   report->picture ? "<div class=\"top two\"><div>\n" : "<div class=top><div>\n");
    ad_text_string(html, "<h1>");
    render_report_escape(html, report->title);
    ad_text_string(html, "</h1>\n<p class=result>");
    render_report_escape(html, report->summary);
    ad_text_string(html, "</p>\n");
    if (report->highlight_count) ad_text_string(html, "<div class=tiles>\n");
    for (size_t i = 0; i < report->highlight_count; i++) {
        ad_text_string(html, "<div class=tile><b>");
        render_report_escape(html, report->highlights[i].value);
        ad_text_string(html, "</b><span>");
        render_report_escape(html, report->highlights[i].name);
        ad_text_string(html, "</span></div>\n");
    }
    if (report->highlight_count) ad_text_string(html, "</div>\n");
    ad_text_string(html, "</div>\n");
    bool done = add_figure(html, report->picture, report->picture_width, report->picture_height,
                           report->picture_name ? report->picture_name : "", error);
    ad_text_string(html, "</div>\n");
    return done;
}

static void add_curves(ad_text *html, const render_report *report) {
    static const char *const names[] = { "training", "a held-out view, small" };
    const char *x_name = report->x_name ? report->x_name : "step";
    const render_curve psnr[] = { report->psnr, report->psnr_held_out };
    if (report->loss.count + psnr[0].count + psnr[1].count == 0) return;
    ad_text_string(html, "<h2>Training</h2>\n<div class=charts>\n");
    render_report_chart(html, "Loss", x_name, true, &report->loss, names, 1);
    render_report_chart(html, "PSNR, dB", x_name, false, psnr, names, 2);
    ad_text_string(html, "</div>\n");
}

static bool add_view(ad_text *html, const render_report_view *view, ad_message *error) {
    int width = view->width, height = view->height;
    if (width < 1 || height < 1 || !view->result)
        return ad_fail(error, "view \"%.100s\": expected a picture, found none",
                       view->name ? view->name : "");
    int figures = 1 + (view->target ? 2 : 0) + (view->depth != NULL) + (view->normal != NULL);
    ad_text_string(html, "<section class=view><h3>");
    render_report_escape(html, view->name);
    ad_text_string(html, "<span>");
    if (isfinite(view->psnr))
        ad_text_format(html, "PSNR %.2f dB", view->psnr);
    else if (isinf(view->psnr))
        ad_text_string(html, "identical");
    if (isfinite(view->ssim)) ad_text_format(html, " &middot; SSIM %.4f", view->ssim);
    ad_text_format(html,
                   " &middot; %d &times; %d</span></h3>\n<div class=strip style=\"--n:%d\">\n",
                   width, height, figures);

    size_t pixels = (size_t)width * (size_t)height;
    uint8_t *heat = view->target ? malloc(pixels * 3) : NULL;
    bool done = !view->target || heat || ad_fail(error, "out of memory");
    if (done && heat) render_colour_error(heat, view->result, view->target, pixels, 3, 0);
    done = done && add_figure(html, view->target, width, height, "Target", error) &&
           add_figure(html, view->result, width, height, "Rendered", error) &&
           add_figure(html, heat, width, height, "Error, up to 20 %", error) &&
           add_figure(html, view->depth, width, height, "Depth, near is red", error) &&
           add_figure(html, view->normal, width, height, "Normals", error);
    ad_text_string(html, "</div></section>\n");
    free(heat);
    return done;
}

static void add_table(ad_text *html, const char *title, const render_row *rows, size_t count) {
    if (count == 0) return;
    ad_text_format(html, "<section><h2>%s</h2>\n<table>\n", title);
    for (size_t i = 0; i < count; i++) {
        ad_text_string(html, "<tr><td>");
        render_report_escape(html, rows[i].name);
        ad_text_string(html, "</td><td>");
        render_report_escape(html, rows[i].value);
        ad_text_string(html, "</td></tr>\n");
    }
    ad_text_string(html, "</table></section>\n");
}

/* The whole page, in memory. */
static bool page_make(ad_text *html, const render_report *report, ad_message *error) {
    ad_text_string(html, "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
                         "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
                         "<title>");
    render_report_escape(html, report->title);
    ad_text_string(html, "</title>\n<style>\n");
    ad_text_string(html, render_report_style);
    ad_text_string(html, "</style></head>\n<body><main>\n");
    if (!add_top(html, report, error)) return false;
    add_curves(html, report);
    if (report->view_count) {
        ad_text_string(html, "<h2>Views that training never saw</h2>\n<p class=dim>");
        render_report_escape(html, report->protocol);
        ad_text_string(html, "</p>\n");
    }
    for (size_t i = 0; i < report->view_count; i++)
        if (!add_view(html, &report->views[i], error)) return false;
    ad_text_string(html, "<div class=tables>\n");
    add_table(html, "Settings", report->settings, report->setting_count);
    add_table(html, "Machine", report->machine, report->machine_count);
    add_table(html, "Timings", report->timings, report->timing_count);
    ad_text_string(html, "</div>\n");
    if (report->command) {
        ad_text_string(html, "<h2>Command</h2>\n<pre>");
        render_report_escape(html, report->command);
        ad_text_string(html, "</pre>\n");
    }
    ad_text_string(html, "</main></body></html>\n");
    return !html->failed || ad_fail(error, "out of memory");
}

bool render_report_write(const render_report *report, const char *path, ad_message *error) {
    ad_text html = { 0 };
    ad_message reason = { "" };
    bool done = page_make(&html, report, &reason)
                  ? ad_file_save(path, html.bytes, html.count, error)
                  : ad_fail(error, "%s: %.800s", path, reason.text);
    ad_text_free(&html);
    return done;
}
