/* The build itself: what the flags promise holds in the code they compile. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <string.h>

Test(build, assertions_are_on)
{
#ifdef NDEBUG
    cr_assert_fail("the library's own promises are checked in every build: no NDEBUG");
#endif
}

Test(build, a_pragma_starts_the_threads_it_names)
{
    int threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : threads)
    threads += 1;
#ifdef _OPENMP
    cr_assert_eq(threads, 2, "expected 2 threads, found %d", threads);
#else
    cr_assert_eq(threads, 1, "a serial build: expected 1 thread, found %d", threads);
#endif
}

Test(build, the_library_is_linked)
{
    ad_message error = {{0}};
    cr_assert_not(ad_fail(&error, "%s: line %d", "a.json", 3));
    cr_assert_str_eq(error.text, "a.json: line 3");
}
