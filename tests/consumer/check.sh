#!/bin/sh
# check.sh PREFIX: builds a C17 and a C++17 program against what `zig build install --prefix PREFIX`
# left, in a folder far from the repository, and runs them. Prints one "consumer: " line each.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(cd "$1" && pwd)
PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export PKG_CONFIG_PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/consumer.c" "$here/consumer.cpp" "$work"
cd "$work"

build_and_run() { # NAME COMPILER ARGUMENTS...
    name=$1 compiler=$2
    shift 2
    # pkg-config escapes the spaces of a path: eval reads them as they are meant.
    eval "set -- \"\$@\" $(pkg-config --cflags --libs adjoint)"
    if "$compiler" -Wall -Wextra -Werror -o program "$@" && ./program; then
        echo "consumer: $name passed"
    else
        echo "consumer: $name failed"
        status=1
    fi
}

status=0
build_and_run "a C17 program" gcc -std=c17 consumer.c
build_and_run "a C++17 program" g++ -std=c++17 consumer.cpp

# Every name the archive adds to somebody's program has a prefix; W and __: helpers of the compiler.
foreign=$(nm -g --defined-only "$prefix/lib/libadjoint.a" 2>/dev/null |
    awk 'NF == 3 && $2 ~ /^[A-Z]$/ && $2 != "W" && $3 !~ /^(ad_|render_|graph_|__)/ { print $3 }')
if [ -n "$foreign" ]; then
    echo "consumer: names without ad_ or render_ in libadjoint.a:" $foreign
    echo "consumer: the archive's names failed"
    status=1
else
    echo "consumer: the archive's names passed"
fi
"$prefix/bin/adjoint" --version >version
grep -q '^adjoint [0-9]' version || { echo "consumer: adjoint --version says nothing"; status=1; }
exit $status
