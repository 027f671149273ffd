/* The program: which command, its options, its exit status. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "render/load.h"

static int usage_failed(const char *command, const ad_message *error) {
    fprintf(stderr, "adjoint%s%s: %s\n", *command ? " " : "", command, error->text);
    return 2;
}

static int version(void) {
    printf("adjoint %s\n", ADJOINT_VERSION);
    printf("built with %s\n", ad_build_text());
    printf("%s, %s, %s\n", render_png_library(), render_jpeg_library(), render_json_library());
    return 0;
}

static void unknown_command(const char *name, ad_message *error) {
    const char *nearest = cli_command_nearest(name);
    if (nearest) ad_fail(error, "there is no command '%s': did you mean '%s'?", name, nearest);
    else
        ad_fail(error, "there is no command '%s': reconstruct, render, eval, info or help", name);
}

static int help(int argc, char **argv) {
    ad_message error;
    if (argc < 3 || strcmp(argv[2], "help") == 0) return cli_help_print(stdout), 0;
    cli_command_id command = cli_command_find(argv[2]);
    if (command) return cli_help_command(stdout, command), 0;
    unknown_command(argv[2], &error);
    return usage_failed("help", &error);
}

static int run(cli_command_id command, const cli_options *options) {
    switch (command) {
    case CLI_RECONSTRUCT: return cli_reconstruct(options);
    case CLI_RENDER: return cli_render(options);
    case CLI_EVAL: return cli_eval(options);
    case CLI_INFO: return cli_info(options);
    }
    return 2;
}

static int dispatch(int argc, char **argv) {
    ad_message error;
    cli_options options;
    if (argc < 2) return cli_help_print(stderr), 2;
    const char *first = argv[1];
    if (strcmp(first, "--version") == 0 || strcmp(first, "version") == 0) return version();
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        return cli_help_print(stdout), 0;
    if (strcmp(first, "help") == 0) return help(argc, argv);
    cli_command_id command = cli_command_find(first);
    if (!command) {
        unknown_command(first, &error);
        return usage_failed("", &error);
    }
    if (!cli_options_read(&options, command, argc - 2, argv + 2, &error))
        return usage_failed(first, &error);
    if (options.value[CLI_HELP].given) return cli_help_command(stdout, command), 0;
    return run(command, &options);
}

int cli_main(int argc, char **argv) {
    ad_message error;
    cli_signals_install();
    int status = dispatch(argc, argv);
    if (cli_stdout_close(&error)) return status;
    fprintf(stderr, "adjoint: %s\n", error.text);
    return status ? status : 1;
}
