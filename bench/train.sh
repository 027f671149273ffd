#!/bin/sh
# Training measured: every row of docs/benchmarks.md that needs minutes, one JSON line each.
#
#     sh bench/train.sh --lego FOLDER [--fox FOLDER] [--peer 'python hash_nerf_torch.py']
#         [--out results.jsonl] [--work FOLDER] [--budget SECONDS] [--steps N] [--threads N] [--goal DECIBELS]
#         [--extra 'MORE OPTIONS OF adjoint reconstruct'] [ROW ...]
#
# Rows: minute five kept to28 threads view overhead memory fox (all, without any). Rows that need the
# same run share it: five, view, overhead and memory read the run of --budget seconds (300).
# Rows whose data or peer is missing say so with "value": null and go on. About 30 minutes with all.
#
# Nothing but sh, sed, awk and the program. The peer's command is run as it is, without
# OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE; its compiler cache is its own matter.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
adjoint=$root/zig-out/bin/adjoint
lego='' fox='' peer='' extra='' out=train.jsonl work=/tmp/adjoint-bench budget=300 steps=600 threads=2 rows=''
goal_db=28
turns=3      # of the row kept
look_every=4 # seconds of training between two looks on the way to the goal

fail() {
    echo "bench/train.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --lego) lego=$(cd "$2" && pwd) ;;
    --fox) fox=$(cd "$2" && pwd) ;;
    --peer) peer=$2 ;;
    --out) out=$2 ;;
    --work) work=$2 ;;
    --budget) budget=$2 ;;
    --steps) steps=$2 ;;
    --threads) threads=$2 ;;
    --extra) extra=$2 ;;
    --goal) goal_db=$2 ;;
    --adjoint) adjoint=$2 ;;
    -*) fail "unknown option $1; the head of the file lists them" ;;
    *) rows="$rows $1" && shift && continue ;;
    esac
    shift 2 || fail "an option without its value"
done
[ -n "$rows" ] || rows='minute five kept to28 threads view overhead memory fox'
[ -x "$adjoint" ] || fail "$adjoint: not built; ./dev build"
mkdir -p "$work"
: >"$out"

# ---- lines

# number FILE EVENT NAME: the member of the last line of that event, or null.
number() {
    sed -n "/\"event\":\"$2\"/s/.*\"$3\":\\([-0-9.e+]*\\).*/\\1/p" "$1" 2>/dev/null |
        tail -n 1 | grep . || echo null
}

# peer_number NAME: from the peer's summary.
peer_number() {
    sed -n "/\"summary\"/s/.*\"$1\": \\([-0-9.e+]*\\).*/\\1/p" "$work/peer.jsonl" 2>/dev/null |
        tail -n 1 | grep . || echo null
}

# calculate EXPRESSION [NAME VALUE ...]: null where a value is.
calculate() {
    expression=$1
    shift
    set -- "$@" end end
    assigned=''
    while [ "$1" != end ]; do
        [ "$2" != null ] || {
            echo null
            return
        }
        assigned="$assigned $1 = $2;"
        shift 2
    done
    awk "BEGIN { $assigned printf \"%.6g\\n\", $expression }"
}

# row NAME UNIT VALUE MUST AIM [MEMBERS]: the line; MUST and AIM are least values, or most with <.
row() {
    reached=null
    case $4 in
    '<'*) [ "$3" = null ] || reached=$(awk "BEGIN { print ($3 <= ${4#<}) ? \"true\" : \"false\" }") ;;
    null) ;;
    *) [ "$3" = null ] || reached=$(awk "BEGIN { print ($3 >= $4) ? \"true\" : \"false\" }") ;;
    esac
    printf '{"bench":"train","row":"%s","unit":"%s","value":%s,"must":%s,"aim":%s,"reached":%s%s%s}\n' \
        "$1" "$2" "$3" "${4#<}" "${5#<}" "$reached" "${6:+,$6}" ",\"machine\":\"$machine\"" |
        tee -a "$out"
}

