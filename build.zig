//! How adjoint is built. Read it as a table of contents: options, steps, then one block an output.
//!
//! Every folder has a plain list of what is compiled, `SOURCES`, one path a line relative to the
//! folder. They are embedded at compile time, so adding a file is one line there and none here.
//! The lists of `autodiff` and `render` make the library, `cli` the program; `tests` is one Criterion
//! executable; `scenes` one generator; each line of `examples` and `bench` is a program of its own.
//!
//! The text keeps to what Zig 0.15.2, 0.16 and 0.17 share.

const std = @import("std");
const builtin = @import("builtin");
const Compile = std.Build.Step.Compile;
const Run = std.Build.Step.Run;

comptime {
    const zig = builtin.zig_version;
    if (zig.major != 0 or zig.minor < 15 or zig.minor > 17)
        @compileError("adjoint builds with Zig 0.15.2 to 0.17 (pinned: 0.17.1, which ./dev fetches); " ++
            "this is Zig " ++ builtin.zig_version_string);
}

const version = "0.1.0"; // the same as in build.zig.zon and CHANGELOG.md

const autodiff = sources("autodiff", @embedFile("autodiff/SOURCES"));
const render = sources("render", @embedFile("render/SOURCES"));
const cli = sources("cli", @embedFile("cli/SOURCES"));
const tests = sources("tests", @embedFile("tests/SOURCES"));
const examples = sources("examples", @embedFile("examples/SOURCES"));
const bench = sources("bench", @embedFile("bench/SOURCES"));
const scenes = sources("scenes", @embedFile("scenes/SOURCES"));

const library_sources = autodiff ++ render;
const public_headers = .{ "autodiff/autodiff.h", "autodiff/save.h", "render/render.h" };
const main_source = "cli/main.c";

/// Warnings are errors, so that the same text is clean on every machine. File signatures are arrays
/// of characters without a zero at the end, on purpose; older compilers have no name for that.
const warnings = [_][]const u8{
    "-Wall", "-Wextra", "-Wshadow", "-Werror", "-Wno-unknown-warning-option", "-Wno-unterminated-string-initialization",
};

/// Contraction to fused multiply-adds and no errno: the kernels are written for both. Assertions
/// guard the library's own promises and stay on in every build.
const language = [_][]const u8{
    "-std=c17",      "-ffp-contract=fast",                      "-fno-math-errno", "-UNDEBUG",
    "-D_GNU_SOURCE", "-DADJOINT_VERSION=\"" ++ version ++ "\"",
};

const system_libraries = [_][]const u8{ "libpng", "libjpeg", "libexif", "libcjson", "zlib" };

const Settings = struct {
    target: std.Build.ResolvedTarget,
    debug: bool,
    openmp: bool,
};

pub fn build(b: *std.Build) void {
    // Options.
    const settings: Settings = .{
        .target = b.standardTargetOptions(.{}),
        .debug = b.option(bool, "debug", "No optimisation, with the checks of UBSan") orelse false,
        .openmp = b.option(bool, "openmp", "Several threads (default); false: a serial build") orelse true,
    };
    if (b.option(bool, "vulkan", "The Vulkan device (reserved)") orelse false)
        b.getInstallStep().dependOn(&b.addFail("-Dvulkan: the Vulkan device is not built yet").step);
    if (b.option(bool, "igraph", "Graph formats through igraph (reserved)") orelse false)
        b.getInstallStep().dependOn(&b.addFail("-Digraph: the graph module is not built yet").step);

    // Steps.
    const build_step = b.step("build", "Build and install everything below --prefix (the default)");
    const run_step = b.step("run", "Run the program: zig build run -- ARGUMENTS");
    const test_step = b.step("test", "Run the tests, the examples and the check of the sources");
    const sanitize_step = b.step("test-sanitize", "The tests under gcc's ASan and UBSan");
    const tidy_step = b.step("tidy", "Check sizes, includes and lists of the sources");
    const examples_step = b.step("examples", "Build the examples into zig-out/examples");
    const bench_step = b.step("bench", "Run the benchmarks one after the other (JSON lines)");
    const bench_compiled = b.step("bench-compile", "Build the benchmarks into zig-out/bench");
    const scenes_step = b.step("scenes", "Build the scene generators into zig-out/scenes");
    build_step.dependOn(b.getInstallStep());

    // The library: archive, headers, pkg-config file.
    const library = b.addLibrary(.{ .name = "adjoint", .linkage = .static, .root_module = module(b, settings) });
    library.bundle_compiler_rt = needsHelpers(settings);
    addSources(b, library, settings, library_sources);
    b.installArtifact(library);
    inline for (public_headers) |header| installHeader(b, header);
    const pc = b.addWriteFiles().add("adjoint.pc", pkgConfig(settings.openmp));
    b.getInstallStep().dependOn(&b.addInstallFile(pc, "lib/pkgconfig/adjoint.pc").step);

    // The program.
    const adjoint = program(b, settings, library, "adjoint", cli);
    b.installArtifact(adjoint);
    const run = b.addRunArtifact(adjoint);
    passArguments(b, run);
    run_step.dependOn(&run.step);

    // The tests: one Criterion executable, which may call the commands' code as well.
    const test_program = program(b, settings, library, "adjoint-tests", tests ++ comptime without(cli, main_source));
    test_program.root_module.linkSystemLibrary("criterion", .{});
    test_program.link_gc_sections = false; // Criterion finds the tests in a section nothing refers to
    const run_tests = runHere(b, test_step, b.addRunArtifact(test_program));
    passArguments(b, run_tests);

    // The sources themselves, checked by a program of their own.
    const tidy = program(b, settings, library, "tidy", &.{"tests/tidy.c"});
    _ = runHere(b, tidy_step, b.addRunArtifact(tidy));
    test_step.dependOn(tidy_step);

    // Examples are tests too: each exits with 0 when its known answer came out.
    for (examples) |source| {
        const example = program(b, settings, library, stem(source), &.{source});
        installInto(b, examples_step, example, "examples");
        const check = b.addSystemCommand(&.{ "sh", "-c", example_check, stem(source) });
        check.addArtifactArg(example);
        _ = runHere(b, test_step, check);
    }

    // Benchmarks: all are compiled before the first one runs.
    for (bench) |source| {
        const benchmark = program(b, settings, library, stem(source), &.{source});
        installInto(b, bench_compiled, benchmark, "bench");
        const measure = runHere(b, bench_step, b.addRunArtifact(benchmark));
        measure.step.dependOn(bench_compiled);
        passArguments(b, measure);
    }

    // The generator of scenes/still_life, one program; run it by hand, its output is committed.
    installInto(b, scenes_step, program(b, settings, library, "still_life", scenes), "scenes");

    // Zig's clang has no AddressSanitizer runtime: the same sources once more with gcc.
    sanitizedTests(b, settings, sanitize_step);
}

