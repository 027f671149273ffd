/* What a run says of itself and how it ends, as a user meets it: views measured, pictures made,
 * runs that are at their end, boxes that nobody sees. The scene and the processes: command.h. */
#define _GNU_SOURCE 1
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/training.h"
#include "tests/command.h"

#define SMALL "scene --preset fast --batch 1024 --rays 128 --seed 5 "

static fixture_folder folder;
static command_place place = {.folder = &folder};

static void scene_make(void) { command_scene(&folder); }

static void scene_remove(void) { fixture_remove(&folder); }

TestSuite(cli_runs, .init = scene_make, .fini = scene_remove, .timeout = 300);

static char *words_of(const char *name) { return command_words(&place, name); }

static void expect(const char *line, int status, const char *word) {
    command_expect(&place, line, status, word);
}

static bool exists(const char *name) { return fixture_exists(&folder, name); }

static char *output_of(const char *line) {
    expect(line, 0, NULL);
    return words_of("out");
}

Test(cli_runs, an_orbit_keeps_pixels_square) {
    expect("reconstruct " SMALL "--steps 1 --limit 0 --out run", 0, NULL);
    expect("render run --orbit 1 --size 12x12 --out tall", 0,
           "rendering 1 view of 12 x 12 into tall");
    expect("render run --orbit 1 --size 30x12 --what color,opacity --out wide", 0, NULL);
    char *text = words_of("out");
    cr_expect_eq(strncmp(text, "1 view in wide", 14), 0, "%s", text);
    free(text);
    render_image a = {0}, b = {0};
    ad_message error = {{0}};
    cr_assert(render_image_load(&a, fixture_path(&folder, "tall/orbit_0000.png"), NULL, &error)
              && render_image_load(&b, fixture_path(&folder, "wide/orbit_0000.png"), NULL, &error),
              "%s", error.text);
    for (int y = 0; y < 12; y++) // the same picture with more to its sides
        for (int i = 0; i < 48; i++) {
            int one = a.pixels[y * 48 + i], other = b.pixels[y * 120 + 36 + i];
            cr_assert(abs(one - other) <= 1, "row %d, %d: %d and %d", y, i, one, other);
        }
    render_image_free(&a), render_image_free(&b);
}

Test(cli_runs, what_info_says_applied) {
    expect("reconstruct " SMALL "--steps 1 --limit 0 --out run", 0, NULL);
    char *text = output_of("info run --json");
    static const char *const members[] = {"\"seed\":5,", "\"downscale\":1,", "\"hold_out\":8,",
        "\"tolerate\":10}", "\"cascades\":1,", "\"batch\":1024,", "\"step_rays\":128,",
        "\"near\":0.2,", "\"learning_rate\":", "/scene\",\"field\":"};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        cr_expect_not_null(strstr(text, members[i]), "%s: %s", members[i], text);
    free(text);
    text = output_of("info run");
    cr_expect_not_null(strstr(text, "1024 samples, at most 128 rays, rate "));
    cr_expect_not_null(strstr(text, "downscale 1, hold-out 8, tolerate 10 %"));
    cr_expect_not_null(strstr(text, "1 cascade\n"));
    double millions = 0; // a thousand or less, but some
    const char *trained = strstr(text, "1 of 1 steps, ");
    cr_expect(trained && sscanf(trained, "1 of 1 steps, %lf M", &millions) == 1 && millions > 0);
    free(text);
}

Test(cli_runs, what_moved_or_is_missing_is_named_with_its_cure) {
    expect("reconstruct " SMALL "--steps 1 --limit 0 --hold-out 0 --out run", 0, NULL);
    char *text = output_of("info run --json");
    cr_expect_not_null(strstr(text, "\"horizon_steps\":1,\"horizon_seconds\":null,"), "%s", text);
    free(text);
    expect("reconstruct " SMALL "--steps 1 --out=", 2, "--out '': expected a folder");
    cr_assert_eq(rename(fixture_path(&folder, "scene"), fixture_path(&folder, "moved")), 0);
    expect("eval run", 1, "not there any more; --data FOLDER says where they are");
    expect("eval run --data moved --split train --limit 1", 0, NULL);
}

Test(cli_runs, info_has_the_schedule_as_it_is_now) {
    expect("reconstruct " SMALL "--time 1h --stop-at 1 --limit 0 --out run", 0, NULL);
    expect("reconstruct scene --out run --resume --time 2h --stop-at 2 --limit 0", 0, NULL);
    char *text = output_of("info run --json");
    cr_expect_not_null(strstr(text, "\"horizon_seconds\":7200,"), "%s", text);
    free(text);
    text = output_of("info run");
    cr_expect_not_null(strstr(text, "schedule of 7200 s"), "%s", text);
    free(text);
}

/* ---- measuring */

Test(cli_runs, as_many_views_are_measured_as_asked_for) {
    char *text = output_of("reconstruct " SMALL "--steps 1 --limit 1 --json --out run");
    cr_expect_not_null(strstr(text, "\"images\":1,\"split_images\":2,"), "%s", text);
    free(text);
    text = output_of("reconstruct " SMALL "--steps 1 --limit 1 --quiet --force --out run");
    cr_expect(strncmp(text, "PSNR ", 5) == 0 && strstr(text, "(1 of 2 views, "), "%s", text);
    free(text);
    text = words_of("err");
    cr_expect_str_eq(text, "");
    free(text);
    text = output_of("reconstruct " SMALL "--steps 1 --limit 0 --json --force --out run");
    cr_expect_null(strstr(text, "\"event\":\"eval\""), "%s", text);
    cr_expect_not_null(strstr(text, "\"psnr\":null,\"finished\":true,"), "%s", text);
    free(text);
    text = output_of("eval run --limit 1");
    cr_expect_not_null(strstr(text, "(1 of 2 views, "), "%s", text);
    free(text);
}

