/* A PNG chunk carries a checksum, at which random changes would all end. This mutator lets
 * libFuzzer change the bytes and then writes the right checksum behind every chunk. One time in
 * eight the wrong ones stay, so that the check itself is exercised. */
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, size_max);
    if (seed % 8 == 0) return size;

    /* Length, type, data, checksum of type and data; a length past the end is cut. */
    for (size_t at = 8; at + 12 <= size;) {
        size_t length = (size_t)data[at] << 24 | (size_t)data[at + 1] << 16 |
                        (size_t)data[at + 2] << 8 | data[at + 3];
        if (length > size - at - 12) length = size - at - 12;
        put_u32(data + at, (uint32_t)length);
        put_u32(data + at + 8 + length,
                (uint32_t)crc32(0, data + at + 4, (uInt)(length + 4)));
        at += 12 + length;
    }
    return size;
}
