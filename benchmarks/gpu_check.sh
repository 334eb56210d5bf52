#!/usr/bin/env bash
# Checks and measures vidops on a machine with a GPU.
#
#   benchmarks/gpu_check.sh OUTDIR [STAGE[:ITEM,ITEM...]...]
#
# Stages, all of them by default, and their items, all of them by default:
#   info      what machine this is
#   build     the kernels for its GPU; build:carried checks that those which came with the checkout load
#   test      operators, gpu, networks, rest; or paths of tests, or PART=PATH
#   sanitize  compute-sanitizer on each operator's small cases: an OPERATOR, a TOOL (memcheck, initcheck, racecheck,
#             synccheck) or TOOL/OPERATOR
#   graphs    CUDA-graph capture and replay: OPERATORs and networks
#   networks  networks against the reference, and their speed: names of networks, or speed
#   bench     the operators at full size against the reference, then their speed: OPERATORs
#   tune      block shapes and the like, measured: OPERATORs
#   plot      pictures of what bench and networks wrote
#
# The call ends within VIDOPS_GPU_CHECK_LIMIT seconds (530), whatever its stages: what does not fit is not begun or is
# stopped, what was found is kept, and the last line is the command that goes on. OUTDIR gets log.txt, summary.txt,
# logs.tgz (a log a job), operators.json, networks.json, tuning.json (tuning.tgz of several OPERATORs) and pictures. Status: 0 done, 1 something failed,
# 3 nothing failed and something is left. CONTRIBUTING.md has the plan for half an hour.
# Needs nvcc, PyTorch, Triton, CMake, Ninja, pybind11 and pytest, and no network.
# VIDOPS_GPU_CHECK_DEVICE=cpu rehearses it without a GPU. Where nothing is timed, VIDOPS_GPU_CHECK_JOBS programs, or
# VIDOPS_GPU_CHECK_PROCESSES of pytest, share the GPU. PYTHON names the interpreter (python3).
set -u -o pipefail

usage() { sed -n '2,27s/^# \{0,1\}//p' "$0"; }
refuse() { echo "gpu_check.sh: $1" >&2; exit 2; }
ALL=(info build test sanitize graphs networks bench tune plot)
is_stage() { case " ${ALL[*]} " in *" ${1%%:*} "*) ;; *) return 1 ;; esac; }

# Everything that was asked for is looked at before OUTDIR is made.
if [ $# -lt 1 ]; then usage; exit 2; fi
case $1 in -h | --help) usage; exit 0 ;; esac
! is_stage "$1" || refuse "OUTDIR comes first, and $1 is a stage; write ./$1 for a folder of that name"
for stage in "${@:2}"; do
  is_stage "$stage" || { echo "no stage $stage" >&2; usage >&2; exit 2; }
  case $stage in
    build:carried) ;;
    build:*) refuse "the stage build takes carried and nothing else, got $stage" ;;
    info:* | plot:*) refuse "the stage ${stage%%:*} takes no items, got $stage" ;;
  esac
done
# What was set for this call is set for the one that goes on.
SETTINGS=
for name in PYTHON VIDOPS_GPU_CHECK_{DEVICE,LIMIT,JOBS,PROCESSES}; do
  [ -n "${!name:-}" ] || continue
  SETTINGS+="$name=$(printf %q "${!name}") "
  case $name in
    PYTHON) ;;
    *_DEVICE) [[ ${!name} =~ ^(cuda|cpu)$ ]] || refuse "$name must be cuda or cpu, got ${!name}" ;;
    *) [[ ${!name} =~ ^[1-9][0-9]{0,6}$ ]] || refuse "$name must be a whole number above 0, got ${!name}" ;;
  esac
