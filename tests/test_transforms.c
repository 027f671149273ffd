/* transforms.json: every refusal says which frame and why, and what is accepted is exact. */
#include "render/load.h"
#include "tests/fixtures.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GOOD "[[1,0,0,0],[0,1,0,0],[0,0,1,4],[0,0,0,1]]"
#define FRAME(matrix) "{\"file_path\":\"a\",\"transform_matrix\":" matrix "}"
#define WITH(head, matrix) "{" head "\"frames\":[" FRAME(GOOD) "," FRAME(matrix) "]}"
#define ANGLE "\"camera_angle_x\":1.0,"

static void refuse(const char *text, const char *words) {
    render_transforms transforms;
    ad_message error = {{0}};
    cr_assert_not(render_transforms_parse(&transforms, "dir/t.json", text, strlen(text), &error),
                  "accepted: %s", text);
    cr_assert(strncmp(error.text, "dir/t.json", 10) == 0 && strstr(error.text, words),
              "expected \"%s\", found \"%s\"", words, error.text);
    cr_assert(!transforms.frames && !transforms.path);
}

static void parse(render_transforms *transforms, const char *text) {
    ad_message error = {{0}};
    cr_assert(render_transforms_parse(transforms, "dir/t.json", text, strlen(text), &error), "%s",
              error.text);
}

Test(transforms, text_that_is_no_json) {
    refuse("{\"frames\": [\n\n1,,\t]}\n", "dir/t.json:3:3: expected JSON");
    refuse("{\"frames\": [\n\n1,,\t]}\n", "near \"1,,?]}\" (or");
    refuse("{\"frames\": [1,", ":1:14: expected JSON");
    refuse("{\"frames\": [1,", "near \"\"frames\": [1,\" at the end of the file");
    refuse("{\n  frames: \"0123456789012345678901234567890123456789\"}",
           "t.json:2:3: expected JSON, found something else near "
           "\"  frames: \"0123456789012345678901234\" (or");
    refuse("{\"frames\": []}\n garbage", "t.json:2: expected the end of the file");
    refuse("[1, 2]", "expected a JSON object");
    refuse("", "expected JSON, found an empty file");
    refuse("\xff\xd8\xff[[[[", "found an image");
    refuse("\x89PNG\r\n", "found an image");
    refuse("{\"camera_angle_x\": NaN, \"frames\": []}", ":1:20: expected JSON");
    refuse("{}", "expected a list \"frames\"");
    refuse("{\"frames\": []}", "expected a list \"frames\" that is not empty");
    refuse("{\"frames\": [3]}", "frame 0: expected a JSON object");

    /* Nested without end: refused before the parser recurses; brackets in strings do not count. */
    size_t size = 1 << 20;
    char *deep = malloc(size + 1);
    memset(deep, '[', size);
    deep[size] = 0;
    refuse(deep, "dir/t.json:1: expected JSON nested at most 64 deep");
    free(deep);
    render_transforms transforms;
    parse(&transforms, "{\"note\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
                       "[[[[[[[[[[[[[[[[[[[[[[[\"," ANGLE "\"frames\":[" FRAME(GOOD) "]}");
    render_transforms_free(&transforms);
}

Test(transforms, poses) {
    refuse("{\"frames\":[{\"file_path\":\"a\"}]}", "frame 0: expected a 4 x 4");
    refuse(WITH(ANGLE, "[[1,0,0,0],[0,1,0,0]]"), "frame 1: expected a 4 x 4 or 3 x 4 matrix, found "
                                                 "2 rows");
    refuse(WITH(ANGLE, "[[1,0,0],[0,1,0],[0,0,1]]"), "found 3 numbers in row 0");
    refuse(WITH(ANGLE, "[1,0,0]"), "found 0 numbers in row 0");
    refuse(WITH(ANGLE, "[[1,0,0,\"x\"],[0,1,0,0],[0,0,1,0]]"), "row 0, column 3");
    refuse(WITH(ANGLE, "[[1,0,0,1e999],[0,1,0,0],[0,0,1,0]]"), "expected finite numbers");
    refuse(WITH(ANGLE, "[[1,0,0,1e300],[0,1,0,0],[0,0,1,0]]"), "expected a position within");
    refuse(WITH(ANGLE, "[[2,0,0,0],[0,2,0,0],[0,0,2,0]]"),
           "frame 1: expected a rigid pose, found column 0 of length 2");
    refuse(WITH(ANGLE, "[[1,0.01,0,0],[0,1,0,0],[0,0,1,0]]"), "columns 0 and 1");
    refuse(WITH(ANGLE, "[[-1,0,0,0],[0,1,0,0],[0,0,1,0]]"), "mirrored");
    refuse(WITH(ANGLE, "[[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,1,1]]"), "0 0 0 1");

    /* Off by 4e-4: accepted, and exactly rigid afterwards. */
    render_transforms transforms;
    parse(&transforms, WITH(ANGLE, "[[1,0.0002,0,1],[0.0002,1,0,2],[0,0,1.0004,3]]"));
    double(*pose)[4] = transforms.frames[1].pose;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            double gram = pose[0][i] * pose[0][j] + pose[1][i] * pose[1][j] +
                          pose[2][i] * pose[2][j];
            cr_assert_float_eq(gram, i == j, 1e-15);
            cr_assert_float_eq(pose[i][j], i == j, 1e-7, "nearest rotation, not another one");
        }
    cr_assert(pose[0][3] == 1 && pose[1][3] == 2 && pose[2][3] == 3);
    render_transforms_free(&transforms);
}

