// The same from C++17: the headers compile there, and the names link as C.
#include <adjoint/autodiff.h>
#include <adjoint/render.h>
#include <adjoint/save.h>

#include <cstdio>

int main()
{
    const float start[2] = {3.0f, 4.0f};
    ad_options options{};
    options.seed = 1;
    ad_context *ctx = ad_open(&options);
    ad_tensor w = ad_parameter(ctx, "w", ad_from(ctx, AD_F32, AD_SHAPE(2), start)); // (2)
    ad_tensor y = ad_sum(ctx, ad_mul(ctx, w, w), AD_ALL_AXES, false);               // ()
    const double value = ad_item(ctx, y);
    const bool failed = ad_failed(ctx);
    if (failed) std::fprintf(stderr, "consumer.cpp: %s\n", ad_error_text(ctx));
    ad_close(ctx);

    ad_message error{};
    render_dataset dataset{};
    const bool refused = !render_dataset_load(&dataset, "no such folder", nullptr, &error);
    render_dataset_free(&dataset);
    if (value != 25.0) std::fprintf(stderr, "consumer.cpp: expected 25, found %g\n", value);
    return !failed && refused && value == 25.0 ? 0 : 1;
}