# once FILE COMMAND...: the command's standard output in FILE, unless a row before left it there.
once() {
    [ -s "$1.done" ] && return 0
    file=$1
    shift
    echo "== $*" >&2
    if "$@" >"$file" 2>"$file.err"; then echo done >"$file.done"; else
        echo "bench/train.sh: failed, see $file.err" >&2
        tail -n 3 "$file.err" >&2
    fi
}

# One word each of the extra options.
# shellcheck disable=SC2086
reconstruct() {
    "$adjoint" reconstruct "$@" --json --limit 100000 $extra
}

# ---- the runs that rows share

# The peer's fastest form: in bf16 where the processor multiplies it, in f32 elsewhere (on a Zen 3,
# where PyTorch emulates it, bf16 took five times as long).
peer_type=''
if grep -q -E 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then peer_type=--bf16; fi

# Ten views of the val split from all over it, the ones that the peer takes: a folder of their own.
ten_views() {
    [ -f "$work/ten/transforms_val.json" ] && return 0
    mkdir -p "$work/ten"
    cp -R "$lego/." "$work/ten/"
    chmod -R u+w "$work/ten"
    awk '
        { line[NR] = $0 }
        /"file_path"/ { frames++ }
        END {
            for (i = 0; i < 10; i++) chosen[int(i * (frames - 1) / 9 + 0.5)] = 1
            frame = -1
            for (i = 1; i <= NR; i++) {
                if (line[i] ~ /^ *"frames"/) { inside = 1; print line[i]; continue }
                opens = gsub(/[{[]/, "&", line[i]); closes = gsub(/[}\]]/, "&", line[i])
                if (inside && depth == 0 && closes) inside = 0
                if (!inside) { print line[i]; continue }
                if (depth == 0 && opens) { frame++; text = "" }
                depth += opens - closes
                text = text line[i] "\n"
                if (depth == 0 && frame in chosen) {
                    sub(/},?\n$/, "}", text)
                    printf "%s%s", printed++ ? ",\n" : "", text
                    if (printed == 10) printf "\n"
                }
            }
        }' "$lego/transforms_val.json" >"$work/ten/transforms_val.json"
}

long_run() {
    once "$work/five.jsonl" reconstruct "$lego" --time "${budget}s" --threads "$threads" --out "$work/five" --force
}

# The peer in its fastest form. Its clock stops while it looks, and does not see it compile.
peer_run() {
    [ -n "$peer" ] || return 0
    looks=$(awk "BEGIN { for (s = 40; s < $budget && s <= 220; s += 20) printf \"%d \", s }")
    # One word each.
    # shellcheck disable=SC2086
    once "$work/peer.jsonl" env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $peer "$lego" \
        --seconds "$budget" --threads "$threads" --compile $peer_type --batch-samples 32768 \
        --val-views 10 --eval-at $looks
}

# crossing: lines of "seconds decibels" in, the time at which the goal was passed out.
crossing() {
    awk -v goal="$goal_db" '
        $2 >= goal {
            if (NR > 1) print at + ($1 - at) * (goal - before) / ($2 - before)
            else print $1
            found = 1
            exit
        }
        { at = $1; before = $2 }
        END { if (!found) print "null" }'
}

# ---- rows

row_minute() {
    once "$work/minute.jsonl" reconstruct "$lego" --time 60s --threads "$threads" --out "$work/minute" --force
    f=$work/minute.jsonl
    row 'lego400 val, --time 60s' dB "$(number "$f" done psnr)" 29 31 \
        "\"views\":$(number "$f" eval images),\"steps\":$(number "$f" done steps),\"seed\":$(number "$f" start seed)"
}