/// The lines of a list, each with its folder in front; empty lines and # comments are left out.
fn sources(comptime folder: []const u8, comptime text: []const u8) []const []const u8 {
    comptime {
        @setEvalBranchQuota(100 * text.len + 10_000);
        var list: []const []const u8 = &.{};
        var lines = std.mem.tokenizeAny(u8, text, "\r\n");
        while (lines.next()) |line| {
            const path = std.mem.trim(u8, line, " \t");
            if (path.len == 0 or path[0] == '#') continue;
            list = list ++ &[_][]const u8{folder ++ "/" ++ path};
        }
        return list;
    }
}

fn without(comptime list: []const []const u8, comptime left_out: []const u8) []const []const u8 {
    comptime {
        var rest: []const []const u8 = &.{};
        for (list) |path| {
            if (!std.mem.eql(u8, path, left_out)) rest = rest ++ &[_][]const u8{path};
        }
        return rest;
    }
}

/// "bench/record.c" -> "record"
fn stem(path: []const u8) []const u8 {
    return std.fs.path.stem(path);
}

fn module(b: *std.Build, settings: Settings) *std.Build.Module {
    return b.createModule(.{
        .target = settings.target,
        .optimize = if (settings.debug) .Debug else .ReleaseFast,
        .sanitize_c = if (settings.debug) .full else .off,
        .link_libc = true,
    });
}

fn addSources(b: *std.Build, compile: *Compile, settings: Settings, files: []const []const u8) void {
    // Whole registers: clang takes half of AVX-512's on some processors, whose first models slowed down.
    const optimised: []const []const u8 = if (settings.debug) &.{} else if (settings.target.result.cpu.arch == .x86_64)
        &.{ "-O3", "-mprefer-vector-width=512" }
    else
        &.{"-O3"};
    const threads: []const []const u8 = if (settings.openmp) &.{"-fopenmp"} else &.{"-Wno-unknown-pragmas"};
    compile.root_module.addIncludePath(b.path("."));
    compile.root_module.addCSourceFiles(.{
        .files = files,
        .flags = concat(b, &.{ &language, &warnings, optimised, threads }),
    });
}

fn concat(b: *std.Build, parts: []const []const []const u8) []const []const u8 {
    return std.mem.concat(b.allocator, []const u8, parts) catch @panic("out of memory");
}

/// An executable of these files and the library. System libraries are linked here, not into the
/// archive, where the linker would take a .so for a member.
fn program(
    b: *std.Build,
    settings: Settings,
    library: *Compile,
    name: []const u8,
    files: []const []const u8,
) *Compile {
    const exe = b.addExecutable(.{ .name = name, .root_module = module(b, settings) });
    exe.bundle_compiler_rt = needsHelpers(settings);
    addSources(b, exe, settings, files);
    exe.root_module.linkLibrary(library);
    for (system_libraries) |system| exe.root_module.linkSystemLibrary(system, .{});
    // Debian's libomp lies in a private folder, but leaves libomp5.so where linkers look.
    if (settings.openmp) exe.root_module.linkSystemLibrary("omp5", .{ .use_pkg_config = .no });
    return exe;
}

