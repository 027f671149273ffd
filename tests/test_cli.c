/* The commands as a user meets them: each runs in a process of its own (command.h), and what is
 * looked at is its exit status, its words and its files. The scene is eight pictures of a disc, so
 * that a whole reconstruction takes a second. */
#define _GNU_SOURCE 1
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/commands.h"
#include "tests/command.h"

enum { SIDE = COMMAND_SCENE_SIDE };

static fixture_folder folder;

static void scene_make(void) { command_scene(&folder); }

static void scene_remove(void) { fixture_remove(&folder); }

TestSuite(cli, .init = scene_make, .fini = scene_remove, .timeout = 300);

/* ---- running */

static command_place place = {.folder = &folder};

static pid_t start(const char *line) { return command_start(&place, line); }

static char *words_of(const char *name) { return command_words(&place, name); }

static void expect(const char *line, int status, const char *word) {
    command_expect(&place, line, status, word);
}

static bool exists(const char *name) { return fixture_exists(&folder, name); }

static bool same_files(const char *a, const char *b) {
    size_t a_size, b_size;
    uint8_t *x = fixture_read(fixture_path(&folder, a), &a_size);
    uint8_t *y = fixture_read(fixture_path(&folder, b), &b_size);
    bool same = a_size == b_size && memcmp(x, y, a_size) == 0;
    free(x), free(y);
    return same;
}

#define SMALL "scene --preset fast --batch 1024 --rays 128 --seed 5 "
#define LARGER "scene --preset fast --batch 32768 --rays 1024 --seed 5 "

/* ---- usage */