done
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
ASKED=$(printf %q "$1")
shift
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
DEVICE=${VIDOPS_GPU_CHECK_DEVICE:-cuda}
LIMIT=${VIDOPS_GPU_CHECK_LIMIT:-530}
CORES=$(nproc --all)
JOBS=${VIDOPS_GPU_CHECK_JOBS:-$((CORES > 8 ? 6 : CORES > 2 ? CORES / 2 : 1))}
END=$((SECONDS + LIMIT))
STAGES=("$@")
[ ${#STAGES[@]} -gt 0 ] || STAGES=("${ALL[@]}")
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export MAX_JOBS=${MAX_JOBS:-$CORES}
unset VIDOPS_BACKEND
NOTES=$(mktemp -d) || exit 2
trap 'rm -rf "$NOTES"' EXIT
mkdir "$NOTES/logs"

# Seconds until the end, or until some before it; at least one, for a time of 0 is no limit to `timeout`.
seconds() { local rest=$((END - SECONDS - ${1:-0})); echo $((rest > 1 ? rest : 1)); }
has() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }
operators() { "$PYTHON" -c 'from vidops.bench import load_benchmarks; print("\n".join(load_benchmarks()))'; }
known() { grep -qxF -- "$1" <<< "$2"; }
words() { tr ',' '\n' <<< "$1" | sed '/^$/d'; }
left() { printf '%s\n' "$1" >> "$NOTES/left.$STAGE"; }  # an item of this stage that has still to be done

# Runs commands, JOBS at a time: lines of NAME, TAB, command. A log each; of one that fails its end is shown. A job is
# not begun without time for it, and stopped at the end, or RESERVE seconds before it: then its item is left. NAME is
# that item.
run_jobs() { # WIDTH LEAST [RESERVE]
  local width=$1 least=$2 reserve=${3:-5} name command running=0
  local -a names=()
  rm -f "$NOTES"/job.*
  while IFS=$'\t' read -r name command; do
    while [ "$(jobs -rp | wc -l)" -ge "$width" ]; do wait -n; done
    if [ "$(seconds "$((reserve - 5))")" -lt "$least" ]; then left "$name"; continue; fi
    names+=("$name") BEGUN=1
    (
      begin=$SECONDS log="$NOTES/logs/$STAGE-${name//\//-}.log"
      timeout -k 5 "$(seconds "$reserve")" bash -c "$command" > "$log" 2>&1 < /dev/null
      status=$?
      echo $status > "$NOTES/job.${name//\//-}"
      case $status in
        0) printf '%-36s ok %5d s  %s\n' "$name" $((SECONDS - begin)) "$(tail -1 "$log" | cut -c1-90)" ;;
        124 | 137) printf '%-36s stopped after %d s: the time is over\n' "$name" $((SECONDS - begin)) ;;
        *) { printf '%-36s FAILED, status %d, %d s\n' "$name" $status $((SECONDS - begin)); tail -25 "$log" | sed 's/^/    /'; } ;;
      esac
    ) &
  done
  wait
  for name in ${names[@]+"${names[@]}"}; do
    running=$(cat "$NOTES/job.${name//\//-}" 2> /dev/null || echo 1)
    case $running in 0) ;; 124 | 137) left "$name" ;; *) FAILURES=1 ;; esac
  done
}

