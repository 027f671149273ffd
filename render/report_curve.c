/* Curves of the report: inline SVG, drawn in its own units and scaled by the page, so that it needs
   no script and stays sharp on any screen. Colours are CSS variables of the page, which follow the
   reader's light or dark setting.

   Loss is drawn on a logarithmic axis, PSNR on a linear one. A run of any length is drawn with at
   most POINTS points a curve: neighbours are averaged, on the axis as it is shown. */
#include <math.h>

#include "render/report.h"

enum { WIDTH = 480, HEIGHT = 270, LEFT = 52, RIGHT = 16, TOP = 14, BOTTOM = 34, POINTS = 240 };

/* One axis: values from `low` to `high` at the positions `from` to `to`. */
typedef struct chart_axis {
    double low, high, from, to;
    bool logarithmic;
} chart_axis;

static double shown(const chart_axis *axis, double value) {
    return axis->logarithmic ? log10(value) : value;
}

static bool drawable(const chart_axis *axis, double value) {
    return isfinite(value) && (!axis->logarithmic || value > 0);
}

/* Where a value (as shown: its logarithm on a logarithmic axis) lies. */
static double place(const chart_axis *axis, double value) {
    return axis->from + (value - axis->low) / (axis->high - axis->low) * (axis->to - axis->from);
}

static void axes_cover(chart_axis *x, chart_axis *y, const render_curve *curve) {
    for (size_t i = 0; i < curve->count; i++) {
        if (!isfinite(curve->x[i]) || !drawable(y, curve->y[i])) continue;
        double value = shown(y, curve->y[i]);
        x->low = fmin(x->low, curve->x[i]), x->high = fmax(x->high, curve->x[i]);
        y->low = fmin(y->low, value), y->high = fmax(y->high, value);
    }
}

