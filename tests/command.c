/* See command.h. */
#define _GNU_SOURCE 1
#include "tests/command.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/commands.h"

enum { ARGUMENTS = 32 };

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