info() {
  echo "machine    $(uname -srm), $CORES cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"
  echo "CPU        $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo)"
  if command -v nvidia-smi > /dev/null; then
    timeout 30 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,temperature.gpu --format=csv,noheader |
      sed 's/^/GPU        /'
  else
    echo "GPU        no GPU: there is no nvidia-smi"
  fi
  timeout -k 5 "$(seconds)" "$PYTHON" - << 'EOF'
import importlib.metadata as m, importlib.util as u, sys
print("Python    ", sys.version.split()[0], sys.executable)
if u.find_spec("torch") is None:
    sys.exit("no PyTorch for this Python")
import torch
print("torch     ", torch.__version__, "CUDA", torch.version.cuda, "GPUs", torch.cuda.device_count())
names = "triton numpy pytest pytest-timeout pytest-xdist pytest-benchmark hypothesis lightning av pydantic pillow \
scikit-image matplotlib cmake ninja pybind11 setuptools"
for name in names.split():
    try:
        print(f"{name:<17} {m.version(name)}")
    except m.PackageNotFoundError:
        print(f"{name:<17} missing")
if torch.cuda.is_available():  # that it computes is seen before anything is built for it
    x = torch.arange(8.0, device="cuda")
    print("a sum on it      ", float((x * x).sum()), "is 140")
    free, total = torch.cuda.mem_get_info()
    print(f"memory            {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
EOF
  local ok=$?
  for tool in nvcc cmake ninja g++ compute-sanitizer; do
    printf '%-17s %s\n' "$tool" "$(command -v "$tool" || echo missing)"
  done
  command -v nvcc > /dev/null && nvcc --version | tail -2
  df -h . "$OUT" | awk 'NR > 1 {print "disk              " $4 " free at " $6}' | sort -u
  [ $ok = 0 ] || FAILURES=1
}

build() { # [carried]
  local arch
  BEGUN=1
  if [ "${1:-}" = carried ]; then
    echo "nothing is compiled: what came with the checkout is loaded"
  elif [ "$DEVICE" = cpu ]; then
    echo "no GPU: rehearsing with VIDOPS_BUILD=cpu; the result goes to $OUT/build and is not used"
    VIDOPS_BUILD=cpu timeout -k 5 "$(seconds)" "$PYTHON" setup.py -q build_ext --build-lib "$OUT/build" ||
      { built_no $?; return; }
    ls -l "$OUT/build/vidops"
    return
  else
    arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || { FAILURES=1; return; }
    echo "GPU of compute capability $arch"
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$arch} VIDOPS_BUILD=cuda \
      VIDOPS_CPU_LEVELS=${VIDOPS_CPU_LEVELS:-baseline,avx512} timeout -k 5 "$(seconds)" \
      "$PYTHON" setup.py build_ext --inplace > "$NOTES/logs/build.log" 2>&1 ||
      { built_no $?; return; }
  fi
  "$PYTHON" -m vidops info || FAILURES=1
  "$PYTHON" - "$DEVICE" << 'EOF' || FAILURES=1
import sys
from vidops.ops.backends import OPERATORS
missing = {f"{b}: {why}" for o in OPERATORS.values() for b, why in o.missing.items() if why}
if sys.argv[1] == "cpu":
    missing = {line for line in missing if line.startswith("cpu: ")}
print("\n".join(sorted(missing)) or "every operator has a kernel on every backend")
sys.exit(bool(missing))
EOF
}

built_no() { # STATUS
  tail -40 "$NOTES/logs/build.log" 2> /dev/null
  if [ "$1" = 124 ]; then left ""; else FAILURES=1; fi
}

TEST_PARTS="operators gpu networks rest"
HOST_TESTS="test_cuda_host test_mma test_sanitizers test_triton_compile test_cuda_resources"