/* 1, 2 or 5 times a power of ten, so that about `wanted` of them make up `span`. */
static double tick_step(double span, int wanted) {
    double power = pow(10, floor(log10(span / wanted)));
    double ratio = span / wanted / power;
    return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

/* 12000 as 12k: axes have little room. */
static void tick_label(ad_text *svg, double value) {
    double size = fabs(value);
    if (size >= 1e6)
        ad_text_format(svg, "%.4gM", value / 1e6);
    else if (size >= 1e3)
        ad_text_format(svg, "%.4gk", value / 1e3);
    else
        ad_text_format(svg, "%.4g", size < 1e-12 ? 0.0 : value);
}

static void tick_y(ad_text *svg, const chart_axis *y, double value, double label) {
    double at = place(y, value);
    ad_text_format(svg, "<path class=grid d=\"M%d %.1fH%d\"/><text x=%d y=%.1f class=e>", LEFT, at,
                   WIDTH - RIGHT, LEFT - 7, at + 4);
    tick_label(svg, label);
    ad_text_string(svg, "</text>");
}

static void ticks_y(ad_text *svg, const chart_axis *y) {
    if (!y->logarithmic) {
        double step = tick_step(y->high - y->low, 5);
        for (double value = ceil(y->low / step) * step; value <= y->high + 1e-9; value += step)
            tick_y(svg, y, value, value);
        return;
    }
    // Powers of ten, with their doubles and fives between them while there is room.
    double decades = y->high - y->low;
    bool roomy = decades < 2.2;
    int stride = 1 + (int)(decades / 8);
    for (int power = (int)floor(y->low); power <= (int)ceil(y->high); power += stride) {
        static const double between[] = { 1, 2, 5 };
        for (int i = 0; i < (roomy ? 3 : 1); i++) {
            double value = power + log10(between[i]);
            if (value >= y->low - 1e-9 && value <= y->high + 1e-9)
                tick_y(svg, y, value, between[i] * pow(10, power));
        }
    }
}

static void ticks_x(ad_text *svg, const chart_axis *x, const char *name) {
    double step = tick_step(x->high - x->low, 4);
    for (double value = ceil(x->low / step) * step; value <= x->high + step * 1e-6; value += step) {
        double at = place(x, value);
        ad_text_format(svg, "<text x=%.1f y=%d class=m>", at, HEIGHT - BOTTOM + 17);
        tick_label(svg, value);
        ad_text_string(svg, "</text>");
    }
    ad_text_format(svg, "<text x=%d y=%d class=e>", WIDTH - RIGHT, HEIGHT - 3);
    render_report_escape(svg, name);
    ad_text_string(svg, "</text>");
}

/* The line itself; gaps in the data are gaps in the line. Its last point gets a dot. */
static void curve_draw(ad_text *svg, const chart_axis *x, const chart_axis *y,
                       const render_curve *curve, const char *style, bool dots) {
    size_t group = (curve->count + POINTS - 1) / POINTS, drawn = 0;
    double last_x = 0, last_y = 0;
    bool gap = true;
    ad_text dotted = { 0 };
    ad_text_format(svg, "<path class=\"line %s\" d=\"", style);
    for (size_t i = 0; i < curve->count; i += group) {
        double sum_x = 0, sum_y = 0, number = 0;
        for (size_t k = i; k < i + group && k < curve->count; k++) {
            if (!isfinite(curve->x[k]) || !drawable(y, curve->y[k])) continue;
            sum_x += curve->x[k], sum_y += shown(y, curve->y[k]), number += 1;
        }
        if (number > 0) {
            last_x = place(x, sum_x / number), last_y = place(y, sum_y / number);
            ad_text_format(svg, "%c%.1f %.1f", gap ? 'M' : 'L', last_x, last_y);
            if (dots && curve->count <= 40)
                ad_text_format(&dotted, "<circle class=%s cx=%.1f cy=%.1f r=3 />", style, last_x,
                               last_y);
            drawn++;
        }
        gap = number == 0;
    }
    ad_text_string(svg, "\"/>");
    if (dotted.count) ad_text_add(svg, dotted.bytes, dotted.count);
    svg->failed |= dotted.failed;
    ad_text_free(&dotted);
    if (drawn)
        ad_text_format(svg, "<circle class=%s cx=%.1f cy=%.1f r=4 />", style, last_x, last_y);
}

/* An axis of one value, or of none, still has a length. */
static void axis_widen(chart_axis *axis, double least, double margin) {
    if (!(axis->high - axis->low >= least)) {
        double middle = (axis->low + axis->high) / 2;
        axis->low = middle - least / 2, axis->high = middle + least / 2;
    }
    double more = margin * (axis->high - axis->low);
    axis->low -= more, axis->high += more;
}

void render_report_chart(ad_text *html, const char *title, const char *x_name, bool logarithmic,
                         const render_curve *curves, const char *const *names, int count) {
    static const char *const styles[] = { "c1", "c2" };
    chart_axis x = { INFINITY, -INFINITY, LEFT, WIDTH - RIGHT, false };
    chart_axis y = { INFINITY, -INFINITY, HEIGHT - BOTTOM, TOP, logarithmic };
    for (int i = 0; i < count; i++) axes_cover(&x, &y, &curves[i]);
    ad_text_string(html, "<figure class=chart><figcaption><b>");
    render_report_escape(html, title);
    ad_text_string(html, "</b>");
    if (!(x.low <= x.high)) {
        ad_text_string(html, "</figcaption><p class=dim>No measurements.</p></figure>\n");
        return;
    }
    for (int i = 0; i < count; i++) {
        if (curves[i].count == 0) continue;
        ad_text_format(html, " <span class=\"key %s\">", styles[i]);
        render_report_escape(html, names[i]);
        ad_text_string(html, "</span>");
    }
    axis_widen(&x, 1e-9 + 1e-6 * fabs(x.high), 0);
    axis_widen(&y, logarithmic ? 0.1 : 0.5, 0.05);
    ad_text_format(html, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"", WIDTH,
                   HEIGHT);
    render_report_escape(html, title);
    ad_text_string(html, "\">");
    ticks_y(html, &y);
    ticks_x(html, &x, x_name);
    for (int i = 0; i < count; i++) curve_draw(html, &x, &y, &curves[i], styles[i], i > 0);
    ad_text_string(html, "</svg></figure>\n");
}