Test(cli, usage) {
    expect("frobnicate", 2, "no command 'frobnicate'");
    expect("recontruct scene", 2, "did you mean 'reconstruct'");
    expect("help evil", 2, "did you mean 'eval'");
    expect("reconstruct scene --steps 5000000000", 2, "2147483647");
    expect("reconstruct scene --preview never", 2, "or none");
    expect("eval run --limit 0", 2, "expected a number of views from 1 on");
    expect("reconstruct", 2, "which folder");
    expect("reconstruct scene another", 2, "one too many");
    expect("reconstruct scene --stepz 3", 2, "did you mean '--steps'");
    expect("reconstruct scene --foo", 2, "'--foo'; 'adjoint help reconstruct' lists them");
    expect("reconstruct scene --orbit 3", 2, "not an option of reconstruct");
    expect("reconstruct scene --steps", 2, "needs a value");
    expect("reconstruct scene --steps 0", 2, "from 1");
    expect("reconstruct scene --steps 1.5", 2, "a number");
    expect("reconstruct scene --steps 3 --time 5m", 2, "exclude each other");
    expect("reconstruct scene --resume --force", 2, "exclude each other");
    expect("reconstruct scene --steps 3 --stop-at 4", 2, "--stop-at 4 lies behind the last of");
    expect("reconstruct scene --time 5q", 2, "60s, 5m");
    expect("reconstruct scene --box 1,2,3", 2, "six numbers");
    expect("reconstruct scene --box=0,0,0,1,1,-1", 2, "six numbers");
    expect("reconstruct scene --background mauve", 2, "white, black");
    expect("reconstruct scene --device gpu", 2, "auto or cpu");
    expect("reconstruct scene --seed 1 --seed 2", 2, "given twice");
    expect("reconstruct scene -x", 2, "two dashes");
    expect("render run --what colour", 2, "color,depth");
    expect("render run --size 20", 2, "800x600");
    expect("render run --orbit 3 --split test", 2, "exclude each other");
    expect("help frobnicate", 2, "no command");
    expect("help help", 0, NULL);
    char *text = words_of("out");
    cr_expect_not_null(strstr(text, "adjoint reconstruct FOLDER"));
    free(text);
    expect("reconstruct --help", 0, NULL);
    text = words_of("out");
    static const char *const options[] = {
        "--out", "--field", "--preset", "--time", "--steps", "--stop-at", "--batch", "--rays",
        "--precision", "--downscale", "--hold-out", "--tolerate", "--background", "--box",
        "--near", "--limit", "--preview", "--resume", "--force", "--device", "--threads", "--seed",
        "--json",
        "--quiet"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        cr_expect_not_null(strstr(text, options[i]), "%s", options[i]);
    free(text);
    expect("--version", 0, NULL);
    text = words_of("out");
    cr_expect_not_null(strstr(text, ADJOINT_VERSION));
    cr_expect_not_null(strstr(text, ad_build_text()));
    cr_expect_null(strstr(text, " ,"), "%s", text);
    cr_expect_null(strstr(text, "__"), "%s", text);
    free(text);
}

Test(cli, times_and_colours) {
    double seconds;
    float colour[3];
    cr_expect(cli_time_read("90", &seconds) && seconds == 90);
    cr_expect(cli_time_read("5m", &seconds) && seconds == 300);
    cr_expect(cli_time_read("1h30m", &seconds) && seconds == 5400);
    cr_expect(cli_time_read("0.5s", &seconds) && seconds == 0.5);
    cr_expect(!cli_time_read("", &seconds) && !cli_time_read("-5", &seconds));
    cr_expect(!cli_time_read("0", &seconds) && !cli_time_read("5 m", &seconds));
    cr_expect(!cli_time_read("1e999", &seconds) && !cli_time_read("nan", &seconds));
    cr_expect(cli_colour_read("white", colour) && colour[2] == 1);
    cr_expect(cli_colour_read("0,0.5,1", colour) && colour[1] == 0.5f);
    cr_expect(!cli_colour_read("0,0.5", colour) && !cli_colour_read("0,0.5,2", colour));
    cr_expect(!cli_colour_read("0,0.5,nan", colour) && !cli_colour_read("1,1,1,1", colour));
}

/* ---- a run */

static void has(const cJSON *line, const char *event, const char *const *names) {
    for (; *names; names++)
        cr_expect_not_null(cJSON_GetObjectItemCaseSensitive(line, *names), "%s: no %s", event,
                           *names);
}

// The sizes of the splits are the folder's: val is not loaded, but counted.
static void splits_check(const cJSON *line) {
    static const char *const names[] = {"train", "val", "test"};
    static const int sizes[] = {5, 1, 2};
    const cJSON *splits = cJSON_GetObjectItemCaseSensitive(line, "splits");
    for (int i = 0; i < 3; i++) {
        const cJSON *size = cJSON_GetObjectItemCaseSensitive(splits, names[i]);
        cr_expect_eq(cJSON_GetNumberValue(size), sizes[i], "split %s", names[i]);
    }
}

// Every line of stdout is an object with the fields of its event; counts each event.
static void lines_check(int counts[5]) {
    static const char *const events[] = {"start", "train", "eval", "done", "error"};
    static const char *const fields[][14] = {
        {"images", "width", "height", "splits", "box", "background", "device", "threads",
         "parameters", "seed", NULL},
        {"step", "seconds", "loss", "psnr", "samples", "rays", "samples_per_second", "occupied",
         NULL},
        {"split", "images", "width", "height", "background", "psnr", "ssim", "seconds", NULL},
        {"steps", "seconds", "samples", "psnr", "peak_rss_bytes", "snapshot", NULL},
        {"message", NULL}};
    char *text = words_of("out");
    memset(counts, 0, 5 * sizeof *counts);
    for (char *at = strtok(text, "\n"); at; at = strtok(NULL, "\n")) {
        cJSON *line = cJSON_Parse(at);
        cr_assert(cJSON_IsObject(line), "not JSON: %s", at);
        const char *event =
            cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event"));
        int kind = 0;
        while (kind < 5 && (!event || strcmp(event, events[kind]) != 0)) kind++;
        cr_assert_lt(kind, 5, "an unknown event: %s", at);
        counts[kind]++;
        has(line, event, fields[kind]);
        if (kind == 0) splits_check(line);
        cJSON_Delete(line);
    }
    free(text);
}

Test(cli, a_run_from_images_to_views) {
    int counts[5];
    expect("reconstruct " SMALL "--steps 4 --json --threads 2", 0, "box");
    lines_check(counts);
    cr_expect(counts[0] == 1 && counts[1] >= 1 && counts[2] == 1 && counts[3] == 1
              && counts[4] == 0);
    // The default name is the folder's, here.
    cr_expect(exists("scene.adjoint/snapshot.safetensors") && exists("scene.adjoint/metrics.jsonl")
              && exists("scene.adjoint/report.html") && exists("scene.adjoint/preview"));

    expect("reconstruct " SMALL "--steps 4", 1, "--resume goes on with it");
    expect("reconstruct " SMALL "--steps 5 --resume", 1, "--steps differs");
    expect("reconstruct " SMALL "--resume --precision f32 --out nothing", 1, "nothing to resume");
    expect("reconstruct " SMALL "--steps 4 --json --out scene/v_0.png", 1, "found a file");
    lines_check(counts);
    cr_expect(counts[4] == 1 && counts[0] + counts[1] + counts[2] + counts[3] == 0);

    expect("eval scene.adjoint --json --out pictures --limit 1", 0, NULL);
    lines_check(counts);
    cr_expect_eq(counts[2], 1);
    cr_expect(exists("pictures/v_6.png") && exists("pictures/v_6.error.png"));
    cr_expect(!exists("pictures/v_7.png"));
    expect("eval scene.adjoint --split val", 0, NULL);
    unlink(fixture_path(&folder, "scene/transforms_val.json"));
    expect("eval scene.adjoint --split val", 1,
           "split asked for, found none: there are 5 in train, 0 in val and 2 in test");
    expect("eval scene.adjoint --split train --data scene --limit 1", 0, NULL);
    expect("info scene.adjoint", 0, NULL);
    char *text = words_of("out");
    cr_expect(strstr(text, "grid.table") && strstr(text, "4 of 4 steps")
              && strstr(text, "measured    PSNR ") && strstr(text, " on 2 of 2 views held out"));
    free(text);

    // Of a snapshot that is not the run's own nothing was measured.
    expect("info scene.adjoint --json", 0, NULL);
    text = words_of("out");
    cr_expect(strstr(text, "\"psnr\":") && !strstr(text, "\"psnr\":null"), "%s", text);
    free(text);
    char own[CLI_PATH_BYTES];
    snprintf(own, sizeof own, "%s", fixture_path(&folder, "scene.adjoint/snapshot.safetensors"));
    cr_assert_eq(link(own, fixture_path(&folder, "scene.adjoint/old.safetensors")), 0);
    expect("info scene.adjoint/old.safetensors --json", 0, NULL);
    text = words_of("out");
    cr_expect(strstr(text, "\"psnr\":null"), "%s", text);
    free(text);

    expect("render scene.adjoint --size 9x7 --what color,depth,normal,opacity", 0, NULL);
    cr_expect(exists("scene.adjoint/render/v_6.png")
              && exists("scene.adjoint/render/v_7.depth.png")
              && exists("scene.adjoint/render/v_7.normal.png")
              && exists("scene.adjoint/render/v_7.opacity.png"));
    struct stat found;
    cr_assert_eq(stat(fixture_path(&folder, "scene.adjoint/render/v_7.depth.npy"), &found), 0);
    cr_expect_eq(found.st_size % 64, 9 * 7 * 4 % 64, "%lld", (long long)found.st_size);
    expect("render scene.adjoint/snapshot.safetensors --orbit 2 --size 6x6 --out o", 0,
           "no camera stood on a stretch of 154 degrees");
    cr_expect(exists("o/orbit_0000.png") && exists("o/orbit_0001.png"));
    cr_expect(!exists("o/orbit_0002.png"));
    expect("render scene.adjoint --camera scene/transforms_test.json --size 6x6 --out c", 0, NULL);
    cr_expect(exists("c/camera_0001.png"));
}

Test(cli, orbit_stands_where_the_cameras_stood) {
    ad_message error = {{0}};
    render_camera *cameras = NULL;
    expect("reconstruct " SMALL "--steps 1 --out run --box -1,-1,-1,1,1,1", 0, "given by --box");
    render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1}};
    double gap;
    cr_assert(cli_cameras_orbit(&cameras, 4, fixture_path(&folder, "run/snapshot.safetensors"),
                                &scene, &gap, &error), "%s", error.text);
    // Those of training stand 0.9 apart, the first five of eight.
    cr_expect(fabs(gap - (360 - 4 * 0.9 * 57.29577951)) < 1e-3, "a gap of %g degrees", gap);
    for (int i = 0; i < 4; i++) {
        double angle = i * 1.57079632679489662, px, py, middle[3] = {0, 0, 0};
        cr_expect(fabs(cameras[i].pose[0][3] - 4 * cos(angle)) < 1e-4
                  && fabs(cameras[i].pose[1][3] - 4 * sin(angle)) < 1e-4
                  && fabs(cameras[i].pose[2][3]) < 1e-4);
        cr_expect(fabs(cameras[i].pose[2][1] - 1) < 1e-5, "camera %d is not upright", i);
        cr_assert(render_camera_project(&cameras[i], middle, &px, &py));
        cr_expect(fabs(px - SIDE / 2.0) < 1e-3 && fabs(py - SIDE / 2.0) < 1e-3);
        cr_expect(cameras[i].width == SIDE && cameras[i].height == SIDE);
    }
    free(cameras);
}

