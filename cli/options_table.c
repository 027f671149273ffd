/* The table of options, and the help that is printed from it: what is not here does not exist. */
#include "cli/options_table.h"

#include <string.h>

#define TRAIN CLI_RECONSTRUCT
#define ALL (CLI_RECONSTRUCT | CLI_RENDER | CLI_EVAL | CLI_INFO)
#define WORD CLI_KIND_WORD
#define INTEGER CLI_KIND_INTEGER

const cli_option cli_option_table[CLI_OPTIONS] = {
    [CLI_OUT] = {"out", "DIR", CLI_KIND_TEXT, ALL & ~CLI_INFO, 0, 0, NULL, "a folder",
        "the run folder (FOLDER's name + .adjoint, in the current folder)"},
    [CLI_FIELD] = {"field", "hash|mlp", WORD, TRAIN, 0, 0, NULL, "hash or mlp",
        "hash: a hash grid and small networks; mlp: the original NeRF, slow (hash)"},
    [CLI_PRESET] = {"preset", "fast|default|quality", WORD, TRAIN, 0, 0, NULL,
        "fast, default or quality", "a row of settings, docs/field.md (default)"},
    [CLI_TIME] = {"time", "5m", CLI_KIND_TIME, TRAIN, 0, 0, NULL,
        "a time above 0 such as 60s, 5m or 1h30m",
        "how long to train, measuring comes on top; the schedule follows it (5m)"},
    [CLI_STEPS] = {"steps", "N", INTEGER, TRAIN, 1, 2147483647, NULL,
        "a number from 1 to 2147483647",
        "how many steps to train instead; exactly repeatable"},
    [CLI_STOP_AT] = {"stop-at", "K", INTEGER, TRAIN, 1, 2147483647, NULL,
        "a number of steps from 1 on", "end this call at step K, to go on with --resume"},
    [CLI_BATCH] = {"batch", "SAMPLES", INTEGER, TRAIN, 1024, 1 << 24, NULL,
        "a number of samples from 1024 to 2^24",
        "samples of a step (the preset's); hash: twice that from 0.6 of the schedule on"},
    [CLI_RAYS] = {"rays", "N", INTEGER, TRAIN, 1, 1 << 20, NULL, "a number from 1 to 2^20",
        "most rays of a step, however few samples they have (the preset's); doubled alike"},
    [CLI_PRECISION] = {"precision", "f32|bf16", WORD, TRAIN, 0, 0, NULL, "f32 or bf16",
        "operands of the networks' products (bf16 where the processor has it, else f32)"},
    [CLI_DOWNSCALE] = {"downscale", "N", INTEGER, TRAIN, 1, 256, NULL,
        "a whole factor from 1 to 256", "make the images N times smaller (1)"},
    [CLI_HOLD_OUT] = {"hold-out", "N", INTEGER, TRAIN, 0, 1 << 20, NULL,
        "every how manyth image, 0 for none",
        "measure on every Nth image where no file names test or val; 0: none (8)"},
    [CLI_TOLERATE] = {"tolerate", "P", CLI_KIND_NUMBER, TRAIN, 0, 100, NULL,
        "a percentage from 0 to 100", "skip up to P % undecodable images (10)"},
    [CLI_BACKGROUND] = {"background", "white|black|random|R,G,B", CLI_KIND_COLOUR, TRAIN, 0, 0,
        NULL, "white, black, random or three numbers from 0 to 1",
        "behind the scene (random to train; to measure white with alpha, black without)"},
    [CLI_BOX] = {"box", "X0,Y0,Z0,X1,Y1,Z1", CLI_KIND_BOX, TRAIN, 0, 0, NULL,
        "six numbers, each of the first three below its partner",
        "what to reconstruct (found from the cameras)"},
    [CLI_NEAR] = {"near", "D", CLI_KIND_NUMBER, TRAIN, 0, 1e9, NULL, "a distance from 0 on",
        "nothing nearer to a camera is looked at (found from the cameras)"},
    [CLI_PREVIEW] = {"preview", "10s", CLI_KIND_TIME, TRAIN, 0, 0, "none|0|0s",
        "a time such as 10s, or none",
        "time between pictures in RUN/preview, smaller where they are slow; none (10s)"},
    [CLI_RESUME] = {"resume", "", CLI_KIND_FLAG, TRAIN, 0, 0, NULL, "",
        "go on with an unfinished run, to the end it was begun with or a longer --time"},
    [CLI_FORCE] = {"force", "", CLI_KIND_FLAG, TRAIN, 0, 0, NULL, "",
        "begin anew where a run exists, and lose it"},
    [CLI_ORBIT] = {"orbit", "N", INTEGER, CLI_RENDER, 1, 100000, NULL,
        "a number of views from 1 to 100000", "N views on a circle around the scene"},
    [CLI_CAMERA] = {"camera", "transforms.json", CLI_KIND_TEXT, CLI_RENDER, 0, 0, NULL,
        "a transforms file", "the views of this file"},
    [CLI_SIZE] = {"size", "WxH", CLI_KIND_SIZE, CLI_RENDER, 0, 0, NULL,
        "a size such as 800x600, of at most 2^27 pixels",
        "of the pictures (as the cameras have it)"},
    [CLI_WHAT] = {"what", "color,depth,normal,opacity", CLI_KIND_WORDS, CLI_RENDER, 0, 0,
        "color|depth|normal|opacity", "some of color,depth,normal,opacity",
        "what to write of each view (color)"},
    [CLI_DATA] = {"data", "FOLDER", CLI_KIND_TEXT, CLI_EVAL, 0, 0, NULL, "a folder",
        "of the images (the one that the run was trained on)"},
    [CLI_SPLIT] = {"split", "test|val|train", WORD, CLI_RENDER | CLI_EVAL, 0, 0, NULL,
        "test, val or train", "the views of this split (the one held out)"},
    [CLI_LIMIT] = {"limit", "N", INTEGER, TRAIN | CLI_EVAL, 0, 2147483647, NULL,
        "a number of views, 0 for none",
        "measure N of the views held out; 0: none (as many as time allows)"},
    [CLI_DEVICE] = {"device", "auto|cpu", WORD, ALL, 0, 0, NULL, "auto or cpu",
        "what to compute on (auto)"},
    [CLI_THREADS] = {"threads", "T", INTEGER, ALL, 1, 1024, NULL, "a number from 1 to 1024",
        "processor cores to use (all)"},
    [CLI_SEED] = {"seed", "S", INTEGER, ALL, 0, 9e18, NULL, "a whole number from 0 on",
        "of everything random (a new one each time, printed)"},
    [CLI_JSON] = {"json", "", CLI_KIND_FLAG, ALL, 0, 0, NULL, "",
        "JSON lines on standard output and nothing else there"},
    [CLI_QUIET] = {"quiet", "", CLI_KIND_FLAG, ALL, 0, 0, NULL, "",
        "no messages but warnings and errors; the result is printed"},
    [CLI_HELP] = {"help", "", CLI_KIND_FLAG, ALL, 0, 0, NULL, "", "this text"},
};

