/* Shared by the files that write the report. Internal header. */
#ifndef ADJOINT_REPORT_H
#define ADJOINT_REPORT_H
#include "autodiff/text.h"
#include "render/render.h"

extern const char *const render_report_style;

/* Text for HTML, in elements and in quoted attributes: < > & " ' and control characters escaped,
   bytes that are not UTF-8 replaced. NULL adds nothing. */
void render_report_escape(ad_text *html, const char *string);

/* A figure with up to two curves; the logarithmic flag is of the y axis. */
void render_report_chart(ad_text *html, const char *title, const char *x_name, bool logarithmic,
                         const render_curve *curves, const char *const *names, int count);

#endif
