/* Files that appear whole or not at all: the bytes go to PATH.part beside the final name, which a
   rename then replaces in one step. A reader, a kill -9 or a full disk therefore meets the old file
   or the new one, never a mixture.

   The temporary name is fixed, so that a killed run leaves at most one stale file, which the next
   write takes over. Two processes must then not write the same one: whoever writes holds its lock,
   and since only the holder renames, finding our own inode still under the name after locking means
   that it is ours. Devices and pipes (/dev/stdout) are written directly; there is nothing to keep.
 */
#define _DEFAULT_SOURCE 1
#include "autodiff/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens and locks the temporary file, emptied; -1 with a sentence when that fails. */
static int temporary_open(const char *path, ad_message *error) {
    int descriptor = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (descriptor < 0) {
        ad_fail(error, "%s: cannot be created: %s", path, strerror(errno));
        return -1;
    }
    struct stat opened, named;
    bool busy = flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (busy || fstat(descriptor, &opened) != 0 || stat(path, &named) != 0 ||
        opened.st_ino != named.st_ino || opened.st_dev != named.st_dev) {
        ad_fail(error, "%s: another process is writing this file", path);
        close(descriptor);
        return -1;
    }
    if (!S_ISREG(opened.st_mode) || ftruncate(descriptor, 0) != 0) {
        ad_fail(error, "%s: is in the way, and not a file that can be emptied", path);
        close(descriptor);
        return -1;
    }
    return descriptor;
}

bool ad_file_begin(ad_file *file, const char *path, ad_message *error) {
    *file = (ad_file){ 0 };
    struct stat existing;
    bool exists = stat(path, &existing) == 0;
    bool direct = exists && !S_ISREG(existing.st_mode);
    if (direct && S_ISDIR(existing.st_mode))
        return ad_fail(error, "%s: expected a file to write, found a folder", path);

    size_t length = strlen(path);
    file->path = malloc(length + 1);
    if (!direct) file->temporary = malloc(length + sizeof ".part");
    if (!file->path || (!direct && !file->temporary)) {
        ad_file_discard(file);
        return ad_fail(error, "%s: out of memory", path);
    }
    memcpy(file->path, path, length + 1);

    int descriptor;
    if (file->temporary) {
        memcpy(file->temporary, path, length);
        memcpy(file->temporary + length, ".part", sizeof ".part");
        descriptor = temporary_open(file->temporary, error);
        // A file that could not be opened is not ours to remove.
        if (descriptor < 0) {
            free(file->temporary);
            file->temporary = NULL;
        }
    } else {
        descriptor = open(path, O_WRONLY | O_CLOEXEC);
        if (descriptor < 0) ad_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    }
    file->stream = descriptor >= 0 ? fdopen(descriptor, "wb") : NULL;
    if (descriptor >= 0 && !file->stream) {
        ad_fail(error, "%s: %s", path, strerror(errno));
        if (file->temporary) unlink(file->temporary);
        close(descriptor);
    }
    if (!file->stream) ad_file_discard(file);
    return file->stream != NULL;
}

/* One wording for every way in which bytes do not arrive; the full disk is the one users meet. */
static bool write_failed(const ad_file *file, ad_message *error) {
    int reason = errno;
    return ad_fail(error, "%s: cannot be written%s: %s", file->path,
                   reason == ENOSPC || reason == EDQUOT ? ", the disk is full" : "",
                   strerror(reason));
}

bool ad_file_write(ad_file *file, const void *bytes, size_t count, ad_message *error) {
    if (count == 0) return true;
    return fwrite(bytes, 1, count, file->stream) == count || write_failed(file, error);
}

/* The new name is on disk only once its folder is. Folders that cannot be synced are let pass. */
static void folder_sync(char *path) {
    char *slash = strrchr(path, '/');
    char kept = slash ? slash[1] : 0;
    if (slash) slash[1] = 0;
    int folder = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash) slash[1] = kept;
    if (folder < 0) return;
    (void)fsync(folder);
    close(folder);
}

bool ad_file_commit(ad_file *file, bool durable, ad_message *error) {
    bool done = fflush(file->stream) == 0;
    if (done && file->temporary && durable) done = fsync(fileno(file->stream)) == 0;
    // The rename comes before the close, since closing gives the lock away.
    if (done && file->temporary) done = rename(file->temporary, file->path) == 0;
    if (!done) {
        write_failed(file, error);
        ad_file_discard(file);
        return false;
    }
    free(file->temporary);
    file->temporary = NULL;
    done = fclose(file->stream) == 0 || write_failed(file, error);
    file->stream = NULL;
    if (done && durable) folder_sync(file->path);
    ad_file_discard(file);
    return done;
}

void ad_file_discard(ad_file *file) {
    // Removed while the lock is still held, so never a file that another process has begun.
    if (file->temporary && file->stream) unlink(file->temporary);
    if (file->stream) fclose(file->stream);
    free(file->temporary);
    free(file->path);
    *file = (ad_file){ 0 };
}

bool ad_file_save(const char *path, const void *bytes, size_t count, ad_message *error) {
    ad_file file;
    if (!ad_file_begin(&file, path, error)) return false;
    if (!ad_file_write(&file, bytes, count, error)) {
        ad_file_discard(&file);
        return false;
    }
    return ad_file_commit(&file, false, error);
}
