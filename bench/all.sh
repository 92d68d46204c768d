#!/bin/sh
# Measures everything on this machine, one bench after the other, and writes docs/performance.md.
# What is missing here is skipped, and said. Close what else runs: it would be measured, too.
set -eu
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: sh bench/all.sh [--nanogpt PATH] [--llama PATH] [--corpus FILE] [--as avx2]
                       [--only NAME]... [--list]

  --nanogpt PATH   a checkout: git clone https://github.com/karpathy/nanoGPT PATH
  --llama PATH     a folder where `npm install node-llama-cpp` was run; needs node, and gguf
  --corpus FILE    tiny Shakespeare: what data/shakespeare_char/prepare.py there downloads
  --as avx2        hold a processor that has more to AVX2
  --only NAME      run this bench; may be given several times
  --list           say what would run and how long it takes, and stop
END
}

# Minutes on two cores, what it needs (- for nothing), and its command; in the order of the page.
benches() {
    cat <<'END'
10 nanogpt train_speed.py --nanogpt NANOGPT
1 - engines.py
8 nanogpt,corpus time_to_loss.py --nanogpt NANOGPT --corpus CORPUS
13 corpus best_loss.py --corpus CORPUS --budget 12m
60 - plan.py --budget 35
20 - plan.py --kinds --rate 97 --budget 10 --jobs 2
11 - plan_ahead.py
3 - scale.py
5 nanogpt busy.py --nanogpt NANOGPT
1 - attention_forms.py
1 - memory.py
15 - corpus.py --size 2GB
3 - checkpoint_cost.py
7 - film_cost.py
4 corpus fine_tuning_rate.py CORPUS
5 nanogpt generation.py --nanogpt NANOGPT --llama=LLAMA
3 - serving.py
2 - startup.py
1 chromium attention_page.py
1 chromium explore_page.py
3 gpu,nanogpt gpu_speed.py --nanogpt NANOGPT
4 gpu,nanogpt,corpus time_to_loss.py --device cuda --short --nanogpt NANOGPT --corpus CORPUS
END
}

refuse() {
    echo "all.sh: $1" >&2
    exit 2
}

nanogpt='' llama='' corpus='' held='' only='' list=''
while [ $# -gt 0 ]; do
    case $1 in
        --nanogpt | --llama | --corpus | --as | --only)
            [ $# -ge 2 ] || refuse "$1 needs a value"
            case $1 in
                --nanogpt) nanogpt=$2 ;;
                --llama) llama=$2 ;;
                --corpus) corpus=$2 ;;
                --as) held=$2 ;;
                --only) only="$only ${2%.py} " ;;
            esac
            shift ;;
        --list) list=1 ;;
        --help | -h) usage; exit ;;
        *) refuse "no option $1; sh bench/all.sh --help says which there are" ;;
    esac
    shift
done
[ -z "$nanogpt" ] || [ -f "$nanogpt/model.py" ] || refuse "$nanogpt is no checkout of nanoGPT"
[ -z "$corpus" ] || [ -f "$corpus" ] || refuse "there is no file $corpus"
for name in $only; do
    benches | grep -q " $name\.py" || refuse "no bench $name; --list says which there are"
done
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || refuse "no $python; sh tests/run.sh makes it"
export PYTHONPATH="bench${PYTHONPATH:+:$PYTHONPATH}"
case $held in
    '') ;;
    avx2) export $("$python" -c 'import harness; print(harness.settings(harness.HELD_TO_AVX2))') ;;
    *) refuse "--as knows avx2 alone, not $held" ;;
esac
kind=$("$python" -c 'import harness; print(harness.kind_of_cpu())')
gpu=$("$python" -c 'import torch; print("yes" if torch.cuda.is_available() else "")')

# What a bench lacks here, in words; nothing if it can run.
lacking() {
    for need in $(echo "$1" | tr ',' ' '); do
        case $need in
            nanogpt) [ -n "$nanogpt" ] || echo "no --nanogpt" ;;
            corpus) [ -n "$corpus" ] || echo "no --corpus" ;;
            gpu) [ -n "$gpu" ] || echo "no GPU" ;;
            *) [ "$need" = - ] || command -v "$need" >/dev/null || echo "no $need" ;;
        esac
    done | paste -sd, - | sed 's/,/, /g'
}

chosen() {
    benches | while read -r minutes needs script arguments; do
        case $only in '' | *" ${script%.py} "*) echo "$minutes $needs $script $arguments" ;; esac
    done
}

echo "On this machine, as $kind:"
total=0
while read -r minutes needs script arguments; do
    lacks=$(lacking "$needs")
    if [ -n "$lacks" ]; then
        printf '  %-16s skipped: %s\n' "${script%.py}" "$lacks"
    else
        printf '  %-16s about %s min\n' "${script%.py}" "$minutes"
        total=$((total + minutes))
    fi
done <<END
$(chosen)
END
echo "About $total minutes in all; load of the machine now: $(uptime | sed 's/.*load average[s]*: //')"
[ -z "$list" ] || exit 0

failed=''
all_began=$(date +%s)
while read -r minutes needs script arguments; do
    [ -z "$(lacking "$needs")" ] || continue
    printf '\n== %s\n' "$script $arguments"
    set --
    for word in $arguments; do
        case $word in
            NANOGPT) word=$nanogpt ;;
            CORPUS) word=$corpus ;;
            --llama=LLAMA) word=--llama=$llama ;;
        esac
        set -- "$@" "$word"
    done
    began=$(date +%s)
    "$python" "bench/$script" "$@" </dev/null || failed="$failed ${script%.py}"
    echo "== $script took $((($(date +%s) - began + 30) / 60)) min"
done <<END
$(chosen)
END
printf '\n%s min in all\n' "$((($(date +%s) - all_began + 30) / 60))"
"$python" bench/render.py
[ -z "$failed" ] || { echo "all.sh: these failed:$failed" >&2; exit 1; }
