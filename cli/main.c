/* The program's entry; everything else is in program.c, where tests reach it. */
#include "cli/commands.h"

int main(int argc, char **argv) { return cli_main(argc, argv); }
