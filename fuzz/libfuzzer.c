/* Ties one target to libFuzzer: compiled with -DFUZZ_TARGET=fuzz_png and so on, see run.sh. */
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return FUZZ_TARGET(data, size);
}
