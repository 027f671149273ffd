/* tidy: reads the sources as text and says where they leave the house style, so that no reviewer
 * has to. Run from the root of the repository by `zig build tidy`; exit status 1 when a limit is
 * broken. Limits fail, aims are only listed at the end.
 *
 *   every file      at most 500 lines (aim 400), lines at most 100 columns, no tab, no trailing
 *                   white space, no note to a later self; C opens with a comment, its story
 *   every function  at most 100 lines (aim 70)
 *   includes        one way: autodiff <- render, graph <- cli; a foreign library's header in one
 *                   .c file (load_x.c and load_x_part.c count as one); vulkan.h in
 *                   autodiff/vulkan, intrinsics in autodiff/cpu, omp.h nowhere
 *   the library     neither prints nor ends the process
 *   every ad_op     but static ones is in an ops.def, where the test harness finds it, or named
 *                   below with a reason
 *   every .c        is in a list that build.zig reads, and every shader has the .c it repeats
 *
 * The reading is line by line with comments and strings blanked out, which is enough for sources
 * in this style: a function starts at a line in column 0 that opens a brace after a parenthesis
 * and ends at the next brace in column 0. */
#include <ctype.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PUBLIC_HEADER_LINES = 600 }; // it grows by a line an operation
enum { FILE_LINES = 500, FILE_AIM = 400, FUNCTION_LINES = 100, FUNCTION_AIM = 70, COLUMNS = 100 };
enum { PATH_BYTES = 512, FILES_MAX = 4096 };

static const char *const folders[] = {"autodiff", "render", "graph", "cli",     "tests",
                                      "examples", "bench",  "fuzz",  "scenes",  "shaders"};

/* Headers of other libraries and the one .c file of the library or program that may include them:
 * the first file seen keeps it, and files whose name goes on from its own. */
static struct {
    const char *header;
    char owner[PATH_BYTES];
} foreign[] = {{"png.h", ""},           {"jpeglib.h", ""}, {"libexif/", ""}, {"cjson/", ""},
               {"cJSON.h", ""},         {"igraph", ""}};

/* Operations that no ops.def names, and what tests them instead. */
static const char *const outside_harness[][2] = {
    {"ad_op_fixed_point", "its rules repeat a step of the caller: tests/test_implicit.c"},
    {"ad_op_sgd", "an optimiser step: tests/test_optimizer.c"},
    {"ad_op_adam", "an optimiser step: tests/test_optimizer.c"},
    {"ad_op_ema", "an optimiser step: tests/test_optimizer.c"},
    {"ad_op_clip", "an optimiser step: tests/test_optimizer.c"},
    {"ad_op_gate_begin", "loss scaling: tests/test_optimizer.c"},
    {"ad_op_gate_check", "loss scaling: tests/test_optimizer.c"},
    {"ad_op_scale_update", "loss scaling: tests/test_optimizer.c"},
    {"render_op_cull", "marks and counts, no derivative: tests/test_cull.c"},
    {"render_op_join_samples", "copies what was chosen, no derivative: tests/test_cull.c"},
    {"render_op_march", "places samples, no derivative: tests/test_march.c"}};

/* Every operation that is defined and every line of an ops.def. */
enum { OPERATIONS_MAX = 1024 };
static struct {
    char name[80], path[PATH_BYTES];
    int line;
    bool listed; // a line of an ops.def, else a definition
} operations[OPERATIONS_MAX];
static int operation_count;

static int complaints, file_count, aim_count;
static char aims[65536], complaint_text[65536]; // said at the end, complaints last

static void complain(const char *path, int line, const char *format, ...)
{
    size_t used = strlen(complaint_text), room = sizeof complaint_text;
    char place[16] = "";
    if (line > 0) snprintf(place, sizeof place, ":%d", line);
    snprintf(complaint_text + used, room - used, "%s%s: ", path, place);
    used = strlen(complaint_text);
    va_list list;
    va_start(list, format);
    vsnprintf(complaint_text + used, room - used, format, list);
    va_end(list);
    used = strlen(complaint_text);
    snprintf(complaint_text + used, room - used, "\n");
    complaints++;
}

static void note_aim(const char *path, const char *what, int lines, int aim)
{
    size_t used = strlen(aims);
    snprintf(aims + used, sizeof aims - used, "  %s: %s has %d lines (aim %d)\n", path, what, lines,
             aim);
    aim_count++;
}