row_five() {
    long_run
    peer_run
    f=$work/five.jsonl
    ours=$(number "$f" done psnr)
    ten=null
    if [ -n "$peer" ] && [ "$ours" != null ]; then
        ten_views
        "$adjoint" eval "$work/five" --data "$work/ten" --split val --json >"$work/five_ten.jsonl" &&
            ten=$(number "$work/five_ten.jsonl" eval psnr)
    fi
    theirs=$(peer_number val_psnr)
    row "lego400 val, --time ${budget}s" dB "$ours" 33.5 35 \
        "\"views\":$(number "$f" eval images),\"steps\":$(number "$f" done steps),\"seed\":$(number "$f" start seed),\"ten_views\":$ten,\"peer_ten_views\":$theirs"
    row 'decibels over the peer, ten views' dB "$(calculate 'a - b' a "$ten" b "$theirs")" 2.5 4
}

# In turns of a minute each, because neighbours on the machine come and go: all samples of either
# over all its seconds.
row_kept() {
    ten_views
    once "$work/kept.txt" kept_turns
    ours=$(rate_of ours <"$work/kept.txt")
    theirs=$(rate_of peer <"$work/kept.txt")
    row 'kept samples a second over the peer' ratio "$(calculate 'a / b' a "$ours" b "$theirs")" 5 10 \
        "\"samples_per_second\":$ours,\"peer_samples_per_second\":$theirs,\"peer_type\":\"${peer_type:-f32}\",\"turns\":$turns"
}

# Lines of "ours seconds samples" and "peer seconds samples".
kept_turns() {
    turn=0
    while [ $turn -lt $turns ]; do
        f=$work/turn.jsonl
        reconstruct "$work/ten" --time 60s --threads "$threads" --out "$work/turn" --force >"$f"
        echo "ours $(number "$f" done seconds) $(number "$f" done samples)"
        [ -n "$peer" ] && peer_turn
        turn=$((turn + 1))
    done
}

peer_turn() {
    # One word each.
    # shellcheck disable=SC2086
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $peer "$lego" --seconds 60 --threads "$threads" \
        --compile $peer_type --batch-samples 32768 --val-views 1 |
        sed -n '/"summary"/s/.*"seconds": \([0-9.]*\),.*"samples": \([0-9]*\),.*/peer \1 \2/p'
}

rate_of() {
    awk -v who="$1" '$1 == who { seconds += $2; samples += $3 }
        END { if (seconds > 0) printf "%.0f\n", samples / seconds; else print "null" }'
}

# Training in short calls, each resumed from the last, and a look at ten views after each: the seconds
# of training between, as the run itself counts them. Loading and looking do not count, as with the peer.
row_to28() {
    peer_run
    ten_views
    rm -rf "$work/to28" "$work/to28.looks"
    : >"$work/to28.looks"
    stop=50
    mode=--force
    while :; do
        f=$work/to28.jsonl
        reconstruct "$work/ten" --time "${budget}s" --stop-at "$stop" --threads "$threads" \
            --out "$work/to28" $mode >"$f" 2>"$f.err" || break
        seconds=$(number "$f" done seconds)
        decibels=$(number "$f" eval psnr)
        [ "$decibels" != null ] || break
        echo "$seconds $decibels" | tee -a "$work/to28.looks" >&2
        [ "$(awk "BEGIN { print ($decibels >= $goal_db || $seconds >= $budget) }")" = 0 ] || break
        # As many steps more as take the time between two looks.
        stop=$(awk "BEGIN { print int($(number "$f" done steps) * (1 + $look_every / $seconds)) + 1 }")
        mode=--resume
    done
    sed -n 's/.*"t": \([0-9.]*\),.*"val_psnr": \([0-9.]*\).*/\1 \2/p' "$work/peer.jsonl" \
        2>/dev/null >"$work/peer.looks" || :
    ours=$(crossing <"$work/to28.looks")
    end=$(peer_number seconds)
    [ "$end" = null ] || echo "$end $(peer_number val_psnr)" >>"$work/peer.looks"
    theirs=$(crossing <"$work/peer.looks")
    # A peer that never got there: its whole time was not enough, and the ratio is a lower bound.
    least=$theirs
    [ "$theirs" != null ] || least=$end
    row "times sooner at $goal_db dB than the peer" ratio "$(calculate 'b / a' a "$ours" b "$least")" \
        4 8 "\"seconds\":$ours,\"peer_seconds\":$theirs,\"schedule_seconds\":$budget,\"views\":10"
}