// The gap may lie across the end of the sorted angles; where there is none, nothing is said.
Test(cli, an_orbit_over_unseen_sides_warns) {
    static const double front[3] = {0, 60, -60}, around[5] = {0, 72, 144, 216, 288};
    command_cameras(&folder, "scene/transforms_train.json", 0, 3, front);
    expect("reconstruct " SMALL "--steps 1 --limit 0 --out run", 0, NULL);
    expect("render run --orbit 1 --size 4x4", 0, "a stretch of 240 degrees");
    command_cameras(&folder, "scene/transforms_train.json", 0, 5, around);
    expect("reconstruct " SMALL "--steps 1 --limit 0 --out run --force", 0, NULL);
    expect("render run --orbit 1 --size 4x4", 0, NULL);
    char *text = words_of("err");
    cr_expect_null(strstr(text, "no camera stood"), "%s", text);
    free(text);
}

// What was measured at another step is not this snapshot's.
Test(cli, info_knows_the_step_of_a_figure) {
    expect("reconstruct " SMALL "--steps 1 --limit 1 --out run", 0, NULL);
    expect("info run", 0, NULL);
    char *text = words_of("out");
    cr_expect(strstr(text, " on 1 of 2 views held out"), "%s", text);
    free(text);
    fixture_text(&folder, "run/metrics.jsonl", "{\"event\":\"done\",\"steps\":2,\"psnr\":50}\n");
    expect("info run --json", 0, NULL);
    text = words_of("out");
    cr_expect(strstr(text, "\"psnr\":null"), "%s", text);
    free(text);
}