Test(cli_runs, a_run_at_its_end_is_left_as_it_is) {
    expect("reconstruct " SMALL "--steps 2 --out run", 0, NULL);
    char *report = words_of("run/report.html");
    cr_expect_not_null(strstr(report, "--steps 2 --batch 1024 --rays 128 --seed 5<"));
    cr_expect_null(strstr(report, "--resume"));
    unlink(fixture_path(&folder, "run/report.html"));
    free(report);
    expect("reconstruct scene --resume --out run", 0, "finished: 2 of 2 steps");
    char *err = words_of("err");
    cr_expect_not_null(strstr(err, "--seed 5 --force"), "%s", err);
    cr_expect_null(strstr(err, "loss"), "%s", err);
    cr_expect(!exists("run/report.html"));
    free(err);
    // Measured it was not: that is made up for.
    expect("reconstruct " SMALL "--steps 2 --limit 0 --force --out run", 0,
           "schedule    2 steps\n");
    expect("reconstruct scene --resume --out run", 0, "measuring 2 held-out views");
    cr_expect(exists("run/report.html"));
    err = words_of("err");
    cr_expect_null(strstr(err, "loss"), "%s", err);
    free(err);
}

Test(cli_runs, what_is_printed_to_be_copied_is_quoted) {
    cli_training *t = calloc(1, sizeof *t);
    cli_options options = {.place = "scene"};
    ad_text command = {0};
    strcpy(t->run.path, "a friend's run");
    t->options = &options;
    cli_training_eval_command(t, &command);
    cr_expect_str_eq(command.bytes, "adjoint eval 'a friend'\\''s run'");
    ad_text_free(&command);
    options.value[CLI_THREADS] = (cli_value){.given = true, .text = "3", .integer = 3};
    cli_training_command(t, &command);
    cr_expect_str_eq(command.bytes, "adjoint reconstruct scene --out 'a friend'\\''s run' --resume "
                                    "--threads 3");
    ad_text_free(&command);
    free(t);
}

Test(cli_runs, why_a_folder_cannot_be_made) {
    cr_assert_eq(symlink("nowhere", fixture_path(&folder, "loose")), 0);
    expect("reconstruct " SMALL "--steps 1 --out loose", 1, "cannot be made: Not a directory");
}

// A run goes on with the images it was begun with, or not at all.
Test(cli_runs, other_images_are_no_way_to_go_on) {
    expect("reconstruct " SMALL "--steps 2 --stop-at 1 --limit 0 --out run", 0, NULL);
    size_t size, after;
    uint8_t *before = fixture_read(fixture_path(&folder, "run/snapshot.safetensors"), &size);
    char *text = words_of("scene/transforms_train.json"), *fewer = strdup(text);
    strcpy(strrchr(fewer, '{') - 1, "]}"); // the last frame and the comma before it
    fixture_text(&folder, "scene/transforms_train.json", fewer);
    expect("reconstruct scene --resume --out run", 1, "begun with 5 images to train on, found 4");
    char *angle = strstr(text, "0.7") + 2;
    *angle = '9';
    fixture_text(&folder, "scene/transforms_train.json", text);
    expect("reconstruct scene --resume --out run", 1, "begun with other cameras");
    uint8_t *now = fixture_read(fixture_path(&folder, "run/snapshot.safetensors"), &after);
    cr_expect(size == after && !memcmp(before, now, size), "the snapshot was written");
    *angle = '7';
    fixture_text(&folder, "scene/transforms_train.json", text);
    expect("reconstruct scene --resume --out run --limit 0", 0, NULL);
    free(before), free(now), free(text), free(fewer);
}

Test(cli_runs, a_box_that_no_ray_meets) {
    expect("reconstruct " SMALL "--steps 1 --box=90,90,90,91,91,91 --out run", 1,
           "no ray meets the box 90,90,90,91,91,91");
    cr_expect(!exists("run/snapshot.safetensors"));
    expect("reconstruct " SMALL "--steps 1 --near 50 --out run", 1,
           "near distance 50; the cameras suggest --near 0.");
    expect("reconstruct " SMALL "--steps 1 --limit 0 --box=0,0,0,0.05,0.05,0.05 --out run", 0,
           "of the rays meet the box");
}

// Pictures in RUN/preview.
static int previews(void) {
    int count = 0;
    DIR *listed = opendir(fixture_path(&folder, "run/preview"));
    for (struct dirent *entry; listed && (entry = readdir(listed));)
        count += strncmp(entry->d_name, "step_", 5) == 0;
    if (listed) closedir(listed);
    return count;
}

Test(cli_runs, pictures_come_as_asked_for) {
    expect("reconstruct " SMALL "--time 2s --limit 0 --preview none --out run", 0, NULL);
    cr_expect_eq(previews(), 0, "%d", previews());
    if (fixture_reduced()) return; // the first one waits for the occupancy grid
    // A machine with other work gets more time before it has failed.
    expect("reconstruct " SMALL "--time 6s --limit 0 --preview 0.5s --force --out run", 0, NULL);
    if (previews() < 2)
        expect("reconstruct " SMALL "--time 40s --limit 0 --preview 0.5s --force --out run", 0,
               NULL);
    cr_expect_geq(previews(), 2, "%d", previews());
}