# The same seed and steps, hence the same work and bits; in turn, and the best of two.
row_threads() {
    ten_views
    for n in 1 2 2 1; do
        f=$work/threads_$n.jsonl
        reconstruct "$work/ten" --steps "$steps" --seed 1 --threads $n --out "$work/threads" --force \
            >"$f" 2>"$f.err" || fail "see $f.err"
        seconds=$(number "$f" done seconds)
        [ $n = 1 ] && one=$(awk "BEGIN { print (${one:-1e9} < $seconds) ? ${one:-1e9} : $seconds }")
        [ $n = 2 ] && two=$(awk "BEGIN { print (${two:-1e9} < $seconds) ? ${two:-1e9} : $seconds }")
    done
    row 'two threads against one, training' ratio "$(calculate 'a / b' a "$one" b "$two")" 1.7 1.9 \
        "\"steps\":$steps,\"seconds_one\":$one,\"seconds_two\":$two"
}

row_view() {
    long_run
    f=$work/five.jsonl
    row 'one 400 x 400 view' s \
        "$(calculate 'a / b' a "$(number "$f" eval seconds)" b "$(number "$f" eval images)")" \
        '<1' '<0.3' "\"includes\":\"PSNR and SSIM of the view\",\"threads\":$threads"
}

overhead() {
    calculate '100 * (a + b) / c' a "$(number "$1" done preview_seconds)" \
        b "$(number "$1" done snapshot_seconds)" c "$(number "$1" done seconds)"
}

row_overhead() {
    long_run
    f=$work/five.jsonl
    row 'previews and snapshots, share of the time' % "$(overhead "$f")" '<3' '<1' \
        "\"preview_seconds\":$(number "$f" done preview_seconds),\"snapshot_seconds\":$(number "$f" done snapshot_seconds)"
}

gigabytes() {
    calculate 'a / 1e9' a "$(number "$1" done peak_rss_bytes)"
}

row_memory() {
    long_run
    row 'peak memory, lego400' GB "$(gigabytes "$work/five.jsonl")" '<1' '<0.5'
}

row_fox() {
    [ -n "$fox" ] || {
        row 'fox, first preview' s null '<30' '<15' '"why":"no --fox"'
        return
    }
    once "$work/fox.jsonl" reconstruct "$fox" --time "${budget}s" --threads "$threads" --out "$work/fox" --force
    f=$work/fox.jsonl
    row 'fox, command to first preview' s "$(number "$f" done first_preview_seconds)" '<30' '<15'
    row "fox, held-out PSNR, --time ${budget}s" dB "$(number "$f" done psnr)" null null \
        "\"views\":$(number "$f" eval images),\"width\":$(number "$f" eval width),\"height\":$(number "$f" eval height),\"samples_per_second\":$(calculate 'a / b' a "$(number "$f" done samples)" b "$(number "$f" done seconds)"),\"overhead_percent\":$(overhead "$f")"
    row 'peak memory, fox' GB "$(gigabytes "$f")" '<2' '<1'
}

# ---- all of it

describe() {
    if [ -x "$root/zig-out/bench/bench_machine" ]; then
        "$root/zig-out/bench/bench_machine" "$threads" | tee -a "$out"
    fi
}

machine="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1), $threads threads"
describe
for r in $rows; do
    case $r in
    minute | five | kept | to28 | threads | view | overhead | memory)
        if [ -n "$lego" ]; then "row_$r"; else row "$r" '' null null null '"why":"no --lego"'; fi
        ;;
    fox) row_fox ;;
    *) fail "unknown row $r" ;;
    esac
done
describe # again: did a neighbour come or go?