// What a run leaves that failed before its first snapshot.
Test(cli, files_without_a_snapshot_are_begun_anew) {
    fixture_text(&folder, "run/metrics.jsonl", "");
    expect("reconstruct " SMALL "--steps 1 --out run", 1, "without a snapshot: --force");
    expect("reconstruct " SMALL "--steps 1 --out run --resume", 1, "--force begins anew");
    expect("reconstruct " SMALL "--steps 1 --limit 0 --out run --force", 0, NULL);
    cr_expect(exists("run/snapshot.safetensors"));
}

Test(cli, help_says_what_an_option_means_in_a_command) {
    expect("help eval", 0, NULL);
    char *text = words_of("out");
    cr_expect(strstr(text, "measure the first N views (all)")
              && strstr(text, "a map of its error"));
    free(text);
    expect("help render", 0, NULL);
    text = words_of("out");
    cr_expect(strstr(text, "(RUN/render)") && !strstr(text, "run folder ("));
    free(text);
}

/* ---- resuming */

Test(cli, resume_is_exact) {
    bool few = fixture_reduced();
    expect(few ? "reconstruct " SMALL "--steps 8 --out a --threads 2"
               : "reconstruct " LARGER "--steps 38 --out a --threads 2", 0, NULL);
    // Ends in the midst of an early and of a late phase of the schedule.
    expect(few ? "reconstruct " SMALL "--steps 8 --out b --stop-at 3 --threads 2"
               : "reconstruct " LARGER "--steps 38 --out b --stop-at 10 --threads 2",
           0, "--resume");
    expect(few ? "reconstruct scene --out b --resume --stop-at 6 --threads 1"
               : "reconstruct scene --out b --resume --stop-at 34 --threads 1", 0, "--resume");
    cr_expect(!same_files("a/snapshot.safetensors", "b/snapshot.safetensors"));
    // Pictures in between, however many, change nothing.
    expect("reconstruct scene --out b --resume --threads 2 --preview 0.01s", 0, NULL);
    cr_expect(same_files("a/snapshot.safetensors", "b/snapshot.safetensors"),
              "a resumed run went another way");
    expect("reconstruct " SMALL "--steps 4 --seed=6 --out c", 2, "given twice");
}

