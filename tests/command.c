/* See command.h. */
#define _GNU_SOURCE 1
#include "tests/command.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/commands.h"

enum { ARGUMENTS = 32, SIDE = COMMAND_SCENE_SIDE };

const char command_gone[] = "|";

static bool open_out(const command_place *place) {
    int ends[2];
    const char *name = place->device ? place->device : fixture_path(place->folder, "out");
    if (name != command_gone) return freopen(name, "w", stdout) != NULL;
    return pipe(ends) == 0 && dup2(ends[1], STDOUT_FILENO) >= 0 && close(ends[0]) == 0
        && close(ends[1]) == 0;
}

static void child(const command_place *place, char **arguments, int count) {
    if (!open_out(place) || !freopen(fixture_path(place->folder, "err"), "w", stderr)
        || chdir(place->folder->path) != 0)
        _exit(99);
    struct rlimit limit = {place->file_limit, place->file_limit};
    if (place->file_limit && setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(98);
    int status = cli_main(count, arguments);
    fflush(NULL);
    _exit(status);
}

pid_t command_start(const command_place *place, const char *line) {
    static char copy[1024], *arguments[ARGUMENTS + 1];
    int count = 0;
    snprintf(copy, sizeof copy, "adjoint %s", line);
    for (char *word = strtok(copy, " "); word && count < ARGUMENTS; word = strtok(NULL, " "))
        arguments[count++] = word;
    arguments[count] = NULL;
    fflush(NULL);
    pid_t process = fork();
    if (process == 0) child(place, arguments, count);
    cr_assert_gt(process, 0);
    return process;
}

int command_finish(pid_t process) {
    int status = 0;
    cr_assert_eq(waitpid(process, &status, 0), process);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

char *command_words(const command_place *place, const char *name) {
    size_t size;
    return (char *)fixture_read(fixture_path(place->folder, name), &size);
}

void command_expect(const command_place *place, const char *line, int status, const char *word) {
    int found = command_finish(command_start(place, line));
    char *err = command_words(place, "err");
    cr_assert_eq(found, status, "%s: exit status %d, expected %d: %s", line, found, status, err);
    if (word) cr_assert_not_null(strstr(err, word), "%s: '%s' is not in: %s", line, word, err);
    if (status) { // one sentence
        char *end = strchr(err, '\n');
        cr_assert(end && !end[1], "%s: more than one line: %s", line, err);
    }
    free(err);
}

/* ---- a scene */

void command_cameras(const fixture_folder *folder, const char *name, int first, int count,
                     const double *degrees) {
    char text[4096];
    int used = snprintf(text, sizeof text, "{\"camera_angle_x\": 0.7, \"frames\": [");
    for (int i = first; i < first + count; i++) {
        double a = degrees ? degrees[i] / 57.29577951308232 : i * 0.9, c = cos(a), s = sin(a);
        used += snprintf(text + used, sizeof text - (size_t)used,
                         "%s{\"file_path\": \"v_%d\", \"transform_matrix\": [[%.9f,0,%.9f,%.9f],"
                         "[%.9f,0,%.9f,%.9f],[0,1,0,0],[0,0,0,1]]}", i > first ? "," : "", i, -s, c,
                         4 * c, c, s, 4 * s);
    }
    snprintf(text + used, sizeof text - (size_t)used, "]}");
    fixture_text(folder, name, text);
}

void command_scene(fixture_folder *folder) {
    uint8_t pixels[SIDE * SIDE * 4];
    fixture_make(folder);
    for (int i = 0; i < SIDE * SIDE; i++) {
        int x = i % SIDE - SIDE / 2, y = i / SIDE - SIDE / 2;
        const uint8_t disc[4] = {200, (uint8_t)(20 * (i / SIDE)), 60, x * x + y * y < 20 ? 255 : 0};
        memcpy(pixels + 4 * i, disc, 4);
    }
    for (int i = 0; i < 8; i++) {
        char name[32];
        snprintf(name, sizeof name, "scene/v_%d.png", i);
        fixture_png(folder, name, pixels, SIDE, SIDE, 4);
    }
    command_cameras(folder, "scene/transforms_train.json", 0, 5, NULL);
    command_cameras(folder, "scene/transforms_val.json", 5, 1, NULL);
    command_cameras(folder, "scene/transforms_test.json", 6, 2, NULL);
}