static bool starts(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool ends(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static bool in_library(const char *path)
{
    return starts(path, "autodiff/") || starts(path, "render/") || starts(path, "graph/");
}

/* The whole file with a zero at the end, or NULL. */
static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    char *text = NULL;
    size_t size = 0, room = 0;
    do {
        room = 2 * room + 65536;
        char *grown = realloc(text, room + 1);
        if (!grown) break;
        text = grown;
        size += fread(text + size, 1, room - size, file);
    } while (size == room);
    fclose(file);
    if (text) text[size] = '\0';
    return text;
}

/* `word` in `line`, not as part of a longer name. */
static bool has_word(const char *line, const char *word)
{
    for (const char *at = strstr(line, word); at; at = strstr(at + 1, word)) {
        char before = at > line ? at[-1] : ' ', after = at[strlen(word)];
        bool left = isalnum((unsigned char)before) || before == '_';
        bool right = isalnum((unsigned char)after) || after == '_';
        if (!left && !right) return true;
    }
    return false;
}

/* Blanks comments, strings and characters out of `line`; *inside: a comment goes on. */
static void blank_out(char *line, bool *inside)
{
    char quote = 0;
    for (char *c = line; *c; c++) {
        if (*inside) {
            if (c[0] == '*' && c[1] == '/') *inside = false, *c++ = ' ';
            *c = ' ';
        } else if (quote) {
            if (*c == quote) quote = 0;
            else if (*c == '\\' && c[1]) *c++ = ' ', *c = ' ';
            else *c = ' ';
        } else if (c[0] == '/' && c[1] == '*') {
            *inside = true, *c++ = ' ', *c = ' ';
        } else if (c[0] == '/' && c[1] == '/') {
            *c = '\0';
            return;
        } else if (*c == '"' || *c == '\'') {
            quote = *c;
        }
    }
}

/* ---- lines ---------------------------------------------------------------------------------- */

static void check_text_line(const char *path, int number, const char *line)
{
    static const char *const notes[] = {"TO" "DO", "FIX" "ME", "X" "XX", "HA" "CK"};
    int columns = 0;
    for (const char *c = line; *c; c++) columns += ((unsigned char)*c & 0xc0) != 0x80; // UTF-8
    size_t length = strlen(line);
    if (columns > COLUMNS) complain(path, number, "%d columns, at most %d", columns, COLUMNS);
    if (strchr(line, '\t')) complain(path, number, "a tab");
    if (length && isspace((unsigned char)line[length - 1]))
        complain(path, number, "white space at the end of the line");
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        if (has_word(line, notes[i])) complain(path, number, "a %s left behind", notes[i]);
}

static void check_foreign(const char *path, int number, const char *name)
{
    if (!in_library(path) && !starts(path, "cli/")) return; // tests make inputs of their own
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (!starts(name, foreign[i].header)) continue;
        if (!ends(path, ".c"))
            complain(path, number, "<%s> in a header; it belongs in one .c file", name);
        char *owner = foreign[i].owner;
        if (!owner[0]) snprintf(owner, PATH_BYTES, "%.*s", (int)strlen(path) - 2, path);
        if (!starts(path, owner))
            complain(path, number, "<%s> is included by %s.c already; one .c file only", name,
                     owner);
    }
}

/* line: of the file as it is; an include's name is a string. */
static void check_include(const char *path, int number, const char *line)
{
    static const char *const forbidden[][2] = {
        {"autodiff/", "render/"}, {"autodiff/", "graph/"}, {"autodiff/", "cli/"},
        {"render/", "graph/"},    {"render/", "cli/"},     {"graph/", "render/"},
        {"graph/", "cli/"},       {"autodiff/", "../"},    {"render/", "../"}};
    static const char *const here_only[][2] = {{"vulkan/", "autodiff/vulkan/"},
                                               {"volk.h", "autodiff/vulkan/"},
                                               {"immintrin.h", "autodiff/cpu/"},
                                               {"arm_neon.h", "autodiff/cpu/"},
                                               {"omp.h", "no file"}};
    line += strspn(line, " ");
    if (*line != '#') return;
    line += 1 + strspn(line + 1, " ");
    if (!starts(line, "include")) return;
    line += strcspn(line, "<\"");
    if (!*line) return;

    char name[PATH_BYTES];
    snprintf(name, sizeof name, "%s", line + 1);
    name[strcspn(name, ">\"")] = '\0';
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        if (starts(path, forbidden[i][0]) && starts(name, forbidden[i][1]))
            complain(path, number, "%s never includes %s", forbidden[i][0], forbidden[i][1]);
    for (size_t i = 0; i < sizeof here_only / sizeof *here_only; i++)
        if (starts(name, here_only[i][0]) && !starts(path, here_only[i][1]))
            complain(path, number, "<%s> belongs in %s", name, here_only[i][1]);
    check_foreign(path, number, name);
}

