/* The program's entry. Until the commands exist it knows its version only. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("adjoint " ADJOINT_VERSION);
        return 0;
    }
    fputs("usage: adjoint --version\n", stderr);
    return 2;
}
