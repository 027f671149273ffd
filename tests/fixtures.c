/* See fixtures.h. The allocation functions are replaced for the whole test program by ones that
 * count and call glibc's own (__libc_malloc and so on): so the k-th allocation can fail wherever
 * it is made, in the library or in libpng, libjpeg, libexif and cJSON, without a hook in the
 * code under test. Only the thread that asked is counted. */
#include "tests/fixtures.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* ---- Memory that runs out ---- */

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
#define OWN_MALLOC 0
#else
#define OWN_MALLOC 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#undef OWN_MALLOC
#define OWN_MALLOC 0
#endif
#endif

static _Thread_local long failing_in = -1; /* allocations until the one that fails; -1 = never */
static _Thread_local bool has_failed;

bool fixture_reduced(void) {
    const char *size = getenv("ADJOINT_TEST_SIZE");
    return size && strcmp(size, "reduced") == 0;
}

bool failing_memory_available(void) { return OWN_MALLOC; }

void failing_memory_begin(long k) {
    has_failed = false;
    failing_in = k;
}

bool failing_memory_end(void) {
    failing_in = -1;
    return has_failed;
}

#if OWN_MALLOC
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static bool fails(void) {
    if (failing_in < 0 || failing_in-- > 0) return false;
    has_failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { return fails() ? NULL : __libc_realloc(memory, size); }
void *aligned_alloc(size_t alignment, size_t size) {
    return fails() ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *made = fails() ? NULL : __libc_memalign(alignment, size);
    if (made) *memory = made;
    return made ? 0 : ENOMEM;
}
#endif

/* ---- Folders and files ---- */

void fixture_make(fixture_folder *folder) {
    const char *parent = getenv("TMPDIR");
    snprintf(folder->path, sizeof folder->path, "%s/adjoint-test-XXXXXX",
             parent && strlen(parent) < 200 ? parent : "/tmp");
    cr_assert(mkdtemp(folder->path), "%s: cannot be made", folder->path);
}

static void remove_all(const char *path) {
    DIR *listing = opendir(path);
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        char below[1024];
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (lstat(below, &status) == 0 && S_ISDIR(status.st_mode)) remove_all(below);
        else unlink(below);
    }
    if (listing) closedir(listing);
    rmdir(path);
}

void fixture_remove(fixture_folder *folder) {
    if (folder->path[0]) remove_all(folder->path);
    folder->path[0] = 0;
}

const char *fixture_path(const fixture_folder *folder, const char *name) {
    static char paths[8][1024];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder->path, name);
    for (char *slash = path + strlen(folder->path) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
    return path;
}

void fixture_write(const fixture_folder *folder, const char *name, const void *bytes, size_t size) {
    const char *path = fixture_path(folder, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(bytes, 1, size, file) == size, "%s: cannot be written", path);
    fclose(file);
}

void fixture_text(const fixture_folder *folder, const char *name, const char *text) {
    fixture_write(folder, name, text, strlen(text));
}

bool fixture_exists(const fixture_folder *folder, const char *name) {
    return access(fixture_path(folder, name), F_OK) == 0;
}

uint8_t *fixture_read(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s: cannot be opened; tests run from the root of the repository", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size + 1);
    cr_assert(bytes && fread(bytes, 1, *size, file) == *size, "%s: cannot be read", path);
    bytes[*size] = 0;
    fclose(file);
    return bytes;
}

/* ---- Pictures ---- */

static uint8_t *put_u32(uint8_t *at, size_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) *at++ = (uint8_t)(value >> shift);
    return at;
}

uint8_t *fixture_png_chunk(uint8_t *at, const char *type, const void *data, size_t size) {
    uint8_t *start = put_u32(at, size);
    memcpy(start, type, 4);
    if (size) memcpy(start + 4, data, size);
    return put_u32(start + 4 + size, crc32(0, start, (uInt)size + 4));
}

void fixture_png(const fixture_folder *folder, const char *name, const uint8_t *pixels, int width,
                 int height, int channels) {
    size_t row = (size_t)width * (size_t)channels, raw_size = (row + 1) * (size_t)height;
    uLongf packed_size = compressBound((uLong)raw_size);
    uint8_t *raw = calloc(raw_size, 1), *packed = malloc(packed_size);
    uint8_t *png = malloc(packed_size + 100), header[13] = {0};
    cr_assert(raw && packed && png);
    for (size_t y = 0; y < (size_t)height; y++)
        memcpy(raw + y * (row + 1) + 1, pixels + y * row, row);
    cr_assert_eq(compress(packed, &packed_size, raw, (uLong)raw_size), Z_OK);
    put_u32(put_u32(header, (size_t)width), (size_t)height);
    header[8] = 8, header[9] = channels == 4 ? 6 : channels == 3 ? 2 : 0;
    memcpy(png, "\x89PNG\r\n\x1a\n", 8);
    uint8_t *end = fixture_png_chunk(png + 8, "IHDR", header, 13);
    end = fixture_png_chunk(end, "IDAT", packed, packed_size);
    end = fixture_png_chunk(end, "IEND", NULL, 0);
    fixture_write(folder, name, png, (size_t)(end - png));
    free(raw);
    free(packed);
    free(png);
}

void fixture_flat(const fixture_folder *folder, const char *name, int width, int height,
                  const uint8_t rgba[4]) {
    size_t count = (size_t)width * (size_t)height;
    uint8_t *pixels = malloc(count * 4);
    for (size_t i = 0; i < count; i++) memcpy(pixels + i * 4, rgba, 4);
    fixture_png(folder, name, pixels, width, height, 4);
    free(pixels);
}

// The leak checker looks into the processes that run a test, which BXFI_MAP tells; what Criterion's
// own runner, which runs no code of ours, leaves when it ends (48 bytes, now and then) is not ours.
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return getenv("BXFI_MAP") == NULL; }