/// Without instructions for half floats the compiler calls helpers, which a program linked by another
/// compiler may lack; so does UBSan. Beside them come a memcpy and a memset, slower than libc's: only
/// where needed.
fn needsHelpers(settings: Settings) bool {
    const cpu = settings.target.result.cpu;
    return settings.debug or cpu.arch != .x86_64 or !std.Target.x86.featureSetHas(cpu.features, .f16c);
}

const example_check =
    \\if "$1"; then echo "example: $0 passed"; else echo "example: $0 failed"; exit 1; fi
;

/// Runs from the root of the repository, seen on the terminal, every time and one at a time.
fn runHere(b: *std.Build, step: *std.Build.Step, run: *Run) *Run {
    run.setCwd(b.path("."));
    run.stdio = .inherit;
    step.dependOn(&run.step);
    return run;
}

fn passArguments(b: *std.Build, run: *Run) void {
    if (comptime @hasDecl(Run, "addPassthruArgs")) {
        run.addPassthruArgs();
    } else if (b.args) |arguments| {
        run.addArgs(arguments);
    }
}

fn installInto(b: *std.Build, step: *std.Build.Step, exe: *Compile, folder: []const u8) void {
    step.dependOn(&b.addInstallArtifact(exe, .{ .dest_dir = .{ .override = .{ .custom = folder } } }).step);
}

/// Installed headers lie side by side: "autodiff/autodiff.h" becomes "autodiff.h" on the way.
fn installHeader(b: *std.Build, comptime header: []const u8) void {
    const name = comptime std.fs.path.basename(header);
    const edit = b.addSystemCommand(&.{ "sh", "-c", "sed 's|^#include \"[a-z]*/|#include \"|' \"$0\" >\"$1\"" });
    edit.addFileArg(b.path(header));
    const edited = edit.addOutputFileArg(name);
    b.getInstallStep().dependOn(&b.addInstallHeaderFile(edited, "adjoint/" ++ name).step);
}

/// The prefix follows the file, so that the installed folder can be moved.
fn pkgConfig(openmp: bool) []const u8 {
    return if (openmp) pkg_config_text ++ "Libs: -L${libdir} -ladjoint -lomp5 -lm\n" //
    else pkg_config_text ++ "Libs: -L${libdir} -ladjoint -lm\n";
}

const pkg_config_text =
    \\prefix=${pcfiledir}/../..
    \\libdir=${prefix}/lib
    \\includedir=${prefix}/include
    \\
    \\Name: adjoint
    \\Description: Reverse-mode automatic differentiation and radiance fields
    \\Version:
++ " " ++ version ++ "\n" ++
    \\Requires: libpng libjpeg libexif libcjson zlib
    \\Cflags: -I${includedir}
    \\
;

/// Library and tests compiled file by file, so that a change costs one file; run at reduced sizes.
/// Warnings are the other compiler's business.
fn sanitizedTests(b: *std.Build, settings: Settings, step: *std.Build.Step) void {
    const checks = [_][]const u8{
        "-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    };
    const threads: []const u8 = if (settings.openmp) "-fopenmp" else "-Wno-unknown-pragmas";
    const link = b.addSystemCommand(&.{ "gcc", threads });
    link.addArgs(&checks);
    link.addArg("-o");
    const executable = link.addOutputFileArg("adjoint-tests-sanitized");
    for (library_sources ++ tests ++ comptime without(cli, main_source)) |source| {
        const compile = b.addSystemCommand(&.{ "gcc", "-c", threads });
        compile.addArgs(concat(b, &.{ &language, &.{"-w"}, &checks }));
        compile.addPrefixedDirectoryArg("-I", b.path("."));
        compile.addArg("-MD");
        compile.addArg("-MF");
        _ = compile.addDepFileOutputArg(b.fmt("{s}.d", .{stem(source)}));
        compile.addFileArg(b.path(source));
        compile.addArg("-o");
        link.addFileArg(compile.addOutputFileArg(b.fmt("{s}.o", .{stem(source)})));
    }
    link.addArgs(&.{ "-lcriterion", "-lpng", "-ljpeg", "-lexif", "-lcjson", "-lz", "-lm" });

    const run = std.Build.Step.Run.create(b, "run adjoint-tests under ASan and UBSan");
    run.addFileArg(executable);
    run.setEnvironmentVariable("ADJOINT_TEST_SIZE", "reduced");
    passArguments(b, runHere(b, step, run));
}