/* code: the line without comments and strings. */
static void check_calls(const char *path, int number, const char *code)
{
    static const char *const never[] = {"exit", "_exit", "abort", "printf", "puts", "putchar",
                                        "perror", "stdout", "stderr"};
    if (!in_library(path)) return;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (has_word(code, never[i]))
            complain(path, number, "%s: the library neither prints nor ends the process", never[i]);
}

/* ---- operations ----------------------------------------------------------------------------- */

/* A definition `const ad_op NAME = ...` (a static one is a part of an operation's rule), a line of
 * elementwise.def, which makes ad_op_ and its first word, or a line of an ops.def. */
static void note_operation(const char *path, int number, const char *code)
{
    bool definitions = ends(path, ".def"), listed = ends(path, "ops.def");
    if (!in_library(path) || operation_count == OPERATIONS_MAX) return;
    if (definitions) {
        if (!starts(code, listed ? "AD_OP(" : "AD_")) return;
        code += strspn(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
        if (*code++ != '(') return;
    } else {
        if (!starts(code, "const ad_op ")) return;
        code += strlen("const ad_op ");
    }
    int length = 0;
    while (isalnum((unsigned char)code[length]) || code[length] == '_') length++;
    if (!length) return;
    snprintf(operations[operation_count].name, sizeof operations->name, "%s%.*s",
             definitions && !listed ? "ad_op_" : "", length, code);
    snprintf(operations[operation_count].path, PATH_BYTES, "%s", path);
    operations[operation_count].line = number;
    operations[operation_count++].listed = listed;
}

static int find_operation(const char *name, bool listed)
{
    for (int i = 0; i < operation_count; i++)
        if (operations[i].listed == listed && !strcmp(operations[i].name, name)) return i;
    return -1;
}

static void check_operations(void)
{
    for (int i = 0; i < operation_count; i++) {
        const char *name = operations[i].name;
        bool known = operations[i].listed || find_operation(name, true) >= 0;
        for (size_t j = 0; j < sizeof outside_harness / sizeof *outside_harness; j++)
            known = known || !strcmp(outside_harness[j][0], name);
        if (!known)
            complain(operations[i].path, operations[i].line,
                     "%s is in no ops.def: the test harness passes it over", name);
    }
    for (size_t j = 0; j < sizeof outside_harness / sizeof *outside_harness; j++) {
        const char *name = outside_harness[j][0];
        if (find_operation(name, true) >= 0 || find_operation(name, false) < 0)
            complain("tests/tidy.c", 0, "%s: listed or gone, and still called an exception", name);
    }
    if (operation_count == OPERATIONS_MAX) complain("tests/tidy.c", 0, "too many operations");
}

/* ---- files ---------------------------------------------------------------------------------- */

static void end_function(const char *path, int start, int lines)
{
    char name[64];
    snprintf(name, sizeof name, "the function at line %d", start);
    if (lines > FUNCTION_LINES)
        complain(path, start, "a function of %d lines, at most %d", lines, FUNCTION_LINES);
    else if (lines > FUNCTION_AIM) note_aim(path, name, lines, FUNCTION_AIM);
}

// FOLDER/FOLDER.h
static bool is_public_header(const char *path) {
    const char *name = strchr(path, '/');
    const size_t length = name ? (size_t)(name - path) : 0;
    return length && !strncmp(path, name + 1, length) && !strcmp(name + 1 + length, ".h");
}

static void check_file(const char *path)
{
    char *text = read_text(path);
    if (!text) {
        complain(path, 0, "cannot be read");
        return;
    }
    file_count++;
    bool c_file = ends(path, ".c") || ends(path, ".h") || ends(path, ".cpp");
    if (c_file && !starts(text, "/*") && !starts(text, "//"))
        complain(path, 1, "expected a comment that tells the file's story");
    size_t size = strlen(text);
    if (size && text[size - 1] != '\n') complain(path, 0, "no newline at the end of the file");

    int number = 0, function = 0, signature = 0; // lines at which a function or its head started
    bool inside = false;                         // a comment
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        number++;
        check_text_line(path, number, line);
        if (!inside) check_include(path, number, line);
        blank_out(line, &inside);
        check_calls(path, number, line);
        note_operation(path, number, line);

        // A function's head starts in column 0 with a name; its body with a brace after ")".
        size_t length = strlen(line);
        while (length && line[length - 1] == ' ') line[--length] = '\0';
        if (isalpha((unsigned char)line[0])) signature = number;
        bool opens = ends(line, "{") && !strchr(line, '=') && (strchr(line, ')') || line[0] == '{');
        if (!function && opens && signature && line[0] != '#') function = signature;
        if (function && line[0] == '}') {
            end_function(path, function, number - function + 1);
            function = signature = 0;
        }
    }
    const int most = is_public_header(path) ? PUBLIC_HEADER_LINES : FILE_LINES;
    if (number > most) complain(path, 0, "%d lines, at most %d", number, most);
    else if (number > FILE_AIM) note_aim(path, "the file", number, FILE_AIM);
    free(text);
}

