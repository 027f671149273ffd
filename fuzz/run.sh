#!/bin/sh
# Fuzzes one reader: fuzz/run.sh png|jpeg|transforms|safetensors [SECONDS] [FOLDER]
# Needs clang with libFuzzer (Debian: clang-14 libclang-rt-14-dev). Findings and the grown corpus
# stay in FOLDER (default: fuzz-out/NAME, ignored by git); small inputs worth keeping go to
# fuzz/corpus/NAME, which `./dev test` replays.
set -eu
name=${1:?usage: fuzz/run.sh png|jpeg|transforms|safetensors [SECONDS] [FOLDER]}
seconds=${2:-1800}
cd "$(dirname "$0")/.."
out=${3:-$PWD/fuzz-out/$name}
mkdir -p "$out/corpus"
extra=
[ "$name" = png ] && extra=fuzz/mutate_png.c
${CC:-clang-14} -std=c17 -g -O1 -fno-omit-frame-pointer -I. \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -DFUZZ_TARGET="fuzz_$name" fuzz/libfuzzer.c "fuzz/fuzz_$name.c" $extra \
    render/load_*.c render/camera.c render/image_resize.c autodiff/message.c \
    autodiff/safetensors.c autodiff/safetensors_header.c autodiff/file.c autodiff/text.c \
    -lpng -ljpeg -lexif -lcjson -lz -lm -o "$out/fuzz_$name"
corpus=$PWD/fuzz/corpus/$name
dict=
[ -f "fuzz/$name.dict" ] && dict="-dict=$PWD/fuzz/$name.dict"
cd "$out"
exec "./fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1500 -max_len=8192 \
    -print_final_stats=1 -artifact_prefix="$out/" $dict corpus "$corpus"