Test(cli, time_is_counted_on) {
    expect("reconstruct " SMALL "--time 1h --stop-at 2 --out run", 0, NULL);
    expect("reconstruct scene --out run --resume --time 0.001s", 0, NULL);
    char *text = words_of("run/metrics.jsonl");
    int trained = 0; // the second call has nothing left to do
    for (char *at = text; (at = strstr(at, "\"event\":\"train\"")); at++) trained++;
    cr_expect_eq(trained, 1, "%d", trained);
    free(text);
}

/* ---- the end that was not planned */

static void pause_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

// Waits for a word in stdout, half a minute at most.
static bool wait_for(const char *word) {
    for (int i = 0; i < 1500; i++) {
        if (exists("out")) {
            char *text = words_of("out");
            bool found = strstr(text, word) != NULL;
            free(text);
            if (found) return true;
        }
        pause_ms(20);
    }
    return false;
}

Test(cli, signals_end_it_with_a_snapshot) {
    static const int signals[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        int counts[5];
        fixture_text(&folder, "out", "");
        pid_t process = start("reconstruct " SMALL "--time 10m --json --force --out run");
        bool training = wait_for("\"event\":\"train\"");
        kill(process, signals[i]);
        cr_expect_eq(command_finish(process), 0);
        cr_expect(training, "it did not begin to train in time");
        lines_check(counts);
        cr_expect_eq(counts[3], 1);
        char *err = words_of("err");
        cr_expect_not_null(strstr(err, "adjoint reconstruct scene --out run --resume"), "%s", err);
        cr_expect_not_null(strstr(err, "stopping as soon as it can"), "%s", err);
        free(err);
        expect("info run", 0, NULL);
    }
}

Test(cli, a_kill_leaves_the_last_snapshot) {
    expect("reconstruct " SMALL "--steps 100000 --stop-at 1 --out run", 0, NULL);
    for (int i = 0; i < 6; i++) {
        char line[128];
        snprintf(line, sizeof line, "reconstruct scene --out run --resume --stop-at %d", i + 2);
        pid_t process = start(line);
        pause_ms(30 + 60 * i);
        kill(process, SIGKILL);
        command_finish(process);
        expect("info run", 0, NULL);
    }
    expect("reconstruct scene --out run --resume --stop-at 9", 0, NULL);
}