/* ---- lists ---------------------------------------------------------------------------------- */

/* Is `path` a line of some folder's SOURCES, or named in the build script itself? */
static bool is_built(const char *path)
{
    char quoted[PATH_BYTES + 2];
    snprintf(quoted, sizeof quoted, "\"%s\"", path);
    char *script = read_text("build.zig");
    bool found = script && strstr(script, quoted);
    free(script);
    for (size_t i = 0; !found && i < sizeof folders / sizeof *folders; i++) {
        char list[PATH_BYTES], wanted[PATH_BYTES + 3];
        snprintf(list, sizeof list, "%s/SOURCES", folders[i]);
        size_t folder = strlen(folders[i]);
        if (starts(path, folders[i]) && path[folder] == '/')
            snprintf(wanted, sizeof wanted, "%s", path + folder + 1);
        else snprintf(wanted, sizeof wanted, "../%s", path);
        char *text = read_text(list);
        char *rest = text;
        for (char *line; !found && (line = strsep(&rest, "\n"));)
            found = strcmp(line, wanted) == 0;
        free(text);
    }
    return found;
}

static void check_built(const char *path)
{
    // Programs outside the tree have a script of their own; so have the fuzzers.
    if (starts(path, "tests/consumer/") || starts(path, "fuzz/")) return;
    if (ends(path, ".c") && !is_built(path))
        complain(path, 0, "in no SOURCES list: nothing builds it");
    if (!ends(path, ".comp")) return;

    // shaders/matmul_vjp.comp repeats ops/matmul.c of one of the folders.
    char name[PATH_BYTES];
    snprintf(name, sizeof name, "%s", strrchr(path, '/') + 1);
    name[strlen(name) - strlen(".comp")] = '\0';
    if (ends(name, "_vjp")) name[strlen(name) - strlen("_vjp")] = '\0';
    bool found = false;
    for (int i = 0; i < 3; i++) {
        char twin[2 * PATH_BYTES];
        struct stat status;
        snprintf(twin, sizeof twin, "%s/ops/%s.c", folders[i], name);
        found = found || stat(twin, &status) == 0;
    }
    if (!found) complain(path, 0, "no ops/%s.c that it repeats", name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every source below the folder, by name, so that two runs say the same. */
static void walk(const char *folder)
{
    static const char *const endings[] = {".c", ".h", ".cpp", ".def", ".comp", ".glsl"};
    DIR *directory = opendir(folder);
    if (!directory) return; // a folder that a later issue brings
    char *names[FILES_MAX];
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) && count < FILES_MAX;)
        if (entry->d_name[0] != '.' && (names[count] = strdup(entry->d_name))) count++;
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);

    for (size_t i = 0; i < count; i++) {
        char path[PATH_BYTES];
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        free(names[i]);
        if (lstat(path, &status) != 0) continue;
        if (S_ISDIR(status.st_mode)) walk(path);
        for (size_t e = 0; S_ISREG(status.st_mode) && e < sizeof endings / sizeof *endings; e++) {
            if (!ends(path, endings[e])) continue;
            check_file(path);
            check_built(path);
        }
    }
}

int main(void)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) walk(folders[i]);
    check_operations();
    if (file_count == 0) complain("tidy", 0, "no source found: not the root of the repository?");
    if (aim_count) printf("tidy: over an aim, below the limit:\n%s", aims);
    printf("%s", complaint_text);
    printf("tidy: %d files, %d complaints: %s\n", file_count, complaints,
           complaints ? "failed" : "passed");
    return complaints ? 1 : 0;
}