run_tests() { # [ITEMS]: parts, PART=PATH, or paths
  local items part first
  items=$(words "${1:-${TEST_PARTS// /,}}")
  for part in $TEST_PARTS; do
    if known "$part" "$items"; then
      if [ "$(seconds)" -lt 40 ]; then left "$part"; else test_part "$part"; fi
    fi
    mapfile -t first < <(sed -n "s/^$part=//p" <<< "$items")
    [ ${#first[@]} = 0 ] || test_part "$part" "${first[@]}"
  done
  mapfile -t first < <(grep -vxE "(${TEST_PARTS// /|})(=.*)?" <<< "$items")
  [ ${#first[@]} = 0 ] || test_part "" "${first[@]}"
}

test_part() { # PART [PATHS]
  local part=$1 options=(-q --durations=12 -p no:cacheprovider --doctest-ignore-import-errors) path status log environment=()
  shift
  local paths=("$@")
  log="$NOTES/logs/test-${part:-paths}.log"
  has pytest_timeout && options+=(--timeout=240 --timeout-method=thread)
  has pytest_timeout || options+=(-o "addopts=-ra --strict-markers --doctest-modules")
  case $part in
    operators)  # what runs on the GPU, but what `graphs` does; the other backends come with the rest
      environment+=("VIDOPS_TEST_BACKENDS=$([ "$DEVICE" = cuda ] && echo cuda,triton || echo cpu)")
      options+=(-k "not cuda_host and not graphs_replay")
      for path in $HOST_TESTS; do options+=("--ignore=tests/ops/$path.py"); done
      [ ${#paths[@]} -gt 0 ] || paths=(tests/ops)
      ;;
    gpu) options+=(-m gpu --ignore=tests/ops); [ ${#paths[@]} -gt 0 ] || paths=(tests) ;;
    networks)
      options+=(-m "not slow and not gpu" -k "not cuda_host")
      [ ${#paths[@]} -gt 0 ] || paths=(tests/layers tests/models tests/bench tests/test_acceleration*.py)
      ;;
    rest)
      environment+=(VIDOPS_TEST_BACKENDS=reference,cpu,cuda_host)
      options+=(-m "not slow and not gpu")
      for path in tests/layers tests/models tests/bench tests/test_acceleration*.py; do options+=("--ignore=$path"); done
      [ ${#paths[@]} -gt 0 ] || paths=(tests vidops)
      ;;
  esac
  if ! has av pydantic lightning; then
    for path in data training evaluation visualize; do
      [ -d "tests/$path" ] && options+=("--ignore=tests/$path")
      [ -d "vidops/$path" ] && options+=("--ignore=vidops/$path")
    done
    options+=(--ignore=vidops/cli --ignore=tests/bench/test_demo.py)
    echo "PyAV, pydantic or Lightning is missing: tests of data, training, evaluation and the command line are left out"
    PARTIAL=" (with tests left out)"
  fi
  # Processes share the GPU; what a test does there is small beside what it does in Python.
  local processes=${VIDOPS_GPU_CHECK_PROCESSES:-$((CORES > 14 ? 12 : CORES - 2))}
  if [ "$processes" -gt 1 ] && has xdist; then options+=(-n "$processes" --dist worksteal); fi
  [ "$DEVICE" = cuda ] || echo "no GPU: tests that need one skip themselves"
  echo "--- tests: ${part:-as named} ${*:-}"
  rm -f "$NOTES/left" "$NOTES/broken"
  env ${environment[@]+"${environment[@]}"} OMP_NUM_THREADS=1 VIDOPS_GPU_CHECK_NOTES="$NOTES" \
    VIDOPS_GPU_CHECK_END=$(($(date +%s) + $(seconds 25))) \
    timeout -k 5 "$(seconds)" "$PYTHON" -m pytest -p benchmarks.gpu_session "${options[@]}" "${paths[@]}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  if [ -s "$NOTES/broken" ]; then
    echo "the GPU ran nothing more after these:"
    cat "$NOTES/broken"
  fi
  # Ended before its first test, for want of time, it did nothing.
  if [ "$status" != 2 ] || tail -2 "$log" | grep -qE '[0-9]+ (passed|failed|skipped|error)'; then BEGUN=1; fi
  tail -2 "$log" | grep -qE '(^|[ ,=])[0-9]+ (failed|errors?)( |,|$)' && FAILURES=1
  case $status in
    0 | 5) ;;
    2 | 124 | 137)
      if [ ! -f "$NOTES/left" ]; then left "${part:-${paths[*]}}"; [ "$status" != 2 ] || FAILURES=1; fi ;;
    *) FAILURES=1 ;;
  esac
  if [ -s "$NOTES/left" ]; then while read -r path; do left "${part:+$part=}$path"; done < "$NOTES/left"; fi
}

run_operator() { echo "'$PYTHON' benchmarks/run_operator.py $1 --device $DEVICE$([ "$DEVICE" = cuda ] || echo ' --backend cpu')"; }

TOOLS="memcheck initcheck racecheck synccheck"

# The runs of the sanitize stage, TOOL/OPERATOR, the first tool for all operators before the second.
sanitizer_runs() { # OPERATORS [ITEMS]
  local all=$1 item tool tools ops
  shift
  [ $# -gt 0 ] || set -- $TOOLS
  for item; do
    tools=${item%/*} ops=${item##*/}
    known "$tools" "${TOOLS// /$'\n'}" || tools=$TOOLS
    [ "$tools" != "$item" ] || ops=$all
    for tool in $tools; do printf "$tool/%s\n" $ops; done
  done > "$NOTES/runs"
  for tool in $TOOLS; do grep "^$tool/" "$NOTES/runs" | awk '!seen[$0]++'; done
}

sanitize() { # [ITEMS]
  local all runs ops op item why
  all=$(operators) || { FAILURES=1; return; }
  runs=$(sanitizer_runs "$all" $(words "${1:-}"))
  ops=$(sed 's/.*\///' <<< "$runs" | sort -u)
  for op in $ops; do known "$op" "$all" || { echo "no operator $op"; FAILURES=1; return; }; done
  [ "$DEVICE" = cuda ] || echo "no GPU: each operator's program runs on the CPU backend, without compute-sanitizer"
  # Without the sanitizer first: it is right there, and Triton's kernels are compiled once for all.
  run_jobs "$JOBS" 20 < <(for op in $ops; do printf '%s\t%s\n' "$op" "$(run_operator "$op")"; done)
  [ "$DEVICE" = cuda ] || return
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer cannot run: it is not installed"
    PARTIAL=" (without compute-sanitizer)"
    return
  fi
  # Its own allocations, so that it sees where each tensor ends.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  if why=$(timeout -k 5 "$(seconds)" compute-sanitizer --error-exitcode 9 "$PYTHON" -c \
    'import torch; print(torch.zeros(8, device="cuda").add_(1).sum().item())' 2>&1); then
    run_jobs "$JOBS" 30 < <(for item in $runs; do
      printf '%s\tcompute-sanitizer --tool %s --error-exitcode 9 --print-limit 20 %s\n' \
        "$item" "${item%/*}" "$(run_operator "${item##*/}")"
    done)
  else
    echo "compute-sanitizer cannot run on this machine; what it said of a sum of eight numbers:"
    tail -12 <<< "$why"
    PARTIAL=" (without compute-sanitizer)"
  fi
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
}

graphs() { # [ITEMS]
  local all nets item
  all=$(operators) && nets=$("$PYTHON" benchmarks/run_network.py --all --list) || { FAILURES=1; return; }
  [ -n "${1:-}" ] || set -- "$(tr '\n' ',' <<< "$all"$'\n'"$nets")"
  if [ "$DEVICE" = cpu ]; then
    echo "no GPU: operators' calls are repeated where a GPU would replay a graph, and networks are left out"
  fi
  run_jobs "$JOBS" 15 < <(for item in $(words "$1"); do
    if known "$item" "$all"; then printf '%s\t%s\n' "$item" "$(run_operator "$item") --graph"
    elif [ "$DEVICE" = cuda ]; then printf '%s\t%s\n' "$item" "'$PYTHON' benchmarks/run_network.py '$item' --device cuda --graph"
    fi
  done)
}

networks() { # [ITEMS]
  local items
  items=${1:-}
  if [ -z "$items" ]; then
    items=$("$PYTHON" benchmarks/run_network.py "$([ "$DEVICE" = cuda ] && echo --all || echo tiny_tsn)" --list | tr '\n' ',') ||
      { FAILURES=1; return; }
    items+=speed
  fi
  run_jobs "$JOBS" 15 < <(words "$items" | grep -vx speed | while read -r item; do
    printf '%s\t%s\n' "$item" "'$PYTHON' benchmarks/run_network.py '$item' --device $DEVICE"
  done)
  known speed "$(words "$items")" || return 0
  measure speed "network/$DEVICE/" networks.json
}

# One `vidops bench`, alone on the machine, into a file of OUTDIR.
measure() { # ITEM PATTERN FILE
  local item=$1 file="$OUT/$3" log="$NOTES/logs/$STAGE-$1.log" status options=()
  [ "$DEVICE" = cuda ] || options=(--quick)
  if [ "$(seconds)" -lt 60 ]; then left "$item"; return; fi
  BEGUN=1
  timeout -k 5 "$(seconds 5)" "$PYTHON" -m vidops bench "$2" ${options[@]+"${options[@]}"} \
    --limit "$(seconds 45)" --json "$file" > "$log" 2>&1
  status=$?
  echo "$item: $(grep -E '^[0-9]+ kernels measured' "$log" || tail -1 "$log")"
  grep -E '^WRONG|^  target.*MISSED' "$log"
  case $status in
    0 | 1)
      grep -q '^WRONG' "$log" && FAILURES=1
      ! grep -q '^not measured for want of time' "$log" || left "$item"
      # 1 is also how Python ends on an error, with what had been measured by then in the file.
      if [ ! -s "$file" ] || ! grep -qE '^[0-9]+ kernels measured' "$log"; then tail -15 "$log"; FAILURES=1; fi
      ;;
    124 | 137) left "$item" ;;
    *) echo "FAILED: $item, status $status"; tail -15 "$log"; FAILURES=1 ;;
  esac
}

bench() { # [ITEMS]
  local all items op
  all=$(operators) || { FAILURES=1; return; }
  items=$(words "${1:-}")
  # Those with the fewest groups first: so most operators get done.
  [ -n "$items" ] || items=$("$PYTHON" -m vidops bench "/$DEVICE/" --list | cut -d/ -f1 | grep -vx network | sort |
    uniq -c | sort -n | awk '{print $2}') || { FAILURES=1; return; }
  for op in $items; do known "$op" "$all" || { echo "no operator $op"; FAILURES=1; return; }; done
  echo "--- at full size against the reference; Triton compiles what is timed next"
  run_jobs "$JOBS" 30 "$(($(seconds) / 2))" < <(for op in $items; do printf '%s\t%s\n' "$op" "$(run_operator "$op") --sizes"; done)
  rm -f "$NOTES/left.$STAGE"  # what was not checked in half of the time is checked when it is timed
  echo "--- timed, one after another"
  for op in $items; do
    measure "$op" "$op/$DEVICE/" "bench_$op.json"
  done
  gather
}

# One file of all operators that were measured into OUTDIR.
gather() {
  local files=("$OUT"/bench_*.json)
  [ -e "${files[0]}" ] || return 0
  if "$PYTHON" -m vidops bench --show "${files[@]}" --json "$OUT/operators.json" > "$NOTES/logs/bench.log"; then
    rm -f "${files[@]}"
    echo "$OUT/operators.json"
  elif [ -e "$OUT/operators.json" ]; then  # a wrong result makes that a failure, and the file is there
    rm -f "${files[@]}"
  else
    FAILURES=1
  fi
}

tune() { # [ITEMS]
  local item items log status rehearse=() todo
  if [ "$DEVICE" = cpu ]; then
    echo "no GPU: a rehearsal in Triton's interpreter, whose file is refused when it is loaded"
    rehearse=(env TRITON_INTERPRET=1)
  fi
  mapfile -t items < <(words "${1:-}")
  todo=${#items[@]}
  [ "$todo" -gt 0 ] || { items=(""); todo=1; }
  for item in "${items[@]}"; do
    log="$NOTES/logs/tune${item:+-$item}.log"
    if [ "$(seconds)" -lt 60 ]; then left "$item"; continue; fi
    BEGUN=1
    ${rehearse[@]+"${rehearse[@]}"} timeout -k 5 "$(seconds 5)" "$PYTHON" -m vidops tune ${item:+"$item"} \
      --limit "$(($(seconds 45) / todo))" --out "$OUT/tuning${item:+_$item}.json" \
      ${rehearse[@]+--rehearse} 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    todo=$((todo - 1))
    case $status in 0) ;; 124 | 137) left "$item" ;; *) FAILURES=1 ;; esac
    # What the time did not reach, by operator.
    sed -n 's/^not reached: //p' "$log" | tr ';' '\n' | sed 's/^ *//; s/[/:].*//' | sort -u |
      while read -r item; do [ -z "$item" ] || left "$item"; done
  done
  # One file however many operators were named: OUTDIR may be carried home a few files at a time.
  if [ ${#items[@]} -gt 1 ]; then
    (cd "$OUT" && rm -f tuning.tgz && tar -czf tuning.tgz tuning_*.json && rm -f tuning_*.json) || FAILURES=1
  fi
}

plot() {
  local name found=0
  for name in operators networks; do
    [ -e "$OUT/$name.json" ] || continue
    found=1
    timeout -k 5 "$(seconds)" "$PYTHON" -m vidops bench --show "$OUT/$name.json" --plot "$OUT/$name.png" | tail -4
    [ -s "$OUT/$name.png" ] || FAILURES=1
  done
  [ $found = 1 ] || { echo "there is nothing to draw in $OUT: bench and networks write it"; VERDICT="nothing to draw"; }
}

SUMMARY=()
LEFT=()
FAILED=0
main() {
  local stage argument begin items
  for stage in "${STAGES[@]}"; do
    STAGE=${stage%%:*} argument= FAILURES=0 PARTIAL= VERDICT=ok BEGUN=0
    [ "$STAGE" = "$stage" ] || argument=${stage#*:}
    begin=$SECONDS
    rm -f "$NOTES/left.$STAGE"
    if [ "$(seconds)" -lt 10 ]; then
      LEFT+=("$stage")
      SUMMARY+=("$(printf '%-24s not begun: the time is over' "$STAGE")")
      continue
    fi
    echo "=== $stage"
    case $STAGE in
      test) run_tests ${argument:+"$argument"} ;;
      *) "$STAGE" ${argument:+"$argument"} ;;
    esac
    [ $FAILURES = 0 ] || { VERDICT=FAILED; FAILED=1; }
    if [ -e "$NOTES/left.$STAGE" ]; then
      items=$(sort -u "$NOTES/left.$STAGE" | sed '/^$/d' | paste -sd, -)
      LEFT+=("$STAGE${items:+:$items}")
      if [ $BEGUN$FAILURES = 00 ]; then VERDICT="not begun"; else VERDICT+=", not finished"; fi
      VERDICT+=": the time is over"
    fi
    SUMMARY+=("$(printf '%-24s %4d s  %s' "${stage:0:60}" $((SECONDS - begin)) "$VERDICT$PARTIAL")")
    tar -czf "$OUT/logs.tgz" -C "$NOTES" logs 2> /dev/null
  done
  [ "$DEVICE" = cuda ] || SUMMARY+=("no GPU: this was a rehearsal on the CPU")
  { echo "=== summary"; printf '%s\n' "${SUMMARY[@]}"; } | tee -a "$OUT/summary.txt"
  if [ ${#LEFT[@]} -gt 0 ]; then
    echo "to go on: ${SETTINGS}benchmarks/gpu_check.sh $ASKED ${LEFT[*]}" | tee -a "$OUT/summary.txt"
    return $((FAILED ? 1 : 3))
  fi
  return $FAILED
}
main 2>&1 | tee -a "$OUT/log.txt"
exit "${PIPESTATUS[0]}"
