/* The program in a process of its own, as a user starts it: a fork that calls its entry. */
#ifndef ADJOINT_TESTS_COMMAND_H
#define ADJOINT_TESTS_COMMAND_H

#include <sys/types.h>

#include "tests/fixtures.h"

/* Where it runs. Its standard output and error are the folder's files "out" and "err". */
typedef struct command_place {
    const fixture_folder *folder;
    size_t file_limit;  /* bytes it may write to a file; 0: as many as it likes */
    const char *device; /* takes its standard output; NULL: the file "out" */
} command_place;

/* As a device: a pipe whose reader has gone. */
extern const char command_gone[];

/* Starts `adjoint` with the words of the line, the folder as its current one. */
pid_t command_start(const command_place *place, const char *line);
/* Its exit status; 128 and the signal's number where one ended it. */
int command_finish(pid_t process);
/* What is in a file of the folder, with a zero at the end; free(). */
char *command_words(const command_place *place, const char *name);
/* Runs the line to its end: its exit status, a word in its standard error (or NULL), and where it
   fails one sentence there. */
void command_expect(const command_place *place, const char *line, int status, const char *word);

/* A fresh folder with a folder "scene" in it: eight pictures of a disc, 5 train, 1 val, 2 test. */
enum { COMMAND_SCENE_SIDE = 12 };
void command_scene(fixture_folder *folder);
/* A transforms file of the pictures v_FIRST and so on, each of which looks at the middle from a
   circle of radius 4, at these degrees; NULL: as command_scene has it, 0.9 radians apart. */
void command_cameras(const fixture_folder *folder, const char *name, int first, int count,
                     const double *degrees);

#endif