Test(cli, two_processes_do_not_share_a_run) {
    fixture_text(&folder, "out", "");
    pid_t process = start("reconstruct " SMALL "--time 10m --json --quiet --out run");
    bool training = wait_for("\"event\":\"train\"");
    static const char *const second[] = {"reconstruct " SMALL "--steps 1 --force --out run",
                                         "reconstruct " SMALL "--steps 1 --out run",
                                         "reconstruct scene --resume --out run"};
    for (int i = 0; i < 3; i++) {
        int status = command_finish(start(second[i]));
        char *err = words_of("err");
        cr_expect(training && status == 1 && strstr(err, "another process"), "%d: %s", status, err);
        free(err);
    }
    kill(process, SIGTERM);
    cr_expect_eq(command_finish(process), 0);
    expect("info run", 0, NULL);
}

Test(cli, a_full_disk) {
    place.file_limit = 1 << 20;
    expect("reconstruct " SMALL "--quiet --steps 2 --out run", 1, "snapshot.safetensors");
    place.file_limit = 0;
    cr_expect(!exists("run/snapshot.safetensors") && !exists("run/snapshot.safetensors.part"));
    // One that was there stays.
    expect("reconstruct " SMALL "--steps 4 --stop-at 2 --force --out run", 0, NULL);
    place.file_limit = 1 << 20;
    expect("reconstruct scene --quiet --resume --out run", 1, "snapshot.safetensors");
    place.file_limit = 0;
    expect("reconstruct scene --resume --out run", 0, NULL);
}

Test(cli, what_cannot_be_written) {
    expect("reconstruct " SMALL "--steps 2 --out /proc/none/run", 1, "/proc/none");
    expect("reconstruct nowhere", 1, "nowhere");
    expect("info scene", 1, "expected a run");
    expect("info scene/v_0.png", 1, "v_0.png: expected a safetensors file, found another kind");
    fixture_text(&folder, "bad/snapshot.safetensors", "\2\0\0\0\0\0\0\0{}");
    expect("info bad", 1, "safetensors");
    expect("render bad --orbit 2", 1, "safetensors");
}

Test(cli, a_reader_of_stdout_that_goes_away_is_no_failure) {
    static const char *const lines[] = {
        "reconstruct " SMALL "--steps 4 --json --quiet --out run", "info run", "info run --json",
        "eval run --json", "render run --size 4x4", "help reconstruct"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        place.device = command_gone;
        expect(lines[i], 0, NULL);
        char *err = words_of("err");
        cr_expect(!strstr(err, "output"), "%s: %s", lines[i], err);
        free(err);
    }
    // The work was done, only nobody heard of it.
    place.device = NULL;
    expect("info run", 0, NULL);
    place.device = "/dev/full";
    expect("reconstruct " SMALL "--steps 2 --json --quiet --out run --force", 1, "standard output");
    expect("info run", 1, "standard output: cannot be written");
    place.device = NULL;
}

Test(cli, a_reason_does_not_repeat_what_it_explains) {
    expect("reconstruct " SMALL "--steps 1 --out run", 0,
           "background  white, random while training: the images have transparent pixels");
}

Test(cli, force_removes_only_what_is_ours) {
    expect("reconstruct " SMALL "--steps 1 --out run", 0, NULL);
    fixture_text(&folder, "run/notes.txt", "mine");
    fixture_text(&folder, "run/preview/step_0000009.png", "old");
    fixture_text(&folder, "run/preview/holiday.png", "mine");
    expect("reconstruct " SMALL "--steps 1 --out run --force", 0, NULL);
    cr_expect(exists("run/notes.txt") && exists("run/preview/holiday.png"));
    cr_expect(!exists("run/preview/step_0000009.png"));
}