// Options that mean something else in one of their commands.
static const struct {
    cli_option_id option;
    cli_command_id command;
    const char *help;
} other_help[] = {
    {CLI_OUT, CLI_RENDER, "where the pictures go (RUN/render)"},
    {CLI_OUT, CLI_EVAL, "where each view and a map of its error go (nothing is written)"},
    {CLI_LIMIT, CLI_EVAL, "measure the first N views (all)"},
};

static const struct {
    cli_command_id command;
    const char *name, *usage, *text;
} commands[] = {
    {CLI_RECONSTRUCT, "reconstruct", "FOLDER",
     "Trains a radiance field on a folder of images with cameras (transforms.json, or\n"
     "transforms_train.json and its like) and writes a run folder: snapshot.safetensors,\n"
     "metrics.jsonl, preview/ and report.html. Ctrl-C ends it with a snapshot,\n"
     "the command that goes on, and exit status 0.\n"},
    {CLI_RENDER, "render", "RUN",
     "Renders views of a run: those of a split, a flight around the scene, or a file's.\n"
     "Depth is written as NAME.depth.npy (f32, scene units, along the camera's axis) and as\n"
     "a coloured picture. With --orbit a --size of another shape keeps pixels square. Nothing\n"
     "in it is random: --seed changes nothing.\n"},
    {CLI_EVAL, "eval", "RUN",
     "Measures a run: mean PSNR and SSIM of 8-bit pictures over the run's background.\n"
     "Nothing in it is random: --seed changes nothing.\n"},
    {CLI_INFO, "info", "RUN", "Says what is in a run or in a snapshot file. --device,\n"
     "--threads and --seed, which all commands take, change nothing of it.\n"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

cli_command_id cli_command_find(const char *name) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return commands[i].command;
    return 0;
}

const char *cli_command_name(cli_command_id command) {
    for (int i = 0; i < COMMANDS; i++)
        if (commands[i].command == command) return commands[i].name;
    return "";
}

void cli_help_print(FILE *stream) {
    fputs("adjoint: a folder of images in, a scene out\n\n", stream);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(stream, "  adjoint %s %s [options]\n", commands[i].name, commands[i].usage);
    fputs("  adjoint help COMMAND\n  adjoint --version\n\n"
          "Exit status: 0 done, 1 failed, 2 wrong usage.\n", stream);
}

void cli_help_command(FILE *stream, cli_command_id command) {
    for (int i = 0; i < COMMANDS; i++) {
        if (commands[i].command != command) continue;
        fprintf(stream, "usage: adjoint %s %s [options]\n\n%s\n", commands[i].name,
                commands[i].usage, commands[i].text);
    }
    for (int i = 0; i < CLI_OPTIONS; i++) {
        const cli_option *option = &cli_option_table[i];
        if (!(option->commands & command)) continue;
        const char *help = option->help;
        for (size_t k = 0; k < sizeof other_help / sizeof *other_help; k++)
            if ((int)other_help[k].option == i && other_help[k].command == command)
                help = other_help[k].help;
        int used = fprintf(stream, "  --%s %s", option->name, option->argument);
        fprintf(stream, "%*s%s\n", used < 30 ? 30 - used : 2, "", help);
    }
}
