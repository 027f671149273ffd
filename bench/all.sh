#!/bin/sh
# The benchmarks of the core, unattended, in a few minutes; one file of JSON lines. What each program
# prints comes first, then one line a row of docs/benchmarks.md with "bench":"row".
#
#     sh bench/all.sh [--out core.jsonl] [--peer 'python mlp_torch.py'] [--seconds S] [--mlp-field]
#
# --peer: PyTorch's bf16 networks, for the ratio to them. --seconds: a case, instead of each program's
# own default. --mlp-field: the original NeRF to 20 dB as well (5 minutes of training more).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
programs=$root/zig-out/bench
out=core.jsonl peer='' seconds='' field=''

while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 && shift 2 ;;
    --peer) peer=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --mlp-field) field=yes && shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
done
[ -x "$programs/bench_mlp" ] || {
    echo "bench/all.sh: the programs are not built; zig build bench-compile" >&2
    exit 1
}
cd "$root"
case $out in /*) ;; *) out=$OLDPWD/$out ;; esac
: >"$out"

for name in machine mlp mlp_ratio gemm record elementwise; do
    echo "== $name" >&2
    case $name in
    machine) "$programs/bench_machine" ;;
    # The default, without an argument, where no seconds were asked for.
    # shellcheck disable=SC2086
    *) "$programs/bench_$name" $seconds ;;
    esac | tee -a "$out"
done
if [ -n "$field" ]; then "$programs/bench_field_mlp" | tee -a "$out"; fi
if [ -n "$peer" ]; then
    echo "== $peer" >&2
    # One word each.
    # shellcheck disable=SC2086
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $peer --keep-memory --no-tiny --batch 65536 \
        --dtypes bfloat16 --threads 1 2 | sed 's/^{/{"bench":"peer mlp_torch", /; s/": /":/g; s/, "/,"/g' |
        tee -a "$out"
fi
"$programs/bench_machine" | tee -a "$out" # again: did a neighbour come or go?

# ---- rows

awk '
    function number(name,   at) {
        at = index($0, "\"" name "\":")
        return at ? substr($0, at + length(name) + 3) + 0 : ""
    }
    function is(name, value) { return index($0, "\"" name "\":\"" value "\"") > 0 }
    function worse(name, value, most) { # keeps the least favourable
        if (!(name in worst) || (most ? value > worst[name] : value < worst[name])) worst[name] = value
    }
    function row(name, unit, value, must, aim, most,   reached) {
        reached = value == "" ? "null" : (most ? value <= must : value >= must) ? "true" : "false"
        if (value == "") value = "null"
        else value = sprintf("%.4g", value)
        printf "{\"bench\":\"row\",\"row\":\"%s\",\"unit\":\"%s\",\"value\":%s,\"must\":%s,\"aim\":%s,\"reached\":%s}\n",
            name, unit, value, must, aim, reached
    }
    function worst_of(name) { return (name in worst) ? worst[name] : "" }

    is("bench", "mlp") && is("widths", "32-64-64-16") && number("rows") == 65536 {
        tracked = /"input_gradient":true/
        threads = number("threads")
        if (is("precision", "f32") && tracked) peak[threads] = number("of_peak")
        if (is("precision", "bf16") && !tracked)
            ours[threads] = number("forward_us") + number("backward_us")
    }
    is("bench", "peer mlp_torch") && is("dtype", "bfloat16") && !/"summary"/ && !/"error"/ {
        threads = number("threads")
        took = number("forward_backward_us")
        if (!(threads in theirs) || took < theirs[threads]) theirs[threads] = took
    }
    is("bench", "mlp_ratio") { worse("ratio", number("ratio"), 1) }
    is("bench", "field_mlp") && number("seconds_to_goal") > 0 { field = number("seconds_to_goal") }
    is("bench", "record") {
        worse("record", number("record_ns"), 1)
        worse("backward", number("backward_ns"), 1)
        worse("bytes", number("node_and_record_bytes"), 1)
    }
    is("bench", "gemm") && number("m") == number("n") && number("of_openblas") != "" {
        worse("gemm", number("of_openblas"), 0)
        logs += log(number("of_openblas")); gemms++
    }
    is("bench", "elementwise") && (is("operation", "exp") || is("operation", "sigmoid")) {
        worse("arithmetic " number("threads"), number("of_bandwidth"), 0)
        next
    }
    is("bench", "elementwise") {
        worse("elementwise " number("threads"), number("of_bandwidth"), 0)
        shares[number("threads")] += number("of_bandwidth"); count[number("threads")]++
    }
    END {
        for (t = 1; t <= 2; t++) {
            row("fused network forward and backward, f32, of the peak, threads: " t, "ratio",
                (t in peak) ? peak[t] : "", 0.4, 0.65)
            row("fused network, bf16, over PyTorch, threads: " t, "ratio",
                (t in ours) && (t in theirs) ? theirs[t] / ours[t] : "", 1.2, 2)
        }
        row("record one operation, slowest", "ns", worst_of("record"), 100, 50, 1)
        row("run its rule backward, slowest", "ns", worst_of("backward"), 100, 50, 1)
        row("a node with its output, largest", "bytes", worst_of("bytes"), 128, 128, 1)
        row("(forward + backward) / forward, largest", "ratio", worst_of("ratio"), 3.3, 3.1, 1)
        row("dense product over OpenBLAS, least", "ratio", worst_of("gemm"), 0.7, 1)
        row("dense product over OpenBLAS, geometric mean", "ratio", gemms ? exp(logs / gemms) : "", 0.7, 1)
        row("the original NeRF to 20 dB", "s", field, 900, 300, 1)
        for (t = 1; t <= 2; t++) {
            row("elementwise of the bandwidth, least, threads: " t, "ratio", worst_of("elementwise " t), 0.9, 0.95)
            row("elementwise of the bandwidth, mean, threads: " t, "ratio",
                count[t] ? shares[t] / count[t] : "", 0.9, 0.95)
            row("exp and sigmoid of the bandwidth, least, threads: " t, "ratio", worst_of("arithmetic " t), 0.9, 0.95)
        }
    }' "$out" >"$out.rows"
cat "$out.rows" | tee -a "$out"
rm -f "$out.rows"