Test(transforms, intrinsics_are_checked) {
    refuse(WITH("\"fl_x\":0,", GOOD), "dir/t.json: expected \"fl_x\" above 0");
    refuse(WITH("\"fl_x\":-5,", GOOD), "found -5");
    refuse(WITH("\"fl_x\":\"5\",", GOOD), "expected \"fl_x\" to be a number");
    refuse(WITH("\"fl_x\":1e999,", GOOD), "expected \"fl_x\" to be finite");
    refuse(WITH("\"camera_angle_x\":0,", GOOD), "expected \"camera_angle_x\" above 0");
    refuse(WITH("\"camera_angle_x\":3.2,", GOOD), "below 3.142");
    refuse(WITH(ANGLE "\"w\":0.5,", GOOD), "expected \"w\" to be a number of pixels");
    refuse(WITH(ANGLE "\"h\":1e12,", GOOD), "expected \"h\" to be a number of pixels");
    refuse(WITH(ANGLE "\"camera_model\":\"EQUIRECTANGULAR\",", GOOD), "EQUIRECTANGULAR");
    refuse(WITH(ANGLE "\"k3\":[1],", GOOD), "expected \"k3\" to be a number");
    refuse(WITH(ANGLE "\"aabb_scale\":-1,", GOOD), "expected positive aabb_scale");
    render_transforms transforms;
    render_camera camera;
    ad_message error;
    parse(&transforms, WITH("", GOOD));
    cr_assert_not(render_transforms_camera(&camera, &transforms, 1, 8, 6, &error));
    cr_assert_str_eq(error.text, "dir/t.json: frame 1: expected a focal length (fl_x or "
                                 "camera_angle_x), found none");
    render_transforms_free(&transforms);
}

/* A frame overrides the file field by field. */
Test(transforms, intrinsics_of_a_frame) {
    render_transforms transforms;
    render_camera camera;
    parse(&transforms,
          "{\"fl_x\":10,\"fl_y\":11,\"cx\":4,\"cy\":3,\"k1\":0.1,\"k2\":0.2,\"frames\":["
          "{\"file_path\":\"a\",\"fl_x\":20,\"k2\":0.5,\"p1\":0.01,\"transform_matrix\":" GOOD "},"
          "{\"file_path\":\"b\",\"camera_angle_x\":1.0,\"camera_model\":\"OPENCV_FISHEYE\","
          "\"transform_matrix\":" GOOD "},"
          "{\"file_path\":\"c\",\"is_fisheye\":true,\"w\":4,\"h\":3,"
          "\"transform_matrix\":" GOOD "}]}");
    cr_assert(render_transforms_camera(&camera, &transforms, 0, 8, 6, NULL));
    cr_assert(camera.fx == 20 && camera.fy == 20 && camera.cx == 4 && camera.cy == 3);
    cr_assert(camera.k[0] == 0.1 && camera.k[1] == 0.5 && camera.p[0] == 0.01);
    cr_assert_eq(camera.model, RENDER_CAMERA_OPENCV);
    cr_assert(render_transforms_camera(&camera, &transforms, 1, 8, 6, NULL));
    cr_assert_float_eq(camera.fx, 4 / tan(0.5), 1e-12);
    cr_assert(camera.fy == camera.fx && camera.model == RENDER_CAMERA_FISHEYE);
    cr_assert(render_transforms_camera(&camera, &transforms, 2, 8, 6, NULL));
    cr_assert(camera.fx == 20 && camera.fy == 22 && camera.cx == 8 && camera.cy == 6);
    cr_assert_eq(camera.model, RENDER_CAMERA_FISHEYE);
    render_transforms_free(&transforms);
}

Test(transforms, names_stay_below_the_folder) {
    static const char *const good[][2] = {{"./train/r_0", "train/r_0"},
                                          {"images\\1.jpg", "images/1.jpg"},
                                          {"a/./b//c/../d", "a/b/d"},
                                          {"..a/b..", "..a/b.."}};
    static const char *const bad[] = {"/etc/passwd", "../x", "a/../../x", "a\\..\\..\\x", "\\x",
                                      "C:\\x.png", ".", "a/.."};
    ad_message error;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char *name = render_transforms_name(good[i][0], "t.json", &error);
        cr_assert_str_eq(name, good[i][1]);
        free(name);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_null(render_transforms_name(bad[i], "t.json", &error), "%s", bad[i]);
        cr_assert(strstr(error.text, "expected a file below the folder"));
    }
    refuse("{\"frames\":[{\"file_path\":\"../../x.png\",\"transform_matrix\":" GOOD "}]}",
           "frame 0: expected a file below the folder, found \"../../x.png\"");
    refuse("{\"frames\":[{\"file_path\":7,\"transform_matrix\":" GOOD "}]}", "to be a file name");
    refuse("{\"frames\":[{\"transform_matrix\":" GOOD "}]}", "expected a \"file_path\"");
}

Test(transforms, cameras_alone) {
    fixture_folder folder;
    fixture_make(&folder);
    fixture_text(&folder, "path.json", WITH(ANGLE, GOOD));
    render_camera *cameras;
    int count;
    ad_message error;
    const char *path = fixture_path(&folder, "path.json");
    cr_assert_not(render_cameras_load(&cameras, &count, path, 0, 0, &error));
    cr_assert_not_null(strstr(error.text, "--size WxH"), "%s", error.text);
    cr_assert(strstr(error.text, "frame 0: expected \"w\" and \"h\""), "%s", error.text);
    cr_assert(render_cameras_load(&cameras, &count, path, 80, 60, &error), "%s", error.text);
    cr_assert(count == 2 && cameras[1].width == 80 && cameras[1].pose[2][3] == 4);
    free(cameras);
    fixture_remove(&folder);
}
